import type { DType } from "../dtype.js";
import { ShapeError } from "../errors.js";
import type { Node } from "../node.js";
import { formatShape, normalizeDim, normalizeDims, type Shape, sameShape } from "../shape.js";
import { ops } from "./bound.js";

/*
 * Functions over ops, for vjps, decompositions and the Tensor API. Dims may be given from the end, numbers stand for
 * scalars of the other operand's dtype, and what would change nothing records nothing: then the input comes back.
 *
 * Ops use these in their vjps, so this file takes the op table late (bound.ts).
 */

export type Operand = Node | number;

/** Shared where there is nothing to name; attributes of many nodes hold it. */
export const noDims: readonly number[] = Object.freeze([]);

// --- leaves and sources ----------------------------------------------------------------------------------------------

export const full = (value: number, shape: Shape, dtype: DType): Node =>
  ops.full([], { value, shape, dtype });
export const scalar = (value: number, dtype: DType): Node => full(value, noDims, dtype);
export const fullLike = (x: Node, value: number): Node => full(value, x.shape, x.dtype);
export const zerosLike = (x: Node): Node => full(0, x.shape, x.dtype);
export const iota = (dim: number, shape: Shape, dtype: DType): Node =>
  ops.iota([], { dim: normalizeDim("iota", dim, shape.length), shape, dtype });
export const randomUniform = (key: Node, stream: number, shape: Shape, dtype: DType): Node =>
  ops.random_uniform([key], { stream, shape, whole: shape, dtype });
export const randomNormal = (key: Node, stream: number, shape: Shape, dtype: DType): Node =>
  ops.random_normal([key], { stream, shape, whole: shape, dtype });
export const bernoulli = (key: Node, stream: number, p: number, shape: Shape, dtype: DType): Node =>
  ops.bernoulli([key], { p, stream, shape, whole: shape, dtype });

export const detach = (x: Node): Node => ops.detach([x]);
export const resultOf = (x: Node, index: number): Node => ops.result([x], { index });
export const resultsOf = (x: Node): Node[] => x.types.map((_, index) => resultOf(x, index));

// --- elementwise -----------------------------------------------------------------------------------------------------

export const neg = (x: Node): Node => ops.neg([x]);
export const abs = (x: Node): Node => ops.abs([x]);
export const sign = (x: Node): Node => ops.sign([x]);
export const floor = (x: Node): Node => ops.floor([x]);
export const ceil = (x: Node): Node => ops.ceil([x]);
export const round = (x: Node): Node => ops.round([x]);
export const trunc = (x: Node): Node => ops.trunc([x]);
export const square = (x: Node): Node => ops.square([x]);
export const relu = (x: Node): Node => ops.relu([x]);
export const exp = (x: Node): Node => ops.exp([x]);
export const exp2 = (x: Node): Node => ops.exp2([x]);
export const expm1 = (x: Node): Node => ops.expm1([x]);
export const log = (x: Node): Node => ops.log([x]);
export const log1p = (x: Node): Node => ops.log1p([x]);
export const log2 = (x: Node): Node => ops.log2([x]);
export const sqrt = (x: Node): Node => ops.sqrt([x]);
export const rsqrt = (x: Node): Node => ops.rsqrt([x]);
export const reciprocal = (x: Node): Node => ops.reciprocal([x]);
export const sin = (x: Node): Node => ops.sin([x]);
export const cos = (x: Node): Node => ops.cos([x]);
export const tan = (x: Node): Node => ops.tan([x]);
export const asin = (x: Node): Node => ops.asin([x]);
export const acos = (x: Node): Node => ops.acos([x]);
export const atan = (x: Node): Node => ops.atan([x]);
export const sinh = (x: Node): Node => ops.sinh([x]);
export const cosh = (x: Node): Node => ops.cosh([x]);
export const tanh = (x: Node): Node => ops.tanh([x]);
export const sigmoid = (x: Node): Node => ops.sigmoid([x]);
export const erf = (x: Node): Node => ops.erf([x]);
export const silu = (x: Node): Node => ops.silu([x]);
export const softplus = (x: Node): Node => ops.softplus([x]);
export const gelu = (x: Node, approximate: "none" | "tanh" = "none"): Node => ops.gelu([x], { approximate });
export const siluGrad = (x: Node, g: Node): Node => ops.silu_grad([x, g]);
export const geluGrad = (x: Node, g: Node, approximate: "none" | "tanh"): Node =>
  ops.gelu_grad([x, g], { approximate });
export const logicalNot = (x: Node): Node => ops.logical_not([x]);
export const isnan = (x: Node): Node => ops.isnan([x]);
export const isinf = (x: Node): Node => ops.isinf([x]);
export const isfinite = (x: Node): Node => ops.isfinite([x]);
export const cast = (x: Node, dtype: DType): Node => (x.dtype === dtype ? x : ops.cast([x], { dtype }));

/** The dtype that sums and exponentials of a float dtype are computed in: float32 for the half types. */
export const computeDType = (dtype: DType): DType =>
  dtype === "float16" || dtype === "bfloat16" ? "float32" : dtype;
