import { isFloat } from "../dtype.js";
import type { Node } from "../node.js";
import type { OpTable } from "../ops/table.js";
import { reducedShape, sizeOf } from "../shape.js";
import type { Onnx, OnnxWriter } from "./onnx_writer.js";

/** Writes one node; gives its results, or null where its attributes have no counterpart. */
export type OnnxRule = (w: OnnxWriter, node: Node, inputs: readonly Onnx[]) => Onnx | readonly Onnx[] | null;

const list = (value: unknown): readonly number[] => value as readonly number[];

// --- elementwise -----------------------------------------------------------------------------------------------------

const unary =
  (opType: string): OnnxRule =>
  (w, _, [x]) =>
    w.same(opType, x);
const formula =
  (write: (w: OnnxWriter, x: Onnx, node: Node) => Onnx): OnnxRule =>
  (w, node, [x]) =>
    write(w, x, node);
/** Integers are as they are already. */
const rounding =
  (opType: string): OnnxRule =>
  (w, _, [x]) =>
    isFloat(x.dtype) ? w.same(opType, x) : x;
const num = (w: OnnxWriter, x: Onnx, value: number): Onnx => w.scalar(value, x.dtype);
const times = (w: OnnxWriter, x: Onnx, by: number): Onnx => w.same("Mul", x, num(w, x, by));
const plus = (w: OnnxWriter, x: Onnx, by: number): Onnx => w.same("Add", x, num(w, x, by));

/** Operands broadcast by NumPy's rules, as ours do. */
const binary =
  (opType: string): OnnxRule =>
  (w, node, inputs) =>
    w.one(opType, inputs, node.type);
const logical = binary;
const negated =
  (opType: string): OnnxRule =>
  (w, node, inputs) =>
    w.same("Not", w.one(opType, inputs, node.type));

const remainder: OnnxRule = (w, node, [a, b]) => {
  if (!isFloat(a.dtype)) return w.one("Mod", [a, b], node.type);
  const rest = w.one("Mod", [a, b], node.type, { fmod: 1 });
  const predicate = { shape: node.shape, dtype: "bool" } as const;
  const zero = num(w, a, 0);
  const signs = w.one("Xor", [w.one("Less", [rest, zero], predicate), w.test("Less", b, zero)], predicate);
  const wrong = w.one("And", [signs, w.same("Not", w.one("Equal", [rest, zero], predicate))], predicate);
  return w.one("Where", [wrong, w.one("Add", [rest, b], node.type), rest], node.type);
};

function normalCdf(w: OnnxWriter, x: Onnx, approximate: unknown): Onnx {
  const cubic = (): Onnx =>
    w.same("Mul", times(w, x, Math.sqrt(2 / Math.PI)), plus(w, times(w, w.same("Mul", x, x), 0.044715), 1));
  const inner = approximate === "tanh" ? w.same("Tanh", cubic()) : w.same("Erf", times(w, x, Math.SQRT1_2));
  return times(w, plus(w, inner, 1), 0.5);
}

// --- reductions ------------------------------------------------------------------------------------------------------

/** Axes are an attribute of all but ReduceSum, up to opset 17. */
const reduction =
  (opType: string): OnnxRule =>
  (w, node, [x]) => {
    const dims = list(node.attrs.dims);
    if (dims.length === 0) return x;
    return w.one(opType, [x], node.type, { axes: dims, keepdims: node.attrs.keepdim ? 1 : 0 });
  };
const sum: OnnxRule = (w, node, [x]) => {
  const dims = list(node.attrs.dims);
  if (dims.length === 0) return x;
  return w.one("ReduceSum", [x, w.ints(dims)], node.type, { keepdims: node.attrs.keepdim ? 1 : 0 });
};
const extremeIndex =
  (opType: string): OnnxRule =>
  (w, node, [x]) => {
    const { dim, keepdim } = node.attrs as { dim: number; keepdim: boolean };
    const shape = reducedShape(x.shape, [dim], keepdim);
    const attrs = { axis: dim, keepdims: keepdim ? 1 : 0, select_last_index: 0 };
    return w.cast(w.one(opType, [x], { shape, dtype: "int64" }, attrs), "int32");
  };

/** Values and places: of equal ones the first comes first. */
function ordered(w: OnnxWriter, node: Node, x: Onnx, k: number, dim: number, largest: boolean): Onnx[] {
  const shape = node.types[0].shape;
  const types = [
    { shape, dtype: x.dtype },
    { shape, dtype: "int64" as const },
  ];
  const attrs = { axis: dim, largest: largest ? 1 : 0, sorted: 1 };
  const [values, places] = w.several("TopK", [x, w.ints([k])], types, attrs);
  return [values, w.cast(places, "int32")];
}

