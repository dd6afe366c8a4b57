import { isDeepStrictEqual } from "node:util";
import { ShardingError } from "./errors.js";
import { Mesh } from "./mesh.js";
import { type Dims, localRange } from "./spec.js";

/*
 * Several meshes over the same devices. One of them is the base; an axis of another is a list of runs of equally spaced points
 * of the base's grid, numbered row by row. Cut where any mesh has an axis end, the base becomes a finer mesh, of whose
 * axes every axis of every mesh is made.
 */

/** `count` points of the base, `stride` apart. */
interface Run {
  readonly stride: number;
  readonly count: number;
}

const strideOf = (sizes: readonly number[], axis: number): number =>
  sizes.slice(axis + 1).reduce((product, size) => product * size, 1);

/** Axes as runs of their own grid. */
const ownRuns = (sizes: readonly number[]): Run[][] =>
  sizes.map((count, axis) => (count > 1 ? [{ stride: strideOf(sizes, axis), count }] : []));

/** By axis of `mesh` its runs over the points of `base`, the major first; null where it is not made of such. */
function runsOver(mesh: Mesh, base: Mesh): Run[][] | null {
  const pointOf = new Map(base.devices.map((device, point) => [device, point]));
  const at = (point: number): number => pointOf.get(mesh.devices[point]) as number;
  if (mesh.size !== base.size || at(0) !== 0) return null;
  const runs = mesh.sizes.map((size, axis): Run[] | null => {
    const step = strideOf(mesh.sizes, axis);
    const found: Run[] = [];
    for (let covered = 1; covered < size; ) {
      const stride = at(covered * step);
      let count = 2;
      while (covered * (count + 1) <= size && at(covered * count * step) === stride * count) count++;
      if (size % (covered * count) !== 0) return null;
      found.unshift({ stride, count });
      covered *= count;
    }
    return found;
  });
  if (runs.includes(null)) return null;
  // Together they must be the grid, each point once.
  const points = (runs as Run[][])
    .flat()
    .reduce<number[]>(
      (list, { stride, count }) =>
        list.flatMap((point) => Array.from({ length: count }, (_, i) => point + i * stride)),
      [0],
    );
  return points.every((point, i) => point === at(i)) ? (runs as Run[][]) : null;
}

/** Sizes of the grid cut where a run of either begins, the major first; null where one cut is within another's step. */
function cutSizes(total: number, runs: readonly Run[]): number[] | null {
  const cuts = [...new Set([...runs.map(({ stride }) => stride), total])].sort((a, b) => b - a);
  const sizes: number[] = [];
  for (let i = 1; i < cuts.length; i++) {
    if (cuts[i - 1] % cuts[i] !== 0) return null;
    sizes.push(cuts[i - 1] / cuts[i]);
  }
  return sizes;
}

/** The axes (positions in `sizes`) that make up the runs. */
function axesOfRuns(runs: readonly Run[], sizes: readonly number[]): number[] {
  return runs.flatMap(({ stride, count }) =>
    sizes.flatMap((size, axis) => {
      const step = strideOf(sizes, axis);
      return size > 1 && step >= stride && step < stride * count ? [axis] : [];
    }),
  );
}

/** For an axis of the finer mesh: the name of the axis it is, else those of the axes it is in, joined. */
function nameOf(
  axis: number,
  sizes: readonly number[],
  meshes: readonly (readonly [Mesh, Run[][]])[],
): string {
  const [stride, count] = [strideOf(sizes, axis), sizes[axis]];
  const within: string[] = [];
  for (const [mesh, runs] of meshes) {
    for (const [i, list] of runs.entries()) {
      const own = list.find((run) => stride >= run.stride && stride < run.stride * run.count);
      if (!own) continue;
      if (list.length === 1 && own.stride === stride && own.count === count) return mesh.axisNames[i];
      within.push(mesh.axisNames[i]);
    }
  }
  return within.join("_");
}

/**
 * The coarsest mesh that refines `base` and of whose axes those of `mesh` are made: `base` itself where they are made of its
 * own. Throws ShardingError where there is none.
 */
export function refineMesh(base: Mesh, mesh: Mesh): Mesh {
  const other = mesh.root;
  const runs = runsOver(other, base);
  const own = ownRuns(base.sizes);
  const sizes = runs && cutSizes(base.size, [...own, ...runs].flat());
  if (!runs || !sizes)
    throw new ShardingError(
      "Mesh",
      `values lie over ${base}, and no finer mesh has the axes of ${other} too: both must cut the same grid of devices`,
    );
  if (sizes.length === base.sizes.filter((size) => size > 1).length) return base;
  const shape: Record<string, number> = {};
  sizes.forEach((size, axis) => {
    const name = nameOf(axis, sizes, [
      [base, own],
      [other, runs],
    ]);
    let unique = name;
    for (let number = 2; unique in shape; number++) unique = `${name}${number}`;
    shape[unique] = size;
  });
  return new Mesh(shape, { devices: base.devices });
}

const known = new WeakMap<Mesh, WeakMap<Mesh, readonly (readonly number[])[]>>();

/** By axis of `mesh` the axes (positions) of `finer`, which refines it, the major first. */
export function axesIn(mesh: Mesh, finer: Mesh): readonly (readonly number[])[] {
  if (mesh === finer) return mesh.rootAxes;
  let of = known.get(finer);
  if (!of) {
    of = new WeakMap();
    known.set(finer, of);
  }
  let axes = of.get(mesh);
  if (!axes) {
    const { root } = mesh;
    const runs = runsOver(root, finer);
    if (!runs) throw new ShardingError("Mesh", `${finer} does not refine ${mesh}`);
    // Axes of one device are axes too, where nothing was cut.
    const isSame =
      String(root.sizes) === String(finer.sizes) && isDeepStrictEqual(runs, ownRuns(finer.sizes));
    const whole = runs.map((list, axis) => (isSame ? [axis] : axesOfRuns(list, finer.sizes)));
    axes = mesh.rootAxes.map((list) => list.flatMap((axis) => whole[axis]));
    of.set(mesh, axes);
  }
  return axes;
}

/** A layout over `mesh` as one over `finer`. */
export function dimsIn(mesh: Mesh, dims: Dims, finer: Mesh): Dims {
  if (mesh === finer) return dims;
  const axes = axesIn(mesh, finer);
  return dims.map((list) => list.flatMap((axis) => axes[axis]));
}

/** The positions of `sizes` that an axis of a mesh of the sizes `coarser`, of the same devices, is made of; by axis. */
export function splitSizes(
  coarser: readonly number[],
  sizes: readonly number[],
): readonly (readonly number[])[] {
  if (String(coarser) === String(sizes)) return sizes.map((_, axis) => [axis]);
  return ownRuns(coarser).map((runs) => axesOfRuns(runs, sizes));
}

/** Whether a value laid out over `mesh` has the same parts over `finer`: not where a part's padding is cut elsewhere. */
export function hasSameParts(mesh: Mesh, shape: readonly number[], dims: Dims, finer: Mesh): boolean {
  const fine = dimsIn(mesh, dims, finer);
  return shape.every((size, d) => {
    if (size % mesh.sizeOf(dims[d]) === 0) return true;
    return mesh.devices.every(
      (device) =>
        localRange(mesh, size, dims[d], device).start === localRange(finer, size, fine[d], device).start &&
        localRange(mesh, size, dims[d], device).count === localRange(finer, size, fine[d], device).count,
    );
  });
}
