#pragma once

#include <string>

#include "cuda/device/row_shape.h"
#include "cuda/launch.h"
#include "kernels/rows.h"

namespace lazuli::cuda {

/// How a kernel over rows (device/rows.h) is launched: by the shape alone.
struct RowLaunch {
  RowShape shape;
  Grid grid;
  bool whole;  // a row's threads hold it in registers

  /// Rows of `width` elements, of which a thread holds up to `packs` packs; `owners` groups of threads, one
  /// for each row where not given.
  RowLaunch(int64_t rows, int64_t width, DType dtype, int packs, int64_t owners = -1);
  /// Whether there is anything to launch.
  bool isEmpty() const { return shape.rows == 0 || shape.width == 0; }
  /// "lazuli_softmax_whole_f32"
  std::string kernel(const char* op, DType dtype) const;
};

/// Rows as kernels are given them.
template <class Pointer, class Byte>
RowsOf<Pointer> rowsAt(Byte* base, DType dtype, const Rows& rows) {
  Byte* data = at(base, dtype, rows.offset);
  const auto bytes = static_cast<uintptr_t>(rows.stride) * sizeBytes(dtype);
  return {data, rows.stride,
          reinterpret_cast<uintptr_t>(data) % 16 == 0 && (bytes % 16 == 0 || rows.count < 2)};
}
inline RowsIn rowsIn(const std::byte* base, DType dtype, const Rows& rows) {
  return rowsAt<const void*>(base, dtype, rows);
}
/// Dense ones.
inline RowsOut rowsOut(std::byte* base, DType dtype, const Rows& rows) {
  return rowsAt<void*>(base, dtype, Rows{rows.count, rows.width, rows.width, 0});
}
inline bool isAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

/// What a dtype is called in kernels' names: "bf16".
const char* suffix(DType dtype);

}  // namespace lazuli::cuda
