#include <algorithm>
#include <cstring>

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

/// Where a bias gets its cotangent, tasks are cut by the shapes alone, so that sums have one order whatever
/// the number of threads: into so many, and no more than the second for what makes copies of the cotangent.
constexpr int64_t kBiasTasks = 32, kBiasChunks = 8;

/// The (batch, group) pairs that one slab of a bias's cotangent is summed over. They are done in waves of
/// `chunks` at once; a chunk has sums of its own, added up at the end.
struct BiasSharing {
  bool byBatch = false, byGroup = false;  // whether the pairs of a slab differ so
  int64_t slabs = 0, pairs = 1;           // pairs of a slab
  int64_t chunks = 1;

  BiasSharing(const AttentionShape& s, const TensorType* bias) : slabs(s.batch * s.groups) {
    if (!bias) return;
    byBatch = bias->shape[0] == 1 && s.batch != 1;
    byGroup = bias->shape[1] == 1 && s.groups != 1;
    pairs = (byBatch ? s.batch : 1) * (byGroup ? s.groups : 1);
    slabs = (byBatch ? 1 : s.batch) * (byGroup ? 1 : s.groups);
  }
  int64_t waves() const { return (pairs + chunks - 1) / chunks; }
  /// Of the slab's pair of this number.
  int64_t pairOf(const AttentionShape& s, int64_t slab, int64_t number) const {
    if (byBatch && byGroup) return number;
    return byBatch ? number * s.groups + slab : slab * pairs + number;
  }
};

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
        extras_(attentionExtras(request.operands, kExtras)),
        bias_(request.operands, extras_.bias),
        turnQ_(request, 0),
        turnK_(request, 1),
        sharing_(s_, request.results.size() > 3 ? &request.results[3] : nullptr),
        item_(sizeBytes(s_.dtype)) {
    const int64_t pairs = std::max<int64_t>(1, sharing_.slabs), threads = threadCount();
    if (request.results.size() > 3) {
      planBias(request.results[3]);
    } else if (pairs < 4 * threads && threads > 1) {
      parts_ = (4 * threads + pairs - 1) / pairs;
    }
    parts_ = std::clamp<int64_t>(parts_, 1, kMostParts);
    parts_ = std::clamp<int64_t>(attentionBlocks(s_.keys), 1, parts_);
    if (hasBiasGrad_) {
      sharing_.chunks =
          std::clamp<int64_t>(kBiasChunks / (pairs * parts_), 1, std::max<int64_t>(1, sharing_.pairs));
      biasSums_ = sharing_.chunks * (dbias_.col == 0 ? parts_ : 1);
    }
    headItems_ = attentionBlocks(s_.queries) * kAttentionBlock * attentionPadded(s_.depth);
    partItems_ = s_.heads / std::max<int64_t>(1, s_.groups) * headItems_;
    shared_ = parts_ > 1;
    sumBytes_ = alignedBytes(static_cast<size_t>(partItems_) * attentionWorkBytes(s_.dtype));
    sums_ = shared_ ? pairs * sharing_.chunks * parts_ : threads;
    turnedQAt_ = alignedBytes(attention().gradScratch(s_, parts_));
    const int64_t heads = s_.heads / std::max<int64_t>(1, s_.groups);
    const auto bytesOf = [&](const AttentionTurn& turn, int64_t rows) {
      return turn.isOn() ? alignedBytes(static_cast<size_t>(rows * s_.depth) * item_) : 0;
    };
    turnedKAt_ = turnedQAt_ + bytesOf(turnQ_, heads * s_.queries);
    taskBytes_ = turnedKAt_ + bytesOf(turnK_, s_.keys);
    biasAt_ = static_cast<size_t>(sums_) * sumBytes_ + static_cast<size_t>(threads) * taskBytes_;
  }

  size_t scratchBytes() const { return biasAt_ + static_cast<size_t>(biasSums_ - 1) * biasBytes_; }
  const AttentionShape& shape() const { return s_; }
  const AttentionExtras& extras() const { return extras_; }

  void run(const KernelArgs& args) const override {
    const AttentionShape s = shifted(s_, extras_.shift, args.reads);
    for (int64_t sum = 0; hasBiasGrad_ && sum < biasSums_; sum++) clearBias(biasSum(args, sum));
    for (int64_t wave = 0; wave < sharing_.waves(); wave++) runWave(s, args, wave);
    if (biasSums_ > 1) addBiasSums(args);
  }

 private:
  /// (slab, chunk) by number: its pair, or -1 in the last wave, where there may be none.
  int64_t pairOf(int64_t wave, int64_t number) const {
    const int64_t inSlab = wave * sharing_.chunks + number % sharing_.chunks;
    return inSlab < sharing_.pairs ? sharing_.pairOf(s_, number / sharing_.chunks, inSlab) : -1;
  }

  void runWave(const AttentionShape& s, const KernelArgs& args, int64_t wave) const {
    const int64_t numbers = sharing_.slabs * sharing_.chunks;
    parallelTasks(numbers * parts_, threadCount(), [&](int64_t task, int thread) {
      const int64_t number = task / parts_, part = task % parts_, pair = pairOf(wave, number);
      if (pair < 0) return;
      std::byte* scratch =
          args.scratch + static_cast<size_t>(sums_) * sumBytes_ + static_cast<size_t>(thread) * taskBytes_;
      std::byte* sums = args.scratch + static_cast<size_t>(shared_ ? task : thread) * sumBytes_;
      const int64_t biasSum = number % sharing_.chunks * (biasSums_ / sharing_.chunks);
      keys(s, args, pair, part, biasSum + (biasSums_ > sharing_.chunks ? part : 0), sums, scratch);
      if (!shared_)
        for (int64_t h = 0; h < s_.heads / s_.groups; h++) queries(args, pair, h, 0, s_.queries, sums);
    });
    if (!shared_) return;
    const int64_t heads = s_.heads / s_.groups, blocks = attentionBlocks(s_.queries);
    parallelFor(numbers * heads * blocks, 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t number = i / blocks / heads, first = i % blocks * kAttentionBlock;
        const int64_t pair = pairOf(wave, number);
        if (pair < 0) continue;
        queries(args, pair, i / blocks % heads, first, std::min(kAttentionBlock, s_.queries - first),
                args.scratch + static_cast<size_t>(number * parts_) * sumBytes_);
      }
    });
  }

  void planBias(const TensorType& bias) {
    hasBiasGrad_ = true;
    biasItems_ = bias.elements();
    biasBytes_ = alignedBytes(bias.bytes());
    const Dims strides = denseStrides(bias.shape);
    const auto stride = [&](size_t dim) { return bias.shape[dim] == 1 ? 0 : strides[dim]; };
    biasBatch_ = stride(0);
    dbias_ = {nullptr, stride(1), stride(2), stride(3)};
    const int64_t slabs = std::max<int64_t>(1, sharing_.slabs);
    parts_ = (kBiasTasks + slabs - 1) / slabs;
  }

  /// The first are the result itself.
  std::byte* biasSum(const KernelArgs& args, int64_t number) const {
    if (number == 0) return args.writes[3];
    return args.scratch + biasAt_ + static_cast<size_t>(number - 1) * biasBytes_;
  }

  void clearBias(std::byte* sums) const {
    const int64_t item = static_cast<int64_t>(attentionWorkBytes(s_.dtype));
    parallelFor(biasItems_, 1 << 16, [&](int64_t begin, int64_t end) {
      std::memset(sums + begin * item, 0, static_cast<size_t>((end - begin) * item));
    });
  }

  void addBiasSums(const KernelArgs& args) const {
    const auto add = [&](auto zero) {
      using T = decltype(zero);
      T* to = reinterpret_cast<T*>(args.writes[3]);
      parallelFor(biasItems_, 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t sum = 1; sum < biasSums_; sum++) {
          const T* from = reinterpret_cast<const T*>(biasSum(args, sum));
          for (int64_t i = begin; i < end; i++) to[i] += from[i];
        }
      });
    };
    if (s_.dtype == DType::f64)
      add(0.0);
    else
      add(0.0f);
  }

  void keys(const AttentionShape& s, const KernelArgs& args, int64_t pair, int64_t part, int64_t ofBias,
            std::byte* sums, std::byte* scratch) const {
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
    if (turnQ_.isOn()) turnQueries(args, t, batch, head, scratch + turnedQAt_);
    if (turnK_.isOn()) turnKeys(args, t, batch, group, part, scratch + turnedKAt_);
    t.lse = rows(kLse);
    t.dlse = extras_.dlse >= 0 ? rows(static_cast<size_t>(extras_.dlse)) : nullptr;
    t.querySegments = attentionSegments(extras_, 0, args.reads, batch, s_.queries);
    t.keySegments = attentionSegments(extras_, 1, args.reads, batch, s_.keys);
    t.bias = bias_.at(args.reads, batch, head);
    t.biasHead = bias_.headStride();
    t.dbias = dbias_;
    if (hasBiasGrad_)
      t.dbias.data = biasSum(args, ofBias) + (batch * biasBatch_ + head * dbias_.head) *
                                                 static_cast<int64_t>(attentionWorkBytes(s_.dtype));
    t.dk = dk_.at(args.writes[1], batch, group);
    t.dv = dv_.at(args.writes[2], batch, group);
    t.dkRow = dk_.rowStride;
    t.dvRow = dv_.rowStride;
    t.dq = sums;
    t.firstKeyBlock = part;
    t.keyStep = parts_;
    t.scratch = scratch;
    attention().grad(s, t);
    if (turnK_.turnsBack())
      eachKeyBlock(part, [&](int64_t first, int64_t count) {
        std::byte* dk = dk_.at(args.writes[1], batch, group, first);
        turnK_.run(args.reads, dk, dk_.rowStride, first, count, true, dk, dk_.rowStride);
      });
  }

  void turnQueries(const KernelArgs& args, AttentionGradTask& t, int64_t batch, int64_t head,
                   std::byte* to) const {
    t.qRow = s_.depth;
    t.qHead = s_.queries * s_.depth;
    for (int64_t h = 0; h < s_.heads / s_.groups; h++)
      turnQ_.run(args.reads, q_.at(args.reads[0], batch, head + h), q_.rowStride, 0, s_.queries, false,
                 to + static_cast<size_t>(h * t.qHead) * item_, s_.depth);
    t.q = to;
  }

  void turnKeys(const KernelArgs& args, AttentionGradTask& t, int64_t batch, int64_t group, int64_t part,
                std::byte* to) const {
    eachKeyBlock(part, [&](int64_t first, int64_t count) {
      turnK_.run(args.reads, k_.at(args.reads[1], batch, group, first), k_.rowStride, first, count, false,
                 to + static_cast<size_t>(first * s_.depth) * item_, s_.depth);
    });
    t.k = to;
    t.kRow = s_.depth;
  }

  /// Calls `f(first, count)` for the blocks of keys of a part.
  template <class F>
  void eachKeyBlock(int64_t part, F&& f) const {
    for (int64_t first = part * kAttentionBlock; first < s_.keys; first += parts_ * kAttentionBlock)
      f(first, std::min(kAttentionBlock, s_.keys - first));
  }

  /// dq of the rows from `first` on of the pair's `head`-th head.
  void queries(const KernelArgs& args, int64_t pair, int64_t head, int64_t first, int64_t count,
               const std::byte* sums) const {
    const int64_t work = static_cast<int64_t>(attentionWorkBytes(s_.dtype));
    const int64_t heads = s_.heads / s_.groups, ofBatch = pair % s_.groups * heads + head;
    attention().gradQueries(s_, sums + (head * headItems_ + first * attentionPadded(s_.depth)) * work, parts_,
                            static_cast<int64_t>(sumBytes_) / work, count,
                            dq_.at(args.writes[0], pair / s_.groups, ofBatch, first), dq_.rowStride);
    if (!turnQ_.turnsBack()) return;
    std::byte* dq = dq_.at(args.writes[0], pair / s_.groups, ofBatch, first);
    turnQ_.run(args.reads, dq, dq_.rowStride, first, count, true, dq, dq_.rowStride);
  }

  AttentionShape s_;
  AttentionOperand q_, k_, v_, out_, dout_, dq_, dk_, dv_;
  AttentionExtras extras_;
  AttentionBiasOperand bias_;
  AttentionTurn turnQ_, turnK_;
  BiasSharing sharing_;
  size_t item_;
  int64_t parts_ = 1, sums_ = 0, headItems_ = 0, partItems_ = 0;
  bool shared_ = false;  // dq's sums lie by task, not by thread
  size_t sumBytes_ = 0, taskBytes_ = 0, turnedQAt_ = 0, turnedKAt_ = 0;
  bool hasBiasGrad_ = false;
  AttentionBiasGrad dbias_;  // without data
  int64_t biasItems_ = 0, biasBatch_ = 0, biasSums_ = 1;
  size_t biasBytes_ = 0, biasAt_ = 0;  // where sums beside the result begin in the scratch
};

MadeKernel make(const KernelRequest& request) {
  auto kernel = std::make_unique<AttentionGrad>(request);
  MadeKernel made;
  made.label = attentionLabel(request, kernel->shape(), kernel->extras());
  made.scratchBytes = kernel->scratchBytes();
  made.flops = attentionFlops(kernel->shape(), 5);
  made.kernel = std::move(kernel);
  return made;
}

bool accepts(const Node&, size_t index, const Layout& layout) {
  if (index != kLse && index < kExtras) return hasUnitRows(layout);
  return layout.shape.size() == 4 ? isBiasRead(layout) : layout.isDense();
}

/// The gradient of a bias is summed in its result's own order.
bool writes(const Node&, size_t result, const Layout& layout) { return result < 3 && hasUnitRows(layout); }

}  // namespace

const KernelEntry attentionGradEntry{.make = make, .accepts = accepts, .writes = writes},
    attentionBiasGradEntry{.make = make, .accepts = accepts, .writes = writes};

}  // namespace lazuli
