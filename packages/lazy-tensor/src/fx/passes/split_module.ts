import { FxGraph, type FxNode, GraphError, getItem, mapNodes } from "@lazuli/fx-trace";
import { GraphModule } from "../graph_module.js";
import { besides, extract } from "./extract.js";

/**
 * The part a node goes to; null leaves it in the graph around the parts. Not asked of placeholders and attributes, which
 * go where they are read, nor of what can only stand beside another node: items of a structure, results of an op, and
 * what buffers are given.
 */
export type Assign = (node: FxNode) => string | number | null;

export interface SplitOptions {
  /** Begins the parts' paths: `stage_0`, or what `assign` gives behind it. Default `stage`. */
  readonly prefix?: string;
}

/** Nodes that stand together: one part, or a single node of the graph around. */
interface Unit {
  readonly key: string | number | null;
  readonly nodes: FxNode[];
}

/**
 * The module with parts of its graph as modules of their own, `stage_<key>`, each a GraphModule that is called as one node.
 * They share the parameters, which keep the names they have in the state dict. Throws GraphError where parts read each
 * other in a circle. As torch.fx.passes.split_module.
 */
export function splitModule(module: GraphModule, assign: Assign, options: SplitOptions = {}): GraphModule {
  const { prefix = "stage" } = options;
  const { graph } = module;
  const units = inOrder(unitsOf(graph, assign));
  const main = new FxGraph();
  for (const [name, info] of graph.symbols) main.symbols.set(name, info);
  const values = new Map<FxNode, FxNode>();
  const lookup = (node: FxNode): FxNode => {
    const known = values.get(node);
    if (known) return known;
    const copy = main.nodeCopy(node, lookup); // an attribute, read for the first time
    values.set(node, copy);
    return copy;
  };
  for (const node of graph.placeholders) values.set(node, main.nodeCopy(node, lookup));
  const stages = new Map<string, GraphModule>();
  for (const { key, nodes } of units) {
    if (key === null) {
      for (const node of nodes) values.set(node, main.nodeCopy(node, lookup));
      continue;
    }
    const path = module.freePath(`${prefix}_${key}`);
    const { module: stage, given, returned } = extract(module, nodes, path);
    stages.set(path, stage);
    const single = returned.length === 1;
    const call = main.callModule(path, given.map(lookup), {
      name: path,
      scope: "",
      types: single ? returned[0].types : null,
    });
    for (const [i, node] of returned.entries()) {
      const { types, scope } = node;
      const value = single
        ? call
        : main.callFunction(getItem, [call, i], {}, { name: node.name, types, scope });
      value.dims = node.dims;
      values.set(node, value);
    }
  }
  main.output(mapNodes(graph.outputNode?.args[0], lookup));
  const params = graph.params.map((param) => ({ ...param, value: mapNodes(param.value, lookup) }));
  main.params.splice(0, main.params.length, ...params);
  const made = new GraphModule(module, main);
  for (const [path, stage] of stages) made.addSubmodule(path, stage);
  return made;
}

function unitsOf(graph: FxGraph, assign: Assign): Map<FxNode, Unit> {
  const units = new Map<FxNode, Unit>();
  const byKey = new Map<string, Unit>();
  for (const node of graph) {
    if (node.op === "placeholder" || node.op === "get_attr" || node.op === "output") continue;
    const beside = besides(node);
    let unit = beside ? units.get(beside) : undefined;
    if (!unit) {
      const key = assign(node);
      unit = (key === null ? undefined : byKey.get(String(key))) ?? { key, nodes: [] };
      if (key !== null) byKey.set(String(key), unit);
    }
    unit.nodes.push(node);
    units.set(node, unit);
  }
  return units;
}

/** Units with what they read before them; where that leaves a choice, as the graph has their first nodes. */
function inOrder(unitOf: ReadonlyMap<FxNode, Unit>): Unit[] {
  const left = new Set(unitOf.values());
  const done: Unit[] = [];
  const waitsFor = (unit: Unit): FxNode | undefined =>
    unit.nodes
      .flatMap((node) => node.inputs)
      .find((input) => {
        const other = unitOf.get(input);
        return other !== undefined && other !== unit && left.has(other);
      });
  while (left.size > 0) {
    let next: Unit | undefined;
    for (const unit of left)
      if (!waitsFor(unit)) {
        next = unit;
        break;
      }
    if (!next) throw circle([...left], unitOf, waitsFor);
    left.delete(next);
    done.push(next);
  }
  return done;
}

function circle(
  left: readonly Unit[],
  unitOf: ReadonlyMap<FxNode, Unit>,
  waitsFor: (unit: Unit) => FxNode | undefined,
): GraphError {
  const seen = new Set<Unit>();
  let unit = left[0];
  const steps: string[] = [];
  while (!seen.has(unit)) {
    seen.add(unit);
    const input = waitsFor(unit) as FxNode;
    const next = unitOf.get(input) as Unit;
    steps.push(`${unit.key ?? unit.nodes[0].name} reads ${input.name} of ${next.key ?? next.nodes[0].name}`);
    unit = next;
  }
  return new GraphError("splitModule", `parts read each other in a circle: ${steps.join(", ")}`);
}

/** The nodes that `assign` is asked of, in order. */
export const assignable = (graph: FxGraph): FxNode[] =>
  graph.nodes.filter((node) => !["placeholder", "get_attr", "output"].includes(node.op) && !besides(node));
