#include "attention_harness.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "parallel.h"

namespace lazuli::test::attention {
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

}  // namespace

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

Array makeArray(DType dtype, const Dims& shape, Order order, std::mt19937& random, bool zero) {
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

namespace {
double biasAt(const Array& bias, int64_t b, int64_t h, int64_t i, int64_t j) {
  const auto index = [&](size_t dim, int64_t n) { return bias.layout.shape[dim] == 1 ? 0 : n; };
  b = index(0, b), h = index(1, h), i = index(2, i), j = index(3, j);
  if (bias.layout.dtype != DType::boolean) return bias(b, h, i, j);
  const Dims& s = bias.layout.strides;
  return bias.data[at(b * s[0] + h * s[1] + i * s[2] + j * s[3])] == std::byte{0} ? -INFINITY : 0;
}

}  // namespace

std::vector<std::vector<std::byte>> runKernel(Op op, const Case& c, const std::vector<const Array*>& inputs,
                                              const std::vector<TensorType>& results) {
  const TestedEntry tested = entryOf(op);
  Node node{op, {}, {}, {int64_t{c.causal}, c.offset, c.scale, c.window}};
  KernelRequest request{node, {}, results};
  std::vector<std::span<const std::byte>> reads;
  for (size_t i = 0; i < inputs.size(); i++) {
    EXPECT_TRUE(tested.entry.accepts(node, i, inputs[i]->layout));
    request.operands.push_back(inputs[i]->layout);
    reads.push_back(inputs[i]->data);
  }
  if (!c.written.empty()) {
    for (size_t r = 0; r < results.size(); r++) {
      const bool isOrdered = results[r].shape.size() == 4 && r < 3;  // but not lse, nor a bias's cotangent
      const Layout dense = Layout::dense(results[r]);
      request.targets.push_back(isOrdered ? ordered(results[r], c.written) : dense);
      EXPECT_EQ(tested.entry.writes(node, r, isOrdered ? request.targets[r] : dense), isOrdered);
    }
  }
  const MadeKernel made = c.make ? c.make(op, request) : tested.entry.make(request);
  std::vector<std::vector<std::byte>> outputs;
  for (const TensorType& type : results) outputs.emplace_back(type.bytes(), std::byte{0x7f});
  std::vector<std::span<std::byte>> writes(outputs.begin(), outputs.end());
  runMade(tested.cuda, made, reads, writes);
  if (tested.cuda) {
    auto again = outputs;
    writes.assign(again.begin(), again.end());
    runMade(tested.cuda, made, reads, writes, {-1, -1}, Manner::other);
    if (c.repeats) EXPECT_EQ(outputs, again);
    for (size_t r = 0; !c.repeats && r < outputs.size(); r++)
      for (int64_t i = 0; i < results[r].elements(); i++) {
        const double first = get(results[r].dtype, outputs[r].data(), i),
                     second = get(results[r].dtype, again[r].data(), i);
        if (first != second) EXPECT_NEAR(first, second, 0x1p-6 * (1 + std::abs(first)));
      }
  }
  if (c.written.empty()) return outputs;
  for (size_t r = 0; r < results.size(); r++) outputs[r] = toDense(outputs[r], request.targets[r]);
  Case dense = c;
  dense.written = {};
  if (c.repeats) EXPECT_EQ(outputs, runKernel(op, dense, inputs, results));
  return outputs;
}

void check(const Case& c, uint32_t seed) {
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

}  // namespace lazuli::test::attention
