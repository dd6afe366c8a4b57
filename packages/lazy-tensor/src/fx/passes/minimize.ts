import { applyPass, decompose, type FxNode, GraphError, Node } from "@lazuli/fx-trace";
import { treeLeaves } from "../../pytree.js";
import { sync } from "../../step.js";
import { Tensor } from "../../tensor.js";
import { GraphModule } from "../graph_module.js";
import { Interpreter } from "../interpreter.js";
import { inlineModules } from "../symbolic_trace.js";
import { extract } from "./extract.js";
import { assignable } from "./split_module.js";

/** A way to run a module. */
export type Backend = (module: GraphModule, inputs: readonly Tensor[]) => unknown | Promise<unknown>;

/** As the module runs by itself. */
export const native: Backend = (module, inputs) => module.forward(...inputs);

/** With every op that can be said in smaller ones in these: what the fused kernels are checked against. */
export const decomposed: Backend = (module, inputs) => {
  const inlined = inlineModules(module);
  const graph = applyPass(
    inlined.graph,
    decompose(() => false),
  );
  return new GraphModule(inlined, graph).forward(...inputs);
};

export interface MinimizeOptions {
  /** The largest difference that counts as none: relative to the largest magnitude of the value. Default 1e-4. */
  readonly tolerance?: number;
}

export interface Disagreement {
  /** The part, a module of its own whose arguments are `inputs`. */
  readonly module: GraphModule;
  readonly inputs: readonly Tensor[];
  /** Its nodes, of the graph given, in order. */
  readonly nodes: readonly FxNode[];
  /** The largest difference found in it, relative to the largest magnitude. */
  readonly difference: number;
}

/**
 * The smallest run of nodes on which two ways to run a module disagree, found by halving: first the first value that
 * differs when everything before it is run both ways, then how many nodes before it, on `a`'s own values, it takes. Null
 * where the whole agrees. Values are compared as they are computed, so random ops must not be in the graph. As
 * torch.fx's net_min_base.
 */
export async function minimize(
  module: GraphModule,
  inputs: readonly unknown[],
  a: Backend,
  b: Backend,
  { tolerance = 1e-4 }: MinimizeOptions = {},
): Promise<Disagreement | null> {
  const { graph } = module;
  if (graph.findNodes({ op: "set_attr" }).length > 0)
    throw new GraphError(
      "minimize",
      "the graph gives buffers values, which running parts of it would do again",
    );
  const nodes = assignable(graph);
  const values = await new Recording(module).values(inputs);
  const differs = async (part: readonly FxNode[]): Promise<Disagreement | null> => {
    const cut = extract(module, part);
    const given = cut.given.map((node) => values.get(node) as Tensor);
    const [left, right] = [await read(a, cut.module, given), await read(b, cut.module, given)];
    const difference = largestDifference(left, right);
    if (difference <= tolerance) return null;
    return { module: cut.module, inputs: given, nodes: part, difference };
  };

  if (!(await differs(nodes))) return null;
  // Whether any value up to `end` differs grows with `end`.
  let [agrees, end] = [0, nodes.length];
  while (end - agrees > 1) {
    const middle = (agrees + end) >> 1;
    if (await differs(nodes.slice(0, middle))) end = middle;
    else agrees = middle;
  }
  // From `a`'s values on: as few nodes before the end as still differ.
  let smallest: Disagreement | null = null;
  for (let length = 1; !smallest; length = Math.min(length * 2, end))
    smallest = await differs(nodes.slice(end - length, end));
  let [enough, few] = [smallest.nodes.length, Math.floor(smallest.nodes.length / 2)];
  while (enough - few > 1) {
    const middle = (enough + few) >> 1;
    const found = await differs(nodes.slice(end - middle, end));
    if (found) [smallest, enough] = [found, middle];
    else few = middle;
  }
  // What the last node does not need says nothing.
  const needed = ancestors(smallest.nodes);
  return (needed.length < smallest.nodes.length ? await differs(needed) : null) ?? smallest;
}

/** What the last of `nodes` reads, within them. */
function ancestors(nodes: readonly FxNode[]): FxNode[] {
  const own = new Set(nodes);
  const found = new Set<FxNode>();
  const visit = (node: FxNode): void => {
    if (found.has(node) || !own.has(node)) return;
    found.add(node);
    node.inputs.flatMap((input) => [input, ...(own.has(input) ? [] : input.inputs)]).forEach(visit);
  };
  visit(nodes[nodes.length - 1]);
  return nodes.filter((node) => found.has(node));
}

/** The value of every node, computed. */
class Recording extends Interpreter {
  async values(inputs: readonly unknown[]): Promise<ReadonlyMap<FxNode, unknown>> {
    this.run(...inputs);
    const values = new Map([...this.env].map(([node, value]) => [node, detached(value)]));
    await sync(...[...values.values()].flatMap(treeLeaves));
    return values;
  }
}

const detached = (value: unknown): unknown => {
  if (value instanceof Tensor) return value.detach();
  return value instanceof Node ? undefined : value;
};

async function read(
  backend: Backend,
  module: GraphModule,
  inputs: readonly Tensor[],
): Promise<Float64Array[]> {
  const result = await backend(module, inputs);
  const leaves = treeLeaves(result);
  await sync(...leaves);
  return Promise.all(leaves.map(async (leaf) => Float64Array.from(await leaf.data(), Number)));
}

/** NaN against a number is an endless difference; NaN against NaN, and infinity against itself, none. */
function largestDifference(left: readonly Float64Array[], right: readonly Float64Array[]): number {
  if (left.length !== right.length) return Number.POSITIVE_INFINITY;
  let largest = 0;
  for (const [k, a] of left.entries()) {
    const b = right[k];
    if (a.length !== b.length) return Number.POSITIVE_INFINITY;
    const scale = a.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0) || 1;
    for (let i = 0; i < a.length; i++) {
      if (Object.is(a[i], b[i]) || a[i] === b[i]) continue;
      const difference = Math.abs(a[i] - b[i]) / scale;
      largest = Math.max(largest, Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference);
    }
  }
  return largest;
}
