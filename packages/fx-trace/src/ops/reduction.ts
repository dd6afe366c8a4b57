import { ShapeError } from "../errors.js";
import type { Node } from "../node.js";
import { type AttrsOf, type Cotangents, defineOp, type VjpArgs } from "../opdef.js";
import { formatShape, reducedShape, sizeOf, type TensorType } from "../shape.js";
import * as f from "./build.js";
import { alongDims, reductionSharding } from "./factors.js";
import { checkDim, checkDims, checkDType, type Takes, unaryType } from "./rules.js";

const reduceAttrs = { dims: "ints", keepdim: "bool" } as const;
type ReduceAttrs = AttrsOf<typeof reduceAttrs>;

function reduceType(op: string, takes: Takes, x: Node, { dims, keepdim }: ReduceAttrs): TensorType {
  checkDType(op, takes, x.dtype);
  checkDims(op, dims, x.shape.length, true);
  return { dtype: x.dtype, shape: reducedShape(x.shape, dims, keepdim) };
}

const sharding = ([x]: readonly Node[], { dims, keepdim }: ReduceAttrs) =>
  reductionSharding(x.shape.length, dims, keepdim, true);

/** A result of reducing x, with the reduced dims put back as 1: it broadcasts to x. */
const restore = (y: Node, x: Node, { dims, keepdim }: ReduceAttrs): Node =>
  keepdim ? y : f.reshape(y, reducedShape(x.shape, dims, true));

export const sum = defineOp({
  name: "sum",
  attrs: reduceAttrs,
  arity: 1,
  lower: "reduction",
  type: ([x], attrs) => reduceType("sum", "numeric", x, attrs),
  vjp: ({ inputs: [x], grad, attrs }) => [f.broadcastTo(restore(grad, x, attrs), x.shape)],
  sharding,
});

/** Each element's product of the others along the last dim, by scans of doubling stride: right also where some are 0. */
function productOfOthers(x: Node): Node {
  const shape = x.shape;
  const last = shape.length - 1;
  const size = shape[last];
  if (size === 1) return f.fullLike(x, 1);
  const shifted = (from: Node, by: number): Node =>
    f.padDim(f.sliceDim(from, last, 0, size - by), last, by, 0, 1);
  const productBefore = (from: Node): Node => {
    let before = shifted(from, 1);
    for (let by = 1; by < size; by *= 2) before = f.mul(before, shifted(before, by));
    return before;
  };
  const after = f.flip(productBefore(f.flip(x, last)), last);
  return f.mul(productBefore(x), after);
}

function prodVjp({ inputs: [x], grad, attrs }: VjpArgs<ReduceAttrs>): Cotangents {
  const { dims } = attrs;
  if (dims.length === 0 || sizeOf(x.shape) === 0) return [f.broadcastTo(restore(grad, x, attrs), x.shape)];
  const kept = x.shape.map((_, dim) => dim).filter((dim) => !dims.includes(dim));
  const perm = [...kept, ...dims];
  const moved = f.transpose(x, perm);
  const rows = f.reshape(moved, [
    ...kept.map((dim) => x.shape[dim]),
    sizeOf(dims.map((dim) => x.shape[dim])),
  ]);
  const others = f.transpose(f.reshape(productOfOthers(rows), moved.shape), f.inversePerm(perm));
  return [f.mul(restore(grad, x, attrs), others)];
}

export const prod = defineOp({
  name: "prod",
  attrs: reduceAttrs,
  arity: 1,
  lower: "reduction",
  type: ([x], attrs) => reduceType("prod", "numeric", x, attrs),
  vjp: prodVjp,
  sharding,
});

/** The cotangent is split equally among the elements that tie. */
function extremeVjp({ inputs: [x], out, grad, attrs }: VjpArgs<ReduceAttrs>): Cotangents {
  const wins = f.eq(x, restore(out, x, attrs));
  const count = f.sum(f.cast(wins, x.dtype), attrs.dims, true);
  return [f.where(wins, f.div(restore(grad, x, attrs), count), 0)];
}

function checkSome(op: string, x: Node, dims: readonly number[]): void {
  for (const dim of dims) {
    if (x.shape[dim] === 0) {
      throw new ShapeError(
        op,
        `there is no ${op} of no elements: dim ${dim} of ${formatShape(x.shape)} is empty`,
      );
    }
  }
}

