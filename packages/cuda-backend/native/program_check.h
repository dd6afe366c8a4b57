#pragma once

#include <span>

#include "program.h"

namespace lazuli {

/// One node as decoded, before anything is believed of it: `declared` are well-formed types whose sizes do
/// not overflow.
class NodeCheck {
 public:
  NodeCheck(const Node& node, std::vector<const TensorType*> operands, std::span<const TensorType> declared,
            int64_t position)
      : node(node), declared(declared), operands_(std::move(operands)), position_(position) {}

  const Node& node;
  const std::span<const TensorType> declared;

  size_t operandCount() const { return operands_.size(); }
  const TensorType& operator[](size_t operand) const { return *operands_[operand]; }

  [[noreturn]] void fail(const std::string& what) const;
  void require(bool holds, const char* what) const {
    if (!holds) fail(what);
  }

  /// Attribute `attr` as a dim of a shape of `rank`.
  size_t dim(size_t attr, size_t rank) const;
  /// Attribute `attr` as dims of a shape of `rank`: a flag for each dim. Repeats are refused.
  std::vector<bool> dims(size_t attr, size_t rank) const;
  DType dtype(size_t attr) const { return static_cast<DType>(node.integer(attr)); }

  void requireFloat(size_t operand) const;
  void requireIndex(size_t operand) const;
  void requireType(size_t operand, DType dtype, const Dims& shape) const;
  void requireSameType(size_t operand, const TensorType& type) const {
    requireType(operand, type.dtype, type.shape);
  }

 private:
  std::vector<const TensorType*> operands_;
  int64_t position_;
};

/// The types of a node's results by its operands and attributes. Throws ProgramError where these do not fit
/// the op.
std::vector<TensorType> resultTypes(const NodeCheck& check);

// Its parts, by family.
std::vector<TensorType> elementwiseTypes(const NodeCheck& check);
std::vector<TensorType> viewTypes(const NodeCheck& check);
std::vector<TensorType> reductionTypes(const NodeCheck& check);
std::vector<TensorType> contractionTypes(const NodeCheck& check);
std::vector<TensorType> kernelTypes(const NodeCheck& check);
std::vector<TensorType> collectiveTypes(const NodeCheck& check);

/// Throws ProgramError where a collective that is only started is read by anything but one collective_done,
/// or one of these waits for something else.
void checkStarted(const Program& program);

/// Ops that the partitioner replaces.
inline bool isPartitioned(Op op) {
  return op == Op::sharding_constraint || op == Op::full_to_shard || op == Op::shard_to_full;
}

/// Throws ProgramError where a collective is over a mesh of another number of devices.
void checkMeshes(const Program& program, int64_t devices);

}  // namespace lazuli
