#include "kernel_harness.h"

namespace lazuli::test {
namespace {

const Dims kShapes[] = {{1, 1},    {3, 5},  {7, 16},  {2, 3, 33}, {65, 288}, {2100, 24},
                        {2, 5000}, {3, 31}, {5, 257}, {2, 4099},  {0, 8},    {40}};
constexpr double kEps = 1e-5;

struct Sample {
  Array x, w, b, g;
  int64_t rows, width;

  Sample(DType dtype, DType weight, const Dims& shape)
      : x(Array::random(dtype, shape, 1)),
        w(Array::random(weight, {shape.back()}, 2)),
        b(Array::random(weight, {shape.back()}, 3)),
        g(Array::random(dtype, shape, 4)),
        rows(x.type.elements() / shape.back()),
        width(shape.back()) {}
};

struct Expected {
  std::vector<double> y, dx, dw, db;
};

/// Centred: layer_norm, else rms_norm.
Expected reference(const Sample& s, bool centred) {
  const auto x = s.x.values(), w = s.w.values(), b = s.b.values(), g = s.g.values();
  const int64_t D = s.width;
  Expected e{std::vector<double>(x.size()), std::vector<double>(x.size()), std::vector<double>(D),
             std::vector<double>(D)};
  for (int64_t row = 0; row < s.rows; ++row) {
    const int64_t first = row * D;
    double mean = 0, squares = 0, dot = 0, sum = 0;
    for (int64_t i = 0; i < D && centred; ++i) mean += x[first + i] / D;
    for (int64_t i = 0; i < D; ++i) squares += std::pow(x[first + i] - mean, 2) / D;
    const double r = 1 / std::sqrt(squares + kEps);
    for (int64_t i = 0; i < D; ++i) {
      const double h = (x[first + i] - mean) * r;
      e.y[first + i] = h * w[i] + (centred ? b[i] : 0);
      e.dw[i] += g[first + i] * h;
      e.db[i] += g[first + i];
      dot += g[first + i] * w[i] * h / D;
      sum += centred ? g[first + i] * w[i] / D : 0;
    }
    for (int64_t i = 0; i < D; ++i) {
      e.dx[first + i] = r * (g[first + i] * w[i] - sum - (x[first + i] - mean) * r * dot);
    }
  }
  return e;
}

template <class Body>
void forSamples(Body body) {
  for (DType dtype : kFloats) {
    for (DType weight : {dtype, DType::f32}) {
      for (const Dims& shape : kShapes) body(Sample(dtype, weight, shape));
    }
  }
}

// What a row of one element divides by nearly 0 keeps few digits of.
double scaleOf(const Sample& s) { return s.width < 3 ? 300 : 4; }

TEST(Norm, Rms) {
  forSamples([](const Sample& s) {
    const Expected e = reference(s, false);
    expectClose(runKernel(Op::rms_norm, {number(kEps)}, {s.x, s.w}, {s.x.type})[0], e.y);
    const auto grads = runKernel(Op::rms_norm_grad, {number(kEps)}, {s.x, s.w, s.g}, {s.x.type, s.w.type});
    expectClose(grads[0], e.dx, scaleOf(s));
    expectClose(grads[1], e.dw, std::sqrt(s.rows + 1.0));
  });
}

TEST(Norm, Layer) {
  forSamples([](const Sample& s) {
    const Expected e = reference(s, true);
    expectClose(runKernel(Op::layer_norm, {number(kEps)}, {s.x, s.w, s.b}, {s.x.type})[0], e.y, scaleOf(s));
    const auto grads =
        runKernel(Op::layer_norm_grad, {number(kEps)}, {s.x, s.w, s.g}, {s.x.type, s.w.type, s.b.type});
    expectClose(grads[0], e.dx, scaleOf(s));
    expectClose(grads[1], e.dw, std::sqrt(s.rows + 1.0) * scaleOf(s));
    expectClose(grads[2], e.db, std::sqrt(s.rows + 1.0));
  });
}

TEST(Norm, GradientsAddAResidual) {
  const auto check = [](const Sample& s) {
    const Array residual = Array::random(s.x.type.dtype, s.x.type.shape, 5);
    for (Op op : {Op::rms_norm_grad, Op::layer_norm_grad}) {
      std::vector<TensorType> results = {s.x.type, s.w.type};
      if (op == Op::layer_norm_grad) results.push_back(s.b.type);
      const auto plain = runKernel(op, {number(kEps)}, {s.x, s.w, s.g}, results);
      const auto summed = runKernel(op, {number(kEps)}, {s.x, s.w, s.g, residual}, results);
      // A sum in float64 rounds to what one in the dtype itself gives.
      const Array sum = Array::of(s.x.type.dtype, s.x.type.shape,
                                  [&](int64_t i) { return plain[0].at(i) + residual.at(i); });
      EXPECT_TRUE(summed[0].bytes == sum.bytes)
          << name(op) << " " << name(s.x.type.dtype) << format(s.x.type.shape);
      for (size_t i = 1; i < results.size(); ++i) EXPECT_TRUE(summed[i].bytes == plain[i].bytes) << name(op);
    }
  };
  for (DType dtype : kFloats)
    for (const Dims& shape :
         {Dims{3, 5}, {7, 16}, {2, 3, 33}, {65, 48}, {150, 24}, {5, 257}, {2, 2048}, {2, 9001}, {0, 8}, {40}})
      check(Sample(dtype, shape.size() == 3 ? DType::f32 : dtype, shape));
}

TEST(Norm, LayerKeepsDigitsFarFromZero) {
  const Array x = Array::of(DType::f32, {4, 64}, [](int64_t i) { return 10000 + i % 7; });
  const Array w = Array::of(DType::f32, {64}, [](int64_t) { return 1; });
  const Array b = Array::of(DType::f32, {64}, [](int64_t) { return 0; });
  Sample s(DType::f32, DType::f32, {4, 64});
  s.x = x;
  s.w = w;
  s.b = b;
  expectClose(runKernel(Op::layer_norm, {number(kEps)}, {x, w, b}, {x.type})[0], reference(s, true).y, 100);
}

}  // namespace
}  // namespace lazuli::test
