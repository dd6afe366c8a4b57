import {
  autocast,
  type CompileEvent,
  checkpoint,
  compile,
  configure,
  type DType,
  type Engine,
  F,
  MemoryBudgetError,
  manualSeed,
  optim,
  type RuntimeOptions,
  sync,
  type Tensor,
  tensor,
} from "@lazuli/lazy-tensor";
import { afterEach, describe, expect, it } from "vitest";
import { configSchema } from "../llama/config.js";
import { Llama } from "../llama/model.js";
import { parseMesh, parseStrategies, shardLlama } from "../llama/sharding.js";

// A step of a small Llama within a budget of memory: what the device plans, and that every number stays what it was.

const config = configSchema.parse({
  vocab_size: 160,
  hidden_size: 64,
  intermediate_size: 176,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
});
const BATCH = 8;
const SEQ = 64;
const STEPS = 3;

let engine: Engine | null = null;
afterEach(() => {
  engine?.device.close();
  engine = null;
});

interface Run {
  readonly losses: number[];
  readonly weights: Float32Array[];
  /** Of the step's program. */
  readonly step: CompileEvent;
  readonly compiles: number;
}

interface How {
  readonly mesh?: string;
  readonly strategy?: string;
  readonly compiled?: boolean;
  readonly checkpointed?: boolean;
  readonly dtype?: DType;
  readonly precision?: "bfloat16" | "float16";
}

async function train(
  options: RuntimeOptions,
  { mesh: axes, strategy = "none", compiled = false, checkpointed = false, dtype, precision }: How = {},
): Promise<Run> {
  engine?.device.close();
  const mesh = axes ? parseMesh(axes) : null;
  engine = configure({ device: "cpu", virtualDevices: mesh?.size ?? 1, verifyPasses: true, ...options });
  const compiles: CompileEvent[] = [];
  engine.events.compile$.subscribe((event) => compiles.push(event));
  manualSeed(5);
  const model = new Llama(config, dtype);
  if (checkpointed) {
    const [layer] = model.model.layers;
    const { forward } = layer;
    layer.forward = (x, rotary) => checkpoint((h: Tensor) => forward.call(layer, h, rotary))(x);
  }
  const place = mesh ? shardLlama(model, mesh, parseStrategies(strategy, mesh)) : (x: Tensor): Tensor => x;
  const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-2, weightDecay: 0.1 });
  const learn = (ids: Tensor): Tensor => {
    const forward = (): Tensor => F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1));
    const loss = precision ? autocast(precision, forward) : forward();
    loss.backward();
    optim.clipGradNorm(model.parameters(), 1);
    optimizer.step();
    optimizer.zeroGrad();
    return loss;
  };
  const step = compiled ? compile(learn) : learn;
  const losses: number[] = [];
  for (let i = 0; i < STEPS; i++) {
    const words = Int32Array.from({ length: BATCH * (SEQ + 1) }, (_, k) => (k * 7 + i * 31 + k * k) % 160);
    const loss = step(place(tensor(words, { shape: [BATCH, SEQ + 1] })));
    await sync();
    losses.push(await loss.item());
  }
  const weights = await Promise.all(
    model.parameters().map(async (each) => (await each.data()) as Float32Array),
  );
  const largest = compiles.reduce((a, b) => (b.info.kernels.length > a.info.kernels.length ? b : a));
  return { losses, weights, step: largest, compiles: compiles.length };
}

const auto = (memoryBudgetBytes: number): RuntimeOptions => ({ remat: "auto", memoryBudgetBytes });
/** Of products and attention. */
const flopsOf = ({ info }: CompileEvent): number =>
  info.kernels
    .filter(({ label }) => /^(matmul|attention|rms_norm \+ matmul)/.test(label))
    .reduce((sum, { flops }) => sum + flops, 0);

function expectSame(run: Run, plain: Run): void {
  expect(run.losses).toEqual(plain.losses);
  for (const [i, weight] of run.weights.entries()) expect(weight).toEqual(plain.weights[i]);
}

