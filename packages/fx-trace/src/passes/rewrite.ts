import { GraphError } from "../errors.js";
import { type Graph, GraphBuilder, walkNodes } from "../graph.js";
import { atScope, Node, withRecorder } from "../node.js";
import { formatType, sameShape } from "../shape.js";

/**
 * What stands in a node's stead: a value of the same type, made from `inputs`; null keeps the node. `node` already
 * reads the replaced `inputs`; `original` is the node of the graph given.
 */
export type Rule = (node: Node, inputs: readonly Node[], original: Node) => Node | null;
/** Rules by op name. */
export type Rules = Readonly<Record<string, Rule>>;

/** `node` reading what `lookup` gives for its inputs: the node itself where that is what it reads. Not recorded. */
export function withInputs(node: Node, lookup: (input: Node) => Node): Node {
  const own = node.inputs;
  for (let i = 0; i < own.length; i++) {
    if (lookup(own[i]) !== own[i])
      return new Node(node.op, own.map(lookup), node.attrs, node.types, node.scope);
  }
  return node;
}

export function checkReplacement(node: Node, next: Node, result = 0): void {
  const from = node.types[result];
  const to = next.type;
  if (from.dtype === to.dtype && sameShape(from.shape, to.shape)) return;
  throw new GraphError(
    node.op.name,
    `replaced a value of ${formatType(from)} by one of ${formatType(to)}`,
    node.scope,
  );
}

/**
 * Replaces nodes by rule, inputs before users; nodes without a rule are kept, and shared with the new graph where
 * nothing below them changed. With `settle`, what a rule returns is replaced again until its rule returns null.
 */
export function rewrite(graph: Graph, rules: Rules, { settle = false } = {}): Graph {
  const builder = new GraphBuilder();
  const walk = walkNodes(graph.nodes);
  const replaced: Node[] = [];
  const lookup = (node: Node): Node => {
    const found = node.walk === walk ? replaced[node.index] : undefined;
    if (!found) throw new GraphError(node.op.name, `node ${node.id} is used before it is made`, node.scope);
    return found;
  };
  withRecorder(builder, () => {
    for (let i = 0; i < graph.nodes.length; i++) {
      const original = graph.nodes[i];
      const node = withInputs(original, lookup);
      let current = node;
      let next = replacement(rules, node, original);
      if (next === null) builder.add(node);
      while (next !== null) {
        current = next;
        next = settle ? replacement(rules, current, original) : null;
      }
      replaced[i] = current;
    }
  });
  return builder.finish(graph.outputs.map(lookup));
}

function replacement(rules: Rules, node: Node, original: Node): Node | null {
  const rule = rules[node.op.name];
  if (!rule) return null;
  const next = atScope(node.scope, () => rule(node, node.inputs, original));
  if (next === null || next === node) return null;
  if (node.types.length === 1) checkReplacement(node, next);
  return next;
}
