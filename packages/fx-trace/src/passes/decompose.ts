import { GraphError } from "../errors.js";
import { type Graph, GraphBuilder, walkNodes } from "../graph.js";
import { atScope, type Node, withRecorder } from "../node.js";
import type { OpDef } from "../opdef.js";
import { formatType, sameShape } from "../shape.js";
import type { Pass } from "./pass.js";
import { withInputs } from "./rewrite.js";

/**
 * Replaces composites, and ops that `keep` turns down, by their decomposition, down to ops that are kept. An op
 * without a decomposition stays: what to say of it is the device's.
 */
export function decompose(keep: (op: OpDef) => boolean): Pass {
  const verdicts = new Map<OpDef, boolean>();
  const stays = (op: OpDef): boolean => {
    let verdict = verdicts.get(op);
    if (verdict === undefined) {
      verdict = !op.decompose || (op.lower !== "composite" && (op.lower === "leaf" || keep(op)));
      verdicts.set(op, verdict);
    }
    return verdict;
  };

  return function decompose(graph: Graph): Graph {
    if (graph.nodes.every((node) => stays(node.op))) return graph;
    const builder = new GraphBuilder();
    walkNodes(graph.nodes);
    // By position, a node's results: one value for a node that stays, even where that has several.
    const replaced: (readonly Node[])[] = [];
    const lookup = (node: Node): Node => replaced[node.index][0];
    for (let i = 0; i < graph.nodes.length; i++) {
      const node = graph.nodes[i];
      const source = node.op.name === "result" ? node.inputs[0] : null;
      if (source && !stays(source.op)) {
        replaced[i] = [replaced[source.index][node.attrs.index as number]];
      } else {
        replaced[i] = expand(node, lookup, builder, stays);
      }
    }
    return builder.finish(graph.outputs.map(lookup));
  };
}

/** Adds to `builder` what computes `node` from what `lookup` gives for its inputs; gives its results. */
function expand(
  node: Node,
  lookup: (input: Node) => Node,
  builder: GraphBuilder,
  stays: (op: OpDef) => boolean,
): readonly Node[] {
  const smaller = stays(node.op) ? undefined : node.op.decompose;
  if (!smaller) {
    const kept = withInputs(node, lookup);
    builder.add(kept);
    return [kept];
  }
  const parts = new GraphBuilder();
  const inputs = node.inputs.map(lookup);
  const results = withRecorder(parts, () =>
    atScope(node.scope, () => smaller(inputs, node.attrs as never, node)),
  );
  checkResults(node, results);
  if (parts.nodes.every((part) => stays(part.op))) {
    for (const part of parts.nodes) builder.add(part);
    return results;
  }
  // Values from outside the decomposition are in no map, and stand for themselves.
  const expanded = new Map<Node, readonly Node[]>();
  const inner = (value: Node): Node => expanded.get(value)?.[0] ?? value;
  for (const part of parts.nodes) {
    const source = part.op.name === "result" ? part.inputs[0] : null;
    const several = source && expanded.get(source);
    if (several && several.length > 1) expanded.set(part, [several[part.attrs.index as number]]);
    else expanded.set(part, expand(part, inner, builder, stays));
  }
  return results.map(inner);
}

function checkResults(node: Node, results: readonly Node[]): void {
  const { op, types } = node;
  const fits = (type: Node["type"], i: number): boolean =>
    results[i].dtype === type.dtype && sameShape(results[i].shape, type.shape);
  if (results.length === types.length && types.every(fits)) return;
  const list = (of: readonly Node["type"][]): string => of.map(formatType).join(", ");
  const got = list(results.map((value) => value.type));
  throw new GraphError(op.name, `decomposes to ${got}, but its results are ${list(types)}`, node.scope);
}
