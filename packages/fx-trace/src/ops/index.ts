import { ShapeError, ValueError } from "../errors.js";
import type { Node } from "../node.js";
import { type Cotangents, defineOp, type VjpArgs } from "../opdef.js";
import { formatShape, formatType, type Shape, sameShape, type TensorType } from "../shape.js";
import * as f from "./build.js";
import { alongDims, dimFactors, ruleOf } from "./factors.js";
import { checkDim, checkDType, checkSameDType } from "./rules.js";

const dimAttrs = { dim: "int" } as const;

/** x.shape[:dim] + index.shape + x.shape[dim+1:] */
const selectedShape = (x: Shape, index: Shape, dim: number): Shape => [
  ...x.slice(0, dim),
  ...index,
  ...x.slice(dim + 1),
];

function checkIndex(op: string, x: Node, index: Node, dim: number): void {
  checkDim(op, dim, x.shape.length);
  checkDType(op, "index", index.dtype, "the index");
}

/** Rows of x along `dim`, one for each index: an embedding where dim is 0. An index out of range fails the run. */
export const index_select = defineOp({
  name: "index_select",
  attrs: dimAttrs,
  arity: 2,
  lower: "kernel",
  type: ([x, index], { dim }) => {
    checkIndex("index_select", x, index, dim);
    return { dtype: x.dtype, shape: selectedShape(x.shape, index.shape, dim) };
  },
  vjp: ({ inputs: [x, index], grad, attrs }) => [f.indexAdd(f.zerosLike(x), index, grad, attrs.dim), null],
  sharding: ([x, index], { dim }) => {
    const rows = dimFactors(x.shape.length);
    const places = dimFactors(index.shape.length, "i");
    return ruleOf([rows, places], [[...rows.slice(0, dim), ...places, ...rows.slice(dim + 1)]], {
      replicate: [rows[dim]],
    });
  },
});

/** `base` with `updates` (shaped as index_select's result) added to the rows that `index` names. */
export const index_add = defineOp({
  name: "index_add",
  attrs: dimAttrs,
  arity: 3,
  lower: "kernel",
  type: ([base, index, updates], { dim }) => {
    checkIndex("index_add", base, index, dim);
    checkDType("index_add", "numeric", base.dtype);
    checkSameDType("index_add", base, updates);
    const expected = selectedShape(base.shape, index.shape, dim);
    if (!sameShape(updates.shape, expected)) {
      throw new ShapeError(
        "index_add",
        `updates must have shape ${formatShape(expected)} for base ${formatShape(base.shape)} and index ${formatShape(index.shape)}, got ${formatShape(updates.shape)}`,
      );
    }
    return base.types;
  },
  vjp: ({ inputs: [, index], grad, attrs, needs }) => [
    needs[0] ? grad : null,
    null,
    needs[2] ? f.indexSelect(grad, index, attrs.dim) : null,
  ],
  sharding: ([base, index], { dim }) => {
    const rows = dimFactors(base.shape.length);
    const places = dimFactors(index.shape.length, "i");
    return ruleOf([rows, places, [...rows.slice(0, dim), ...places, ...rows.slice(dim + 1)]], [rows], {
      replicate: [rows[dim], ...places],
    });
  },
});

/** The index has x's rank and fits in x but along `dim`. */
function checkGathered(op: string, x: Node, index: Node, dim: number): void {
  checkIndex(op, x, index, dim);
  let fits = index.shape.length === x.shape.length;
  for (let i = 0; fits && i < x.shape.length; i++) fits = i === dim || index.shape[i] <= x.shape[i];
  if (!fits) {
    throw new ShapeError(
      op,
      `index ${formatShape(index.shape)} does not fit in ${formatShape(x.shape)} along every dim but ${dim}`,
    );
  }
}

/**
 * Dims of equal size are shared. The others must be whole, in x and in the index, which reads x's first rows there; along
 * `dim` x must be.
 */
function gatherFactors(
  x: Shape,
  index: Shape,
  dim: number,
): { x: string[]; index: string[]; whole: string[] } {
  const own = dimFactors(x.length);
  const places = own.map((factor, i) => (i !== dim && index[i] === x[i] ? factor : `i${i}`));
  const apart = own.flatMap((factor, i) =>
    i === dim ? [factor] : places[i] === factor ? [] : [factor, places[i]],
  );
  return { x: own, index: places, whole: apart };
}

