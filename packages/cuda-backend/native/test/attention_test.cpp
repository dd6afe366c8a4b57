#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <random>

#include "device_harness.h"
#include "parallel.h"

namespace lazuli {
namespace {

size_t at(int64_t i) { return static_cast<size_t>(i); }

uint16_t toBf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
uint16_t toHalf(float x) {  // normal range only
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude < (113u << 23)) return static_cast<uint16_t>((bits >> 16) & 0x8000);
  return static_cast<uint16_t>(((bits >> 16) & 0x8000) |
                               ((magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13));
}

void put(DType dtype, std::byte* data, int64_t i, double value) {
  const auto as = [&](auto x) { std::memcpy(data + i * static_cast<int64_t>(sizeof x), &x, sizeof x); };
  switch (dtype) {
    case DType::f64:
      return as(value);
    case DType::bf16:
      return as(toBf16(static_cast<float>(value)));
    case DType::f16:
      return as(toHalf(static_cast<float>(value)));
    default:
      return as(static_cast<float>(value));
  }
}
double get(DType dtype, const std::byte* data, int64_t i) {
  const auto as = [&](auto x) {
    std::memcpy(&x, data + i * static_cast<int64_t>(sizeof x), sizeof x);
    return x;
  };
  switch (dtype) {
    case DType::f64:
      return as(0.0);
    case DType::bf16: {
      const uint32_t bits = static_cast<uint32_t>(as(uint16_t{})) << 16;
      float value;
      std::memcpy(&value, &bits, 4);
      return value;
    }
    case DType::f16: {
      const uint16_t h = as(uint16_t{});
      const int exponent = (h >> 10) & 31;
      const double magnitude =
          exponent ? std::ldexp((h & 1023) + 1024, exponent - 25) : std::ldexp(h & 1023, -24);
      return h & 0x8000 ? -magnitude : magnitude;
    }
    default:
      return as(0.0f);
  }
}

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
Array makeArray(DType dtype, const Dims& shape, Order order, std::mt19937& random, bool zero = false) {
  Array array{Layout::dense({dtype, shape}), {}};
  const int64_t gap = order == Order::gaps ? 5 : order == Order::aligned ? 8 : 0, row = shape[3] + gap;
  if (order == Order::byRow || order == Order::aligned) {
    array.layout.strides = {shape[1] * shape[2] * row, row, shape[1] * row, 1};
  } else {
    array.layout.strides = {shape[1] * shape[2] * row, shape[2] * row, row, 1};
  }
  array.layout.offset = order == Order::dense ? 0 : order == Order::aligned ? 8 : 2;
  const int64_t count = shape[0] * shape[1] * shape[2] * row + array.layout.offset;
  array.data.resize(at(count) * sizeBytes(dtype));
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < count; i++) put(dtype, array.data.data(), i, zero ? 0 : normal(random));
  return array;
}

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
};

/// With rows that are hidden throughout, and blocks.
Array makeBias(const Case& c, std::mt19937& random) {
  const Bias& bias = *c.bias;
  const Dims whole{c.batch, c.heads, c.queries, c.keys};
  const bool has[] = {bias.batch, bias.head, bias.query, bias.key};
  Dims shape = whole;
  for (size_t dim = 0; dim < 4; dim++)
    if (!has[dim]) shape[dim] = 1;
  Array array{Layout::dense({bias.dtype, shape}), {}};
  array.data.resize(at(elements(shape)) * sizeBytes(bias.dtype));
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < elements(shape); i++) {
    const int64_t query = i / shape[3] % shape[2], key = i % shape[3];
    const float x = normal(random);
    // Which of them hide is the same for all heads, so that segments and windows leave something.
    const bool hidden = (bias.query && query % 7 == 3) || (key % 5 == 2) || (bias.key && key / 64 == 1);
    if (bias.dtype == DType::boolean)
      array.data[at(i)] = std::byte{!hidden};
    else
      put(bias.dtype, array.data.data(), i, hidden ? -INFINITY : 2 * x);
  }
  for (size_t dim = 0; dim < 4; dim++)
    if (!has[dim]) array.layout.strides[dim] = 0;
  if (bias.expanded) array.layout.shape = whole;
  return array;
}

