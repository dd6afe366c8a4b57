import { describe, expect, it } from "vitest";
import { buildGraph, gradients, input, type Node, ops } from "../src/index.js";

const mesh = [2, 2];
const part = (x: Node, ...axes: number[]): Node =>
  ops.full_to_shard([x], { mesh, dims: [axes.length, ...axes] });
const given = (index: number): Node => {
  const x = input([], { index, shape: [4], dtype: "float32" });
  x.requiresGrad = true;
  return x;
};
const one = (x: Node): Node => ops.full([], { value: 1, shape: x.shape, dtype: x.dtype });
/** Ops that the gradients of y for the inputs are made of. */
function recorded(fn: (x: Node, w: Node) => Node): string[] {
  const graph = buildGraph(() => {
    const [x, w] = [given(0), given(1)];
    const y = fn(x, w);
    return gradients([y], [one(y)], [x, w]).filter((grad) => grad !== null);
  });
  return graph.nodes
    .map(({ op }) => op.name)
    .filter((name) => name.startsWith("all_") || name.startsWith("reduce"));
}

describe("cotangents of parts", () => {
  it("know the axes along which parts differ", () => {
    const x = part(given(0), 0);
    expect(x.part?.varying).toEqual([0]);
    expect(x.shape).toEqual([2]);
    expect(ops.mul([x, ops.all_reduce([x], { mesh, axes: [0], kind: "sum" })]).part?.varying).toEqual([0]);
    expect(ops.all_reduce([x], { mesh, axes: [0], kind: "sum" }).part?.varying).toEqual([]);
    expect(ops.reduce_scatter([x], { mesh, axes: [1], kind: "sum", dim: 0 }).part?.varying).toEqual([0, 1]);
    expect(ops.axis_index([], { mesh, axes: [1] }).part?.varying).toEqual([1]);
    expect(ops.shard_to_full([x], { mesh, dims: [1, 0] }).part).toBeNull();
  });

  it("are summed where a shared value is read with one that differs, once for all such readers", () => {
    const twice = recorded((x, w) => {
      const [own, shared] = [part(x, 0), part(w)];
      const read = ops.add([ops.mul([ops.concat([own, own], { dim: 0 }), shared]), shared]);
      return ops.shard_to_full([read], { mesh, dims: [1, 0] });
    });
    expect(twice).toEqual(["all_reduce"]);
  });

  it("of a gathered value are scattered, or cut where all have the whole", () => {
    const gather = (x: Node): Node => ops.all_gather([part(x, 0)], { mesh, axes: [0], dim: 0 });
    expect(recorded((x) => ops.shard_to_full([gather(x)], { mesh, dims: [0] }))).toEqual(["all_gather"]);
    const scattered = recorded((x, w) => {
      const own = part(w, 0);
      const product = ops.mul([gather(x), ops.concat([own, own], { dim: 0 })]);
      return ops.shard_to_full([product], { mesh, dims: [1, 0] });
    });
    expect(scattered).toEqual(["all_gather", "reduce_scatter"]);
  });

  it("refuse a value that is no part", () => {
    expect(() =>
      recorded((x, w) => {
        const product = ops.mul([part(x), w]);
        return ops.shard_to_full([product], { mesh, dims: [0] });
      }),
    ).toThrow("[mul] an op on parts reads a value of the whole mesh that needs a gradient");
  });
});
