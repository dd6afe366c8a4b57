import { GraphError } from "./errors.js";
import { type Node, type Recorder, withRecorder } from "./node.js";

/**
 * A closed program: `nodes` in an order where inputs come before users, `inputs` the `input` nodes by index,
 * `outputs` the values asked for. Passes take one and return another; nodes are never changed in place.
 */
export interface Graph {
  readonly nodes: readonly Node[];
  readonly inputs: readonly Node[];
  readonly outputs: readonly Node[];
}

/** Collects nodes in the order they are made. */
export class GraphBuilder implements Recorder {
  readonly nodes: Node[] = [];

  add(node: Node): void {
    this.nodes.push(node);
  }

  /** The graph of what was recorded; `input` nodes are sorted by their index. */
  finish(outputs: readonly Node[]): Graph {
    const inputs = this.nodes.filter((node) => node.op.name === "input");
    inputs.sort((a, b) => (a.attrs.index as number) - (b.attrs.index as number));
    return { nodes: this.nodes, inputs, outputs };
  }
}

/** Builds a graph from what `fn` records; `fn` returns the outputs. */
export function buildGraph(fn: () => Node | readonly Node[]): Graph {
  const builder = new GraphBuilder();
  const outputs = withRecorder(builder, fn);
  return builder.finish(Array.isArray(outputs) ? outputs : [outputs as Node]);
}

let walks = 0;

/** Numbers `nodes` by position for one walk and returns the walk's number: `node.walk === walk` tells membership. */
export function walkNodes(nodes: readonly Node[]): number {
  const walk = ++walks;
  for (let i = 0; i < nodes.length; i++) {
    nodes[i].index = i;
    nodes[i].walk = walk;
  }
  return walk;
}

/** A fresh walk number, for walks that number nodes themselves. */
export const nextWalk = (): number => ++walks;

/** Ancestors of `outputs` (included), inputs before users, in the order they were made. Stops where `stop` holds. */
export function reachable(outputs: readonly Node[], stop: (node: Node) => boolean = () => false): Node[] {
  const walk = nextWalk();
  const found: Node[] = [];
  const stack = [...outputs];
  while (stack.length > 0) {
    const node = stack.pop() as Node;
    if (node.walk === walk) continue;
    node.walk = walk;
    found.push(node);
    if (!stop(node)) stack.push(...node.inputs);
  }
  return found.sort((a, b) => a.id - b.id);
}

/** For each node of the graph, in order, what `replace` returns in its stead (its inputs already replaced). */
export function rewriteGraph(graph: Graph, replace: (node: Node, inputs: readonly Node[]) => Node): Graph {
  const builder = new GraphBuilder();
  const replaced = new Map<Node, Node>();
  const lookup = (node: Node): Node => {
    const found = replaced.get(node);
    if (!found) throw new GraphError(node.op.name, `node ${node.id} is used before it is made`, node.scope);
    return found;
  };
  withRecorder(builder, () => {
    for (const node of graph.nodes) replaced.set(node, replace(node, node.inputs.map(lookup)));
  });
  return builder.finish(graph.outputs.map(lookup));
}
