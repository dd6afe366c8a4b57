import { ValueError } from "../errors.js";
import { apply, type Node } from "../node.js";
import * as f from "../ops/build.js";
import { type OpName, type OpTable, ops } from "../ops/table.js";
import {
  type BatchRule,
  bindRules,
  elementwise,
  expand,
  leading,
  leadingRows,
  merged,
  moveDim,
  resultsOf,
  type ShiftAttrs,
} from "./batch.js";
import { alongDim, indexAdd, indexSelect } from "./batch_index.js";

const ints = (value: unknown): readonly number[] => value as readonly number[];
const up = (dims: unknown): number[] => ints(dims).map((dim) => dim + 1);
const inFront = (first: number, values: unknown): number[] => [first, ...ints(values)];

const shiftDim: ShiftAttrs = (attrs) => ({ ...attrs, dim: (attrs.dim as number) + 1 });
const shiftDims: ShiftAttrs = (attrs) => ({ ...attrs, dims: up(attrs.dims) });
const shiftBoth: ShiftAttrs = (attrs) => ({
  ...attrs,
  split_dim: (attrs.split_dim as number) + 1,
  concat_dim: (attrs.concat_dim as number) + 1,
});

const alongShiftedDim = leading(shiftDim);
const reduction = leading(shiftDims);
const same = leading();

/** Values that are made in place have no operands: they are one for all. */
const source: BatchRule = (node, inputs) =>
  resultsOf(
    apply(
      node.op,
      inputs.map((input) => input.node),
      node.attrs,
    ),
    false,
  );

/** The key is the step's: numbers differ by stream and element, so a batch more of elements are other numbers. */
const random: BatchRule = (node, inputs, { size, randomness }) => {
  if (inputs.some(({ batched }) => batched))
    throw new ValueError(node.op.name, "draws by a key that is batched: one key serves all examples");
  if (randomness === "error") {
    throw new ValueError(
      node.op.name,
      'draws random numbers under vmap: say vmap(fn, { randomness: "different" }) for numbers of its own for every example, or "same"',
    );
  }
  const { shape, whole } = node.attrs;
  const attrs =
    randomness === "same"
      ? node.attrs
      : { ...node.attrs, shape: inFront(size, shape), whole: inFront(size, whole) };
  const operands = inputs.map((input) => input.node);
  return resultsOf(apply(node.op, operands, attrs), randomness === "different");
};

/** Two batches are one batch dim more. One is a free dim of its operand, which the result has behind the batch dims. */
const contraction: BatchRule = (node, [a, b]) => {
  const { lhs_contract, rhs_contract, lhs_batch, rhs_batch } = node.attrs;
  const both = a.batched && b.batched;
  const dims = (x: typeof a, list: unknown): readonly number[] => (x.batched ? up(list) : ints(list));
  const batch = (x: typeof a, list: unknown): readonly number[] => (both ? [0, ...up(list)] : dims(x, list));
  const product = f.dotGeneral(
    a.node,
    b.node,
    dims(a, lhs_contract),
    dims(b, rhs_contract),
    batch(a, lhs_batch),
    batch(b, rhs_batch),
  );
  if (both) return [{ node: product, batched: true }];
  const batches = ints(lhs_batch).length;
  const freeOfA = node.inputs[0].shape.length - batches - ints(lhs_contract).length;
  return [{ node: moveDim(product, a.batched ? batches : batches + freeOfA, 0), batched: true }];
};

const broadcast: BatchRule = (node, [x], { size }) => {
  const shape = ints(node.attrs.shape);
  const ones = new Array<number>(shape.length - node.inputs[0].shape.length).fill(1);
  const aligned = f.reshape(x.node, [size, ...ones, ...x.node.shape.slice(1)]);
  return [{ node: f.broadcastTo(aligned, [size, ...shape]), batched: true }];
};

/** `result` is read from the op's values before its rule is asked for. */
const never: BatchRule = (node) => {
  throw new ValueError(node.op.name, "has no value of its own to batch");
};

/**
 * How each op is recorded for many examples. Where `leading` or `merged` stand the op's factor rule is what makes it
 * right, and is checked.
 */
