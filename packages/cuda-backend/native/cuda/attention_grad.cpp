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
constexpr uint32_t kRoundedPerBlock = 256 * 4;  // elements of dq

class AttentionGrad final : public Kernel {
 public:
  AttentionGrad(const KernelRequest& request, AttentionPath path, bool deterministic)
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
    call_.args.dq = attentionResult(request, 0);
    call_.args.dk = attentionResult(request, 1);
    call_.args.dv = attentionResult(request, 2);
    if (path != AttentionPath::simple)
      depth_ = call_.tensorCoreDepth({call_.args.dout}, {call_.args.dq, call_.args.dk, call_.args.dv});
    if (!depth_) return;
    addsUp_ = !deterministic;
    sm90_.emplace(call_, depth_, path, addsUp_ ? AttentionPass::addedGradient : AttentionPass::gradient);
    const std::string size = std::to_string(depth_) + call_.suffix();
    tensorCores_.emplace_back("attention_backward", "lazuli_attention_dq_" + size);
    tensorCores_.emplace_back("attention_backward", "lazuli_attention_dkv_" + size);
    if (!addsUp_) return;
    tensorCores_.emplace_back("attention_backward", "lazuli_attention_dqkv_" + size);
    tensorCores_.emplace_back("attention_backward", "lazuli_attention_round" + call_.suffix());
  }

  size_t scratchBytes() const {
    return call_.deltaBytes() + (depth_ ? call_.rangeBytes() : 0) + (addsUp_ ? sumBytes() : 0);
  }
  const AttentionCall& call() const { return call_; }

  void run(const KernelArgs& run) const override {
    AttentionArgs args = call_.at(run);
    args.out = atAddress(args.out, run.reads[kOut], call_.shape.dtype);
    args.dout = atAddress(args.dout, run.reads[kDout], call_.shape.dtype);
    args.lse = const_cast<float*>(reinterpret_cast<const float*>(run.reads[kLse]));
    if (call_.extras.dlse >= 0) args.dlse = reinterpret_cast<const float*>(run.reads[call_.extras.dlse]);
    args.delta = run.scratch;
    args.dq = atAddress(args.dq, run.writes[0], call_.shape.dtype);
    args.dk = atAddress(args.dk, run.writes[1], call_.shape.dtype);
    args.dv = atAddress(args.dv, run.writes[2], call_.shape.dtype);
    const int64_t rows = call_.shape.batch * call_.shape.heads * call_.shape.queries;
    if (call_.hasQueries()) delta_.launch(*run.stream, Grid{static_cast<uint32_t>((rows + 7) / 8)}, args);
    if (depth_ && sharedBytes(depth_) + kStaticBytes <= run.stream->target().sharedPerBlock) {
      call_.findRanges(*run.stream, args, run.scratch + call_.deltaBytes());
      if (addsUp_ && call_.hasQueries() && call_.hasKeys()) {
        args.dqSums = reinterpret_cast<float*>(run.scratch + call_.deltaBytes() + call_.rangeBytes());
        if (addUp(*run.stream, args)) return;
      }
      if (!addsUp_ && sm90_->backward(*run.stream, args)) return;
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
  /// Of dq in float32.
  size_t sumBytes() const {
    return alignedBytes(
        static_cast<size_t>(call_.shape.batch * call_.shape.heads * call_.shape.queries * call_.shape.depth) *
        4);
  }
  /// All in one pass over the keys; false: a block of the GPU has too little memory for it.
  bool addUp(const Stream& stream, const AttentionArgs& args) const {
    const int shared = sharedBytes(depth_) + kAttentionChangeBytes;
    const bool fits = shared + kStaticBytes <= stream.target().sharedPerBlock;
    stream.zero(reinterpret_cast<std::byte*>(args.dqSums), sumBytes());
    if (!sm90_->backward(stream, args)) {
      if (!fits) return false;
      Grid grid{call_.keyTiles(kRows)};
      grid.threads = kThreads;
      grid.sharedBytes = static_cast<uint32_t>(shared);
      tensorCores_[2].launch(stream, grid, args);
    }
    const auto count = static_cast<uint64_t>(sumBytes() / 4);
    Grid grid{static_cast<uint32_t>((count + kRoundedPerBlock - 1) / kRoundedPerBlock)};
    grid.threads = kThreads;
    tensorCores_[3].launch(stream, grid, args);
    return true;
  }

  AttentionCall call_;
  Function delta_, queries_, keys_, values_, bias_;
  bool hasBiasGrad_ = false;
  int depth_ = 0;
  bool addsUp_ = false;  // dq, of tensor cores
  std::optional<AttentionSm90> sm90_;
  std::vector<Function>
      tensorCores_;  // dq, dk with dv; where addsUp_ all three, and rounding; none: depth_ is 0
};

}  // namespace

MadeKernel makeAttentionGrad(const KernelRequest& request, AttentionPath path, bool deterministic) {
  auto kernel = std::make_unique<AttentionGrad>(request, path, deterministic);
  MadeKernel made;
  made.label = attentionLabel(request, kernel->call().shape, kernel->call().extras);
  made.scratchBytes = kernel->scratchBytes();
  made.flops = attentionFlops(kernel->call().shape, 5);
  made.kernel = std::move(kernel);
  return made;
}

namespace {

MadeKernel make(const KernelRequest& request) { return makeAttentionGrad(request, chosenAttentionPath()); }
MadeKernel makeInAnyOrder(const KernelRequest& request) {
  return makeAttentionGrad(request, chosenAttentionPath(), false);
}

bool accepts(const Node&, size_t index, const Layout& layout) {
  if (index != kLse && index < kExtras) return hasUnitRows(layout);
  return layout.shape.size() == 4 ? isBiasRead(layout) : layout.isDense();
}

bool writes(const Node&, size_t result, const Layout& layout) {
  return result < kBiasGrad && hasUnitRows(layout);
}

}  // namespace

const KernelEntry attentionGradEntry{.make = make, .accepts = accepts, .writes = writes},
    attentionBiasGradEntry{.make = make, .accepts = accepts, .writes = writes};
const KernelEntry attentionGradInAnyOrderEntry{.make = makeInAnyOrder, .accepts = accepts, .writes = writes};

}  // namespace lazuli::cuda
