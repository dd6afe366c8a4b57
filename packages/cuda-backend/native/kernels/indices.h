#pragma once

#include "types.h"

namespace lazuli {

/// Element i of an int32 or int64 array.
inline int64_t indexAt(const std::byte* indices, DType dtype, int64_t i) {
  return dtype == DType::i32 ? reinterpret_cast<const int32_t*>(indices)[i]
                             : reinterpret_cast<const int64_t*>(indices)[i];
}

/// "gather: index 7 at position 2 is out of range for dim 1 of size 4"
std::string indexText(const char* op, const char* what, int64_t value, int64_t position, int64_t dim,
                      int64_t size);
[[noreturn]] void failIndex(const char* op, const char* what, int64_t value, int64_t position, int64_t dim,
                            int64_t size);

/// Throws for the first of n indices that is not in [0, size).
void checkIndices(const char* op, const std::byte* indices, DType dtype, int64_t n, int64_t dim,
                  int64_t size);

/// Calls `body` with a pointer of the indices' own type.
template <class Body>
void withIndices(const std::byte* indices, DType dtype, Body&& body) {
  if (dtype == DType::i32) {
    body(reinterpret_cast<const int32_t*>(indices));
  } else {
    body(reinterpret_cast<const int64_t*>(indices));
  }
}

}  // namespace lazuli
