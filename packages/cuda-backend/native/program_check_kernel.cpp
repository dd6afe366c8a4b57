// Type rules of the library kernels.
#include "program_check.h"

namespace lazuli {
namespace {

using Types = std::vector<TensorType>;

// int64 sums of positions and an offset never overflow.
constexpr int64_t kMostOffset = int64_t{1} << 62;

int64_t lastDim(const TensorType& type) { return type.shape.back(); }

/// x of floats, [..., D] with rows that are not empty.
void requireRows(const NodeCheck& check, size_t operand) {
  check.requireFloat(operand);
  const TensorType& x = check[operand];
  check.require(!x.shape.empty(), "needs a dim or more");
  check.require(lastDim(x) > 0 || x.elements() == 0, "the last dim is empty");
}

/// Weights of one row of operand 0: of its dtype, or float32 beside half activations.
void requireRowWeights(const NodeCheck& check, size_t operand) {
  DType dtype = check[operand].dtype;
  check.require(dtype == check[0].dtype || dtype == DType::f32, "weights must be of x's dtype or float32");
  check.requireType(operand, dtype, {lastDim(check[0])});
}

Types softmaxTypes(const NodeCheck& check) {
  requireRows(check, 0);
  if (check.operandCount() == 2) check.requireSameType(1, check[0]);
  return {check[0]};
}

Types normTypes(const NodeCheck& check) {
  Op op = check.node.op;
  requireRows(check, 0);
  requireRowWeights(check, 1);
  switch (op) {
    case Op::rms_norm:
      return {check[0]};
    case Op::layer_norm:
      check.requireSameType(2, check[1]);
      return {check[0]};
    default:
      check.requireSameType(2, check[0]);
      if (op == Op::rms_norm_grad) return {check[0], check[1]};
      return {check[0], check[1], check[1]};
  }
}

Types ropeTypes(const NodeCheck& check) {
  const TensorType& x = check[0];
  check.requireFloat(0);
  check.require(x.shape.size() >= 2, "x must be [..., T, K]");
  check.require(lastDim(x) % 2 == 0, "the last dim must be even");
  DType table = check[1].dtype;
  check.require(table == x.dtype || table == DType::f32, "cos and sin must be of x's dtype or float32");
  Dims shape = {x.shape[x.shape.size() - 2], lastDim(x) / 2};
  check.requireType(1, table, shape);
  check.requireType(2, table, shape);
  return {x};
}

/// Floats that are added to the scaled scores, or bools.
void requireAttentionBias(const NodeCheck& check, size_t at) {
  const Dims &q = check[0].shape, &k = check[1].shape;
  const TensorType& bias = check[at];
  if (bias.dtype != DType::boolean) {
    check.requireFloat(at);
    check.require((bias.dtype == DType::f64) == (check[0].dtype == DType::f64),
                  "a bias is float64 where q is, and only there");
  }
  const int64_t scores[] = {q[0], q[1], q[2], k[2]};
  for (size_t dim = 0; dim < 4; dim++)
    check.require(bias.shape[dim] == 1 || bias.shape[dim] == scores[dim],
                  "a bias must broadcast to the scores, [B, H, T, S]");
}

/// The operands of an attention from `at` on, which need not be there: a bias, segments, then the shift. The
/// kernels tell them apart by rank.
void requireAttentionExtras(const NodeCheck& check, size_t at) {
  const Dims &q = check[0].shape, &k = check[1].shape;
  if (check.operandCount() > at && check[at].shape.size() == 4) requireAttentionBias(check, at++);
  if (check.operandCount() > at && check[at].shape.size() == 2) {
    check.require(check.operandCount() > at + 1, "segments of queries come with those of keys");
    check.requireType(at, DType::i32, {q[0], q[2]});
    check.requireType(at + 1, DType::i32, {k[0], k[2]});
    at += 2;
  }
  if (check.operandCount() == at) return;
  check.requireType(at, DType::i32, {});
  check.require(check.operandCount() == at + 1, "takes no operand after the shift");
}

Types attentionTypes(const NodeCheck& check) {
  const TensorType &q = check[0], &k = check[1], &v = check[2];
  check.requireFloat(0);
  check.require(k.dtype == q.dtype && v.dtype == q.dtype, "q, k and v differ in dtype");
  check.require(q.shape.size() == 4 && k.shape.size() == 4 && v.shape.size() == 4,
                "q, k and v must have 4 dims");
  int64_t batch = q.shape[0], heads = q.shape[1], groups = k.shape[1];
  check.require(groups > 0 && heads % groups == 0, "heads of q must be a multiple of those of k");
  check.requireType(1, q.dtype, {batch, groups, k.shape[2], q.shape[3]});
  check.requireType(2, q.dtype, {batch, groups, k.shape[2], v.shape[3]});
  int64_t offset = check.node.integer(attr::attention::offset);
  check.require(-kMostOffset <= offset && offset <= kMostOffset, "the offset is out of range");
  int64_t window = check.node.integer(attr::attention::window);
  check.require(0 <= window && window <= kMostOffset / 2, "the window is out of range");
  TensorType out{q.dtype, {batch, heads, q.shape[2], v.shape[3]}};
  TensorType row{DType::f32, {batch, heads, q.shape[2]}};
  if (check.node.op == Op::attention) {
    requireAttentionExtras(check, 3);
    return {out, row};
  }
  check.requireSameType(3, out);
  check.requireSameType(4, row);
  check.requireSameType(5, out);
  const bool hasRow = check.operandCount() > 6 && check[6].shape.size() == 3;
  if (hasRow) check.requireSameType(6, row);
  const size_t extras = hasRow ? 7 : 6;
  requireAttentionExtras(check, extras);
  if (check.node.op == Op::attention_grad) return {q, k, v};
  check.require(check.operandCount() > extras && check[extras].shape.size() == 4, "needs a bias");
  check.requireFloat(extras);
  return {q, k, v, {q.dtype == DType::f64 ? DType::f64 : DType::f32, check[extras].shape}};
}

Types crossEntropyTypes(const NodeCheck& check) {
  const TensorType& logits = check[0];
  requireRows(check, 0);
  const Dims rows(logits.shape.begin(), logits.shape.end() - 1);
  check.requireIndex(1);
  check.requireType(1, check[1].dtype, rows);
  double smoothing = check.node.number(attr::cross_entropy::label_smoothing);
  check.require(smoothing >= 0 && smoothing <= 1, "label_smoothing must lie in [0, 1]");
  TensorType row{DType::f32, rows};
  if (check.node.op == Op::cross_entropy) return {row, row};
  check.requireSameType(2, row);
  check.requireSameType(3, row);
  return {logits};
}

Types linearCrossEntropyTypes(const NodeCheck& check) {
  const TensorType &x = check[0], &weight = check[1];
  requireRows(check, 0);
  const Dims rows(x.shape.begin(), x.shape.end() - 1);
  check.require(weight.shape.size() == 2, "weight must be [V, K]");
  check.require(weight.shape[0] > 0 || elements(rows) == 0, "weight has no classes");
  check.requireType(1, x.dtype, {weight.shape[0], lastDim(x)});
  check.requireIndex(2);
  check.requireType(2, check[2].dtype, rows);
  const double smoothing = check.node.number(attr::linear_cross_entropy::label_smoothing);
  check.require(smoothing >= 0 && smoothing <= 1, "label_smoothing must lie in [0, 1]");
  const TensorType row{DType::f32, rows};
  if (check.node.op == Op::linear_cross_entropy) return {row, row};
  check.requireSameType(3, row);
  const TensorType none{x.dtype, {0}};
  return {row, row, check.node.flag(attr::linear_cross_entropy_grad::need_x) ? x : none,
          check.node.flag(attr::linear_cross_entropy_grad::need_weight) ? weight : none};
}

Types adamwTypes(const NodeCheck& check) {
  const TensorType &p = check[0], &g = check[1];
  check.requireFloat(0);
  const bool isHalf = g.dtype == DType::bf16 || g.dtype == DType::f16;
  check.require(g.dtype == p.dtype || g.dtype == DType::f32 || (p.dtype == DType::f32 && isHalf),
                "g must be of p's dtype or float32, or half beside a float32 p");
  check.requireType(1, g.dtype, p.shape);
  TensorType moment{DType::f32, p.shape};
  check.requireSameType(2, moment);
  check.requireSameType(3, moment);
  for (size_t i = 4; i < check.operandCount(); i++)
    check.requireType(i, i == 7 ? DType::boolean : DType::f32, {});
  return {p, moment, moment};
}

/// x.shape[:dim] + index.shape + x.shape[dim + 1:]
Dims selectedShape(const Dims& x, size_t dim, const Dims& index) {
  Dims shape(x.begin(), x.begin() + static_cast<ptrdiff_t>(dim));
  shape.insert(shape.end(), index.begin(), index.end());
  shape.insert(shape.end(), x.begin() + static_cast<ptrdiff_t>(dim) + 1, x.end());
  return shape;
}

/// index_select {x, index} and index_add {base, index, updates}.
Types selectTypes(const NodeCheck& check) {
  const TensorType& x = check[0];
  check.requireIndex(1);
  size_t dim = check.dim(attr::index_select::dim, x.shape.size());
  TensorType selected{x.dtype, selectedShape(x.shape, dim, check[1].shape)};
  if (check.node.op == Op::index_select) return {selected};
  check.require(x.dtype != DType::boolean, "takes no bool");
  check.requireSameType(2, selected);
  return {x};
}

/// gather {x, index} and scatter_add {base, index, updates}.
Types gatherTypes(const NodeCheck& check) {
  const TensorType &x = check[0], &index = check[1];
  check.requireIndex(1);
  size_t dim = check.dim(attr::gather::dim, x.shape.size());
  check.require(index.shape.size() == x.shape.size(), "the index differs in rank");
  for (size_t i = 0; i < x.shape.size(); i++) {
    check.require(i == dim || index.shape[i] <= x.shape[i], "the index is larger than what it indexes");
  }
  TensorType gathered{x.dtype, index.shape};
  if (check.node.op == Op::gather) return {gathered};
  check.require(x.dtype != DType::boolean, "takes no bool");
  check.requireSameType(2, gathered);
  return {x};
}

/// Values and their positions, in order along a dim.
Types sortTypes(const NodeCheck& check) {
  TensorType type = check[0];
  bool top = check.node.op == Op::topk;
  size_t dim = check.dim(top ? attr::topk::dim : attr::sort::dim, type.shape.size());
  check.require(type.shape[dim] <= INT32_MAX, "the dim is too long for int32 indices");
  if (top) {
    int64_t k = check.node.integer(attr::topk::k);
    check.require(k >= 0 && k <= type.shape[dim], "k is out of range");
    type.shape[dim] = k;
  }
  return {type, {DType::i32, type.shape}};
}

}  // namespace

Types kernelTypes(const NodeCheck& check) {
  switch (check.node.op) {
    case Op::cumsum:
      check.dim(attr::cumsum::dim, check[0].shape.size());
      check.require(check[0].dtype != DType::boolean, "takes no bool");
      return {check[0]};
    case Op::index_select:
    case Op::index_add:
      return selectTypes(check);
    case Op::gather:
    case Op::scatter_add:
      return gatherTypes(check);
    case Op::sort:
    case Op::topk:
      return sortTypes(check);
    case Op::softmax:
    case Op::log_softmax:
    case Op::softmax_grad:
    case Op::log_softmax_grad:
      return softmaxTypes(check);
    case Op::rms_norm:
    case Op::rms_norm_grad:
    case Op::layer_norm:
    case Op::layer_norm_grad:
      return normTypes(check);
    case Op::rope:
      return ropeTypes(check);
    case Op::attention:
    case Op::attention_grad:
    case Op::attention_bias_grad:
      return attentionTypes(check);
    case Op::cross_entropy:
    case Op::cross_entropy_grad:
      return crossEntropyTypes(check);
    case Op::linear_cross_entropy:
    case Op::linear_cross_entropy_grad:
      return linearCrossEntropyTypes(check);
    case Op::adamw_update:
      return adamwTypes(check);
    case Op::barrier:
      return {check[0]};
    default:
      return collectiveTypes(check);
  }
}

}  // namespace lazuli
