#include "kernels/attention.h"

#include <algorithm>
#include <cstring>

#include "kernels/attention_shape.h"
#include "parallel.h"

namespace lazuli {

AttentionShape attentionShape(const KernelRequest& request) {
  static_assert(attr::attention::causal == attr::attention_grad::causal &&
                attr::attention::offset == attr::attention_grad::offset &&
                attr::attention::scale == attr::attention_grad::scale &&
                attr::attention::window == attr::attention_grad::window &&
                attr::attention::causal == attr::attention_bias_grad::causal &&
                attr::attention::offset == attr::attention_bias_grad::offset &&
                attr::attention::scale == attr::attention_bias_grad::scale &&
                attr::attention::window == attr::attention_bias_grad::window);
  const Layout &q = request.operands[0], &k = request.operands[1], &v = request.operands[2];
  return {q.shape[0],
          q.shape[1],
          k.shape[1],
          q.shape[2],
          k.shape[2],
          q.shape[3],
          v.shape[3],
          request.node.flag(attr::attention::causal),
          request.node.integer(attr::attention::offset),
          request.node.integer(attr::attention::window),
          request.node.number(attr::attention::scale),
          q.dtype};
}

AttentionExtras attentionExtras(const std::vector<Layout>& operands, size_t fixed) {
  AttentionExtras extras;
  for (size_t i = fixed; i < operands.size(); i++) {
    const size_t rank = operands[i].shape.size();
    if (rank == 4) extras.bias = static_cast<int>(i);
    if (rank == 3) extras.dlse = static_cast<int>(i);
    if (rank == 2 && operands[i].dtype == DType::i32 && extras.segments < 0)
      extras.segments = static_cast<int>(i);
    if (rank == 0) extras.shift = static_cast<int>(i);
  }
  return extras;
}

AttentionBiasOperand::AttentionBiasOperand(const std::vector<Layout>& operands, int index) : index_(index) {
  if (index < 0) return;
  const Layout& layout = operands[static_cast<size_t>(index)];
  dtype_ = layout.dtype;
  offset_ = layout.offset;
  for (size_t dim = 0; dim < 4; dim++) strides_[dim] = layout.shape[dim] == 1 ? 0 : layout.strides[dim];
}

AttentionBias AttentionBiasOperand::at(const std::byte* const* reads, int64_t batch, int64_t head) const {
  if (index_ < 0) return {};
  const int64_t item = static_cast<int64_t>(sizeBytes(dtype_));
  return {reads[index_] + (offset_ + batch * strides_[0] + head * strides_[1]) * item, dtype_, item,
          strides_[2], strides_[3]};
}

AttentionTurn::AttentionTurn(const KernelRequest& request, size_t which) {
  if (request.node.attrs.size() <= kAttentionTurns) return;
  const auto has = [&](int64_t bit, size_t of) {
    return (request.node.integer(kAttentionTurns) & bit << of) != 0;
  };
  if (!has(kTurned, which)) return;
  turnsBack_ = has(kTurnedBack, which);
  cos_ = request.operands.size() - (which == 0 && has(kTurned, 1) ? 4 : 2);
  const Layout& x = request.operands[which];
  const DType table = request.operands[cos_].dtype;
  width_ = x.shape.back();
  tableItem_ = sizeBytes(table);
  const size_t code = static_cast<size_t>(x.dtype), single = table == DType::f32;
  const RopeTable& workers = ropeTable();
  worker_ = has(kInterleaved, which) ? workers.interleaved[code][single] : workers.halves[code][single];
}

void AttentionTurn::run(const std::byte* const* reads, const std::byte* x, int64_t xStride, int64_t first,
                        int64_t count, bool inverse, std::byte* y, int64_t yStride) const {
  const size_t at = static_cast<size_t>(first * (width_ / 2)) * tableItem_;
  worker_({x, xStride, reads[cos_] + at, reads[cos_ + 1] + at, y, yStride, count, width_, inverse});
}

const int32_t* attentionSegments(const AttentionExtras& extras, int of, const std::byte* const* reads,
                                 int64_t batch, int64_t length) {
  if (extras.segments < 0) return nullptr;
  return reinterpret_cast<const int32_t*>(reads[extras.segments + of]) + batch * length;
}

AttentionShape shifted(const AttentionShape& shape, int shift, const std::byte* const* reads) {
  AttentionShape out = shape;
  if (shift < 0) return out;
  int32_t value;
  std::memcpy(&value, reads[shift], sizeof value);
  out.offset += value;
  return out;
}

double attentionFlops(const AttentionShape& s, double products) {
  double pairs = 0;  // (query, key) that see each other
  for (int64_t i = 0; i < s.queries; i++) {
    const int64_t end = i + s.offset + 1;
    const int64_t last = s.causal ? std::clamp<int64_t>(end, 0, s.keys) : s.keys;
    const int64_t first = s.window > 0 ? std::clamp<int64_t>(end - s.window, 0, last) : 0;
    pairs += static_cast<double>(last - first);
  }
  return 2 * products * static_cast<double>(s.batch * s.heads) * pairs *
         static_cast<double>(s.depth + s.valueDepth) / 2;
}

std::string attentionLabel(const KernelRequest& request, const AttentionShape& s,
                           const AttentionExtras& extras) {
  std::string text = std::string(info(request.node.op).name) + " " + name(s.dtype) + " " +
                     format({s.batch, s.heads, s.queries, s.depth});
  if (s.groups != s.heads) text += " groups " + std::to_string(s.groups);
  if (s.keys != s.queries) text += " keys " + std::to_string(s.keys);
  if (s.causal) text += " causal";
  if (s.window > 0) text += " window " + std::to_string(s.window);
  if (extras.bias >= 0) text += " bias";
  if (extras.segments >= 0) text += " segments";
  if (request.node.attrs.size() > kAttentionTurns) text += " + rope";
  return text;
}

bool hasUnitRows(const Layout& layout) {
  return layout.shape.empty() ? layout.isDense() : layout.shape.back() <= 1 || layout.strides.back() == 1;
}

bool isBiasRead(const Layout& layout) { return hasUnitRows(layout) || layout.strides.back() == 0; }

namespace {

constexpr size_t kExtras = 3;

class Attention final : public Kernel {
 public:
  explicit Attention(const KernelRequest& request)
      : s_(attentionShape(request)),
        q_(request.operands[0]),
        k_(request.operands[1]),
        v_(request.operands[2]),
        out_(request.target(0)),
        extras_(attentionExtras(request.operands, kExtras)),
        bias_(request.operands, extras_.bias),
        turnQ_(request, 0),
        turnK_(request, 1),
        item_(sizeBytes(s_.dtype)),
        shared_(s_.batch * s_.groups < 4 * threadCount() && threadCount() > 1) {
    const int64_t keys = attentionBlocks(s_.keys) * kAttentionBlock;
    const size_t work = attentionWorkBytes(s_.dtype);
    keyBytes_ = static_cast<size_t>(keys * s_.depth) * work;
    packedBytes_ = keyBytes_ + static_cast<size_t>(keys * attentionPadded(s_.valueDepth)) * work;
    packs_ = shared_ ? s_.batch * s_.groups : threadCount();
    turnedAt_ = alignedBytes(attention().forwardScratch(s_));
    const bool turns = turnQ_.isOn() || turnK_.isOn();
    blockBytes_ =
        turnedAt_ + (turns ? alignedBytes(static_cast<size_t>(kAttentionBlock * s_.depth) * item_) : 0);
  }

