#include "kernels/fused_plan.h"

#include <algorithm>
#include <cstdlib>
#include <map>

namespace lazuli {
namespace {

using Value = FusedSpec::Value;
using Kind = FusedSpec::Value::Kind;

bool hasAccess(const Value& value) {
  return value.kind == Kind::load || value.kind == Kind::index || value.kind == Kind::uniform ||
         value.kind == Kind::normal;
}

/// Pairs of ops that one pass over a tile can do, where the first has no other use.
void combine(FusedSpec& spec, std::vector<bool>& dead) {
  std::vector<int> uses(spec.values.size(), 0);
  for (const Value& value : spec.values)
    for (int arg : value.args)
      if (arg >= 0) uses[arg]++;
  for (const auto& store : spec.stores) uses[store.value]++;
  for (const auto& reduce : spec.reduces) uses[reduce.value]++;
  auto single = [&](int index, TileOp op, Lane lane) {
    const Value& value = spec.values[index];
    return value.kind == Kind::op && value.op == op && value.lane == lane && uses[index] == 1;
  };
  for (Value& value : spec.values) {
    if (value.kind != Kind::op || (value.lane != Lane::f32 && value.lane != Lane::f64)) continue;
    int a = value.args[0], b = value.args[1];
    auto fuse = [&](TileOp op, int first, int third) {
      const Value& inner = spec.values[first];
      value.op = op;
      value.args[0] = inner.args[0];
      value.args[1] = op == TileOp::silu_mul ? third : inner.args[1];
      value.args[2] = op == TileOp::silu_mul ? -1 : third;
      dead[first] = true;
    };
    if (a == b) continue;
    if (value.op == TileOp::mul && single(a, TileOp::silu, value.lane)) {
      fuse(TileOp::silu_mul, a, b);
    } else if (value.op == TileOp::mul && single(b, TileOp::silu, value.lane)) {
      fuse(TileOp::silu_mul, b, a);
    } else if (value.op == TileOp::add && single(a, TileOp::mul, value.lane)) {
      fuse(TileOp::mul_add, a, b);
    } else if (value.op == TileOp::add && single(b, TileOp::mul, value.lane)) {
      fuse(TileOp::mul_add, b, a);
    } else if (value.op == TileOp::sub && single(a, TileOp::mul, value.lane)) {
      fuse(TileOp::mul_sub, a, b);
    } else if (value.op == TileOp::sub && single(b, TileOp::mul, value.lane)) {
      fuse(TileOp::sub_mul, b, a);
    }
  }
}

/// The dims of the space as the plan has them, before merging.
struct Order {
  std::vector<size_t> dims;
  size_t outer = 0, reduced = 0;  // how many of each come first
};

/// The dim along which most bytes lie next to each other; the last where nothing tells.
size_t innermost(const FusedSpec& spec, const std::vector<size_t>& dims) {
  size_t best = dims.back();
  int64_t most = -1;
  for (size_t i = dims.size(); i-- > 0;) {
    int64_t bytes = 0;
    auto count = [&](const Layout& layout) {
      if (std::abs(layout.strides[dims[i]]) == 1) bytes += static_cast<int64_t>(sizeBytes(layout.dtype));
    };
    for (const Value& value : spec.values)
      if (value.kind == Kind::load) count(value.layout);
    for (const auto& store : spec.stores) count(store.layout);
    if (bytes > most) most = bytes, best = dims[i];
  }
  return best;
}

Order orderDims(const FusedSpec& spec) {
  std::vector<size_t> dims;
  for (size_t i = 0; i < spec.space.size(); i++)
    if (spec.space[i] != 1) dims.push_back(i);
  if (spec.reduces.empty() || dims.empty()) return {dims, dims.size(), 0};
  auto isReduced = [&](size_t dim) { return static_cast<bool>(spec.reduced[dim]); };
  std::vector<size_t> kept, reduced;
  for (size_t dim : dims) (isReduced(dim) ? reduced : kept).push_back(dim);
  bool ordered = false;  // argmax and argmin count along the reduced dims
  for (const auto& reduce : spec.reduces)
    ordered |= reduce.kind == ReduceKind::argmax || reduce.kind == ReduceKind::argmin;
  size_t inner = innermost(spec, dims);
  if (ordered && isReduced(inner) && inner != reduced.back()) inner = dims.back();
  Order order;
  if (isReduced(inner)) {
    order.dims = kept;
    for (size_t dim : reduced)
      if (dim != inner) order.dims.push_back(dim);
    order.dims.push_back(inner);
    order.outer = kept.size();
  } else {
    size_t from = kept.size() - 1;
    if (inner == dims.back()) {
      while (from > 0 && (reduced.empty() || kept[from - 1] > reduced.back())) from--;
    } else {
      from = static_cast<size_t>(std::find(kept.begin(), kept.end(), inner) - kept.begin());
    }
    size_t to = inner == dims.back() ? kept.size() : from + 1;
    for (size_t i = 0; i < kept.size(); i++)
      if (i < from || i >= to) order.dims.push_back(kept[i]);
    order.outer = order.dims.size();
    order.dims.insert(order.dims.end(), reduced.begin(), reduced.end());
    order.dims.insert(order.dims.end(), kept.begin() + from, kept.begin() + to);
  }
  order.reduced = reduced.size();
  return order;
}

/// Makes the plan's extents and accesses: dims in `order`, neighbours merged where every access allows it.
void arrange(FusedPlan& plan, const Order& order, std::vector<int>& accessOf, std::vector<int>& storeAccess) {
  const FusedSpec& spec = plan.spec;
  auto add = [&](const Layout& layout, uint32_t buffer) {
    TileAccess access;
    access.buffer = buffer;
    access.dtype = layout.dtype;
    access.offset = layout.offset;
    for (size_t dim : order.dims) access.strides.push_back(layout.strides[dim]);
    plan.accesses.push_back(std::move(access));
    return static_cast<int>(plan.accesses.size()) - 1;
  };
  for (size_t i = 0; i < spec.values.size(); i++) {
    const Value& value = spec.values[i];
    if (!hasAccess(value)) continue;
    accessOf[i] = add(value.layout, value.read);
    if (value.pad.empty()) continue;
    for (size_t dim : order.dims) plan.accesses[accessOf[i]].pad.push_back(value.pad[dim]);
  }
  for (const auto& store : spec.stores) storeAccess.push_back(add(store.layout, store.write));
  // The outputs of reductions, for their strides.
  int output = -1;
  if (!spec.reduces.empty()) {
    Dims shape;
    for (size_t i = 0; i < spec.space.size(); i++) shape.push_back(spec.reduced[i] ? 1 : spec.space[i]);
    Layout layout = Layout::dense({DType::f32, shape});
    for (size_t i = 0; i < spec.space.size(); i++)
      if (spec.reduced[i]) layout.strides[i] = 0;
    output = add(layout, 0);
  }

  auto group = [&](size_t i) { return i < order.outer ? 0 : i < order.outer + order.reduced ? 1 : 2; };
  std::vector<int> groups;
  auto trivial = [](const PadWindow& window, int64_t extent) {
    return window.low == 0 && window.step == 1 && window.count == extent;
  };
  std::vector<TileAccess> merged = plan.accesses;
  for (TileAccess& access : merged) access.strides.clear(), access.pad.clear();
  for (size_t i = 0; i < order.dims.size(); i++) {
    const int64_t extent = spec.space[order.dims[i]];
    bool joins = !groups.empty() && groups.back() == group(i);
    for (size_t a = 0; joins && a < merged.size(); a++) {
      const TileAccess& access = plan.accesses[a];
      joins = merged[a].strides.back() == access.strides[i] * extent;
      if (!access.pad.empty())
        joins = joins && trivial(access.pad[i], extent) && trivial(merged[a].pad.back(), plan.extents.back());
    }
    if (joins) {
      plan.extents.back() *= extent;
    } else {
      plan.extents.push_back(extent);
      groups.push_back(group(i));
    }
    for (size_t a = 0; a < merged.size(); a++) {
      const TileAccess& access = plan.accesses[a];
      if (joins) {
        merged[a].strides.back() = access.strides[i];
        if (!access.pad.empty()) merged[a].pad.back().count = plan.extents.back();
      } else {
        merged[a].strides.push_back(access.strides[i]);
        if (!access.pad.empty()) merged[a].pad.push_back(access.pad[i]);
      }
    }
  }
  if (plan.extents.empty()) {
    plan.extents.push_back(1);
    groups.push_back(0);
    for (TileAccess& access : merged) access.strides.push_back(0);
  }
  if (plan.extents.size() > kMaxDims) throw ProgramError("more dims than a fused kernel takes");
  plan.accesses = std::move(merged);
  for (TileAccess& access : plan.accesses) {
    const Dims dense = denseStrides(plan.extents);
    access.linear = access.pad.empty();
    for (size_t i = 0; i < dense.size(); i++)
      access.linear &= access.strides[i] == dense[i] || plan.extents[i] == 1;
  }
  if (output >= 0) {
    ReduceShape& shape = plan.reduce;
    const TileAccess& access = plan.accesses[output];
    for (size_t i = 0; i < plan.extents.size(); i++) {
      if (groups[i] == 0) {
        shape.outer *= plan.extents[i];
        shape.outerExtents.push_back(plan.extents[i]);
        shape.outerStrides.push_back(access.strides[i]);
      } else if (groups[i] == 1) {
        shape.reduced *= plan.extents[i];
      } else {
        shape.inner *= plan.extents[i];
        shape.innerStride = access.strides[i];
      }
    }
    plan.accesses.pop_back();
  }
}

/// Transposed accesses want tiles that are square blocks: the dim along which one has unit stride, where the innermost has not.
int chooseBlockDim(const FusedPlan& plan) {
  if (!plan.spec.reduces.empty() || plan.total < 1024) return -1;
  int best = -1;
  const int last = static_cast<int>(plan.extents.size()) - 1;
  for (const TileAccess& access : plan.accesses) {
    if (!access.pad.empty()) return -1;
    const int64_t inner = std::abs(access.strides[last]);
    if (inner <= 1) continue;
    for (int dim = 0; dim < last; dim++)
      if (std::abs(access.strides[dim]) == 1 && plan.extents[dim] >= 4) best = dim;
  }
  return best;
}

class Emitter {
 public:
  Emitter(FusedPlan& plan, const std::vector<bool>& dead, std::vector<int> accessOf, std::vector<int> storeAccess)
      : plan_(plan), dead_(dead), accessOf_(std::move(accessOf)), storeAccess_(std::move(storeAccess)) {}

