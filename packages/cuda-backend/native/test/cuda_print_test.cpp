// What is printed for NVRTC: that it compiles, for every op and for whole training steps, and how it reads
// memory. LAZULI_TEST_DEVICE=cubin compiles what the tests of fused kernels run, too.

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "cuda/fused_print.h"
#include "cuda/kernels.h"
#include "cuda/nvrtc.h"
#include "cuda/stream.h"
#include "cuda_programs.h"
#include "device_harness.h"
#include "program.h"
#include "program_samples.h"

namespace lazuli::test {
namespace {

/// The programs' fused kernels, for sm_80 and sm_90a.
void expectCompiles(const std::vector<Program>& programs, size_t least) {
  const cuda::Nvrtc* nvrtc = nvrtcOfMachine();
  if (!nvrtc) GTEST_SKIP() << "no NVRTC (scripts/gpu/headers.sh gets it)";
  std::set<std::string> texts;
  for (const Program& program : programs)
    for (const Step& step : lower(program, fusedByCuda()).steps)
      if (const auto source = cuda::fusedSource(*step.made.kernel)) texts.insert(source->text());
  EXPECT_GE(texts.size(), least);
  std::string all;
  for (const std::string& text : texts) all += text;
  expectCubins(*nvrtc, all);
}

Program fixture(const std::string& name) {
  std::ifstream file(std::string(LAZULI_NATIVE_FIXTURES) + "/" + name, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  Words words(bytes.size() / 4);
  std::memcpy(words.data(), bytes.data(), words.size() * 4);
  return decode(words);
}

TEST(CudaPrint, LlamaStepsCompile) {
  if (!std::filesystem::exists(LAZULI_NATIVE_FIXTURES))
    GTEST_SKIP() << "no Llama steps (node scripts/dump-llama-step.mjs writes them)";
  expectCompiles({fixture("llama_step_float32.bin"), fixture("llama_step_bfloat16.bin")}, 20);
}

// Heads are written as the products after them read them, and turned back in place.
TEST(CudaPrint, LlamaStepsCopyNoHeads) {
  if (!std::filesystem::exists(LAZULI_NATIVE_FIXTURES))
    GTEST_SKIP() << "no Llama steps (node scripts/dump-llama-step.mjs writes them)";
  const auto copies = [](const Program& program) {
    int count = 0;
    for (const Step& step : lower(program, cuda::kernels()).steps) count += step.made.detail == "out0 = in0";
    return count;
  };
  for (const char* name : {"llama_step_float32.bin", "llama_step_bfloat16.bin"}) {
    const Program program = fixture(name);
    EXPECT_EQ(copies(program), 0) << name;
    setenv("LAZULI_FUSE_LAYOUT", "0", 1);
    EXPECT_EQ(copies(program), 4 * 2) << name;  // of 2 layers
    unsetenv("LAZULI_FUSE_LAYOUT");
  }
}

TEST(CudaPrint, EveryOpCompiles) { expectCompiles({decode(everyOp(true))}, 15); }

std::string printed(ProgramBuilder& builder) {
  const Lowered lowered = lower(builder.program, fusedByCuda());
  std::string text;
  for (const Step& step : lowered.steps)
    if (const auto source = cuda::fusedSource(*step.made.kernel)) text += source->text();
  return text;
}
bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

TEST(CudaPrint, DenseOperandsMoveBy16Bytes) {
  for (auto [dtype, vector] : {std::pair{DType::f32, "Vector<float, 4, 4>"},
                               {DType::bf16, "Vector<BFloat16, 8, 8>"},
                               {DType::f16, "Vector<Float16, 8, 8>"},
                               {DType::f64, "Vector<double, 2, 2>"}}) {
    ProgramBuilder builder;
    const ValueId x = builder.input(dtype, {512, 768}), row = builder.input(dtype, {768});
    builder.output(builder.elementwise(Op::add, {x, row}));
    const std::string text = printed(builder);
    EXPECT_TRUE(has(text, vector)) << text;
    EXPECT_FALSE(has(text, ", 1>")) << text;
  }
}

TEST(CudaPrint, OffsetsThatAreNotAlignedTakeShorterMoves) {
  ProgramBuilder builder;
  const ValueId x = builder.input(DType::f32, {4098}), y = builder.input(DType::f32, {4096});
  builder.output(builder.elementwise(Op::add, {builder.slice(x, {2}, {4098}, {1}), y}));
  const std::string text = printed(builder);
  EXPECT_TRUE(has(text, "Vector<float, 4, 2>")) << text;
  EXPECT_TRUE(has(text, "Vector<float, 4, 4>")) << text;
}

TEST(CudaPrint, TransposedOperandsGoThroughSharedMemory) {
  ProgramBuilder builder;
  const ValueId x = builder.input(DType::f32, {300, 500}), y = builder.input(DType::f32, {500, 300});
  builder.output(builder.elementwise(Op::add, {builder.transpose(x, {1, 0}), y}));
  EXPECT_TRUE(has(printed(builder), "LAZULI_SHARED float")) << printed(builder);
}

TEST(CudaPrint, LargeSpacesCountIn64Bits) {
  ProgramBuilder builder;
  const ValueId x = builder.input(DType::bf16, {70000, 40000}),
                y = builder.input(DType::bf16, {40000, 70000});
  builder.output(builder.elementwise(Op::exp, {x}));
  builder.output(builder.elementwise(Op::add, {builder.transpose(x, {1, 0}), y}));
  for (int64_t dim : {0, 1})
    builder.output(builder.reduce(Op::sum, builder.elementwise(Op::square, {y}), {dim}));
  const std::string text = printed(builder);
  EXPECT_TRUE(has(text, "using I = int64_t")) << text;
  EXPECT_FALSE(has(text, "using I = int32_t")) << text;
  expectCompiles({builder.program}, 3);
}

TEST(CudaPrint, EqualGroupsAreOneSource) {
  ProgramBuilder a, b;
  for (ProgramBuilder* builder : {&a, &b}) {
    const ValueId x = builder->input(DType::f32, {64, 3});
    builder->output(builder->elementwise(Op::exp, {x}));
  }
  const Lowered first = lower(a.program, fusedByCuda()), second = lower(b.program, fusedByCuda());
  EXPECT_EQ(cuda::fusedSource(*first.steps[0].made.kernel), cuda::fusedSource(*second.steps[0].made.kernel));
}

size_t count(const std::string& text, const std::string& part) {
  size_t times = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) times++;
  return times;
}

/// A gradient's norm: sums of squares of many sizes, joined, in two kernels, the first of which has a
/// function for each size; their results are brought together by one.
TEST(CudaPrint, ReductionsToOneElementShareKernels) {
  ProgramBuilder builder;
  const std::vector<Dims> shapes = {{768, 3, 256}, {768}, {768, 3, 256}, {5, 7}, {768}, {768, 3, 256}};
  std::vector<Array> inputs;
  std::vector<ValueId> values, sums;
  for (const Dims& shape : shapes) {
    inputs.push_back(Array::random(DType::f32, shape, inputs.size() + 1));
    values.push_back(builder.input(DType::f32, shape));
  }
  for (const ValueId x : values) {
    Dims dims;
    for (size_t dim = 0; dim < builder.shape(x).size(); dim++) dims.push_back(static_cast<int64_t>(dim));
    const ValueId sum = builder.reduce(Op::sum, builder.elementwise(Op::square, {x}), dims);
    sums.push_back(builder.reshape(sum, {1}));
  }
  const ValueId all = builder.concat(sums, 0);
  builder.output(all);
  builder.output(builder.reduce(Op::sum, all, {0}));
  const Lowered lowered = lower(builder.program, fusedByCuda());
  ASSERT_EQ(lowered.steps.size(), 3u) << describe(lowered);  // the sums, the concat, its sum
  const auto text = [&](size_t step) { return cuda::fusedSource(*lowered.steps[step].made.kernel)->text(); };
  // By size: blocks of 256 and of 512 threads, and those that join the pieces of the large ones.
  EXPECT_EQ(count(text(0), "LAZULI_KERNEL("), 3u) << text(0);
  EXPECT_EQ(count(text(0), "LAZULI_DEVICE void part"), 4u) << text(0);
  EXPECT_TRUE(has(text(0), "// 3 x out0 = sum(square(in0))")) << text(0);
  EXPECT_TRUE(has(text(0), "// 2 x out1 = sum(square(in1))")) << text(0);
  EXPECT_EQ(count(text(1), "LAZULI_KERNEL("), 1u) << text(1);
  EXPECT_EQ(count(text(1), "LAZULI_DEVICE void part"), 1u) << text(1);
  expectCompiles({builder.program}, 3);
  expectReference(builder.program, inputs, 1e-6, 1);
}

/// One that needs another, or that anything in between needs, is not made together with it.
TEST(CudaPrint, ReductionsThatNeedEachOtherAreApart) {
  ProgramBuilder builder;
  const ValueId x = builder.input(DType::f32, {40, 50}), y = builder.input(DType::f32, {40, 50});
  const ValueId first = builder.reduce(Op::sum, x, {0, 1});
  const ValueId second =
      builder.reduce(Op::max, builder.elementwise(Op::mul, {y, builder.broadcast(first, {40, 50})}), {0, 1});
  const ValueId third = builder.reduce(Op::sum, y, {0, 1});
  for (ValueId output : {first, second, third}) builder.output(output);
  const Lowered lowered = lower(builder.program, fusedByCuda());
  EXPECT_EQ(lowered.steps.size(), 2u) << describe(lowered);
  expectReference(builder.program,
                  {Array::random(DType::f32, {40, 50}, 1), Array::random(DType::f32, {40, 50}, 2)}, 1e-5, 1);
}

TEST(CudaPrint, ErrorsTellWhatNvrtcSays) {
  const cuda::Nvrtc* nvrtc = nvrtcOfMachine();
  if (!nvrtc) GTEST_SKIP() << "no NVRTC (scripts/gpu/headers.sh gets it)";
  try {
    nvrtc->compile("int f() { return nowhere; }\n", 80);
    FAIL();
  } catch (const ProgramError& error) {
    EXPECT_TRUE(has(error.what(), "nowhere")) << error.what();
  }
  // Of an architecture that it does not know yet: PTX, which the driver compiles.
  const std::vector<std::byte> image = nvrtc->compile("LAZULI_KERNEL(lazuli_x, int, 32) {}\n", 999);
  EXPECT_TRUE(has(reinterpret_cast<const char*>(image.data()), ".target sm_"));
}

/// On the device under test, by the ways that a device goes: compiled ahead, side by side, and kept on disk.
TEST(CudaFused, PreparedProgramsAreCompiledOnceAndKept) {
  if (!onCuda()) GTEST_SKIP() << "for LAZULI_TEST_DEVICE=cuda";
  std::string folder = std::filesystem::temp_directory_path() / "lazuli-cache-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  setenv("LAZULI_CACHE_DIR", folder.c_str(), 1);
  ProgramBuilder builder;
  const ValueId x = builder.input(DType::f32, {37, 41});
  const ValueId y = builder.elementwise(Op::silu, {x});
  for (ValueId output : {y, builder.reduce(Op::sum, y, {0}), builder.reduce(Op::max, y, {1})})
    builder.output(output);
  const Lowered lowered = lower(builder.program, false, fusedByCuda());
  cuda::prepare(lowered, deviceTarget());
  size_t kept = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder + "/cubin"))
    kept += entry.path().extension() == ".cubin";
  EXPECT_EQ(kept, lowered.steps.size());
  for (const Step& step : lowered.steps) {
    const auto source = cuda::fusedSource(*step.made.kernel);
    ASSERT_TRUE(source);
    EXPECT_TRUE(source->isCompiled(deviceTarget()));
    EXPECT_EQ(source->module(deviceTarget()), source->module(deviceTarget()));
  }
  expectReference(builder.program, {Array::random(DType::f32, {37, 41}, 3)}, 1e-6, 1);
  unsetenv("LAZULI_CACHE_DIR");
  std::filesystem::remove_all(folder);
}

/// A kernel's own text in the words of its error.
TEST(CudaFused, ErrorsNameTheExpression) {
  if (!onCuda()) GTEST_SKIP() << "for LAZULI_TEST_DEVICE=cuda";
  const auto source = cuda::Source::of("int broken() { return nowhere; }\n", "out0 = silu(in0)");
  try {
    source->module(deviceTarget());
    FAIL();
  } catch (const ProgramError& error) {
    EXPECT_TRUE(has(error.what(), "nowhere")) << error.what();
    EXPECT_TRUE(has(error.what(), "out0 = silu(in0)")) << error.what();
  }
}

}  // namespace
}  // namespace lazuli::test
