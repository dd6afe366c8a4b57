#include "program_check.h"

#include <algorithm>

namespace lazuli {
namespace {

/// What an elementwise op takes. An op that is in no list takes one float dtype and gives it.
enum class Takes { floats, numbers, anything, bools };

Takes takes(Op op) {
  switch (op) {
    case Op::neg:
    case Op::abs:
    case Op::sign:
    case Op::square:
    case Op::relu:
    case Op::floor:
    case Op::ceil:
    case Op::round:
    case Op::trunc:
    case Op::add:
    case Op::sub:
    case Op::mul:
    case Op::div:
    case Op::pow:
    case Op::remainder:
    case Op::floor_divide:
    case Op::maximum:
    case Op::minimum:
      return Takes::numbers;
    case Op::where:
    case Op::eq:
    case Op::ne:
    case Op::lt:
    case Op::le:
    case Op::gt:
    case Op::ge:
      return Takes::anything;
    case Op::logical_not:
    case Op::logical_and:
    case Op::logical_or:
    case Op::logical_xor:
      return Takes::bools;
    default:
      return Takes::floats;
  }
}

bool givesBool(Op op) {
  switch (op) {
    case Op::isnan:
    case Op::isinf:
    case Op::isfinite:
    case Op::eq:
    case Op::ne:
    case Op::lt:
    case Op::le:
    case Op::gt:
    case Op::ge:
      return true;
    default:
      return takes(op) == Takes::bools;
  }
}

/// NumPy's broadcasting of every operand.
Dims broadcast(const NodeCheck& check) {
  Dims shape;
  for (size_t i = 0; i < check.operandCount(); i++) {
    const Dims& other = check[i].shape;
    if (other.size() > shape.size()) shape.insert(shape.begin(), other.size() - shape.size(), 1);
    for (size_t k = 0; k < other.size(); k++) {
      int64_t& dim = shape[shape.size() - other.size() + k];
      if (dim == 1) dim = other[k];
      check.require(other[k] == dim || other[k] == 1, "operands do not broadcast");
    }
  }
  return shape;
}

/// `whole` has the rank of `shape`, is nowhere smaller, and its elements can be numbered.
void requirePart(const NodeCheck& check, const Dims& shape, const Dims& whole) {
  check.require(shape.size() == whole.size(), "the whole has another rank");
  int64_t elements = 1;
  for (size_t dim = 0; dim < whole.size(); dim++) {
    check.require(whole[dim] >= 0 && whole[dim] >= shape[dim], "the shape is no part of the whole");
    check.require(!__builtin_mul_overflow(elements, std::max<int64_t>(whole[dim], 1), &elements),
                  "the whole has more elements than can be numbered");
  }
}

std::vector<TensorType> sourceTypes(const NodeCheck& check) {
  switch (check.node.op) {
    case Op::full:
      return {{check.dtype(attr::full::dtype), check.node.ints(attr::full::shape)}};
    case Op::iota: {
      const Dims& shape = check.node.ints(attr::iota::shape);
      check.dim(attr::iota::dim, shape.size());
      check.require(check.dtype(attr::iota::dtype) != DType::boolean, "takes no bool");
      return {{check.dtype(attr::iota::dtype), shape}};
    }
    case Op::random_uniform:
    case Op::random_normal: {
      // Both have the same schema.
      check.requireType(0, DType::i64, {2});
      if (check.operandCount() > 1) check.requireType(1, DType::i64, {});
      const Dims& shape = check.node.ints(attr::random_uniform::shape);
      requirePart(check, shape, check.node.ints(attr::random_uniform::whole));
      check.require(isFloat(check.dtype(attr::random_uniform::dtype)), "takes a float dtype");
      return {{check.dtype(attr::random_uniform::dtype), shape}};
    }
    default:
      check.fail("is not known to this device");
  }
}

std::vector<TensorType> leafTypes(const NodeCheck& check) {
  if (isPartitioned(check.node.op)) check.fail("not partitioned: the partitioner replaces this op");
  if (check.node.op != Op::constant) check.fail("is not known to this device");
  TensorType type{check.dtype(attr::constant::dtype), check.node.ints(attr::constant::shape)};
  // Multiplied only once the shape is known to be the declared one, whose size does not overflow.
  check.require(type.shape == check.declared[0].shape, "the shape is not the declared one");
  check.require(check.node.bytes(attr::constant::data).size() == type.bytes(),
                "the data does not fill the shape");
  return {type};
}

}  // namespace

void NodeCheck::fail(const std::string& what) const {
  std::string text = "[" + std::string(name(node.op)) + "] " + what;
  for (size_t i = 0; i < operands_.size() && i < 8; i++) {
    text += (i == 0 ? ": " : ", ") + (name(operands_[i]->dtype) + format(operands_[i]->shape));
  }
  throw ProgramError(text, position_);
}

size_t NodeCheck::dim(size_t attr, size_t rank) const {
  int64_t dim = node.integer(attr);
  require(dim >= 0 && static_cast<uint64_t>(dim) < rank, "a dim is out of range");
  return static_cast<size_t>(dim);
}

std::vector<bool> NodeCheck::dims(size_t attr, size_t rank) const {
  std::vector<bool> named(rank);
  for (int64_t dim : node.ints(attr)) {
    require(dim >= 0 && static_cast<uint64_t>(dim) < rank, "a dim is out of range");
    require(!named[static_cast<size_t>(dim)], "a dim is named twice");
    named[static_cast<size_t>(dim)] = true;
  }
  return named;
}

void NodeCheck::requireFloat(size_t operand) const {
  if (!isFloat((*this)[operand].dtype))
    fail("operand " + std::to_string(operand) + " must be of a float dtype");
}

void NodeCheck::requireIndex(size_t operand) const {
  DType dtype = (*this)[operand].dtype;
  if (dtype != DType::i32 && dtype != DType::i64)
    fail("operand " + std::to_string(operand) + " must be int32 or int64");
}

void NodeCheck::requireType(size_t operand, DType dtype, const Dims& shape) const {
  const TensorType& type = (*this)[operand];
  if (type.dtype == dtype && type.shape == shape) return;
  fail("operand " + std::to_string(operand) + " must be " + name(dtype) + format(shape));
}

std::vector<TensorType> elementwiseTypes(const NodeCheck& check) {
  Op op = check.node.op;
  Dims shape = broadcast(check);
  if (op == Op::cast) return {{check.dtype(attr::cast::dtype), shape}};
  size_t first = 0;
  if (op == Op::where) {
    check.require(check[0].dtype == DType::boolean, "the condition must be bool");
    first = 1;
  }
  DType dtype = check[first].dtype;
  for (size_t i = first; i < check.operandCount(); i++)
    check.require(check[i].dtype == dtype, "operands differ in dtype");
  Takes taken = takes(op);
  bool fits = taken == Takes::anything || (taken == Takes::bools && dtype == DType::boolean) ||
              (taken == Takes::numbers && dtype != DType::boolean) ||
              (taken == Takes::floats && isFloat(dtype));
  check.require(fits, "does not take this dtype");
  return {{givesBool(op) ? DType::boolean : dtype, shape}};
}

std::vector<TensorType> resultTypes(const NodeCheck& check) {
  switch (info(check.node.op).lower) {
    case LowerKind::elementwise:
      return elementwiseTypes(check);
    case LowerKind::source:
      return sourceTypes(check);
    case LowerKind::reduction:
      return reductionTypes(check);
    case LowerKind::view:
      return viewTypes(check);
    case LowerKind::contraction:
      return contractionTypes(check);
    case LowerKind::kernel:
      return kernelTypes(check);
    case LowerKind::leaf:
      return leafTypes(check);
    case LowerKind::composite:
      check.fail("must be decomposed before it reaches a device");
  }
  check.fail("is not known to this device");
}

}  // namespace lazuli
