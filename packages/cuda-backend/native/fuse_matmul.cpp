#include <algorithm>

#include "fuse.h"

namespace lazuli {
namespace {

/// Finds what a matmul's kernel can do to its result before storing it: a cast up, a bias, an activation, a
/// residual, in this order. Nothing else may read the values in between.
class Absorber {
 public:
  explicit Absorber(Fusion& fusion) : fusion_(fusion), ready_(fusion.program.values.size(), -1) {
    for (size_t value = 0; value < ready_.size(); value++) ready_[value] = fusion.program.values[value].node;
  }

  void run() {
    for (size_t i = 0; i < fusion_.roles.size(); i++) {
      if (fusion_.roles[i] != Role::matmul) continue;
      node_ = static_cast<int32_t>(i);
      unit_ = &fusion_.matmuls[i];
      unit_->result = fusion_.node(node_).results[0];
      dtype_ = fusion_.program.type(unit_->result).dtype;
      if (!fusion_.fuse || !isFloat(dtype_)) continue;
      while (absorb()) {
      }
      ready_[unit_->result] = node_;
    }
  }

 private:
  bool absorb() {
    const ValueId value = unit_->result;
    if (fusion_.uses[value].size() != 1 || fusion_.uses[value][0].node < 0) return false;
    const auto [user, operand] = fusion_.uses[value][0];
    const Node& node = fusion_.node(user);
    if (fusion_.roles[static_cast<size_t>(user)] != Role::fused ||
        info(node.op).lower != LowerKind::elementwise ||
        !fusion_.isLinear(value, fusion_.stepsOf(node, operand)))
      return false;
    if (!(node.op == Op::add ? absorbAdd(node, operand) : absorbUnary(node))) return false;
    fusion_.roles[static_cast<size_t>(user)] = Role::absorbed;
    unit_->result = node.results[0];
    return true;
  }

  bool absorbUnary(const Node& node) {
    const bool plain = !unit_->bias && unit_->activation == Activation::none && !unit_->residual;
    if (node.op == Op::cast) {
      const bool half = dtype_ == DType::bf16 || dtype_ == DType::f16;
      if (!plain || !half || fusion_.program.type(node.results[0]).dtype != DType::f32) return false;
      dtype_ = DType::f32;
      return true;
    }
    if (unit_->activation != Activation::none || unit_->residual) return false;
    switch (node.op) {
      case Op::relu:
        unit_->activation = Activation::relu;
        return true;
      case Op::silu:
        unit_->activation = Activation::silu;
        return true;
      case Op::gelu:
        unit_->activation =
            node.integer(attr::gelu::approximate) == 0 ? Activation::gelu_erf : Activation::gelu_tanh;
        return true;
      default:
        return false;
    }
  }

  bool absorbAdd(const Node& node, uint32_t operand) {
    const ValueId other = node.operands[1 - operand];
    if (unit_->residual || ready_[fusion_.sources[other].base] >= node_) return false;
    const Dims& shape = fusion_.program.type(node.results[0]).shape;
    const ValueId base = fusion_.sources[other].base;
    const auto layout = viewed(fusion_.stepsOf(node, 1 - operand), fusion_.layouts[base]);
    if (!layout) return false;
    if (isBias(*layout, shape)) {
      if (unit_->bias || unit_->activation != Activation::none) return false;
      unit_->bias = other;
      return true;
    }
    if (!layout->isDense() || layout->elements() != fusion_.program.type(base).elements() ||
        !worthStoring(node))
      return false;
    unit_->residual = base;
    return true;
  }

  /// Whether it varies along the last dim only, which must be that of the matmul's own result.
  bool isBias(const Layout& layout, const Dims& shape) const {
    const Dims& product = fusion_.program.type(fusion_.node(node_).results[0]).shape;
    if (shape.empty() || product.empty() || shape.back() != product.back() || shape.back() == 1) return false;
    const Node& dot = fusion_.node(node_);
    const size_t taken =
        dot.ints(attr::dot_general::rhs_contract).size() + dot.ints(attr::dot_general::rhs_batch).size();
    if (fusion_.program.type(dot.operands[1]).shape.size() == taken) return false;
    for (size_t i = 0; i + 1 < shape.size(); i++)
      if (shape[i] != 1 && layout.strides[i] != 0) return false;
    return layout.strides.back() != 0;
  }

  /// A sum that only one fused kernel reads is as well added there.
  bool worthStoring(const Node& node) const {
    const auto& uses = fusion_.uses[node.results[0]];
    if (uses.size() > 1) return true;
    return std::any_of(uses.begin(), uses.end(), [&](const Use& use) {
      if (use.node < 0) return true;
      const Role role = fusion_.roles[static_cast<size_t>(use.node)];
      // An add of several products: each accumulates into the same memory.
      return role != Role::fused || isProductSum(use);
    });
  }

  bool isProductSum(const Use& use) const {
    const Node& node = fusion_.node(use.node);
    if (node.op != Op::add) return false;
    return fusion_.roleOf(fusion_.sources[node.operands[1 - use.operand]].base) == Role::matmul;
  }

  Fusion& fusion_;
  std::vector<int32_t> ready_;  // by value: the position in the program after which it can be there
  int32_t node_ = 0;
  MatmulUnit* unit_ = nullptr;
  DType dtype_ = DType::f32;
};

}  // namespace

void findMatmuls(Fusion& fusion) { Absorber(fusion).run(); }

}  // namespace lazuli
