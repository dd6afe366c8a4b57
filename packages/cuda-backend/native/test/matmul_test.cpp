#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "parallel.h"

namespace lazuli {
namespace {

size_t at(int64_t i) { return static_cast<size_t>(i); }

float fromHalf(uint16_t h) {
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const float magnitude = exponent == 0    ? std::ldexp(static_cast<float>(mantissa), -24)
                          : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                           : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return h & 0x8000 ? -magnitude : magnitude;
}

double get(DType dtype, const std::byte* data, int64_t i) {
  const std::byte* p = data + i * static_cast<int64_t>(sizeBytes(dtype));
  const auto as = [&](auto value) {
    std::memcpy(&value, p, sizeof value);
    return value;
  };
  switch (dtype) {
    case DType::f32:
      return as(0.0f);
    case DType::f64:
      return as(0.0);
    case DType::bf16: {
      const uint32_t bits = static_cast<uint32_t>(as(uint16_t{})) << 16;
      float value;
      std::memcpy(&value, &bits, 4);
      return value;
    }
    case DType::f16:
      return fromHalf(as(uint16_t{}));
    case DType::i32:
      return as(int32_t{});
    case DType::i64:
      return static_cast<double>(as(int64_t{}));
    default:
      return as(uint8_t{});
  }
}

/// Random data: floats of a few bits, so that every dtype holds them exactly; small integers.
std::vector<std::byte> randomData(DType dtype, int64_t count, std::mt19937& random) {
  std::vector<std::byte> data(at(count) * sizeBytes(dtype));
  for (int64_t i = 0; i < count; i++) {
    std::byte* p = data.data() + i * static_cast<int64_t>(sizeBytes(dtype));
    const int x = static_cast<int>(random() % 17) - 8;
    const auto put = [&](auto value) { std::memcpy(p, &value, sizeof value); };
    const float value = static_cast<float>(x) / 8;
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    switch (dtype) {
      case DType::f32:
        put(value);
        break;
      case DType::f64:
        put(static_cast<double>(value));
        break;
      case DType::bf16:
        put(static_cast<uint16_t>(bits >> 16));
        break;
      case DType::f16:
        put(static_cast<uint16_t>(
            x == 0 ? 0 : ((bits >> 16) & 0x8000) | (((bits >> 13) & 0x3ffff) - (112 << 10))));
        break;
      case DType::i32:
        put(static_cast<int32_t>(x * 123456789));
        break;
      case DType::i64:
        put(static_cast<int64_t>(x));
        break;
      case DType::u8:
        put(static_cast<uint8_t>(x & 15));
        break;
      case DType::boolean:
        put(static_cast<uint8_t>(x > 5));
        break;
    }
  }
  return data;
}

struct Operand {
  Layout layout;
  std::vector<std::byte> data;
};

/// The shape laid out in memory in the order `perm` of its dims, with `gap` unused elements after each row of
/// a dim.
Operand strided(DType dtype, const Dims& shape, std::vector<int64_t> perm, int64_t gap,
                std::mt19937& random) {
  Operand operand{{dtype, shape, Dims(shape.size()), 3}, {}};
  int64_t stride = 1;
  for (size_t i = perm.size(); i-- > 0;) {
    operand.layout.strides[at(perm[i])] = stride;
    stride *= shape[at(perm[i])];
    if (i + 1 == perm.size()) stride += gap;
  }
  operand.data = randomData(dtype, stride + 3, random);
  return operand;
}
Operand dense(DType dtype, const Dims& shape, std::mt19937& random) {
  Operand operand{Layout::dense({dtype, shape}), {}};
  operand.data = randomData(dtype, elements(shape), random);
  return operand;
}

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::gelu_erf:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return x;
}

int64_t locate(const Layout& layout, const Dims& index) {
  int64_t at = layout.offset;
  for (size_t d = 0; d < index.size(); d++) at += index[d] * layout.strides[d];
  return at;
}

bool next(Dims& index, const Dims& shape) {
  for (size_t d = shape.size(); d-- > 0;) {
    if (++index[d] < shape[d]) return true;
    index[d] = 0;
  }
  return false;
}

std::vector<int64_t> freeDims(const Layout& layout, const std::vector<int64_t>& batch,
                              const std::vector<int64_t>& contract) {
  std::vector<int64_t> dims;
  for (int64_t d = 0; d < static_cast<int64_t>(layout.shape.size()); d++)
    if (!std::count(batch.begin(), batch.end(), d) && !std::count(contract.begin(), contract.end(), d))
      dims.push_back(d);
  return dims;
}

struct Case {
  Operand a, b;
  std::vector<int64_t> lhsContract, rhsContract, lhsBatch, rhsBatch;
  bool bias = false, residual = false, inPlace = false;
  Activation activation = Activation::none;
  std::optional<DType> out;
  int64_t biasStride = 1;
};

void check(const Case& c, std::mt19937& random) {
  MatmulSpec spec{c.a.layout, c.b.layout, c.lhsContract, c.rhsContract, c.lhsBatch, c.rhsBatch,
                  {},         {},         c.activation,  c.residual};
  const auto rows = freeDims(c.a.layout, c.lhsBatch, c.lhsContract),
             cols = freeDims(c.b.layout, c.rhsBatch, c.rhsContract);
  spec.out.dtype = c.out.value_or(c.a.layout.dtype);
  Dims contracted;
  for (int64_t d : c.lhsBatch) spec.out.shape.push_back(c.a.layout.shape[at(d)]);
  for (int64_t d : rows) spec.out.shape.push_back(c.a.layout.shape[at(d)]);
  for (int64_t d : cols) spec.out.shape.push_back(c.b.layout.shape[at(d)]);
  for (int64_t d : c.lhsContract) contracted.push_back(c.a.layout.shape[at(d)]);
  const DType out = spec.out.dtype;

  std::vector<std::byte> bias, residual;
  if (c.bias) {
    const int64_t length = spec.out.shape.back();
    spec.bias = Layout{out, {length}, {c.biasStride}, 2};
    bias = randomData(out, length * c.biasStride + 2, random);
  }
  if (c.residual) residual = randomData(out, spec.out.elements(), random);

  MadeKernel made = makeMatmul(spec);
  constexpr size_t kGuard = 512 << 10;
  std::vector<std::byte> result(spec.out.bytes(), std::byte{0x5a}),
      scratch(made.scratchBytes + 64 + kGuard, std::byte{0x77});
  std::vector<const std::byte*> reads{c.a.data.data(), c.b.data.data()};
  if (c.bias) reads.push_back(bias.data());
  if (c.residual) {
    if (c.inPlace) result = residual;
    reads.push_back(c.inPlace ? result.data() : residual.data());
    ASSERT_EQ(made.inPlace.size(), 1u);
  }
  std::byte* writes[] = {result.data()};
  std::byte* aligned = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) % 64;
  made.kernel->run({reads.data(), writes, aligned});
  ASSERT_EQ(std::count(aligned + made.scratchBytes, aligned + made.scratchBytes + kGuard, std::byte{0x77}),
            static_cast<ptrdiff_t>(kGuard))
      << made.label << " wrote past its scratch";
  if (spec.out.elements() == 0) return;

