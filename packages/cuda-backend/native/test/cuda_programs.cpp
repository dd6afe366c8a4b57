#include "cuda_programs.h"

#include <cstdlib>
#include <cstring>
#include <set>
#include <thread>

#include "cuda/driver.h"
#include "cuda/kernels.h"
#include "cuda/nvrtc.h"
#include "cuda/stream.h"
#include "device_harness.h"
#include "kernels/fused.h"

namespace lazuli::test {

bool testsCubins() {
  const char* device = std::getenv("LAZULI_TEST_DEVICE");
  return device && std::strcmp(device, "cubin") == 0;
}

namespace {

using Sources = std::vector<std::shared_ptr<const cuda::Source>>;

// One compilation of so many kernels takes a fraction of the time of so many compilations.
constexpr size_t kTogether = 96;

class FusedByCuda final : public KernelMaker {
 public:
  const char* device() const override { return "CUDA"; }
  MadeKernel fused(std::vector<FusedSpec> parts) const override { return cuda::makeFused(std::move(parts)); }
  bool runsPartsTogether() const override { return true; }
  MadeKernel matmul(const MatmulSpec& spec) const override { return cpuKernels().matmul(spec); }
  bool matmulAccepts(const MatmulSpec& spec, size_t operand) const override {
    return cpuKernels().matmulAccepts(spec, operand);
  }
  const KernelEntry* library(Op op) const override { return cpuKernels().library(op); }
};

void collect(const Lowered& lowered, Sources& sources, std::set<std::shared_ptr<const cuda::Source>>& known) {
  for (const Step& step : lowered.steps) {
    const auto source = cuda::fusedSource(*step.made.kernel);
    if (source && !source->text().empty() && known.insert(source).second) sources.push_back(source);
  }
}

/// Runs the steps in order; one that may overwrite what it reads does so as well, with the same bits.
std::vector<Array> runOnCuda(const Lowered& lowered, const std::vector<Array>& inputs) {
  std::vector<std::vector<std::byte>> values(lowered.values.size());
  for (size_t i = 0; i < inputs.size(); i++) values[i] = inputs[i].bytes;
  for (const auto& [value, bytes] : lowered.constants) {
    values[value].resize(bytes.size());
    std::memcpy(values[value].data(), bytes.data(), bytes.size());
  }
  for (const Step& step : lowered.steps) {
    const bool cuda = cuda::fusedSource(*step.made.kernel) != nullptr;
    std::vector<std::span<const std::byte>> reads;
    std::vector<std::span<std::byte>> writes;
    for (ValueId write : step.writes) values[write].assign(lowered.values[write].bytes(), std::byte{0xa5});
    for (ValueId read : step.reads) reads.push_back(values[read]);
    for (ValueId write : step.writes) writes.push_back(values[write]);
    runMade(cuda, step.made, reads, writes);
    if (!cuda) continue;
    for (const auto& [write, read] : step.made.inPlace) {
      if (reads[read].size() != writes[write].size()) continue;
      std::vector<std::vector<std::byte>> again;
      std::vector<std::span<std::byte>> to;
      for (const auto& bytes : writes) again.emplace_back(bytes.size());
      for (auto& bytes : again) to.push_back(bytes);
      runMade(true, step.made, reads, to, {static_cast<int>(write), static_cast<int>(read)});
      for (size_t i = 0; i < writes.size(); i++)
        EXPECT_TRUE(std::memcmp(again[i].data(), writes[i].data(), writes[i].size()) == 0)
            << step.made.label << " differs over what it reads";
    }
  }
  std::vector<Array> outputs;
  for (ValueId output : lowered.outputs) {
    Array array(lowered.values[output].dtype, lowered.values[output].shape);
    array.bytes = values[output];
    outputs.push_back(std::move(array));
  }
  return outputs;
}

/// Programs that wait until there are enough kernels to compile.
class Waiting : public testing::Environment {
 public:
  struct Job {
    Lowered lowered;
    std::vector<Array> inputs, expected;
    double tolerance, scale;
    std::string place;
  };

  static Waiting& get() {
    static Waiting* const waiting = static_cast<Waiting*>(testing::AddGlobalTestEnvironment(new Waiting));
    return *waiting;
  }

