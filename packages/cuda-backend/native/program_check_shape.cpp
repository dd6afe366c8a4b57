// Type rules of views, reductions and the contraction.
#include "program_check.h"

namespace lazuli {
namespace {

/// low + n + (n - 1) * interior + high. The attributes may be any number; a result that is no dim is refused.
int64_t paddedDim(const NodeCheck& check, int64_t n, int64_t low, int64_t interior, int64_t high) {
  check.require(low >= 0 && interior >= 0 && high >= 0, "padding must not be negative");
  int64_t gaps = n > 0 ? n - 1 : 0, size = 0;
  bool overflow = __builtin_mul_overflow(gaps, interior, &size) || __builtin_add_overflow(size, n, &size) ||
                  __builtin_add_overflow(size, low, &size) || __builtin_add_overflow(size, high, &size);
  check.require(!overflow, "the result is too large");
  return size;
}

TensorType padType(const NodeCheck& check) {
  TensorType type = check[0];
  size_t rank = type.shape.size();
  const auto& low = check.node.ints(attr::pad::low);
  const auto& high = check.node.ints(attr::pad::high);
  const auto& interior = check.node.ints(attr::pad::interior);
  check.require(low.size() == rank && high.size() == rank && interior.size() == rank,
                "needs one number a dim");
  for (size_t i = 0; i < rank; i++)
    type.shape[i] = paddedDim(check, type.shape[i], low[i], interior[i], high[i]);
  return type;
}

TensorType sliceType(const NodeCheck& check) {
  TensorType type = check[0];
  size_t rank = type.shape.size();
  const auto& starts = check.node.ints(attr::slice::starts);
  const auto& limits = check.node.ints(attr::slice::limits);
  const auto& steps = check.node.ints(attr::slice::steps);
  check.require(starts.size() == rank && limits.size() == rank && steps.size() == rank,
                "needs one number a dim");
  for (size_t i = 0; i < rank; i++) {
    bool fits = 0 <= starts[i] && starts[i] <= limits[i] && limits[i] <= type.shape[i] && steps[i] >= 1;
    check.require(fits, "the range does not lie in its dim");
    int64_t length = limits[i] - starts[i];
    type.shape[i] = length == 0 ? 0 : (length - 1) / steps[i] + 1;
  }
  return type;
}

TensorType transposeType(const NodeCheck& check) {
  const TensorType& x = check[0];
  const auto& perm = check.node.ints(attr::transpose::perm);
  check.require(perm.size() == x.shape.size(), "needs every dim once");
  check.dims(attr::transpose::perm, perm.size());
  TensorType type{x.dtype, {}};
  for (int64_t dim : perm) type.shape.push_back(x.shape[static_cast<size_t>(dim)]);
  return type;
}

TensorType broadcastType(const NodeCheck& check) {
  const Dims& from = check[0].shape;
  const Dims& to = check.node.ints(attr::broadcast_to::shape);
  check.require(from.size() <= to.size(), "the result has fewer dims");
  for (size_t i = 0; i < from.size(); i++) {
    check.require(from[i] == 1 || from[i] == to[to.size() - from.size() + i], "the shape does not broadcast");
  }
  return {check[0].dtype, to};
}

TensorType reshapeType(const NodeCheck& check) {
  TensorType type{check[0].dtype, check.node.ints(attr::reshape::shape)};
  check.require(type.shape == check.declared[0].shape, "the shape is not the declared one");
  check.require(type.elements() == check[0].elements(), "the number of elements differs");
  return type;
}

TensorType concatType(const NodeCheck& check) {
  TensorType type = check[0];
  size_t dim = check.dim(attr::concat::dim, type.shape.size());
  for (size_t i = 1; i < check.operandCount(); i++) {
    const TensorType& part = check[i];
    check.require(part.dtype == type.dtype && part.shape.size() == type.shape.size(),
                  "parts differ in dtype or rank");
    for (size_t k = 0; k < part.shape.size(); k++) {
      check.require(k == dim || part.shape[k] == type.shape[k], "parts differ in a dim that is not joined");
    }
    type.shape[dim] += part.shape[dim];
  }
  return type;
}

Dims reduced(const Dims& shape, const std::vector<bool>& dims, bool keepdim) {
  Dims result;
  for (size_t i = 0; i < shape.size(); i++) {
    if (!dims[i]) {
      result.push_back(shape[i]);
    } else if (keepdim) {
      result.push_back(1);
    }
  }
  return result;
}

}  // namespace

std::vector<TensorType> viewTypes(const NodeCheck& check) {
  switch (check.node.op) {
    case Op::reshape:
      return {reshapeType(check)};
    case Op::transpose:
      return {transposeType(check)};
    case Op::broadcast_to:
      return {broadcastType(check)};
    case Op::slice:
      return {sliceType(check)};
    case Op::flip:
      check.dims(attr::flip::dims, check[0].shape.size());
      return {check[0]};
    case Op::pad:
      return {padType(check)};
    case Op::concat:
      return {concatType(check)};
    default:
      check.fail("is not known to this device");
  }
}

std::vector<TensorType> reductionTypes(const NodeCheck& check) {
  const TensorType& x = check[0];
  switch (check.node.op) {
    case Op::sum:
    case Op::prod:
    case Op::max:
    case Op::min: {
      // All four have the same schema.
      bool adds = check.node.op == Op::sum || check.node.op == Op::prod;
      check.require(!adds || x.dtype != DType::boolean, "takes no bool");
      std::vector<bool> dims = check.dims(attr::sum::dims, x.shape.size());
      for (size_t i = 0; i < dims.size(); i++)
        check.require(adds || !dims[i] || x.shape[i] > 0, "the dim is empty");
      return {{x.dtype, reduced(x.shape, dims, check.node.flag(attr::sum::keepdim))}};
    }
    case Op::argmax:
    case Op::argmin: {
      size_t dim = check.dim(attr::argmax::dim, x.shape.size());
      check.require(x.shape[dim] > 0, "the dim is empty");
      check.require(x.shape[dim] <= INT32_MAX, "the dim is too long for int32 indices");
      std::vector<bool> dims(x.shape.size());
      dims[dim] = true;
      return {{DType::i32, reduced(x.shape, dims, check.node.flag(attr::argmax::keepdim))}};
    }
    default:
      check.fail("is not known to this device");
  }
}

std::vector<TensorType> contractionTypes(const NodeCheck& check) {
  if (check.node.op != Op::dot_general) check.fail("is not known to this device");
  const TensorType &a = check[0], &b = check[1];
  check.require(a.dtype == b.dtype, "operands differ in dtype");
  check.require(a.dtype != DType::boolean, "takes no bool");
  namespace dot = attr::dot_general;
  TensorType type{a.dtype, {}};
  std::vector<bool> aNamed(a.shape.size()), bNamed(b.shape.size());
  auto pair = [&](size_t aAttr, size_t bAttr, bool batch) {
    std::vector<bool> aDims = check.dims(aAttr, a.shape.size()), bDims = check.dims(bAttr, b.shape.size());
    const auto &as = check.node.ints(aAttr), &bs = check.node.ints(bAttr);
    check.require(as.size() == bs.size(), "the dims do not pair up");
    for (size_t i = 0; i < as.size(); i++) {
      size_t ai = static_cast<size_t>(as[i]), bi = static_cast<size_t>(bs[i]);
      check.require(a.shape[ai] == b.shape[bi], "paired dims differ");
      check.require(!aNamed[ai] && !bNamed[bi], "a dim is named twice");
      aNamed[ai] = bNamed[bi] = true;
      if (batch) type.shape.push_back(a.shape[ai]);
    }
  };
  pair(dot::lhs_batch, dot::rhs_batch, true);
  pair(dot::lhs_contract, dot::rhs_contract, false);
  for (size_t i = 0; i < a.shape.size(); i++) {
    if (!aNamed[i]) type.shape.push_back(a.shape[i]);
  }
  for (size_t i = 0; i < b.shape.size(); i++) {
    if (!bNamed[i]) type.shape.push_back(b.shape[i]);
  }
  return {type};
}

}  // namespace lazuli
