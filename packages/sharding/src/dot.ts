import { dce, type Graph, isTransfer, type Node, toDot } from "@lazuli/fx-trace";
import { formatLayout, layoutsOf } from "./layouts.js";
import type { Mesh } from "./mesh.js";
import type { Dims } from "./spec.js";

export interface ShardingDotOptions {
  /** By input of the program how it lies over the mesh. */
  readonly inputs: readonly Dims[];
  /** By input its name; "" for none. */
  readonly names?: readonly string[];
}

/** Grounds of collectives, by the axes they go over. */
const fills = ["#fed7aa", "#bbf7d0", "#ddd6fe", "#fecdd3", "#fef08a", "#a5f3fc", "#f5d0fe", "#d9f99d"];

/**
 * One device's program for Graphviz: each value with its layout over the mesh (`[data, -]`, and `+tensor` where a sum over
 * that axis is open), collectives coloured by the axes they go over, program inputs by name.
 */
export function shardingDot(graph: Graph, mesh: Mesh, { inputs, names = [] }: ShardingDotOptions): string {
  const live = dce(graph);
  const layouts = layoutsOf(live, inputs);
  const axesOf = (node: Node): string =>
    (node.attrs.axes as readonly number[]).map((axis) => mesh.axisNames[axis]).join(" ");
  const groups = [...new Set(live.nodes.filter(isTransfer).map(axesOf))];
  const fillOf = (axes: string): string => fills[groups.indexOf(axes) % fills.length];
  return toDot(live, {
    title: String(mesh),
    lines: (node) => {
      const name = node.op.name === "input" ? names[node.attrs.index as number] : "";
      const [layout] = layouts.get(node) ?? [];
      const text = layout && node.shape.length + layout.open.length > 0 ? formatLayout(mesh, layout) : "";
      return [name, isTransfer(node) ? `over ${axesOf(node)}` : "", text].filter(Boolean);
    },
    hidden: ["mesh", "axes", "index", "shape", "dtype"],
    style: (node): Record<string, string> => {
      if (isTransfer(node)) return { style: "filled", fillcolor: fillOf(axesOf(node)) };
      return node.op.name === "input" ? { style: "rounded" } : {};
    },
  });
}