double biasAt(const Array& bias, int64_t b, int64_t h, int64_t i, int64_t j) {
  const auto index = [&](size_t dim, int64_t n) { return bias.layout.shape[dim] == 1 ? 0 : n; };
  b = index(0, b), h = index(1, h), i = index(2, i), j = index(3, j);
  if (bias.layout.dtype != DType::boolean) return bias(b, h, i, j);
  const Dims& s = bias.layout.strides;
  return bias.data[at(b * s[0] + h * s[1] + i * s[2] + j * s[3])] == std::byte{0} ? -INFINITY : 0;
}

std::vector<std::vector<std::byte>> runKernel(Op op, const Case& c, const std::vector<const Array*>& inputs,
                                              const std::vector<TensorType>& results) {
  const test::TestedEntry tested = test::entryOf(op);
  Node node{op, {}, {}, {int64_t{c.causal}, c.offset, c.scale, c.window}};
  KernelRequest request{node, {}, results};
  std::vector<std::span<const std::byte>> reads;
  for (size_t i = 0; i < inputs.size(); i++) {
    EXPECT_TRUE(tested.entry.accepts(node, i, inputs[i]->layout));
    request.operands.push_back(inputs[i]->layout);
    reads.push_back(inputs[i]->data);
  }
  const MadeKernel made = tested.entry.make(request);
  std::vector<std::vector<std::byte>> outputs;
  for (const TensorType& type : results) outputs.emplace_back(type.bytes(), std::byte{0x7f});
  std::vector<std::span<std::byte>> writes(outputs.begin(), outputs.end());
  test::runMade(tested.cuda, made, reads, writes);
  if (tested.cuda) {
    auto again = outputs;
    writes.assign(again.begin(), again.end());
    test::runMade(tested.cuda, made, reads, writes, {-1, -1}, test::Manner::other);
    EXPECT_EQ(outputs, again);
  }
  return outputs;
}