  const double unit = out == DType::bf16  ? 1.0 / 128
                      : out == DType::f16 ? 1.0 / 1024
                      : out == DType::f32 ? 3e-6
                                          : 1e-12;
  Dims index(spec.out.shape.size());
  int64_t flat = 0;
  do {
    Dims ai(c.a.layout.shape.size()), bi(c.b.layout.shape.size());
    size_t d = 0;
    for (size_t i = 0; i < c.lhsBatch.size(); i++, d++)
      ai[at(c.lhsBatch[i])] = bi[at(c.rhsBatch[i])] = index[d];
    for (int64_t r : rows) ai[at(r)] = index[d++];
    for (int64_t r : cols) bi[at(r)] = index[d++];
    Dims k(contracted.size());
    double sum = 0, size = 0;
    uint64_t wrapped = 0;
    bool any = false;
    if (elements(contracted) > 0) do {
        for (size_t i = 0; i < k.size(); i++) ai[at(c.lhsContract[i])] = bi[at(c.rhsContract[i])] = k[i];
        const double x = get(c.a.layout.dtype, c.a.data.data(), locate(c.a.layout, ai));
        const double y = get(c.b.layout.dtype, c.b.data.data(), locate(c.b.layout, bi));
        sum += x * y;
        size += std::abs(x * y);
        wrapped +=
            static_cast<uint64_t>(static_cast<int64_t>(x)) * static_cast<uint64_t>(static_cast<int64_t>(y));
        any = any || (x != 0 && y != 0);
      } while (next(k, contracted));
    const double got = get(out, result.data(), flat);
    if (isFloat(out)) {
      if (c.bias) sum += get(out, bias.data(), locate(*spec.bias, {index.back()}));
      sum = activate(c.activation, sum);
      if (c.residual) sum += get(out, residual.data(), flat);
      ASSERT_NEAR(got, sum, unit * (1 + size + std::abs(sum))) << made.label << " at " << flat;
    } else {
      const double want = out == DType::i32       ? static_cast<int32_t>(static_cast<uint32_t>(wrapped))
                          : out == DType::i64     ? static_cast<double>(static_cast<int64_t>(wrapped))
                          : out == DType::boolean ? static_cast<double>(any)
                                                  : static_cast<double>(static_cast<uint8_t>(wrapped));
      ASSERT_EQ(got, want) << made.label << " at " << flat;
    }
    flat++;
  } while (next(index, spec.out.shape));
}

