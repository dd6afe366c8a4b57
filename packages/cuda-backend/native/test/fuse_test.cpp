#include "build.h"

namespace lazuli::test {
namespace {

/// The labels' first words of the fused lowering.
std::vector<std::string> steps(const Program& program, bool fuse = true) {
  std::vector<std::string> words;
  for (const Step& step : lower(program, fuse).steps)
    words.push_back(step.made.label.substr(0, step.made.label.find(' ')));
  return words;
}
using Words = std::vector<std::string>;

Array values(Dims shape, uint32_t seed) { return Array::random(DType::f32, std::move(shape), seed); }

TEST(Fuse, ChainIsOneKernel) {
  ProgramBuilder b;
  const ValueId x = b.input(DType::f32, {40, 30}), y = b.input(DType::f32, {30});
  b.output(b.elementwise(
      Op::add, {b.elementwise(Op::mul, {b.elementwise(Op::silu, {x}), y}), b.full(2, DType::f32, {})}));
  EXPECT_EQ(steps(b.program), Words{"fused"});
  EXPECT_EQ(steps(b.program, false).size(), 4u);
  expectReference(b.program, {values({40, 30}, 1), values({30}, 2)});
}

TEST(Fuse, SiblingsAndReductionsShareAPass) {
  // The gradients of silu(a) * b, and the sum of one of them over the rows.
  ProgramBuilder b;
  const Dims shape = {64, 48};
  const ValueId a = b.input(DType::f32, shape), c = b.input(DType::f32, shape),
                g = b.input(DType::f32, shape);
  const ValueId da = b.elementwise(Op::silu_grad, {a, b.elementwise(Op::mul, {g, c})});
  const ValueId dc = b.elementwise(Op::mul, {b.elementwise(Op::silu, {a}), g});
  b.output(da);
  b.output(dc);
  b.output(b.reduce(Op::sum, da, {0}));
  EXPECT_EQ(steps(b.program), Words{"fused"});
  expectReference(b.program, {values(shape, 1), values(shape, 2), values(shape, 3)});
}

TEST(Fuse, ReshapesAreNoBoundary) {
  ProgramBuilder b;
  const ValueId x = b.input(DType::f32, {4, 6, 10});
  const ValueId y = b.elementwise(Op::exp, {b.reshape(b.elementwise(Op::neg, {x}), {24, 10})});
  b.output(b.reduce(Op::sum, b.reshape(y, {4, 3, 2, 10}), {2}));
  EXPECT_EQ(steps(b.program), Words{"fused"});
  expectReference(b.program, {values({4, 6, 10}, 1)});
}

TEST(Fuse, OneReaderThroughATransposeIsFused) {
  ProgramBuilder b;
  const ValueId x = b.input(DType::f32, {30, 40}), y = b.input(DType::f32, {40, 30});
  b.output(b.elementwise(Op::add,
                         {b.transpose(b.elementwise(Op::exp, {b.elementwise(Op::neg, {x})}), {1, 0}), y}));
  EXPECT_EQ(steps(b.program), Words{"fused"});
  expectReference(b.program, {values({30, 40}, 1), values({40, 30}, 2)});
}

TEST(Fuse, WhatAReductionFeedsWaitsForIt) {
  // x - mean(x): the sum must be complete first.
  ProgramBuilder b;
  const ValueId x = b.input(DType::f32, {20, 50});
  const ValueId mean =
      b.elementwise(Op::mul, {b.reduce(Op::sum, x, {1}, true), b.full(0.02, DType::f32, {})});
  const ValueId centred = b.elementwise(Op::sub, {x, mean});
  b.output(b.reduce(Op::sum, b.elementwise(Op::square, {centred}), {1}));
  b.output(centred);
  expectReference(b.program, {values({20, 50}, 1)});
}

TEST(Fuse, NoCycleThroughAnotherKernel) {
  // y = exp(x) is read by a matmul whose result meets y again: joining all three elementwise ops would be a
  // cycle.
  ProgramBuilder b;
  const ValueId x = b.input(DType::f32, {16, 16}), w = b.input(DType::f32, {16, 16});
  const ValueId y = b.elementwise(Op::exp, {x});
  const ValueId z = b.matmul(y, w);
  b.output(b.elementwise(Op::mul, {b.elementwise(Op::tanh, {z}), y}));
  EXPECT_EQ(steps(b.program), (Words{"fused", "matmul", "fused"}));
  expectReference(b.program, {values({16, 16}, 1), values({16, 16}, 2)}, 1e-4);
}

TEST(Fuse, MatmulTakesBiasActivationAndResidual) {
  ProgramBuilder b;
  const ValueId x = b.input(DType::f32, {24, 16}), w = b.input(DType::f32, {16, 32}),
                bias = b.input(DType::f32, {32}), r = b.input(DType::f32, {4, 6, 32});
  const ValueId h = b.reshape(b.elementwise(Op::add, {b.matmul(x, w), bias}), {4, 6, 32});
  b.output(b.elementwise(Op::add, {b.elementwise(Op::gelu, {h}, {int64_t{1}}), r}));
  EXPECT_EQ(steps(b.program), Words{"matmul"});
  expectReference(b.program,
                  {values({24, 16}, 1), values({16, 32}, 2), values({32}, 3), values({4, 6, 32}, 4)}, 1e-4);
}

TEST(Fuse, ProductsAccumulate) {
  ProgramBuilder b;
  std::vector<ValueId> inputs;
  std::vector<Array> arrays;
  for (uint32_t i = 0; i < 6; i++) {
    inputs.push_back(b.input(DType::f32, {12, 12}));
    arrays.push_back(values({12, 12}, i));
  }
  ValueId sum = b.matmul(inputs[0], inputs[1]);
  sum = b.elementwise(Op::add, {sum, b.matmul(inputs[2], inputs[3])});
  sum = b.elementwise(Op::add, {sum, b.matmul(inputs[4], inputs[5])});
  b.output(sum);
  EXPECT_EQ(steps(b.program), (Words{"matmul", "matmul", "matmul"}));
  expectReference(b.program, arrays, 1e-4);
}

TEST(Fuse, PreActivationsThatAreReadStay) {
  ProgramBuilder b;
  const ValueId x = b.input(DType::f32, {24, 16}), w = b.input(DType::f32, {16, 32});
  const ValueId h = b.matmul(x, w);
  b.output(b.elementwise(Op::relu, {h}));
  b.output(b.elementwise(Op::gt, {h, b.full(0, DType::f32, {})}));
  EXPECT_EQ(steps(b.program), (Words{"matmul", "fused"}));
  expectReference(b.program, {values({24, 16}, 1), values({16, 32}, 2)}, 1e-4);
}

TEST(Fuse, ActivationsAreMadeAgainNotKept) {
  ProgramBuilder b;
  const ValueId x = b.input(DType::f32, {6, 8}), w = b.input(DType::f32, {8, 8}),
                up = b.input(DType::f32, {6, 8});
  const ValueId gate = b.matmul(x, w), a = b.elementwise(Op::silu, {gate});
  const ValueId y = b.matmul(b.elementwise(Op::mul, {a, up}), w);
  b.output(b.elementwise(Op::mul, {y, a}));
  b.output(b.elementwise(Op::silu_grad, {gate, y}));
  const Lowered lowered = lower(b.program, true);
  EXPECT_EQ(steps(b.program), (Words{"matmul", "fused", "matmul", "fused"}));
  EXPECT_EQ(lowered.steps[1].writes.size(), 1u);
  EXPECT_EQ(lowered.steps[0].made.kernel, lowered.steps[2].made.kernel);  // the same product of other values
  expectReference(b.program, {values({6, 8}, 1), values({8, 8}, 2), values({6, 8}, 3)});
}

TEST(Fuse, ConcatWritesItsPiecesInPlace) {
  ProgramBuilder b;
  const ValueId x = b.input(DType::f32, {5, 8}), y = b.input(DType::f32, {3, 5});
  b.output(
      b.concat({b.elementwise(Op::exp, {x}), b.transpose(y, {1, 0}), b.slice(x, {0, 1}, {5, 6}, {1, 2})}, 1));
  EXPECT_EQ(steps(b.program), Words{"concat"});
  expectReference(b.program, {values({5, 8}, 1), values({3, 5}, 2)});
}

TEST(Fuse, PadsAddUpInOneKernel) {
  // The gradient of three slices of one value.
  ProgramBuilder b;
  std::vector<ValueId> g;
  for (int i = 0; i < 3; i++) g.push_back(b.input(DType::f32, {6, 4}));
  ValueId sum = b.pad(g[0], {0, 0}, {0, 8}, {0, 0}, 0);
  sum = b.elementwise(Op::add, {sum, b.pad(g[1], {0, 4}, {0, 4}, {0, 0}, 0)});
  sum = b.elementwise(Op::add, {sum, b.pad(g[2], {0, 8}, {0, 0}, {0, 0}, 0)});
  b.output(sum);
  EXPECT_EQ(steps(b.program), Words{"fused"});
  expectReference(b.program, {values({6, 4}, 1), values({6, 4}, 2), values({6, 4}, 3)});
}

TEST(Fuse, OutputsThatAreInputsOrViews) {
  ProgramBuilder b;
  const ValueId x = b.input(DType::f32, {5, 8});
  b.output(x);
  b.output(b.reshape(x, {40}));
  b.output(b.transpose(x, {1, 0}));
  b.output(b.constant(Array::list(DType::bf16, {3}, {1, 2, 3})));
  b.output(b.constant(Array::list(DType::f16, {}, {1.5})));
  const Lowered lowered = lower(b.program, true);
  EXPECT_EQ(lowered.outputs[0], x);
  EXPECT_EQ(lowered.outputs[1], x);
  EXPECT_EQ(lowered.steps.size(), 1u);
  expectReference(b.program, {values({5, 8}, 1)}, 0);
}

TEST(Fuse, ScalarConstantsAreImmediate) {
  ProgramBuilder b;
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    const ValueId x = b.full(3, dtype, {10});
    b.output(b.elementwise(Op::mul, {x, b.constant(Array::list(dtype, {}, {0.25}))}));
  }
  EXPECT_TRUE(lower(b.program, true).constants.empty());
  expectReference(b.program, {}, 0);
}

TEST(Fuse, CastsSeeRoundedHalves) {
  ProgramBuilder b;
  const ValueId x = b.input(DType::bf16, {4});
  b.output(b.cast(b.elementwise(Op::mul, {x, x}), DType::f32));
  EXPECT_EQ(steps(b.program), Words{"fused"});
  expectReference(b.program, {Array::list(DType::bf16, {4}, {1.0078125, 3.140625, -0.33, 129})}, 0);
}

TEST(Fuse, TextNamesStepsAndExpressions) {
  ProgramBuilder b;
  const ValueId x = b.input(DType::f32, {4});
  b.output(b.elementwise(Op::exp, {b.elementwise(Op::neg, {x})}));
  EXPECT_EQ(describe(lower(b.program, true)),
            "fused float32 4: out0 = exp(neg(in0))  (%0 float32[4]) -> (%2 float32[4])\n");
}

TEST(Fuse, SmallParametersAreUpdatedTogether) {
  ProgramBuilder b;
  const TensorType scalar{DType::f32, {}};
  const std::vector<Attr> attrs = {number(0.9), number(0.95), number(1e-8), number(0.1), flag(true)};
  std::vector<Array> inputs;
  const auto input = [&](Dims shape, uint32_t seed) {
    Array array = Array::random(DType::f32, shape, seed);
    array = Array::of(DType::f32, shape, [&](int64_t i) { return std::abs(array.at(i)); });
    inputs.push_back(std::move(array));
    return b.input(DType::f32, std::move(shape), true);
  };
  std::vector<std::vector<ValueId>> params;
  const std::vector<Dims> shapes = {{300}, {40, 50}, {40, 500}, {}, {600, 500}, {70}, {30}};
  for (const Dims& shape : shapes)
    params.push_back({input(shape, 1), input(shape, 2), input(shape, 3), input(shape, 4)});
  const ValueId lr = input({}, 5), step = input({}, 6), other = input({}, 7);
  for (size_t i = 0; i < params.size(); i++) {
    std::vector<ValueId> operands = params[i];
    operands.insert(operands.end(), {i + 1 < params.size() ? lr : other, step});
    const TensorType type = b.type(operands[0]);
    for (ValueId result : b.nodes(Op::adamw_update, operands, {type, type, type}, attrs)) b.output(result);
  }
  const Lowered lowered = lower(b.program, true);
  std::vector<size_t>
      sizes;  // parameters by step: the large one, and that of another learning rate, are alone
  for (const Step& each : lowered.steps) sizes.push_back(each.writes.size() / 3);
  EXPECT_EQ(sizes, (std::vector<size_t>{4, 1, 1, 1}));
  const auto together = runLowered(lowered, inputs, true);
  for (size_t i = 0; i < params.size(); i++) {
    ProgramBuilder one;
    std::vector<Array> own;
    for (ValueId value : params[i]) own.push_back(inputs[value]);
    own.push_back(inputs[i + 1 < params.size() ? lr : other]);
    own.push_back(inputs[step]);
    std::vector<ValueId> operands;
    for (const Array& array : own) operands.push_back(one.input(array.type.dtype, array.type.shape));
    const TensorType type = own[0].type;
    for (ValueId result : one.nodes(Op::adamw_update, operands, {type, type, type}, attrs))
      one.output(result);
    const auto alone = runLowered(lower(one.program, true), own, false);
    for (size_t k = 0; k < 3; k++)
      for (int64_t e = 0; e < type.elements(); e++) ASSERT_EQ(together[i * 3 + k].at(e), alone[k].at(e));
  }
}

TEST(Fuse, UnknownOpsAreErrorsThatNameThem) {
  ProgramBuilder b;
  const ValueId x = b.input(DType::f32, {4, 4});
  b.output(b.node(Op::mean, {x}, {DType::f32, {4}}, {Dims{0}, int64_t{0}}));
  try {
    lower(b.program, true);
    FAIL();
  } catch (const ProgramError& error) {
    EXPECT_EQ(error.node, 0);
    EXPECT_NE(std::string(error.what()).find("mean"), std::string::npos);
  }
}

}  // namespace
}  // namespace lazuli::test
