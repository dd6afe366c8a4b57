#include <algorithm>

#include "fuse.h"

namespace lazuli {
namespace {

/// Finds the adds that library kernels do to their first result before they store it: in the gradient of a
/// norm, of the cotangent that came around it by the residual connection. Autocast's cast of the sum goes
/// with it.
class SumFinder {
 public:
  SumFinder(Fusion& fusion, const KernelMaker& maker)
      : fusion_(fusion), maker_(maker), ready_(fusion.program.values.size(), -1) {
    for (size_t value = 0; value < ready_.size(); value++) ready_[value] = fusion.program.values[value].node;
    for (size_t i = 0; i < fusion.roles.size(); i++)
      if (fusion.roles[i] == Role::matmul) ready_[fusion.matmuls[i].result] = static_cast<int32_t>(i);
  }

  /// In the program's order, so that a sum found before is known to lie in memory.
  void run() {
    for (size_t i = 0; i < fusion_.roles.size(); i++)
      if (addsResidual(static_cast<int32_t>(i))) find(static_cast<int32_t>(i));
  }

 private:
  bool addsResidual(int32_t index) const {
    if (fusion_.roles[static_cast<size_t>(index)] != Role::library) return false;
    const KernelEntry* entry = maker_.library(fusion_.node(index).op);
    return entry && entry->addsResidual;
  }

  void find(int32_t index) {
    const ValueId value = fusion_.node(index).results[0];
    if (fusion_.uses[value].size() != 1 || fusion_.uses[value][0].node < 0) return;
    const auto [user, operand] = fusion_.uses[value][0];
    const Node& add = fusion_.node(user);
    if (fusion_.roles[static_cast<size_t>(user)] != Role::fused || add.op != Op::add ||
        !fusion_.isLinear(value, fusion_.stepsOf(add, operand)))
      return;
    const ValueId residual = fusion_.sources[add.operands[1 - operand]].base;
    if (!fusion_.isLinear(residual, fusion_.stepsOf(add, 1 - operand)) || ready_[residual] >= index ||
        !isStored(residual, user) || !isWorthStoring(add.results[0]))
      return;
    const int32_t cast = narrowCastOf(fusion_, add.results[0]);
    fusion_.roles[static_cast<size_t>(user)] = Role::absorbed;
    if (cast >= 0) fusion_.roles[static_cast<size_t>(cast)] = Role::absorbed;
    fusion_.sums[static_cast<size_t>(index)] = {residual, add.results[0], cast};
    ready_[add.results[0]] = index;
  }

  /// Whether the residual lies in memory, whatever `adder` does. Else the fused kernel that adds makes it
  /// too.
  bool isStored(ValueId value, int32_t adder) const {
    const Role role = fusion_.roleOf(value);
    return (role != Role::fused && role != Role::constant) || isReadFromMemory(value, adder);
  }

  /// A sum that only one fused kernel reads is as well added there, unless that narrows it, which is done
  /// with the sum, or another gradient is added next.
  bool isWorthStoring(ValueId sum) const {
    const auto& uses = fusion_.uses[sum];
    if (uses.size() > 1 || isReadFromMemory(sum, -1) || narrowCastOf(fusion_, sum) >= 0) return true;
    return std::any_of(uses.begin(), uses.end(), [&](const Use& use) {
      const Node& node = fusion_.node(use.node);
      if (node.op != Op::add) return false;
      const ValueId other = fusion_.sources[node.operands[1 - use.operand]].base;
      return fusion_.isComputed(other) && addsResidual(fusion_.program.values[other].node) &&
             fusion_.uses[other].size() == 1;
    });
  }

  bool isReadFromMemory(ValueId value, int32_t adder) const {
    const auto& uses = fusion_.uses[value];
    return std::any_of(uses.begin(), uses.end(), [&](const Use& use) {
      if (use.node < 0) return true;
      const Role reader = fusion_.roles[static_cast<size_t>(use.node)];
      return use.node != adder && reader != Role::fused && reader != Role::concat;
    });
  }

  Fusion& fusion_;
  const KernelMaker& maker_;
  std::vector<int32_t> ready_;  // by value: the position in the program after which it can be there
};

}  // namespace

void findSums(Fusion& fusion, const KernelMaker& maker) {
  if (fusion.fuse) SumFinder(fusion, maker).run();
}

}  // namespace lazuli