// --- contraction and views -------------------------------------------------------------------------------------------

/** Both operands as stacks of matrices: a [batch, free, contracted] · b [batch, contracted, free]. */
const dot: OnnxRule = (w, node, [a, b]) => {
  const { lhs_contract, rhs_contract, lhs_batch, rhs_batch } = node.attrs;
  const [ca, cb, ba, bb] = [lhs_contract, rhs_contract, lhs_batch, rhs_batch].map(list);
  const free = (x: Onnx, ...taken: (readonly number[])[]): number[] =>
    x.shape.map((_, dim) => dim).filter((dim) => !taken.flat().includes(dim));
  const sizes = (x: Onnx, dims: readonly number[]): number => sizeOf(dims.map((dim) => x.shape[dim]));
  const fa = free(a, ca, ba);
  const fb = free(b, cb, bb);
  const batch = ba.length > 0 ? [sizes(a, ba)] : [];
  const rows = w.reshape(w.transpose(a, [...ba, ...fa, ...ca]), [...batch, sizes(a, fa), sizes(a, ca)]);
  const columns = w.reshape(w.transpose(b, [...bb, ...cb, ...fb]), [...batch, sizes(b, cb), sizes(b, fb)]);
  const shape = [...batch, sizes(a, fa), sizes(b, fb)];
  return w.reshape(w.one("MatMul", [rows, columns], { shape, dtype: a.dtype }), node.shape);
};

const slice: OnnxRule = (w, node, [x]) => {
  const { starts, limits, steps } = node.attrs;
  if (x.shape.length === 0) return x;
  const axes = x.shape.map((_, dim) => dim);
  const given = [list(starts), list(limits), axes, list(steps)].map((values) => w.ints(values));
  return w.one("Slice", [x, ...given], node.type);
};
const flip: OnnxRule = (w, node, [x]) => {
  const dims = list(node.attrs.dims);
  if (dims.length === 0) return x;
  // From the last element on, to before the first: an end that no negative index reaches.
  const given = [dims.map(() => -1), dims.map(() => -(2 ** 31)), dims, dims.map(() => -1)];
  return w.one("Slice", [x, ...given.map((values) => w.ints(values))], node.type);
};
const pad: OnnxRule = (w, node, [x]) => {
  const { low, high, interior, value } = node.attrs;
  if (list(interior).some((count) => count > 0)) return null;
  if (x.shape.length === 0) return x;
  return w.one(
    "Pad",
    [x, w.ints([...list(low), ...list(high)]), w.scalar(value as number, x.dtype)],
    node.type,
  );
};
const iota: OnnxRule = (w, node) => {
  const dim = node.attrs.dim as number;
  const { shape, dtype } = node;
  const column = shape.map((size, i) => (i === dim ? size : 1));
  return w.expand(w.reshape(w.range(shape[dim], dtype), column), shape);
};
const alias: OnnxRule = (_, __, [x]) => x;

/**
 * How each op is written in opset 17, once what has no operator of its own is in smaller ops; null for what has none. For
 * inference: of the gradients only those that are plain ops.
 */
