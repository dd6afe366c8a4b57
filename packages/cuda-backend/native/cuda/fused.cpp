#include "kernels/fused.h"

#include <array>
#include <atomic>
#include <mutex>
#include <set>

#include "cuda/fused_print.h"
#include "cuda/kernels.h"
#include "cuda/nvrtc.h"

namespace lazuli::cuda {
namespace {

/// The kernels' one parameter: as many of these as a kernel declares are read.
struct Pointers {
  void* at[kMostBuffers];
};

class FusedKernel final : public Kernel {
 public:
  FusedKernel(PrintedFused printed, std::string detail)
      : source(Source::of(printed.source, detail)), launches_(std::move(printed.launches)) {}

  void run(const KernelArgs& args) const override {
    if (launches_.empty()) return;
    const Ready& ready = readyFor(args.stream->target());
    for (size_t i = 0; i < launches_.size(); i++) {
      const PrintedFused::Launch& launch = launches_[i];
      Pointers pointers;
      for (size_t k = 0; k < launch.buffers.size(); k++) pointers.at[k] = address(launch.buffers[k], args);
      Grid grid;
      grid.x = launch.x;
      grid.y = launch.y;
      grid.threads = launch.threads;
      ready.functions[i].launch(*args.stream, grid, pointers);
    }
  }

  const std::shared_ptr<const Source> source;

 private:
  struct Ready {
    int arch;
    std::vector<Function> functions;  // by launch
  };

  static void* address(const PrintedFused::Buffer& buffer, const KernelArgs& args) {
    switch (buffer.kind) {
      case PrintedFused::Buffer::Kind::read:
        return const_cast<std::byte*>(args.reads[buffer.number]) + buffer.start;
      case PrintedFused::Buffer::Kind::write:
        return args.writes[buffer.number] + buffer.start;
      case PrintedFused::Buffer::Kind::scratch:
        break;
    }
    return args.scratch + buffer.start;
  }

  const Ready& readyFor(const Target& target) const {
    const Ready* last = last_.load(std::memory_order_acquire);
    if (last && last->arch == target.arch()) return *last;
    std::lock_guard lock(mutex_);
    for (const auto& ready : ready_)
      if (ready->arch == target.arch()) return *ready;
    auto made = std::make_unique<Ready>();
    made->arch = target.arch();
    const std::shared_ptr<const Module> module = source->module(target);
    for (const auto& launch : launches_) made->functions.emplace_back(module, launch.kernel);
    ready_.push_back(std::move(made));
    last_.store(ready_.back().get(), std::memory_order_release);
    return *ready_.back();
  }

  std::vector<PrintedFused::Launch> launches_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Ready>> ready_;  // by architecture
  mutable std::atomic<const Ready*> last_{nullptr};
};

int64_t opsPerElement(const FusedSpec& spec) {
  int64_t ops = 0;
  for (const auto& value : spec.values)
    ops += value.kind == FusedSpec::Value::Kind::op || value.kind == FusedSpec::Value::Kind::cast;
  return ops;
}

}  // namespace

MadeKernel makeFused(std::vector<FusedSpec> parts) {
  MadeKernel made;
  std::string detail;
  for (const FusedSpec& part : parts) {
    made.flops += static_cast<double>(elements(part.space)) * static_cast<double>(opsPerElement(part));
    detail += (detail.empty() ? "" : "; ") + describe(part);
  }
  // A later part may read what an earlier one has overwritten.
  if (parts.size() == 1) made.inPlace = inPlacePairs(parts[0]);
  PrintedFused printed = printFused(parts);
  for (const auto& launch : printed.launches)
    if (launch.buffers.size() > kMostBuffers)
      throw ProgramError("a fused kernel of " + std::to_string(launch.buffers.size()) +
                         " buffers; CUDA takes " + std::to_string(kMostBuffers));
  made.scratchBytes = printed.scratchBytes;
  made.kernel = std::make_unique<FusedKernel>(std::move(printed), detail);
  return made;
}

void prepare(const Lowered& lowered, const Target& target) {
  std::set<std::shared_ptr<const Source>> sources;
  for (const Step& step : lowered.steps)
    if (const auto source = fusedSource(*step.made.kernel); source && !source->text().empty())
      sources.insert(source);
  compileAll({sources.begin(), sources.end()}, target);
}

std::shared_ptr<const Source> fusedSource(const Kernel& kernel) {
  const auto* fused = dynamic_cast<const FusedKernel*>(&kernel);
  return fused ? fused->source : nullptr;
}

}  // namespace lazuli::cuda
