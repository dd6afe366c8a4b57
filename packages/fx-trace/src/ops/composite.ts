import type { DType } from "../dtype.js";
import { ShapeError, ValueError } from "../errors.js";
import type { Node } from "../node.js";
import { formatShape, normalizeDim, normalizeDims, sizeOf } from "../shape.js";
import * as f from "./build.js";

// --- contraction -----------------------------------------------------------------------------------------------------

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

/**
 * As torch.matmul: vectors are rows on the left and columns on the right, leading dims broadcast. Always one dot_general;
 * a leading dim that only one operand has is a free dim of it, so nothing is broadcast in memory. A transpose follows
 * only where such dims of b stand before M.
 */
export function matmul(a: Node, b: Node): Node {
  const ra = a.shape.length;
  const rb = b.shape.length;
  if (ra === 0 || rb === 0) {
    throw new ShapeError(
      "matmul",
      `takes tensors of rank 1 or more: a ${formatShape(a.shape)}, b ${formatShape(b.shape)}`,
    );
  }
  const contractA = ra - 1;
  const contractB = Math.max(rb - 2, 0);
  if (a.shape[contractA] !== b.shape[contractB]) {
    throw new ShapeError("matmul", `K differs: a ${formatShape(a.shape)}, b ${formatShape(b.shape)}`);
  }
  if (ra <= 2 && rb <= 2) return f.dotGeneral(a, b, [contractA], [contractB]);
  if (ra === 1 || rb <= 2) return f.dotGeneral(a, b, [contractA], [contractB]);
  return batchedMatmul(a, b);
}

function batchedMatmul(a: Node, b: Node): Node {
  const leading = Math.max(a.shape.length, b.shape.length) - 2;
  const offsetA = leading - (a.shape.length - 2);
  const offsetB = leading - (b.shape.length - 2);
  // Which operand carries each leading dim of the result; dims of size 1 that the other stretches are dropped.
  const batch: number[] = [];
  const onlyA: number[] = [];
  const onlyB: number[] = [];
  const dropA: number[] = [];
  const dropB: number[] = [];
  for (let dim = 0; dim < leading; dim++) {
    const sa = dim < offsetA ? null : a.shape[dim - offsetA];
    const sb = dim < offsetB ? null : b.shape[dim - offsetB];
    if (sa === sb) batch.push(dim);
    else if (sa === null || (sa === 1 && sb !== null)) {
      onlyB.push(dim);
      if (sa !== null) dropA.push(dim - offsetA);
    } else if (sb === null || sb === 1) {
      onlyA.push(dim);
      if (sb !== null) dropB.push(dim - offsetB);
    } else {
      throw new ShapeError(
        "matmul",
        `leading dims do not broadcast: a ${formatShape(a.shape)}, b ${formatShape(b.shape)}`,
      );
    }
  }
  const keptA = range(offsetA, leading).filter((dim) => !dropA.includes(dim - offsetA));
  const keptB = range(offsetB, leading).filter((dim) => !dropB.includes(dim - offsetB));
  const x = f.reshape(
    a,
    a.shape.filter((_, dim) => !dropA.includes(dim)),
  );
  const y = f.reshape(
    b,
    b.shape.filter((_, dim) => !dropB.includes(dim)),
  );
  const product = f.dotGeneral(
    x,
    y,
    [x.shape.length - 1],
    [y.shape.length - 2],
    batch.map((dim) => keptA.indexOf(dim)),
    batch.map((dim) => keptB.indexOf(dim)),
  );
  const order = [...batch, ...onlyA, leading, ...onlyB, leading + 1];
  return f.transpose(product, f.inversePerm(order));
}

// --- joining and splitting -------------------------------------------------------------------------------------------

/** Joined along a new dim. */
export function stack(inputs: readonly Node[], dim = 0): Node {
  if (inputs.length === 0) throw new ValueError("stack", "takes 1 input or more, got 0");
  const at = normalizeDim("stack", dim, inputs[0].shape.length + 1);
  return f.concat(
    inputs.map((x) => f.unsqueeze(x, at)),
    at,
  );
}

/** Pieces of `sizes` along `dim`; one size is that of every piece but a smaller last. */
export function split(x: Node, sizes: number | readonly number[], dim = 0): Node[] {
  const at = normalizeDim("split", dim, x.shape.length);
  const total = x.shape[at];
  const list = typeof sizes === "number" ? pieceSizes(total, sizes) : sizes;
  if (list.reduce((sum, size) => sum + size, 0) !== total) {
    throw new ShapeError(
      "split",
      `sizes ${formatShape(list)} do not add up to dim ${at} of ${formatShape(x.shape)}`,
    );
  }
  let start = 0;
  return list.map((size) => {
    const from = start;
    start += size;
    return f.sliceDim(x, at, from, start);
  });
}

