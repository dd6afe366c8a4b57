#include "kernels/indices.h"

#include <atomic>

#include "parallel.h"

namespace lazuli {

std::string indexText(const char* op, const char* what, int64_t value, int64_t position, int64_t dim,
                      int64_t size) {
  return std::string(op) + ": " + what + " " + std::to_string(value) + " at position " +
         std::to_string(position) + " is out of range for dim " + std::to_string(dim) + " of size " +
         std::to_string(size);
}

void failIndex(const char* op, const char* what, int64_t value, int64_t position, int64_t dim, int64_t size) {
  throw ProgramError(indexText(op, what, value, position, dim, size));
}

void checkIndices(const char* op, const std::byte* indices, DType dtype, int64_t n, int64_t dim,
                  int64_t size) {
  withIndices(indices, dtype, [&](auto* index) {
    std::atomic<bool> bad{false};
    parallelFor(n, 1 << 15, [&](int64_t begin, int64_t end) {
      bool found = false;
      for (int64_t i = begin; i < end; ++i) found |= (index[i] < 0) | (index[i] >= size);
      if (found) bad.store(true, std::memory_order_relaxed);
    });
    if (!bad) return;
    for (int64_t i = 0; i < n; ++i) {
      if (index[i] < 0 || index[i] >= size) failIndex(op, "index", index[i], i, dim, size);
    }
  });
}

}  // namespace lazuli