export const onnxRules: OpTable<OnnxRule | null> = {
  input: null,
  constant: (w, node) => w.data(node.type, node.attrs.data as Uint8Array),
  result: null,
  detach: alias,
  barrier: alias,
  full: (w, node) => w.expand(w.scalar(node.attrs.value as number, node.dtype), node.shape),
  iota,
  random_uniform: null,
  random_normal: null,
  bernoulli: null,

  neg: unary("Neg"),
  abs: unary("Abs"),
  sign: unary("Sign"),
  exp: unary("Exp"),
  exp2: formula((w, x) => w.same("Exp", times(w, x, Math.LN2))),
  expm1: formula((w, x) => plus(w, w.same("Exp", x), -1)),
  log: unary("Log"),
  log1p: formula((w, x) => w.same("Log", plus(w, x, 1))),
  log2: formula((w, x) => times(w, w.same("Log", x), Math.LOG2E)),
  sqrt: unary("Sqrt"),
  rsqrt: formula((w, x) => w.same("Reciprocal", w.same("Sqrt", x))),
  sin: unary("Sin"),
  cos: unary("Cos"),
  tan: unary("Tan"),
  asin: unary("Asin"),
  acos: unary("Acos"),
  atan: unary("Atan"),
  sinh: unary("Sinh"),
  cosh: unary("Cosh"),
  tanh: unary("Tanh"),
  sigmoid: unary("Sigmoid"),
  erf: unary("Erf"),
  reciprocal: unary("Reciprocal"),
  square: formula((w, x) => w.same("Mul", x, x)),
  floor: rounding("Floor"),
  ceil: rounding("Ceil"),
  round: rounding("Round"),
  trunc: formula((w, x) =>
    isFloat(x.dtype)
      ? w.one("Where", [w.test("Less", x, num(w, x, 0)), w.same("Ceil", x), w.same("Floor", x)], x)
      : x,
  ),
  relu: unary("Relu"),
  silu: formula((w, x) => w.same("Mul", x, w.same("Sigmoid", x))),
  softplus: unary("Softplus"),
  gelu: formula((w, x, node) => w.same("Mul", x, normalCdf(w, x, node.attrs.approximate))),
  logical_not: unary("Not"),
  isnan: formula((w, x) => w.test("IsNaN", x)),
  isinf: formula((w, x) => w.test("IsInf", x)),
  isfinite: formula((w, x) => w.same("Not", w.same("Or", w.test("IsNaN", x), w.test("IsInf", x)))),
  cast: (w, node, [x]) => w.cast(x, node.dtype),
  add: binary("Add"),
  sub: binary("Sub"),
  mul: binary("Mul"),
  div: binary("Div"),
  pow: binary("Pow"),
  maximum: binary("Max"),
  minimum: binary("Min"),
  remainder,
  floor_divide: (w, node, [a, b]) => {
    if (isFloat(a.dtype)) return w.same("Floor", w.one("Div", [a, b], node.type));
    return w.one("Div", [w.one("Sub", [a, w.one("Mod", [a, b], node.type)], node.type), b], node.type);
  },
  atan2: null,
  eq: binary("Equal"),
  ne: negated("Equal"),
  lt: binary("Less"),
  le: binary("LessOrEqual"),
  gt: binary("Greater"),
  ge: binary("GreaterOrEqual"),
  logical_and: logical("And"),
  logical_or: logical("Or"),
  logical_xor: logical("Xor"),
  silu_grad: null,
  gelu_grad: null,
  where: binary("Where"),

  sum,
  prod: reduction("ReduceProd"),
  max: reduction("ReduceMax"),
  min: reduction("ReduceMin"),
  argmax: extremeIndex("ArgMax"),
  argmin: extremeIndex("ArgMin"),
  cumsum: (w, node, [x]) =>
    w.one("CumSum", [x, w.scalar(node.attrs.dim as number, "int64")], x, {
      reverse: node.attrs.reverse ? 1 : 0,
    }),
  mean: null,
  logsumexp: null,
  dot_general: dot,

  reshape: (w, node, [x]) => w.reshape(x, node.shape),
  transpose: (w, node, [x]) => w.transpose(x, list(node.attrs.perm)),
  broadcast_to: (w, node, [x]) => w.expand(x, node.shape),
  slice,
  flip,
  pad,
  concat: (w, node, inputs) => w.one("Concat", inputs, node.type, { axis: node.attrs.dim as number }),

  index_select: (w, node, inputs) => w.one("Gather", inputs, node.type, { axis: node.attrs.dim as number }),
  index_add: null,
  gather: (w, node, inputs) => w.one("GatherElements", inputs, node.type, { axis: node.attrs.dim as number }),
  scatter_add: (w, node, inputs) =>
    w.one("ScatterElements", inputs, node.type, { axis: node.attrs.dim as number, reduction: "add" }),
  sort: (w, node, [x]) => {
    const { dim, descending } = node.attrs as { dim: number; descending: boolean };
    return ordered(w, node, x, x.shape[dim], dim, descending);
  },
  topk: (w, node, [x]) => {
    const { k, dim, largest } = node.attrs as { k: number; dim: number; largest: boolean };
    return ordered(w, node, x, k, dim, largest);
  },

  softmax: (w, _, [x]) => w.one("Softmax", [x], x, { axis: -1 }),
  log_softmax: (w, _, [x]) => w.one("LogSoftmax", [x], x, { axis: -1 }),
  softmax_grad: null,
  log_softmax_grad: null,
  rms_norm: null,
  rms_norm_grad: null,
  layer_norm: (w, node, inputs) =>
    w.one("LayerNormalization", inputs, node.type, {
      axis: -1,
      epsilon: { float: node.attrs.eps as number },
    }),
  layer_norm_grad: null,
  rope: null,
  attention: null,
  attention_grad: null,
  attention_bias_grad: null,
  cross_entropy: null,
  cross_entropy_grad: null,
  linear_cross_entropy: null,
  linear_cross_entropy_grad: null,
  adamw_update: null,

  all_reduce: null,
  all_gather: null,
  reduce_scatter: null,
  all_to_all: null,
  collective_permute: null,
  shard_slice: null,
  axis_index: null,
  sharding_constraint: alias,
  collective_done: null,
  full_to_shard: null,
  shard_to_full: null,
};
