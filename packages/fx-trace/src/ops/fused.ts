import { type DType, isFloat } from "../dtype.js";
import { DTypeError, ShapeError } from "../errors.js";
import type { Node } from "../node.js";
import { formatShape, formatType, type Shape, sameShape, sizeOf } from "../shape.js";
import * as f from "./build.js";

// What the fused ops share: their checks, and words their decompositions are written in. Half types compute in
// float32 and round once, on store (`f.castUp`); float32 and float64 compute in themselves.

export const lastDim = (shape: Shape): number => shape[shape.length - 1];

/** [..., D] → [..., 1] */
export const sumLast = (x: Node): Node => f.sum(x, -1, true);
/** [..., D] → [..., 1] */
export const meanLast = (x: Node): Node => f.div(sumLast(x), lastDim(x.shape));
/** [..., D] → [..., 1] */
export const maxLast = (x: Node): Node => f.max(x, -1, true);

/** The last `kept` dims; the others are summed over. */
export function sumToLast(x: Node, kept: number): Node {
  const leading = x.shape.slice(kept).map((_, dim) => dim);
  return leading.length > 0 ? f.sum(x, leading) : x;
}

/** The results of `node` in order; null where `needs` says one is not asked for. */
export const neededResults = (node: Node, needs: readonly boolean[]): (Node | null)[] =>
  node.types.map((_, index) => (needs[index] ? f.resultOf(node, index) : null));

export function expectFloat(op: string, name: string, x: Node): void {
  if (!isFloat(x.dtype))
    throw new DTypeError(op, `${name} must be of a float dtype, but is ${formatType(x.type)}`);
}

/** For operands that may be kept in float32 beside half ones: parameters, tables, gradients. */
export function expectOrFloat32(op: string, name: string, x: Node, dtype: DType, like: string): void {
  if (x.dtype === dtype || x.dtype === "float32") return;
  throw new DTypeError(op, `${name} must be ${dtype}, as ${like}, or float32, but is ${formatType(x.type)}`);
}

export function expectShape(op: string, name: string, x: Node, shape: Shape, like: string): void {
  if (sameShape(x.shape, shape)) return;
  throw new ShapeError(
    op,
    `${name} must have shape ${formatShape(shape)}, as ${like}, but has ${formatShape(x.shape)}`,
  );
}

/** Throws unless `x` has exactly this type; `why` says where the type comes from: "as y". */
export function expectType(op: string, name: string, x: Node, dtype: DType, shape: Shape, why: string): void {
  if (x.dtype === dtype && sameShape(x.shape, shape)) return;
  const message = `${name} must be ${formatType({ dtype, shape })}, ${why}, but is ${formatType(x.type)}`;
  throw x.dtype === dtype ? new ShapeError(op, message) : new DTypeError(op, message);
}

/** Throws unless `x` is floats in rows: of a rank of at least 1, the last dim not empty. */
export function expectRows(op: string, name: string, x: Node): void {
  expectFloat(op, name, x);
  if (x.shape.length === 0) throw new ShapeError(op, `${name} must have at least 1 dim, but is a scalar`);
  if (lastDim(x.shape) === 0 && sizeOf(x.shape.slice(0, -1)) > 0) {
    throw new ShapeError(op, `the last dim of ${name} is empty: ${formatShape(x.shape)}`);
  }
}