export const batchRules: OpTable<BatchRule> = {
  input: source,
  constant: source,
  result: never,
  detach: elementwise,
  barrier: elementwise,
  full: source,
  iota: source,
  random_uniform: random,
  random_normal: random,
  bernoulli: random,

  neg: elementwise,
  abs: elementwise,
  sign: elementwise,
  exp: elementwise,
  exp2: elementwise,
  expm1: elementwise,
  log: elementwise,
  log1p: elementwise,
  log2: elementwise,
  sqrt: elementwise,
  rsqrt: elementwise,
  sin: elementwise,
  cos: elementwise,
  tan: elementwise,
  asin: elementwise,
  acos: elementwise,
  atan: elementwise,
  sinh: elementwise,
  cosh: elementwise,
  tanh: elementwise,
  sigmoid: elementwise,
  erf: elementwise,
  reciprocal: elementwise,
  square: elementwise,
  floor: elementwise,
  ceil: elementwise,
  round: elementwise,
  trunc: elementwise,
  relu: elementwise,
  silu: elementwise,
  softplus: elementwise,
  gelu: elementwise,
  logical_not: elementwise,
  isnan: elementwise,
  isinf: elementwise,
  isfinite: elementwise,
  cast: elementwise,
  add: elementwise,
  sub: elementwise,
  mul: elementwise,
  div: elementwise,
  pow: elementwise,
  maximum: elementwise,
  minimum: elementwise,
  remainder: elementwise,
  floor_divide: elementwise,
  atan2: elementwise,
  eq: elementwise,
  ne: elementwise,
  lt: elementwise,
  le: elementwise,
  gt: elementwise,
  ge: elementwise,
  logical_and: elementwise,
  logical_or: elementwise,
  logical_xor: elementwise,
  silu_grad: same,
  gelu_grad: same,
  where: elementwise,

  sum: reduction,
  prod: reduction,
  max: reduction,
  min: reduction,
  mean: reduction,
  logsumexp: reduction,
  argmax: alongShiftedDim,
  argmin: alongShiftedDim,
  cumsum: alongShiftedDim,

  dot_general: contraction,

  reshape: leading(({ shape }, size) => ({ shape: inFront(size, shape) })),
  transpose: leading(({ perm }) => ({ perm: inFront(0, up(perm)) })),
  broadcast_to: broadcast,
  slice: leading(({ starts, limits, steps }, size) => ({
    starts: inFront(0, starts),
    limits: inFront(size, limits),
    steps: inFront(1, steps),
  })),
  flip: leading(shiftDims),
  pad: leading(({ low, high, interior, value }) => ({
    low: inFront(0, low),
    high: inFront(0, high),
    interior: inFront(0, interior),
    value,
  })),
  concat: alongShiftedDim,

  index_select: indexSelect,
  index_add: indexAdd,
  gather: alongDim,
  scatter_add: alongDim,
  sort: alongShiftedDim,
  topk: alongShiftedDim,

  softmax: same,
  log_softmax: same,
  softmax_grad: same,
  log_softmax_grad: same,
  rms_norm: leadingRows([0]),
  layer_norm: leadingRows([0]),
  // A weight's cotangent is a sum over rows, which examples do not share.
  rms_norm_grad: expand,
  layer_norm_grad: expand,
  rope: leadingRows([0]),
  attention: merged,
  attention_grad: merged,
  attention_bias_grad: merged,
  cross_entropy: same,
  cross_entropy_grad: same,
  linear_cross_entropy: leadingRows([0, 2]),
  linear_cross_entropy_grad: expand,
  adamw_update: leadingRows([0, 1, 2, 3]),

  all_reduce: same,
  all_gather: alongShiftedDim,
  reduce_scatter: alongShiftedDim,
  all_to_all: leading(shiftBoth),
  collective_permute: same,
  shard_slice: alongShiftedDim,
  axis_index: source,
  sharding_constraint: leading((attrs) => ({ ...attrs, dims: inFront(0, attrs.dims) })),
  collective_done: same,
  full_to_shard: leading((attrs) => ({ ...attrs, dims: inFront(0, attrs.dims) })),
  shard_to_full: leading((attrs) => ({ ...attrs, dims: inFront(0, attrs.dims) })),
};

bindRules((node: Node): BatchRule => {
  const rule = (batchRules as Readonly<Record<string, BatchRule>>)[node.op.name];
  if (!rule || node.op !== (ops as unknown as Record<string, Node["op"]>)[node.op.name])
    throw new ValueError(
      node.op.name as OpName,
      "is no op of the table: it has no batching rule",
      node.scope,
    );
  return rule;
});
