import {
  apply,
  atScope,
  concat,
  type Graph,
  GraphBuilder,
  type Node,
  ops,
  reshape,
  sizeOf,
  slice,
  withRecorder,
} from "@lazuli/fx-trace";
import { bytesOf, SMALL_BYTES } from "./choose.js";

/** Bytes of one combined collective: what it joins lives until the last is there. */
const BUCKET = 1 << 22;

const isSmallSum = (node: Node): boolean =>
  node.op.name === "all_reduce" && bytesOf(node.type) <= SMALL_BYTES;

/** Sums that can be one: over the same devices, of the same kind and dtype. */
const kindOf = ({ attrs, dtype }: Node): string => `${attrs.mesh}/${attrs.axes}/${attrs.kind}/${dtype}`;

/** Small all_reduces that wait for nothing of each other as one: the loss and its count, gradients of norms. */
export function combineSmallSums(graph: Graph): Graph {
  const builder = new GraphBuilder();
  const made = new Map<Node, Node>();
  // Put off until something reads one of them.
  const waiting = new Map<string, Node[]>();
  const kindWaiting = new Map<Node, string>();

  const settle = (kind: string): void => {
    const batch = waiting.get(kind) ?? [];
    waiting.delete(kind);
    for (const node of batch) kindWaiting.delete(node);
    const inputs = batch.map((node) => of(node.inputs[0]));
    const [first] = batch;
    if (batch.length === 1) {
      atScope(first.scope, () => made.set(first, apply(first.op, inputs, first.attrs)));
    } else {
      const sum = ops.all_reduce(
        [
          concat(
            inputs.map((x) => reshape(x, [sizeOf(x.shape)])),
            0,
          ),
        ],
        first.attrs as Parameters<typeof ops.all_reduce>[1],
      );
      let start = 0;
      for (const node of batch) {
        const length = sizeOf(node.shape);
        made.set(node, reshape(slice(sum, [start], [start + length]), node.shape));
        start += length;
      }
    }
    for (const node of batch) sums.get(node)?.forEach(putOff);
  };
  const of = (node: Node): Node => {
    const kind = kindWaiting.get(node);
    if (kind !== undefined) settle(kind);
    return made.get(node) as Node;
  };

  // A sum may start as soon as what it sums is there, long before it is read.
  const sums = new Map<Node, Node[]>();
  for (const node of graph.nodes)
    if (isSmallSum(node)) sums.set(node.inputs[0], [...(sums.get(node.inputs[0]) ?? []), node]);
  const putOff = (node: Node): void => {
    const kind = kindOf(node);
    const batch = [...(waiting.get(kind) ?? []), node];
    waiting.set(kind, batch);
    kindWaiting.set(node, kind);
    if (batch.reduce((sum, each) => sum + bytesOf(each.type), 0) >= BUCKET) settle(kind);
  };

  return withRecorder(builder, () => {
    for (const node of graph.nodes) {
      if (isSmallSum(node)) continue;
      const inputs = node.inputs.map(of);
      atScope(node.scope, () => made.set(node, apply(node.op, inputs, node.attrs)));
      sums.get(node)?.forEach(putOff);
    }
    return builder.finish(graph.outputs.map(of));
  });
}
