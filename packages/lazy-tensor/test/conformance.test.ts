import { type NativeDevice, openDevice } from "@lazuli/cuda-backend";
import { buildGraph, input, type Node, ops, type Shape } from "@lazuli/fx-trace";
import { beforeAll, describe, expect, it } from "vitest";
import { conformance, everyKernel, runGraph, runSample } from "./conformance.harness.js";
import { encodeNumbers } from "./ops.samples.data.js";
import { samples } from "./ops.samples.js";

conformance("cpu", { device: "cpu", supports: everyKernel });

describe("numbers drawn on cpu", () => {
  let device: NativeDevice;
  beforeAll(() => {
    device = openDevice("cpu");
  });

  const draw = async (op: "random_uniform" | "random_normal" | "bernoulli"): Promise<Float64Array> => {
    const many = samples[op].find(({ name }) => name === "many");
    if (!many) throw new Error(`${op} has no sample "many"`);
    const { outputs } = await runSample(device, op, many, everyKernel);
    return outputs.get("out0")?.data as Float64Array;
  };
  const momentsOf = (data: Float64Array): { mean: number; variance: number; neighbours: number } => {
    const mean = data.reduce((sum, x) => sum + x, 0) / data.length;
    let variance = 0;
    let neighbours = 0;
    data.forEach((x, i) => {
      variance += (x - mean) ** 2 / data.length;
      neighbours += ((x - mean) * (data[(i + 1) % data.length] - mean)) / data.length;
    });
    return { mean, variance, neighbours };
  };

  // 65792 draws: bounds are five standard errors.
  it("are uniform on [0, 1)", async () => {
    const data = await draw("random_uniform");
    const { mean, variance, neighbours } = momentsOf(data);
    expect(Math.abs(mean - 1 / 2)).toBeLessThan(5 * Math.sqrt(1 / 12 / data.length));
    expect(Math.abs(variance - 1 / 12)).toBeLessThan(5 * Math.sqrt(1 / 180 / data.length));
    expect(Math.abs(neighbours)).toBeLessThan((5 / 12) * Math.sqrt(1 / data.length));
    expect(Math.min(...data)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...data)).toBeLessThan(1);
  });

  it("are normal", async () => {
    const data = await draw("random_normal");
    const { mean, variance, neighbours } = momentsOf(data);
    const fourth = data.reduce((sum, x) => sum + x ** 4, 0) / data.length;
    expect(Math.abs(mean)).toBeLessThan(5 / Math.sqrt(data.length));
    expect(Math.abs(variance - 1)).toBeLessThan(5 * Math.sqrt(2 / data.length));
    expect(Math.abs(neighbours)).toBeLessThan(5 / Math.sqrt(data.length));
    expect(Math.abs(fourth - 3)).toBeLessThan(5 * Math.sqrt(96 / data.length));
  });

  it("are true as often as asked", async () => {
    const { mean } = momentsOf(await draw("bernoulli"));
    expect(Math.abs(mean - 0.3)).toBeLessThan(5 * Math.sqrt((0.3 * 0.7) / 65792));
  });
});

describe("an index out of range on cpu", () => {
  let device: NativeDevice;
  beforeAll(() => {
    device = openDevice("cpu");
  });

  const floats = (shape: Shape): Node => ops.full([], { value: 1, shape, dtype: "float32" });
  const cases: Record<string, { shape: Shape; index: number[]; bad: number; build: (index: Node) => Node }> =
    {
      index_select: {
        shape: [3],
        index: [0, 5, 1],
        bad: 5,
        build: (index) => ops.index_select([floats([5, 4]), index], { dim: 0 }),
      },
      index_add: {
        shape: [3],
        index: [0, -1, 1],
        bad: -1,
        build: (index) => ops.index_add([floats([5, 4]), index, floats([3, 4])], { dim: 0 }),
      },
      gather: {
        shape: [2, 2],
        index: [0, 1, 7, 0],
        bad: 7,
        build: (index) => ops.gather([floats([2, 4]), index], { dim: 1 }),
      },
      scatter_add: {
        shape: [2, 2],
        index: [0, 1, -9, 0],
        bad: -9,
        build: (index) => ops.scatter_add([floats([2, 4]), index, floats([2, 2])], { dim: 1 }),
      },
      cross_entropy: {
        shape: [2],
        index: [0, 33],
        bad: 33,
        build: (index) =>
          ops.result(
            [ops.cross_entropy([floats([2, 33]), index], { ignore_index: -100, label_smoothing: 0 })],
            { index: 0 },
          ),
      },
    };

  it.each(Object.entries(cases))(
    "fails the run of %s and names the index",
    async (op, { shape, index, bad, build }) => {
      for (const dtype of ["int32", "int64"] as const) {
        const graph = buildGraph(() => build(input([], { index: 0, shape, dtype })));
        const bytes = encodeNumbers(Float64Array.from(index), dtype);
        const run = runGraph(device, graph, [{ shape, dtype, bytes }], everyKernel);
        await expect(run, op).rejects.toThrow(String(bad));
      }
    },
  );
});