  void emit() {
    const FusedSpec& spec = plan_.spec;
    const size_t count = spec.values.size();
    invariant_.assign(count, false);
    for (size_t i = 0; i < count; i++) {
      if (dead_[i]) continue;
      invariant_[i] = isInvariant(static_cast<int>(i));
      TileStep step = stepFor(static_cast<int>(i));
      if (invariant_[i]) {
        plan_.invariant.push_back(step);
        continue;
      }
      plan_.opsPerElement += cost(spec.values[i]);
      const int direct = directStore(static_cast<int>(i));
      if (direct >= 0) step.direct = storeAccess_[direct];
      plan_.steps.push_back(step);
      addStores(static_cast<int>(i));
    }
    for (size_t i = 0; i < count; i++)
      if (invariant_[i]) addStores(static_cast<int>(i));
    assignSlots();
    findInPlace();
  }

 private:
  bool isInvariant(int index) const {
    const Value& value = plan_.spec.values[index];
    if (value.kind == Kind::constant) return true;
    if (hasAccess(value)) {
      const TileAccess& access = plan_.accesses[accessOf_[index]];
      if (!access.pad.empty()) return false;
      for (size_t i = 0; i < access.strides.size(); i++)
        if (access.strides[i] != 0 && plan_.extents[i] != 1) return false;
      return true;
    }
    for (int arg : value.args)
      if (arg >= 0 && !invariant_[arg]) return false;
    return true;
  }

