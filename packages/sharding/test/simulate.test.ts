import { buildGraph, type DType, type Graph, input, type Node, ops, type TensorType } from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";
import { type Dims, Mesh, type Partitioned } from "../src/index.js";
import { assemble, divide, runLocal, simulate } from "./simulate.js";

const square = new Mesh({ a: 2, b: 2 });
const wide = new Mesh({ a: 2, b: 4 });

const float = (...shape: number[]): TensorType => ({ dtype: "float32", shape });
const local = (fn: (x: Node) => Node, shape: readonly number[], dtype: DType = "float32"): Graph =>
  buildGraph(() => fn(input([], { index: 0, shape, dtype })));
const range = (count: number, from = 0): number[] => Array.from({ length: count }, (_, i) => i + from);

/** Devices of the mesh, each with its own `[device, device + 0.1, ...]`, through `fn`: what every device has. */
function perDevice(mesh: Mesh, shape: readonly number[], fn: (x: Node) => Node): number[][] {
  const size = shape.reduce((product, length) => product * length, 1);
  const parts = range(mesh.size).map((device) => ({
    dtype: "float32" as const,
    shape,
    data: Float64Array.from(range(size), (i) => device + i / 10),
  }));
  return runLocal(local(fn, shape), mesh, [parts])[0].map(({ data }) => [...data]);
}

describe("divide", () => {
  it("gives each device its block, the major axis first", () => {
    const parts = divide(wide, float(8), [[1, 0]], range(8));
    expect(parts.map(({ data }) => [...data])).toEqual([[0], [2], [4], [6], [1], [3], [5], [7]]);
    const rows = divide(wide, float(2, 4), [[0], [1]], range(8));
    expect(rows.map(({ data }) => [...data])).toEqual(range(8).map((i) => [i]));
  });

  it("pads parts at the end with what is no value", () => {
    const parts = divide(wide, float(5), [[1]], range(5));
    expect(parts.map(({ data }) => [...data])).toEqual(
      [0, 0].flatMap(() => [
        [0, 1],
        [2, 3],
        [4, NaN],
        [NaN, NaN],
      ]),
    );
    const ints = divide(wide, { dtype: "int32", shape: [1] }, [[0]], [7]);
    expect(ints.map(({ data }) => data[0])).toEqual([7, 7, 7, 7, ...range(4).map(() => 1_234_567_891)]);
  });

  it("gives copies as one object", () => {
    const [first, second, third] = divide(square, float(3), [[0]], range(3));
    expect(second).toBe(first);
    expect(third).not.toBe(first);
  });
});

describe("assemble", () => {
  it.each<[string, number[], Dims]>([
    ["even", [4, 8], [[0], [1]]],
    ["two axes in one dim", [13], [[0, 1]]],
    ["the minor first", [13, 3], [[1, 0], []]],
    ["uneven in both", [5, 3], [[1], [0]]],
    ["parts of nothing", [1, 3], [[1], [0]]],
    ["empty", [0, 3], [[0], [1]]],
    ["scalar", [], []],
  ])("undoes divide: %s", (_, shape, dims) => {
    const whole = range(shape.reduce((product, length) => product * length, 1));
    const { data } = assemble(wide, float(...shape), dims, divide(wide, float(...shape), dims, whole));
    expect([...data]).toEqual(whole);
  });

  it("refuses copies that differ, -0 and 0 included, and takes NaN for NaN", () => {
    const parts = [...divide(square, float(2), [[0]], [0, 5])];
    const other = (value: number) => ({ ...parts[0], data: Float64Array.of(value) });
    const type = float(2);
    expect(() => assemble(square, type, [[0]], [parts[0], other(-0), parts[2], parts[3]])).toThrow(
      "element 0 of float32[2] laid out as [a] is 0 on device 0, -0 on its copy, device 1",
    );
    expect(() => assemble(square, type, [[]], parts)).toThrow("device 0 gives float32[1]");
    const nans = [other(NaN), other(NaN), parts[2], parts[3]];
    expect([...assemble(square, type, [[0]], nans).data]).toEqual([NaN, 5]);
  });

  it("does not look at padding", () => {
    const parts = [...divide(square, float(3), [[0]], range(3))];
    const changed = { ...parts[2], data: Float64Array.of(2, 99) };
    expect([...assemble(square, float(3), [[0]], [parts[0], parts[1], parts[2], changed]).data]).toEqual([
      0, 1, 2,
    ]);
  });
});

