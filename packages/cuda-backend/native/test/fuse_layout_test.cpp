#include <cstdlib>

#include "build.h"

#if LAZULI_HAVE_CUDA
#include "cuda/kernels.h"
#endif

namespace lazuli::test {
namespace {

/// Of every device whose kernels can be made here.
std::vector<const KernelMaker*> makers() {
  std::vector<const KernelMaker*> all = {&cpuKernels()};
#if LAZULI_HAVE_CUDA
  all.insert(all.end(), {&cuda::kernels(), &cuda::kernels(false)});
#endif
  return all;
}

using Words = std::vector<std::string>;

/// The labels' first words.
Words stepsOf(const Lowered& lowered) {
  Words words;
  for (const Step& step : lowered.steps)
    words.push_back(step.made.label.substr(0, step.made.label.find(' ')));
  return words;
}

/// The steps on every device, and on the CPU the bits of a kernel per node, which copies.
void expectSteps(const Program& program, const Words& wanted) {
  for (const KernelMaker* maker : makers())
    EXPECT_EQ(stepsOf(lower(program, true, *maker)), wanted) << maker->device();
  std::vector<Array> inputs;
  for (uint32_t i = 0; i < program.inputCount; i++)
    inputs.push_back(Array::random(program.type(i).dtype, program.type(i).shape, i + 1));
  const auto plain = runLowered(lower(program, false), inputs, false);
  for (bool share : {false, true}) {
    const auto found = runLowered(lower(program, true), inputs, share);
    for (size_t i = 0; i < plain.size(); i++) EXPECT_TRUE(found[i].bytes == plain[i].bytes) << i;
  }
}

/// Causal attention of 3 heads to a group, [B, H, T, K].
struct Attended {
  Dims heads = {2, 6, 35, 8}, groups = {2, 2, 35, 8};
  ProgramBuilder b;
  const ValueId q = b.input(DType::f32, heads), k = b.input(DType::f32, groups),
                v = b.input(DType::f32, groups), dout = b.input(DType::f32, heads);
  const ValueId cos = b.input(DType::f32, {35, 4}), sin = b.input(DType::f32, {35, 4});
  const std::vector<Attr> attrs = {flag(true), int64_t{0}, number(0.3), int64_t{0}};

