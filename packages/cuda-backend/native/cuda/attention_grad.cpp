#include <optional>

#include "cuda/attention_launch.h"
#include "cuda/attention_sm90.h"
#include "cuda/library_kernels.h"

namespace lazuli::cuda {
namespace {

// q, k, v, out, lse, dout, and those that need not be given
constexpr size_t kOut = 3, kLse = 4, kDout = 5, kExtras = 6;
constexpr size_t kBiasGrad = 3;  // result

/// A block of attention_backward.cu: 128 rows of two operands, and two places for 64 of two others.
constexpr int kRows = 128, kThreads = 256, kStaticBytes = 1024;
int sharedBytes(int depth) { return (2 * kRows + 4 * 64) * depth * 2; }

class AttentionGrad final : public Kernel {
 public:
  AttentionGrad(const KernelRequest& request, AttentionPath path)
      : call_(request, kExtras),
        delta_("attention_simple", "lazuli_attention_delta" + call_.suffix()),
        queries_("attention_simple", "lazuli_attention_simple_dq" + call_.suffix()),
        keys_("attention_simple", "lazuli_attention_simple_dk" + call_.suffix()),
        values_("attention_simple", "lazuli_attention_simple_dv" + call_.suffix()),
        bias_("attention_simple", "lazuli_attention_simple_dbias" + call_.suffix()) {
    if (request.results.size() > kBiasGrad) {
      const Dims& shape = request.results[kBiasGrad].shape;
      const auto whole = [&](size_t dim, int64_t size) { return shape[dim] == size; };
      call_.args.dbiasBatch = whole(0, call_.shape.batch);
      call_.args.dbiasHeads = whole(1, call_.shape.heads);
      call_.args.dbiasQueries = whole(2, call_.shape.queries);
      call_.args.dbiasKeys = whole(3, call_.shape.keys);
      hasBiasGrad_ = elements(shape) > 0;
    }
    call_.args.out = attentionTensor(request, kOut);
    call_.args.dout = attentionTensor(request, kDout);
    if (path != AttentionPath::simple) depth_ = call_.tensorCoreDepth({call_.args.dout});
    if (!depth_) return;
    sm90_.emplace(call_, depth_, path, true);
    const std::string size = std::to_string(depth_) + call_.suffix();
    tensorCores_.emplace_back("attention_backward", "lazuli_attention_dq_" + size);
    tensorCores_.emplace_back("attention_backward", "lazuli_attention_dkv_" + size);
  }

  size_t scratchBytes() const { return call_.deltaBytes() + (depth_ ? call_.rangeBytes() : 0); }
  const AttentionCall& call() const { return call_; }

  void run(const KernelArgs& run) const override {
    AttentionArgs args = call_.at(run);
    args.out = atAddress(args.out, run.reads[kOut], call_.shape.dtype);
    args.dout = atAddress(args.dout, run.reads[kDout], call_.shape.dtype);
    args.lse = const_cast<float*>(reinterpret_cast<const float*>(run.reads[kLse]));
    if (call_.extras.dlse >= 0) args.dlse = reinterpret_cast<const float*>(run.reads[call_.extras.dlse]);
    args.delta = run.scratch;
    args.dq = run.writes[0];
    args.dk = run.writes[1];
    args.dv = run.writes[2];
    const int64_t rows = call_.shape.batch * call_.shape.heads * call_.shape.queries;
    if (call_.hasQueries()) delta_.launch(*run.stream, Grid{static_cast<uint32_t>((rows + 7) / 8)}, args);
    if (depth_ && sharedBytes(depth_) + kStaticBytes <= run.stream->target().sharedPerBlock) {
      call_.findRanges(*run.stream, args, run.scratch + call_.deltaBytes());
      if (sm90_->backward(*run.stream, args)) return;
      Grid grid;
      grid.threads = kThreads;
      grid.sharedBytes = static_cast<uint32_t>(sharedBytes(depth_));
      grid.x = call_.queryTiles(kRows);
      if (call_.hasQueries()) tensorCores_[0].launch(*run.stream, grid, args);
      grid.x = call_.keyTiles(kRows);
      if (call_.hasKeys()) tensorCores_[1].launch(*run.stream, grid, args);
      return;
    }
    const int64_t tile = simpleTile(call_.wide);
    const uint32_t depthBlocks = simpleColumnBlocks(call_.shape.depth);
    if (call_.hasQueries() && depthBlocks)
      queries_.launch(*run.stream, Grid{call_.queryTiles(tile), depthBlocks}, args);
    if (hasBiasGrad_) {
      args.dbias = run.writes[kBiasGrad];
      const auto tiles = [&](int64_t rows) { return (rows + tile - 1) / tile; };
      const int64_t blocks = (args.dbiasBatch ? call_.shape.batch : 1) *
                             (args.dbiasHeads ? call_.shape.heads : 1) *
                             (args.dbiasQueries ? tiles(call_.shape.queries) : 1) *
                             (args.dbiasKeys ? tiles(call_.shape.keys) : 1);
      bias_.launch(*run.stream, Grid{static_cast<uint32_t>(blocks)}, args);
    }
    if (!call_.hasKeys()) return;
    if (depthBlocks) keys_.launch(*run.stream, Grid{call_.keyTiles(tile), depthBlocks}, args);
    if (const uint32_t blocks = simpleColumnBlocks(call_.shape.valueDepth))
      values_.launch(*run.stream, Grid{call_.keyTiles(tile), blocks}, args);
  }

 private:
  AttentionCall call_;
  Function delta_, queries_, keys_, values_, bias_;
  bool hasBiasGrad_ = false;
  int depth_ = 0;
  std::optional<AttentionSm90> sm90_;
  std::vector<Function> tensorCores_;  // dq, and dk with dv; none where depth_ is 0
};

}  // namespace

MadeKernel makeAttentionGrad(const KernelRequest& request, AttentionPath path) {
  auto kernel = std::make_unique<AttentionGrad>(request, path);
  MadeKernel made;
  made.label = attentionLabel(request, kernel->call().shape, kernel->call().extras);
  made.scratchBytes = kernel->scratchBytes();
  made.flops = attentionFlops(kernel->call().shape, 5);
  made.kernel = std::move(kernel);
  return made;
}

namespace {

MadeKernel make(const KernelRequest& request) { return makeAttentionGrad(request, chosenAttentionPath()); }

bool accepts(const Node&, size_t index, const Layout& layout) {
  if (index != kLse && index < kExtras) return hasUnitRows(layout);
  return layout.shape.size() == 4 ? isBiasRead(layout) : layout.isDense();
}

}  // namespace

const KernelEntry attentionGradEntry{make, accepts}, attentionBiasGradEntry{make, accepts};

}  // namespace lazuli::cuda
