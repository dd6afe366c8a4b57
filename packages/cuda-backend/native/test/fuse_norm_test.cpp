#include <algorithm>

#include "build.h"
#include "kernels/fused.h"
#include "kernels/norm_matmul.h"
#include "memory_plan.h"
#include "parallel.h"

namespace lazuli::test {
namespace {

/// The CPU's kernels, with norms made for products of whatever size, or never.
class Makes final : public KernelMaker {
 public:
  explicit Makes(bool norms) : norms_(norms) {}
  const char* device() const override { return cpuKernels().device(); }
  MadeKernel fused(std::vector<FusedSpec> parts) const override {
    return cpuKernels().fused(std::move(parts));
  }
  MadeKernel matmul(const MatmulSpec& spec) const override { return cpuKernels().matmul(spec); }
  bool matmulAccepts(const MatmulSpec& spec, size_t operand) const override {
    return cpuKernels().matmulAccepts(spec, operand);
  }
  const KernelEntry* library(Op op) const override { return cpuKernels().library(op); }
  bool attentionTurns() const override { return true; }
  bool takesNorm(const NormMatmulSizes&) const override { return norms_; }
  MadeKernel normMatmul(const NormMatmulSpec& spec) const override { return cpuKernels().normMatmul(spec); }

 private:
  bool norms_;
};

/// A norm of `rows` and what reads it.
struct Normed {
  Dims rows = {3, 50};
  int64_t width = 40;
  DType dtype = DType::f32, weight = DType::f32;
  bool layer = false;

  ProgramBuilder b;
  std::vector<Array> inputs;
  ValueId x = 0, y = 0;

  ValueId value(DType type, Dims shape) {
    inputs.push_back(Array::random(type, shape, static_cast<uint32_t>(inputs.size() + 1)));
    return b.input(type, std::move(shape));
  }
  ValueId norm(ValueId of, ValueId w, ValueId bias) {
    if (layer) return b.node(Op::layer_norm, {of, w, bias}, b.type(of), {1e-5});
    return b.node(Op::rms_norm, {of, w}, b.type(of), {1e-5});
  }
  /// The norm; `more` are inputs that come before its node.
  std::vector<ValueId> start(const std::vector<TensorType>& more) {
    Dims shape = rows;
    shape.push_back(width);
    x = value(dtype, shape);
    const ValueId w = value(weight, {width}), bias = value(weight, {width});
    std::vector<ValueId> made;
    for (const TensorType& type : more) made.push_back(value(type.dtype, type.shape));
    y = norm(x, w, bias);
    return made;
  }
  /// rows of `a` by w [width, n], or its transpose.
  ValueId linear(ValueId a, ValueId w, bool transposed = false) {
    TensorType out = b.type(a);
    out.shape.back() = b.shape(w)[transposed ? 0 : 1];
    const auto last = static_cast<int64_t>(out.shape.size()) - 1;
    return b.node(Op::dot_general, {a, w}, out, {Dims{last}, Dims{transposed ? 1 : 0}, Dims{}, Dims{}});
  }