describe("collectives", () => {
  const on = (mesh: Mesh, axes: number[]) => ({ mesh: [...mesh.sizes], axes });

  it("all_reduce adds in each group", () => {
    expect(perDevice(square, [1], (x) => ops.all_reduce([x], { ...on(square, [0]), kind: "sum" }))).toEqual([
      [2],
      [4],
      [2],
      [4],
    ]);
    expect(perDevice(wide, [1], (x) => ops.all_reduce([x], { ...on(wide, [1]), kind: "prod" }))).toEqual([
      ...range(4).map(() => [0]),
      ...range(4).map(() => [840]),
    ]);
    expect(perDevice(wide, [1], (x) => ops.all_reduce([x], { ...on(wide, [0, 1]), kind: "max" }))).toEqual(
      range(8).map(() => [7]),
    );
    expect(perDevice(wide, [1], (x) => ops.all_reduce([x], { ...on(wide, [0]), kind: "min" }))).toEqual(
      [0, 1, 2, 3, 0, 1, 2, 3].map((value) => [value]),
    );
  });

  it("all_gather joins along a dim, members in the order of the axes", () => {
    const rows = perDevice(square, [2, 1], (x) => ops.all_gather([x], { ...on(square, [1]), dim: 1 }));
    expect(rows).toEqual([
      [0, 1, 0.1, 1.1],
      [0, 1, 0.1, 1.1],
      [2, 3, 2.1, 3.1],
      [2, 3, 2.1, 3.1],
    ]);
    const crossed = perDevice(wide, [1], (x) => ops.all_gather([x], { ...on(wide, [1, 0]), dim: 0 }));
    expect(crossed).toEqual(range(8).map(() => [0, 4, 1, 5, 2, 6, 3, 7]));
  });

  it("reduce_scatter gives member i part i of the sum", () => {
    const parts = perDevice(square, [2], (x) =>
      ops.reduce_scatter([x], { ...on(square, [0]), kind: "sum", dim: 0 }),
    );
    expect(parts).toEqual([[2], [4], [2.2], [4.2]]);
    const columns = perDevice(square, [2, 2], (x) =>
      ops.reduce_scatter([x], { ...on(square, [1]), kind: "max", dim: 1 }),
    );
    expect(columns).toEqual([
      [1, 1.2],
      [1.1, 1.3],
      [3, 3.2],
      [3.1, 3.3],
    ]);
  });

  it("all_to_all sends part i to member i", () => {
    const same = perDevice(square, [2], (x) =>
      ops.all_to_all([x], { ...on(square, [1]), split_dim: 0, concat_dim: 0 }),
    );
    expect(same).toEqual([
      [0, 1],
      [0.1, 1.1],
      [2, 3],
      [2.1, 3.1],
    ]);
    // [2, 1] → [1, 2]: rows for columns.
    const turned = perDevice(square, [2, 1], (x) =>
      ops.all_to_all([x], { ...on(square, [0]), split_dim: 0, concat_dim: 1 }),
    );
    expect(turned).toEqual([
      [0, 2],
      [1, 3],
      [0.1, 2.1],
      [1.1, 3.1],
    ]);
    const of4 = perDevice(wide, [4], (x) =>
      ops.all_to_all([x], { ...on(wide, [1]), split_dim: 0, concat_dim: 0 }),
    );
    expect(of4[5]).toEqual([4.1, 5.1, 6.1, 7.1]);
  });

  it("collective_permute moves between members; who is no target gets zeros", () => {
    const ring = perDevice(wide, [1], (x) =>
      ops.collective_permute([x], { ...on(wide, [1]), pairs: [0, 1, 1, 2, 2, 3, 3, 0] }),
    );
    expect(ring.flat()).toEqual([3, 0, 1, 2, 7, 4, 5, 6]);
    const one = perDevice(square, [1], (x) =>
      ops.collective_permute([x], { ...on(square, [0]), pairs: [1, 0] }),
    );
    expect(one.flat()).toEqual([2, 3, 0, 0]);
  });

  it("shard_slice takes this device's part, zeros past the end", () => {
    const graph = local((x) => ops.shard_slice([x], { ...on(wide, [1]), dim: 0, size: 2 }), [5]);
    const [parts] = runLocal(graph, wide, [divide(wide, float(5), [[]], range(5, 1))]);
    expect(parts.map(({ data }) => [...data])).toEqual(
      [0, 0].flatMap(() => [
        [1, 2],
        [3, 4],
        [5, 0],
        [0, 0],
      ]),
    );
  });

  it("axis_index numbers a group", () => {
    const index = (axes: number[]): number[] => {
      const graph = buildGraph(() => ops.axis_index([], on(wide, axes)));
      return runLocal(graph, wide, [])[0].map(({ data }) => data[0]);
    };
    expect(index([0])).toEqual([0, 0, 0, 0, 1, 1, 1, 1]);
    expect(index([1])).toEqual([0, 1, 2, 3, 0, 1, 2, 3]);
    expect(index([1, 0])).toEqual([0, 2, 4, 6, 1, 3, 5, 7]);
    expect(index([])).toEqual(range(8).map(() => 0));
  });

  it("are refused on another mesh", () => {
    expect(() =>
      perDevice(square, [1], (x) => ops.all_reduce([x], { ...on(wide, [0]), kind: "sum" })),
    ).toThrow("all_reduce is for a mesh of sizes [2,4], this one is Mesh(a=2, b=2)");
  });
});