Case plain(DType dtype, int64_t m, int64_t n, int64_t k, bool ta, bool tb, std::mt19937& random) {
  Case c;
  c.a = dense(dtype, ta ? Dims{k, m} : Dims{m, k}, random);
  c.b = dense(dtype, tb ? Dims{n, k} : Dims{k, n}, random);
  c.lhsContract = {ta ? 0 : 1};
  c.rhsContract = {tb ? 1 : 0};
  return c;
}

constexpr DType kDTypesAll[] = {DType::f32, DType::f64, DType::bf16, DType::f16,
                                DType::i32, DType::i64, DType::u8,   DType::boolean};

TEST(Matmul, ShapesAndTransposes) {
  std::mt19937 random(1);
  const int64_t shapes[][3] = {{1, 1, 1},      {1, 40, 30},  {40, 1, 30},   {3, 5, 1},    {8, 32, 16},
                               {17, 33, 65},   {64, 64, 64}, {65, 70, 300}, {9, 1030, 7}, {200, 33, 520},
                               {130, 100, 80}, {2, 37, 50},  {3, 300, 70},  {4, 100, 33}, {300, 1, 70}};
  for (DType dtype : kDTypesAll)
    for (const auto& s : shapes)
      for (int t = 0; t < 4; t++) check(plain(dtype, s[0], s[1], s[2], t & 1, t & 2, random), random);
}

TEST(Matmul, LongSumsOfARemainderOfRows) {
  std::mt19937 random(9);
  const ThreadCountScope two(2);
  for (DType dtype : {DType::f64, DType::f16})
    for (int64_t m : {25, 49})  // a last block of one row
      check(plain(dtype, m, 16, 30000, false, true, random), random);
}

TEST(Matmul, Empty) {
  std::mt19937 random(2);
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i32}) {
    check(plain(dtype, 0, 5, 3, false, true, random), random);
    check(plain(dtype, 4, 0, 3, true, false, random), random);
    check(plain(dtype, 4, 5, 0, false, false, random), random);
  }
}

TEST(Matmul, Epilogues) {
  std::mt19937 random(3);
  const Activation activations[] = {Activation::none, Activation::relu, Activation::gelu_tanh,
                                    Activation::gelu_erf, Activation::silu};
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16})
    for (Activation activation : activations)
      for (int mask = 0; mask < 6; mask++)
        for (const auto& s : {Dims{20, 35, 24}, Dims{90, 110, 70}, Dims{33, 40, 600}}) {
          Case c = plain(dtype, s[0], s[1], s[2], false, true, random);
          c.bias = mask % 2;
          c.residual = mask / 2 > 0;
          c.inPlace = mask / 2 == 2;
          c.biasStride = mask == 5 ? 3 : 1;
          c.activation = activation;
          check(c, random);
        }
}

TEST(Matmul, WideOutput) {
  std::mt19937 random(4);
  for (DType dtype : {DType::bf16, DType::f16})
    for (const auto& s : {Dims{20, 35, 24}, Dims{90, 110, 300}}) {
      Case c = plain(dtype, s[0], s[1], s[2], true, false, random);
      c.out = DType::f32;
      c.bias = c.residual = true;
      check(c, random);
    }
}