void check(const Case& c, uint32_t seed = 1) {
  std::mt19937 random(seed);
  const Dims qShape{c.batch, c.heads, c.queries, c.depth}, kShape{c.batch, c.groups, c.keys, c.depth};
  const Dims vShape{c.batch, c.groups, c.keys, c.valueDepth},
      outShape{c.batch, c.heads, c.queries, c.valueDepth};
  const Dims lseShape{c.batch, c.heads, c.queries};
  const Array q = makeArray(c.dtype, qShape, c.order, random),
              k = makeArray(c.dtype, kShape, c.order, random);
  const Array v = makeArray(c.dtype, vShape, c.order, random),
              dout = makeArray(c.dtype, outShape, c.order, random);
  Array dlse{Layout::dense({DType::f32, lseShape}), {}};
  for (int64_t i = 0; i < elements(lseShape); i++) {
    dlse.data.resize(dlse.data.size() + 4);
    put(DType::f32, dlse.data.data(), i, std::normal_distribution<float>()(random));
  }

  Array shift{Layout::dense({DType::i32, {}}), std::vector<std::byte>(4)};
  const int32_t by = c.shift.value_or(0);
  std::memcpy(shift.data.data(), &by, sizeof by);
  const auto segmentsOf = [&](int64_t length) {
    Array array{Layout::dense({DType::i32, {c.batch, length}}),
                std::vector<std::byte>(at(c.batch * length) * 4)};
    for (int64_t i = 0; c.segment && i < c.batch * length; i++) {
      const int32_t segment = c.segment(i % length) + static_cast<int32_t>(i / length);
      std::memcpy(array.data.data() + i * 4, &segment, sizeof segment);
    }
    return array;
  };
  const Array querySegments = segmentsOf(c.queries), keySegments = segmentsOf(c.keys);
  const std::optional<Array> bias = c.bias ? std::optional(makeBias(c, random)) : std::nullopt;
  const auto addExtras = [&](std::vector<const Array*>& to) {
    if (bias) to.push_back(&*bias);
    if (c.segment) to.insert(to.end(), {&querySegments, &keySegments});
    if (c.shift) to.push_back(&shift);
  };
  std::vector<const Array*> operands{&q, &k, &v};
  addExtras(operands);
  const auto forward = runKernel(Op::attention, c, operands, {{c.dtype, outShape}, {DType::f32, lseShape}});
  const double unit = c.dtype == DType::bf16  ? 1e-2
                      : c.dtype == DType::f16 ? 2e-3
                      : c.dtype == DType::f32 ? 4e-6
                                              : 1e-12;
  const double lseUnit = c.dtype == DType::f64 ? 2e-7 : 2e-6;  // lse is float32

  // The gradient is given what the forward pass stored, so its reference starts there too.
  Array out{Layout::dense({c.dtype, outShape}), forward[0]},
      lse{Layout::dense({DType::f32, lseShape}), forward[1]};
  double highestLse = 1;
  std::vector<double> dq(at(elements(qShape))), dk(at(elements(kShape))), dv(at(elements(vShape)));
  const bool graded = bias && c.bias->graded;
  std::vector<double> dbias(graded ? at(bias->layout.elements()) : 0);
  for (int64_t b = 0; b < c.batch; b++)
    for (int64_t h = 0; h < c.heads; h++)
      for (int64_t i = 0; i < c.queries; i++) {
        const int64_t g = h / (c.heads / c.groups), row = (b * c.heads + h) * c.queries + i;
        std::vector<double> p(at(c.keys));
        const auto seen = [&](int64_t j) {
          const int64_t position = i + c.offset + by;
          return (!c.causal || j <= position) && (c.window == 0 || j > position - c.window) &&
                 (!c.segment || c.segment(i) == c.segment(j));
        };
        double top = -INFINITY, sum = 0;
        for (int64_t j = 0; j < c.keys; j++) {
          for (int64_t d = 0; d < c.depth; d++) p[at(j)] += q(b, h, i, d) * k(b, g, j, d);
          p[at(j)] = seen(j) ? p[at(j)] * c.scale + (bias ? biasAt(*bias, b, h, i, j) : 0) : -INFINITY;
          top = std::max(top, p[at(j)]);
        }
        for (double& x : p) sum += x = std::isinf(top) ? 0 : std::exp(x - top);
        for (double& x : p) x = sum > 0 ? x / sum : 0;
        const double wantLse = sum > 0 ? top + std::log(sum) : -INFINITY,
                     gotLse = get(DType::f32, lse.data.data(), row);
        if (wantLse > highestLse) highestLse = wantLse;
        if (std::isinf(wantLse))
          ASSERT_EQ(gotLse, wantLse) << "row " << row;
        else
          ASSERT_NEAR(gotLse, wantLse, lseUnit * (1 + std::abs(wantLse))) << "row " << row;
        double delta = c.dlse && sum > 0 ? -get(DType::f32, dlse.data.data(), row) : 0;
        for (int64_t e = 0; e < c.valueDepth; e++) {
          double want = 0;
          for (int64_t j = 0; j < c.keys; j++) want += p[at(j)] * v(b, g, j, e);
          const double got = get(c.dtype, out.data.data(), row * c.valueDepth + e);
          ASSERT_NEAR(got, want, unit * (1 + std::abs(want))) << "row " << row << " column " << e;
          delta += got * dout(b, h, i, e);
        }
        for (int64_t j = 0; j < c.keys; j++) {
          double ds = -delta;
          const int64_t key = (b * c.groups + g) * c.keys + j;
          for (int64_t e = 0; e < c.valueDepth; e++) {
            ds += dout(b, h, i, e) * v(b, g, j, e);
            dv[at(key * c.valueDepth + e)] += p[at(j)] * dout(b, h, i, e);
          }
          ds *= p[at(j)];
          if (graded) {
            const Dims &n = bias->layout.shape, s = denseStrides(n);
            dbias[at((n[0] > 1 ? b * s[0] : 0) + (n[1] > 1 ? h * s[1] : 0) + (n[2] > 1 ? i * s[2] : 0) +
                     (n[3] > 1 ? j : 0))] += ds;
          }
          ds *= c.scale;
          for (int64_t d = 0; d < c.depth; d++) {
            dq[at(row * c.depth + d)] += ds * k(b, g, j, d);
            dk[at(key * c.depth + d)] += ds * q(b, h, i, d);
          }
        }
      }
  std::vector<const Array*> inputs{&q, &k, &v, &out, &lse, &dout};
  if (c.dlse) inputs.push_back(&dlse);
  addExtras(inputs);
  std::vector<TensorType> results{{c.dtype, qShape}, {c.dtype, kShape}, {c.dtype, vShape}};
  const DType work = c.dtype == DType::f64 ? DType::f64 : DType::f32;
  if (graded) results.push_back({work, bias->layout.shape});
  const auto gradients = [&] {
    return graded ? runKernel(Op::attention_bias_grad, c, inputs, results)
                  : runKernel(Op::attention_grad, c, inputs, results);
  };
  const auto grads = gradients();
  const char* names[] = {"dq", "dk", "dv", "dbias"};
  if (graded) {
    const ThreadCountScope threads(threadCount() + 3);
    const auto others = gradients();
    for (size_t g = 0; g < results.size(); g++)
      ASSERT_TRUE(others[g] == grads[g]) << names[g] << " changes with the number of threads";
  }
  const std::vector<double>* wants[] = {&dq, &dk, &dv, &dbias};
  // lse rounded to float32 is a relative error of the weights.
  const double gradUnit = c.dtype == DType::f64   ? 2e-7 * (1 + highestLse)
                          : c.dtype == DType::f32 ? 2e-5
                                                  : unit;
  for (size_t g = 0; g < results.size(); g++) {
    double scale = 1;
    for (double want : *wants[g]) scale = std::max(scale, std::abs(want));
    for (size_t i = 0; i < wants[g]->size(); i++)
      ASSERT_NEAR(get(results[g].dtype, grads[g].data(), static_cast<int64_t>(i)), (*wants[g])[i],
                  gradUnit * scale)
          << names[g] << " at " << i;
  }
}

