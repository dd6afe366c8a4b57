import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  configure,
  type Engine,
  explainSharding,
  F,
  type FullyShardOptions,
  fullyShard,
  loadCheckpoint,
  localShards,
  Mesh,
  manualSeed,
  markSharding,
  optim,
  saveCheckpoint,
  sync,
  tensor,
} from "@lazuli/lazy-tensor";
import { afterEach, describe, expect, it } from "vitest";
import { configSchema } from "../llama/config.js";
import { Llama } from "../llama/model.js";
import { expectSent, sent } from "./sent.js";

const config = configSchema.parse({
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
});
const FLOAT = 4;

let engine: Engine | null = null;
afterEach(() => engine?.device.close());

interface Trainer {
  readonly model: Llama;
  readonly optimizer: optim.AdamW;
  step(i: number): Promise<number>;
}

function trainer(
  mesh: Mesh | null,
  options: FullyShardOptions = {},
  dtype: "float32" | "bfloat16" = "float32",
): Trainer {
  engine?.device.close();
  engine = configure({ device: "cpu", virtualDevices: mesh?.size ?? 1, verifyPasses: true });
  manualSeed(5);
  const model = new Llama(config, dtype);
  if (mesh) fullyShard(model, mesh, options);
  const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-2 });
  const step = async (i: number): Promise<number> => {
    const ids = tensor(
      Int32Array.from({ length: 8 * 9 }, (_, k) => (k * 5 + i * 13 + k * k) % 64),
      { shape: [8, 9] },
    );
    if (mesh) markSharding(ids, mesh, ["fsdp", null]);
    const loss = F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1));
    loss.backward();
    optim.clipGradNorm(model.parameters(), 1);
    optimizer.step();
    optimizer.zeroGrad();
    await sync(loss);
    return loss.item();
  };
  return { model, optimizer, step };
}

async function losses(run: Trainer, from = 0, to = 6): Promise<number[]> {
  const out: number[] = [];
  for (let i = from; i < to; i++) out.push(await run.step(i));
  return out;
}

function expectClose(actual: readonly number[], expected: readonly number[], tolerance: number): void {
  actual.forEach((loss, i) => {
    expect(
      Math.abs(loss - expected[i]) / expected[i],
      `step ${i + 1}: ${loss}, expected ${expected[i]}`,
    ).toBeLessThan(tolerance);
  });
}

const held = async (value: Parameters<typeof localShards>[0]): Promise<number> =>
  (await localShards(value))[0].data.length;