TEST(Matmul, StridedOperands) {
  std::mt19937 random(5);
  // [B, M, K] · [B, K, N] with every order of the dims in memory, with gaps, for a small and a large product.
  for (const auto& s : {Dims{3, 10, 12, 9}, Dims{2, 80, 70, 90}}) {
    std::vector<int64_t> perm{0, 1, 2};
    do {
      for (int64_t gap : {0, 2})
        for (DType dtype : {DType::f32, DType::bf16, DType::f64}) {
          Case c;
          c.a = strided(dtype, {s[0], s[1], s[3]}, perm, gap, random);
          c.b = strided(dtype, {s[0], s[3], s[2]}, perm, gap, random);
          c.lhsBatch = c.rhsBatch = {0};
          c.lhsContract = {2};
          c.rhsContract = {1};
          check(c, random);
        }
    } while (std::next_permutation(perm.begin(), perm.end()));
  }
}

TEST(Matmul, ManyDims) {
  std::mt19937 random(6);
  // a [B, M1, K1, M2, K2, C], b [K2, C, N1, K1, B, N2]: batch (B, C), contract (K1, K2), in every order in
  // memory of b.
  std::vector<int64_t> perm{0, 1, 2, 3, 4, 5};
  int turn = 0;
  do {
    if (turn++ % 37) continue;
    Case c;
    c.a = strided(DType::f32, {2, 3, 4, 5, 6, 3}, perm, turn % 2, random);
    c.b = strided(DType::f32, {6, 3, 2, 4, 2, 7}, perm, 0, random);
    c.lhsBatch = {0, 5};
    c.rhsBatch = {4, 1};
    c.lhsContract = {2, 4};
    c.rhsContract = {3, 0};
    c.bias = true;
    check(c, random);
  } while (std::next_permutation(perm.begin(), perm.end()));
}

TEST(Matmul, BroadcastAndFlippedOperands) {
  std::mt19937 random(7);
  for (int64_t size : {10, 90}) {
    for (int which = 0; which < 4; which++) {
      Case c;
      c.a = dense(DType::f32, {4, size, size}, random);
      c.b = dense(DType::f32, {4, size, size}, random);
      c.lhsBatch = c.rhsBatch = {0};
      c.lhsContract = {2};
      c.rhsContract = {1};
      if (which == 3) {
        c.a.layout.offset = (size - 1) * size;
        c.a.layout.strides[1] = -size;
      } else {
        c.a.layout.strides[at(which)] = 0;
        c.b.layout.strides[at((which + 1) % 3)] = 0;
      }
      check(c, random);
    }
  }
}

TEST(Matmul, HeadViews) {
  std::mt19937 random(8);
  // q, k as [B, T, H, K] seen as [B, H, T, K]: scores over (B, H).
  for (DType dtype : {DType::f32, DType::bf16}) {
    Case c;
    c.a = strided(dtype, {2, 3, 70, 72}, {0, 2, 1, 3}, 0, random);
    c.b = strided(dtype, {2, 3, 80, 72}, {0, 2, 1, 3}, 0, random);
    c.lhsBatch = c.rhsBatch = {0, 1};
    c.lhsContract = c.rhsContract = {3};
    check(c, random);
  }
}

TEST(Matmul, Accepts) {
  MatmulSpec spec;
  spec.a = {DType::f32, {2, 3, 4, 5}, {60, 5, 15, 1}, 0};  // [B, H, T, K] over [B, T, H, K]
  spec.b = {DType::f32, {6, 5}, {5, 1}, 0};
  spec.lhsContract = {3};
  spec.rhsContract = {1};
  EXPECT_FALSE(matmulAccepts(spec, 0));  // H and T do not merge in this order
  EXPECT_TRUE(matmulAccepts(spec, 1));
  spec.a.strides = {60, 20, 5, 1};
  EXPECT_TRUE(matmulAccepts(spec, 0));
  spec.b.strides = {1, 6};
  EXPECT_TRUE(matmulAccepts(spec, 1));
  spec.b.strides = {-5, 1};
  EXPECT_FALSE(matmulAccepts(spec, 1));
  spec.b.strides = {10, 2};
  EXPECT_FALSE(matmulAccepts(spec, 1));
}

}  // namespace
}  // namespace lazuli