  size_t scratchBytes() const {
    return static_cast<size_t>(packs_) * packedBytes_ + static_cast<size_t>(threadCount()) * blockBytes_;
  }
  const AttentionShape& shape() const { return s_; }
  const AttentionExtras& extras() const { return extras_; }

  void run(const KernelArgs& args) const override {
    if (s_.batch * s_.heads * s_.queries == 0) return;
    const AttentionShape s = shifted(s_, extras_.shift, args.reads);
    std::byte* blocks = args.scratch + static_cast<size_t>(packs_) * packedBytes_;
    const int64_t queryBlocks = attentionBlocks(s_.queries);
    if (!shared_) {
      // Enough (batch, group) pairs: a thread packs the keys and values of one, which stay in its cache.
      const int64_t heads = s_.heads / s_.groups;
      parallelTasks(s_.batch * s_.groups, threadCount(), [&](int64_t pair, int thread) {
        std::byte* packed = args.scratch + static_cast<size_t>(thread) * packedBytes_;
        std::byte* scratch = blocks + static_cast<size_t>(thread) * blockBytes_;
        for (int64_t j = 0; j < attentionBlocks(s_.keys); j++) pack(args, pair, j, packed, scratch);
        for (int64_t i = 0; i < heads * queryBlocks; i++)
          block(s, args, pair / s_.groups, pair % s_.groups * heads + i / queryBlocks, i % queryBlocks,
                packed, scratch);
      });
      return;
    }
    const int64_t keyBlocks = attentionBlocks(s_.keys);
    const int64_t packings = s_.batch * s_.groups * keyBlocks;
    parallelTasks((packings + 3) / 4, threadCount(), [&](int64_t task, int thread) {
      for (int64_t i = task * 4; i < std::min(packings, task * 4 + 4); i++)
        pack(args, i / keyBlocks, i % keyBlocks,
             args.scratch + static_cast<size_t>(i / keyBlocks) * packedBytes_,
             blocks + static_cast<size_t>(thread) * blockBytes_);
    });
    const int64_t pairs = s_.batch * s_.heads;
    parallelTasks(queryBlocks * pairs, threadCount(), [&](int64_t task, int thread) {
      // The last queries see the most keys: the longest tasks go first, so that the threads end together.
      const int64_t batch = task % pairs / s_.heads, head = task % pairs % s_.heads;
      const int64_t pair = batch * s_.groups + head / (s_.heads / s_.groups);
      block(s, args, batch, head, queryBlocks - 1 - task / pairs,
            args.scratch + static_cast<size_t>(pair) * packedBytes_,
            blocks + static_cast<size_t>(thread) * blockBytes_);
    });
  }

