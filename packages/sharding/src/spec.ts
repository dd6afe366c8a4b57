import { formatShape, type Shape } from "@lazuli/fx-trace";
import { ShardingError } from "./errors.js";
import type { Mesh } from "./mesh.js";

/**
 * How a tensor lies over a mesh: by dim an axis name, several (the major first), or null where the dim is whole. Dims
 * that are left out at the end are whole. As jax.sharding.PartitionSpec.
 */
export type PartitionSpec = readonly (string | readonly string[] | null)[];

/** A layout: by dim the mesh's axes (positions) it is divided over, the major first. Axes in no dim hold copies. */
export type Dims = readonly (readonly number[])[];

export const replicated = (rank: number): Dims => new Array<readonly number[]>(rank).fill([]);

/** The layout a spec means. Throws ShardingError for an unknown axis, one named twice, or a spec longer than the rank. */
export function parseSpec(op: string, mesh: Mesh, spec: PartitionSpec, shape: Shape): Dims {
  if (spec.length > shape.length)
    throw new ShardingError(
      op,
      `the spec ${formatSpec(spec)} has ${spec.length} dims, the tensor ${formatShape(shape)} has ${shape.length}`,
    );
  const seen = new Set<number>();
  return shape.map((_, dim) => {
    const entry = spec[dim] ?? [];
    return (typeof entry === "string" ? [entry] : entry).map((name) => {
      const axis = mesh.axis(name, op);
      if (seen.has(axis))
        throw new ShardingError(op, `the spec ${formatSpec(spec)} names axis "${name}" twice`);
      seen.add(axis);
      return axis;
    });
  });
}

export const specOf = (mesh: Mesh, dims: Dims): PartitionSpec =>
  dims.map((axes) =>
    axes.length === 0
      ? null
      : axes.length === 1
        ? mesh.axisNames[axes[0]]
        : axes.map((axis) => mesh.axisNames[axis]),
  );

/** `[data, (fsdp tensor), -]` */
export const formatSpec = (spec: PartitionSpec): string =>
  `[${spec.map((entry) => (entry === null ? "-" : typeof entry === "string" ? entry : entry.length === 0 ? "-" : `(${entry.join(" ")})`)).join(", ")}]`;

export const formatDims = (mesh: Mesh, dims: Dims): string => formatSpec(specOf(mesh, dims));

/**
 * Length of a part of `size` divided over `axes`: over the major one first, each part then over the next, rounded up each
 * time. So gathering or dividing along the minor axis never touches the others. Parts at the end may be short or empty:
 * what is past the end is padding, of no defined value.
 */
export function localSize(mesh: Mesh, size: number, axes: readonly number[]): number {
  return axes.reduce((length, axis) => Math.ceil(length / mesh.sizes[axis]), size);
}

export const localShape = (mesh: Mesh, shape: Shape, dims: Dims): number[] =>
  shape.map((size, dim) => localSize(mesh, size, dims[dim]));

/** Where a device's part of a dim starts, and how many elements of it are not padding. */
export function localRange(
  mesh: Mesh,
  size: number,
  axes: readonly number[],
  device: number,
): { readonly start: number; readonly count: number } {
  const at = mesh.coordinates(device);
  let start = 0;
  let count = size;
  let length = size;
  for (const axis of axes) {
    length = Math.ceil(length / mesh.sizes[axis]);
    const skip = Math.min(at[axis] * length, count);
    start += skip;
    count = Math.min(length, count - skip);
  }
  return { start, count };
}

/** Whether parts have padding on some device. */
export function isUneven(mesh: Mesh, size: number, axes: readonly number[]): boolean {
  return localSize(mesh, size, axes) * mesh.sizeOf(axes) !== size;
}

export const sameAxes = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((axis, i) => axis === b[i]);
export const sameDims = (a: Dims, b: Dims): boolean =>
  a.length === b.length && a.every((axes, i) => sameAxes(axes, b[i]));

/** The flat form of sharding_constraint: by dim the number of its axes, then these. */
export const encodeDims = (dims: Dims): number[] => dims.flatMap((axes) => [axes.length, ...axes]);

export function decodeDims(words: readonly number[]): Dims {
  const out: number[][] = [];
  for (let at = 0; at < words.length; ) {
    const count = words[at++];
    out.push(words.slice(at, at + count) as number[]);
    at += count;
  }
  return out;
}
