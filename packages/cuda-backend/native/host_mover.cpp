#include <cstring>

#include "collectives/communicator.h"
#include "kernel.h"
#include "parallel.h"

namespace lazuli {
namespace {

class HostMover final : public Mover {
 public:
  void copy(std::byte* to, const std::byte* from, size_t bytes) const override { copyBytes(to, from, bytes); }
  void zero(std::byte* to, size_t bytes) const override { std::memset(to, 0, bytes); }
  void copyRows(std::byte* to, size_t toPitch, const std::byte* from, size_t fromPitch, size_t width,
                size_t rows) const override {
    copySpread(from, {width, fromPitch}, to, {width, toPitch}, width * rows);
  }
  void zeroRows(std::byte* to, size_t pitch, size_t width, size_t rows) const override {
    for (size_t row = 0; row < rows; row++) std::memset(to + row * pitch, 0, width);
  }
  void setWord(std::byte* to, uint32_t word) const override { std::memcpy(to, &word, sizeof(word)); }
};

}  // namespace

const Mover& hostMover() {
  static const HostMover mover;
  return mover;
}

}  // namespace lazuli