  void add(Job job) {
    collect(job.lowered, sources_, known_);
    jobs_.push_back(std::move(job));
    if (sources_.size() >= kTogether) flush();
  }
  void compileLater(const Lowered& lowered) {
    collect(lowered, sources_, known_);
    if (sources_.size() >= kTogether) flush();
  }
  void TearDown() override { flush(); }

 private:
  void flush() {
    try {
      testsCubins() ? compileCubins() : compileForDevice();
      for (const Job& job : jobs_) check(job);
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
    jobs_.clear();
    sources_.clear();
  }

  void compileForDevice() {
    if (!sources_.empty()) cuda::compileTogether(sources_, deviceTarget());
  }
  void compileCubins() {
    const cuda::Nvrtc* nvrtc = nvrtcOfMachine();
    if (!nvrtc) throw ProgramError("no NVRTC (scripts/gpu/headers.sh gets it)");
    std::string text;
    for (const auto& source : sources_) text += source->text();
    expectCubins(*nvrtc, text);
  }

  static void check(const Job& job) {
    const std::vector<Array> actual = runOnCuda(job.lowered, job.inputs);
    ASSERT_EQ(actual.size(), job.expected.size());
    for (size_t k = 0; k < actual.size(); k++) {
      ASSERT_EQ(actual[k].bytes.size(), job.expected[k].bytes.size());
      for (int64_t i = 0; i < job.expected[k].type.elements(); i++) {
        ASSERT_TRUE(isNear(job.expected[k], actual[k], i, job.tolerance, job.scale))
            << job.place << ": output " << k << " element " << i << ": " << actual[k].at(i) << ", not "
            << job.expected[k].at(i) << "\n"
            << describe(job.lowered) << sourcesOf(job.lowered);
      }
    }
  }
  static std::string sourcesOf(const Lowered& lowered) {
    std::string text;
    for (const Step& step : lowered.steps)
      if (const auto source = cuda::fusedSource(*step.made.kernel)) text += source->text();
    return text;
  }

  std::vector<Job> jobs_;
  Sources sources_;
  std::set<std::shared_ptr<const cuda::Source>> known_;  // those that were ever compiled
};

}  // namespace

const KernelMaker& fusedByCuda() {
  static const FusedByCuda maker;
  return maker;
}

void expectCubins(const cuda::Nvrtc& nvrtc, const std::string& text) {
  const auto compile = [&](int arch) {
    try {
      EXPECT_GT(nvrtc.compile(text, arch).size(), 0u);
    } catch (const std::exception& error) {
      ADD_FAILURE() << "sm_" << arch << ": " << error.what();
    }
  };
  std::thread other(compile, 80);
  compile(90);
  other.join();
}

const cuda::Nvrtc* nvrtcOfMachine() {
  static const std::unique_ptr<const cuda::Nvrtc> nvrtc = [] {
    const char* path = std::getenv("LAZULI_CUDA_PATH");
    const std::string before = path ? path : "";
    unsetenv("LAZULI_CUDA_PATH");
    std::unique_ptr<const cuda::Nvrtc> opened;
    try {
      opened = std::make_unique<const cuda::Nvrtc>(
          std::initializer_list<const char*>{LAZULI_NVRTC_LIBRARY, "libnvrtc.so.13", "libnvrtc.so.12"});
    } catch (const cuda::CudaError&) {
    }
    if (path) setenv("LAZULI_CUDA_PATH", before.c_str(), 1);
    return opened;
  }();
  return nvrtc.get();
}

void expectReferenceOfCuda(const Program& program, const std::vector<Array>& inputs, double tolerance,
                           double scale) {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  static int number = 0;
  const std::string place = std::string(test ? test->name() : "") + " program " + std::to_string(number++);
  const std::vector<Array> expected = testsCubins() ? std::vector<Array>() : reference(program, inputs);
  for (bool fuse : {true, false}) {
    Lowered lowered = lower(program, fuse, fusedByCuda());
    if (testsCubins()) {
      Waiting::get().compileLater(lowered);
      continue;
    }
    Waiting::get().add(
        {std::move(lowered), inputs, expected, tolerance, scale, place + (fuse ? ", fused" : ", not fused")});
  }
}

}  // namespace lazuli::test
