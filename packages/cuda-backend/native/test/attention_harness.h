#pragma once

#include <functional>
#include <optional>
#include <random>

#include "device_harness.h"

// Attention and its gradient, of the device under test, against sums in float64.
namespace lazuli::test::attention {

/// As element i of an array.
void put(DType dtype, std::byte* data, int64_t i, double value);
double get(DType dtype, const std::byte* data, int64_t i);

struct Array {
  Layout layout;
  std::vector<std::byte> data;

  double operator()(int64_t b, int64_t h, int64_t t, int64_t k) const {
    const Dims& s = layout.strides;
    return get(layout.dtype, data.data(), layout.offset + b * s[0] + h * s[1] + t * s[2] + k * s[3]);
  }
};

enum class Order { dense, byRow, gaps, aligned };

/// A [b, h, t, k] array in one of the layouts that models have: dense; a view of [b, t, h, k]; with unused
/// columns; a view of [b, t, h, k] with unused columns, all rows at multiples of 8.
Array makeArray(DType dtype, const Dims& shape, Order order, std::mt19937& random, bool zero = false);

/// Of which of the dims [B, H, T, S] a bias has more than one, and whether it is a view of these.
struct Bias {
  bool batch = true, head = true, query = true, key = true;
  DType dtype = DType::f32;
  bool expanded = false;  // a [B, H, T, S] view with strides of 0
  bool graded = false;
};

struct Case {
  int64_t batch = 1, heads = 1, groups = 1, queries = 1, keys = 1, depth = 16, valueDepth = 16;
  bool causal = false;
  int64_t offset = 0;
  double scale = 0.25;
  DType dtype = DType::f32;
  Order order = Order::dense;
  bool dlse = false;
  std::optional<int32_t> shift;  // an operand that adds to the offset
  int64_t window = 0;
  std::function<int32_t(int64_t)> segment;  // of a query or key; none: no segments
  std::optional<Bias> bias;
  bool repeats = true;  // a second run gives the same bits
  /// The order in memory of the results' dims, the outermost first; none: dense. What is written has the same
  /// bits as where it is dense.
  std::vector<size_t> written;
  /// The kernels; those of the device's entry where there is none.
  std::function<MadeKernel(Op, const KernelRequest&)> make;
};

/// With rows that are hidden throughout, and blocks.
Array makeBias(const Case& c, std::mt19937& random);

/// What the kernel of `op` writes, in row-major order; on CUDA launched by itself and as a graph.
std::vector<std::vector<std::byte>> runKernel(Op op, const Case& c, const std::vector<const Array*>& inputs,
                                              const std::vector<TensorType>& results);

/// Forward and gradient of random operands.
void check(const Case& c, uint32_t seed = 1);

}  // namespace lazuli::test::attention