  Lowered lowered;
  /// The labels of the kernels that norm; the bits are those of the norm before its readers.
  std::vector<std::string> check() {
    static const Makes always(true), never(false);
    lowered = lower(b.program, true, always);
    const auto wanted = runLowered(lower(b.program, true, never), inputs, false);
    for (bool share : {false, true}) {
      const auto found = runLowered(lowered, inputs, share);
      for (size_t i = 0; i < wanted.size(); i++) EXPECT_TRUE(found[i].bytes == wanted[i].bytes) << i;
    }
    std::vector<std::string> labels;
    for (const Step& step : lowered.steps)
      if (step.made.label.find("_norm") != std::string::npos) labels.push_back(step.made.label);
    return labels;
  }
  size_t steps() const { return lowered.steps.size(); }
};

using Labels = std::vector<std::string>;

TEST(FuseNorm, EveryDtypeAndRemainder) {
  for (int threads : {1, 2, 5})
    for (DType dtype : kFloats)
      for (int64_t rows : {1, 3, 4, 5, 31, 33, 100, 259, 1030})
        for (int64_t width : {1, 24, 37, 300}) {
          const ThreadCountScope scope(threads);
          Normed n;
          n.rows = {rows}, n.width = width, n.dtype = dtype;
          n.layer = rows % 2 == 0;
          n.weight = width == 37 ? dtype : DType::f32;
          // Of the few columns a block is a small product, which has another method than the whole.
          const auto w = n.start({{dtype, {width, 48}}, {dtype, {131, width}}, {dtype, {width, 5}}});
          n.b.output(n.linear(n.y, w[0]));
          n.b.output(n.linear(n.y, w[1], true));
          n.b.output(n.linear(n.y, w[2]));
          n.check();
          EXPECT_EQ(n.steps(), 1u) << describe(n.lowered);
        }
}

TEST(FuseNorm, Epilogues) {
  for (int threads : {1, 3})
    for (DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (int64_t rows : {40, 333}) {
        const ThreadCountScope scope(threads);
        Normed n;
        n.rows = {rows, 2}, n.dtype = dtype, n.layer = true;
        const auto in = n.start({{dtype, {40, 96}}, {dtype, {96}}, {dtype, {rows, 2, 96}}});
        n.b.output(n.b.elementwise(Op::silu, {n.linear(n.y, in[0])}));
        const ValueId biased = n.b.elementwise(Op::add, {n.linear(n.y, in[0]), in[1]});
        n.b.output(n.b.elementwise(Op::add, {n.b.elementwise(Op::relu, {biased}), in[2]}));
        if (dtype != DType::f32) n.b.output(n.b.cast(n.linear(n.y, in[0]), DType::f32));
        const std::string wide = dtype == DType::f32 ? "" : ", 40x96";
        EXPECT_EQ(n.check(),
                  Labels{"layer_norm + matmul " + std::string(name(dtype)) + " " + std::to_string(2 * rows) +
                         "x40 * 40x96 silu, 40x96 + bias relu + residual" + wide});
        EXPECT_EQ(n.steps(), 1u);
      }
}

TEST(FuseNorm, ResidualThatDiesIsWrittenOver) {
  Normed n;
  const auto in = n.start({{DType::f32, {40, 64}}, {DType::f32, {3, 50, 64}}});
  const ValueId dying = n.b.elementwise(Op::sin, {in[1]});
  n.b.output(n.b.elementwise(Op::add, {dying, n.linear(n.y, in[0])}));
  EXPECT_EQ(n.check(), Labels{"rms_norm + matmul float32 150x40 * 40x64 + residual"});
  using Pairs = std::vector<std::pair<uint32_t, uint32_t>>;
  EXPECT_EQ(n.lowered.steps.back().made.inPlace, (Pairs{{0, 3}}));
}

TEST(FuseNorm, CastOfAutocast) {
  for (DType half : {DType::bf16, DType::f16})
    for (int reader : {0, 1, 2, 3})  // besides the products: none, of the cast, of the norm, of both
      for (int64_t rows : {33, 600}) {
        Normed n;
        n.rows = {rows};
        const auto w = n.start({{half, {40, 64}}, {half, {40, 80}}});
        const ValueId narrow = n.b.cast(n.y, half);
        n.b.output(n.linear(narrow, w[0]));
        n.b.output(n.linear(narrow, w[1]));
        if (reader & 1) n.b.output(n.b.elementwise(Op::neg, {narrow}));
        if (reader & 2) n.b.output(n.y);
        EXPECT_EQ(n.check(), Labels{"rms_norm + matmul float32 as " + std::string(name(half)) + " " +
                                    std::to_string(rows) + "x40 * 40x64, 40x80"});
        EXPECT_EQ(n.lowered.steps[0].writes.size(), static_cast<size_t>(2 + (reader & 1) + (reader >> 1)));
      }
}

TEST(FuseNorm, CastAlone) {
  for (int64_t width : {1, 40, 9000}) {
    Normed n;
    n.rows = {70}, n.width = width;
    n.start({});
    n.b.output(n.b.cast(n.y, DType::bf16));
    EXPECT_EQ(n.check(), Labels{"rms_norm float32 " + format({70, width}) + " as bfloat16"});
    EXPECT_EQ(n.steps(), 1u);
  }
  Normed inlined;  // a fused kernel computes it for itself
  inlined.start({});
  inlined.b.output(inlined.b.elementwise(Op::neg, {inlined.b.cast(inlined.y, DType::bf16)}));
  EXPECT_EQ(inlined.check(), Labels{"rms_norm float32 [3, 50, 40]"});
}

TEST(FuseNorm, IsWrittenForOtherReaders) {
  Normed n;  // the gradient of the weight contracts the rows
  n.rows = {90};
  const auto in = n.start({{DType::f32, {40, 64}}, {DType::f32, {90, 64}}});
  n.b.output(n.linear(n.y, in[0]));
  n.b.output(
      n.b.node(Op::dot_general, {n.y, in[1]}, {DType::f32, {40, 64}}, {Dims{0}, Dims{0}, Dims{}, Dims{}}));
  EXPECT_EQ(n.check(), Labels{"rms_norm + matmul float32 90x40 * 40x64"});
  EXPECT_EQ(n.lowered.steps[0].writes.size(), 2u);
}

TEST(FuseNorm, ThroughViews) {
  Normed n;
  const auto w = n.start({{DType::f32, {40, 64}}, {DType::f32, {40, 4, 16}}});
  n.b.output(n.linear(n.b.reshape(n.y, {150, 40}), w[0]));
  n.b.output(n.b.node(Op::dot_general, {n.y, w[1]}, {DType::f32, {3, 50, 4, 16}},
                      {Dims{2}, Dims{0}, Dims{}, Dims{}}));
  // The last position alone, and rows that are contracted in halves.
  const ValueId last = n.b.reshape(n.b.slice(n.y, {0, 49, 0}, {3, 50, 40}, {1, 1, 1}), {3, 40});
  n.b.output(n.linear(last, w[0]));
  n.b.output(n.b.node(Op::dot_general, {n.b.reshape(n.y, {150, 2, 20}), n.b.reshape(w[0], {2, 20, 64})},
                      {DType::f32, {150, 64}}, {Dims{1, 2}, Dims{0, 1}, Dims{}, Dims{}}));
  EXPECT_EQ(n.check(), Labels{"rms_norm + matmul float32 150x40 * 40x64, 40x64"});
}

TEST(FuseNorm, WaitsForNothingMadeOfIt) {
  Normed n;  // the second product's bias comes from the first
  const auto w = n.start({{DType::f32, {40, 64}}, {DType::f32, {40, 64}}});
  const ValueId first = n.linear(n.y, w[0]);
  const ValueId bias = n.b.reduce(Op::sum, first, {0, 1});
  n.b.output(n.b.elementwise(Op::add, {n.linear(n.y, w[1]), bias}));
  EXPECT_EQ(n.check(), Labels{"rms_norm + matmul float32 150x40 * 40x64"});

  Normed residual;  // or its residual is the norm
  const auto square = residual.start({{DType::f32, {40, 40}}});
  residual.b.output(residual.b.elementwise(Op::add, {residual.linear(residual.y, square[0]), residual.y}));
  EXPECT_EQ(residual.check(), Labels{"rms_norm float32 [3, 50, 40]"});

  Normed weight;  // or its weight
  weight.rows = {40}, weight.start({});
  weight.b.output(weight.linear(weight.y, weight.y));
  EXPECT_EQ(weight.check(), Labels{"rms_norm float32 [40, 40]"});
}

TEST(FuseNorm, LeavesWhatComesMuchLater) {
  Normed n;
  const auto w = n.start({{DType::f32, {40, 64}}, {DType::f32, {64, 40}}, {DType::f32, {40, 80}}});
  const ValueId first = n.linear(n.y, w[0]);
  n.b.output(n.linear(first, w[1]));
  n.b.output(n.linear(n.y, w[2]));
  EXPECT_EQ(n.check(), Labels{"rms_norm + matmul float32 150x40 * 40x64"});
  EXPECT_EQ(n.steps(), 3u);
}

TEST(FuseNorm, OperandsThatMustBeCopied) {
  Normed n;
  const auto in = n.start({{DType::f32, {5, 40, 64}}, {DType::f32, {40, 3, 50}}});
  // A weight whose dims do not collapse, and x read across.
  const ValueId w = n.b.transpose(n.b.slice(in[0], {0, 0, 0}, {5, 40, 30}, {2, 1, 3}), {1, 2, 0});
  n.b.output(
      n.b.node(Op::dot_general, {n.y, w}, {DType::f32, {3, 50, 10, 3}}, {Dims{2}, Dims{0}, Dims{}, Dims{}}));
  const ValueId across = n.norm(n.b.transpose(in[1], {1, 2, 0}), 1, 2);
  n.b.output(n.linear(across, n.b.reshape(n.b.slice(in[0], {1, 0, 0}, {2, 40, 64}, {1, 1, 1}), {40, 64})));
  EXPECT_EQ(n.check(),
            (Labels{"rms_norm + matmul float32 150x40 * 40x30", "rms_norm + matmul float32 150x40 * 40x64"}));
}

TEST(FuseNorm, NothingInNothing) {
  for (const Dims& rows : {Dims{0}, Dims{4, 0}})
    for (int64_t width : {0, 7}) {
      Normed n;
      n.rows = rows, n.width = width;
      const auto w = n.start({{DType::f32, {width, 5}}});
      n.b.output(n.linear(n.y, w[0]));
      n.check();
    }
}

/// Sizes decide; the norm is not in the arena then.
TEST(FuseNorm, SavesMemoryWhereItPays) {
  const ThreadCountScope two(2);
  Normed n;
  n.rows = {1024}, n.width = 256;
  const auto w = n.start({{DType::f32, {256, 256}}, {DType::f32, {256, 64}}});
  n.b.output(n.linear(n.y, w[0]));
  n.b.output(n.linear(n.y, w[1]));
  const std::vector<bool> donated(n.inputs.size(), false);
  const Lowered fused = lower(n.b.program, true), apart = lower(n.b.program, false);
  EXPECT_EQ(fused.steps.size(), 1u);
  EXPECT_DOUBLE_EQ(fused.steps[0].made.flops, 1024.0 * 256 * (4 + 2 * (256 + 64)));
  const size_t bytes = planMemory(fused, donated).arenaBytes, before = planMemory(apart, donated).arenaBytes;
  EXPECT_GE(before, 1024u * 256 * 4);
  EXPECT_LT(bytes, before);

  Normed few;  // a product of few rows divides its columns among the threads
  few.rows = {8}, few.width = 256;
  const auto v = few.start({{DType::f32, {256, 256}}});
  few.b.output(few.linear(few.y, v[0]));
  EXPECT_EQ(lower(few.b.program, true).steps.size(), 2u);
}

}  // namespace
}  // namespace lazuli::test
