#include <algorithm>

#include "fuse.h"

namespace lazuli {
namespace {

constexpr size_t kMostReaders = 32;  // of a cheap value that each reader recomputes
constexpr size_t kMostRemade = 2;    // readers that make it again from one value in memory
constexpr int kMostScalarOps = 8;    // of an expression of one element that each reader recomputes

/// Decides, readers before producers, which values their readers compute for themselves: cheap ones
/// everywhere, others where the one reader sees them through a view that is no mere reshape (a transpose, a
/// slice), which is pushed to the leaves.
class Inliner {
 public:
  explicit Inliner(Fusion& fusion) : fusion_(fusion), contexts_(fusion.program.values.size()) {
    countScalarOps();
  }

  void run() {
    for (size_t i = fusion_.program.nodes.size(); i-- > 0;) {
      const Node& node = fusion_.program.nodes[i];
      switch (fusion_.roles[i]) {
        case Role::none:
        case Role::absorbed:
          break;
        case Role::fused:
        case Role::constant:
          decide(node);
          break;
        default:
          for (ValueId result : node.results) fusion_.stored[result] = true;
      }
      if (fusion_.roles[i] == Role::matmul) fusion_.stored[fusion_.matmuls[i].result] = true;
      if (fusion_.sums[i]) fusion_.stored[fusion_.sums[i]->result] = true;
    }
  }

 private:
  void countScalarOps() {
    const Program& program = fusion_.program;
    scalarOps_.assign(program.values.size(), 0);
    for (size_t i = 0; i < program.nodes.size(); i++) {
      const Node& node = program.nodes[i];
      if (fusion_.roles[i] != Role::fused || info(node.op).lower != LowerKind::elementwise) continue;
      int& count = scalarOps_[node.results[0]];
      count = 1;
      for (ValueId operand : node.operands) count += scalarOps_[fusion_.sources[operand].base];
      if (program.type(node.results[0]).elements() != 1) count = 0;
    }
  }

  bool isCheap(const Node& node) const {
    const Program& program = fusion_.program;
    const TensorType& type = program.type(node.results[0]);
    if (node.op == Op::full || node.op == Op::iota) return true;
    if (node.op == Op::constant) return type.elements() == 1;
    if (info(node.op).lower != LowerKind::elementwise) return false;
    if (type.elements() == 1) return scalarOps_[node.results[0]] <= kMostScalarOps;
    if (node.op == Op::cast && sizeBytes(program.type(node.operands[0]).dtype) < sizeBytes(type.dtype))
      return true;
    return std::all_of(node.operands.begin(), node.operands.end(), [&](ValueId operand) {
      return isScalarConstant(fusion_, fusion_.sources[operand].base);
    });
  }

  /// Whether readers make it again from what lies in memory in any case: of one value no smaller than it, so
  /// that what is kept for them (an activation, for the backward pass) and what they read is no more than
  /// before.
  bool isRemade(const Node& node) const {
    const Program& program = fusion_.program;
    if (info(node.op).lower != LowerKind::elementwise || node.operands.size() != 1) return false;
    // Half types are rounded where they are stored: made again they would be other numbers.
    const DType dtype = program.type(node.results[0]).dtype;
    if (dtype == DType::bf16 || dtype == DType::f16) return false;
    const ValueId base = fusion_.sources[node.operands[0]].base;
    const Role role = fusion_.roleOf(base);
    const bool inMemory =
        !fusion_.isComputed(base) || role == Role::matmul || role == Role::absorbed || role == Role::library;
    return inMemory && program.type(base).bytes() <= program.type(node.results[0]).bytes();
  }

  /// Whether the node's leaves can be read through `steps`.
  bool isReadable(const Node& node, const ViewSteps& steps) const {
    const Program& program = fusion_.program;
    if (node.op == Op::full || node.op == Op::constant) return true;
    if (info(node.op).lower == LowerKind::source)
      return viewed(steps, elementNumbers(program, node)).has_value();
    for (uint32_t k = 0; k < node.operands.size(); k++) {
      auto layout = viewed(fusion_.stepsOf(node, k), fusion_.layouts[fusion_.sources[node.operands[k]].base]);
      if (!layout || !viewed(steps, std::move(*layout))) return false;
    }
    return true;
  }

  void decide(const Node& node) {
    const ValueId value = node.results[0];
    std::vector<ViewSteps> contexts;
    bool stored = !fusion_.fuse && node.op != Op::constant, elsewhere = false;
    for (const Use& use : fusion_.uses[value]) {
      const Role role = use.node < 0 ? Role::none : fusion_.roles[static_cast<size_t>(use.node)];
      if (role == Role::concat) {
        const Node& reader = fusion_.node(use.node);
        contexts.push_back(fusion_.stepsOf(reader, use.operand));
        elsewhere = true;
        continue;
      }
      if (role != Role::fused || readsMemory(fusion_.node(use.node).op)) {
        stored = true;
        continue;
      }
      const Node& reader = fusion_.node(use.node);
      const ValueId result = reader.results[0];
      const ViewSteps steps = fusion_.stepsOf(reader, use.operand);
      if (fusion_.inlined[result]) {
        for (const ViewSteps& tail : contexts_[result]) {
          contexts.push_back(steps);
          contexts.back().insert(contexts.back().end(), tail.begin(), tail.end());
        }
      }
      if (!fusion_.inlined[result] || fusion_.stored[result]) contexts.push_back(steps);
    }
    const bool fixed = isReduction(node.op) || readsMemory(node.op) || node.op == Op::reshape;
    const bool readable =
        !fixed && std::all_of(contexts.begin(), contexts.end(),
                              [&](const ViewSteps& steps) { return isReadable(node, steps); });
    bool inlined = false;
    if (contexts.empty() || !readable) {
      inlined = false;
    } else if (!fusion_.fuse) {
      inlined = node.op == Op::constant && isCheap(node);
    } else if (isCheap(node)) {
      inlined = contexts.size() <= kMostReaders || node.operands.empty();
    } else if (!stored && isRemade(node)) {
      inlined = contexts.size() <= kMostRemade;
    } else if (!stored && node.op != Op::constant && contexts.size() == 1 &&
               fusion_.uses[value].size() == 1) {
      const int64_t count = fusion_.program.type(value).elements();
      inlined = (elsewhere || !fusion_.isLinear(value, contexts[0])) && readCount(node, contexts[0]) <= count;
    }
    fusion_.inlined[value] = inlined;
    // What its fused readers do not compute for themselves is made by its own unit.
    fusion_.stored[value] = stored;
    if (inlined) contexts_[value] = std::move(contexts);
  }

  int64_t readCount(const Node& node, const ViewSteps& steps) const {
    return elements(steps.empty() ? fusion_.program.type(node.results[0]).shape : steps.back().shape);
  }

  Fusion& fusion_;
  std::vector<std::vector<ViewSteps>> contexts_;  // by inlined value: how the units that compute it see it
  std::vector<int> scalarOps_;                    // by value of one element: ops of its expression
};

}  // namespace

void findInlined(Fusion& fusion) { Inliner(fusion).run(); }

}  // namespace lazuli
