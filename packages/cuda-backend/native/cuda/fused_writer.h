#pragma once

#include <functional>

#include "cuda/fused_print.h"

namespace lazuli::cuda {

/// from, from + 1, ... to - 1
std::vector<size_t> dimRange(size_t from, size_t to);
/// "i" and 2 as "i2".
std::string numbered(const char* prefix, int64_t number);
const char* lane(Lane lane);      // "float"
const char* memory(DType dtype);  // "BFloat16"

/// Writes the code of a FusedGrid's kernel: how its buffers are read, its values made, and stored. What is
/// written refers to `u`, the vector's number among those that are unrolled, and to `i0`, `i1` ..., its first
/// element along the plan's dims.
class FusedWriter {
 public:
  explicit FusedWriter(const FusedGrid& grid);

  const std::string& text() const { return text_; }
  const std::vector<PrintedFused::Buffer>& buffers() const { return buffers_; }

  void line(const std::string& text);
  void open(const std::string& head);
  void close();
  /// for (int name = 0; name < times; name++) { body }, unrolled.
  void each(const char* name, int times, const std::function<void()>& body);
  void eachUnrolled(const std::function<void()>& body) { each("u", grid_.unroll, body); }

  /// A number of elements, as a literal.
  std::string count(int64_t number) const;
  std::string buffer(const PrintedFused::Buffer& buffer);

  /// Pointers, and what is the same everywhere.
  void declareInvariant();
  /// Where vectors are held between loads() and compute().
  void declareVectors();
  void declare() {
    declareInvariant();
    declareVectors();
  }
  /// Declares the dims' elements of the linear number `from`, which counts vectors of `unit` elements (0: the
  /// grid's) along the last of `dims`.
  void coordinates(const std::string& from, const std::vector<size_t>& dims, int unit = 0);

  void loads();
  /// Values, stores, and what each of `states` takes of its reduction's value, at `index` of the reduced
  /// dims.
  void compute(const std::vector<std::string>& states, const std::string& index = "0");

  // Squares: accesses that are turned go through shared memory, at `place`.
  void loadTurned(const std::string& place);
  void squarePlace(const std::string& place) { place_ = place; }
  bool storesTurned() const;
  void storeTurned(const std::string& place);

 private:
  using Value = FusedSpec::Value;
  using AccessKind = FusedGrid::Access::Kind;
  const TileAccess& access(int number) const { return grid_.plan.accesses[static_cast<size_t>(number)]; }
  const FusedGrid::Access& how(int number) const { return grid_.accesses[static_cast<size_t>(number)]; }
  bool isLoad(size_t value) const {
    return live_[value] && grid_.plan.spec.values[value].kind == Value::Kind::load;
  }
  /// Where the elements of an access begin in their buffer, in bytes.
  int64_t startOf(int number) const {
    return access(number).offset * static_cast<int64_t>(sizeBytes(access(number).dtype));
  }
  std::string vectorType(int number) const;
  std::string offset(int number) const;
  std::string window(int number, size_t dim, const std::string& at) const;
  std::string windows(int number) const;
  std::string constant(const Value& value) const;
  std::string expression(size_t index) const;
  std::string element(const Value& value, int number) const;
  std::string partCount() const;

  const FusedGrid& grid_;
  std::vector<bool> live_;  // by value: whether a store or a reduction needs it
  std::vector<PrintedFused::Buffer> buffers_;
  std::string text_, place_;
  int depth_ = 1;
};

}  // namespace lazuli::cuda
