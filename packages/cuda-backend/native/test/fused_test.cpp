#include <cstring>

#include "build.h"
#include "parallel.h"

namespace lazuli::test {
namespace {

constexpr DType kAll[] = {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i32, DType::i64, DType::u8};

/// Half a unit in the last place and the error of what it was computed in.
double rounding(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4e-7;
    case DType::f64:
      return 1e-14;
    case DType::bf16:
      return 0.00391;
    case DType::f16:
      return 0.00049;
    default:
      return 0;
  }
}

void expectUnary(Op op, DType dtype, const Array& x, std::vector<Attr> attrs = {}, double scale = 0) {
  SCOPED_TRACE(std::string(info(op).name) + " " + name(dtype));
  ProgramBuilder builder;
  builder.output(builder.elementwise(op, {builder.input(dtype, x.type.shape)}, std::move(attrs)));
  expectReference(builder.program, {x}, rounding(dtype), std::max(scale, 1e-30));
}

TEST(Fused, UnaryOps) {
  for (DType dtype : kFloats) {
    const auto range = [&](double low, double high) {
      return Array::of(dtype, {1003},
                       [=](int64_t i) { return low + (high - low) * static_cast<double>(i) / 1002; });
    };
    for (Op op :
         {Op::neg,   Op::abs,  Op::sign,     Op::square, Op::relu,        Op::floor, Op::ceil,  Op::round,
          Op::trunc, Op::exp,  Op::exp2,     Op::expm1,  Op::sinh,        Op::cosh,  Op::tanh,  Op::sigmoid,
          Op::erf,   Op::atan, Op::softplus, Op::silu,   Op::logical_not, Op::isnan, Op::isinf, Op::isfinite})
      expectUnary(op, dtype, range(-10, 10));
    for (Op op : {Op::sin, Op::cos}) expectUnary(op, dtype, range(-30, 30), {}, 0.01);
    expectUnary(Op::tan, dtype, range(-1.5, 1.5));
    for (Op op : {Op::log, Op::log2, Op::sqrt, Op::rsqrt, Op::reciprocal})
      expectUnary(op, dtype, range(0.01, 40));
    expectUnary(Op::log1p, dtype, range(-0.9, 40));
    for (Op op : {Op::asin, Op::acos}) expectUnary(op, dtype, range(-1, 1), {}, 0.01);
    // Far below zero 1 + erf cancels: small beside x.
    for (int64_t approximate : {0, 1}) expectUnary(Op::gelu, dtype, range(-6, 6), {approximate}, 1);
  }
  for (DType dtype : {DType::i32, DType::i64, DType::u8}) {
    const Array x = Array::of(dtype, {300}, [](int64_t i) { return static_cast<double>(i % 11); });
    for (Op op : {Op::neg, Op::abs, Op::sign, Op::square, Op::relu, Op::floor, Op::ceil, Op::round, Op::trunc,
                  Op::logical_not})
      expectUnary(op, dtype, x);
  }
}

TEST(Fused, UnaryOpsAtTheEdges) {
  const double inf = INFINITY, nan = std::nan("");
  const Array x = Array::list(DType::f32, {9}, {inf, -inf, nan, 0.0, 1e-42, -1e-42, 3e38, -3e38, 88.72});
  for (Op op : {Op::neg,      Op::abs,  Op::relu,    Op::floor, Op::ceil,  Op::round, Op::trunc,
                Op::exp,      Op::tanh, Op::sigmoid, Op::erf,   Op::atan,  Op::isnan, Op::isinf,
                Op::isfinite, Op::log,  Op::log2,    Op::log1p, Op::expm1, Op::sqrt,  Op::softplus})
    expectUnary(op, DType::f32, x, {}, 1e-38);
}

TEST(Fused, BinaryOps) {
  for (DType dtype : kAll) {
    const bool floating = isFloat(dtype);
    const auto values = [&](uint32_t seed) {
      return floating ? Array::random(dtype, {7, 50}, seed) : Array::indices(dtype, {7, 50}, 9, seed);
    };
    for (Op op : {Op::add,        Op::sub,         Op::mul,          Op::div,       Op::maximum,
                  Op::minimum,    Op::remainder,   Op::floor_divide, Op::eq,        Op::ne,
                  Op::lt,         Op::le,          Op::gt,           Op::ge,        Op::logical_and,
                  Op::logical_or, Op::logical_xor, Op::atan2,        Op::silu_grad, Op::gelu_grad}) {
      const bool floatOnly = op == Op::atan2 || op == Op::silu_grad || op == Op::gelu_grad;
      if (floatOnly && !floating) continue;
      SCOPED_TRACE(std::string(info(op).name) + " " + name(dtype));
      ProgramBuilder builder;
      const ValueId a = builder.input(dtype, {7, 50}), b = builder.input(dtype, {7, 50});
      if (op == Op::gelu_grad) {
        builder.output(builder.elementwise(op, {a, b}, {int64_t{0}}));
        builder.output(builder.elementwise(op, {a, b}, {int64_t{1}}));
      } else {
        builder.output(builder.elementwise(op, {a, b}));
      }
      expectReference(builder.program, {values(1), values(2)}, 4 * rounding(dtype), 1);
    }
  }
}

TEST(Fused, IntegersWrapAndDivideByZeroToZero) {
  ProgramBuilder builder;
  const ValueId a = builder.input(DType::i32, {5}), b = builder.input(DType::i32, {5});
  for (Op op : {Op::add, Op::sub, Op::mul, Op::div, Op::remainder, Op::floor_divide})
    builder.output(builder.elementwise(op, {a, b}));
  builder.output(builder.elementwise(Op::neg, {a}));
  builder.output(builder.elementwise(Op::abs, {a}));
  const std::vector<double> low = {-2147483648.0, 7, -7, 2147483647, -7};
  const std::vector<Array> actual =
      runLowered(lower(builder.program, true),
                 {Array::list(DType::i32, {5}, low), Array::list(DType::i32, {5}, {-1, 0, 2, 2, -2})}, false);
  const std::vector<std::vector<double>> expected = {{2147483647, 7, -5, -2147483647, -9},
                                                     {-2147483647, 7, -9, 2147483645, -5},
                                                     {-2147483648.0, 0, -14, -2, 14},
                                                     {-2147483648.0, 0, -3, 1073741823, 3},
                                                     {0, 0, 1, 1, -1},
                                                     {-2147483648.0, 0, -4, 1073741823, 3},
                                                     {-2147483648.0, -7, 7, -2147483647, 7},
                                                     {-2147483648.0, 7, 7, 2147483647, 7}};
  for (size_t k = 0; k < expected.size(); k++) EXPECT_EQ(actual[k].values(), expected[k]) << k;
}

TEST(Fused, Powers) {
  const double inf = INFINITY, nan = std::nan("");
  const std::vector<double> numbers = {0.0,  -0.0, 1,     -1,  2,    -2,  0.5, -0.5, 3,
                                       1e-3, 1e20, 1e-20, inf, -inf, nan, 2.5, -3};
  const int64_t n = static_cast<int64_t>(numbers.size());
  for (DType dtype : {DType::f32, DType::f64}) {
    ProgramBuilder builder;
    const ValueId x = builder.input(dtype, {n, 1}), y = builder.input(dtype, {n});
    builder.output(builder.elementwise(Op::pow, {x, y}));
    for (double exponent : {1.0, 2.0, 3.0, -1.0, 0.5})
      builder.output(builder.elementwise(Op::pow, {x, builder.full(exponent, dtype, {})}));
    expectReference(builder.program, {Array::list(dtype, {n, 1}, numbers), Array::list(dtype, {n}, numbers)},
                    rounding(dtype), 1e-37);
  }
}

TEST(Fused, MaximumAndReductionsKeepNaN) {
  const double nan = std::nan("");
  const Array a = Array::list(DType::f32, {2, 4}, {1, nan, 3, 3, 5, 5, -1, 2}),
              b = Array::list(DType::f32, {2, 4}, {nan, 0, 4, 2, 1, 9, nan, 2});
  ProgramBuilder builder;
  const ValueId x = builder.input(DType::f32, {2, 4}), y = builder.input(DType::f32, {2, 4});
  builder.output(builder.elementwise(Op::maximum, {x, y}));
  builder.output(builder.elementwise(Op::minimum, {x, y}));
  for (int64_t dim : {0, 1})
    for (Op op : {Op::max, Op::min, Op::argmax, Op::argmin}) builder.output(builder.reduce(op, x, {dim}));
  expectReference(builder.program, {a, b}, 0);
}

TEST(Fused, CastsBetweenAllDtypes) {
  for (DType from : kAll)
    for (uint32_t to = 0; to < kDTypes; to++) {
      SCOPED_TRACE(std::string(name(from)) + " to " + name(static_cast<DType>(to)));
      ProgramBuilder builder;
      builder.output(builder.cast(builder.input(from, {777}), static_cast<DType>(to)));
      const bool byte = to == static_cast<uint32_t>(DType::u8);
      const Array x = Array::of(
          from, {777}, [&](int64_t i) { return (static_cast<double>(i % 97) - (byte ? 0 : 48)) * 0.75; });
      expectReference(builder.program, {x}, 0, 1);
    }
}

TEST(Fused, ReductionsOfEveryDtypeAndPlace) {
  const std::vector<Dims> shapes = {{5, 7},       {300, 3}, {3, 300}, {2, 129, 5},
                                    {4, 3, 2, 6}, {1, 1},   {700},    {2, 3, 257}};
  for (DType dtype : kAll) {
    for (const Dims& shape : shapes) {
      const Array x = isFloat(dtype) ? Array::random(dtype, shape, 3) : Array::indices(dtype, shape, 5, 3);
      for (uint32_t mask = 1; mask < 1u << shape.size(); mask++) {
        if (onlyFewPrograms() && (mask + static_cast<uint32_t>(dtype)) % 5 != 0) continue;
        Dims dims;
        for (size_t i = 0; i < shape.size(); i++)
          if (mask >> i & 1) dims.push_back(static_cast<int64_t>(i));
        SCOPED_TRACE(std::string(name(dtype)) + format(shape) + " over " + format(dims));
        ProgramBuilder builder;
        const ValueId value = builder.input(dtype, shape);
        for (Op op : {Op::sum, Op::max, Op::min}) builder.output(builder.reduce(op, value, dims));
        if (dims.size() == 1)
          for (Op op : {Op::argmax, Op::argmin}) builder.output(builder.reduce(op, value, dims, true));
        ASSERT_NO_FATAL_FAILURE(expectReference(builder.program, {x}, rounding(dtype) * 4, 20));
      }
    }
  }
}

TEST(Fused, ReductionsOfNothing) {
  ProgramBuilder builder;
  const ValueId x = builder.input(DType::f32, {3, 0});
  builder.output(builder.reduce(Op::sum, x, {1}));
  builder.output(builder.reduce(Op::prod, x, {1}));
  builder.output(builder.reduce(Op::sum, x, {0}));
  builder.output(builder.reduce(Op::sum, x, {0, 1}));
  expectReference(builder.program, {Array(DType::f32, {3, 0})}, 0);
}

TEST(Fused, RowsOfEveryWidthAroundATile) {
  for (int64_t width : {1, 2, 31, 63, 64, 65, 85, 86, 127, 128, 129, 170, 255, 256, 257, 384, 512, 513}) {
    const Dims shape = {5, width};
    for (bool stores : {false, true}) {
      ProgramBuilder builder;
      const ValueId x = builder.input(DType::f32, shape), row = builder.input(DType::f32, {5, 1});
      const ValueId y = builder.elementwise(Op::sub, {x, row});
      builder.output(builder.reduce(Op::sum, builder.elementwise(Op::exp, {y}), {1}));
      builder.output(builder.reduce(Op::max, x, {1}));
      builder.output(builder.reduce(Op::argmin, x, {1}));
      if (stores) builder.output(y);
      expectReference(builder.program,
                      {Array::random(DType::f32, shape, 3), Array::random(DType::f32, {5, 1}, 4)}, 1e-6);
    }
  }
}

TEST(Fused, LongSumsStayAccurate) {
  // In one float32 accumulator 4M times 0.1 is off by more than a hundredth.
  const Dims shapes[] = {{1 << 22}, {1 << 16, 64}, {1 << 14, 256}};
  for (const Dims& shape : shapes) {
    ProgramBuilder builder;
    const ValueId x = builder.full(0.1, DType::f32, shape);
    const ValueId sum =
        builder.reduce(Op::sum, builder.elementwise(Op::mul, {x, builder.full(1, DType::f32, {})}), {0});
    builder.output(sum);
    const std::vector<Array> actual = runLowered(lower(builder.program, true), {}, false);
    const double expected = static_cast<double>(0.1f) * static_cast<double>(shape[0]);
    for (double value : actual[0].values()) ASSERT_NEAR(value / expected, 1, 1e-6);
  }
}

TEST(Fused, LongReductionsOfEverySplit) {
  // Of one row and of many, of wide columns and of narrow ones; of lengths that no piece divides. A GPU
  // divides fewer than 264 outputs' work, so that only more of them show what a thread does with very many
  // elements.
  const int64_t many = onlyFewPrograms() ? 300 : 30;
  for (const Dims& shape : {Dims{300001}, Dims{3, 70001}, Dims{many, 17001}, Dims{70001, 3}, Dims{9001, 130},
                            Dims{many, 4201, 3}}) {
    const size_t dim = shape.size() == 3 || shape.back() < 1000 ? shape.size() - 2 : shape.size() - 1;
    const Array x =
        Array::of(DType::f32, shape, [](int64_t i) { return 0.1 + static_cast<double>(i % 7) * 1e-3; });
    ProgramBuilder builder;
    const ValueId value = builder.input(DType::f32, shape);
    for (Op op : {Op::sum, Op::max, Op::argmax})
      builder.output(builder.reduce(op, value, {static_cast<int64_t>(dim)}));
    expectReference(builder.program, {x}, 1e-6);
  }
}

TEST(Fused, ResultsDoNotDependOnThreads) {
  for (const Dims& shape : {Dims{1 << 20}, Dims{4, 200000}, Dims{100000, 7}, Dims{3000, 300}}) {
    for (int64_t dim = 0; dim < static_cast<int64_t>(shape.size()); dim++) {
      ProgramBuilder builder;
      const ValueId x = builder.input(DType::f32, shape);
      const ValueId y = builder.elementwise(Op::silu, {x});
      builder.output(builder.reduce(Op::sum, y, {dim}));
      builder.output(builder.reduce(Op::argmax, x, {dim}));
      builder.output(y);
      const std::vector<Array> inputs = {Array::random(DType::f32, shape, 9)};
      const Lowered lowered = lower(builder.program, true);
      const std::vector<Array> many = runLowered(lowered, inputs, false);
      std::vector<Array> one;
      // Inside a parallel region everything runs on the thread that is there.
      parallelRegion([&](int thread, int) {
        if (thread == 0) one = runLowered(lowered, inputs, false);
      });
      for (size_t k = 0; k < many.size(); k++) EXPECT_EQ(many[k].bytes, one[k].bytes) << format(shape) << dim;
    }
  }
}

TEST(Fused, RandomValuesAreThoseOfTheirElementNumbers) {
  ProgramBuilder builder;
  const ValueId key = builder.input(DType::i64, {2});
  const ValueId first = builder.input(DType::i64, {3});
  for (Op op : {Op::random_uniform, Op::random_normal}) {
    builder.output(builder.random(op, key, 5, DType::f32, {3, 171}));
    const ValueId x = builder.random(op, key, (int64_t{1} << 40) + 3, DType::f64, {64, 40});
    builder.output(builder.slice(builder.transpose(x, {1, 0}), {1, 2}, {40, 64}, {2, 3}));
  }
  // Parts of a whole, from where an operand says: dense, of columns, sliced, next to the whole itself.
  const ValueId from = builder.reshape(builder.slice(first, {1}, {2}, {1}), {});
  for (Op op : {Op::random_uniform, Op::random_normal}) {
    builder.output(builder.randomPart(op, key, from, 5, DType::f32, {3, 171}, {64, 171}));
    builder.output(builder.randomPart(op, key, from, 5, DType::f64, {40, 3}, {40, 1000}));
    const ValueId x = builder.randomPart(op, key, from, 9, DType::f32, {6, 5, 33}, {7, 50, 40});
    builder.output(builder.elementwise(
        Op::add, {builder.reshape(x, {30, 33}), builder.random(op, key, 5, DType::f32, {30, 33})}));
    builder.output(builder.slice(builder.transpose(x, {2, 1, 0}), {1, 2, 0}, {33, 5, 6}, {3, 2, 1}));
  }
  Array keys(DType::i64, {2});
  const int64_t words[2] = {0x123456789abcdef0, -42};
  std::memcpy(keys.bytes.data(), words, sizeof words);
  Array starts(DType::i64, {3});
  const int64_t numbers[3] = {0, 12345, 0};
  std::memcpy(starts.bytes.data(), numbers, sizeof numbers);
  expectReference(builder.program, {keys, starts}, 2e-6, 1);
}

TEST(Fused, TransposesOfEveryElementSize) {
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i64, DType::u8, DType::f16})
    for (const Dims& shape : {Dims{64, 64}, Dims{70, 131}, Dims{3, 500}, Dims{500, 5}}) {
      ProgramBuilder builder;
      const ValueId x = builder.input(dtype, shape), y = builder.input(dtype, {shape[1], shape[0]});
      const ValueId turned = builder.transpose(x, {1, 0});
      builder.output(turned);
      builder.output(builder.elementwise(Op::maximum, {turned, y}));
      builder.output(builder.transpose(builder.flip(y, {0}), {1, 0}));
      const auto values = [&](Dims of, uint32_t seed) {
        return isFloat(dtype) ? Array::random(dtype, of, seed) : Array::indices(dtype, of, 100, seed);
      };
      SCOPED_TRACE(std::string(name(dtype)) + format(shape));
      ASSERT_NO_FATAL_FAILURE(
          expectReference(builder.program, {values(shape, 1), values({shape[1], shape[0]}, 2)}, 0));
    }
}

}  // namespace
}  // namespace lazuli::test
