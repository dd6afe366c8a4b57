#include "kernel_harness.h"

namespace lazuli::test {
namespace {

const Dims kShapes[] = {{1, 1},     {3, 5},  {7, 16},  {2, 3, 33}, {130, 100}, {5, 1000},
                        {2, 32003}, {3, 31}, {5, 257}, {2, 4099},  {0, 8},     {9}};

struct Row {
  std::vector<double> exps;
  double top, sum;
};
Row rowOf(const std::vector<double>& x, int64_t first, int64_t width) {
  Row row{{}, -HUGE_VAL, 0};
  for (int64_t i = 0; i < width; ++i) row.top = std::max(row.top, x[first + i]);
  for (int64_t i = 0; i < width; ++i) row.exps.push_back(std::exp(x[first + i] - row.top));
  for (double e : row.exps) row.sum += e;
  return row;
}

TEST(Softmax, Forward) {
  for (DType dtype : kFloats) {
    for (const Dims& shape : kShapes) {
      const Array x = Array::random(dtype, shape, 1);
      const std::vector<double> values = x.values();
      std::vector<double> y(values.size()), logs(values.size());
      const int64_t width = shape.back();
      for (size_t first = 0; first < values.size(); first += width) {
        const Row row = rowOf(values, first, width);
        for (int64_t i = 0; i < width; ++i) {
          y[first + i] = row.exps[i] / row.sum;
          logs[first + i] = values[first + i] - row.top - std::log(row.sum);
        }
      }
      expectClose(runKernel(Op::softmax, {}, {x}, {x.type})[0], y, 0.01);
      expectClose(runKernel(Op::log_softmax, {}, {x}, {x.type})[0], logs);
    }
  }
}

TEST(Softmax, Gradient) {
  for (DType dtype : kFloats) {
    for (const Dims& shape : kShapes) {
      const Array y = Array::of(dtype, shape, [](int64_t i) { return (i * 37 % 101 + 1) / 404.0; });
      const Array logs = Array::of(dtype, shape, [](int64_t i) { return -(i * 37 % 101) / 50.0; });
      const Array g = Array::random(dtype, shape, 2);
      const auto yv = y.values(), lv = logs.values(), gv = g.values();
      std::vector<double> dx(yv.size()), dlog(yv.size());
      const int64_t width = shape.back();
      double largest = 1;
      for (size_t first = 0; first < yv.size(); first += width) {
        double dot = 0, sum = 0;
        for (int64_t i = 0; i < width; ++i) {
          dot += yv[first + i] * gv[first + i];
          sum += gv[first + i];
        }
        largest = std::max({largest, std::fabs(dot), std::fabs(sum)});
        for (int64_t i = 0; i < width; ++i) {
          dx[first + i] = yv[first + i] * (gv[first + i] - dot);
          dlog[first + i] = gv[first + i] - std::exp(lv[first + i]) * sum;
        }
      }
      expectClose(runKernel(Op::softmax_grad, {}, {y, g}, {y.type})[0], dx, largest);
      expectClose(runKernel(Op::log_softmax_grad, {}, {logs, g}, {y.type})[0], dlog, largest);
    }
  }
}

TEST(Softmax, LargeValuesAndInfinities) {
  const double inf = HUGE_VAL, nan = std::nan("");
  const Array x = Array::list(
      DType::f32, {5, 3}, {1000, 1000, -1000, -inf, 0, -inf, -inf, -inf, -inf, 1, nan, 2, 3e38, -3e38, 0});
  expectClose(runKernel(Op::softmax, {}, {x}, {x.type})[0],
              {.5, .5, 0, 0, 1, 0, nan, nan, nan, nan, nan, nan, 1, 0, 0});
  expectClose(runKernel(Op::log_softmax, {}, {x}, {x.type})[0],
              {-std::log(2), -std::log(2), -2000 - std::log(2), -inf, 0, -inf, nan, nan, nan, nan, nan, nan,
               0, -inf, -3e38});
}

}  // namespace
}  // namespace lazuli::test