TEST(Attention, Windows) {
  for (int64_t window : {1, 5, 64, 70, 129, 500})
    for (int64_t offset : {-70, 0, 66})
      for (bool causal : {false, true}) {
        Case c;
        c.heads = 2, c.queries = 150, c.keys = 200, c.depth = 20, c.valueDepth = 9;
        c.causal = causal, c.window = window, c.offset = offset, c.dlse = window == 5;
        c.dtype = offset == 0 ? DType::f64 : DType::f32;
        check(c);
      }
}

TEST(Attention, Segments) {
  const std::function<int32_t(int64_t)> orders[] = {
      [](int64_t i) { return static_cast<int32_t>(i / 70); },               // runs that end inside of blocks
      [](int64_t i) { return static_cast<int32_t>(i / 64); },               // and with them
      [](int64_t i) { return static_cast<int32_t>(i * 7 % 3); },            // in no order
      [](int64_t i) { return (1 << 24) + static_cast<int32_t>(i / 100); },  // alike in float32
      [](int64_t i) { return i < 100 ? -1 : 1000 + static_cast<int32_t>(i); },
  };
  for (const auto& segment : orders)
    for (bool causal : {false, true})
      for (DType dtype : {DType::f32, DType::f64, DType::bf16}) {
        Case c;
        c.batch = 2, c.heads = 2, c.groups = 1, c.queries = 140, c.keys = 200, c.depth = 24, c.valueDepth = 8;
        c.causal = causal, c.segment = segment, c.dtype = dtype, c.dlse = causal;
        if (causal) c.window = 90, c.shift = 3;
        check(c);
      }
}

