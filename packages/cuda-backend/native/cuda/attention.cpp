#include "cuda/attention_launch.h"
#include "cuda/attention_sm90.h"
#include "cuda/library_kernels.h"

namespace lazuli::cuda {
namespace {

/// Rows and keys of a block of attention_forward.cu.
constexpr int kRows = 128, kThreads = 128;
uint32_t forwardSharedBytes(int depth) {
  const int keys = depth > 64 ? 32 : 64;
  return static_cast<uint32_t>((kRows + 2 * keys) * depth * 2);
}

class Attention final : public Kernel {
 public:
  Attention(const KernelRequest& request, AttentionPath path)
      : call_(request, 3),
        result_(attentionResult(request, 0)),
        depth_(path == AttentionPath::simple ? 0 : call_.tensorCoreDepth({}, {result_})),
        sm90_(call_, depth_, path, AttentionPass::forward),
        kernel_(depth_ ? Function("attention_forward",
                                  "lazuli_attention_" + std::to_string(depth_) + call_.suffix())
                       : Function("attention_simple", "lazuli_attention_simple" + call_.suffix())) {}

  size_t scratchBytes() const { return depth_ ? call_.rangeBytes() : 0; }
  const AttentionCall& call() const { return call_; }

  void run(const KernelArgs& run) const override {
    if (!call_.hasQueries()) return;
    AttentionArgs args = call_.at(run);
    args.result = atAddress(result_, run.writes[0], call_.shape.dtype);
    args.lse = reinterpret_cast<float*>(run.writes[1]);
    if (depth_) {
      call_.findRanges(*run.stream, args, run.scratch);
      if (sm90_.forward(*run.stream, args)) return;
      Grid grid{call_.queryTiles(kRows)};
      grid.threads = kThreads;
      grid.sharedBytes = forwardSharedBytes(depth_);
      return kernel_.launch(*run.stream, grid, args);
    }
    Grid grid{call_.queryTiles(simpleTile(call_.wide))};
    grid.y = std::max(1u, simpleColumnBlocks(call_.shape.valueDepth));
    kernel_.launch(*run.stream, grid, args);
  }

 private:
  AttentionCall call_;
  AttentionResult result_;
  int depth_;
  AttentionSm90 sm90_;
  Function kernel_;
};

}  // namespace

MadeKernel makeAttention(const KernelRequest& request, AttentionPath path) {
  auto kernel = std::make_unique<Attention>(request, path);
  MadeKernel made;
  made.label = attentionLabel(request, kernel->call().shape, kernel->call().extras);
  made.scratchBytes = kernel->scratchBytes();
  made.flops = attentionFlops(kernel->call().shape, 2);
  made.kernel = std::move(kernel);
  return made;
}

namespace {

MadeKernel make(const KernelRequest& request) { return makeAttention(request, chosenAttentionPath()); }

bool accepts(const Node&, size_t index, const Layout& layout) {
  if (index < 3) return hasUnitRows(layout);
  return layout.shape.size() == 4 ? isBiasRead(layout) : layout.isDense();
}

bool writes(const Node&, size_t result, const Layout& layout) { return result == 0 && hasUnitRows(layout); }

}  // namespace

const KernelEntry attentionEntry{.make = make, .accepts = accepts, .writes = writes};

}  // namespace lazuli::cuda
