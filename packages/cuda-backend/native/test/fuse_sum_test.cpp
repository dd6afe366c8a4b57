#include <cstdlib>

#include "build.h"
#include "device_harness.h"
#include "kernels/fused.h"
#include "memory_plan.h"
#include "parallel.h"

namespace lazuli::test {
namespace {

/// A kernel of the device under test, on the host's memory.
class OnDevice final : public Kernel {
 public:
  OnDevice(MadeKernel made, const KernelRequest& request) : made_(std::move(made)) {
    for (const Layout& layout : request.operands)
      reads_.push_back(static_cast<size_t>(layout.elements()) * sizeBytes(layout.dtype));
    for (const TensorType& type : request.results) writes_.push_back(type.bytes());
  }
  void run(const KernelArgs& args) const override {
    std::vector<std::span<const std::byte>> reads;
    std::vector<std::span<std::byte>> writes;
    for (size_t i = 0; i < reads_.size(); i++) reads.push_back({args.reads[i], reads_[i]});
    for (size_t i = 0; i < writes_.size(); i++) writes.push_back({args.writes[i], writes_[i]});
    runMade(true, made_, reads, writes);
  }

 private:
  MadeKernel made_;
  std::vector<size_t> reads_, writes_;
};

template <Op kOp>
MadeKernel makeTested(const KernelRequest& request) {
  const TestedEntry tested = entryOf(kOp);
  MadeKernel made = tested.entry.make(request);
  if (tested.cuda) made.kernel = std::make_shared<OnDevice>(MadeKernel(made), request);
  return made;
}

/// The CPU's kernels but for those of the norms' gradients, which are the tested device's and add residuals
/// where theirs do, or never.
class Makes final : public KernelMaker {
 public:
  explicit Makes(bool adds)
      : rms_(entry<Op::rms_norm_grad>(adds)), layer_(entry<Op::layer_norm_grad>(adds)) {}
  const char* device() const override { return cpuKernels().device(); }
  MadeKernel fused(std::vector<FusedSpec> parts) const override {
    return cpuKernels().fused(std::move(parts));
  }
  MadeKernel matmul(const MatmulSpec& spec) const override { return cpuKernels().matmul(spec); }
  bool matmulAccepts(const MatmulSpec& spec, size_t operand) const override {
    return cpuKernels().matmulAccepts(spec, operand);
  }
  const KernelEntry* library(Op op) const override {
    if (op == Op::rms_norm_grad) return &rms_;
    if (op == Op::layer_norm_grad) return &layer_;
    return cpuKernels().library(op);
  }

 private:
  template <Op kOp>
  static KernelEntry entry(bool adds) {
    const KernelEntry& tested = entryOf(kOp).entry;
    return {.make = makeTested<kOp>, .addsResidual = adds && tested.addsResidual};
  }
  KernelEntry rms_, layer_;
};

using Labels = std::vector<std::string>;

/// The gradient of a norm of `shape`, and what is added to it.
struct Summed {
  Dims shape = {3, 20, 40};
  DType dtype = DType::f32, weight = DType::f32;
  bool layer = false;

  ProgramBuilder b;
  std::vector<Array> inputs;
  ValueId x = 0, w = 0, g = 0, residual = 0;

  ValueId value(DType type, Dims dims) {
    inputs.push_back(Array::random(type, dims, static_cast<uint32_t>(inputs.size() + 1)));
    return b.input(type, std::move(dims));
  }
  void start() {
    x = value(dtype, shape), w = value(weight, {shape.back()}), g = value(dtype, shape);
    residual = value(dtype, shape);
  }
  /// dx; its other results are outputs.
  ValueId grad(ValueId of, ValueId cotangent) {
    std::vector<TensorType> types = {b.type(of), b.type(w)};
    if (layer) types.push_back(b.type(w));
    const auto made =
        b.nodes(layer ? Op::layer_norm_grad : Op::rms_norm_grad, {of, w, cotangent}, types, {1e-5});
    for (size_t i = 1; i < made.size(); i++) b.output(made[i]);
    return made[0];
  }
  ValueId grad() { return grad(x, g); }
  ValueId add(ValueId one, ValueId other) { return b.elementwise(Op::add, {one, other}); }

