#include "fuse.h"
#include "kernels/attention.h"

namespace lazuli {
namespace {

bool isAttention(Op op) {
  return op == Op::attention || op == Op::attention_grad || op == Op::attention_bias_grad;
}

/// Finds ropes that attention's kernels can do to a block of queries or keys as they read it, and to their
/// cotangents as they write them. Nothing else may read the values in between.
class RopeAbsorber {
 public:
  explicit RopeAbsorber(const Program& program) : program_(program), uses_(program.values.size()) {
    for (size_t i = 0; i < program.nodes.size(); i++)
      for (uint32_t k = 0; k < program.nodes[i].operands.size(); k++)
        uses_[program.nodes[i].operands[k]].push_back({static_cast<int32_t>(i), k});
    for (uint32_t k = 0; k < program.outputs.size(); k++) uses_[program.outputs[k]].push_back({-1, k});
  }

  std::optional<Program> run() {
    for (size_t i = 0; i < program_.nodes.size(); i++)
      if (isAttention(program_.nodes[i].op)) absorb(i);
    return std::move(out_);
  }

 private:
  const Node& node(int32_t index) const { return program_.nodes[static_cast<size_t>(index)]; }

  /// The rope that gives an operand, where attention alone reads it. The gradients turn q and k once more,
  /// which takes longer than reading them where each element is converted to float32 and back.
  const Node* ropeOf(ValueId value) const {
    const int32_t producer = program_.values[value].node;
    if (producer < 0 || node(producer).op != Op::rope || node(producer).flag(attr::rope::inverse))
      return nullptr;
    const DType dtype = program_.type(value).dtype;
    if (uses_[value].size() > 1 && (dtype == DType::bf16 || dtype == DType::f16)) return nullptr;
    for (const Use& use : uses_[value])
      if (use.node < 0 || !isAttention(node(use.node).op) || use.operand > 1) return nullptr;
    return &node(producer);
  }

  /// The rope that alone reads a cotangent and turns it back; -1 where there is none.
  int32_t backOf(ValueId value, const Node& rope) const {
    if (uses_[value].size() != 1) return -1;
    const auto [user, operand] = uses_[value][0];
    if (user < 0 || operand != 0) return -1;
    const Node& back = node(user);
    const bool fits = back.op == Op::rope && back.flag(attr::rope::inverse) &&
                      back.flag(attr::rope::interleaved) == rope.flag(attr::rope::interleaved) &&
                      back.operands[1] == rope.operands[1] && back.operands[2] == rope.operands[2];
    return fits ? user : -1;
  }

  void absorb(size_t index) {
    const Node& from = program_.nodes[index];
    int64_t turns = 0;
    std::vector<ValueId> tables;
    for (size_t k = 0; k < 2; k++) {
      const Node* rope = ropeOf(from.operands[k]);
      if (!rope) continue;
      if (!out_) out_ = program_;
      Node& to = out_->nodes[index];
      turns |= (rope->flag(attr::rope::interleaved) ? kTurned | kInterleaved : kTurned) << k;
      to.operands[k] = rope->operands[0];
      tables.insert(tables.end(), {rope->operands[1], rope->operands[2]});
      const int32_t back = from.op == Op::attention ? -1 : backOf(from.results[k], *rope);
      if (back < 0) continue;
      turns |= kTurnedBack << k;
      Node& absorbed = out_->nodes[static_cast<size_t>(back)];
      to.results[k] = absorbed.results[0];
      out_->values[to.results[k]].node = static_cast<int32_t>(index);
      out_->values[to.results[k]].result = static_cast<int32_t>(k);
      absorbed.operands.clear();
      absorbed.results.clear();
    }
    if (turns == 0) return;
    Node& to = out_->nodes[index];
    to.operands.insert(to.operands.end(), tables.begin(), tables.end());
    to.attrs.push_back(turns);
  }

  const Program& program_;
  std::vector<std::vector<Use>> uses_;  // by value, views being users
  std::optional<Program> out_;
};

}  // namespace

std::optional<Program> absorbRopes(const Program& program) { return RopeAbsorber(program).run(); }

}  // namespace lazuli