TEST(Attention, Biases) {
  for (int dims = 0; dims < 16; dims++)
    for (DType dtype : {DType::f32, DType::bf16, DType::f64})
      for (DType of : {DType::boolean, dtype, DType::f32}) {
        if (of == DType::f32 && dtype == DType::f64) continue;
        SCOPED_TRACE(testing::Message() << "dims " << dims << " " << name(of) << " beside " << name(dtype));
        Case c;
        c.batch = 2, c.heads = 4, c.groups = 2, c.queries = 75, c.keys = 150, c.depth = 20, c.valueDepth = 9;
        c.dtype = dtype;
        c.bias = Bias{(dims & 1) != 0, (dims & 2) != 0, (dims & 4) != 0, (dims & 8) != 0, of};
        c.bias->expanded = dims % 3 == 0;
        c.bias->graded = of != DType::boolean;
        check(c);
      }
}

TEST(Attention, BiasesBesideOthers) {
  for (const Bias& bias : {Bias{}, Bias{.batch = false, .query = false}, Bias{.dtype = DType::boolean},
                           Bias{.batch = false, .head = false, .graded = true},
                           Bias{.head = false, .query = false, .key = false, .graded = true},
                           Bias{.batch = false, .head = false, .dtype = DType::f16, .graded = true}})
    for (int which = 0; which < 5; which++) {
      SCOPED_TRACE(testing::Message() << name(bias.dtype) << " case " << which);
      Case c;
      c.batch = 3, c.heads = 2, c.groups = which == 1 ? 1 : 2, c.queries = 140, c.keys = 200;
      c.bias = bias;
      if (which == 1) c.causal = true, c.offset = 60, c.dlse = true;
      if (which == 2) c.causal = true, c.window = 70, c.shift = 30;
      if (which == 3) c.segment = [](int64_t i) { return static_cast<int32_t>(i / 70); };
      if (which == 4) c.dtype = DType::f16, c.order = Order::byRow;
      check(c);
    }
  // Many chunks of the sums; a short last wave; none.
  Case c;
  c.batch = 11, c.heads = 3, c.groups = 3, c.queries = 9, c.keys = 12;
  c.bias = Bias{.batch = false, .head = false, .graded = true};
  check(c);
  c.keys = 0;
  check(c);
  c.keys = 12, c.batch = 0;
  check(c);
  c.batch = 1, c.queries = 0;
  check(c);
}

/// Finite, though it is not in units of log2: keys that all have it share a row evenly.
TEST(Attention, LeastFloats) {
  std::mt19937 random(3);
  Case c;
  c.queries = 3, c.keys = 70;
  c.bias = Bias{.query = false};
  const Array q = makeArray(c.dtype, {1, 1, 3, 16}, c.order, random),
              k = makeArray(c.dtype, {1, 1, 70, 16}, c.order, random), v = k;
  Array bias = makeBias(c, random);
  for (int64_t j = 0; j < 70; j++) put(DType::f32, bias.data.data(), j, std::numeric_limits<float>::lowest());
  const auto out =
      runKernel(Op::attention, c, {&q, &k, &v, &bias}, {{c.dtype, {1, 1, 3, 16}}, {DType::f32, {1, 1, 3}}});
  double mean = 0;
  for (int64_t j = 0; j < 70; j++) mean += v(0, 0, j, 5) / 70;
  EXPECT_NEAR(get(DType::f32, out[0].data(), 5), mean, 1e-5);
  Array y{Layout::dense({c.dtype, {1, 1, 3, 16}}), out[0]},
      lse{Layout::dense({DType::f32, {1, 1, 3}}), out[1]};
  const auto grads =
      runKernel(Op::attention_grad, c, {&q, &k, &v, &y, &lse, &q, &bias},
                {{c.dtype, {1, 1, 3, 16}}, {c.dtype, {1, 1, 70, 16}}, {c.dtype, {1, 1, 70, 16}}});
  for (const auto& grad : grads)
    for (int64_t i = 0; i < 3 * 16; i++) EXPECT_TRUE(std::isfinite(get(DType::f32, grad.data(), i)));
}

TEST(Attention, Lengths) {
  for (int64_t queries : {1, 7, 16, 64, 65, 130})
    for (int64_t keys : {1, 9, 64, 100, 200})
      for (bool causal : {false, true}) {
        SCOPED_TRACE(testing::Message() << queries << " queries " << keys << " keys causal " << causal);
        check({.queries = queries, .keys = keys, .causal = causal});
      }
}

