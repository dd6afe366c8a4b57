import { atScope, buildGraph, type Graph, input, type Node, ops, sum } from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";
import { type CollectiveRow, explainSharding, formatExplanation, Mesh } from "../src/index.js";

const mesh = new Mesh({ data: 2, tensor: 4 });
const on = (...axes: number[]) => ({ mesh: [...mesh.sizes], axes });
const values = (...shapes: number[][]): Node[] =>
  shapes.map((shape, index) => input([], { index, shape, dtype: "float32" }));
const matmul = (a: Node, b: Node): Node =>
  ops.dot_general([a, b], { lhs_contract: [1], rhs_contract: [0], lhs_batch: [], rhs_batch: [] });
const explained = (fn: () => Node | Node[]): CollectiveRow[] => explainSharding(buildGraph(fn), mesh);

/** A layer whose weight is gathered, whose partial sums are added and whose weight's gradient is scattered. */
function step(): Graph {
  return buildGraph(() => {
    const [x, w, m, v, lr, t] = values([8, 16], [8, 32], [8, 32], [8, 32], [], []);
    const whole = atScope("mlp", () => ops.all_gather([w], { ...on(0), dim: 0 }));
    const y = atScope("mlp", () => ops.all_reduce([matmul(x, whole)], { ...on(1), kind: "sum" }));
    const dw = atScope("mlp", () =>
      ops.dot_general([x, y], { lhs_contract: [0], rhs_contract: [0], lhs_batch: [], rhs_batch: [] }),
    );
    const g = atScope("mlp", () => ops.reduce_scatter([dw], { ...on(0), kind: "sum", dim: 0 }));
    const scaled = ops.mul([g, ops.full([], { value: 0.5, shape: [], dtype: "float32" })]);
    const updated = ops.adamw_update([w, scaled, m, v, lr, t], {
      beta1: 0.9,
      beta2: 0.999,
      eps: 1e-8,
      weight_decay: 0,
      decoupled: true,
    });
    return [ops.result([updated], { index: 0 }), y];
  });
}

describe("explainSharding", () => {
  it("says what is sent and why, most bytes first", () => {
    expect(explainSharding(step(), mesh)).toEqual([
      {
        op: "all_reduce",
        axes: ["tensor"],
        bytes: 2 * (3 / 4) * 8 * 32 * 4,
        times: 1,
        isAsync: false,
        hiddenFlops: 0,
        scope: "mlp",
        type: "float32[8, 32]",
        why: "partial sums of dot_general in mlp",
      },
      {
        op: "all_gather",
        axes: ["data"],
        bytes: 8 * 32 * 4,
        times: 1,
        isAsync: false,
        hiddenFlops: 0,
        scope: "mlp",
        type: "float32[8, 32]",
        why: "input 1 for dot_general in mlp",
      },
      {
        op: "reduce_scatter",
        axes: ["data"],
        bytes: (1 / 2) * 16 * 32 * 4,
        times: 1,
        isAsync: false,
        hiddenFlops: 0,
        scope: "mlp",
        type: "float32[16, 32]",
        why: "gradient: partial sums of dot_general in mlp",
      },
    ]);
  });

  it("counts the bytes of every collective; slices and indices send nothing", () => {
    const rows = explained(() => {
      const [x] = values([8, 4]);
      return [
        ops.all_to_all([x], { ...on(1), split_dim: 0, concat_dim: 1 }),
        ops.collective_permute([x], { ...on(1), pairs: [0, 1, 1, 0] }),
        ops.collective_permute([x], { ...on(0), pairs: [0, 0, 1, 1] }),
        ops.all_gather([x], { ...on(0, 1), dim: 0 }),
        ops.all_reduce([x], { ...on(), kind: "sum" }),
        ops.shard_slice([x], { ...on(0), dim: 0, size: 4 }),
        ops.axis_index([], on(0)),
      ];
    });
    expect(rows.map(({ op, axes, bytes }) => [op, axes.join(" "), bytes])).toEqual([
      ["all_gather", "data tensor", 7 * 128],
      ["collective_permute", "tensor", 128],
      ["all_to_all", "tensor", (3 / 4) * 128],
      ["collective_permute", "data", 0],
      ["all_reduce", "", 0],
    ]);
  });

  it("leaves out what no output needs", () => {
    const rows = explained(() => {
      const [x] = values([8]);
      ops.all_gather([x], { ...on(0), dim: 0 });
      return x;
    });
    expect(rows).toEqual([]);
  });

  it("merges what is the same at one place", () => {
    const rows = explained(() => {
      const [x, y] = values([8], [8]);
      const added = (node: Node): Node => ops.all_reduce([sum(node)], { ...on(1), kind: "sum" });
      return atScope("loss", () => [added(x), added(y), added(ops.exp([x]))]);
    });
    expect(rows).toEqual([
      {
        op: "all_reduce",
        axes: ["tensor"],
        bytes: 3 * 2 * (3 / 4) * 4,
        times: 3,
        isAsync: false,
        hiddenFlops: 0,
        scope: "loss",
        type: "float32[]",
        why: "partial sums of sum in loss",
      },
    ]);
  });

  it("looks behind masks, casts and views for who made a value and who reads it", () => {
    const rows = explained(() => {
      const [x, w, cond] = values([8, 4], [8, 4], [8, 1]);
      const isPositive = ops.gt([cond, ops.full([], { value: 0, shape: [], dtype: "float32" })]);
      const product = atScope("head", () =>
        ops.dot_general([x, w], { lhs_contract: [1], rhs_contract: [1], lhs_batch: [], rhs_batch: [] }),
      );
      const masked = ops.where([
        isPositive,
        product,
        ops.full([], { value: 0, shape: [], dtype: "float32" }),
      ]);
      const largest = ops.all_reduce([masked], { ...on(1), kind: "max" });
      const gathered = ops.all_gather([ops.exp([x])], { ...on(1), dim: 1 });
      const narrowed = ops.slice([gathered], { starts: [0, 0], limits: [8, 15], steps: [1, 1] });
      const read = atScope("loss", () => ops.softmax([narrowed]));
      return [largest, read, ops.all_to_all([largest], { ...on(1), split_dim: 0, concat_dim: 1 })];
    });
    expect(rows.map(({ op, why }) => [op, why])).toEqual([
      ["all_reduce", "partial maxima of dot_general in head"],
      ["all_gather", "layout of softmax in loss"],
      ["all_to_all", "layout of output 2"],
    ]);
  });
});

