#include <algorithm>

#include "kernels/attention.h"
#include "kernels/attention_shape.h"
#include "parallel.h"

namespace lazuli {
namespace {

// q, k, v, out, lse, dout, and those that need not be given
constexpr size_t kLse = 4, kExtras = 6;

/// Each of the `parts_` tasks of a (batch, group) sums its own dq, which are added at the end: more parts
/// than one where there are too few pairs for the threads, and no more than this, for memory.
constexpr int64_t kMostParts = 8;

class AttentionGrad final : public Kernel {
 public:
  explicit AttentionGrad(const KernelRequest& request)
      : s_(attentionShape(request)),
        q_(request.operands[0]),
        k_(request.operands[1]),
        v_(request.operands[2]),
        out_(request.operands[3]),
        dout_(request.operands[5]),
        dq_(request.target(0)),
        dk_(request.target(1)),
        dv_(request.target(2)),
        extras_(attentionExtras(request.operands, kExtras)) {
    const int64_t pairs = std::max<int64_t>(1, s_.batch * s_.groups), threads = threadCount();
    if (pairs < 4 * threads && threads > 1)
      parts_ = std::clamp<int64_t>((4 * threads + pairs - 1) / pairs, 1, kMostParts);
    parts_ = std::clamp<int64_t>(attentionBlocks(s_.keys), 1, parts_);
    headItems_ = attentionBlocks(s_.queries) * kAttentionBlock * attentionPadded(s_.depth);
    partItems_ = s_.heads / std::max<int64_t>(1, s_.groups) * headItems_;
    shared_ = parts_ > 1;
    sumBytes_ = alignedBytes(static_cast<size_t>(partItems_) * attentionWorkBytes(s_.dtype));
    sums_ = shared_ ? pairs * parts_ : threads;
    taskBytes_ = alignedBytes(attention().gradScratch(s_, parts_));
  }

  size_t scratchBytes() const {
    return static_cast<size_t>(sums_) * sumBytes_ + static_cast<size_t>(threadCount()) * taskBytes_;
  }
  const AttentionShape& shape() const { return s_; }
  const AttentionExtras& extras() const { return extras_; }

  void run(const KernelArgs& args) const override {
    const AttentionShape s = shifted(s_, extras_.shift, args.reads);
    const int64_t pairs = s_.batch * s_.groups;
    parallelTasks(pairs * parts_, threadCount(), [&](int64_t task, int thread) {
      std::byte* scratch =
          args.scratch + static_cast<size_t>(sums_) * sumBytes_ + static_cast<size_t>(thread) * taskBytes_;
      std::byte* sums = args.scratch + static_cast<size_t>(shared_ ? task : thread) * sumBytes_;
      keys(s, args, task / parts_, task % parts_, sums, scratch);
      if (!shared_)
        for (int64_t h = 0; h < s_.heads / s_.groups; h++) queries(args, task, h, 0, s_.queries, sums);
    });
    if (!shared_) return;
    const int64_t heads = s_.heads / s_.groups, blocks = attentionBlocks(s_.queries);
    parallelFor(pairs * heads * blocks, 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t pair = i / blocks / heads, first = i % blocks * kAttentionBlock;
        queries(args, pair, i / blocks % heads, first, std::min(kAttentionBlock, s_.queries - first),
                args.scratch + static_cast<size_t>(pair * parts_) * sumBytes_);
      }
    });
  }

 private:
  void keys(const AttentionShape& s, const KernelArgs& args, int64_t pair, int64_t part, std::byte* sums,
            std::byte* scratch) const {
    const int64_t batch = pair / s_.groups, group = pair % s_.groups, head = group * (s_.heads / s_.groups);
    const int64_t row = (batch * s_.heads + head) * s_.queries;
    const auto rows = [&](size_t index) { return reinterpret_cast<const float*>(args.reads[index]) + row; };
    AttentionGradTask t;
    t.q = q_.at(args.reads[0], batch, head);
    t.k = k_.at(args.reads[1], batch, group);
    t.v = v_.at(args.reads[2], batch, group);
    t.out = out_.at(args.reads[3], batch, head);
    t.dout = dout_.at(args.reads[5], batch, head);
    t.qRow = q_.rowStride;
    t.kRow = k_.rowStride;
    t.vRow = v_.rowStride;
    t.outRow = out_.rowStride;
    t.doutRow = dout_.rowStride;
    t.qHead = q_.headStride;
    t.outHead = out_.headStride;
    t.doutHead = dout_.headStride;
    t.lse = rows(kLse);
    t.dlse = extras_.dlse >= 0 ? rows(static_cast<size_t>(extras_.dlse)) : nullptr;
    t.querySegments = attentionSegments(extras_, 0, args.reads, batch, s_.queries);
    t.keySegments = attentionSegments(extras_, 1, args.reads, batch, s_.keys);
    t.dk = dk_.at(args.writes[1], batch, group);
    t.dv = dv_.at(args.writes[2], batch, group);
    t.dkRow = dk_.rowStride;
    t.dvRow = dv_.rowStride;
    t.dq = sums;
    t.firstKeyBlock = part;
    t.keyStep = parts_;
    t.scratch = scratch;
    attention().grad(s, t);
  }

  /// dq of the rows from `first` on of the pair's `head`-th head.
  void queries(const KernelArgs& args, int64_t pair, int64_t head, int64_t first, int64_t count,
               const std::byte* sums) const {
    const int64_t work = static_cast<int64_t>(attentionWorkBytes(s_.dtype));
    const int64_t heads = s_.heads / s_.groups, ofBatch = pair % s_.groups * heads + head;
    attention().gradQueries(s_, sums + (head * headItems_ + first * attentionPadded(s_.depth)) * work, parts_,
                            static_cast<int64_t>(sumBytes_) / work, count,
                            dq_.at(args.writes[0], pair / s_.groups, ofBatch, first), dq_.rowStride);
  }

  AttentionShape s_;
  AttentionOperand q_, k_, v_, out_, dout_, dq_, dk_, dv_;
  AttentionExtras extras_;
  int64_t parts_ = 1, sums_ = 0, headItems_ = 0, partItems_ = 0;
  bool shared_ = false;  // dq's sums lie by task, not by thread
  size_t sumBytes_ = 0, taskBytes_ = 0;
};

MadeKernel make(const KernelRequest& request) {
  auto kernel = std::make_unique<AttentionGrad>(request);
  MadeKernel made;
  made.label = attentionLabel("attention_grad", kernel->shape(), kernel->extras());
  made.scratchBytes = kernel->scratchBytes();
  made.flops = attentionFlops(kernel->shape(), 5);
  made.kernel = std::move(kernel);
  return made;
}

bool accepts(const Node&, size_t index, const Layout& layout) {
  return index == kLse || index >= kExtras ? layout.isDense() : hasUnitRows(layout);
}

bool writes(const Node&, size_t, const Layout& layout) { return hasUnitRows(layout); }

}  // namespace

const KernelEntry attentionGradEntry{.make = make, .accepts = accepts, .writes = writes};

}  // namespace lazuli