export const castUp = (x: Node): Node => cast(x, computeDType(x.dtype));

type Arithmetic =
  | "add"
  | "sub"
  | "mul"
  | "div"
  | "pow"
  | "maximum"
  | "minimum"
  | "remainder"
  | "floor_divide"
  | "atan2";
type Comparison = "eq" | "ne" | "lt" | "le" | "gt" | "ge";

function binary(name: Arithmetic | Comparison, a: Operand, b: Operand): Node {
  if (typeof a === "number") {
    if (typeof b === "number")
      throw new ShapeError(name, `one operand must be a value, got the numbers ${a} and ${b}`);
    return ops[name]([scalar(a, b.dtype), b]);
  }
  return ops[name]([a, typeof b === "number" ? scalar(b, a.dtype) : b]);
}

export const add = (a: Operand, b: Operand): Node => binary("add", a, b);
export const sub = (a: Operand, b: Operand): Node => binary("sub", a, b);
export const mul = (a: Operand, b: Operand): Node => binary("mul", a, b);
export const div = (a: Operand, b: Operand): Node => binary("div", a, b);
export const pow = (a: Operand, b: Operand): Node => binary("pow", a, b);
export const maximum = (a: Operand, b: Operand): Node => binary("maximum", a, b);
export const minimum = (a: Operand, b: Operand): Node => binary("minimum", a, b);
export const remainder = (a: Operand, b: Operand): Node => binary("remainder", a, b);
export const floorDivide = (a: Operand, b: Operand): Node => binary("floor_divide", a, b);
export const atan2 = (a: Operand, b: Operand): Node => binary("atan2", a, b);
export const eq = (a: Operand, b: Operand): Node => binary("eq", a, b);
export const ne = (a: Operand, b: Operand): Node => binary("ne", a, b);
export const lt = (a: Operand, b: Operand): Node => binary("lt", a, b);
export const le = (a: Operand, b: Operand): Node => binary("le", a, b);
export const gt = (a: Operand, b: Operand): Node => binary("gt", a, b);
export const ge = (a: Operand, b: Operand): Node => binary("ge", a, b);
export const logicalAnd = (a: Node, b: Node): Node => ops.logical_and([a, b]);
export const logicalOr = (a: Node, b: Node): Node => ops.logical_or([a, b]);
export const logicalXor = (a: Node, b: Node): Node => ops.logical_xor([a, b]);

/** a where cond holds, else b. At least one of a and b is a value. */
export function where(cond: Node, a: Operand, b: Operand): Node {
  if (typeof a !== "number") return ops.where([cond, a, typeof b === "number" ? scalar(b, a.dtype) : b]);
  if (typeof b === "number")
    throw new ShapeError("where", `one choice must be a value, got the numbers ${a} and ${b}`);
  return ops.where([cond, scalar(a, b.dtype), b]);
}

// --- reductions ------------------------------------------------------------------------------------------------------

/** One dim, several, or all where undefined. */
export type Dims = number | readonly number[] | undefined;

type ReduceName = "sum" | "prod" | "max" | "min" | "mean" | "logsumexp";

const reduce = (name: ReduceName, x: Node, dims: Dims, keepdim: boolean): Node =>
  ops[name]([x], { dims: normalizeDims(name, dims, x.shape.length), keepdim });

export const sum = (x: Node, dims?: Dims, keepdim = false): Node => reduce("sum", x, dims, keepdim);
export const prod = (x: Node, dims?: Dims, keepdim = false): Node => reduce("prod", x, dims, keepdim);
export const max = (x: Node, dims?: Dims, keepdim = false): Node => reduce("max", x, dims, keepdim);
export const min = (x: Node, dims?: Dims, keepdim = false): Node => reduce("min", x, dims, keepdim);
export const mean = (x: Node, dims?: Dims, keepdim = false): Node => reduce("mean", x, dims, keepdim);
export const logsumexp = (x: Node, dims?: Dims, keepdim = false): Node =>
  reduce("logsumexp", x, dims, keepdim);
export const argmax = (x: Node, dim: number, keepdim = false): Node =>
  ops.argmax([x], { dim: normalizeDim("argmax", dim, x.shape.length), keepdim });
export const argmin = (x: Node, dim: number, keepdim = false): Node =>
  ops.argmin([x], { dim: normalizeDim("argmin", dim, x.shape.length), keepdim });
export const cumsum = (x: Node, dim: number, reverse = false): Node =>
  ops.cumsum([x], { dim: normalizeDim("cumsum", dim, x.shape.length), reverse });

/** Undoes a broadcast from `shape`: sums over the dims it added or stretched. */
export function sumTo(x: Node, shape: Shape): Node {
  const from = x.shape;
  if (from === shape || sameShape(from, shape)) return x;
  const added = from.length - shape.length;
  const dims: number[] = [];
  for (let i = 0; i < from.length; i++) if (i < added || from[i] !== shape[i - added]) dims.push(i);
  if (added === 0) return ops.sum([x], { dims, keepdim: true });
  return reshape(ops.sum([x], { dims, keepdim: false }), shape);
}

