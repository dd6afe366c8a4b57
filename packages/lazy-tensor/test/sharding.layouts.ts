import type { Node, Shape, ShardingRule } from "@lazuli/fx-trace";
import { type Dims, formatDims, type Mesh, replicated } from "@lazuli/sharding";

/*
 * Layouts of an op's operands and results that a partitioner is tried on: those that the op's rule allows, and those
 * that it does not. The rule is read here anew, not by the partitioner's reader.
 */

/** A generator of numbers in [0, 1): the same layouts in every run. */
export type Random = () => number;

/** Mulberry32. */
export function randomOf(seed: number): Random {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const pick = <T>(random: Random, list: readonly T[]): T => list[Math.floor(random() * list.length)];

/** `count` of the list, in their order; all where there are no more. */
export function some<T>(random: Random, list: readonly T[], count: number): T[] {
  const left = list.map((item, i) => ({ item, i, key: random() }));
  left.sort((a, b) => a.key - b.key);
  return left
    .slice(0, count)
    .sort((a, b) => a.i - b.i)
    .map(({ item }) => item);
}

/** By dim its factors, the outermost first. */
type Factors = readonly (readonly string[])[];

export interface Rule {
  readonly operands: readonly Factors[];
  readonly results: readonly Factors[];
  /** Those that may be divided. */
  readonly free: readonly string[];
  /** Of these, those that are summed over. */
  readonly reduced: readonly string[];
  /** Of factors that have a dim of their own somewhere. */
  readonly sizes: ReadonlyMap<string, number>;
}

/** The op's rule for this node, or null for `result`, which has none. */
export function ruleOf(node: Node): Rule | null {
  const { sharding } = node.op;
  if (!sharding) return null;
  const rule: ShardingRule =
    typeof sharding === "function" ? sharding(node.inputs, node.attrs as never) : sharding;
  const [left, right] = rule.factors
    .split("->")
    .map((side) =>
      side
        .split(",")
        .map((dims) =>
          [...dims.matchAll(/\(([^)]*)\)|(\S+)/g)].map(([, several, one]) =>
            several === undefined ? [one] : several.trim().split(/\s+/),
          ),
        ),
    );
  const operands = node.inputs.map((_, i) => left[i]);
  const results = node.types.map((_, i) => right[i]);
  const sizes = new Map<string, number>();
  const named = new Set<string>();
  const note = (factors: Factors, shape: Shape): void => {
    if (factors.length !== shape.length)
      throw new Error(`${node.op.name}: ${rule.factors} does not describe [${shape}]`);
    factors.forEach((dim, d) => {
      for (const factor of dim) named.add(factor);
      if (dim.length === 1) sizes.set(dim[0], shape[d]);
    });
  };
  operands.forEach((factors, i) => {
    note(factors, node.inputs[i].shape);
  });
  results.forEach((factors, i) => {
    note(factors, node.types[i].shape);
  });
  const free = [...named].filter((factor) => factor !== "_" && !rule.replicate?.includes(factor));
  return { operands, results, free, reduced: free.filter((factor) => rule.reduce?.includes(factor)), sizes };
}

/** By factor the axes it is divided over. */
type Assignment = ReadonlyMap<string, readonly number[]>;

/** Every way to give each axis of the mesh to one factor or to none; axes of one factor in either order. */
export function assignments(mesh: Mesh, free: readonly string[]): Assignment[] {
  let all: Map<string, readonly number[]>[] = [new Map()];
  mesh.sizes.forEach((_, axis) => {
    all = all.flatMap((before) => [
      before,
      ...free.flatMap((factor) => {
        const has = before.get(factor) ?? [];
        const orders =
          has.length === 0
            ? [[axis]]
            : [
                [...has, axis],
                [axis, ...has],
              ];
        return orders.map((axes) => new Map(before).set(factor, axes));
      }),
    ]);
  });
  return all;
}

/** The layout an assignment means: an inner factor is divided only where the outer ones are divided to the end. */
export function layoutOf(factors: Factors, assignment: Assignment, rule: Rule, mesh: Mesh): Dims {
  return factors.map((dim) => {
    const axes: number[] = [];
    for (const factor of dim) {
      const mine = assignment.get(factor) ?? [];
      axes.push(...mine);
      if (mesh.sizeOf(mine) !== rule.sizes.get(factor)) break;
    }
    return axes;
  });
}

/**
 * Whether the assignment's layouts are all the op needs: nothing is summed over devices, and no dim of several factors has
 * to leave an axis out.
 */
export function isLocal(assignment: Assignment, rule: Rule, mesh: Mesh): boolean {
  if (rule.reduced.some((factor) => assignment.has(factor))) return false;
  return [...rule.operands, ...rule.results].every((factors) => {
    const dims = layoutOf(factors, assignment, rule, mesh);
    return factors.every((dim, d) => {
      if (dim.length === 1) return true;
      const axes = dim.flatMap((factor) => assignment.get(factor) ?? []);
      const isEven = dim.every(
        (factor) => (rule.sizes.get(factor) ?? 0) % mesh.sizeOf(assignment.get(factor) ?? []) === 0,
      );
      return isEven && axes.length === dims[d].length;
    });
  });
}

/** Any layout at all: each axis divides some dim, or none. */
export function anyLayout(random: Random, mesh: Mesh, shape: Shape): Dims {
  const dims: number[][] = shape.map(() => []);
  for (const axis of some(random, mesh.sizes.map((_, i) => i).reverse(), mesh.sizes.length)) {
    const dim = Math.floor(random() * (shape.length + 1));
    if (dim === shape.length) continue;
    if (random() < 0.5) dims[dim].push(axis);
    else dims[dim].unshift(axis);
  }
  return dims;
}

/** One dim of one tensor divided over `axes`, the others whole. */
export const oneDim = (shape: Shape, dim: number, axes: readonly number[]): Dims =>
  replicated(shape.length).map((whole, d) => (d === dim ? axes : whole));

/** How a sample's tensors lie: by graph input, and by output, null where the partitioner may choose. */
export interface Layouts {
  readonly mesh: Mesh;
  readonly inputs: readonly Dims[];
  readonly outputs: readonly (Dims | null)[];
  readonly kind: "allowed" | "one dim" | "any";
  /** Whether the op can do its part from what each device has: then nothing may be sent. */
  readonly isLocal: boolean;
  /** Of the factors that the op's rule lets be divided so, where in the op they stand. */
  readonly divided: readonly string[];
}

/** `several operands, one result, reduced`: what tells a factor's part in the op apart from another's. */
export function kindOf(factor: string, rule: Rule): string {
  const count = (all: readonly Factors[]): string => {
    const some = all.filter((dims) => dims.some((dim) => dim.includes(factor))).length;
    return some > 1 ? "several" : some === 1 ? "one" : "no";
  };
  const isOneOfSeveral = [...rule.operands, ...rule.results]
    .flat()
    .some((dim) => dim.length > 1 && dim.includes(factor));
  return [
    `in ${count(rule.operands)} operand, ${count(rule.results)} result`,
    ...(isOneOfSeveral ? ["one of a dim's several"] : []),
    ...(rule.reduced.includes(factor) ? ["reduced"] : []),
  ].join(", ");
}

export const formatLayouts = ({ mesh, inputs, outputs, kind }: Layouts): string =>
  `${mesh}, ${kind}: ${inputs.map((dims) => formatDims(mesh, dims)).join(", ")} -> ` +
  outputs.map((dims) => (dims ? formatDims(mesh, dims) : "chosen")).join(", ");