function pieceSizes(total: number, size: number): number[] {
  if (!Number.isInteger(size) || size < 1)
    throw new ValueError("split", `the size must be an integer of at least 1, got ${size}`);
  if (total === 0) return [0];
  return Array.from({ length: Math.ceil(total / size) }, (_, i) => Math.min(size, total - i * size));
}

/** `count` pieces along `dim`, or fewer where the size does not divide. As torch.chunk. */
export function chunk(x: Node, count: number, dim = 0): Node[] {
  if (!Number.isInteger(count) || count < 1)
    throw new ValueError("chunk", `the count must be an integer of at least 1, got ${count}`);
  const at = normalizeDim("chunk", dim, x.shape.length);
  return split(x, Math.max(Math.ceil(x.shape[at] / count), 1), at);
}

// --- masks -----------------------------------------------------------------------------------------------------------

/** 1 at each index along a new last dim of size `classes`. */
export function oneHot(index: Node, classes: number, dtype: DType): Node {
  const shape = [...index.shape, classes];
  return f.cast(f.eq(f.unsqueeze(index, -1), f.iota(-1, shape, index.dtype)), dtype);
}

/** column - row, over the last two dims. */
function diagonalOffsets(op: string, x: Node): Node {
  if (x.shape.length < 2)
    throw new ShapeError(op, `takes a tensor of rank 2 or more, got ${formatShape(x.shape)}`);
  const [rows, columns] = x.shape.slice(-2);
  return f.sub(f.iota(1, [1, columns], "int32"), f.iota(0, [rows, 1], "int32"));
}

/** x on and above the diagonal, 0 below. */
export const triu = (x: Node, diagonal = 0): Node =>
  f.where(f.ge(diagonalOffsets("triu", x), diagonal), x, 0);
/** x on and below the diagonal, 0 above. */
export const tril = (x: Node, diagonal = 0): Node =>
  f.where(f.le(diagonalOffsets("tril", x), diagonal), x, 0);

/** 1 / (1 - p) with probability 1 - p, else 0: what dropout multiplies by. */
export function dropoutMask(
  key: Node,
  stream: number,
  p: number,
  shape: readonly number[],
  dtype: DType,
): Node {
  if (!(p >= 0 && p <= 1)) throw new ValueError("dropout", `p must be in [0, 1], got ${p}`);
  const kept = f.bernoulli(key, stream, 1 - p, shape, dtype);
  return p === 0 || p === 1 ? kept : f.mul(kept, 1 / (1 - p));
}

// --- elementwise and reductions --------------------------------------------------------------------------------------

/** x held to [low, high]. The gradient passes at the bounds, not beyond; NaN stays. As torch.clamp. */
export function clamp(x: Node, low?: number, high?: number): Node {
  let y = x;
  if (low !== undefined) y = f.where(f.lt(y, low), low, y);
  if (high !== undefined) y = f.where(f.gt(y, high), high, y);
  return y;
}

/** sqrt whose derivative at 0 is 0. */
function flatRoot(x: Node): Node {
  const zero = f.eq(x, 0);
  return f.where(zero, 0, f.sqrt(f.where(zero, 1, x)));
}

/** Mean square of the deviations, over count - correction. */
export function variance(x: Node, dims?: f.Dims, correction = 1, keepdim = false): Node {
  const over = normalizeDims("variance", dims, x.shape.length);
  const count = sizeOf(over.map((dim) => x.shape[dim]));
  const wide = f.castUp(x);
  const deviations = f.sub(wide, f.mean(wide, over, true));
  const total = f.sum(f.square(deviations), over, keepdim);
  return f.cast(f.div(total, Math.max(count - correction, 0)), x.dtype);
}

/** Square root of the variance; its derivative is 0 where all elements are equal. */
export const std = (x: Node, dims?: f.Dims, correction = 1, keepdim = false): Node =>
  flatRoot(variance(x, dims, correction, keepdim));

/** The p-norm; infinities give the largest and smallest size, 0 counts what is not 0. As torch.linalg.vector_norm. */
export function norm(x: Node, p = 2, dims?: f.Dims, keepdim = false): Node {
  const wide = f.castUp(x);
  return f.cast(wideNorm(wide, p, dims, keepdim), x.dtype);
}

function wideNorm(x: Node, p: number, dims: f.Dims, keepdim: boolean): Node {
  if (p === 2) return flatRoot(f.sum(f.square(x), dims, keepdim));
  if (p === 0) return f.sum(f.cast(f.ne(x, 0), x.dtype), dims, keepdim);
  const sizes = f.abs(x);
  if (p === 1) return f.sum(sizes, dims, keepdim);
  if (p === Number.POSITIVE_INFINITY) return f.max(sizes, dims, keepdim);
  if (p === Number.NEGATIVE_INFINITY) return f.min(sizes, dims, keepdim);
  const total = f.sum(f.pow(sizes, p), dims, keepdim);
  const zero = f.eq(total, 0);
  return f.where(zero, 0, f.pow(f.where(zero, 1, total), 1 / p));
}