describe("fullyShard", () => {
  it.each([1, 2, 3] as const)("stage %i trains as one device and divides what it says", async (stage) => {
    const expected = await losses(trainer(null));
    const mesh = new Mesh({ fsdp: 4 });
    const run = trainer(mesh, { stage });
    expectClose(await losses(run), expected, 1e-5);
    const [weight] = run.model.parameters();
    const moment = run.optimizer.stateDict().get(`${weight.name}.exp_avg`);
    expect(moment).toBeDefined();
    expect(await held(moment as typeof weight)).toBe(weight.size / 4);
    expect(await held(weight)).toBe(stage === 3 ? weight.size / 4 : weight.size);
    const bytes = run.model.numParameters() * FLOAT;
    const explanation = await explainSharding(() => run.step(6));
    if (stage < 3) expectSent(explanation, { reduce_scatter: (3 * bytes) / 4, all_gather: (3 * bytes) / 4 });
  });

  it("keeps gradients that live across steps whole in stage 1, and divided in stage 2 and 3", async () => {
    const mesh = new Mesh({ fsdp: 4 });
    for (const stage of [1, 2, 3] as const) {
      const { model } = trainer(mesh, { stage });
      const ids = markSharding(tensor(new Int32Array(8 * 9), { shape: [8, 9] }), mesh, ["fsdp", null]);
      F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1)).backward();
      await sync();
      const [weight] = model.parameters();
      expect(await held(weight.grad as typeof weight)).toBe(stage === 1 ? weight.size : weight.size / 4);
    }
  });

  it("gathers in mixedPrecision, and sums gradients in gradReduceDtype", async () => {
    const expected = await losses(trainer(null, {}, "bfloat16"));
    const mesh = new Mesh({ fsdp: 2 });
    const bytesOf = async (options: FullyShardOptions): Promise<Record<string, number>> => {
      const run = trainer(mesh, options, "bfloat16");
      expectClose(await losses(run), expected, 1e-2);
      return sent(await explainSharding(() => run.step(6)));
    };
    const wide = await bytesOf({});
    const narrow = await bytesOf({ mixedPrecision: "bfloat16" });
    const mixed = await bytesOf({ mixedPrecision: "bfloat16", gradReduceDtype: "float32" });
    expect(narrow.all_gather).toBe(wide.all_gather / 2);
    expect(narrow.reduce_scatter).toBe(mixed.reduce_scatter / 2);
    expect(mixed.all_gather).toBe(narrow.all_gather);
  });

  it("trains the same with any buckets and prefetching, and without overlap", {
    timeout: 30_000,
  }, async () => {
    const mesh = new Mesh({ fsdp: 2 });
    const expected = await losses(trainer(mesh), 0, 2);
    for (const options of [{ prefetch: 3, bucketBytes: 3000 }, { bucketBytes: 1 }])
      expect(await losses(trainer(mesh, options), 0, 2)).toEqual(expected);
    const run = trainer(mesh);
    const overlapped = await explainSharding(() => run.step(0));
    const hidden = overlapped.rows.filter(({ isAsync }) => isAsync);
    expect(new Set(hidden.map(({ op }) => op))).toEqual(new Set(["all_gather", "reduce_scatter"]));
    for (const { op, hiddenFlops } of hidden) if (op === "all_gather") expect(hiddenFlops).toBeGreaterThan(0);
    const still = trainer(mesh);
    if (engine) engine.communication = { ...engine.communication, overlap: false };
    expect(await losses(still, 0, 2)).toEqual(expected);
    const before = await explainSharding(() => still.step(2));
    expect(before.rows.some(({ isAsync }) => isAsync)).toBe(false);
    expect(sent(before)).toEqual(sent(overlapped));
  });

  it("refuses buckets of nothing and a prefetch that is no number of blocks", () => {
    const mesh = new Mesh({ fsdp: 2 });
    engine = configure({ device: "cpu", virtualDevices: 2 });
    for (const bucketBytes of [0, -1, 1.5, Number.NaN])
      expect(() => fullyShard(new Llama(config), mesh, { bucketBytes })).toThrow(
        `[fullyShard] bucketBytes must be a whole number above 0, got ${bucketBytes}`,
      );
    for (const prefetch of [-1, 0.5])
      expect(() => fullyShard(new Llama(config), mesh, { prefetch })).toThrow(
        `[fullyShard] prefetch must be a whole number of blocks, 0 or more, got ${prefetch}`,
      );
    expect(() => configure({ prefetch: -1 })).toThrow("[configure] prefetch");
  });

  it("refuses an axis that is not there, a pattern that matches nothing, and a second division", () => {
    const mesh = new Mesh({ fsdp: 2 });
    engine = configure({ device: "cpu", virtualDevices: 2 });
    expect(() => fullyShard(new Llama(config), mesh, { axis: "data" })).toThrow(
      /no axis "data" in Mesh\(fsdp=2\)/,
    );
    expect(() => fullyShard(new Llama(config), mesh, { wrap: ["blocks.*"] })).toThrow(
      /"blocks\.\*" matches nothing; there are/,
    );
    expect(() => fullyShard(fullyShard(new Llama(config), mesh), mesh)).toThrow(
      /divided over that axis already/,
    );
  });

  it("refuses to sum gradients in a dtype that is nowhere", () => {
    engine = configure({ device: "cpu", virtualDevices: 2 });
    expect(() =>
      fullyShard(new Llama(config), new Mesh({ fsdp: 2 }), { gradReduceDtype: "bfloat16" }),
    ).toThrow(/gradReduceDtype bfloat16 is neither mixedPrecision, which is not given, nor float32/);
  });

  it("saves from one mesh what another one, or one device, goes on with", async () => {
    const folder = await mkdtemp(join(tmpdir(), "lazuli-mesh-"));
    try {
      const expected = await losses(trainer(null));
      const first = trainer(new Mesh({ fsdp: 4 }));
      expectClose(await losses(first, 0, 3), expected.slice(0, 3), 1e-5);
      await saveCheckpoint(folder, {
        model: first.model.stateDict(),
        optimizer: first.optimizer.stateDict(),
        training: { step: 3, seed: 5, config: {} },
      });
      for (const mesh of [new Mesh({ fsdp: 2 }), null]) {
        const next = trainer(mesh);
        const saved = await loadCheckpoint(folder);
        next.model.loadStateDict(saved.model);
        next.optimizer.loadStateDict(saved.optimizer);
        expectClose(await losses(next, 3, 6), expected.slice(3), 1e-5);
      }
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe("random numbers", () => {
  it("are those of the elements, on any mesh", async () => {
    const drawn = async (mesh: Mesh | null, spec: (string | null)[]): Promise<unknown> => {
      engine?.device.close();
      engine = configure({ device: "cpu", virtualDevices: mesh?.size ?? 1 });
      manualSeed(11);
      const x = tensor(new Float32Array(6 * 10).fill(1), { shape: [6, 10] });
      if (mesh) markSharding(x, mesh, spec);
      return F.dropout(x, 0.5).array();
    };
    const alone = await drawn(null, []);
    expect(await drawn(new Mesh({ a: 4 }), ["a", null])).toEqual(alone);
    expect(await drawn(new Mesh({ a: 2, b: 3 }), ["b", "a"])).toEqual(alone);
    expect(await drawn(new Mesh({ a: 8 }), [null, "a"])).toEqual(alone);
  });
});
