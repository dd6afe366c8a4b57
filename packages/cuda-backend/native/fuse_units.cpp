#include <algorithm>

#include "fuse_emit.h"

namespace lazuli {
namespace {

ReduceKind reduceKind(Op op) {
  switch (op) {
    case Op::prod:
      return ReduceKind::prod;
    case Op::max:
      return ReduceKind::max;
    case Op::min:
      return ReduceKind::min;
    case Op::argmax:
      return ReduceKind::argmax;
    case Op::argmin:
      return ReduceKind::argmin;
    default:
      return ReduceKind::sum;
  }
}

/// Whether a fused reader outside the unit, or anyone else, needs the value in memory.
bool isReadElsewhere(const Fusion& fusion, const std::vector<bool>& inside, ValueId value) {
  if (fusion.stored[value]) return true;
  std::vector<ValueId> open = {value};
  // Readers that compute an inlined value read on behalf of its own readers.
  while (!open.empty()) {
    const ValueId at = open.back();
    open.pop_back();
    for (const Use& use : fusion.uses[at]) {
      if (use.node < 0) {
        // The unit stores an inlined member for them.
        if (at == value) return true;
        continue;
      }
      const size_t node = static_cast<size_t>(use.node);
      if (fusion.roles[node] == Role::concat || (at == value && fusion.roles[node] != Role::fused))
        return true;
      if (fusion.roles[node] != Role::fused) continue;
      const ValueId result = fusion.program.nodes[node].results[0];
      if (!inside[node] && (!fusion.inlined[result] || fusion.stored[result])) return true;
      if (fusion.inlined[result]) open.push_back(result);
    }
  }
  return false;
}

}  // namespace

FusedUnit emitFused(const Fusion& fusion, const Unit& unit) {
  FusedUnit made;
  SpecBuilder builder(fusion, unit.space, unit.nodes, made);
  std::vector<bool> inside(fusion.roles.size(), false);
  for (int32_t member : unit.nodes) inside[static_cast<size_t>(member)] = true;
  for (int32_t member : unit.nodes) {
    const Node& node = fusion.node(member);
    const ValueId result = node.results[0];
    const TensorType& type = fusion.program.type(result);
    if (isReduction(node.op)) {
      const int value = builder.evaluate(node, {reshapeTo(unit.space)});
      builder.spec.reduces.push_back({value, builder.write(result), reduceKind(node.op), type.dtype});
      continue;
    }
    if (unit.nodes.size() > 1 && !isReadElsewhere(fusion, inside, result)) continue;
    const ViewSteps own = {reshapeTo(unit.space)};
    const int value = fusion.inlined[result] ? builder.evaluate(node, own) : builder.read(result, {});
    builder.spec.stores.push_back({value, builder.write(result), Layout::dense({type.dtype, unit.space})});
  }
  if (!builder.spec.reduces.empty()) builder.spec.reduced = unit.reduced;
  made.parts.push_back(std::move(builder.spec));
  return made;
}

/// Each operand is a part of its own that stores into its window of the result.
FusedUnit emitConcat(const Fusion& fusion, const Unit& unit) {
  FusedUnit made;
  const Node& node = fusion.node(unit.nodes[0]);
  const TensorType& type = fusion.program.type(node.results[0]);
  const size_t dim = static_cast<size_t>(node.integer(attr::concat::dim));
  Layout window = Layout::dense(type);
  made.writes = {node.results[0]};
  for (ValueId operand : node.operands) {
    window.shape = fusion.program.type(operand).shape;
    if (elements(window.shape) > 0) {
      SpecBuilder builder(fusion, window.shape, {}, made);
      const Source& source = fusion.sources[operand];
      const int value = builder.read(source.base, source.steps);
      builder.spec.stores.push_back({value, 0, window});
      made.parts.push_back(std::move(builder.spec));
    }
    window.offset += window.shape[dim] * window.strides[dim];
  }
  return made;
}

}  // namespace lazuli
