import { add, buildGraph, type Graph, input, type Node, ops, square } from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";
import { combineSmallSums, Mesh } from "../src/index.js";

const mesh = new Mesh({ data: 4, tensor: 2 });
const sum = (x: Node, axes: number[], kind: "sum" | "max" = "sum"): Node =>
  ops.all_reduce([x], { mesh: mesh.sizes, axes, kind });
const value = (index: number, shape: number[]): Node => input([], { index, shape, dtype: "float32" });
const sums = ({ nodes }: Graph): string[] =>
  nodes
    .filter(({ op }) => op.name === "all_reduce")
    .map(({ shape, attrs }) => `${attrs.kind} [${shape}] over ${attrs.axes}`);

describe("small sums", () => {
  it("over the same devices are one, if all are there before the first is read", () => {
    const graph = buildGraph(() => {
      const addends = [value(0, [3]), value(1, [2, 2]), value(2, [])].map(square);
      // Taken where each is read, as the partitioner does.
      return addends.map((x) => square(sum(x, [0])));
    });
    const combined = combineSmallSums(graph);
    expect(sums(combined)).toEqual(["sum [8] over 0"]);
    expect(combined.outputs.map(({ shape }) => shape)).toEqual([[3], [2, 2], []]);
  });

  it("stay apart where one needs the other, or devices or kinds differ", () => {
    const graph = buildGraph(() => {
      const [a, b] = [value(0, [3]), value(1, [3])];
      const first = sum(a, [0]);
      return [sum(add(first, b), [0]), sum(a, [1]), sum(b, [0], "max"), sum(sum(b, [0]), [0])];
    });
    expect(sums(combineSmallSums(graph)).sort()).toEqual(
      // The first and the inner one; those that need them.
      ["max [3] over 0", "sum [3] over 1", "sum [6] over 0", "sum [6] over 0"].sort(),
    );
  });

  it("of many bytes are left alone", () => {
    const graph = buildGraph(() => [sum(value(0, [200, 200]), [0]), sum(value(1, [200, 200]), [0])]);
    expect(sums(combineSmallSums(graph))).toHaveLength(2);
  });
});
