import {
  configure,
  type Engine,
  explainSharding,
  F,
  localShards,
  optim,
  type ShardingExplanation,
  sync,
  tensor,
} from "@lazuli/lazy-tensor";
import { afterEach, describe, expect, it } from "vitest";
import { configSchema } from "../llama/config.js";
import { Llama } from "../llama/model.js";
import { parseMesh, parseStrategies, shardLlama } from "../llama/sharding.js";
import { expectSent, sent } from "./sent.js";

// What the textbook layouts send and hold, to the byte. Vaswani's block has 2 sums forward and 2 backward under Megatron's
// tensor parallelism; data parallelism sends 2 (n-1)/n of the gradients; ZeRO-3 gathers twice and scatters once.

const [LAYERS, D, V, FF, BATCH, SEQ] = [4, 64, 256, 128, 8, 16];
const config = configSchema.parse({
  vocab_size: V,
  hidden_size: D,
  intermediate_size: FF,
  num_hidden_layers: LAYERS,
  num_attention_heads: 8,
});
const FLOAT = 4;

let engine: Engine | null = null;
afterEach(() => engine?.device.close());

interface Run {
  readonly model: Llama;
  readonly optimizer: optim.AdamW;
  readonly explanation: ShardingExplanation;
}

async function explain(meshText: string, strategy: string, clip = false): Promise<Run> {
  const mesh = parseMesh(meshText);
  engine = configure({ device: "cpu", virtualDevices: mesh.size });
  const model = new Llama(config);
  const place = shardLlama(model, mesh, parseStrategies(strategy, mesh));
  const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-3 });
  const step = (): void => {
    const ids = place(tensor(new Int32Array(BATCH * (SEQ + 1)), { shape: [BATCH, SEQ + 1] }));
    F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1)).backward();
    if (clip) optim.clipGradNorm(model.parameters(), 1);
    optimizer.step();
    optimizer.zeroGrad();
  };
  step();
  await sync();
  return { model, optimizer, explanation: await explainSharding(step) };
}

const times = ({ rows }: ShardingExplanation, op: string, type: string): number =>
  rows.filter((row) => row.op === op && row.type === type).reduce((sum, row) => sum + row.times, 0);

const bytesOf = (model: Llama): number => model.numParameters() * FLOAT;
const embedding = V * D * FLOAT;

