import { type NativeDevice, openDevice } from "@lazuli/cuda-backend";
import { beforeAll, describe, expect, it } from "vitest";
import { outOfRange } from "./conformance.faults.js";
import { conformance, everyKernel, runSample } from "./conformance.harness.js";
import { samples } from "./ops.samples.js";

conformance("cpu", { device: "cpu", supports: everyKernel });
outOfRange("cpu");

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