TEST(Attention, HeadSizes) {
  for (int64_t depth : {1, 3, 8, 16, 20, 48, 64, 80, 128, 200})
    for (int64_t valueDepth : {depth, int64_t{24}}) {
      SCOPED_TRACE(testing::Message() << depth << " " << valueDepth);
      check({.queries = 70,
             .keys = 90,
             .depth = depth,
             .valueDepth = valueDepth,
             .causal = true,
             .offset = 20,
             .scale = 1 / std::sqrt(depth)});
    }
}

TEST(Attention, Offsets) {
  // Below -queries nothing is seen; in between some rows see nothing.
  for (int64_t offset : {-200, -130, -70, -64, -10, -1, 1, 30, 64, 100, 300, 1 << 30}) {
    SCOPED_TRACE(testing::Message() << "offset " << offset);
    check({.queries = 130, .keys = 150, .causal = true, .offset = offset, .dlse = true});
  }
}

TEST(Attention, Shifts) {
  constexpr int32_t lowest = std::numeric_limits<int32_t>::min(), most = std::numeric_limits<int32_t>::max();
  for (int32_t shift : {lowest, -130, -65, -1, 0, 20, 64, most})
    for (int64_t offset : {int64_t{-3}, int64_t{10}})
      for (bool dlse : {false, true}) {
        SCOPED_TRACE(testing::Message() << "offset " << offset << " shift " << shift << " dlse " << dlse);
        check({.heads = 4,
               .groups = 2,
               .queries = 130,
               .keys = 150,
               .causal = true,
               .offset = offset,
               .dlse = dlse,
               .shift = shift});
        check({.queries = 5, .keys = 7, .offset = offset, .dlse = dlse, .shift = shift});
      }
  // The offset's ends and the shift's together.
  for (int64_t sign : {-1, 1})
    check({.queries = 20,
           .keys = 30,
           .causal = true,
           .offset = sign * (int64_t{1} << 62),
           .shift = sign < 0 ? lowest : most});
}

TEST(Attention, Groups) {
  for (int64_t groups : {1, 2, 6})
    for (bool dlse : {false, true})
      for (Order order : {Order::dense, Order::byRow, Order::gaps})
        check({.batch = 2,
               .heads = 6,
               .groups = groups,
               .queries = 80,
               .keys = 140,
               .depth = 24,
               .valueDepth = 40,
               .causal = true,
               .offset = 60,
               .order = order,
               .dlse = dlse});
}

TEST(Attention, ManyPairs) {
  // Enough (batch, head) pairs that a thread takes a whole one, and few with many blocks of keys.
  check({.batch = 5, .heads = 12, .groups = 12, .queries = 70, .keys = 70, .causal = true});
  check({.batch = 5, .heads = 24, .groups = 12, .queries = 70, .keys = 40});
  check({.queries = 40, .keys = 900, .causal = true, .offset = 860});
}

TEST(Attention, DTypes) {
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16})
    for (Order order : {Order::dense, Order::byRow, Order::gaps})
      for (int64_t depth : {13, 32})
        check({.batch = 2,
               .heads = 4,
               .groups = 2,
               .queries = 90,
               .keys = 70,
               .depth = depth,
               .valueDepth = depth,
               .causal = order == Order::byRow,
               .dtype = dtype,
               .order = order,
               .dlse = true});
}

// CUDA's tensor cores take these head sizes, 128 queries or keys at a time.
TEST(Attention, HalfTypes) {
  for (DType dtype : {DType::bf16, DType::f16})
    for (int64_t depth : {64, 96, 128})
      for (int64_t queries : {1, 64, 129})
        for (int64_t keys : {63, 130}) {
          if (dtype == DType::f16 && queries != 129) continue;
          SCOPED_TRACE(testing::Message() << depth << " " << queries << " queries " << keys << " keys");
          Case c;
          c.queries = queries, c.keys = keys, c.depth = c.valueDepth = depth, c.dtype = dtype;
          c.scale = 1 / std::sqrt(depth);
          c.causal = keys == 130, c.offset = 1;
          c.order = queries == 64 ? Order::aligned : Order::dense;
          check(c);
        }
}

