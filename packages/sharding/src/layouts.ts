import type { Graph, Node } from "@lazuli/fx-trace";
import type { Mesh } from "./mesh.js";
import { factorsOf } from "./rule.js";
import { type Dims, formatDims, replicated } from "./spec.js";

/** How a value of one device's program lies over the mesh. */
export interface ValueLayout {
  readonly dims: Dims;
  /** Axes over which each device has an addend of the value. */
  readonly open: readonly number[];
}

const whole = (node: Node, result = 0): ValueLayout => ({
  dims: replicated(node.types[result].shape.length),
  open: [],
});

const union = (lists: readonly (readonly number[])[]): number[] => [...new Set(lists.flat())];

/** What a collective makes of its operand's layout. */
function afterCollective(node: Node, { dims, open }: ValueLayout): ValueLayout {
  const axes = node.attrs.axes as readonly number[];
  const stays = (axis: number): boolean => !axes.includes(axis);
  const at = (dim: number, change: (list: readonly number[]) => readonly number[], of = dims): Dims =>
    of.map((list, d) => (d === dim ? change(list) : list));
  const more = (list: readonly number[]): readonly number[] => [...list, ...axes];
  const fewer = (list: readonly number[]): readonly number[] => list.filter(stays);
  const dim = node.attrs.dim as number;
  switch (node.op.name) {
    case "all_gather":
      return { dims: at(dim, fewer), open };
    case "reduce_scatter":
      return { dims: at(dim, more), open: open.filter(stays) };
    case "shard_slice":
      return { dims: at(dim, more), open };
    case "all_to_all": {
      const { split_dim, concat_dim } = node.attrs as { split_dim: number; concat_dim: number };
      return { dims: at(split_dim, more, at(concat_dim, fewer)), open };
    }
    case "all_reduce":
      return { dims, open: open.filter(stays) };
    default:
      return { dims, open };
  }
}

/**
 * Of a reshape on parts. A dim goes to the one that begins at the same element; of several (dims of size 1) to that of its
 * size.
 */
function afterReshape(node: Node, { dims, open }: ValueLayout): ValueLayout {
  const [from, to] = [node.inputs[0].shape, node.shape];
  const before = (shape: readonly number[], d: number): number =>
    shape.slice(0, d).reduce((product, size) => product * size, 1);
  const out = to.map((): readonly number[] => []);
  dims.forEach((axes, d) => {
    if (axes.length === 0) return;
    const found = [...to.keys()].filter((e) => before(to, e) === before(from, d) && out[e].length === 0);
    const target = found.find((e) => to[e] === from[d]) ?? found.find((e) => to[e] > 1) ?? found[0];
    if (target !== undefined) out[target] = axes;
  });
  return { dims: out, open };
}

function afterOp(node: Node, operands: readonly ValueLayout[]): ValueLayout[] {
  if (operands.length === 0 || !node.op.sharding) return node.types.map((_, i) => whole(node, i));
  if (node.op.name === "reshape") return [afterReshape(node, operands[0])];
  const f = factorsOf(node);
  const assigned = new Map<string, readonly number[]>();
  const used = new Set<number>();
  f.operands.forEach((dims, i) => {
    dims.forEach(([factor], d) => {
      const axes = operands[i].dims[d];
      if (axes.length === 0 || assigned.has(factor) || axes.some((axis) => used.has(axis))) return;
      assigned.set(factor, axes);
      for (const axis of axes) used.add(axis);
    });
  });
  // Parts one after the other, of this and that, are no part of anything.
  if (node.op.name === "concat") assigned.delete(f.operands[0][node.attrs.dim as number][0]);
  return f.results.map((dims) => {
    const own = dims.map(([factor]) => assigned.get(factor) ?? []);
    const summed = [...f.reduce].flatMap((factor) => assigned.get(factor) ?? []);
    const open = union([...operands.map((operand) => operand.open), summed]);
    return { dims: own, open: open.filter((axis) => !own.flat().includes(axis)) };
  });
}

/**
 * How the values of a partitioned program lie over the mesh, as far as it follows from its inputs and its ops: for people to
 * read. By node and result.
 */
export function layoutsOf(graph: Graph, inputs: readonly Dims[]): Map<Node, readonly ValueLayout[]> {
  const layouts = new Map<Node, readonly ValueLayout[]>();
  for (const node of graph.nodes) {
    const { name } = node.op;
    const operands = node.inputs.map((x) => (layouts.get(x) as readonly ValueLayout[])[0]);
    if (name === "input") layouts.set(node, [{ dims: inputs[node.attrs.index as number], open: [] }]);
    else if (name === "result") {
      const all = layouts.get(node.inputs[0]) as readonly ValueLayout[];
      layouts.set(node, [all[node.attrs.index as number]]);
    } else if (node.attrs.axes && operands.length > 0)
      layouts.set(node, [afterCollective(node, operands[0])]);
    else layouts.set(node, afterOp(node, operands));
  }
  return layouts;
}

/** `[data, -]`; `[-, -] +tensor` where devices along `tensor` have addends. */
export function formatLayout(mesh: Mesh, { dims, open }: ValueLayout): string {
  const addends = open.map((axis) => mesh.axisNames[axis]).join(" ");
  return `${formatDims(mesh, dims)}${addends ? ` +${addends}` : ""}`;
}
