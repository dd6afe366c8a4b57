import { readFileSync } from "node:fs";
import { configure, type Engine, F, type Mesh, manualSeed, optim, sync, tensor } from "@lazuli/lazy-tensor";
import { afterEach, describe, expect, it } from "vitest";
import { configSchema, type LlamaConfig } from "../llama/config.js";
import { Llama } from "../llama/model.js";
import { parseMesh, parseStrategies, shardLlama } from "../llama/sharding.js";

// One program, annotated, computes on a mesh what it computes on one device.

const goldens = new URL("../../packages/lazy-tensor/test/goldens/llama/", import.meta.url);
const readConfig = (name: string): LlamaConfig =>
  configSchema.parse(JSON.parse(readFileSync(new URL(`${name}/config.json`, goldens), "utf8")));

const BATCH = 8;
const SEQ = 16;

/** Losses of six steps from one seed. */
async function losses(
  config: LlamaConfig,
  engine: Engine,
  layOut: (model: Llama) => ReturnType<typeof shardLlama>,
) {
  manualSeed(3);
  const model = new Llama(config);
  const place = layOut(model);
  const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-3, weightDecay: 0.1 });
  const out: number[] = [];
  for (let step = 0; step < 6; step++) {
    const words = Int32Array.from(
      { length: BATCH * (SEQ + 1) },
      (_, k) => (k * 7 + step * step * 31 + k * k) % config.vocab_size,
    );
    const ids = place(tensor(words, { shape: [BATCH, SEQ + 1] }));
    const loss = F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1));
    loss.backward();
    optim.clipGradNorm(model.parameters(), 1);
    optimizer.step();
    optimizer.zeroGrad();
    await sync();
    out.push(await loss.item());
  }
  expect(engine.mesh === null || [...model.parameters()].every((param) => param.grad === null)).toBe(true);
  return out;
}

let engine: Engine | null = null;
const open = (mesh: Mesh | null): Engine => {
  engine = configure({ device: "cpu", virtualDevices: mesh?.size ?? 1, verifyPasses: true });
  return engine;
};
afterEach(() => engine?.device.close());

const layouts = [
  ["data=2", "ddp"],
  ["data=8", "ddp"],
  ["fsdp=2", "fsdp"],
  ["fsdp=8", "fsdp"],
  ["data=2,fsdp=2", "hsdp"],
  ["data=2,fsdp=4", "hsdp"],
  ["tensor=2", "tp"],
  ["tensor=8", "tp"],
  ["tensor=2", "tp+sp"],
  ["tensor=4", "tp+sp"],
  ["fsdp=2,tensor=2", "fsdp,tp"],
  ["fsdp=4,tensor=2", "fsdp,tp+sp"],
  ["context=2", "ulysses"],
  ["context=8", "ulysses"],
  ["data=2,context=2", "ddp,ulysses"],
  ["context=2", "ring"],
  ["context=8", "ring"],
  ["context=4", "zigzag"],
  ["fsdp=2,context=2,tensor=2", "fsdp,ring,tp"],
] as const;

// b: grouped queries, tied embeddings; c, d: sizes that the meshes do not divide.
describe.each(["a", "b", "c", "d"])("Llama %s", (name) => {
  const config = readConfig(name);
  let alone: number[] | null = null;

  it.each(layouts)("on %s by %s has one device's losses", async (meshText, strategy) => {
    alone ??= await losses(config, open(null), () => (ids) => ids);
    engine?.device.close();
    const mesh = parseMesh(meshText);
    const ops = new Set<string>();
    const meshed = await losses(config, open(mesh), (model) => {
      engine?.events.compile$.subscribe(({ graph }) => {
        for (const { op } of graph.nodes) ops.add(op.name);
      });
      return shardLlama(model, mesh, parseStrategies(strategy, mesh));
    });
    if (/ring|zigzag/.test(strategy)) expect(ops).toContain("collective_permute");
    meshed.forEach((loss, step) => {
      const expected = (alone as number[])[step];
      expect(
        Math.abs(loss - expected) / Math.abs(expected),
        `step ${step + 1}: ${loss}, alone ${expected}`,
      ).toBeLessThan(1e-5);
    });
  });
});
