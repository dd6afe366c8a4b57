import { formatShape, type Node, normalizeDim, ops, type Shape, ShapeError, sizeOf } from "@lazuli/fx-trace";
import { TensorError } from "../errors.js";
import { Tensor } from "../tensor.js";

/** Start, end and step of one dim, as Python's slices: negative counts from the end, null or left out is all. */
export type Range = readonly [start?: number | null, stop?: number | null, step?: number | null];
/** One entry a dim: an index (drops the dim), a range, null for all of it, or a tensor of indices. */
export type Index = number | Range | null | Tensor;

/** Replaces one -1 by the size that makes the product fit. Throws ShapeError. */
function inferShape(op: string, size: number, shape: Shape): number[] {
  const unknown = shape.indexOf(-1);
  if (unknown < 0) return [...shape];
  const known = shape.reduce((product, d, i) => (i === unknown ? product : product * d), 1);
  if (shape.lastIndexOf(-1) !== unknown || known === 0 || size % known !== 0) {
    throw new ShapeError(op, `${size} elements do not fit the shape ${formatShape(shape)}`);
  }
  return shape.map((d) => (d === -1 ? size / known : d));
}

const reshape = (node: Node, shape: Shape): Node => ops.reshape([node], { shape });

/** Bounds of a range over a dim of `size`, as Python resolves a slice. Steps are positive. */
function resolveRange(
  op: string,
  range: Range,
  size: number,
): { start: number; limit: number; step: number } {
  const [start = 0, stop = size, step = 1] = range.map((v) => v ?? undefined);
  if (!Number.isInteger(step) || step < 1)
    throw new ShapeError(op, `step ${step} is not a positive integer: use flip() to reverse`);
  const clip = (v: number): number => Math.min(Math.max(v < 0 ? v + size : v, 0), size);
  const from = clip(start);
  return { start: from, limit: Math.max(from, clip(stop)), step };
}

function resolveIndex(op: string, index: number, size: number): number {
  const resolved = index < 0 ? index + size : index;
  if (!Number.isInteger(index) || resolved < 0 || resolved >= size) {
    throw new ShapeError(op, `index ${index} is out of range for a dim of size ${size}`);
  }
  return resolved;
}

function sliceNode(node: Node, ranges: readonly { start: number; limit: number; step: number }[]): Node {
  const whole = ranges.every(
    ({ start, limit, step }, i) => start === 0 && limit === node.shape[i] && step === 1,
  );
  if (whole) return node;
  return ops.slice([node], {
    starts: ranges.map((r) => r.start),
    limits: ranges.map((r) => r.limit),
    steps: ranges.map((r) => r.step),
  });
}

/** Basic indices by one slice, then tensor indices one dim after the other, then the dropped dims. */
function indexTensor(tensor: Tensor, indices: readonly Index[]): Tensor {
  if (indices.length > tensor.rank) {
    throw new ShapeError(
      "at",
      `${indices.length} indices for a tensor of shape ${formatShape(tensor.shape)}`,
    );
  }
  const entry = (i: number): Index => indices[i] ?? null;
  const ranges = tensor.shape.map((size, i) => {
    const index = entry(i);
    if (typeof index === "number") {
      const start = resolveIndex("at", index, size);
      return { start, limit: start + 1, step: 1 };
    }
    return resolveRange("at", index === null || index instanceof Tensor ? [] : index, size);
  });
  let node = sliceNode(tensor.node, ranges);
  const dropped = tensor.shape.map((_, i) => typeof entry(i) === "number");
  node = reshapeWithout(node, dropped);
  const tensors = tensor.shape.flatMap((_, i) => {
    const index = entry(i);
    return index instanceof Tensor ? [{ dim: i - dropped.slice(0, i).filter(Boolean).length, index }] : [];
  });
  if (tensors.length > 1)
    throw new TensorError("at", "several tensor indices: combine them, or use gather()");
  for (const { dim, index } of tensors) node = ops.index_select([node, index.node], { dim });
  return node === tensor.node ? tensor : new Tensor(node);
}

