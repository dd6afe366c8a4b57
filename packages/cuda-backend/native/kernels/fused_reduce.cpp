#include "kernels/fused_reduce.h"

#include <algorithm>

#include "kernels/fused_engine.h"
#include "parallel.h"

namespace lazuli {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth waking a thread for
constexpr int64_t kPanel =
    4096;  // accumulators: whole rows, which memory gives fastest, as far as L1 holds them
constexpr int64_t kEnoughTasks = 16;
constexpr int64_t kTasks = 32;

/// One reduction of a plan, at run time.
struct Reduction {
  const ReduceTable* table;
  int value;
  bool arg;
  size_t lane;
  DType dtype;
  std::byte* out;
};

std::vector<Reduction> reductions(const FusedPlan& plan, const KernelArgs& args) {
  std::vector<Reduction> all;
  for (const FusedSpec::Reduce& reduce : plan.spec.reduces) {
    const Lane lane = plan.spec.values[reduce.value].lane;
    all.push_back({&tileTable().reduce[static_cast<int>(reduce.kind)][static_cast<int>(lane)], reduce.value,
                   reduce.kind == ReduceKind::argmax || reduce.kind == ReduceKind::argmin, laneBytes(lane),
                   reduce.dtype, args.writes[reduce.write]});
  }
  return all;
}

/// Where the outputs of outer position `outer` begin.
int64_t outputOffset(const ReduceShape& shape, int64_t outer) {
  int64_t offset = 0;
  for (size_t dim = shape.outerExtents.size(); dim-- > 0;) {
    offset += outer % shape.outerExtents[dim] * shape.outerStrides[dim];
    outer /= shape.outerExtents[dim];
  }
  return offset;
}

void write(const Reduction& reduction, int64_t offset, int64_t stride, const RowState* states,
           int64_t stateStride, int64_t n) {
  alignas(64) std::byte tile[kTile * 8];
  const auto store = tileTable().store[static_cast<int>(reduction.dtype)];
  const int64_t size = static_cast<int64_t>(sizeBytes(reduction.dtype));
  for (int64_t i = 0; i < n; i += kTile) {
    const int64_t count = std::min(kTile, n - i);
    reduction.table->finish(tile, states + i * stateStride, stateStride, count);
    store(reduction.out + (offset + i * stride) * size, stride, tile, count);
  }
}

int64_t piecesEnd(const ReduceSplit& split, int64_t reduced, int64_t piece) {
  return std::min(reduced, (piece + 1) * split.length);
}

/// Rows: a task is one piece of one output, or (where rows are short) some whole outputs. States lie
/// [piece][output][reduce].
void runRows(const FusedPlan& plan, const ReduceSplit& split, const KernelArgs& args) {
  const ReduceShape& shape = plan.reduce;
  const auto all = reductions(plan, args);
  const int64_t many = static_cast<int64_t>(all.size());
  RowState* scratch = reinterpret_cast<RowState*>(args.scratch);
  // As many whole rows as one tile spans.
  const int64_t atOnce = split.pieces > 1 || !plan.acrossRows
                             ? 1
                             : std::max<int64_t>(1, kTile / std::max<int64_t>(1, shape.reduced));
  const int64_t groups = (shape.outer - 1) / atOnce + 1;
  const int64_t grain =
      std::max<int64_t>(1, kGrain / std::max<int64_t>(1, std::min(split.length, shape.reduced) * atOnce));
  parallelFor(groups * split.pieces, grain, [&](int64_t begin, int64_t end) {
    TileEngine engine(plan, args);
    std::vector<RowState> local(static_cast<size_t>(atOnce * many));
    for (int64_t task = begin; task < end; task++) {
      const int64_t piece = task % split.pieces, first = task / split.pieces * atOnce;
      const int64_t outputs = std::min(atOnce, shape.outer - first);
      RowState* states = split.pieces > 1 ? scratch + (piece * shape.outer + first) * many : local.data();
      for (int64_t o = 0; o < outputs; o++)
        for (int64_t k = 0; k < many; k++) all[k].table->init(states + o * many + k);
      if (atOnce > 1) {
        if (shape.reduced > 0) engine.tile(first * shape.reduced, (first + outputs) * shape.reduced);
        for (int64_t k = 0; k < many && shape.reduced > 0; k++)
          for (int64_t o = 0; o < outputs; o++)
            all[k].table->row(
                states + o * many + k,
                engine.value(all[k].value) + o * shape.reduced * static_cast<int64_t>(all[k].lane),
                shape.reduced, 0);
      } else {
        const int64_t start = first * shape.reduced;
        const int64_t to = piecesEnd(split, shape.reduced, piece);
        for (int64_t r = piece * split.length; r < to;) {
          const int64_t n = engine.tile(start + r, start + to);
          for (int64_t k = 0; k < many; k++) all[k].table->row(states + k, engine.value(all[k].value), n, r);
          r += n;
        }
      }
      if (split.pieces > 1) continue;
      for (int64_t k = 0; k < many; k++) write(all[k], first, 1, states + k, many, outputs);
    }
  });
  if (split.pieces == 1) return;
  for (int64_t o = 0; o < shape.outer; o++) {
    for (int64_t k = 0; k < many; k++) {
      RowState* into = scratch + o * many + k;
      for (int64_t piece = 1; piece < split.pieces; piece++)
        all[k].table->combine(into, scratch + (piece * shape.outer + o) * many + k);
      write(all[k], o, 1, into, 1, 1);
    }
  }
}

/// Columns: a task is one piece of the rows of one panel. States lie [piece][reduce][output].
void runColumns(const FusedPlan& plan, const ReduceSplit& split, const KernelArgs& args) {
  const ReduceShape& shape = plan.reduce;
  const auto all = reductions(plan, args);
  const int64_t many = static_cast<int64_t>(all.size());
  const int64_t outputs = shape.outer * shape.inner;
  RowState* scratch = reinterpret_cast<RowState*>(args.scratch);
  bool anyArg = false;
  for (const Reduction& reduction : all) anyArg |= reduction.arg;
  // Short rows share a tile, each with accumulators of its own.
  const int64_t rowsAtOnce = plan.acrossRows && !anyArg ? std::max<int64_t>(1, kTile / shape.inner) : 1;
  const int64_t accumulators = split.panel * rowsAtOnce;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, split.panel * split.length));
  parallelFor(shape.outer * split.panels * split.pieces, grain, [&](int64_t begin, int64_t end) {
    TileEngine engine(plan, args);
    std::vector<RowState> local(split.pieces > 1 ? 0 : static_cast<size_t>(split.panel * many));
    std::vector<uint64_t> lanes(static_cast<size_t>(accumulators * many));
    std::vector<int32_t> indices(static_cast<size_t>(anyArg ? accumulators * many : 0));
    const auto lane = [&](int64_t k) {
      return reinterpret_cast<std::byte*>(lanes.data() + k * accumulators);
    };
    const auto index = [&](int64_t k) { return anyArg ? indices.data() + k * accumulators : nullptr; };
    for (int64_t task = begin; task < end; task++) {
      const int64_t piece = task % split.pieces, panel = task / split.pieces % split.panels;
      const int64_t outer = task / split.pieces / split.panels;
      const int64_t from = panel * split.panel, width = std::min(split.panel, shape.inner - from);
      const auto states = [&](int64_t k) {
        return split.pieces > 1 ? scratch + (piece * many + k) * outputs + outer * shape.inner + from
                                : local.data() + k * split.panel;
      };
      const auto flush = [&] {
        for (int64_t k = 0; k < many; k++)
          for (int64_t row = 0; row < rowsAtOnce; row++)
            all[k].table->flush(states(k), lane(k) + row * width * static_cast<int64_t>(all[k].lane),
                                anyArg ? index(k) + row * width : nullptr, width);
      };
      const auto restart = [&] {
        for (int64_t k = 0; k < many; k++) all[k].table->columnInit(lane(k), index(k), width * rowsAtOnce);
      };
      for (int64_t k = 0; k < many; k++)
        for (int64_t i = 0; i < width; i++) all[k].table->init(states(k) + i);
      restart();
      const int64_t to = piecesEnd(split, shape.reduced, piece);
      int64_t steps = 0;
      for (int64_t r = piece * split.length; r < to; r += rowsAtOnce) {
        const int64_t start = (outer * shape.reduced + r) * shape.inner + from;
        const int64_t n = rowsAtOnce > 1 ? std::min(rowsAtOnce, to - r) * width : width;
        for (int64_t c = 0; c < n;) {
          const int64_t tile = engine.tile(start + c, start + n);
          for (int64_t k = 0; k < many; k++)
            all[k].table->column(lane(k) + c * static_cast<int64_t>(all[k].lane),
                                 anyArg ? index(k) + c : nullptr, engine.value(all[k].value), tile,
                                 static_cast<int32_t>(r));
          c += tile;
        }
        if (++steps == kFlushRows) {
          flush();
          restart();
          steps = 0;
        }
      }
      flush();
      if (split.pieces > 1) continue;
      const int64_t offset = outputOffset(shape, outer) + from * shape.innerStride;
      for (int64_t k = 0; k < many; k++) write(all[k], offset, shape.innerStride, states(k), 1, width);
    }
  });
  if (split.pieces == 1) return;
  parallelFor(shape.outer * split.panels, std::max<int64_t>(1, 4096 / split.panel),
              [&](int64_t begin, int64_t end) {
                for (int64_t task = begin; task < end; task++) {
                  const int64_t outer = task / split.panels, from = task % split.panels * split.panel;
                  const int64_t width = std::min(split.panel, shape.inner - from);
                  for (int64_t k = 0; k < many; k++) {
                    const auto states = [&](int64_t piece) {
                      return scratch + (piece * many + k) * outputs + outer * shape.inner + from;
                    };
                    for (int64_t piece = 1; piece < split.pieces; piece++)
                      for (int64_t i = 0; i < width; i++)
                        all[k].table->combine(states(0) + i, states(piece) + i);
                    write(all[k], outputOffset(shape, outer) + from * shape.innerStride, shape.innerStride,
                          states(0), 1, width);
                  }
                }
              });
}

}  // namespace

