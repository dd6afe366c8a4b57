import { buildGraph, encodeNodes, input, type Node, ops, type TensorType } from "@lazuli/fx-trace";

export const f32 = (...shape: number[]): TensorType => ({ shape, dtype: "float32" });

/** The words of a program; inputs whose position is in `donated` are donated. */
export function program(
  types: readonly TensorType[],
  build: (...inputs: Node[]) => Node | readonly Node[],
  donated: readonly number[] = [],
): Uint32Array {
  const graph = buildGraph(() => build(...types.map((type, index) => input([], { index, ...type }))));
  const isInput = (node: Node): boolean => node.op.name === "input";
  const nodes = graph.nodes.filter((node) => !isInput(node));
  const isDonated = (_: Node, index: number): boolean => donated.includes(index);
  return encodeNodes(nodes, graph.outputs, { isInput, inputs: graph.inputs, isDonated }).words.slice();
}

/** Waits for a collective that is only started. */
export const done = (started: Node, bucket = -1): Node =>
  ops.collective_done([started, started.inputs[0]], { bucket });