const reshapeWithout = (node: Node, dropped: readonly boolean[]): Node =>
  dropped.some(Boolean)
    ? reshape(
        node,
        node.shape.filter((_, i) => !dropped[i]),
      )
    : node;

function splitSizes(total: number, size: number | readonly number[]): number[] {
  if (typeof size !== "number") {
    const sum = size.reduce((a, b) => a + b, 0);
    if (sum !== total)
      throw new ShapeError("split", `sizes ${formatShape(size)} add up to ${sum}, the dim has ${total}`);
    return [...size];
  }
  if (!Number.isInteger(size) || size < 1)
    throw new ShapeError("split", `size ${size} is not a positive integer`);
  return Array.from({ length: Math.ceil(total / size) }, (_, i) => Math.min(size, total - i * size));
}

const methods = {
  /** The same elements in another shape; one dim may be -1. As torch.reshape. */
  reshape(this: Tensor, shape: Shape): Tensor {
    return new Tensor(reshape(this.node, inferShape("reshape", this.size, shape)));
  },
  /** Alias of reshape: every lazy tensor is dense once computed. */
  view(this: Tensor, shape: Shape): Tensor {
    return this.reshape(shape);
  },
  /** Dims start..end merged. As torch.flatten. */
  flatten(this: Tensor, start = 0, end = -1): Tensor {
    if (this.rank === 0) return this.reshape([1]);
    const from = normalizeDim("flatten", start, this.rank);
    const to = normalizeDim("flatten", end, this.rank);
    const merged = sizeOf(this.shape.slice(from, to + 1));
    return this.reshape([...this.shape.slice(0, from), merged, ...this.shape.slice(to + 1)]);
  },
  /** Without the dim of size 1 (a larger one stays), or without every such dim. As torch.squeeze. */
  squeeze(this: Tensor, dim?: number): Tensor {
    const only = dim === undefined ? -1 : normalizeDim("squeeze", dim, this.rank);
    return this.reshape(this.shape.filter((size, i) => size !== 1 || (dim !== undefined && i !== only)));
  },
  /** With a dim of size 1 inserted at `dim`. As torch.unsqueeze. */
  unsqueeze(this: Tensor, dim: number): Tensor {
    const at = normalizeDim("unsqueeze", dim, this.rank + 1);
    return this.reshape([...this.shape.slice(0, at), 1, ...this.shape.slice(at)]);
  },
  /** Result dim i is dim `perm[i]` of this. As torch.permute. */
  permute(this: Tensor, perm: readonly number[]): Tensor {
    return new Tensor(
      ops.transpose([this.node], { perm: perm.map((d) => normalizeDim("permute", d, this.rank)) }),
    );
  },
  /** Two dims swapped. As torch.transpose. */
  transpose(this: Tensor, a: number, b: number): Tensor {
    const x = normalizeDim("transpose", a, this.rank);
    const y = normalizeDim("transpose", b, this.rank);
    return this.permute(this.shape.map((_, i) => (i === x ? y : i === y ? x : i)));
  },
  /** The last two dims swapped. As torch.Tensor.mT. */
  t(this: Tensor): Tensor {
    return this.rank < 2 ? this : this.transpose(-1, -2);
  },
  /** Dims of size 1 (and new leading ones) repeated without a copy; -1 keeps a dim. As torch.Tensor.expand. */
  expand(this: Tensor, shape: Shape): Tensor {
    const offset = shape.length - this.rank;
    return this.broadcastTo(shape.map((d, i) => (d === -1 && i >= offset ? this.shape[i - offset] : d)));
  },
  /** As torch.broadcast_to. */
  broadcastTo(this: Tensor, shape: Shape): Tensor {
    return new Tensor(ops.broadcast_to([this.node], { shape }));
  },
  /**
   * Indexing: `x.at(0)` is x[0], `x.at(null, [1, -1])` is x[:, 1:-1], `x.at(ids)` picks rows by an integer tensor.
   * Throws ShapeError for an index out of range.
   */
  at(this: Tensor, ...indices: Index[]): Tensor {
    return indexTensor(this, indices);
  },
  /** Elements start..stop of one dim, by `step`. */
  slice(
    this: Tensor,
    dim: number,
    start?: number | null,
    stop?: number | null,
    step?: number | null,
  ): Tensor {
    const d = normalizeDim("slice", dim, this.rank);
    const ranges = this.shape.map((size, i) =>
      resolveRange("slice", i === d ? [start, stop, step] : [], size),
    );
    const node = sliceNode(this.node, ranges);
    return node === this.node ? this : new Tensor(node);
  },
  /** `length` elements of a dim from `start`. As torch.narrow. */
  narrow(this: Tensor, dim: number, start: number, length: number): Tensor {
    return this.slice(dim, start, start + length);
  },
  /** Pieces of `size` along a dim (the last may be shorter), or of the sizes listed. As torch.split. */
  split(this: Tensor, size: number | readonly number[], dim = 0): Tensor[] {
    const d = normalizeDim("split", dim, this.rank);
    let start = 0;
    return splitSizes(this.shape[d], size).map((length) => {
      start += length;
      return this.slice(d, start - length, start);
    });
  },
  /** About `count` equal pieces along a dim. As torch.chunk. */
  chunk(this: Tensor, count: number, dim = 0): Tensor[] {
    const d = normalizeDim("chunk", dim, this.rank);
    return this.split(Math.max(1, Math.ceil(this.shape[d] / count)), d);
  },
  flip(this: Tensor, dims: number | readonly number[]): Tensor {
    const list = (typeof dims === "number" ? [dims] : dims).map((d) => normalizeDim("flip", d, this.rank));
    return new Tensor(ops.flip([this.node], { dims: list.sort((a, b) => a - b) }));
  },
  /** `low[i]` and `high[i]` elements of `value` before and after dim i. As jnp.pad with constant mode. */
  pad(this: Tensor, low: readonly number[], high: readonly number[], value = 0): Tensor {
    return new Tensor(ops.pad([this.node], { low, high, interior: low.map(() => 0), value }));
  },
  /** Slices of `dim` by an integer tensor of any shape, which takes the dim's place. As torch.index_select, jnp.take. */
  indexSelect(this: Tensor, dim: number, index: Tensor): Tensor {
    return new Tensor(
      ops.index_select([this.node, index.node], { dim: normalizeDim("index_select", dim, this.rank) }),
    );
  },
  /** As torch.index_add: slices of `source` added at `index` along `dim`. */
  indexAdd(this: Tensor, dim: number, index: Tensor, source: Tensor): Tensor {
    return new Tensor(
      ops.index_add([this.node, index.node, source.node], { dim: normalizeDim("index_add", dim, this.rank) }),
    );
  },
  /** `out[i][j] = this[index[i][j]][j]` for dim 0, and so on. As torch.gather. */
  gather(this: Tensor, dim: number, index: Tensor): Tensor {
    return new Tensor(ops.gather([this.node, index.node], { dim: normalizeDim("gather", dim, this.rank) }));
  },
  /** gather with an index that broadcasts on the other dims. As torch.take_along_dim. */
  takeAlong(this: Tensor, index: Tensor, dim: number): Tensor {
    const d = normalizeDim("take_along", dim, this.rank);
    const widened = index.broadcastTo(this.shape.map((size, i) => (i === d ? index.shape[i] : size)));
    return this.gather(d, widened);
  },
  /** As torch.scatter_add. */
  scatterAdd(this: Tensor, dim: number, index: Tensor, source: Tensor): Tensor {
    return new Tensor(
      ops.scatter_add([this.node, index.node, source.node], {
        dim: normalizeDim("scatter_add", dim, this.rank),
      }),
    );
  },
};

export type MovementMethods = typeof methods;
Object.assign(Tensor.prototype, methods);

declare module "../tensor.js" {
  interface Tensor extends MovementMethods {}
}
