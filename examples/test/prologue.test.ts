import {
  autocast,
  type CompileEvent,
  configure,
  type DType,
  type Engine,
  F,
  manualSeed,
  noGrad,
  optim,
  sync,
  tensor,
} from "@lazuli/lazy-tensor";
import { afterEach, describe, expect, it, vi } from "vitest";
import { configSchema } from "../llama/config.js";
import { Llama } from "../llama/model.js";
import { parseMesh, parseStrategies, shardLlama } from "../llama/sharding.js";

// A norm makes its rows for the products that read them, its gradient adds the one that came around it, and no number
// changes. Rows are as many as products that this project makes itself need for each of two threads.
process.env.LAZULI_THREADS = "2";

vi.setConfig({ testTimeout: 60_000 });

const config = configSchema.parse({
  vocab_size: 96,
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
});
const BATCH = 8;
const SEQ = 40;
const tokens = (step: number) =>
  tensor(
    Int32Array.from({ length: BATCH * (SEQ + 1) }, (_, k) => (k * 7 + step * 31 + k * k) % config.vocab_size),
    { shape: [BATCH, SEQ + 1] },
  );

let engine: Engine | null = null;
function open(fuses: boolean, virtualDevices = 1): CompileEvent[] {
  process.env.LAZULI_FUSE_NORM = fuses ? "1" : "0";
  engine = configure({ device: "cpu", virtualDevices });
  const compiles: CompileEvent[] = [];
  engine.events.compile$.subscribe((event) => compiles.push(event));
  manualSeed(5);
  return compiles;
}
afterEach(() => {
  delete process.env.LAZULI_FUSE_NORM;
  engine?.device.close();
});

/** Kernels whose labels are so, each with how often. */
function countKernels(compiles: readonly CompileEvent[], labels: RegExp): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { label } of compiles.flatMap(({ info }) => info.kernels))
    if (labels.test(label)) counts[label] = (counts[label] ?? 0) + 1;
  return counts;
}
const NORMS = /^rms_norm /;
const GRADIENTS = /^rms_norm_grad |: out0 = add\(in0, in1\)/;

const under = <T>(dtype: DType, run: () => T): T =>
  dtype === "float32" ? run() : autocast(dtype as "bfloat16", run);

async function logits(dtype: DType, fuses: boolean) {
  const compiles = open(fuses);
  const model = new Llama(config);
  const ids = tokens(0);
  const out = under(dtype, () => noGrad(() => model.forward(ids)));
  const values = await out.to("float32").data();
  return { values, kernels: countKernels(compiles, NORMS) };
}

/** Losses of three steps. */
async function losses(dtype: DType, fuses: boolean, mesh = "", strategy = "none") {
  const grid = mesh ? parseMesh(mesh) : null;
  const compiles = open(fuses, grid?.size);
  const model = new Llama(config);
  const place = grid
    ? shardLlama(model, grid, parseStrategies(strategy, grid))
    : (x: ReturnType<typeof tokens>) => x;
  const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-3 });
  const values: number[] = [];
  for (let step = 0; step < 3; step++) {
    const ids = place(tokens(step));
    const loss = under(dtype, () => F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1)));
    loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
    await sync();
    values.push(await loss.item());
  }
  return {
    values,
    kernels: countKernels(compiles, NORMS),
    gradients: countKernels(compiles, GRADIENTS),
  };
}

describe("a norm and the products of its rows", () => {
  it.each(["float32", "bfloat16", "float16"] as const)(
    "are one kernel in a forward pass of %s",
    async (dtype) => {
      const fused = await logits(dtype, true);
      const apart = await logits(dtype, false);
      expect(fused.values).toEqual(apart.values);
      const as = dtype === "float32" ? "float32" : `float32 as ${dtype}`;
      expect(fused.kernels).toEqual({
        [`rms_norm + matmul ${as} 328x64 * 64x64, 64x32, 64x32`]: 2,
        [`rms_norm + matmul ${as} 328x64 * 64x160 silu, 64x160`]: 2,
        [`rms_norm + matmul ${as} 328x64 * 64x96`]: 1,
      });
      expect(apart.kernels).toEqual({ "rms_norm float32 [8, 41, 64]": 5 });
    },
  );

  it.each(["float32", "bfloat16"] as const)("are one kernel in training in %s", async (dtype) => {
    const fused = await losses(dtype, true);
    const apart = await losses(dtype, false);
    expect(fused.values).toEqual(apart.values);
    const as = dtype === "float32" ? "float32" : `float32 as ${dtype}`;
    expect(fused.kernels).toMatchObject({
      [`rms_norm + matmul ${as} 320x64 * 64x64, 64x32, 64x32`]: 2,
      [`rms_norm + matmul ${as} 320x64 * 64x160, 64x160`]: 2,
    });
    expect(apart.kernels).toEqual({ "rms_norm float32 [8, 40, 64]": 5 });
  });

  it.each([
    ["data=2", "ddp", "160x64 * 64x64, 64x32, 64x32"],
    ["fsdp=2", "fsdp", "160x64 * 64x64, 64x32, 64x32"],
    ["tensor=2", "tp", "320x64 * 64x32, 64x16, 64x16"],
  ])("are one kernel on each device of %s by %s", async (mesh, strategy, products) => {
    const fused = await losses("float32", true, mesh, strategy);
    const apart = await losses("float32", false, mesh, strategy);
    expect(fused.values).toEqual(apart.values);
    expect(fused.kernels[`rms_norm + matmul float32 ${products}`]).toBe(2);
    expect(apart.kernels[`rms_norm + matmul float32 ${products}`]).toBeUndefined();
  });
});

describe("the gradient of a norm", () => {
  it("adds the one that came around the norm", async () => {
    const fused = await losses("float32", true);
    const apart = await losses("float32", false);
    expect(fused.values).toEqual(apart.values);
    expect(fused.gradients).toEqual({
      "rms_norm_grad float32 [8, 40, 64]": 1,
      "rms_norm_grad float32 [8, 40, 64] + residual": 4,
    });
    expect(apart.gradients).toEqual({
      "rms_norm_grad float32 [8, 40, 64]": 5,
      "fused float32 8x40x64: out0 = add(in0, in1)": 4,
    });
  });

  it.each(["bfloat16", "float16"] as const)("gives the sum in %s too, for the products", async (dtype) => {
    const fused = await losses(dtype, true);
    const apart = await losses(dtype, false);
    expect(fused.values).toEqual(apart.values);
    expect(fused.gradients).toMatchObject({
      "rms_norm_grad float32 [8, 40, 64]": 1,
      // That of the first norm is no product's.
      "rms_norm_grad float32 [8, 40, 64] + residual": 1,
      [`rms_norm_grad float32 [8, 40, 64] + residual as ${dtype}`]: 3,
    });
    expect(apart.gradients["rms_norm_grad float32 [8, 40, 64]"]).toBe(5);
  });

  it.each([
    ["data=2", "ddp", "4, 40", 4],
    ["fsdp=2", "fsdp", "4, 40", 4],
    // The first norm's is read by one kernel, which hides the tokens of other devices' rows and adds too.
    ["tensor=2", "tp", "8, 40", 3],
  ])("does on each device of %s by %s", async (mesh, strategy, rows, count) => {
    const fused = await losses("float32", true, mesh, strategy);
    const apart = await losses("float32", false, mesh, strategy);
    expect(fused.values).toEqual(apart.values);
    expect(fused.gradients[`rms_norm_grad float32 [${rows}, 64] + residual`]).toBe(count);
    expect(apart.gradients[`rms_norm_grad float32 [${rows}, 64] + residual`]).toBeUndefined();
  });
});
