#include "cuda/row_launch.h"

#include <algorithm>
#include <bit>

namespace lazuli::cuda {
namespace {

constexpr int kWarp = 32, kLeastThreads = 128;

int64_t ceilDiv(int64_t n, int64_t d) { return (n + d - 1) / d; }

}  // namespace

RowLaunch::RowLaunch(int64_t rows, int64_t width, DType dtype, int packs, int64_t owners)
    : shape{rows, width, kWarp} {
  const int64_t wholePacks = ceilDiv(width, 16 / static_cast<int64_t>(sizeBytes(dtype)));
  whole = wholePacks <= static_cast<int64_t>(kRowThreads) * packs;
  if (wholePacks <= kWarp * packs) {
    shape.lanes =
        static_cast<int>(std::bit_ceil(static_cast<uint64_t>(std::clamp<int64_t>(wholePacks, 1, kWarp))));
    grid.threads = kLeastThreads;
  } else {
    // Two packs a thread, while there are threads: enough loads in flight, and few threads to wait for.
    shape.lanes = static_cast<int>(std::min<int64_t>(kRowThreads, ceilDiv(wholePacks, 2 * kWarp) * kWarp));
    grid.threads = static_cast<uint32_t>(shape.lanes);
  }
  const int64_t groups = static_cast<int64_t>(grid.threads) / shape.lanes;
  grid.x = static_cast<uint32_t>(ceilDiv(owners < 0 ? rows : owners, groups));
}

std::string RowLaunch::kernel(const char* op, DType dtype) const {
  return std::string("lazuli_") + op + (whole ? "_whole_" : "_parts_") + suffix(dtype);
}

const char* suffix(DType dtype) {
  constexpr const char* names[kDTypes] = {"f32", "f64", "bf16", "f16", "i32", "i64", "u8", "bool"};
  return names[static_cast<size_t>(dtype)];
}

}  // namespace lazuli::cuda
