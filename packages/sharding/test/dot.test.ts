import { buildGraph, input, type Node, ops, reshape, withScope } from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";
import { type Dims, formatLayout, layoutsOf, Mesh, shardingDot } from "../src/index.js";

const mesh = new Mesh({ data: 2, tensor: 4 });
const on = (...axes: number[]) => ({ mesh: mesh.sizes, axes });
const value = (index: number, shape: number[]): Node => input([], { index, shape, dtype: "float32" });
const product = (a: Node, b: Node): Node =>
  ops.dot_general([a, b], { lhs_contract: [1], rhs_contract: [0], lhs_batch: [], rhs_batch: [] });

/** Layouts of the outputs of what `fn` records on parts. */
function layouts(inputs: readonly Dims[], fn: () => Node[]): string[] {
  const graph = buildGraph(fn);
  const found = layoutsOf(graph, inputs);
  return graph.outputs.map((node) => formatLayout(mesh, (found.get(node) ?? [])[0]));
}

describe("layoutsOf", () => {
  it("follows ops and collectives", () => {
    const out = layouts(
      [
        [[0], []],
        [[], [1]],
        [[1], []],
      ],
      () => {
        const [x, up, down] = [value(0, [4, 8]), value(1, [8, 4]), value(2, [4, 8])];
        const hidden = ops.silu([product(x, up)]);
        const open = product(hidden, down);
        const scattered = ops.reduce_scatter([open], { ...on(1), kind: "sum", dim: 1 });
        return [
          hidden,
          open,
          ops.all_reduce([open], { ...on(1), kind: "sum" }),
          scattered,
          ops.all_gather([scattered], { ...on(1), dim: 1 }),
          ops.all_to_all([hidden], { ...on(1), split_dim: 0, concat_dim: 1 }),
          ops.transpose([hidden], { perm: [1, 0] }),
          ops.sum([hidden], { dims: [0, 1], keepdim: false }),
          ops.shard_slice([up], { ...on(0), dim: 0, size: 4 }),
        ];
      },
    );
    expect(out).toEqual([
      "[data, tensor]",
      "[data, -] +tensor",
      "[data, -]",
      "[data, tensor]",
      "[data, -]",
      "[(data tensor), -]",
      "[tensor, data]",
      "[] +data tensor",
      "[data, tensor]",
    ]);
  });

  it("keeps dims of one element apart in a reshape, and forgets them in a bucket", () => {
    const out = layouts([[[0], [1], []]], () => {
      const x = value(0, [1, 8, 6]);
      const flat = reshape(x, [8, 6]);
      return [flat, reshape(x, [1, 8, 2, 3]), reshape(x, [1, 4, 2, 6]), ops.concat([flat, flat], { dim: 0 })];
    });
    expect(out).toEqual(["[data, -]", "[data, tensor, -, -]", "[data, tensor, -, -]", "[-, -]"]);
  });
});

describe("shardingDot", () => {
  it("names inputs, gives layouts, and colours collectives by their axes", () => {
    const graph = buildGraph(() => {
      const [x, w] = [value(0, [4, 8]), value(1, [8, 4])];
      const open = withScope("mlp", () => product(x, w));
      return [
        ops.all_reduce([open], { ...on(1), kind: "sum" }),
        ops.all_gather([x], { ...on(0), dim: 0 }),
        ops.neg([ops.all_gather([w], { ...on(1), dim: 0 })]),
      ];
    });
    const dot = shardingDot(graph, mesh, {
      inputs: [
        [[0], [1]],
        [[1], []],
      ],
      names: ["", "mlp.weight"],
    });
    expect(dot).toContain('label="Mesh(data=2, tensor=4)"; labelloc=t;');
    expect(dot).toContain('n1 [label="%1 input\\nfloat32[8, 4]\\nmlp.weight\\n[tensor, -]", style=rounded];');
    expect(dot).toMatch(/mlp.*n2 \[label="%2 dot_general .*\\nfloat32\[4, 4\]\\n\[data, -\] \+tensor"\];/s);
    const fill = (node: string): string | undefined =>
      dot.match(new RegExp(`${node} .*fillcolor="(#\\w+)"`))?.[1];
    expect(dot).toContain(
      'n3 [label="%3 all_reduce {kind=sum}\\nfloat32[4, 4]\\nover tensor\\n[data, -]", peripheries=2',
    );
    expect(fill("n3")).toBeDefined();
    expect(fill("n3")).toBe(fill("n5"));
    expect(fill("n4")).not.toBe(fill("n3"));
    expect(fill("n6")).toBeUndefined();
    expect(dot).toContain("n2 -> n3;");
  });
});
