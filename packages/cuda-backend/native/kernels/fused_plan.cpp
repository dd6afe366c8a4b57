#include "kernels/fused_plan.h"

#include <algorithm>
#include <cstdlib>

namespace lazuli {
namespace {

using Value = FusedSpec::Value;
using Kind = FusedSpec::Value::Kind;

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
    if (!value.isRead()) continue;
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

/// Transposed accesses want tiles that are square blocks: the dim along which one has unit stride, where the
/// innermost has not.
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

}  // namespace

void planDims(FusedPlan& plan, std::vector<int>& accessOf, std::vector<int>& storeAccess) {
  accessOf.assign(plan.spec.values.size(), -1);
  arrange(plan, orderDims(plan.spec), accessOf, storeAccess);
}

FusedPlan planFused(FusedSpec spec) {
  FusedPlan plan;
  std::vector<bool> dead(spec.values.size(), false);
  combine(spec, dead);
  plan.spec = std::move(spec);
  plan.total = elements(plan.spec.space);
  if (plan.total == 0 && plan.spec.reduces.empty()) return plan;
  std::vector<int> accessOf, storeAccess;
  planDims(plan, accessOf, storeAccess);
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
  planSteps(plan, dead, std::move(accessOf), std::move(storeAccess));
  return plan;
}

}  // namespace lazuli
