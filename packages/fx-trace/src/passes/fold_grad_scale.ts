import { type Graph, walkNodes } from "../graph.js";
import type { Node } from "../node.js";
import { adamw_update } from "../ops/adamw.js";
import { mul } from "../ops/binary.js";
import { full } from "../ops/source.js";
import { sameShape } from "../shape.js";
import type { Pass } from "./pass.js";
import { rewrite } from "./rewrite.js";

/** Whether `node` repeats one 0-d float32 value. */
function isScalar(node: Node): boolean {
  if (node.dtype !== "float32") return false;
  if (node.shape.length === 0 || node.op.name === "full") return true;
  return node.op.name === "broadcast_to" && isScalar(node.inputs[0]);
}

/** That 0-d value. */
function scalarOf(node: Node): Node {
  if (node.shape.length === 0) return node;
  if (node.op.name === "broadcast_to") return scalarOf(node.inputs[0]);
  return full([], { value: node.attrs.value as number, shape: [], dtype: "float32" });
}

/**
 * adamw_update(p, mul(g, s), ...) with a scalar s → adamw_update(p, g, ..., s): gradient clipping without a pass over
 * the gradients of its own. Only where nothing else reads the scaled gradient.
 */
export const foldGradScale: Pass = function foldGradScale(graph: Graph): Graph {
  if (!graph.nodes.some((node) => node.op.name === "adamw_update")) return graph;
  walkNodes(graph.nodes);
  const uses = new Uint32Array(graph.nodes.length);
  for (const node of graph.nodes) for (const operand of node.inputs) uses[operand.index]++;
  for (const output of graph.outputs) uses[output.index]++;
  const scales = (node: Node): boolean => node.op.name === "mul" && uses[node.index] === 1;
  const single = new Set(graph.nodes.filter(scales));

  return rewrite(graph, {
    adamw_update: (node, inputs, original) => {
      if (inputs.length !== 6) return null;
      const [p, , m, v, lr, step] = inputs;
      let g = inputs[1];
      let scale: Node | null = null;
      // `from` walks the graph given, where uses are counted, beside `g` in the new one.
      for (let from = original.inputs[1]; single.has(from); ) {
        const at = scaledOperand(g);
        if (at < 0) break;
        const factor = scalarOf(g.inputs[1 - at]);
        scale = scale ? mul([scale, factor], {}) : factor;
        g = g.inputs[at];
        from = from.inputs[at];
      }
      return scale && adamw_update([p, g, m, v, lr, step, scale], node.attrs as never);
    },
  });
};

/** Which operand of `product` is the gradient, the other being its scale; -1 where none is a scale. */
function scaledOperand(product: Node): number {
  for (const at of [0, 1]) {
    if (sameShape(product.inputs[at].shape, product.shape) && isScalar(product.inputs[1 - at])) return at;
  }
  return -1;
}
