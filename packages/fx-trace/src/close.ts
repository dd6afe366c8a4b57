import { type Graph, nextWalk } from "./graph.js";
import { Node } from "./node.js";
import type { OpDef } from "./opdef.js";
import { input } from "./ops/leaf.js";

/**
 * A recorded run of nodes as a graph of its own: the values in `inputs` become `input` nodes in that order, `nodes`
 * (inputs before users) are copied. The recorded nodes stay as they are.
 */
export function closeGraph(nodes: readonly Node[], outputs: readonly Node[], inputs: readonly Node[]): Graph {
  const walk = nextWalk();
  const copies: Node[] = [];
  const place = (original: Node, copy: Node): Node => {
    original.walk = walk;
    original.index = copies.push(copy) - 1;
    return copy;
  };
  const copyOf = (node: Node): Node => copies[node.index];
  const inputNodes = inputs.map((node, index) => {
    const attrs = { index, shape: node.shape, dtype: node.dtype };
    return place(node, new Node(input as unknown as OpDef, [], attrs, [node.type], node.scope));
  });
  for (const node of nodes) {
    if (node.walk === walk) continue;
    const copy = place(node, new Node(node.op, node.inputs.map(copyOf), node.attrs, node.types, node.scope));
    for (const operand of copy.inputs) operand.useCount++;
  }
  return { nodes: copies, inputs: inputNodes, outputs: outputs.map(copyOf) };
}