/** Element [.., index[.., i, ..], ..] of x along `dim`. As torch.gather. An index out of range fails the run. */
export const gather = defineOp({
  name: "gather",
  attrs: dimAttrs,
  arity: 2,
  lower: "kernel",
  type: ([x, index], { dim }) => {
    checkGathered("gather", x, index, dim);
    return { dtype: x.dtype, shape: index.shape };
  },
  vjp: ({ inputs: [x, index], grad, attrs }) => [f.scatterAdd(f.zerosLike(x), index, grad, attrs.dim), null],
  sharding: ([x, index], { dim }) => {
    const factors = gatherFactors(x.shape, index.shape, dim);
    return ruleOf([factors.x, factors.index], [factors.index], { replicate: factors.whole });
  },
});

/** `base` with each of `updates` added at the element gather would read. As torch.scatter_add. */
export const scatter_add = defineOp({
  name: "scatter_add",
  attrs: dimAttrs,
  arity: 3,
  lower: "kernel",
  type: ([base, index, updates], { dim }) => {
    checkGathered("scatter_add", base, index, dim);
    checkDType("scatter_add", "numeric", base.dtype);
    checkSameDType("scatter_add", base, updates);
    if (!sameShape(updates.shape, index.shape)) {
      throw new ShapeError(
        "scatter_add",
        `index ${formatShape(index.shape)} and updates ${formatShape(updates.shape)} differ in shape`,
      );
    }
    return base.types;
  },
  vjp: ({ inputs: [, index], grad, attrs, needs }) => [
    needs[0] ? grad : null,
    null,
    needs[2] ? f.gather(grad, index, attrs.dim) : null,
  ],
  sharding: ([base, index], { dim }) => {
    const factors = gatherFactors(base.shape, index.shape, dim);
    return ruleOf([factors.x, factors.index, factors.index], [factors.x], {
      replicate: [...factors.whole, factors.index[dim]],
    });
  },
});

/** Values go back to the elements they were taken from. */
function orderedVjp({ inputs: [x], out, grads, attrs }: VjpArgs<{ readonly dim: number }>): Cotangents {
  const g = grads[0];
  return [g && f.scatterAdd(f.zerosLike(x), f.resultOf(out, 1), g, attrs.dim)];
}

const orderedTypes = (x: Node, shape: Shape): readonly TensorType[] => [
  { dtype: x.dtype, shape },
  { dtype: "int32", shape },
];

/** Values and their int32 indices along `dim`. Stable; NaN is largest. */
export const sort = defineOp({
  name: "sort",
  attrs: { dim: "int", descending: "bool" },
  arity: 1,
  results: 2,
  lower: "kernel",
  type: ([x], { dim }) => {
    checkDim("sort", dim, x.shape.length);
    return orderedTypes(x, x.shape);
  },
  vjp: orderedVjp,
  sharding: ([x], { dim }) => alongDims(1, 2, x.shape.length, [dim]),
});

/** The k largest (or smallest) along `dim`, in order, and their int32 indices. */
export const topk = defineOp({
  name: "topk",
  attrs: { k: "int", dim: "int", largest: "bool" },
  arity: 1,
  results: 2,
  lower: "kernel",
  type: ([x], { k, dim }) => {
    checkDim("topk", dim, x.shape.length);
    if (!Number.isInteger(k) || k < 0 || k > x.shape[dim]) {
      throw new ValueError(
        "topk",
        `k must be in 0..${x.shape[dim]} for dim ${dim} of ${formatType(x.type)}, got ${k}`,
      );
    }
    return orderedTypes(
      x,
      x.shape.map((size, i) => (i === dim ? k : size)),
    );
  },
  vjp: orderedVjp,
  sharding: ([x], { dim }) => {
    const factors = dimFactors(x.shape.length);
    const taken = factors.map((factor, i) => (i === dim ? "k" : factor));
    return ruleOf([factors], [taken, taken], { replicate: [factors[dim], "k"] });
  },
});
