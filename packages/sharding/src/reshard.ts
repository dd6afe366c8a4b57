import {
  add,
  full,
  iota,
  lt,
  maximum,
  minimum,
  mul,
  type Node,
  ops,
  pad,
  type ReductionKind,
  slice,
  sub,
  where,
} from "@lazuli/fx-trace";
import type { Mesh } from "./mesh.js";
import { type Dims, isUneven, localSize, sameAxes, sameDims } from "./spec.js";

/** Sums (...) over axes that are still to be taken: every member of the group holds an addend of its own. */
export interface Partial {
  readonly axes: readonly number[];
  readonly kind: ReductionKind;
}

/** A value as one device has it: a local node, and how it makes up the global value of `shape`. */
export interface Local {
  readonly node: Node;
  readonly shape: readonly number[];
  readonly dims: Dims;
  readonly partial: Partial | null;
}

const replaced = (dims: Dims, dim: number, axes: readonly number[]): Dims =>
  dims.map((old, d) => (d === dim ? axes : old));

const commonLength = (a: readonly number[], b: readonly number[]): number => {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
};

const narrowed = (node: Node, dim: number, size: number): Node =>
  node.shape[dim] === size
    ? node
    : slice(
        node,
        node.shape.map(() => 0),
        node.shape.map((length, d) => (d === dim ? size : length)),
      );

/** Moves values between layouts with the collectives that move least. */
export class Resharder {
  private readonly sizes: readonly number[];

  constructor(readonly mesh: Mesh) {
    this.sizes = mesh.sizes;
  }

  private group(axes: readonly number[]): { mesh: readonly number[]; axes: readonly number[] } {
    return { mesh: this.mesh.attr, axes };
  }

  /** This device's number along `axes`, an int32 scalar. */
  index(axes: readonly number[]): Node {
    return ops.axis_index([], this.group(axes));
  }

  /** Where this device's part of a dim of `size` starts, and how many of its elements are not padding; int32 scalars. */
  range(size: number, axes: readonly number[]): { start: Node | null; count: Node | null } {
    let start: Node | null = null;
    let count: Node | null = null;
    let length = size;
    for (const axis of axes) {
      length = localSize(this.mesh, length, [axis]);
      const skip = mul(this.index([axis]), length);
      start = start ? add(start, skip) : skip;
      const left: Node = count ? sub(count, skip) : sub(size, skip);
      count = maximum(minimum(left, length), 0);
    }
    return { start, count: isUneven(this.mesh, size, axes) ? count : null };
  }

  /** The node with padding along `dim` replaced by `value`; itself where there is none. */
  masked(node: Node, dim: number, size: number, axes: readonly number[], value: number): Node {
    const { count } = this.range(size, axes);
    if (!count) return node;
    const shape = node.shape.map((length, d) => (d === dim ? length : 1));
    const within = lt(iota(dim, shape, "int32"), count);
    return where(within, node, full(value, [], node.dtype));
  }

  /** The value in another layout; sums that are still to be taken are taken on the way. */
  to(value: Local, dims: Dims): Local {
    const whole = value.partial ? this.reduce(value, dims) : value;
    return sameDims(whole.dims, dims) ? whole : this.move(whole, dims);
  }

  // --- sums ---------------------------------------------------------------------------------------------------------

  private reduce(value: Local, target: Dims): Local {
    const { kind } = value.partial as Partial;
    let rest = (value.partial as Partial).axes;
    let { node, dims } = value;
    // Scattered where the target is divided over the axis anyway: half of what all_reduce moves.
    for (let again = true; again; ) {
      again = false;
      for (const [d, axes] of target.entries()) {
        const have = dims[d];
        const next = axes[have.length];
        if (next === undefined || !rest.includes(next) || !sameAxes(have, axes.slice(0, have.length)))
          continue;
        const parts = this.sizes[next];
        const part = localSize(this.mesh, node.shape[d], [next]);
        const padded = part * parts === node.shape[d] ? node : this.padded(node, d, part * parts);
        node = ops.reduce_scatter([padded], { ...this.group([next]), kind, dim: d });
        dims = replaced(dims, d, [...have, next]);
        rest = rest.filter((axis) => axis !== next);
        again = true;
      }
    }
    if (rest.length > 0) node = ops.all_reduce([node], { ...this.group(rest), kind });
    return { node, shape: value.shape, dims, partial: null };
  }

