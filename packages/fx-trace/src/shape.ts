import type { DType } from "./dtype.js";
import { ShapeError } from "./errors.js";

export type Shape = readonly number[];

/** Shape and dtype of a value. */
export interface TensorType {
  readonly shape: Shape;
  readonly dtype: DType;
}

export const tensorType = (dtype: DType, shape: Shape): TensorType => ({ dtype, shape });

export function sizeOf(shape: Shape): number {
  let size = 1;
  for (let i = 0; i < shape.length; i++) size *= shape[i];
  return size;
}

export function sameShape(a: Shape, b: Shape): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

export const formatShape = (shape: Shape): string => `[${shape.join(", ")}]`;
export const formatType = (type: TensorType): string => `${type.dtype}${formatShape(type.shape)}`;

/** NumPy broadcasting of two shapes, or null where they do not fit. */
export function broadcastPair(a: Shape, b: Shape): Shape | null {
  if (sameShape(a, b)) return a;
  const rank = Math.max(a.length, b.length);
  const out = new Array<number>(rank);
  for (let i = 0; i < rank; i++) {
    const da = i < rank - a.length ? 1 : a[i - (rank - a.length)];
    const db = i < rank - b.length ? 1 : b[i - (rank - b.length)];
    if (da !== db && da !== 1 && db !== 1) return null;
    out[i] = da === 1 ? db : da;
  }
  return out;
}

/** NumPy broadcasting. Throws ShapeError naming both shapes. */
export function broadcastShapes(op: string, a: Shape, b: Shape): Shape {
  const out = broadcastPair(a, b);
  if (!out) throw new ShapeError(op, `shapes do not broadcast: ${formatShape(a)} and ${formatShape(b)}`);
  return out;
}

/** A dim given from the end (-1 is the last) as one in 0..rank-1. Throws ShapeError. */
export function normalizeDim(op: string, dim: number, rank: number): number {
  if (!Number.isInteger(dim) || dim < -rank || dim >= Math.max(rank, 1)) {
    throw new ShapeError(op, `dim ${dim} is out of range for a tensor of rank ${rank}`);
  }
  return dim < 0 ? dim + rank : dim;
}

/** Dims normalised, sorted, checked for repeats; undefined means every dim. */
export function normalizeDims(
  op: string,
  dims: number | readonly number[] | undefined,
  rank: number,
): number[] {
  if (dims === undefined) return Array.from({ length: rank }, (_, i) => i);
  const list = (typeof dims === "number" ? [dims] : dims).map((d) => normalizeDim(op, d, rank));
  list.sort((a, b) => a - b);
  for (let i = 1; i < list.length; i++) {
    if (list[i] === list[i - 1])
      throw new ShapeError(op, `dim ${list[i]} is named twice in ${formatShape(list)}`);
  }
  return list;
}

/** Shape after reducing `dims` (normalised). */
export function reducedShape(shape: Shape, dims: readonly number[], keepdim: boolean): number[] {
  const out: number[] = [];
  for (let i = 0; i < shape.length; i++) {
    if (!dims.includes(i)) out.push(shape[i]);
    else if (keepdim) out.push(1);
  }
  return out;
}