function extremeType(op: string, x: Node, attrs: ReduceAttrs): TensorType {
  const type = reduceType(op, "any", x, attrs);
  checkSome(op, x, attrs.dims);
  return type;
}

/** NaN propagates. */
export const max = defineOp({
  name: "max",
  attrs: reduceAttrs,
  arity: 1,
  lower: "reduction",
  type: ([x], attrs) => extremeType("max", x, attrs),
  vjp: extremeVjp,
  sharding,
});

/** NaN propagates. */
export const min = defineOp({
  name: "min",
  attrs: reduceAttrs,
  arity: 1,
  lower: "reduction",
  type: ([x], attrs) => extremeType("min", x, attrs),
  vjp: extremeVjp,
  sharding,
});

const argAttrs = { dim: "int", keepdim: "bool" } as const;

function argType(op: string, x: Node, { dim, keepdim }: AttrsOf<typeof argAttrs>): TensorType {
  checkDim(op, dim, x.shape.length);
  checkSome(op, x, [dim]);
  return { dtype: "int32", shape: reducedShape(x.shape, [dim], keepdim) };
}

/** int32; the first on ties; NaN wins. */
export const argmax = defineOp({
  name: "argmax",
  attrs: argAttrs,
  arity: 1,
  lower: "reduction",
  type: ([x], attrs) => argType("argmax", x, attrs),
  sharding: ([x], { dim, keepdim }) => reductionSharding(x.shape.length, [dim], keepdim, false),
});

export const argmin = defineOp({
  name: "argmin",
  attrs: argAttrs,
  arity: 1,
  lower: "reduction",
  type: ([x], attrs) => argType("argmin", x, attrs),
  sharding: ([x], { dim, keepdim }) => reductionSharding(x.shape.length, [dim], keepdim, false),
});

/** Sums of the elements up to each, or from each on where `reverse`. */
export const cumsum = defineOp({
  name: "cumsum",
  attrs: { dim: "int", reverse: "bool" },
  arity: 1,
  lower: "kernel",
  type: (inputs, { dim }) => {
    checkDim("cumsum", dim, inputs[0].shape.length);
    return unaryType("cumsum", "numeric", inputs);
  },
  vjp: ({ grad, attrs }) => [f.cumsum(grad, attrs.dim, !attrs.reverse)],
  sharding: ([x], { dim }) => alongDims(1, 1, x.shape.length, [dim]),
});

/** Half types are summed and divided in float32. */
export const mean = defineOp({
  name: "mean",
  attrs: reduceAttrs,
  arity: 1,
  lower: "composite",
  type: ([x], attrs) => reduceType("mean", "float", x, attrs),
  vjp: ({ inputs: [x], out, grad, attrs }) => {
    const scaled = f.div(grad, sizeOf(x.shape) / sizeOf(out.shape));
    return [f.broadcastTo(restore(scaled, x, attrs), x.shape)];
  },
  decompose: ([x], { dims, keepdim }) => {
    const count = dims.reduce((product, dim) => product * x.shape[dim], 1);
    return [f.cast(f.div(f.sum(f.castUp(x), dims, keepdim), count), x.dtype)];
  },
  sharding,
});

/** log(sum(exp(x))), shifted by the largest element so that exp never overflows. */
export const logsumexp = defineOp({
  name: "logsumexp",
  attrs: reduceAttrs,
  arity: 1,
  lower: "composite",
  type: ([x], attrs) => {
    const type = reduceType("logsumexp", "float", x, attrs);
    checkSome("logsumexp", x, attrs.dims);
    return type;
  },
  // The result is -inf where all of x is: nothing to shift by, and the derivative is 0.
  vjp: ({ inputs: [x], out, grad, attrs }) => {
    const y = f.castUp(restore(out, x, attrs));
    const shift = f.where(f.eq(y, Number.NEGATIVE_INFINITY), 0, y);
    const weights = f.exp(f.sub(f.castUp(x), shift));
    return [f.cast(f.mul(f.castUp(restore(grad, x, attrs)), weights), x.dtype)];
  },
  decompose: ([x], { dims, keepdim }) => {
    const wide = f.castUp(x);
    const largest = f.max(f.detach(wide), dims, true);
    const shift = f.where(f.isfinite(largest), largest, 0);
    const total = f.log(f.sum(f.exp(f.sub(wide, shift)), dims, keepdim));
    return [f.cast(f.add(total, keepdim ? shift : f.reshape(shift, total.shape)), x.dtype)];
  },
  sharding,
});
