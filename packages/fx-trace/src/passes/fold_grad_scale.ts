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

const isOne = (node: Node): boolean => node.op.name === "full" && node.attrs.value === 1;

/** Whether the value is a product's, seen through views: it comes out of it in float32 as well as rounded. */
function isProduct(node: Node): boolean {
  if (node.op.lower === "contraction") return true;
  return node.op.lower === "view" && isProduct(node.inputs[0]);
}

/** Which values of a graph are never made for anything but reductions of them: what computes these can read behind them. */
class Readers {
  private readonly users: Node[][];
  private readonly outputs: ReadonlySet<Node>;
  private readonly reduced = new Map<Node, boolean>();

  constructor(graph: Graph) {
    walkNodes(graph.nodes);
    this.users = graph.nodes.map(() => []);
    for (const node of graph.nodes) for (const operand of node.inputs) this.users[operand.index].push(node);
    this.outputs = new Set(graph.outputs);
  }

  /** Whether reductions alone read `node`, directly or behind elementwise ops, besides `but`. */
  areReductions(node: Node, but: Node | null = null): boolean {
    if (this.outputs.has(node)) return false;
    return this.users[node.index].every((user) => user === but || this.isReduced(user));
  }

  private isReduced(node: Node): boolean {
    if (node.op.lower !== "elementwise") return node.op.lower === "reduction";
    const known = this.reduced.get(node) ?? this.areReductions(node);
    this.reduced.set(node, known);
    return known;
  }
}

/**
 * adamw_update(p, mul(g, s), ...) with a scalar s → adamw_update(p, g, ..., s), and adamw_update(p, cast(g), ...) →
 * adamw_update(p, g, ...): clipping, unscaling and half gradients without a pass over the gradients of their own. Only
 * where nothing but reductions (a norm, a test for infinities) reads the scaled gradient besides: these read g too.
 */
export const foldGradScale: Pass = function foldGradScale(graph: Graph): Graph {
  return fold(graph, true);
};

/** As foldGradScale but for the casts: before a graph is divided over a mesh, where gradients are summed in the dtype they are cast to. */
export const foldGradScaleOnly: Pass = function foldGradScaleOnly(graph: Graph): Graph {
  return fold(graph, false);
};

function fold(graph: Graph, casts: boolean): Graph {
  if (!graph.nodes.some((node) => node.op.name === "adamw_update")) return graph;
  const readers = new Readers(graph);

  return rewrite(graph, {
    adamw_update: (node, inputs, original) => {
      const [p, , m, v, lr, step, given, ...skip] = inputs;
      let g = inputs[1];
      let scale: Node | null = null;
      // `from` walks the graph given, whose readers are known, beside `g` in the new one.
      let reader = original;
      for (let from = original.inputs[1]; readers.areReductions(from, reader); ) {
        let at = 0;
        if (from.op.name === "mul") {
          at = scaledOperand(g);
          if (at < 0) break;
          const factor = scalarOf(g.inputs[1 - at]);
          scale = scale ? mul([scale, factor], {}) : factor;
        } else if (!casts || !isWidened(g, p)) {
          break;
        }
        g = g.inputs[at];
        reader = from;
        from = from.inputs[at];
      }
      if (g === inputs[1]) return null;
      if (given && !isOne(given)) scale = scale ? mul([given, scale], {}) : given;
      scale ??= given ?? null;
      return adamw_update([p, g, m, v, lr, step, ...(scale ? [scale] : []), ...skip], node.attrs as never);
    },
  });
}

/** Whether `g` is a half value cast up beside a float32 `p`. A product gives float32 by itself, and its digits are kept. */
function isWidened(g: Node, p: Node): boolean {
  if (g.op.name !== "cast" || p.dtype !== "float32") return false;
  const { dtype } = g.inputs[0];
  return (dtype === "bfloat16" || dtype === "float16") && !isProduct(g.inputs[0]);
}

/** Which operand of `product` is the gradient, the other being its scale; -1 where none is a scale. */
function scaledOperand(product: Node): number {
  for (const at of [0, 1]) {
    if (sameShape(product.inputs[at].shape, product.shape) && isScalar(product.inputs[1 - at])) return at;
  }
  return -1;
}