  std::vector<ValueId> forward() {
    return b.nodes(Op::attention, {q, k, v}, {b.type(q), {DType::f32, {2, 6, 35}}}, attrs);
  }
  std::vector<ValueId> gradients() {
    const auto out = forward();
    return b.nodes(Op::attention_grad, {q, k, v, out[0], out[1], dout}, {b.type(q), b.type(k), b.type(k)},
                   attrs);
  }
  ValueId turned(ValueId x) { return b.node(Op::rope, {x, cos, sin}, b.type(x), {flag(true), flag(false)}); }
  /// [B, T, H * K].
  ValueId merged(ValueId x) { return b.reshape(b.transpose(x, {0, 2, 1, 3}), {2, 35, b.shape(x)[1] * 8}); }
};

TEST(FuseLayout, HeadsAreWrittenAsTheirReadersSeeThem) {
  Attended a;
  const auto out = a.forward();
  a.b.output(a.merged(out[0]));
  const auto grads = a.b.nodes(Op::attention_grad, {a.q, a.k, a.v, out[0], out[1], a.dout},
                               {a.b.type(a.q), a.b.type(a.k), a.b.type(a.k)}, a.attrs);
  a.b.output(a.merged(a.turned(grads[0])));
  a.b.output(a.merged(grads[1]));
  a.b.output(a.merged(grads[2]));
  expectSteps(a.b.program, {"attention", "attention_grad", "rope"});
  EXPECT_EQ(lower(a.b.program, false).steps.size(), 7u);
}

TEST(FuseLayout, AnyOrderOfTheDimsButTheLast) {
  Attended a;
  const ValueId out = a.forward()[0];
  a.b.output(a.b.reshape(a.b.transpose(out, {2, 0, 1, 3}), {35, 2, 48}));  // [T, B, H * K]
  expectSteps(a.b.program, {"attention"});

  Attended across;
  const ValueId x = across.forward()[0];
  across.b.output(across.b.reshape(across.b.transpose(x, {0, 1, 3, 2}), {2, 6 * 8, 35}));
  expectSteps(across.b.program, {"attention", "fused"});

  Attended cut;
  const ValueId rows = cut.b.slice(cut.turned(cut.q), {0, 0, 5, 0}, {2, 6, 20, 8}, {1, 1, 1, 1});
  const ValueId some = cut.b.reshape(cut.b.transpose(rows, {0, 2, 1, 3}), {2, 15, 48});
  cut.b.output(cut.b.elementwise(Op::neg, {some}));
  expectSteps(cut.b.program, {"rope", "fused"});
}

TEST(FuseLayout, ResultsThatAreAskedForLieInOrder) {
  Attended a;
  const ValueId y = a.turned(a.q);
  a.b.output(y);
  a.b.output(a.merged(y));
  expectSteps(a.b.program, {"rope", "fused"});
}

TEST(FuseLayout, ReadersThatDisagreeHaveCopies) {
  Attended a;
  const ValueId y = a.turned(a.q);
  a.b.output(a.b.elementwise(Op::neg, {a.b.reshape(y, {2, 6 * 35, 8})}));
  a.b.output(a.b.matmul(a.b.reshape(y, {2 * 6, 35 * 8}), a.b.reshape(a.merged(y), {35 * 8, 2 * 6})));
  expectSteps(a.b.program, {"rope", "fused", "fused", "matmul"});

  Attended other;
  const auto out = other.forward();
  other.b.output(other.merged(out[0]));
  other.b.output(other.b.reshape(other.b.transpose(out[0], {2, 0, 1, 3}), {35, 2, 48}));
  expectSteps(other.b.program, {"attention", "copy"});
}

/// Pairs of the last step's kernel that may share memory.
size_t shared(const Lowered& lowered) { return lowered.steps.back().made.inPlace.size(); }

TEST(FuseLayout, RopeIsWrittenOverWhatLiesAlike) {
  Attended a;
  a.b.output(a.merged(a.turned(a.gradients()[0])));
  expectSteps(a.b.program, {"attention", "attention_grad", "rope"});

  Attended kept;  // an input lies as it is
  kept.b.output(kept.merged(kept.turned(kept.q)));
  expectSteps(kept.b.program, {"rope"});

  Attended whole;  // a view of all of what lies as the result is to
  const ValueId x = whole.b.node(Op::softmax, {whole.b.reshape(whole.q, {2, 35, 6, 8})},
                                 {DType::f32, {2, 35, 6, 8}}, {int64_t{3}});
  whole.b.output(whole.merged(whole.turned(whole.b.transpose(x, {0, 2, 1, 3}))));
  expectSteps(whole.b.program, {"softmax", "rope"});

  for (const KernelMaker* maker : makers()) {
    EXPECT_EQ(shared(lower(a.b.program, true, *maker)), 1u) << maker->device();
    EXPECT_EQ(shared(lower(kept.b.program, true, *maker)), 0u) << maker->device();
    EXPECT_EQ(shared(lower(whole.b.program, true, *maker)), 1u) << maker->device();
  }
}

TEST(FuseLayout, IsLeftOutWhereAskedTo) {
  Attended a;
  for (ValueId grad : a.gradients()) a.b.output(a.merged(grad));
  EXPECT_EQ(lower(a.b.program, true).steps.size(), 2u);
  setenv("LAZULI_FUSE_LAYOUT", "0", 1);
  EXPECT_EQ(lower(a.b.program, true).steps.size(), 5u);
  unsetenv("LAZULI_FUSE_LAYOUT");
}

}  // namespace
}  // namespace lazuli::test
