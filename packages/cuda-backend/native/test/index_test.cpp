#include "device_harness.h"
#include "kernel_harness.h"

namespace lazuli::test {
namespace {

constexpr DType kAll[] = {DType::f32, DType::f64, DType::bf16, DType::f16,
                          DType::i32, DType::i64, DType::u8,   DType::boolean};
bool isNumeric(DType dtype) { return dtype != DType::boolean; }

Array sample(DType dtype, const Dims& shape, uint32_t seed) {
  if (isFloat(dtype)) return Array::random(dtype, shape, seed);
  return Array::indices(dtype, shape, dtype == DType::boolean ? 2 : dtype == DType::u8 ? 20 : 100000, seed);
}

/// Row-major coordinates of element i.
Dims coordinates(const Dims& shape, int64_t i) {
  Dims at(shape.size());
  for (size_t dim = shape.size(); dim-- > 0; i /= shape[dim]) at[dim] = i % shape[dim];
  return at;
}
int64_t position(const Dims& shape, const Dims& at) {
  int64_t i = 0;
  for (size_t dim = 0; dim < shape.size(); ++dim) i = i * shape[dim] + at[dim];
  return i;
}

struct Case {
  Dims x, index;
  int64_t dim;
};

// uint8 sums may wrap.
double wrapped(DType dtype, double value) { return dtype == DType::u8 ? std::fmod(value, 256) : value; }
double toleranceScale(DType dtype) { return isFloat(dtype) ? 8 : 0; }

TEST(Index, SelectAndAdd) {
  const Case cases[] = {{{5, 3}, {7}, 0},       {{100, 64}, {2, 33}, 0}, {{4, 9, 5}, {3}, 1},
                        {{6, 8}, {4, 2}, 1},    {{3000, 17}, {400}, 0},  {{10}, {}, 0},
                        {{4, 3}, {0}, 0},       {{0, 3}, {0}, 0},        {{5, 0}, {3}, 0},
                        {{3, 2, 700}, {50}, 1}, {{1, 5}, {900}, 0},      {{7, 40000}, {20}, 1},
                        {{300, 3}, {5000}, 0}};
  for (DType dtype : kAll) {
    for (DType indexType : {DType::i32, DType::i64}) {
      for (const Case& c : cases) {
        const int64_t size = c.x[c.dim];
        const Array x = sample(dtype, c.x, 1),
                    index = Array::indices(indexType, c.index, std::max<int64_t>(size, 1), 2);
        const int64_t n = index.type.elements();
        const int64_t inner = elements(Dims(c.x.begin() + c.dim + 1, c.x.end()));
        Dims shape(c.x.begin(), c.x.begin() + c.dim);
        shape.insert(shape.end(), c.index.begin(), c.index.end());
        shape.insert(shape.end(), c.x.begin() + c.dim + 1, c.x.end());
        const Array updates = sample(dtype, shape, 3);
        std::vector<double> selected, added = x.values();
        for (int64_t i = 0; i < updates.type.elements(); ++i) {
          const int64_t outer = i / inner / n, row = static_cast<int64_t>(index.at(i / inner % n));
          const int64_t from = (outer * size + row) * inner + i % inner;
          selected.push_back(x.at(from));
          added[from] = wrapped(dtype, added[from] + updates.at(i));
        }
        const auto out = runKernel(Op::index_select, {integer(c.dim)}, {x, index}, {updates.type});
        EXPECT_EQ(out[0].values(), selected);
        if (!isNumeric(dtype)) continue;
        const auto sums = runKernel(Op::index_add, {integer(c.dim)}, {x, index, updates}, {x.type});
        expectClose(sums[0], added, toleranceScale(dtype));
      }
    }
  }
}

TEST(Index, GatherAndScatter) {
  const Case cases[] = {{{5, 3}, {2, 3}, 0},
                        {{5, 3}, {5, 4}, 1},
                        {{40, 1000}, {40, 1}, 1},
                        {{10}, {33}, 0},
                        {{4, 5, 6}, {3, 9, 5}, 1},
                        {{4, 5, 6}, {2, 5, 6}, 0},
                        {{4, 5, 6}, {4, 5, 2}, 2},
                        {{3, 4}, {0, 4}, 0},
                        {{3, 4}, {3, 0}, 1},
                        {{300, 7}, {500, 7}, 0},
                        {{2, 30, 400}, {2, 20, 400}, 1}};
  for (DType dtype : kAll) {
    for (DType indexType : {DType::i32, DType::i64}) {
      for (const Case& c : cases) {
        const Array x = sample(dtype, c.x, 1), index = Array::indices(indexType, c.index, c.x[c.dim], 2);
        const Array updates = sample(dtype, c.index, 3);
        std::vector<double> gathered, scattered = x.values();
        for (int64_t i = 0; i < index.type.elements(); ++i) {
          Dims at = coordinates(c.index, i);
          at[c.dim] = static_cast<int64_t>(index.at(i));
          const int64_t from = position(c.x, at);
          gathered.push_back(x.at(from));
          scattered[from] = wrapped(dtype, scattered[from] + updates.at(i));
        }
        const auto out = runKernel(Op::gather, {integer(c.dim)}, {x, index}, {updates.type});
        EXPECT_EQ(out[0].values(), gathered);
        if (!isNumeric(dtype)) continue;
        const auto sums = runKernel(Op::scatter_add, {integer(c.dim)}, {x, index, updates}, {x.type});
        expectClose(sums[0], scattered, toleranceScale(dtype));
      }
    }
  }
}

TEST(Index, HalfSumsRoundOnce) {
  // 256 + 1 is 256 in bfloat16: a thousand ones would be lost one by one.
  for (const auto& [op, shape] :
       {std::pair{Op::index_add, Dims{1000, 1}}, std::pair{Op::scatter_add, Dims{1000, 1}}}) {
    const Array base = Array::list(DType::bf16, {2, 1}, {256, 0});
    const Array updates = Array::of(DType::bf16, shape, [](int64_t) { return 1; });
    const Array index(DType::i32, op == Op::index_add ? Dims{1000} : shape);
    expectClose(runKernel(op, {integer(0)}, {base, index, updates}, {base.type})[0], {1256, 0}, 0);
  }
}

TEST(Index, AddsToOneValueEverywhere) {
  for (double value : {0.0, 2.5}) {
    const Array stored = Array::list(DType::f32, {1}, {value});
    const Array index = Array::list(DType::i64, {3}, {4, 0, 4});
    const Array updates = Array::list(DType::f32, {3, 2}, {1, 2, 3, 4, 5, 6});
    const Node node{Op::index_add, {}, {}, {integer(0)}};
    const Layout base{DType::f32, {5, 2}, {0, 0}, 0};
    const auto [entry, cuda] = entryOf(Op::index_add);
    ASSERT_TRUE(entry.accepts(node, 0, base));
    Array out(DType::f32, {5, 2});
    const MadeKernel made =
        entry.make({node, {base, Layout::dense(index.type), Layout::dense(updates.type)}, {out.type}});
    runMade(cuda, made, {stored.bytes, index.bytes, updates.bytes}, {out.bytes});
    std::vector<double> expected = {3, 4, 0, 0, 0, 0, 0, 0, 6, 8};
    for (double& e : expected) e += value;
    expectClose(out, expected);
  }
}

TEST(Index, OutOfRange) {
  const Array x = Array::random(DType::f32, {10, 4}, 1);
  const Array bad = Array::list(DType::i64, {3}, {1, 70000, -1});
  const Array rows = Array::random(DType::f32, {3, 4}, 2);
  EXPECT_EQ(failure(Op::index_select, {integer(0)}, {x, bad}, {rows.type}),
            "index_select: index 70000 at position 1 is out of range for dim 0 of size 10");
  EXPECT_EQ(failure(Op::index_add, {integer(0)}, {x, bad, rows}, {x.type}),
            "index_add: index 70000 at position 1 is out of range for dim 0 of size 10");
  const Array negative = Array::list(DType::i32, {1, 4}, {0, 3, -1, 4});
  const Array row = Array::random(DType::f32, {1, 4}, 3);
  EXPECT_EQ(failure(Op::gather, {integer(1)}, {x, negative}, {row.type}),
            "gather: index -1 at position 2 is out of range for dim 1 of size 4");
  EXPECT_EQ(failure(Op::scatter_add, {integer(1)}, {x, negative, row}, {x.type}),
            "scatter_add: index -1 at position 2 is out of range for dim 1 of size 4");
}

}  // namespace
}  // namespace lazuli::test