describe("formatExplanation", () => {
  it("is a table with totals by axis", () => {
    expect(formatExplanation(explainSharding(step(), mesh), mesh)).toBe(
      `  bytes  times  op              axes    operand          scope  why
1.54 kB      1  all_reduce      tensor  float32[8, 32]   mlp    partial sums of dot_general in mlp
1.02 kB      1  all_gather      data    float32[8, 32]   mlp    input 1 for dot_general in mlp
1.02 kB      1  reduce_scatter  data    float32[16, 32]  mlp    gradient: partial sums of dot_general in mlp

Mesh(data=2, tensor=4): a device sends 3.58 kB a run: data 2.05 kB, tensor 1.54 kB
`,
    );
  });

  it("says what a collective that is started early hides behind", () => {
    const graph = buildGraph(() => {
      const [x, w] = values([8, 4], [4, 16]);
      const sums = [x, ops.exp([x])].map((each) => ops.all_reduce([each], { ...on(1), kind: "sum" }));
      const product = ops.dot_general([x, w], {
        lhs_contract: [1],
        rhs_contract: [0],
        lhs_batch: [],
        rhs_batch: [],
      });
      return [ops.neg([ops.collective_done([sums[0], x], { bucket: -1 })]), sums[1], product];
    });
    const rows = explainSharding(graph, mesh);
    expect(rows.map(({ isAsync, hiddenFlops, why }) => [isAsync, hiddenFlops, why])).toEqual([
      [true, 2 * 8 * 4 * 16, "partial sums of input"],
      [false, 0, "partial sums of input"],
    ]);
    expect(formatExplanation(rows, mesh)).toBe(
      `bytes  times  op          axes    operand        hidden behind  scope  why
192 B      1  all_reduce  tensor  float32[8, 4]     1.02 kFLOP  -      partial sums of input
192 B      1  all_reduce  tensor  float32[8, 4]              -  -      partial sums of input

Mesh(data=2, tensor=4): a device sends 384 B a run: tensor 384 B
`,
    );
  });

  it("says where nothing is sent", () => {
    expect(formatExplanation([], mesh)).toBe("Mesh(data=2, tensor=4): no communication\n");
  });
});