  private padded(node: Node, dim: number, size: number): Node {
    const none = node.shape.map(() => 0);
    const high = node.shape.map((length, d) => (d === dim ? size - length : 0));
    return pad(node, none, high, none, 0);
  }

  // --- moves --------------------------------------------------------------------------------------------------------

  private move(value: Local, target: Dims): Local {
    let { node, dims } = value;
    const { shape } = value;
    const divide = (onlyUnused: boolean): void => {
      for (const [d, axes] of target.entries()) {
        while (dims[d].length < axes.length && sameAxes(dims[d], axes.slice(0, dims[d].length))) {
          const axis = axes[dims[d].length];
          if (onlyUnused && dims.some((list) => list.includes(axis))) break;
          node = ops.shard_slice([node], {
            ...this.group([axis]),
            dim: d,
            size: localSize(this.mesh, node.shape[d], [axis]),
          });
          dims = replaced(dims, d, [...dims[d], axis]);
        }
      }
    };
    divide(true);
    for (const [d, axes] of target.entries()) {
      // What is to leave dim d: to another dim in one exchange where it is wanted there next, else gathered.
      while (dims[d].length > commonLength(dims[d], axes)) {
        const axis = dims[d][dims[d].length - 1];
        const to = target.findIndex(
          (wanted, e) =>
            e !== d && wanted[dims[e].length] === axis && sameAxes(dims[e], wanted.slice(0, dims[e].length)),
        );
        const outer = dims[d].slice(0, -1);
        const size = localSize(this.mesh, shape[d], outer);
        const isEven = node.shape[d] * this.sizes[axis] === size;
        if (to >= 0 && isEven && node.shape[to] % this.sizes[axis] === 0) {
          node = ops.all_to_all([node], { ...this.group([axis]), split_dim: to, concat_dim: d });
          dims = replaced(replaced(dims, d, outer), to, [...dims[to], axis]);
        } else {
          const kept = commonLength(dims[d], axes);
          const wholeSize = localSize(this.mesh, shape[d], dims[d].slice(0, kept));
          const leaving = dims[d].slice(kept);
          // Parts that are all full follow each other: one gather over all the axes.
          const many = to < 0 && node.shape[d] * this.mesh.sizeOf(leaving) === wholeSize ? leaving : [axis];
          const gathered = ops.all_gather([node], { ...this.group(many), dim: d });
          const rest = dims[d].slice(0, dims[d].length - many.length);
          node = narrowed(gathered, d, localSize(this.mesh, shape[d], rest));
          dims = replaced(dims, d, rest);
        }
      }
    }
    divide(false);
    return { node, shape, dims, partial: null };
  }
}

/** The element that changes no result of the reduction. */
export function identityOf(kind: ReductionKind, node: Node): number {
  switch (kind) {
    case "sum":
      return 0;
    case "prod":
      return 1;
    default:
      return extreme(kind, node.dtype);
  }
}

function extreme(kind: "max" | "min", dtype: Node["dtype"]): number {
  const sign = kind === "max" ? -1 : 1;
  switch (dtype) {
    case "int32":
      return sign < 0 ? -(2 ** 31) : 2 ** 31 - 1;
    case "int64": // the largest that a float64 attribute holds
      return sign < 0 ? -(2 ** 63) : 2 ** 63 - 1024;
    case "uint8":
      return sign < 0 ? 0 : 255;
    case "bool":
      return sign < 0 ? 0 : 1;
    default:
      return sign * Number.POSITIVE_INFINITY;
  }
}
