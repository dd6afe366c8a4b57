#include "kernel_harness.h"

namespace lazuli::test {
namespace {

const Dims kShapes[] = {{1, 1}, {3, 5}, {33, 16}, {9, 2049}, {4, 32003}, {0, 8}, {200, 10}};
constexpr int64_t kIgnored = -100;

Array targetsFor(const Dims& shape, DType dtype) {
  return Array::of(dtype, {shape[0]},
                   [&](int64_t i) { return i % 4 == 3 ? kIgnored : (i * 7919 + 3) % shape[1]; });
}

TEST(CrossEntropy, LossAndGradient) {
  for (DType dtype : kFloats) {
    for (const Dims& shape : kShapes) {
      for (double smoothing : {0.0, 0.1, 1.0}) {
        const int64_t N = shape[0], V = shape[1];
        const Array logits = Array::random(dtype, shape, 1);
        const Array target = targetsFor(shape, N % 2 ? DType::i64 : DType::i32);
        const Array g = Array::random(DType::f32, {N}, 2);
        const auto x = logits.values();
        std::vector<double> loss(N), lse(N), dx(x.size());
        for (int64_t n = 0; n < N; ++n) {
          double sum = 0, total = 0;
          for (int64_t v = 0; v < V; ++v) sum += std::exp(x[n * V + v]);
          for (int64_t v = 0; v < V; ++v) total += x[n * V + v];
          lse[n] = std::log(sum);
          const int64_t t = static_cast<int64_t>(target.at(n));
          if (t == kIgnored) continue;
          loss[n] = (1 - smoothing) * (lse[n] - x[n * V + t]) + smoothing * (lse[n] - total / V);
          for (int64_t v = 0; v < V; ++v) {
            const double q = (v == t) * (1 - smoothing) + smoothing / V;
            dx[n * V + v] = g.at(n) * (std::exp(x[n * V + v] - lse[n]) - q);
          }
        }
        const std::vector<Attr> attrs = {integer(kIgnored), number(smoothing)};
        const TensorType row{DType::f32, {N}};
        const auto out = runKernel(Op::cross_entropy, attrs, {logits, target}, {row, row});
        expectClose(out[0], loss);
        expectClose(out[1], lse);
        const auto grad =
            runKernel(Op::cross_entropy_grad, attrs, {logits, target, out[1], g}, {logits.type});
        // lse is float32 for float64 logits too.
        expectClose(grad[0], dx, dtype == DType::f64 ? 4e6 : 0.2);
      }
    }
  }
}

TEST(CrossEntropy, MaskedClasses) {
  // A whole block of -inf before the first finite logit, and rising maxima after it.
  const int64_t V = 9000;
  const Array logits = Array::of(
      DType::f32, {1, V}, [](int64_t i) { return i < 5000 ? -HUGE_VAL : static_cast<double>(i) - 9500; });
  const Array target = Array::list(DType::i32, {1}, {8999});
  const TensorType row{DType::f32, {1}};
  const auto out = runKernel(Op::cross_entropy, {integer(kIgnored), number(0)}, {logits, target}, {row, row});
  const double lse = -501 - std::log(1 - std::exp(-1.0));
  expectClose(out[1], {lse});
  expectClose(out[0], {lse + 501}, 500);
}

TEST(CrossEntropy, MaximaThatRiseAndFall) {
  // Steps of 20 stay within the headroom of the first block's maximum, those of 200 do not.
  for (double step : {20.0, -20.0, 200.0, -200.0}) {
    const int64_t V = 11000;
    const Array logits =
        Array::of(DType::f32, {1, V}, [&](int64_t i) { return step * (i / 2048) + i % 7 * 0.25; });
    const Array target = Array::list(DType::i32, {1}, {77});
    double top = -HUGE_VAL, sum = 0;
    for (double x : logits.values()) top = std::max(top, x);
    for (double x : logits.values()) sum += std::exp(x - top);
    const TensorType row{DType::f32, {1}};
    const auto out =
        runKernel(Op::cross_entropy, {integer(kIgnored), number(0)}, {logits, target}, {row, row});
    expectClose(out[1], {top + std::log(sum)});
    expectClose(out[0], {top + std::log(sum) - logits.at(77)});
  }
}

TEST(CrossEntropy, NotANumberShows) {
  const Array logits = Array::list(DType::f32, {1, 3}, {1, std::nan(""), 2});
  const Array target = Array::list(DType::i32, {1}, {0});
  const TensorType row{DType::f32, {1}};
  const auto out = runKernel(Op::cross_entropy, {integer(kIgnored), number(0)}, {logits, target}, {row, row});
  EXPECT_TRUE(std::isnan(out[0].at(0)));
}

TEST(CrossEntropy, TargetOutOfRange) {
  const Array logits = Array::random(DType::f32, {3, 10}, 1);
  const TensorType row{DType::f32, {3}};
  for (DType dtype : {DType::i32, DType::i64}) {
    EXPECT_EQ(failure(Op::cross_entropy, {integer(kIgnored), number(0)},
                      {logits, Array::list(dtype, {3}, {0, 9, 10})}, {row, row}),
              "cross_entropy: target 10 at position 2 is out of range for dim 1 of size 10");
    EXPECT_EQ(
        failure(Op::cross_entropy_grad, {integer(kIgnored), number(0)},
                {logits, Array::list(dtype, {3}, {0, -1, 9}), Array(DType::f32, {3}), Array(DType::f32, {3})},
                {logits.type}),
        "cross_entropy_grad: target -1 at position 1 is out of range for dim 1 of size 10");
  }
}

}  // namespace
}  // namespace lazuli::test
