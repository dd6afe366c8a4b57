#include "device_harness.h"
#include "kernel_harness.h"

namespace lazuli::test {
namespace {

constexpr int64_t kIgnored = -100;

struct Loss {
  int64_t rows, features, classes;
  Array x, weight, target, g;
  double smoothing;

  Loss(DType dtype, int64_t rows, int64_t features, int64_t classes, double smoothing)
      : rows(rows),
        features(features),
        classes(classes),
        x(Array::random(dtype, {rows, features}, 1)),
        weight(Array::of(dtype, {classes, features},
                         [&](int64_t i) { return std::sin(static_cast<double>(i * i % 1009)) / 4; })),
        target(Array::of(rows % 2 ? DType::i64 : DType::i32, {rows},
                         [&](int64_t i) { return i % 4 == 3 ? kIgnored : (i * 7919 + 3) % classes; })),
        g(Array::random(DType::f32, {rows}, 2)),
        smoothing(smoothing) {}

  std::vector<double> loss, lse, dx, dweight;
  void compute() {
    const auto X = x.values(), W = weight.values();
    loss.assign(rows, 0), lse.assign(rows, 0);
    dx.assign(X.size(), 0), dweight.assign(W.size(), 0);
    std::vector<double> logits(classes);
    for (int64_t n = 0; n < rows; ++n) {
      double sum = 0, total = 0;
      for (int64_t v = 0; v < classes; ++v) {
        logits[v] = 0;
        for (int64_t k = 0; k < features; ++k) logits[v] += X[n * features + k] * W[v * features + k];
        sum += std::exp(logits[v]), total += logits[v];
      }
      lse[n] = std::log(sum);
      const int64_t t = static_cast<int64_t>(target.at(n));
      if (t == kIgnored) continue;
      loss[n] = (1 - smoothing) * (lse[n] - logits[t]) + smoothing * (lse[n] - total / classes);
      for (int64_t v = 0; v < classes; ++v) {
        const double q = (v == t) * (1 - smoothing) + smoothing / classes;
        const double d = g.at(n) * (std::exp(logits[v] - lse[n]) - q);
        for (int64_t k = 0; k < features; ++k) {
          dx[n * features + k] += d * W[v * features + k];
          dweight[v * features + k] += d * X[n * features + k];
        }
      }
    }
  }
  std::vector<Attr> attrs() const { return {integer(kIgnored), number(smoothing)}; }
};

TEST(LinearCrossEntropy, LossAndGradients) {
  // Whole blocks and chunks, ends of them, and several chunks: 128 rows are the least.
  const Dims sizes[] = {{1, 1, 1},    {3, 5, 33},   {200, 16, 700}, {16, 40, 1100},
                        {300, 3, 17}, {5, 300, 20}, {0, 3, 8}};
  for (DType dtype : kFloats) {
    for (const Dims& size : sizes) {
      for (double smoothing : {0.0, 0.1}) {
        Loss of(dtype, size[0], size[1], size[2], smoothing);
        of.compute();
        const TensorType row{DType::f32, {size[0]}};
        const auto out =
            runKernel(Op::linear_cross_entropy, of.attrs(), {of.x, of.weight, of.target}, {row, row});
        // Logits beside half types are sums of rounded operands, in float32.
        expectClose(out[0], of.loss, 4);
        expectClose(out[1], of.lse, 4);
        for (int needs = 0; needs < 4; ++needs) {
          const bool x = needs & 1, weight = needs & 2;
          std::vector<Attr> attrs = of.attrs();
          attrs.insert(attrs.end(), {flag(x), flag(weight)});
          const TensorType none{dtype, {0}};
          const auto grad =
              runKernel(Op::linear_cross_entropy_grad, attrs, {of.x, of.weight, of.target, of.g},
                        {row, row, x ? of.x.type : none, weight ? of.weight.type : none});
          EXPECT_EQ(grad[0].bytes, out[0].bytes);
          EXPECT_EQ(grad[1].bytes, out[1].bytes);
          const double scale = dtype == DType::f64 ? 1 : 4;
          if (x) expectClose(grad[2], of.dx, scale);
          if (weight) expectClose(grad[3], of.dweight, scale);
        }
      }
    }
  }
}

TEST(LinearCrossEntropy, ChunksOfManyClasses) {
  // Logits of more than a chunk's 24 MB: several chunks of the least number of rows, the last one shorter.
  Loss of(DType::f32, 300, 4, 50257, 0.1);
  of.compute();
  const TensorType row{DType::f32, {300}};
  std::vector<Attr> attrs = of.attrs();
  attrs.insert(attrs.end(), {flag(true), flag(true)});
  const auto out = runKernel(Op::linear_cross_entropy_grad, attrs, {of.x, of.weight, of.target, of.g},
                             {row, row, of.x.type, of.weight.type});
  expectClose(out[0], of.loss);
  expectClose(out[1], of.lse);
  expectClose(out[2], of.dx, 4);
  expectClose(out[3], of.dweight, 4);
}

TEST(LinearCrossEntropy, ChunksOnCuda) {
  if (!onCuda()) GTEST_SKIP() << "more than CUDA's chunk of 256 MB";
  for (DType dtype : {DType::f32, DType::bf16}) {
    Loss of(dtype, 259, 2, 262200, 0);
    of.compute();
    const TensorType row{DType::f32, {259}};
    std::vector<Attr> attrs = of.attrs();
    attrs.insert(attrs.end(), {flag(true), flag(true)});
    const auto out = runKernel(Op::linear_cross_entropy_grad, attrs, {of.x, of.weight, of.target, of.g},
                               {row, row, of.x.type, of.weight.type});
    expectClose(out[0], of.loss, 4);
    expectClose(out[1], of.lse, 4);
    expectClose(out[2], of.dx, 4);
    expectClose(out[3], of.dweight, 4);
  }
}

TEST(LinearCrossEntropy, LargeAndSpecialLogits) {
  const Array x = Array::list(DType::f32, {3, 1}, {1, 1, std::nan("")});
  const Array weight = Array::of(DType::f32, {600, 1}, [](int64_t i) { return i == 550 ? 5000.0 : -5000.0; });
  const Array target = Array::list(DType::i32, {3}, {550, 0, 1});
  const TensorType row{DType::f32, {3}};
  const auto out =
      runKernel(Op::linear_cross_entropy, {integer(kIgnored), number(0)}, {x, weight, target}, {row, row});
  EXPECT_EQ(out[0].at(0), 0);
  EXPECT_EQ(out[0].at(1), 10000);
  EXPECT_EQ(out[1].at(0), 5000);
  EXPECT_TRUE(std::isnan(out[0].at(2)));
}

TEST(LinearCrossEntropy, TargetOutOfRange) {
  const Array x = Array::random(DType::f32, {3, 4}, 1), weight = Array::random(DType::f32, {10, 4}, 2);
  const TensorType row{DType::f32, {3}};
  for (DType dtype : {DType::i32, DType::i64}) {
    EXPECT_EQ(failure(Op::linear_cross_entropy, {integer(kIgnored), number(0)},
                      {x, weight, Array::list(dtype, {3}, {0, 9, 10})}, {row, row}),
              "linear_cross_entropy: target 10 at position 2 is out of range for dim 1 of size 10");
    EXPECT_EQ(failure(Op::linear_cross_entropy_grad, {integer(kIgnored), number(0), flag(true), flag(true)},
                      {x, weight, Array::list(dtype, {3}, {0, -1, 9}), Array(DType::f32, {3})},
                      {row, row, x.type, weight.type}),
              "linear_cross_entropy_grad: target -1 at position 1 is out of range for dim 1 of size 10");
  }
}

}  // namespace
}  // namespace lazuli::test