  Lowered lowered;
  /// The labels of all kernels; the bits are those of the gradient before the sum.
  Labels check() {
    static const Makes always(true), never(false);
    lowered = lower(b.program, true, always);
    const auto wanted = runLowered(lower(b.program, true, never), inputs, false);
    for (bool share : {false, true}) {
      const auto found = runLowered(lowered, inputs, share);
      for (size_t i = 0; i < wanted.size(); i++) EXPECT_TRUE(found[i].bytes == wanted[i].bytes) << i;
    }
    Labels labels;
    for (const Step& step : lowered.steps) labels.push_back(step.made.label);
    return labels;
  }
  /// How many gradients add.
  size_t sums() {
    size_t count = 0;
    for (const std::string& label : check())
      count += label.find("grad") != label.npos && label.ends_with("+ residual");
    return count;
  }
};

TEST(FuseSum, EveryDtypeNormAndWidth) {
  const std::vector<int> threads = onCuda() ? std::vector{1} : std::vector{1, 3};
  for (int count : threads)
    for (DType dtype : kFloats)
      for (bool layer : {false, true})
        for (const Dims& shape : {Dims{1, 1}, {3, 7}, {70, 24}, {5, 37}, {2, 3, 300}, {4, 513}, {2, 8200}}) {
          const ThreadCountScope scope(count);
          Summed s;
          s.shape = shape, s.dtype = dtype, s.layer = layer;
          s.weight = shape.back() == 37 ? dtype : dtype == DType::f64 ? DType::f64 : DType::f32;
          s.start();
          s.b.output(layer == (shape.size() == 2) ? s.add(s.grad(), s.residual)
                                                  : s.add(s.residual, s.grad()));
          const std::string op = layer ? "layer_norm_grad " : "rms_norm_grad ";
          EXPECT_EQ(s.check(), Labels{op + name(dtype) + " " + format(shape) + " + residual"});
        }
}

TEST(FuseSum, NothingInNothing) {
  for (const Dims& shape : {Dims{0, 8}, Dims{4, 0}}) {
    Summed s;
    s.shape = shape;
    s.start();
    s.b.output(s.add(s.grad(), s.residual));
    s.check();
  }
}

TEST(FuseSum, OfTheCotangentOrOfX) {
  Summed twice;  // the norm's own cotangent goes around it too
  twice.start();
  twice.b.output(twice.add(twice.grad(), twice.g));
  EXPECT_EQ(twice.sums(), 1u);
  Summed made;  // and is written over
  made.start();
  const ValueId g = made.b.elementwise(Op::sin, {made.g});
  made.b.output(made.b.reduce(Op::sum, g, {0}));
  made.b.output(made.b.matmul(made.b.reshape(g, {60, 40}), made.b.reshape(made.x, {40, 60})));
  made.b.output(made.add(made.grad(made.x, g), g));
  EXPECT_EQ(made.sums(), 1u);
  Summed self;
  self.start();
  self.b.output(self.add(self.x, self.grad()));
  EXPECT_EQ(self.sums(), 1u);
}

TEST(FuseSum, SumsOfSums) {
  Summed s;  // two norms beside each other: x + f(norm x) + h(norm' x)
  s.start();
  const ValueId one = s.grad(), other = s.grad(s.x, s.residual);
  s.b.output(s.add(other, s.add(one, s.residual)));
  EXPECT_EQ(s.sums(), 2u);
  EXPECT_EQ(s.lowered.steps.size(), 2u);
  Summed both;  // the later one adds the earlier one
  both.start();
  const ValueId first = both.grad(), second = both.grad(both.x, both.residual);
  both.b.output(both.add(first, second));
  EXPECT_EQ(both.sums(), 1u);
  EXPECT_EQ(both.lowered.steps.size(), 2u);
}

TEST(FuseSum, OfAProduct) {
  Summed s;
  s.start();
  const ValueId weight = s.value(DType::f32, {40, 40});
  const ValueId product =
      s.b.node(Op::dot_general, {s.g, weight}, s.b.type(s.g), {Dims{2}, Dims{0}, Dims{}, Dims{}});
  s.b.output(s.add(product, s.grad()));
  EXPECT_EQ(s.sums(), 1u);
  EXPECT_EQ(s.lowered.steps.size(), 2u);
}

TEST(FuseSum, ThroughViews) {
  Summed s;
  s.start();
  s.b.output(s.add(s.b.reshape(s.grad(), {60, 40}), s.b.reshape(s.residual, {60, 40})));
  EXPECT_EQ(s.sums(), 1u);
  Summed across;
  across.start();
  const ValueId turned = across.b.transpose(across.value(DType::f32, {20, 3, 40}), {1, 0, 2});
  across.b.output(across.add(across.grad(), turned));
  EXPECT_EQ(across.sums(), 0u);
  Summed part;
  part.start();
  const ValueId wide = part.value(DType::f32, {4, 20, 40});
  part.b.output(part.add(part.grad(), part.b.slice(wide, {1, 0, 0}, {4, 20, 40}, {1, 1, 1})));
  EXPECT_EQ(part.sums(), 0u);
}

TEST(FuseSum, WithTheCastOfAutocast) {
  for (DType half : {DType::bf16, DType::f16})
    for (bool layer : {false, true})
      for (bool keeps : {false, true})
        for (const Dims& shape : {Dims{3, 7}, {70, 24}, {4, 514}, {3, 5000}, {0, 8}}) {
          Summed s;
          s.shape = shape, s.layer = layer;
          s.start();
          const ValueId sum = s.add(s.residual, s.grad());
          if (keeps) s.b.output(sum);
          s.b.output(s.b.cast(sum, half));
          const std::string op = layer ? "layer_norm_grad" : "rms_norm_grad";
          EXPECT_EQ(s.check(), Labels{op + " float32 " + format(shape) + " + residual as " + name(half)});
        }
  Summed inlined;  // a fused kernel makes it for itself
  inlined.start();
  const ValueId sum = inlined.add(inlined.residual, inlined.grad());
  inlined.b.output(sum);
  inlined.b.output(inlined.b.elementwise(Op::neg, {inlined.b.cast(sum, DType::bf16)}));
  EXPECT_EQ(inlined.check()[0], "rms_norm_grad float32 [3, 20, 40] + residual");
  Summed both;  // one is done with the sum
  both.start();
  const ValueId twice = both.add(both.residual, both.grad());
  both.b.output(both.b.cast(twice, DType::bf16));
  both.b.output(both.b.cast(twice, DType::f16));
  EXPECT_EQ(both.check()[0], "rms_norm_grad float32 [3, 20, 40] + residual");
}

TEST(FuseSum, StaysWhereItSavesNothing) {
  Summed read;  // by one fused kernel, which may as well add
  read.start();
  read.b.output(read.b.elementwise(Op::sin, {read.add(read.grad(), read.residual)}));
  EXPECT_EQ(read.sums(), 0u);
  Summed made;  // or which makes the residual too
  made.start();
  made.b.output(made.add(made.grad(), made.b.elementwise(Op::mul, {made.residual, made.x})));
  EXPECT_EQ(made.sums(), 0u);
  Summed widened;
  widened.start();
  const ValueId narrow = widened.value(DType::bf16, widened.shape);
  widened.b.output(widened.add(widened.grad(), widened.b.cast(narrow, DType::f32)));
  EXPECT_EQ(widened.sums(), 0u);
  Summed joined;  // a concat widens for itself too
  joined.start();
  const ValueId half = joined.value(DType::bf16, joined.shape);
  const ValueId wide = joined.b.cast(half, DType::f32);
  joined.b.output(joined.b.concat({wide, joined.x}, 0));
  joined.b.output(joined.add(joined.grad(), wide));
  EXPECT_EQ(joined.sums(), 0u);
  Summed number;
  number.start();
  number.b.output(number.add(number.grad(), number.b.full(0.5, DType::f32, number.shape)));
  EXPECT_EQ(number.sums(), 0u);
}

TEST(FuseSum, StaysWhereTheGradientIsReadElsewhere) {
  Summed output;
  output.start();
  const ValueId dx = output.grad();
  output.b.output(dx);
  output.b.output(output.add(dx, output.residual));
  EXPECT_EQ(output.sums(), 0u);
  Summed twice;
  twice.start();
  const ValueId both = twice.grad();
  twice.b.output(twice.add(both, twice.residual));
  twice.b.output(twice.b.matmul(twice.b.reshape(both, {60, 40}), twice.b.reshape(twice.x, {40, 60})));
  EXPECT_EQ(twice.sums(), 0u);
  Summed doubled;
  doubled.start();
  const ValueId same = doubled.grad();
  doubled.b.output(doubled.add(same, same));
  EXPECT_EQ(doubled.sums(), 0u);
}

TEST(FuseSum, StaysWhereTypesDiffer) {
  Summed spread;  // the residual is broadcast
  spread.start();
  spread.b.output(spread.add(spread.grad(), spread.w));
  EXPECT_EQ(spread.sums(), 0u);
  Summed larger;  // the gradient is
  larger.shape = {1, 40};
  larger.start();
  const ValueId six = larger.value(DType::f32, {6, 40});
  larger.b.output(larger.add(larger.grad(), six));
  EXPECT_EQ(larger.sums(), 0u);
  Summed cast;
  cast.dtype = DType::bf16;
  cast.start();
  const ValueId wide = cast.value(DType::f32, cast.shape);
  cast.b.output(cast.add(cast.b.cast(cast.grad(), DType::f32), wide));
  EXPECT_EQ(cast.sums(), 0u);
}

TEST(FuseSum, WaitsForNothingMadeOfIt) {
  Summed s;  // what is added comes from the gradient of the weight
  s.start();
  const ValueId column = s.value(DType::f32, {3, 20, 1});
  const ValueId dx = s.grad();
  const ValueId dw = s.b.program.nodes[0].results[1];
  const ValueId outer = s.b.node(Op::dot_general, {column, s.b.reshape(dw, {1, 40})}, s.b.type(dx),
                                 {Dims{2}, Dims{0}, Dims{}, Dims{}});
  s.b.output(outer);
  s.b.output(s.add(dx, outer));
  EXPECT_EQ(s.sums(), 0u);
}

TEST(FuseSum, WaitsForAKernelThatDoesMore) {
  Summed s;  // which comes later in the program
  s.start();
  const ValueId made = s.b.elementwise(Op::mul, {s.residual, s.x});
  s.b.output(made);
  s.b.output(s.add(s.grad(), made));
  s.b.output(s.b.elementwise(Op::sin, {made}));
  EXPECT_EQ(s.sums(), 1u);
  EXPECT_EQ(s.lowered.steps.size(), 2u);
}

TEST(FuseSum, IsWrittenOverWhatDies) {
  Summed s;
  s.start();
  const ValueId weight = s.value(DType::f32, {40, 40});
  const ValueId dying = s.b.matmul(s.b.reshape(s.residual, {60, 40}), weight);
  s.b.output(s.b.reduce(Op::sum, dying, {1}));
  const ValueId sum = s.add(s.b.reshape(s.grad(), {60, 40}), dying);
  s.b.output(s.b.matmul(sum, weight));
  EXPECT_EQ(s.sums(), 1u);
  for (const Step& step : s.lowered.steps) {
    if (step.made.label.find("_grad") == std::string::npos) continue;
    using Pairs = std::vector<std::pair<uint32_t, uint32_t>>;
    EXPECT_EQ(step.made.inPlace, (Pairs{{0, 3}, {0, 2}, {0, 0}}));
    EXPECT_EQ(step.reads[3], dying);
  }
  const StoragePlan plan = planMemory(s.lowered, std::vector<bool>(s.inputs.size(), false)).storage;
  EXPECT_EQ(plan.of[sum], plan.of[dying]);
}

TEST(FuseSum, NotWhereItIsSwitchedOff) {
  Summed s;
  s.start();
  s.b.output(s.add(s.grad(), s.residual));
  EXPECT_EQ(lower(s.b.program, true).steps.size(), 1u);
  EXPECT_EQ(lower(s.b.program, false).steps.size(), 2u);
  setenv("LAZULI_FUSE_NORM", "0", 1);
  EXPECT_EQ(lower(s.b.program, true).steps.size(), 2u);
  unsetenv("LAZULI_FUSE_NORM");
}

}  // namespace
}  // namespace lazuli::test