describe("simulate", () => {
  /** x [m, k] · y [k, n], k divided over `b` of unequal parts: `mask` says whether padding is put to 0 first. */
  function product(mask: boolean): () => number[] {
    const [m, k, n] = [3, 5, 2];
    const ends = { inputs: [float(m, k), float(k, n)], outputs: [float(m, n)] };
    const inputs: Dims[] = [
      [[0], [1]],
      [[1], []],
    ];
    const outputs: Dims[] = [[[0], []]];
    const on = { mesh: [...square.sizes], axes: [1] };
    const valid = (x: Node, dim: number): Node => {
      if (!mask) return x;
      const start = ops.mul([
        ops.axis_index([], on),
        ops.full([], { value: x.shape[dim], shape: [], dtype: "int32" }),
      ]);
      const at = ops.add([ops.iota([], { dim, shape: x.shape, dtype: "int32" }), start]);
      const inside = ops.lt([at, ops.full([], { value: k, shape: [], dtype: "int32" })]);
      return ops.where([inside, x, ops.full([], { value: 0, shape: [], dtype: "float32" })]);
    };
    const graph = buildGraph(() => {
      const x = input([], { index: 0, shape: [2, 3], dtype: "float32" });
      const y = input([], { index: 1, shape: [3, 2], dtype: "float32" });
      const partial = ops.dot_general([valid(x, 1), valid(y, 0)], {
        lhs_contract: [1],
        rhs_contract: [0],
        lhs_batch: [],
        rhs_batch: [],
      });
      return ops.all_reduce([partial], { ...on, kind: "sum" });
    });
    const partitioned: Partitioned = { graph, outputs };
    const request = { mesh: square, inputs, outputs };
    return () => [...simulate(partitioned, request, ends, [range(m * k), range(k * n)])[0].data];
  }

  it("puts outputs together, garbage in the padding or not", () => {
    const expected = range(3).flatMap((row) =>
      range(2).map((column) => range(5).reduce((sum, k) => sum + (row * 5 + k) * (k * 2 + column), 0)),
    );
    expect(product(true)()).toEqual(expected);
  });

  it("shows a mask that is missing", () => {
    expect(product(false)()).toEqual(range(6).map(() => NaN));
  });

  it("shows a sum that is missing, inputs of another shape and outputs laid out otherwise than asked", () => {
    const ends = { inputs: [float(4)], outputs: [float()] };
    const graph = local((x) => ops.sum([x], { dims: [0], keepdim: false }), [2]);
    const request = { mesh: square, inputs: [[[0]]], outputs: [null] };
    expect(() => simulate({ graph, outputs: [[]] }, request, ends, [range(4)])).toThrow(
      "element 0 of float32[] laid out as [] is 1 on device 0, 5 on its copy, device 2",
    );
    expect(() =>
      simulate({ graph, outputs: [[]] }, { ...request, inputs: [[[]]] }, ends, [range(4)]),
    ).toThrow("input gives float32[4] of 4 elements on device 0, its type is float32[2]");
    const same = { inputs: [float(4)], outputs: [float(4)] };
    const copy = local((x) => x, [2]);
    expect(() =>
      simulate({ graph: copy, outputs: [[[0]]] }, { ...request, outputs: [[[1]]] }, same, [range(4)]),
    ).toThrow("output 0 is laid out as [a], asked for was [b]");
  });
});