// --- contraction -----------------------------------------------------------------------------------------------------

/** [batch..., a's free dims..., b's free dims...] */
export const dotGeneral = (
  a: Node,
  b: Node,
  lhs_contract: readonly number[],
  rhs_contract: readonly number[],
  lhs_batch: readonly number[] = noDims,
  rhs_batch: readonly number[] = noDims,
): Node => ops.dot_general([a, b], { lhs_contract, rhs_contract, lhs_batch, rhs_batch });

// --- views -----------------------------------------------------------------------------------------------------------

export const reshape = (x: Node, shape: Shape): Node =>
  sameShape(x.shape, shape) ? x : ops.reshape([x], { shape });
export const broadcastTo = (x: Node, shape: Shape): Node =>
  sameShape(x.shape, shape) ? x : ops.broadcast_to([x], { shape });

export function transpose(x: Node, perm: readonly number[]): Node {
  for (let i = 0; i < perm.length; i++) if (perm[i] !== i) return ops.transpose([x], { perm });
  return perm.length === x.shape.length ? x : ops.transpose([x], { perm });
}

export function inversePerm(perm: readonly number[]): number[] {
  const inverse = new Array<number>(perm.length);
  for (let i = 0; i < perm.length; i++) inverse[perm[i]] = i;
  return inverse;
}

export const slice = (
  x: Node,
  starts: readonly number[],
  limits: readonly number[],
  steps?: readonly number[],
): Node => ops.slice([x], { starts, limits, steps: steps ?? starts.map(() => 1) });

/** Elements start, start + step, ... below limit of one dim. */
export function sliceDim(x: Node, dim: number, start: number, limit: number, step = 1): Node {
  if (start === 0 && limit === x.shape[dim] && step === 1) return x;
  const at = <T>(rest: readonly T[], value: T): T[] => rest.map((other, i) => (i === dim ? value : other));
  const zeros = x.shape.map(() => 0);
  return slice(
    x,
    at(zeros, start),
    at(x.shape, limit),
    at(zeros, step).map((value) => Math.max(value, 1)),
  );
}

export const flip = (x: Node, dims: number | readonly number[]): Node =>
  ops.flip([x], { dims: normalizeDims("flip", dims, x.shape.length) });

export const pad = (
  x: Node,
  low: readonly number[],
  high: readonly number[],
  interior: readonly number[],
  value: number,
): Node => ops.pad([x], { low, high, interior, value });

/** `value` before and after the elements of one dim. */
export function padDim(x: Node, dim: number, low: number, high: number, value: number): Node {
  if (low === 0 && high === 0) return x;
  const zeros = x.shape.map(() => 0);
  return pad(
    x,
    zeros.map((_, i) => (i === dim ? low : 0)),
    zeros.map((_, i) => (i === dim ? high : 0)),
    zeros,
    value,
  );
}

export const concat = (inputs: readonly Node[], dim: number): Node => {
  if (inputs.length === 0) throw new ShapeError("concat", "takes 1 input or more, got 0");
  return ops.concat(inputs, { dim: normalizeDim("concat", dim, inputs[0].shape.length) });
};

/** A dim of size 1 before `dim` of the result. */
export function unsqueeze(x: Node, dim: number): Node {
  const at = normalizeDim("unsqueeze", dim, x.shape.length + 1);
  return reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)]);
}

/** Without dim `dim`, which has size 1. */
export function squeeze(x: Node, dim: number): Node {
  const at = normalizeDim("squeeze", dim, x.shape.length);
  if (x.shape[at] !== 1)
    throw new ShapeError("squeeze", `dim ${dim} of ${formatShape(x.shape)} has size ${x.shape[at]}, not 1`);
  return reshape(x, x.shape.toSpliced(at, 1));
}

// --- indexing and ordering -------------------------------------------------------------------------------------------

export const indexSelect = (x: Node, index: Node, dim: number): Node =>
  ops.index_select([x, index], { dim: normalizeDim("index_select", dim, x.shape.length) });
export const indexAdd = (base: Node, index: Node, updates: Node, dim: number): Node =>
  ops.index_add([base, index, updates], { dim: normalizeDim("index_add", dim, base.shape.length) });
export const gather = (x: Node, index: Node, dim: number): Node =>
  ops.gather([x, index], { dim: normalizeDim("gather", dim, x.shape.length) });
export const scatterAdd = (base: Node, index: Node, updates: Node, dim: number): Node =>
  ops.scatter_add([base, index, updates], { dim: normalizeDim("scatter_add", dim, base.shape.length) });

/** Values and indices. */
export function sort(x: Node, dim = -1, descending = false): [Node, Node] {
  const node = ops.sort([x], { dim: normalizeDim("sort", dim, x.shape.length), descending });
  return [resultOf(node, 0), resultOf(node, 1)];
}

/** Values and indices. */
export function topk(x: Node, k: number, dim = -1, largest = true): [Node, Node] {
  const node = ops.topk([x], { k, dim: normalizeDim("topk", dim, x.shape.length), largest });
  return [resultOf(node, 0), resultOf(node, 1)];
}
