import { apply, collectiveNames, type Graph, type Node, result } from "@lazuli/fx-trace";
import { ShardingError } from "./errors.js";

/*
 * Between full_to_shard and shard_to_full a program is written on parts by hand (as jax.shard_map, Shardy's
 * manual_computation): its ops have local shapes already, and run as they are.
 */

/** Nodes whose values are parts. */
export type ManualNodes = ReadonlySet<Node>;

const makesParts: ReadonlySet<string> = new Set(
  collectiveNames.filter((name) => name !== "sharding_constraint" && name !== "shard_to_full"),
);

/** The ops on parts. Throws ShardingError for a part that is an output: it is no value of the whole mesh. */
export function manualNodes(graph: Graph): ManualNodes {
  const manual = new Set<Node>();
  for (const node of graph.nodes) {
    if (node.op.name === "shard_to_full") continue;
    if (makesParts.has(node.op.name) || node.inputs.some((x) => manual.has(x))) manual.add(node);
  }
  for (const value of graph.outputs)
    if (manual.has(value))
      throw new ShardingError(
        "manualSharding",
        `the result of ${value.op.name}, ${value.dtype}[${value.shape.join(", ")}], is one device's part and is asked for outside: return it, with a spec in outSpecs`,
        value.scope,
      );
  return manual;
}

/** An op on parts as the program of one device has it. `operand` gives a part; of a value of the whole mesh all of it. */
export function runManual(node: Node, operand: (value: Node) => Node): Node {
  const [x] = node.inputs;
  if (node.op.name === "sharding_constraint") return operand(x);
  const inputs = node.inputs.map(operand);
  return node.op.name === "result"
    ? result(inputs, { index: node.attrs.index as number })
    : apply(node.op, inputs, node.attrs);
}
