#include "device_harness.h"
#include "kernel_harness.h"

namespace lazuli::test {
namespace {

struct Expectation {
  Array x, cos, sin;
  std::vector<double> y;

  Expectation(DType dtype, DType tables, const Dims& shape, bool interleaved, bool inverse)
      : x(Array::random(dtype, shape, 1)), cos(tables, {}), sin(tables, {}), y(x.type.elements()) {
    const int64_t K = shape.back(), T = shape[shape.size() - 2], half = K / 2;
    cos = Array::of(tables, {T, half}, [](int64_t i) { return std::cos(0.1 * i); });
    sin = Array::of(tables, {T, half}, [](int64_t i) { return std::sin(0.1 * i); });
    const auto v = x.values();
    for (int64_t row = 0; K > 0 && row < x.type.elements() / K; ++row) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t a = row * K + (interleaved ? 2 * i : i),
                      b = row * K + (interleaved ? 2 * i + 1 : i + half);
        const double c = cos.at(row % T * half + i), s = (inverse ? -1 : 1) * sin.at(row % T * half + i);
        y[a] = v[a] * c - v[b] * s;
        y[b] = v[b] * c + v[a] * s;
      }
    }
  }
};

TEST(Rope, TurnsPairs) {
  const Dims shapes[] = {{1, 2}, {5, 6}, {2, 3, 7, 48}, {3, 100, 64}, {2, 0, 4}, {1, 300, 128}, {4, 5, 0}};
  for (DType dtype : kFloats) {
    for (DType tables : {dtype, DType::f32}) {
      for (const Dims& shape : shapes) {
        for (int variant = 0; variant < 4; ++variant) {
          const bool interleaved = variant & 1, inverse = variant & 2;
          if (shape.back() == 0) continue;
          const Expectation e(dtype, tables, shape, interleaved, inverse);
          expectClose(
              runKernel(Op::rope, {flag(interleaved), flag(inverse)}, {e.x, e.cos, e.sin}, {e.x.type})[0],
              e.y);
        }
      }
    }
  }
}

TEST(Rope, ReadsTransposedHeads) {
  // x [B, H, T, K] is a view of [B, T, H, K].
  const int64_t B = 2, H = 3, T = 50, K = 8;
  const Expectation e(DType::f32, DType::f32, {B, H, T, K}, false, false);
  std::vector<float> stored(B * H * T * K);
  for (int64_t i = 0; i < B * H * T * K; ++i) {
    const int64_t k = i % K, t = i / K % T, h = i / K / T % H, b = i / K / T / H;
    stored[((b * T + t) * H + h) * K + k] = static_cast<float>(e.x.at(i));
  }
  const Node node{Op::rope, {}, {}, {flag(false), flag(false)}};
  const Layout x{DType::f32, {B, H, T, K}, {T * H * K, K, H * K, 1}, 0};
  const auto [entry, cuda] = entryOf(Op::rope);
  ASSERT_TRUE(entry.accepts(node, 0, x));
  const MadeKernel made =
      entry.make({node, {x, Layout::dense(e.cos.type), Layout::dense(e.sin.type)}, {e.x.type}});
  Array out(DType::f32, {B, H, T, K});
  runMade(cuda, made, {std::as_bytes(std::span(stored)), e.cos.bytes, e.sin.bytes}, {out.bytes});
  expectClose(out, e.y);
  EXPECT_FALSE(entry.accepts(node, 0, {DType::f32, {B, H, T, K}, {T * H * K, K * T, 1, T}, 0}));
}

}  // namespace
}  // namespace lazuli::test
