import {
  apply,
  atScope,
  constant,
  dce,
  type Graph,
  type Node,
  rewriteGraph,
  walkNodes,
  withGrad,
} from "@lazuli/fx-trace";
import { engine } from "../runtime.js";
import { Tensor } from "../tensor.js";
import { rawArray } from "../typed_array.js";
import { runGraph } from "./program.js";

/** Sources that every format writes in a line. */
const written = new Set(["full", "iota", "constant"]);

/**
 * The graph with everything that does not depend on its inputs computed, on the engine's device, and written as constants:
 * tables that a model makes of its sizes alone, which other runtimes may lack the ops for.
 */
export async function computeConstants(graph: Graph): Promise<Graph> {
  walkNodes(graph.nodes);
  const fixed = new Uint8Array(graph.nodes.length);
  for (const [i, { op, inputs }] of graph.nodes.entries())
    fixed[i] = op.name !== "input" && !op.unique && inputs.every(({ index }) => fixed[index] === 1) ? 1 : 0;
  const wanted = new Set<Node>();
  const want = (node: Node): void => {
    if (fixed[node.index] === 1 && !written.has(node.op.name) && node.types.length === 1) wanted.add(node);
  };
  for (const [i, node] of graph.nodes.entries()) if (fixed[i] === 0) node.inputs.forEach(want);
  graph.outputs.forEach(want);
  if (wanted.size === 0) return graph;

  const frontier = [...wanted];
  const computable = { nodes: graph.nodes.filter((_, i) => fixed[i] === 1), inputs: [], outputs: frontier };
  const values = withGrad(false, () => runGraph(computable, []).map((node) => new Tensor(node)));
  const data = new Map<Node, Uint8Array>();
  for (const [i, { node, dtype, size }] of values.entries()) {
    const raw = rawArray(dtype, size);
    await engine().read(node, raw);
    data.set(frontier[i], new Uint8Array(raw.buffer, raw.byteOffset, raw.byteLength));
  }
  return dce(
    rewriteGraph(graph, (node, inputs) =>
      atScope(node.scope, () => {
        const bytes = data.get(node);
        const { shape, dtype } = node;
        return bytes ? constant([], { shape, dtype, data: bytes }) : apply(node.op, inputs, node.attrs);
      }),
    ),
  );
}
