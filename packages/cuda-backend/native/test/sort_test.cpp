#include <algorithm>
#include <numeric>

#include "kernel_harness.h"

namespace lazuli::test {
namespace {

struct Case {
  Dims shape;
  int64_t dim, k;
};

constexpr DType kAll[] = {DType::f32, DType::f64, DType::bf16, DType::f16,
                          DType::i32, DType::i64, DType::u8,   DType::boolean};

/// Few distinct values, negative ones where there can be, so that ties show.
Array sample(DType dtype, const Dims& shape) {
  const Array raw = Array::indices(DType::i32, shape, 50, 1);
  const double shift = dtype == DType::u8 || dtype == DType::boolean ? 0 : 25;
  return Array::of(dtype, shape, [&](int64_t i) {
    return dtype == DType::boolean ? static_cast<int>(raw.at(i)) % 2 : raw.at(i) - shift;
  });
}

/// NaN is the largest value.
bool before(double a, double b, bool descending) {
  if (descending) std::swap(a, b);
  return std::isnan(b) ? !std::isnan(a) : a < b;
}

void check(Op op, const Array& x, const Case& c, bool descending) {
  const Dims& shape = c.shape;
  Dims outShape = shape;
  outShape[c.dim] = c.k;
  const std::vector<Attr> attrs = op == Op::sort
                                      ? std::vector<Attr>{integer(c.dim), flag(descending)}
                                      : std::vector<Attr>{integer(c.k), integer(c.dim), flag(descending)};
  const auto out = runKernel(op, attrs, {x}, {{x.type.dtype, outShape}, {DType::i32, outShape}});
  const int64_t n = shape[c.dim], inner = elements(Dims(shape.begin() + c.dim + 1, shape.end()));
  std::vector<double> values(elements(outShape)), indices(elements(outShape));
  for (int64_t line = 0; n > 0 && line < x.type.elements() / n; ++line) {
    const int64_t first = line / inner * n * inner + line % inner;
    std::vector<int64_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return before(x.at(first + a * inner), x.at(first + b * inner), descending);
    });
    for (int64_t k = 0; k < c.k; ++k) {
      const int64_t to = line / inner * c.k * inner + k * inner + line % inner;
      values[to] = x.at(first + order[k] * inner);
      indices[to] = static_cast<double>(order[k]);
    }
  }
  expectClose(out[0], values, 0);
  EXPECT_EQ(out[1].values(), indices);
}

TEST(Sort, StableAlongEveryDim) {
  const Case cases[] = {{{1}, 0, 1},       {{9}, 0, 9},       {{5, 33}, 1, 33},    {{33, 5}, 0, 33},
                        {{2, 9, 4}, 1, 9}, {{3000}, 0, 3000}, {{3, 700}, 1, 700},  {{0, 3}, 0, 0},
                        {{3, 0}, 1, 0},    {{0, 3}, 1, 3},    {{4500, 2}, 0, 4500}};
  for (DType dtype : kAll) {
    for (const Case& c : cases) {
      for (bool descending : {false, true}) check(Op::sort, sample(dtype, c.shape), c, descending);
    }
  }
}

TEST(Sort, FirstOfEachLine) {
  const Case cases[] = {{{9}, 0, 3},       {{5, 33}, 1, 1}, {{33, 5}, 0, 33}, {{4, 3000}, 1, 50},
                        {{3000}, 0, 2000}, {{5, 4}, 1, 0},  {{2, 6000}, 1, 7}};
  for (DType dtype : kAll) {
    for (const Case& c : cases) {
      for (bool largest : {false, true}) check(Op::topk, sample(dtype, c.shape), c, largest);
    }
  }
}

TEST(Sort, WideRange) {
  for (DType dtype : kFloats) {
    const Array x = Array::random(dtype, {2000}, 7);
    check(Op::sort, x, {{2000}, 0, 2000}, false);
    check(Op::topk, x, {{2000}, 0, 10}, true);
  }
  for (DType dtype : {DType::i32, DType::i64}) {
    const double limit = dtype == DType::i32 ? 2147483648.0 : 9007199254740992.0;
    const Array x =
        Array::of(dtype, {1500}, [&](int64_t i) { return std::floor(std::sin(i * 1.7) * (limit - 1)); });
    check(Op::sort, x, {{1500}, 0, 1500}, false);
    check(Op::sort, x, {{1500}, 0, 1500}, true);
  }
}

TEST(Sort, ZerosAreEqualAndNaNIsLargest) {
  const double inf = HUGE_VAL, nan = std::nan("");
  for (DType dtype : kFloats) {
    const Array x = Array::list(dtype, {9}, {0.0, -0.0, nan, -inf, inf, -nan, 0.0, 1, -1});
    for (bool descending : {false, true}) {
      check(Op::sort, x, {{9}, 0, 9}, descending);
      check(Op::topk, x, {{9}, 0, 4}, descending);
    }
  }
}

}  // namespace
}  // namespace lazuli::test
