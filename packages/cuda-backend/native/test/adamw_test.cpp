#include <list>

#include "device_harness.h"
#include "kernel_harness.h"

namespace lazuli::test {
namespace {

TEST(Adamw, MatchesTheDefinition) {
  const double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1, lr = 1e-2f;  // lr is float32
  for (DType dtype : kFloats) {
    for (DType gradient : {dtype, DType::f32, DType::bf16, DType::f16}) {
      const bool isHalf = gradient == DType::bf16 || gradient == DType::f16;
      if (isHalf && gradient != dtype && dtype != DType::f32) continue;
      for (const Dims& shape : {Dims{1}, Dims{17, 3}, Dims{40000}, Dims{0}, Dims{}}) {
        for (int variant = 0; variant < 4; ++variant) {
          const bool decoupled = variant & 1, scaled = variant & 2;
          const double step = 3, scale = scaled ? 0.25 : 1;
          const Array p = Array::random(dtype, shape, 1), g = Array::random(gradient, shape, 2);
          const Array m = Array::random(DType::f32, shape, 3);
          Array v = Array::random(DType::f32, shape, 4);
          v = Array::of(DType::f32, shape, [&](int64_t i) { return v.at(i) * v.at(i); });
          std::vector<Array> operands = {
              p, g, m, v, Array::list(DType::f32, {}, {lr}), Array::list(DType::f32, {}, {step})};
          if (scaled) operands.push_back(Array::list(DType::f32, {}, {scale}));
          std::vector<double> p1, m1, v1;
          for (int64_t i = 0; i < p.type.elements(); ++i) {
            double weight = p.at(i), grad = g.at(i) * scale;
            if (!decoupled) grad += decay * weight;
            if (decoupled) weight *= 1 - lr * decay;
            m1.push_back(beta1 * m.at(i) + (1 - beta1) * grad);
            v1.push_back(beta2 * v.at(i) + (1 - beta2) * grad * grad);
            const double root = std::sqrt(v1.back()) / std::sqrt(1 - std::pow(beta2, step)) + eps;
            p1.push_back(weight - lr / (1 - std::pow(beta1, step)) * m1.back() / root);
          }
          const auto out = runKernel(
              Op::adamw_update, {number(beta1), number(beta2), number(eps), number(decay), flag(decoupled)},
              operands, {p.type, m.type, v.type});
          expectClose(out[0], p1);
          expectClose(out[1], m1);
          expectClose(out[2], v1);
        }
      }
    }
  }
}

TEST(Adamw, SkipsAStepWhereAsked) {
  const Dims shape{40000};
  for (DType dtype : kFloats) {
    const Array p = Array::random(dtype, shape, 1), g = Array::random(DType::f32, shape, 2);
    const Array m = Array::random(DType::f32, shape, 3), v = Array::random(DType::f32, shape, 4);
    for (double skip : {0.0, 1.0}) {
      const auto out =
          runKernel(Op::adamw_update, {number(0.9), number(0.95), number(1e-8), number(0.1), flag(true)},
                    {p, g, m, v, Array::list(DType::f32, {}, {0.5}), Array::list(DType::f32, {}, {3}),
                     Array::list(DType::f32, {}, {1}), Array::list(DType::boolean, {}, {skip})},
                    {p.type, m.type, m.type});
      const Array* old[] = {&p, &m, &v};
      for (size_t k = 0; k < 3; ++k)
        for (int64_t i = 0; i < p.type.elements(); i += 999)
          EXPECT_EQ(out[k].at(i) == old[k]->at(i), skip == 1);
    }
  }
}

TEST(Adamw, ManyTogetherAreUpdatedAsEachAlone) {
  const TestedEntry tested = entryOf(Op::adamw_update);
  const std::vector<Attr> attrs = {number(0.9), number(0.95), number(1e-8), number(0.1), flag(true)};
  std::list<Node> nodes;
  const Array lr = Array::list(DType::f32, {}, {1e-2}), step = Array::list(DType::f32, {}, {3});
  std::vector<Array> operands, results, alone;
  std::vector<KernelRequest> requests;
  for (uint32_t i = 0; i < 61; ++i) {
    const Dims shape{i == 7 ? 0 : i == 30 ? 9001 : 1 + i * 13};
    std::vector<Array> own;
    for (uint32_t k = 0; k < 4; ++k) own.push_back(Array::random(DType::f32, shape, 4 * i + k));
    own[3] = Array::of(DType::f32, shape, [&](int64_t j) { return std::fabs(own[2].at(j)); });
    own.insert(own.end(), {lr, step});
    const TensorType type{DType::f32, shape};
    const ValueId first = 100 + 4 * i;  // lr and step are everyone's
    nodes.push_back({Op::adamw_update, {first, first + 1, first + 2, first + 3, 1, 2}, {}, attrs});
    KernelRequest request{nodes.back(), {}, {type, type, type}};
    for (const Array& array : own) request.operands.push_back(Layout::dense(array.type));
    for (Array& array : runKernel(Op::adamw_update, attrs, own, request.results)) {
      results.emplace_back(array.type.dtype, array.type.shape);
      alone.push_back(std::move(array));
    }
    requests.push_back(std::move(request));
    operands.insert(operands.end(), own.begin(), own.end());
  }
  for (size_t i = 1; i < requests.size(); ++i)
    EXPECT_TRUE(tested.entry.joins(std::span(requests).first(i), requests[i]));
  const MadeKernel made = tested.entry.makeAll(requests);
  std::vector<std::span<const std::byte>> reads;
  for (const Array& array : operands) reads.push_back(array.bytes);
  std::vector<std::span<std::byte>> writes;
  for (Array& array : results) writes.push_back(array.bytes);
  runMade(tested.cuda, made, reads, writes);
  for (size_t i = 0; i < results.size(); ++i) EXPECT_EQ(results[i].bytes, alone[i].bytes) << i;
}

TEST(Adamw, FirstStepsKeepTheirDigits) {
  // At beta2 = 0.999 the first correction, 1 - 0.999, is 0.001: the step is lr whatever the gradient's size.
  const TensorType type{DType::f32, {1}};
  const auto out = runKernel(Op::adamw_update, {number(0.9), number(0.999), number(0), number(0), flag(true)},
                             {Array::list(DType::f32, {1}, {0}), Array::list(DType::f32, {1}, {3e-4}),
                              Array::list(DType::f32, {1}, {0}), Array::list(DType::f32, {1}, {0}),
                              Array::list(DType::f32, {}, {0.5}), Array::list(DType::f32, {}, {1})},
                             {type, type, type});
  EXPECT_NEAR(out[0].at(0), -0.5, 2e-7);
}

}  // namespace
}  // namespace lazuli::test
