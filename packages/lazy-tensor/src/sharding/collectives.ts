import { groupSize, normalizeDim, ops, type ReductionKind } from "@lazuli/fx-trace";
import { ShardingError } from "@lazuli/sharding";
import { Tensor } from "../tensor.js";
import { currentRegion } from "./manual.js";

/*
 * What a function under manualSharding calls to meet the other devices. A group is the devices that differ only along the
 * axes named; its members are numbered row-major over them, the first the major. n is its size. Every member must make the same
 * calls in the same order.
 */

/** An axis of the mesh given to manualSharding, or several, the major first. */
export type MeshAxes = string | readonly string[];

interface Group {
  readonly mesh: readonly number[];
  readonly axes: readonly number[];
}

/** Throws ShardingError for an unknown axis, one named twice, and outside manualSharding. */
function groupOf(op: string, axes: MeshAxes): Group {
  const { mesh, grid, axes: own } = currentRegion(op);
  const names = typeof axes === "string" ? [axes] : axes;
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new ShardingError(op, `names axis "${twice}" twice`);
  return { mesh: grid.attr, axes: names.flatMap((name) => own[mesh.axis(name, op)]) };
}

/**
 * x of all members combined, in every one: [...] → [...]. The sum (the default) and mean have gradients. As jax.lax.psum, pmean, pmax
 * and torch.distributed.all_reduce.
 */
export function allReduce(x: Tensor, axes: MeshAxes, reduction: ReductionKind | "mean" = "sum"): Tensor {
  const group = groupOf("allReduce", axes);
  const kind = reduction === "mean" ? "sum" : reduction;
  const made = new Tensor(ops.all_reduce([x.node], { ...group, kind }));
  return reduction === "mean" ? made.div(groupSize(group)) : made;
}

/**
 * x of all members one after the other along `dim`, in every one: [..., d, ...] → [..., n d, ...]. As jax.lax.all_gather with
 * tiled=True and torch.distributed.all_gather_into_tensor; its gradient is reduceScatter's sum.
 */
export function allGather(x: Tensor, axes: MeshAxes, dim = 0): Tensor {
  const group = groupOf("allGather", axes);
  return new Tensor(ops.all_gather([x.node], { ...group, dim: normalizeDim("allGather", dim, x.rank) }));
}

/**
 * Member i gets part i along `dim` of the sum of all members' x: [..., n d, ...] → [..., d, ...]. Throws ShapeError where `dim` is
 * not divided by n. As jax.lax.psum_scatter with tiled=True and torch.distributed.reduce_scatter_tensor.
 */
export function reduceScatter(
  x: Tensor,
  axes: MeshAxes,
  dim = 0,
  reduction: ReductionKind | "mean" = "sum",
): Tensor {
  const group = groupOf("reduceScatter", axes);
  const kind = reduction === "mean" ? "sum" : reduction;
  const attrs = { ...group, kind, dim: normalizeDim("reduceScatter", dim, x.rank) };
  const made = new Tensor(ops.reduce_scatter([x.node], attrs));
  return reduction === "mean" ? made.div(groupSize(group)) : made;
}

/**
 * Everyone's x is cut in n along `splitDim`; member i gets part i of each, one after the other along `concatDim`:
 * [..., n s, ..., c, ...] → [..., s, ..., n c, ...]. Throws ShapeError where `splitDim` is not divided by n. As jax.lax.all_to_all
 * with tiled=True and torch.distributed.all_to_all_single.
 */
export function allToAll(x: Tensor, axes: MeshAxes, splitDim: number, concatDim: number): Tensor {
  const group = groupOf("allToAll", axes);
  const attrs = {
    ...group,
    split_dim: normalizeDim("allToAll", splitDim, x.rank),
    concat_dim: normalizeDim("allToAll", concatDim, x.rank),
  };
  return new Tensor(ops.all_to_all([x.node], attrs));
}

/**
 * x of the member that sends to this one, zeros where none does: [...] → [...]. `pairs` are [source, target], by number in the
 * group; none is a source twice, or a target twice (ShardingError). As jax.lax.ppermute.
 */
export function collectivePermute(
  x: Tensor,
  axes: MeshAxes,
  pairs: readonly (readonly [number, number])[],
): Tensor {
  const group = groupOf("collectivePermute", axes);
  const members = groupSize(group);
  for (const [end, what] of [
    [0, "source"],
    [1, "target"],
  ] as const) {
    const list = pairs.map((pair) => pair[end]);
    const wrong = list.find((member) => !Number.isInteger(member) || member < 0 || member >= members);
    if (wrong !== undefined)
      throw new ShardingError(
        "collectivePermute",
        `there is no member ${wrong}: the group over ${[axes].flat().join(" ")} has members 0 to ${members - 1}`,
      );
    const twice = list.find((member, i) => list.indexOf(member) !== i);
    if (twice !== undefined) throw new ShardingError("collectivePermute", `${twice} is a ${what} twice`);
  }
  return new Tensor(ops.collective_permute([x.node], { ...group, pairs: pairs.flat() }));
}

/** This device's number in its group, int32 [] . As jax.lax.axis_index. */
export const axisIndex = (axes: MeshAxes): Tensor =>
  new Tensor(ops.axis_index([], groupOf("axisIndex", axes)));

/** Devices of a group. As jax.lax.axis_size. */
export const axisSize = (axes: MeshAxes): number => groupSize(groupOf("axisSize", axes));