  static int64_t cost(const Value& value) {
    switch (value.kind) {
      case Kind::uniform: case Kind::normal: return 8;
      case Kind::op: return value.op >= TileOp::exp && value.op <= TileOp::softplus ? 4 : 1;
      default: return 1;
    }
  }

  TileStep stepFor(int index) const {
    const TileTable& table = tileTable();
    const Value& value = plan_.spec.values[index];
    TileStep step{TileStep::Kind::op, nullptr, index, {0, 0, 0}, accessOf_[index], -1};
    switch (value.kind) {
      case Kind::constant: step.kind = TileStep::Kind::constant; return step;
      case Kind::load: step.kind = TileStep::Kind::load; return step;
      case Kind::index: step.kind = TileStep::Kind::index; return step;
      case Kind::uniform: step.kind = TileStep::Kind::uniform; return step;
      case Kind::normal: step.kind = TileStep::Kind::normal; return step;
      default: break;
    }
    // The operands' lane decides; where's condition is a byte.
    const int lanes = value.op == TileOp::where && value.kind == Kind::op ? value.args[1] : value.args[0];
    const Lane from = plan_.spec.values[lanes].lane;
    step.fn = value.kind == Kind::cast ? table.cast[static_cast<int>(from)][static_cast<int>(value.lane)]
                                       : table.op[static_cast<int>(value.op)][static_cast<int>(from)];
    if (!step.fn) throw ProgramError(std::string("no ") + name(value.op) + " for this dtype on the CPU");
    for (int i = 0; i < 3; i++) step.args[i] = value.args[i] >= 0 ? value.args[i] : value.args[0];
    return step;
  }

