import { describe, expect, it } from "vitest";
import { buildGraph, constant, formatGraph, input, ops, resultOf, toDot, withScope } from "../src/index.js";
import { parseGraph } from "../src/parse.js";

const sample = () =>
  buildGraph(() => {
    const q = input([], { index: 0, shape: [1, 2, 3, 4], dtype: "bfloat16" });
    const data = new Uint8Array([0, 0, 128, 63, 255, 0, 0, 128]);
    const c = constant([], { shape: [2], dtype: "float32", data });
    const lowest = ops.full([], { value: -Infinity, shape: [], dtype: "float32" });
    return withScope("blocks.0", () => {
      const attention = withScope("attn", () =>
        ops.attention([q, q, q], { causal: true, offset: -1, scale: 0.5, window: 0 }),
      );
      const g = ops.gelu([resultOf(attention, 0)], { approximate: "tanh" });
      const total = ops.sum([ops.maximum([c, lowest])], { dims: [0], keepdim: false });
      return [g, total, ops.full([], { value: -0, shape: [0, 2], dtype: "float64" })];
    });
  });

const text = `%0 = input() {index=0, shape=[1, 2, 3, 4], dtype=bfloat16} : bfloat16[1, 2, 3, 4]
%1 = constant() {shape=[2], dtype=float32, data=0x0000803fff000080} : float32[2]
%2 = full() {value=-Infinity, shape=[], dtype=float32} : float32[]
%3 = attention(%0, %0, %0) {causal=true, offset=-1, scale=0.5, window=0} : (bfloat16[1, 2, 3, 4], float32[1, 2, 3])  # blocks.0.attn
%4 = result(%3) {index=0} : bfloat16[1, 2, 3, 4]  # blocks.0
%5 = gelu(%4) {approximate=tanh} : bfloat16[1, 2, 3, 4]  # blocks.0
%6 = maximum(%1, %2) : float32[2]  # blocks.0
%7 = sum(%6) {dims=[0], keepdim=false} : float32[]  # blocks.0
%8 = full() {value=-0, shape=[0, 2], dtype=float64} : float64[0, 2]  # blocks.0
outputs %5, %7, %8
`;

describe("formatGraph", () => {
  it("writes a line a node, numbered by position", () => {
    expect(formatGraph(sample())).toBe(text);
    expect(formatGraph(sample())).toBe(text);
  });

  it("shows the beginning of long constants", () => {
    const graph = buildGraph(() =>
      constant([], { shape: [100], dtype: "uint8", data: new Uint8Array(100).fill(7) }),
    );
    expect(formatGraph(graph)).toContain(`data=0x${"07".repeat(16)}... (100 bytes)}`);
    expect(formatGraph(graph, { maxBytes: 100 })).toContain(`data=0x${"07".repeat(100)}}`);
  });

  it("writes a graph without nodes", () => {
    expect(formatGraph({ nodes: [], inputs: [], outputs: [] })).toBe("outputs\n");
  });
});

describe("parseGraph", () => {
  it("reads back what formatGraph writes", () => {
    expect(formatGraph(parseGraph(text))).toBe(text);
    expect(formatGraph(parseGraph("outputs\n"))).toBe("outputs\n");
  });

  it("takes any names, empty lines, comments, and nodes without their types", () => {
    const graph = parseGraph(`
      # two inputs
      %b = input() {index=1, shape=[2], dtype=int32}
      %a = input() {index=0, shape=[2], dtype=int32}

      %sum = add(%a, %b)  # here
      outputs %sum
    `);
    expect(graph.inputs.map((node) => node.attrs.index)).toEqual([0, 1]);
    expect(graph.outputs[0].scope).toBe("here");
    expect(formatGraph(graph)).toContain("%2 = add(%1, %0) : int32[2]  # here\noutputs %2");
  });

  const header = "%0 = input() {index=0, shape=[2], dtype=float32}";
  it.each([
    [`${header}\n%1 = spin(%0)\noutputs %1`, "line 2: there is no op spin"],
    [`${header}\n%1 = neg(%2)\noutputs %1`, "line 2: %2 is not made before"],
    [`${header}\n%0 = neg(%0)\noutputs %0`, "line 2: %0 is made twice"],
    [`${header}\n%1 = neg(%0) : float32[3]\noutputs %1`, "line 2: %1 is float32[2], not float32[3]"],
    [`${header}\n%1 = sum(%0) {dims=[0]}\noutputs %1`, "line 2: sum takes keepdim"],
    [`${header}\n%1 = sum(%0) {dims=0, keepdim=false}\noutputs %1`, "line 2: dims=0 is not ints"],
    [`${header}\n%1 = gelu(%0) {approximate=best}\noutputs %1`, "line 2: approximate=best is not none|tanh"],
    [`${header}\n%1 = neg(%0) {dim=0}\noutputs %1`, "line 2: neg has no attribute dim"],
    [`${header}\nneg(%0)\noutputs %0`, "line 2: neither a node nor the outputs: neg(%0)"],
    [`${header}\noutputs %0\n${header}`, "line 3: there are lines after the outputs"],
    [header, "line 1: the outputs are missing"],
  ])("says what is wrong: %#", (source, message) => {
    expect(() => parseGraph(source)).toThrow(message);
  });
});

describe("toDot", () => {
  it("draws nodes inside their modules, and edges", () => {
    const graph = parseGraph(`
      %0 = input() {index=0, shape=[2], dtype=float32}
      %1 = neg(%0)  # a.b
      %2 = add(%1, %0)
      outputs %2
    `);
    expect(toDot(graph)).toBe(`digraph {
  node [shape=box, fontname=monospace];
  n0 [label="%0 input {index=0, shape=[2], dtype=float32}\\nfloat32[2]"];
  n2 [label="%2 add\\nfloat32[2]", peripheries=2];
  subgraph cluster_0 {
    label="a.b";
    n1 [label="%1 neg\\nfloat32[2]"];
  }
  n0 -> n1;
  n1 -> n2;
  n0 -> n2;
}
`);
  });
});
