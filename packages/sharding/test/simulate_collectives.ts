import { type Node, type Shape, sizeOf } from "@lazuli/fx-trace";
import type { Mesh } from "../src/index.js";
import { stored, type Value } from "./reference.js";

/*
 * What collectives mean, over the values of one group in the order of its members: a copy of the definitions in fx-trace's
 * ops/collective.ts, in plain loops.
 */

/** Results by member, of the members' operands (none for axis_index). */
type Meaning = (members: readonly Value[], node: Node) => Value[];

const int = (node: Node, name: string): number => node.attrs[name] as number;
const ints = (node: Node, name: string): readonly number[] => node.attrs[name] as readonly number[];

/** Elements before, along and after `dim`: an array [before, along, after] is what `shape` is. */
function around(shape: Shape, dim: number): { before: number; along: number; after: number } {
  return {
    before: sizeOf(shape.slice(0, dim)),
    along: shape[dim],
    after: sizeOf(shape.slice(dim + 1)),
  };
}

/** From `start` on, `size` long along `dim`; zeros past the end. */
export function part(x: Value, dim: number, start: number, size: number): Value {
  const { before, along, after } = around(x.shape, dim);
  const data = new Float64Array(before * size * after);
  for (let b = 0; b < before; b++)
    for (let i = 0; i < size && start + i < along; i++)
      for (let a = 0; a < after; a++)
        data[(b * size + i) * after + a] = x.data[(b * along + start + i) * after + a];
  return { dtype: x.dtype, shape: x.shape.map((old, d) => (d === dim ? size : old)), data };
}

/** One after the other along `dim`; all of one shape. */
export function joined(parts: readonly Value[], dim: number): Value {
  const [{ dtype, shape }] = parts;
  const { before, along, after } = around(shape, dim);
  const data = new Float64Array(parts.length * before * along * after);
  parts.forEach((x, member) => {
    for (let b = 0; b < before; b++)
      for (let i = 0; i < along; i++)
        for (let a = 0; a < after; a++)
          data[((b * parts.length + member) * along + i) * after + a] = x.data[(b * along + i) * after + a];
  });
  return { dtype, shape: shape.map((old, d) => (d === dim ? old * parts.length : old)), data };
}

const kinds: Readonly<Record<string, (x: number, y: number) => number>> = {
  sum: (x, y) => x + y,
  prod: (x, y) => x * y,
  max: Math.max,
  min: Math.min,
};

/** All members' x as one, in the order of the members. */
function reduced(members: readonly Value[], kind: string): Value {
  const combine = kinds[kind];
  const [{ dtype, shape, data: first }] = members;
  const data = first.map((start, i) =>
    stored(
      dtype,
      members.slice(1).reduce((so, { data: each }) => combine(so, each[i]), start),
    ),
  );
  return { dtype, shape, data };
}

const parts = (x: Value, dim: number, count: number): Value[] =>
  Array.from({ length: count }, (_, i) => part(x, dim, (i * x.shape[dim]) / count, x.shape[dim] / count));

const meanings: Readonly<Record<string, Meaning>> = {
  all_reduce: (members, node) => {
    const sum = reduced(members, node.attrs.kind as string);
    return members.map(() => sum);
  },
  all_gather: (members, node) => {
    const all = joined(members, int(node, "dim"));
    return members.map(() => all);
  },
  reduce_scatter: (members, node) =>
    parts(reduced(members, node.attrs.kind as string), int(node, "dim"), members.length),
  all_to_all: (members, node) => {
    const sent = members.map((x) => parts(x, int(node, "split_dim"), members.length));
    return members.map((_, to) =>
      joined(
        sent.map((from) => from[to]),
        int(node, "concat_dim"),
      ),
    );
  },
  collective_permute: (members, node) => {
    const pairs = ints(node, "pairs");
    const zeros = { ...members[0], data: new Float64Array(members[0].data.length) };
    return members.map((_, to) => {
      const pair = pairs.findIndex((member, i) => i % 2 === 1 && member === to);
      return pair < 0 ? zeros : members[pairs[pair - 1]];
    });
  },
  shard_slice: (members, node) => {
    const size = int(node, "size");
    return members.map((x, i) => part(x, int(node, "dim"), i * size, size));
  },
};

/** Devices of each group, by number in the group. */
export function groupsOf(mesh: Mesh, axes: readonly number[]): number[][] {
  const groups = new Map<string, number[]>();
  for (let device = 0; device < mesh.size; device++) {
    const key = mesh
      .coordinates(device)
      .filter((_, axis) => !axes.includes(axis))
      .join();
    const group = groups.get(key) ?? [];
    group[mesh.indexAlong(device, axes)] = device;
    groups.set(key, group);
  }
  return [...groups.values()];
}

type Collective = (node: Node, mesh: Mesh, operands: readonly (readonly Value[])[]) => Value[];

function checkMesh(node: Node, mesh: Mesh): void {
  const sizes = ints(node, "mesh");
  if (sizes.join() !== mesh.sizes.join())
    throw new Error(`${node.op.name} is for a mesh of sizes [${sizes}], this one is ${mesh}`);
}

/** Groups with the same operands give the same objects, so that copies stay known as copies. */
const byGroup =
  (meaning: Meaning): Collective =>
  (node, mesh, [x]) => {
    checkMesh(node, mesh);
    const results: Value[] = [];
    const done: { readonly members: readonly Value[]; readonly results: readonly Value[] }[] = [];
    for (const group of groupsOf(mesh, ints(node, "axes"))) {
      const members = group.map((device) => x[device]);
      let known = done.find((each) => each.members.every((value, i) => value === members[i]));
      if (!known) {
        known = { members, results: meaning(members, node) };
        done.push(known);
      }
      for (const [i, device] of group.entries()) results[device] = known.results[i];
    }
    return results;
  };

/** By name, results by device. */
export const collectives: Readonly<Record<string, Collective>> = {
  ...Object.fromEntries(Object.entries(meanings).map(([name, meaning]) => [name, byGroup(meaning)])),
  collective_done: (_, __, [x]) => [...x],
  axis_index: (node, mesh) => {
    checkMesh(node, mesh);
    const axes = ints(node, "axes");
    const numbers = Array.from(
      { length: mesh.sizeOf(axes) },
      (_, i): Value => ({ dtype: "int32", shape: [], data: Float64Array.of(i) }),
    );
    return Array.from({ length: mesh.size }, (_, device) => numbers[mesh.indexAlong(device, axes)]);
  },
};
