#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace lazuli {

/// Codes as on the wire (docs/ir.md).
enum class DType : uint8_t { f32, f64, bf16, f16, i32, i64, u8, boolean };
inline constexpr uint32_t kDTypes = 8;

inline constexpr size_t sizeBytes(DType dtype) {
  constexpr size_t sizes[kDTypes] = {4, 8, 2, 2, 4, 8, 1, 1};
  return sizes[static_cast<size_t>(dtype)];
}
inline constexpr bool isFloat(DType dtype) { return static_cast<uint8_t>(dtype) <= 3; }
const char* name(DType dtype);

using Dims = std::vector<int64_t>;

int64_t elements(const Dims& shape);
/// Row-major strides, in elements.
Dims denseStrides(const Dims& shape);
std::string format(const Dims& shape);

struct TensorType {
  DType dtype = DType::f32;
  Dims shape;
  int64_t elements() const { return lazuli::elements(shape); }
  size_t bytes() const { return static_cast<size_t>(elements()) * sizeBytes(dtype); }
};

/// How a value is read: a strided window into some buffer. Strides and offset are in elements; a stride may
/// be 0 (broadcast) or negative (flip).
struct Layout {
  DType dtype = DType::f32;
  Dims shape;
  Dims strides;
  int64_t offset = 0;

  static Layout dense(const TensorType& type) {
    return {type.dtype, type.shape, denseStrides(type.shape), 0};
  }
  int64_t elements() const { return lazuli::elements(shape); }
  /// Row-major without gaps, starting at 0 (dims of size 1 may have any stride).
  bool isDense() const;
};

/// What a user's program got wrong, or what a run met; `node` is the position in the program, -1 where none
/// applies.
class ProgramError : public std::runtime_error {
 public:
  explicit ProgramError(const std::string& what, int64_t node = -1) : std::runtime_error(what), node(node) {}
  int64_t node;
};

/// A collective that another device did not come to, or failed before.
class CollectiveError : public ProgramError {
 public:
  using ProgramError::ProgramError;
};

/// More memory than the device's limit; thrown before anything is allocated.
class OutOfMemoryError : public ProgramError {
 public:
  using ProgramError::ProgramError;
};

}  // namespace lazuli
