import { type FxNode, GraphError, sizeOf, type TensorType } from "@lazuli/fx-trace";
import type { GraphModule } from "../graph_module.js";
import { type Assign, assignable } from "./split_module.js";

/** For `splitModule`: a new stage, counted from 0, begins at the first call of each module in `paths`. */
export function splitAt(module: GraphModule, paths: readonly string[]): Assign {
  const stages = new Map<FxNode, number>();
  const left = new Set(paths);
  let stage = 0;
  for (const node of assignable(module.graph)) {
    const place = node.op === "call_module" ? node.targetName : node.scope;
    for (const path of left)
      if (place === path || place.startsWith(`${path}.`)) {
        left.delete(path);
        // Of a path and one within it, called by the same node, one stage begins.
        if (stages.size > 0) stage = Math.max(...stages.values()) + 1;
      }
    stages.set(node, stage);
  }
  if (left.size > 0)
    throw new GraphError("splitAt", `nothing in the graph is of the module ${[...left].join(", ")}`);
  return (node) => stages.get(node) ?? 0;
}

const size = (types: readonly TensorType[] | null): number =>
  (types ?? []).reduce((sum, { shape }) => sum + sizeOf(shape), 0);

/**
 * A node's work: floating point operations of what multiplies matrices, elements made of everything else. A module that
 * is called as one node multiplies each row of what it gives with all its parameters.
 */
export function nodeCost(module: GraphModule, node: FxNode): number {
  const elements = size(node.types);
  const [a, b] = node.inputs;
  if (node.op === "call_module") {
    const parameters = module.getSubmodule(node.targetName).numParameters();
    const last = node.type?.shape.at(-1) ?? 1;
    return elements + 2 * parameters * (last > 0 ? elements / last : 0);
  }
  if (node.calls("dot_general")) {
    const contracted = (node.attrs.lhs_contract as readonly number[]).map((dim) => a?.type?.shape[dim] ?? 1);
    return 2 * elements * sizeOf(contracted);
  }
  if (node.calls("attention")) return 4 * elements * (b?.type?.shape[2] ?? 1);
  return node.op === "call_function" ? elements : 0;
}

/**
 * For `splitModule`: `count` stages of consecutive nodes, the costliest as cheap as can be. Throws GraphError where there
 * are fewer nodes.
 */
export function splitBalanced(
  module: GraphModule,
  count: number,
  cost: (node: FxNode) => number = (node) => nodeCost(module, node),
): Assign {
  const nodes = assignable(module.graph);
  if (!Number.isInteger(count) || count < 1 || nodes.length < count)
    throw new GraphError("splitBalanced", `a graph of ${nodes.length} nodes has no ${count} stages`);
  const costs = nodes.map(cost);
  /** The first node of each stage where none costs more than `limit`; null where that takes too many. */
  const cuts = (limit: number): number[] | null => {
    const starts = [0];
    let sum = 0;
    for (const [i, own] of costs.entries()) {
      if (own > limit) return null;
      if (sum + own > limit) {
        starts.push(i);
        sum = 0;
      }
      sum += own;
    }
    return starts.length <= count ? starts : null;
  };
  let low = Math.max(...costs);
  let high = costs.reduce((sum, own) => sum + own, 0);
  for (let step = 0; step < 60 && high - low > 1e-9 * high; step++) {
    const middle = (low + high) / 2;
    if (cuts(middle)) high = middle;
    else low = middle;
  }
  const starts = cuts(high) as number[];
  // Cheap graphs may fill fewer stages: the longest are halved.
  while (starts.length < count) {
    const lengths = starts.map((start, i) => (starts[i + 1] ?? nodes.length) - start);
    const longest = lengths.indexOf(Math.max(...lengths));
    starts.splice(longest + 1, 0, starts[longest] + Math.ceil(lengths[longest] / 2));
  }
  const stages = new Map(nodes.map((node, i) => [node, starts.findLastIndex((start) => start <= i)]));
  return (node) => stages.get(node) ?? 0;
}