  /// The store, if any, whose memory this value can be made in: of the lane's own type.
  int directStore(int index) const {
    const auto& stores = plan_.spec.stores;
    for (size_t i = 0; i < stores.size(); i++) {
      const DType dtype = plan_.accesses[storeAccess_[i]].dtype;
      if (stores[i].value == index && dtype != DType::bf16 && dtype != DType::f16) return static_cast<int>(i);
    }
    return -1;
  }

  /// A value that was made in its store's memory is recognised when the tile runs.
  void addStores(int index) {
    const auto& stores = plan_.spec.stores;
    for (size_t i = 0; i < stores.size(); i++)
      if (stores[i].value == index)
        plan_.steps.push_back({TileStep::Kind::store, nullptr, index, {index, index, index}, storeAccess_[i], -1});
  }

  /// Linear scan. A slot is taken over at the step that reads it last only by a value of the same lane size, as loops read
  /// and write element by element.
  void assignSlots() {
    const FusedSpec& spec = plan_.spec;
    const size_t count = spec.values.size();
    size_t bytes = 1;
    for (size_t i = 0; i < count; i++)
      if (!dead_[i]) bytes = std::max(bytes, laneBytes(spec.values[i].lane));
    const size_t slotBytes = bytes * kTile;
    const int end = static_cast<int>(plan_.steps.size());
    lastUse_.assign(count, -1);
    for (int s = 0; s < end; s++) {
      const TileStep& step = plan_.steps[s];
      lastUse_[step.value] = std::max(lastUse_[step.value], s);
      if (step.kind == TileStep::Kind::op)
        for (int arg : step.args) lastUse_[arg] = s;
    }
    for (const auto& reduce : spec.reduces) lastUse_[reduce.value] = end;
    plan_.slots.assign(count, 0);
    size_t next = 0;
    std::vector<size_t> free;
    auto take = [&] {
      if (free.empty()) return slotBytes * next++;
      const size_t slot = free.back();
      free.pop_back();
      return slot;
    };
    for (size_t i = 0; i < count; i++)
      if (invariant_[i]) plan_.slots[i] = take();
    for (int s = 0; s < end; s++) {
      const TileStep& step = plan_.steps[s];
      if (step.kind == TileStep::Kind::store) {
        if (lastUse_[step.value] == s && !invariant_[step.value]) free.push_back(plan_.slots[step.value]);
        continue;
      }
      std::vector<size_t> dying, later;
      if (step.kind == TileStep::Kind::op)
        for (int i = 0; i < 3; i++) {
          const int arg = step.args[i];
          if (invariant_[arg] || lastUse_[arg] != s || std::find(step.args, step.args + i, arg) != step.args + i)
            continue;
          const bool same = laneBytes(spec.values[arg].lane) == laneBytes(spec.values[step.value].lane);
          (same ? free : later).push_back(plan_.slots[arg]);
        }
      plan_.slots[step.value] = take();
      if (lastUse_[step.value] == s) later.push_back(plan_.slots[step.value]);
      free.insert(free.end(), later.begin(), later.end());
    }
    plan_.frameBytes = slotBytes * next;
  }