TEST(Attention, HalfTypesMasked) {
  for (DType dtype : {DType::bf16, DType::f16})
    for (int64_t depth : {64, 96, 128}) {
      if (dtype == DType::f16 && depth != 64) continue;
      Case c;
      c.batch = 2, c.heads = 2, c.groups = 1, c.queries = 150, c.keys = 200;
      c.depth = c.valueDepth = depth, c.dtype = dtype, c.scale = 1 / std::sqrt(depth),
      c.order = Order::aligned;
      c.causal = true, c.shift = 60, c.offset = 60, c.dlse = true;
      check(c);
      c.offset = -90;  // some rows see nothing
      check(c);
      c.offset = 0, c.window = 70;
      check(c);
      c.segment = [](int64_t i) { return static_cast<int32_t>(i / 100); };
      check(c);
      c.causal = false, c.window = 0, c.segment = [](int64_t i) { return static_cast<int32_t>(i * 7 % 3); };
      check(c);
    }
}

TEST(Attention, Scales) {
  for (double scale : {0.0, -0.5, 1.0, 3.0})
    for (DType dtype : {DType::f32, DType::f64})
      check({.queries = 70, .keys = 70, .scale = scale, .dtype = dtype});
}

TEST(Attention, Empty) {
  check({.queries = 5, .keys = 0});
  check({.queries = 0, .keys = 5});
  check({.batch = 0, .queries = 5, .keys = 5});
}

TEST(Attention, NaNStaysInItsRow) {
  std::mt19937 random(3);
  const Case c{.queries = 40, .keys = 40};
  const Dims shape{1, 1, 40, 16};
  Array q = makeArray(c.dtype, shape, c.order, random);
  const Array k = makeArray(c.dtype, shape, c.order, random), v = makeArray(c.dtype, shape, c.order, random);
  put(c.dtype, q.data.data(), 20 * 16 + 3, NAN);
  const auto out = runKernel(Op::attention, c, {&q, &k, &v}, {{c.dtype, shape}, {DType::f32, {1, 1, 40}}});
  for (int64_t i = 0; i < 40; i++) {
    EXPECT_EQ(std::isnan(get(DType::f32, out[0].data(), i * 16)), i == 20);
    EXPECT_EQ(std::isnan(get(DType::f32, out[1].data(), i)), i == 20);
  }
}

TEST(Attention, Accepts) {
  const Node node{Op::attention, {}, {}, {}};
  EXPECT_TRUE(attentionEntry.accepts(node, 0, {DType::f32, {2, 3, 4, 5}, {60, 5, 15, 1}, 7}));
  EXPECT_FALSE(attentionEntry.accepts(node, 0, {DType::f32, {2, 3, 4, 5}, {60, 20, 1, 4}, 0}));
  EXPECT_TRUE(attentionEntry.accepts(node, 0, {DType::f32, {2, 3, 4, 1}, {12, 4, 1, 4}, 0}));
  EXPECT_TRUE(attentionEntry.accepts(node, 3, {DType::f32, {2, 3, 4, 5}, {0, 20, 0, 1}, 7}));
  EXPECT_TRUE(attentionEntry.accepts(node, 3, {DType::boolean, {2, 3, 4, 5}, {0, 3, 1, 0}, 0}));
  EXPECT_FALSE(attentionEntry.accepts(node, 3, {DType::f32, {2, 3, 4, 5}, {60, 20, 1, 4}, 0}));
  EXPECT_FALSE(attentionEntry.accepts(node, 3, {DType::i32, {2, 4}, {1, 2}, 0}));
  EXPECT_FALSE(attentionGradEntry.accepts(node, 4, {DType::f32, {2, 3, 4}, {12, 1, 3}, 0}));
}

}  // namespace
}  // namespace lazuli