describe("bytes that one device sends in a step", () => {
  it.each([2, 4, 8])("data parallelism on %i: 2 (n-1)/n of the gradients", async (n) => {
    const { model, explanation } = await explain(`data=${n}`, "ddp", true);
    expectSent(explanation, { all_reduce: (2 * (n - 1) * bytesOf(model)) / n });
    // The loss, its count, and nothing for the norm: every device has the whole gradients.
    expect(times(explanation, "all_reduce", "float32[]")).toBeLessThanOrEqual(2);
  });

  it.each([2, 4, 8])("fully sharded on %i: gathered forward and backward, gradients scattered", async (n) => {
    const { model, explanation } = await explain(`fsdp=${n}`, "fsdp", true);
    const bytes = bytesOf(model);
    expectSent(explanation, {
      // The embedding's rows are not needed in backward.
      all_gather: ((n - 1) * (2 * bytes - embedding)) / n,
      reduce_scatter: ((n - 1) * bytes) / n,
    });
    // The norm's squares are summed over the mesh once, not once a parameter.
    expect(times(explanation, "all_reduce", "float32[]")).toBeLessThanOrEqual(3);
  });

  it("hybrid: parameters and gradients within, parts of gradients across", async () => {
    const { model, explanation } = await explain("data=2,fsdp=4", "hsdp");
    const bytes = bytesOf(model);
    expectSent(explanation, {
      all_gather: (3 * (2 * bytes - embedding)) / 4,
      reduce_scatter: (3 * bytes) / 4,
      all_reduce: (2 * (bytes / 4)) / 2,
    });
  });

  it("Megatron: four sums a layer, and one at each end of the divided vocabulary", async () => {
    const { explanation } = await explain("tensor=2", "tp");
    const stream = `float32[${BATCH}, ${SEQ}, ${D}]`;
    expect(times(explanation, "all_reduce", stream)).toBe(4 * LAYERS + 2);
    // Logits are never gathered: of them only the rows' largest, sum and target go round.
    const rows = `float32[${BATCH}, ${SEQ}, 1]`;
    expect(times(explanation, "all_reduce", rows)).toBe(3);
    const activation = BATCH * SEQ * D * FLOAT;
    const row = BATCH * SEQ * FLOAT;
    expectSent(explanation, { all_reduce: (4 * LAYERS + 2) * activation + 3 * row });
  });

  it("with sequence parallelism: the same sums as scatter and gather", async () => {
    const { explanation } = await explain("tensor=2", "tp+sp");
    const [whole, part] = [`float32[${BATCH}, ${SEQ}, ${D}]`, `float32[${BATCH}, ${SEQ / 2}, ${D}]`];
    expect(times(explanation, "reduce_scatter", whole)).toBe(4 * LAYERS + 2);
    // Forward and for gradients, two a layer each; inputs once more for the weights' gradients; the final norm's twice.
    expect(times(explanation, "all_gather", part)).toBe(6 * LAYERS + 2);
    expect(times(explanation, "all_reduce", whole)).toBe(0);
    const activation = BATCH * SEQ * D * FLOAT;
    const row = BATCH * SEQ * FLOAT;
    expectSent(explanation, {
      // The embedding's gradient is summed too: its rows were looked up for parts of the sequence.
      reduce_scatter: ((4 * LAYERS + 2) * activation + embedding) / 2,
      all_gather: ((6 * LAYERS + 2) * activation) / 2,
      // Of the logits, and gradients of the norms' weights, which every device has.
      all_reduce: 3 * row + (2 * LAYERS + 1) * D * FLOAT,
    });
  });

  it("Ulysses: exchanges around attention, and gradients as in data parallelism", async () => {
    const { model, explanation } = await explain("context=2", "ulysses");
    const bytes = sent(explanation);
    // q, k, v and the result forward, as many gradients backward, and what backward reads of the result.
    const activation = BATCH * SEQ * D * FLOAT;
    expect(bytes.all_to_all / (activation / 4)).toBeLessThanOrEqual(8 * LAYERS);
    const scalars = bytes.all_reduce - bytesOf(model);
    expect(scalars >= 0 && scalars <= 4 * 2 * FLOAT, `${scalars} bytes of scalars`).toBe(true);
    expect(bytes.all_gather ?? 0).toBe(0);
  });

  it("says what each is for", async () => {
    const { explanation } = await explain("fsdp=2", "fsdp");
    const text = String(explanation);
    expect(text).toMatch(/reduce_scatter +fsdp +float32\[64, 64\]/);
    expect(text).toMatch(/peak on one device: [\d.]+ [KM]iB/);
  });
});

describe("memory", () => {
  it("of parameters and optimizer state is an eighth on eight devices", async () => {
    const { model, optimizer } = await explain("fsdp=8", "fsdp");
    let total = 0;
    let held = 0;
    const states = [...optimizer.stateDict()].filter(([, state]) => state.rank > 0).map(([, state]) => state);
    for (const value of [...model.parameters(), ...states]) {
      total += value.size;
      const [first] = await localShards(value);
      held += first.data.length;
    }
    expect(total).toBe(3 * model.numParameters());
    expect(held / total).toBeLessThanOrEqual((1 / 8) * 1.02);
  });

  it("of gathered parameters is that of two blocks at most", async () => {
    const mesh = parseMesh("fsdp=2");
    engine = configure({ device: "cpu", virtualDevices: 2 });
    let most = 0;
    engine.events.compile$.subscribe(({ graph }) => {
      const gathers = graph.nodes.filter(
        ({ op, inputs }) => op.name === "all_gather" && inputs[0].op.name === "input",
      );
      const position = new Map(graph.nodes.map((node, i) => [node, i]));
      const last = new Map<unknown, number>();
      // From where it is started, to the last that reads what it gives.
      graph.nodes.forEach((node, i) => {
        for (const x of node.inputs) last.set(x.op.name === "collective_done" ? x.inputs[0] : x, i);
      });
      const block = (scope: string): string => /layers\.\d+/.exec(scope)?.[0] ?? "";
      const lives = gathers
        .filter(({ scope }) => block(scope) !== "")
        .map((node) => ({
          from: position.get(node) ?? 0,
          to: last.get(node) ?? 0,
          block: block(node.scope),
        }));
      for (const { from } of lives) {
        const live = lives.filter((other) => other.from <= from && other.to >= from);
        most = Math.max(most, new Set(live.map((each) => each.block)).size);
      }
    });
    const model = new Llama(config);
    const place = shardLlama(model, mesh, ["fsdp"]);
    const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-3 });
    const ids = place(tensor(new Int32Array(BATCH * (SEQ + 1)), { shape: [BATCH, SEQ + 1] }));
    F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1)).backward();
    optimizer.step();
    await sync();
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThanOrEqual(2);
  });
});
