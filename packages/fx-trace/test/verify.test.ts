import { describe, expect, it } from "vitest";
import {
  type Attrs,
  type Graph,
  GraphError,
  Node,
  type OpDef,
  ops,
  type TensorType,
  verify,
} from "../src/index.js";
import { parseGraph } from "../src/parse.js";

const graph = parseGraph(`
  %0 = input() {index=0, shape=[2, 3], dtype=float32}
  %1 = input() {index=1, shape=[3], dtype=float32}
  %2 = add(%0, %1)  # layer
  %3 = topk(%2) {k=1, dim=1, largest=true}  # layer
  %4 = result(%3) {index=1}
  outputs %4
`);
const [x, y, sum, top] = graph.nodes;

const made = (op: unknown, inputs: readonly Node[], attrs: Attrs, types: readonly TensorType[]): Node =>
  new Node(op as OpDef, inputs, attrs, types, "layer");
const withNodes = (nodes: readonly Node[], outputs: readonly Node[] = []): Graph => ({
  nodes,
  inputs: nodes.filter((node) => node.op.name === "input"),
  outputs,
});

function refusal(broken: Graph): string {
  try {
    verify(broken);
  } catch (error) {
    expect(error).toBeInstanceOf(GraphError);
    return (error as GraphError).message;
  }
  return "accepted";
}

describe("verify", () => {
  it("accepts a graph that is right", () => {
    expect(() => verify(graph)).not.toThrow();
    expect(() => verify({ nodes: [], inputs: [], outputs: [] })).not.toThrow();
  });

  it("names a node that reads what is made after it, or is not there", () => {
    expect(refusal(withNodes([x, sum, y]))).toBe(
      "[add] node 1 reads input (input 1) before it is made (in layer)",
    );
    expect(refusal(withNodes([x, y, made(ops.neg, [sum], {}, sum.types)]))).toBe(
      "[neg] node 2 reads add (input 0) before it is made (in layer)",
    );
  });

  it("names what reads a collective before it is done, or twice", () => {
    const started = parseGraph(`
      %0 = input() {index=0, shape=[2], dtype=float32}
      %1 = all_gather(%0) {mesh=[4], axes=[0], dim=0}  # layer
      %2 = collective_done(%1, %0) {bucket=2}
      outputs %2
    `);
    expect(() => verify(started)).not.toThrow();
    const [operand, gather, done] = started.nodes;
    const nodes = [...started.nodes, made(ops.neg, [gather], {}, gather.types)];
    expect(refusal(withNodes(nodes, [done]))).toBe(
      "[all_gather] node 1 is under way until node 2, its collective_done, and node 3, neg, reads it (in layer)",
    );
    expect(refusal(withNodes(started.nodes, [gather]))).toContain("and output 0 reads it");
    const again = made(ops.collective_done, [gather, operand], { bucket: -1 }, gather.types);
    expect(refusal(withNodes([...started.nodes, again], [done]))).toContain(
      "until node 3, its collective_done, and node 2, collective_done, reads it",
    );
    const other = made(ops.collective_done, [operand, operand], { bucket: -1 }, operand.types);
    expect(refusal(withNodes([operand, other], [other]))).toContain("waits for input, no collective");
  });

  it("names a node that stands twice", () => {
    expect(refusal(withNodes([x, y, sum, sum]))).toBe(
      "[add] node 3 is in the graph twice, first as node 2 (in layer)",
    );
  });

  it("names a type the op does not give", () => {
    const wrong = made(ops.add, [x, y], {}, [{ dtype: "float32", shape: [3, 2] }]);
    expect(refusal(withNodes([x, y, wrong]))).toBe(
      "[add] node 2 has type float32[3, 2], its op gives float32[2, 3] (in layer)",
    );
  });

  it("names a call the op refuses", () => {
    const wrong = made(ops.reshape, [x], { shape: [5] }, [{ dtype: "float32", shape: [5] }]);
    expect(refusal(withNodes([x, wrong]))).toMatch(
      /^\[reshape\] node 1 is refused by its op: .*\[5\].* \(in layer\)$/,
    );
  });

  it("names wrong counts of operands", () => {
    expect(refusal(withNodes([x, made(ops.add, [x], {}, x.types)]))).toBe(
      "[add] node 1 has 1 inputs, takes 2 (in layer)",
    );
    expect(refusal(withNodes([x, made(ops.attention_grad, [x], {}, x.types)]))).toBe(
      "[attention_grad] node 1 has 1 inputs, takes 6 to 11 (in layer)",
    );
  });

  it("names attributes of the wrong kind", () => {
    const attrs = { dims: [0.5], keepdim: false };
    expect(refusal(withNodes([x, made(ops.sum, [x], attrs, [{ dtype: "float32", shape: [] }])]))).toBe(
      "[sum] node 1 has dims=0.5, which is not ints (in layer)",
    );
    expect(refusal(withNodes([x, made(ops.gelu, [x], { approximate: "best" }, x.types)]))).toBe(
      "[gelu] node 1 has approximate=best, which is not none|tanh (in layer)",
    );
    expect(refusal(withNodes([x, made(ops.neg, [x], { dim: 0 }, x.types)]))).toBe(
      "[neg] node 1 has dim, which is no attribute of the op (in layer)",
    );
  });

  it("names who reads an op of several results without a result node", () => {
    expect(refusal(withNodes([x, y, sum, top, made(ops.neg, [top], {}, [top.type])]))).toBe(
      "[neg] node 4 reads topk (input 0), an op of 2 results, without a result node (in layer)",
    );
    expect(refusal(withNodes([x, y, sum, top], [top]))).toBe(
      "[topk] output 0 is an op of 2 results, not one of them (in layer)",
    );
  });

  it("names outputs that are not in the graph", () => {
    expect(refusal(withNodes([x, y], [sum]))).toBe("[add] output 0 is not in the graph (in layer)");
  });

  it("wants inputs numbered 0, 1, ...", () => {
    const again = made(ops.input, [], { index: 0, shape: [], dtype: "int32" }, [
      { dtype: "int32", shape: [] },
    ]);
    expect(refusal(withNodes([x, again]))).toBe("[input] node 1 is input 0, and so is node 0 (in layer)");
    expect(refusal(withNodes([y]))).toBe("[input] there is no input 0, but there is an input 1");
    expect(refusal({ nodes: [x, y], inputs: [y, x], outputs: [] })).toBe(
      "[input] the graph's inputs are not its input nodes by index",
    );
  });
});