describe('remat: "auto"', () => {
  it("keeps the planned arena within the budget, every bit as it was, for the time of what is computed again", {
    timeout: 60_000,
  }, async () => {
    const plain = await train({});
    expect(plain.step.remat).toBeNull();
    const { arenaBytes } = plain.step.info;
    let recomputed = 0;
    for (const share of [0.9, 0.75, 0.6, 0.5]) {
      const budget = Math.floor(arenaBytes * share);
      const run = await train(auto(budget));
      expectSame(run, plain);
      const { info, remat } = run.step;
      expect(info.arenaBytes).toBeLessThanOrEqual(budget);
      expect(info.outputBytes).toBe(plain.step.info.outputBytes);
      expect(remat?.withoutBytes).toBe(arenaBytes);
      expect(remat?.recomputed).toBeGreaterThan(recomputed);
      recomputed = remat?.recomputed as number;
      const more = flopsOf(run.step) - flopsOf(plain.step);
      expect(more / flopsOf(plain.step)).toBeCloseTo((remat?.flops as number) / flopsOf(plain.step), 2);
      // At most one forward more, which is a third.
      expect(more).toBeLessThan(flopsOf(plain.step) / 3);
      expect(run.compiles).toBe(plain.compiles);
    }
  });

  it("computes nothing again where the budget is large enough", { timeout: 60_000 }, async () => {
    const { step } = await train({});
    const run = await train(auto(step.info.arenaBytes));
    expect(run.step.remat).toBeNull();
    expect(run.step.info.kernels).toEqual(step.info.kernels);
  });

  it("refuses a budget that cannot be met with the smallest that can", { timeout: 60_000 }, async () => {
    const plain = await train({});
    const error = await train(auto(1000)).then(
      () => null,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(MemoryBudgetError);
    const { budgetBytes, smallestBytes, withoutBytes, message } = error as MemoryBudgetError;
    expect(budgetBytes).toBe(1000);
    expect(withoutBytes).toBe(plain.step.info.arenaBytes);
    expect(message).toContain(`at least ${smallestBytes}`);
    const least = await train(auto(smallestBytes));
    expect(least.step.info.arenaBytes).toBe(smallestBytes);
    expectSame(least, plain);
    await expect(train(auto(smallestBytes - 1))).rejects.toThrow(MemoryBudgetError);
  });

  it.each<How>([
    { dtype: "bfloat16" },
    { dtype: "float16" },
    { precision: "bfloat16" },
    { precision: "float16" },
  ])("rounds as before with %o, whose kernels do not round in between", { timeout: 60_000 }, async (how) => {
    const plain = await train({}, how);
    for (const share of [0.85, 0.7, 0.55]) {
      const budget = Math.floor(plain.step.info.arenaBytes * share);
      const run = await train(auto(budget), how);
      expectSame(run, plain);
      expect(run.step.info.arenaBytes).toBeLessThanOrEqual(budget);
    }
  });

  it("works with compiled steps and beside checkpoints", { timeout: 60_000 }, async () => {
    const plain = await train({}, { compiled: true });
    const budget = Math.floor(plain.step.info.arenaBytes * 0.6);
    const compiled = await train(auto(budget), { compiled: true });
    expectSame(compiled, plain);
    expect(compiled.step.info.arenaBytes).toBeLessThanOrEqual(budget);
    const checkpointed = await train({}, { checkpointed: true });
    const both = await train(auto(budget), { checkpointed: true });
    expectSame(both, checkpointed);
    expect(both.step.info.arenaBytes).toBeLessThanOrEqual(budget);
  });

  it.each([
    ["data=2", "ddp"],
    ["fsdp=2", "fsdp"],
    ["tensor=2", "tp"],
    ["tensor=2", "tp+sp"],
  ])("works over %s with %s, the budget being each device's", { timeout: 60_000 }, async (mesh, strategy) => {
    const plain = await train({}, { mesh, strategy });
    const budget = Math.floor(plain.step.info.arenaBytes * 0.75);
    const run = await train(auto(budget), { mesh, strategy });
    expectSame(run, plain);
    expect(run.step.info.arenaBytes).toBeLessThanOrEqual(budget);
    const transfers = ({ graph }: CompileEvent): number =>
      graph.nodes.filter(({ op }) => /^(all_|reduce_)/.test(op.name)).length;
    expect(transfers(run.step)).toBe(transfers(plain.step));
  });

  it("meets the device's own limit where the program as it is would not", { timeout: 60_000 }, async () => {
    const plain = await train({});
    const { arenaBytes } = plain.step.info;
    const budget = Math.floor(arenaBytes * 0.6);
    const inputs = plain.weights.reduce((sum, { byteLength }) => sum + 3 * byteLength, 0);
    const run = await train({ ...auto(budget), memoryLimitBytes: inputs + Math.floor(arenaBytes * 0.8) });
    expectSame(run, plain);
    expect(run.step.remat?.withoutBytes).toBeNull();
    expect(run.step.info.arenaBytes).toBeLessThanOrEqual(budget);
  });

  it("says what is wrong with its options", () => {
    expect(() => configure({ remat: "auto" })).toThrow(/\[configure\] remat: "auto" needs memoryBudgetBytes/);
    expect(() => configure({ remat: "auto", memoryBudgetBytes: 0.5 })).toThrow(/got 0.5/);
    expect(() => configure({ remat: "full" as never })).toThrow(/must be "none" or "auto", got "full"/);
  });
});