  /// A store may overwrite a load's memory where both are dense in the space, the buffer is read nowhere else, and no step
  /// after the store reads it.
  void findInPlace() {
    const FusedSpec& spec = plan_.spec;
    for (size_t k = 0; k < spec.stores.size(); k++) {
      const auto& store = spec.stores[k];
      if (!store.layout.isDense()) continue;
      const auto writes = [&](const TileStep& step) {
        return step.direct == storeAccess_[k] || (step.kind == TileStep::Kind::store && step.access == storeAccess_[k]);
      };
      const int written =
          static_cast<int>(std::find_if(plan_.steps.begin(), plan_.steps.end(), writes) - plan_.steps.begin());
      std::map<uint32_t, int> reads;
      for (size_t i = 0; i < spec.values.size(); i++) {
        const Value& value = spec.values[i];
        if (value.kind == Kind::uniform || value.kind == Kind::normal) reads[value.read] += 2;
        if (value.kind == Kind::load) reads[value.read]++;
      }
      for (size_t i = 0; i < spec.values.size(); i++) {
        const Value& value = spec.values[i];
        if (dead_[i] || value.kind != Kind::load || !value.pad.empty() || reads[value.read] != 1) continue;
        if (!value.layout.isDense() || sizeBytes(value.layout.dtype) != sizeBytes(store.layout.dtype)) continue;
        if (invariant_[i] && plan_.total > 1) continue;
        if (lastUse_[i] <= written) plan_.inPlace.push_back({store.write, value.read});
      }
    }
  }

  FusedPlan& plan_;
  const std::vector<bool>& dead_;
  std::vector<int> accessOf_, storeAccess_;
  std::vector<bool> invariant_;
  std::vector<int> lastUse_;
};

}  // namespace

FusedPlan planFused(FusedSpec spec) {
  FusedPlan plan;
  std::vector<bool> dead(spec.values.size(), false);
  combine(spec, dead);
  plan.spec = std::move(spec);
  plan.total = elements(plan.spec.space);
  if (plan.total == 0 && plan.spec.reduces.empty()) return plan;
  std::vector<int> accessOf(plan.spec.values.size(), -1), storeAccess;
  arrange(plan, orderDims(plan.spec), accessOf, storeAccess);
  plan.blockDim = chooseBlockDim(plan);
  const int64_t width = std::max<int64_t>(plan.width(), 1);
  plan.acrossRows = width < kTile / 2;
  if (plan.acrossRows) {
    plan.chunk = kTile / width * width;
  } else {
    // Equal pieces of a row, of whole vectors.
    const int64_t pieces = (width - 1) / kTile + 1;
    plan.chunk = std::min(kTile, ((width - 1) / pieces + 16) / 16 * 16);
  }
  Emitter(plan, dead, std::move(accessOf), std::move(storeAccess)).emit();
  return plan;
}

}  // namespace lazuli
