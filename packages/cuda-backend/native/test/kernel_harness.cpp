#include "kernel_harness.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "device_harness.h"

namespace lazuli::test {
namespace {

struct HalfFormat {
  int mantissa, bias;
};
HalfFormat formatOf(DType dtype) { return dtype == DType::bf16 ? HalfFormat{7, 127} : HalfFormat{10, 15}; }

double decodeHalf(DType dtype, uint16_t bits) {
  const auto [mantissa, bias] = formatOf(dtype);
  const int exponent = (bits & 0x7fff) >> mantissa, fraction = bits & ((1 << mantissa) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 2 * bias + 1)
    return fraction ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - mantissa);
  return sign * std::ldexp(fraction + (1 << mantissa), exponent - bias - mantissa);
}

uint16_t encodeHalf(DType dtype, double value) {
  const auto [mantissa, bias] = formatOf(dtype);
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const int top = (2 * bias + 1) << mantissa;
  if (std::isnan(value)) return static_cast<uint16_t>(top | 1 << (mantissa - 1));
  if (value == 0 || std::isinf(value)) return static_cast<uint16_t>(sign | (value == 0 ? 0 : top));
  const int exponent = std::max(std::ilogb(value), 1 - bias);
  // In units of the last place, an integer carries into the exponent as it should.
  const double units = std::nearbyint(std::ldexp(std::fabs(value), mantissa - exponent));
  const double code = units + std::ldexp(exponent + bias - 1, mantissa);
  return static_cast<uint16_t>(sign | static_cast<int>(std::min<double>(code, top)));
}

template <class T>
double read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return static_cast<double>(value);
}
template <class T>
void write(std::byte* to, double value) {
  const T converted = static_cast<T>(value);
  std::memcpy(to, &converted, sizeof(T));
}

double readAs(DType dtype, const std::byte* from) {
  switch (dtype) {
    case DType::f32:
      return read<float>(from);
    case DType::f64:
      return read<double>(from);
    case DType::i32:
      return read<int32_t>(from);
    case DType::i64:
      return read<int64_t>(from);
    case DType::bf16:
    case DType::f16: {
      uint16_t bits;
      std::memcpy(&bits, from, 2);
      return decodeHalf(dtype, bits);
    }
    default:
      return read<uint8_t>(from);
  }
}

void writeAs(DType dtype, std::byte* to, double value) {
  switch (dtype) {
    case DType::f32:
      return write<float>(to, value);
    case DType::f64:
      return write<double>(to, value);
    case DType::i32:
      return write<int32_t>(to, value);
    case DType::i64:
      return write<int64_t>(to, value);
    case DType::bf16:
    case DType::f16: {
      const uint16_t bits = encodeHalf(dtype, value);
      std::memcpy(to, &bits, 2);
      return;
    }
    default:
      return write<uint8_t>(to, value);
  }
}

struct Call {
  TestedEntry tested;
  const Node& node;
  const std::vector<TensorType>& results;
  std::vector<Layout> layouts;
  std::vector<std::span<const std::byte>> reads;
  std::vector<Layout> targets = {};

  MadeKernel make() const { return tested.entry.make({node, layouts, results, targets}); }
  std::vector<Array> run(const MadeKernel& made, std::pair<int, int> inPlace = {-1, -1},
                         Manner manner = Manner::plain) const {
    std::vector<Array> out;
    for (const TensorType& type : results) {
      out.emplace_back(type.dtype, type.shape);
      std::fill(out.back().bytes.begin(), out.back().bytes.end(), std::byte{0xcd});
    }
    std::vector<std::span<std::byte>> to;
    for (Array& array : out) to.push_back(array.bytes);
    runMade(tested.cuda, made, reads, to, inPlace, manner);
    return out;
  }
};

void expectSame(const std::vector<Array>& a, const std::vector<Array>& b, const std::string& what) {
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(a[i].bytes == b[i].bytes) << "result " << i << " differs " << what;
}

/// The array's rows 3 elements further apart than they are wide, from element 5 on.
std::pair<Layout, std::vector<std::byte>> spaced(const Array& array) {
  Layout layout = Layout::dense(array.type);
  const int64_t width = array.type.shape.back(), stride = width + 3, rows = array.type.elements() / width;
  for (size_t dim = 0; dim + 1 < layout.strides.size(); ++dim)
    layout.strides[dim] = layout.strides[dim] / width * stride;
  layout.offset = 5;
  const size_t size = sizeBytes(array.type.dtype);
  std::vector<std::byte> bytes((static_cast<size_t>((rows - 1) * stride + width) + 5) * size,
                               std::byte{0xcd});
  for (int64_t row = 0; row < rows; ++row) {
    std::memcpy(bytes.data() + static_cast<size_t>(5 + row * stride) * size,
                array.bytes.data() + static_cast<size_t>(row * width) * size,
                static_cast<size_t>(width) * size);
  }
  return {layout, std::move(bytes)};
}

