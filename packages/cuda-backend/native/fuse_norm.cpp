#include <algorithm>
#include <map>

#include "fuse.h"
#include "kernels/norm_matmul.h"

namespace lazuli {
namespace {

bool isNorm(Op op) { return op == Op::rms_norm || op == Op::layer_norm; }

/// Finds who can take a norm's rows as they are made: the cast of autocast, and the matmuls that contract
/// them. Others may read the values too, which are then written whole.
class NormFinder {
 public:
  NormFinder(Fusion& fusion, const KernelMaker& maker) : fusion_(fusion), maker_(maker) {}

  void run() {
    for (size_t i = fusion_.program.nodes.size(); i-- > 0;) {
      const Node& node = fusion_.program.nodes[i];
      if (node.op != Op::collective_done) continue;
      const int64_t bucket = node.integer(attr::collective_done::bucket);
      if (bucket >= 0) arrived_[bucket] = static_cast<int32_t>(i);
    }
    for (size_t i = 0; i < fusion_.roles.size(); i++)
      if (fusion_.roles[i] == Role::library && isNorm(fusion_.program.nodes[i].op)) find(i);
  }

 private:
  void find(size_t index) {
    const ValueId normed = fusion_.program.nodes[index].results[0];
    const TensorType& type = fusion_.program.type(normed);
    NormUnit unit;
    unit.cast = narrowCastOf(fusion_, normed);
    const ValueId rows = unit.cast < 0 ? normed : fusion_.node(unit.cast).results[0];
    NormMatmulSizes sizes{type.dtype, fusion_.program.type(rows).dtype, 0, type.shape.back(), {}};
    sizes.rows = sizes.width == 0 ? 0 : type.elements() / sizes.width;
    unit.matmuls = matmulsOf(rows, sizes.width);
    for (int32_t matmul : unit.matmuls) sizes.columns.push_back(columnsOf(matmul, sizes.rows));
    if (!unit.matmuls.empty() && !maker_.takesNorm(sizes)) {
      unit.matmuls.clear();
      sizes.columns.clear();
    }
    if (unit.matmuls.empty() && (unit.cast < 0 || !maker_.takesNorm(sizes))) return;
    if (unit.cast >= 0) fusion_.roles[static_cast<size_t>(unit.cast)] = Role::absorbed;
    fusion_.norms[index] = std::move(unit);
  }

  /// The first matmul that contracts the rows and those after it. Between them lies nothing that takes long:
  /// their results would wait for it in memory, or they for a collective.
  std::vector<int32_t> matmulsOf(ValueId rows, int64_t width) const {
    std::vector<int32_t> found;
    for (const auto& [user, operand] : fusion_.uses[rows]) {
      if (user < 0 || operand != 0 || !contracts(user, width)) continue;
      if (!found.empty() && !isQuiet(found, user)) break;
      found.push_back(user);
    }
    return found;
  }

  bool contracts(int32_t index, int64_t width) const {
    if (fusion_.roles[static_cast<size_t>(index)] != Role::matmul) return false;
    const Node& node = fusion_.node(index);
    const TensorType& a = fusion_.program.type(node.operands[0]);
    const Dims& contract = node.ints(attr::dot_general::lhs_contract);
    const Source& source = fusion_.sources[node.operands[0]];
    return !a.shape.empty() && a.shape.back() == width &&
           contract == Dims{static_cast<int64_t>(a.shape.size()) - 1} &&
           node.ints(attr::dot_general::lhs_batch).empty() && fusion_.isLinear(source.base, source.steps);
  }

  bool isQuiet(const std::vector<int32_t>& before, int32_t end) const {
    for (int32_t i = before.back() + 1; i < end; i++) {
      const Role role = fusion_.roles[static_cast<size_t>(i)];
      if (role == Role::matmul || role == Role::concat) return false;
      if (role == Role::library && fusion_.node(i).op != Op::rope && !isThere(i, before.front()))
        return false;
    }
    return true;
  }

  /// Whether the node is the end of a collective that came, in one bucket with another, before `first`.
  bool isThere(int32_t index, int32_t first) const {
    const Node& node = fusion_.node(index);
    if (node.op != Op::collective_done) return false;
    const auto bucket = arrived_.find(node.integer(attr::collective_done::bucket));
    return bucket != arrived_.end() && bucket->second < first;
  }

  int64_t columnsOf(int32_t matmul, int64_t rows) const {
    return rows == 0 ? 0 : fusion_.program.type(fusion_.node(matmul).results[0]).elements() / rows;
  }

  Fusion& fusion_;
  const KernelMaker& maker_;
  std::map<int64_t, int32_t> arrived_;  // by bucket: the first node that waits for it
};

}  // namespace

int32_t narrowCastOf(const Fusion& fusion, ValueId value) {
  if (fusion.program.type(value).dtype != DType::f32) return -1;
  const auto isStored = [&](ValueId narrow) {
    const auto& uses = fusion.uses[narrow];
    return std::any_of(uses.begin(), uses.end(), [&](const Use& use) {
      if (use.node < 0) return true;
      const Role role = fusion.roles[static_cast<size_t>(use.node)];
      return role == Role::matmul || role == Role::library;
    });
  };
  int32_t found = -1;
  for (const auto& [user, operand] : fusion.uses[value]) {
    if (user < 0 || fusion.roles[static_cast<size_t>(user)] != Role::fused) continue;
    const Node& node = fusion.node(user);
    if (node.op != Op::cast) continue;
    const DType to = fusion.program.type(node.results[0]).dtype;
    if ((to != DType::bf16 && to != DType::f16) || !isStored(node.results[0]) ||
        !fusion.isLinear(value, fusion.stepsOf(node, operand)))
      continue;
    if (found >= 0) return -1;
    found = user;
  }
  return found;
}

void findNorms(Fusion& fusion, const KernelMaker& maker) {
  if (fusion.fuse) NormFinder(fusion, maker).run();
}

}  // namespace lazuli
