#include "fuse.h"

#include <cstdlib>
#include <cstring>

namespace lazuli {

bool isFused(const char* variable) {
  const char* text = std::getenv(variable);
  return !text || std::strcmp(text, "0") != 0;
}

bool isReduction(Op op) {
  switch (op) {
    case Op::sum:
    case Op::prod:
    case Op::max:
    case Op::min:
    case Op::argmax:
    case Op::argmin:
      return true;
    default:
      return false;
  }
}

bool readsMemory(Op op) { return op == Op::pad || op == Op::random_uniform || op == Op::random_normal; }

namespace {

Role roleOfNode(const Node& node, int32_t index) {
  const OpInfo& op = info(node.op);
  switch (op.lower) {
    case LowerKind::elementwise:
    case LowerKind::source:
    case LowerKind::reduction:
      return Role::fused;
    case LowerKind::contraction:
      return Role::matmul;
    case LowerKind::kernel:
      return Role::library;
    default:
      break;
  }
  if (node.op == Op::pad) return Role::fused;
  if (node.op == Op::concat) return Role::concat;
  if (node.op == Op::constant) return Role::constant;
  throw ProgramError(std::string(op.name) + ": the CPU has no kernel for this op", index);
}

std::vector<bool> liveNodes(const Program& program) {
  std::vector<bool> needed(program.values.size(), false), live(program.nodes.size(), false);
  for (ValueId output : program.outputs) needed[output] = true;
  for (size_t i = program.nodes.size(); i-- > 0;) {
    const Node& node = program.nodes[i];
    for (ValueId result : node.results) live[i] = live[i] || needed[result];
    if (!live[i]) continue;
    for (ValueId operand : node.operands) needed[operand] = true;
  }
  return live;
}

}  // namespace

Fusion::Fusion(const Program& program, bool fuse, const KernelMaker& maker)
    : program(program),
      fuse(fuse),
      roles(program.nodes.size(), Role::none),
      uses(program.values.size()),
      matmuls(program.nodes.size()),
      norms(program.nodes.size()),
      sums(program.nodes.size()),
      inlined(program.values.size(), false),
      stored(program.values.size(), false) {
  for (ValueId value = 0; value < program.values.size(); value++) sources.push_back({value, {}});
  const std::vector<bool> live = liveNodes(program);
  if (fuse && isFused("LAZULI_FUSE_LAYOUT")) {
    layouts = chooseLayouts(program, live, maker);
  } else {
    for (const Program::Value& value : program.values) layouts.push_back(Layout::dense(value.type));
  }
  for (size_t i = 0; i < program.nodes.size(); i++) {
    const Node& node = program.nodes[i];
    const int32_t index = static_cast<int32_t>(i);
    if (!live[i] || node.results.empty()) continue;
    if (isView(node.op)) {
      const Source& from = sources[node.operands[0]];
      Source source = from;
      if (auto step = viewStep(node, program.type(node.results[0]).shape))
        source.steps.push_back(std::move(*step));
      if (viewed(source.steps, layouts[from.base])) {
        sources[node.results[0]] = std::move(source);
        continue;
      }
      roles[i] = Role::fused;
    } else {
      roles[i] = roleOfNode(node, index);
    }
    for (uint32_t k = 0; k < node.operands.size(); k++)
      uses[sources[node.operands[k]].base].push_back({index, k});
  }
  for (uint32_t k = 0; k < program.outputs.size(); k++)
    uses[sources[program.outputs[k]].base].push_back({-1, k});
}

const Dims& Fusion::space(const Node& node) const {
  const bool ofOperand = isReduction(node.op) || node.op == Op::reshape;
  return program.type(ofOperand ? node.operands[0] : node.results[0]).shape;
}

ViewSteps Fusion::stepsOf(const Node& node, uint32_t operand) const {
  const ValueId value = node.operands[operand];
  ViewSteps steps = sources[value].steps;
  const Dims& to = space(node);
  if (info(node.op).lower == LowerKind::elementwise && program.type(value).shape != to)
    steps.push_back(broadcastTo(to));
  return steps;
}

bool Fusion::isLinear(ValueId base, const ViewSteps& steps) const {
  const auto layout = viewed(steps, layouts[base]);
  return layout && layout->isDense() && layout->elements() == program.type(base).elements();
}

Layout elementNumbers(const Program& program, const Node& node) {
  Layout numbers = Layout::dense({DType::i64, program.type(node.results[0]).shape});
  if (node.op == Op::random_uniform || node.op == Op::random_normal)
    numbers.strides = denseStrides(node.ints(attr::random_uniform::whole));  // both have the same schema
  if (node.op == Op::iota) {
    for (int64_t& stride : numbers.strides) stride = 0;
    numbers.strides[static_cast<size_t>(node.integer(attr::iota::dim))] = 1;
  }
  return numbers;
}

bool isScalarConstant(const Fusion& fusion, ValueId value) {
  if (!fusion.isComputed(value)) return false;
  const Node& node = fusion.producer(value);
  return node.op == Op::full || (node.op == Op::constant && fusion.program.type(value).elements() == 1);
}

void eachLeaf(const Fusion& fusion, const Node& node,
              const std::function<void(ValueId, const ViewSteps&)>& visit) {
  std::function<void(const Node&, const ViewSteps&)> walk = [&](const Node& at, const ViewSteps& tail) {
    for (uint32_t k = 0; k < at.operands.size(); k++) {
      const ValueId base = fusion.sources[at.operands[k]].base;
      ViewSteps steps = fusion.stepsOf(at, k);
      steps.insert(steps.end(), tail.begin(), tail.end());
      if (fusion.inlined[base] && !readsMemory(at.op)) {
        walk(fusion.producer(base), steps);
      } else {
        visit(base, steps);
      }
    }
  };
  walk(node, {});
}

}  // namespace lazuli