/// Runs it with result `i` in another order of its rows, where the kernel writes that; and over operands.
void expectSameInOrder(const Call& call, size_t i, const std::vector<Array>& operands,
                       const std::vector<Array>& out) {
  const TensorType& type = call.results[i];
  const size_t rank = type.shape.size();
  if (!call.tested.entry.writes || rank < 3 || type.elements() == 0) return;
  std::vector<size_t> order(rank);
  std::iota(order.begin(), order.end(), 0);
  std::swap(order[rank - 3], order[rank - 2]);
  const Layout layout = ordered(type, order);
  if (!call.tested.entry.writes(call.node, i, layout)) return;
  Call other = call;
  for (const TensorType& result : call.results) other.targets.push_back(Layout::dense(result));
  other.targets[i] = layout;
  const auto expect = [&](std::vector<Array> found, const std::string& what) {
    found[i].bytes = toDense(found[i].bytes, layout);
    expectSame(out, found, what);
  };
  const MadeKernel made = other.make();
  expect(other.run(made), "with result " + std::to_string(i) + " in another order");
  for (const auto& [result, operand] : made.inPlace) {
    const TensorType& from = operands[operand].type;
    if (result != i || from.shape != type.shape || from.dtype != type.dtype ||
        !call.tested.entry.accepts(call.node, operand, layout))
      continue;
    Call over = other;
    const std::vector<std::byte> bytes = fromDense(operands[operand].bytes, layout);
    over.layouts[operand] = layout;
    over.reads[operand] = bytes;
    expect(over.run(over.make(), {result, operand}), "over an operand in that order");
  }
}

Node nodeOf(Op op, std::vector<Attr> attrs) { return {op, {}, {}, std::move(attrs)}; }

Call callOf(const Node& node, const std::vector<Array>& operands, const std::vector<TensorType>& results) {
  Call call{entryOf(node.op), node, results, {}, {}};
  for (const Array& operand : operands) {
    call.layouts.push_back(Layout::dense(operand.type));
    call.reads.push_back(operand.bytes);
  }
  return call;
}

}  // namespace

Array::Array(DType dtype, Dims shape) : type{dtype, std::move(shape)}, bytes(type.bytes()) {}

Array Array::of(DType dtype, Dims shape, const std::function<double(int64_t)>& value) {
  Array array(dtype, std::move(shape));
  const size_t size = sizeBytes(dtype);
  for (int64_t i = 0; i < array.type.elements(); ++i) {
    writeAs(dtype, array.bytes.data() + static_cast<size_t>(i) * size, value(i));
  }
  return array;
}

Array Array::list(DType dtype, Dims shape, const std::vector<double>& values) {
  return of(dtype, std::move(shape), [&](int64_t i) { return values[static_cast<size_t>(i)]; });
}

Array Array::random(DType dtype, Dims shape, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  return of(dtype, std::move(shape), [&](int64_t) { return normal(engine); });
}

Array Array::indices(DType dtype, Dims shape, int64_t limit, uint32_t seed) {
  std::mt19937 engine(seed);
  return of(dtype, std::move(shape), [&](int64_t) { return static_cast<double>(engine() % limit); });
}

double Array::at(int64_t i) const {
  return readAs(type.dtype, bytes.data() + static_cast<size_t>(i) * sizeBytes(type.dtype));
}

std::vector<double> Array::values() const {
  std::vector<double> values;
  for (int64_t i = 0; i < type.elements(); ++i) values.push_back(at(i));
  return values;
}

std::vector<Array> runKernel(Op op, std::vector<Attr> attrs, const std::vector<Array>& operands,
                             const std::vector<TensorType>& results) {
  const Node node = nodeOf(op, std::move(attrs));
  const Call call = callOf(node, operands, results);
  const MadeKernel made = call.make();
  const std::vector<Array> out = call.run(made);
  expectSame(out, call.run(made, {-1, -1}, Manner::other), "on one thread or as a graph");
  for (const auto& [result, operand] : made.inPlace)
    expectSame(out, call.run(made, {result, operand}), "over operand " + std::to_string(operand));
  for (size_t i = 0; i < results.size(); ++i) expectSameInOrder(call, i, operands, out);

  for (size_t i = 0; i < operands.size(); ++i) {
    if (operands[i].type.shape.size() < 2 || operands[i].type.elements() == 0) continue;
    const auto [layout, bytes] = spaced(operands[i]);
    const auto accepts = call.tested.entry.accepts;
    if (!accepts || !accepts(node, i, layout)) continue;
    Call other = call;
    other.layouts[i] = layout;
    other.reads[i] = bytes;
    expectSame(out, other.run(other.make()), "with spaced operand " + std::to_string(i));
  }
  return out;
}

std::string failure(Op op, std::vector<Attr> attrs, const std::vector<Array>& operands,
                    const std::vector<TensorType>& results) {
  const Node node = nodeOf(op, std::move(attrs));
  const Call call = callOf(node, operands, results);
  try {
    call.run(call.make());
  } catch (const ProgramError& error) {
    return error.what();
  }
  return "";
}

double tolerance(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4e-6;
    case DType::f64:
      return 1e-13;
    case DType::bf16:
      return 0x1p-8;
    case DType::f16:
      return 0x1p-11 * 1.05;
    default:
      return 0;
  }
}

void expectClose(const Array& actual, const std::vector<double>& expected, double scale) {
  ASSERT_EQ(actual.type.elements(), static_cast<int64_t>(expected.size()));
  const double relative = tolerance(actual.type.dtype);
  int bad = 0;
  for (int64_t i = 0; i < actual.type.elements() && bad < 5; ++i) {
    const double a = actual.at(i), e = expected[static_cast<size_t>(i)];
    const bool same =
        a == e || (std::isnan(a) && std::isnan(e)) || std::fabs(a - e) <= relative * (scale + std::fabs(e));
    bad += !same;
    EXPECT_TRUE(same) << name(actual.type.dtype) << " element " << i << " of " << format(actual.type.shape)
                      << ": " << a << ", expected " << e;
  }
}

}  // namespace lazuli::test