 private:
  struct Rows {
    const std::byte* at;
    int64_t stride;
  };
  /// A block of operand `index`, as it lies or turned into the scratch.
  Rows turned(const AttentionTurn& turn, const KernelArgs& args, const AttentionOperand& operand,
              size_t index, int64_t batch, int64_t head, int64_t first, int64_t count,
              std::byte* scratch) const {
    const std::byte* at = operand.at(args.reads[index], batch, head, first);
    if (!turn.isOn()) return {at, operand.rowStride};
    turn.run(args.reads, at, operand.rowStride, first, count, false, scratch + turnedAt_, s_.depth);
    return {scratch + turnedAt_, s_.depth};
  }

  void pack(const KernelArgs& args, int64_t pair, int64_t keyBlock, std::byte* packed,
            std::byte* scratch) const {
    const int64_t batch = pair / s_.groups, group = pair % s_.groups, first = keyBlock * kAttentionBlock;
    const int64_t work = static_cast<int64_t>(attentionWorkBytes(s_.dtype));
    const int64_t count = std::min(kAttentionBlock, s_.keys - first);
    const Rows k = turned(turnK_, args, k_, 1, batch, group, first, count, scratch);
    attention().packKeys(
        s_, k.at, k.stride, v_.at(args.reads[2], batch, group, first), v_.rowStride, count,
        packed + first * s_.depth * work,
        packed + static_cast<int64_t>(keyBytes_) + first * attentionPadded(s_.valueDepth) * work);
  }

  void block(const AttentionShape& s, const KernelArgs& args, int64_t batch, int64_t head, int64_t queryBlock,
             const std::byte* packed, std::byte* scratch) const {
    const int64_t first = queryBlock * kAttentionBlock, row = (batch * s_.heads + head) * s_.queries + first;
    const int32_t* segments = attentionSegments(extras_, 0, args.reads, batch, s_.queries);
    const int64_t count = std::min(kAttentionBlock, s_.queries - first);
    const Rows q = turned(turnQ_, args, q_, 0, batch, head, first, count, scratch);
    attention().forward(
        s, {q.at, q.stride, first, count, packed, packed + keyBytes_, segments ? segments + first : nullptr,
            attentionSegments(extras_, 1, args.reads, batch, s_.keys),
            attentionBiasFrom(bias_.at(args.reads, batch, head), first, 0),
            out_.at(args.writes[0], batch, head, first), out_.rowStride,
            reinterpret_cast<float*>(args.writes[1]) + row, scratch});
  }

  AttentionShape s_;
  AttentionOperand q_, k_, v_, out_;
  AttentionExtras extras_;
  AttentionBiasOperand bias_;
  AttentionTurn turnQ_, turnK_;
  size_t item_;
  bool shared_;  // packed keys and values lie by (batch, group), not by thread
  size_t keyBytes_ = 0, packedBytes_ = 0, blockBytes_ = 0, turnedAt_ = 0;
  int64_t packs_ = 0;
};

MadeKernel make(const KernelRequest& request) {
  auto kernel = std::make_unique<Attention>(request);
  MadeKernel made;
  made.label = attentionLabel(request, kernel->shape(), kernel->extras());
  made.scratchBytes = kernel->scratchBytes();
  made.flops = attentionFlops(kernel->shape(), 2);
  made.kernel = std::move(kernel);
  return made;
}

bool accepts(const Node&, size_t index, const Layout& layout) {
  if (index < kExtras) return hasUnitRows(layout);
  return layout.shape.size() == 4 ? isBiasRead(layout) : layout.isDense();
}

bool writes(const Node&, size_t result, const Layout& layout) { return result == 0 && hasUnitRows(layout); }

}  // namespace

const KernelEntry attentionEntry{.make = make, .accepts = accepts, .writes = writes};

}  // namespace lazuli
