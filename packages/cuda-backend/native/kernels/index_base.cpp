#include "kernels/index_base.h"

#include <algorithm>
#include <cstring>

namespace lazuli {
namespace {

bool isOneValue(const Layout& layout) {
  for (size_t dim = 0; dim < layout.shape.size(); ++dim) {
    if (layout.shape[dim] > 1 && layout.strides[dim] != 0) return false;
  }
  return true;
}

}  // namespace

IndexBase::IndexBase(const Layout& layout)
    : dtype_(layout.dtype), dense_(layout.isDense()), offset_(dense_ ? 0 : layout.offset) {}

bool IndexBase::accepts(const Layout& layout) { return layout.isDense() || isOneValue(layout); }

void IndexBase::copy(std::byte* to, const std::byte* base, int64_t first, int64_t n) const {
  const size_t size = sizeBytes(dtype_), bytes = static_cast<size_t>(n) * size;
  if (n == 0) return;
  if (dense_) {
    const std::byte* from = base + static_cast<size_t>(first) * size;
    if (from != to) std::memcpy(to, from, bytes);
    return;
  }
  const std::byte* value = base + offset_ * static_cast<int64_t>(size);
  if (std::all_of(value, value + size, [](std::byte b) { return b == std::byte{0}; })) {
    std::memset(to, 0, bytes);
    return;
  }
  std::memcpy(to, value, size);
  for (size_t done = size; done < bytes; done *= 2) std::memcpy(to + done, to, std::min(done, bytes - done));
}

}  // namespace lazuli
