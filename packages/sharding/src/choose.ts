import { dtypeInfo, type Node, sizeOf } from "@lazuli/fx-trace";
import type { Mesh } from "./mesh.js";
import { type Factors, fits, splitAxes } from "./rule.js";
import type { Dims } from "./spec.js";

interface Wish {
  readonly axes: readonly number[];
  weight: number;
}

const startsWith = (list: readonly number[], prefix: readonly number[]): boolean =>
  prefix.length <= list.length && prefix.every((axis, i) => axis === list[i]);

/** Bytes below which a collective's cost is mostly that of meeting at all. */
export const SMALL_BYTES = 1 << 16;

/** Bytes of a value over the whole mesh. */
export const bytesOf = (type: Node["type"]): number => sizeOf(type.shape) * dtypeInfo[type.dtype].sizeBytes;

/**
 * The mesh axes that an op's factors are divided over, from the layouts its operands have and its results are wanted in.
 * Where they disagree, or two factors want one axis, the layout of more bytes on a device wins: the others are what is
 * moved.
 */
export function chooseAssignment(
  node: Node,
  f: Factors,
  mesh: Mesh,
  operands: readonly Dims[],
  results: readonly Dims[],
): Map<string, readonly number[]> {
  const wishes = new Map<string, Wish[]>();
  const note = (dims: readonly (readonly string[])[], layout: Dims, type: Node["type"]): void => {
    const weight = bytesOf(type) / mesh.sizeOf(layout.flat()) + 1;
    dims.forEach((factors, d) => {
      for (const [factor, axes] of splitAxes(factors, layout[d], f.sizes, mesh) ?? []) {
        if (f.replicate.has(factor)) continue;
        const list = wishes.get(factor) ?? [];
        const same = list.find((wish) => wish.axes.length === axes.length && startsWith(wish.axes, axes));
        if (same) same.weight += weight;
        else list.push({ axes, weight });
        wishes.set(factor, list);
      }
    });
  };
  // A result's wish is listed first: of equal weights it wins, and nothing is moved after the op.
  f.results.forEach((dims, i) => {
    note(dims, results[i], node.types[i]);
  });
  f.operands.forEach((dims, i) => {
    note(dims, operands[i], node.inputs[i].type);
  });

  // An axis is claimed by every layout that has it; what a shorter one lacks is a local slice.
  const claims: { factor: string; at: number; axis: number; weight: number }[] = [];
  for (const [factor, list] of wishes) {
    let chosen = { axes: [] as readonly number[], weight: -1 };
    for (const { axes } of list) {
      const weight = list.reduce((sum, wish) => sum + (startsWith(axes, wish.axes) ? wish.weight : 0), 0);
      if (weight > chosen.weight) chosen = { axes, weight };
    }
    chosen.axes.forEach((axis, at) => {
      const weight = list.reduce(
        (sum, wish) => sum + (wish.axes.length > at && startsWith(chosen.axes, wish.axes) ? wish.weight : 0),
        0,
      );
      claims.push({ factor, at, axis, weight });
    });
  }
  const winner = new Map<number, (typeof claims)[number]>();
  for (const claim of claims) {
    const best = winner.get(claim.axis);
    if (!best || claim.weight > best.weight) winner.set(claim.axis, claim);
  }
  const assigned = new Map<string, readonly number[]>();
  for (const { factor, at, axis } of claims) {
    const axes = assigned.get(factor) ?? [];
    if (winner.get(axis)?.factor === factor && axes.length === at) assigned.set(factor, [...axes, axis]);
  }
  // An inner factor that lost its outer one, or does not divide, stays whole.
  for (let changed = true; changed; ) {
    changed = false;
    for (const factor of [...assigned.keys()]) {
      if (fits(f, factor, assigned, mesh)) continue;
      assigned.delete(factor);
      changed = true;
    }
  }
  return assigned;
}