ReduceSplit splitReduce(const FusedPlan& plan) {
  const ReduceShape& shape = plan.reduce;
  const int64_t many = static_cast<int64_t>(plan.spec.reduces.size());
  ReduceSplit split;
  split.columns = shape.inner > 1;
  split.panel = std::min(shape.inner, kPanel);
  if (split.columns) split.panels = (shape.inner - 1) / split.panel + 1;
  split.length = std::max<int64_t>(shape.reduced, 1);
  const int64_t tasks = shape.outer * split.panels;
  if (tasks > 0 && tasks < kEnoughTasks) {
    const int64_t least = split.columns ? std::max<int64_t>(kFlushRows, kGrain / 2 / split.panel) : kGrain;
    const int64_t pieces = std::min((kTasks - 1) / tasks + 1, (split.length - 1) / least + 1);
    // Whole tiles, so that only a row's last tile is a short one.
    const int64_t unit = split.columns ? 1 : kTile;
    split.length = ((split.length - 1) / pieces / unit + 1) * unit;
    split.pieces = (std::max<int64_t>(shape.reduced, 1) - 1) / split.length + 1;
  }
  if (split.pieces > 1)
    split.scratchBytes =
        static_cast<size_t>(split.pieces * many * shape.outer * shape.inner) * sizeof(RowState);
  return split;
}

void runReduce(const FusedPlan& plan, const ReduceSplit& split, const KernelArgs& args) {
  if (plan.reduce.outer == 0 || plan.reduce.inner == 0) return;
  split.columns ? runColumns(plan, split, args) : runRows(plan, split, args);
}

}  // namespace lazuli
