#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

#include "kernel.h"

namespace lazuli::test {

/// A dense tensor in memory of its exact size, for sanitizers to watch.
struct Array {
  TensorType type;
  std::vector<std::byte> bytes;

  Array(DType dtype, Dims shape);
  /// `value(i)` rounded to the dtype.
  static Array of(DType dtype, Dims shape, const std::function<double(int64_t)>& value);
  static Array list(DType dtype, Dims shape, const std::vector<double>& values);
  /// Normal values, always the same ones.
  static Array random(DType dtype, Dims shape, uint32_t seed);
  /// Integers in [0, limit), always the same ones.
  static Array indices(DType dtype, Dims shape, int64_t limit, uint32_t seed);

  double at(int64_t i) const;
  std::vector<double> values() const;
};

/// Runs a library op of the device under test (device_harness.h) on dense operands, and again on one thread
/// (CUDA: as a graph), with every operand that the kernel accepts so in spaced rows, with every result whose
/// rows it writes in another order so, and in every place that the kernel may share: all must give the same
/// bits, which are returned.
std::vector<Array> runKernel(Op op, std::vector<Attr> attrs, const std::vector<Array>& operands,
                             const std::vector<TensorType>& results);

/// The message of the ProgramError that the run must end in.
std::string failure(Op op, std::vector<Attr> attrs, const std::vector<Array>& operands,
                    const std::vector<TensorType>& results);

inline constexpr DType kFloats[] = {DType::f32, DType::f64, DType::bf16, DType::f16};
/// Half a unit in the last place of the dtype's results, and of what it computes in a few times over.
double tolerance(DType dtype);

/// |actual - expected| <= tolerance * (scale + |expected|), NaN where NaN is expected.
void expectClose(const Array& actual, const std::vector<double>& expected, double scale = 1);

inline Attr integer(int64_t value) { return value; }
inline Attr number(double value) { return value; }
inline Attr flag(bool value) { return static_cast<int64_t>(value); }

}  // namespace lazuli::test
