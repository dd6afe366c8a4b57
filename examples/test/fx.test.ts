import { configure, F, fx, manualSeed, type nn, optim, sync, type Tensor, tensor } from "@lazuli/lazy-tensor";
import { beforeEach, describe, expect, it } from "vitest";
import { EncoderDecoder } from "../fx/encoder_decoder.js";
import { Mixer } from "../fx/mixer.js";
import { configSchema } from "../llama/config.js";
import { Llama } from "../llama/model.js";

// Traced, then transformed, then trained: what comes out are the losses of the model itself, bit for bit.

const STEPS = 10;

beforeEach(() => {
  configure({ device: "cpu" });
});

/** Whole numbers below `limit`, the same at every call. */
function ids(shape: number[], limit: number, seed: number): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  let state = seed;
  const next = (): number => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return (state >> 8) % limit;
  };
  return tensor(Int32Array.from({ length: size }, next), { shape });
}

const floats = (shape: number[], seed: number): Tensor => {
  const whole = ids(shape, 2000, seed);
  return whole.to("float32").div(1000).sub(1);
};

interface Case {
  readonly model: () => nn.Module;
  readonly inputs: () => unknown[];
  readonly loss: (run: nn.Module, inputs: unknown[]) => Tensor;
  readonly leafModules?: [];
}

const call = (run: nn.Module, inputs: unknown[]): unknown => run.forward(...(inputs as never[]));

const llamaConfig = configSchema.parse({
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
});

const cases: Record<string, Case> = {
  llama: {
    model: () => new Llama(llamaConfig),
    inputs: () => [ids([2, 12], 64, 5)],
    loss: (run, inputs) => {
      const logits = call(run, inputs) as Tensor;
      return F.crossEntropy(logits.slice(1, 0, -1), (inputs[0] as Tensor).slice(1, 1));
    },
  },
  mixer: {
    model: () => new Mixer({ patches: 6, patchSize: 5, channels: 16, layers: 3, classes: 4 }),
    inputs: () => [floats([4, 6, 5], 2)],
    loss: (run, inputs) => F.crossEntropy(call(run, inputs) as Tensor, ids([4], 4, 3)),
  },
  "encoder-decoder": {
    model: () => new EncoderDecoder({ vocab: 40, dim: 16, heads: 2, layers: 2, maxLength: 16 }),
    inputs: () => [{ source: ids([3, 9], 40, 7), target: ids([3, 7], 40, 8) }],
    loss: (run, inputs) => {
      const { logits } = call(run, inputs) as { logits: Tensor };
      const { target } = inputs[0] as { target: Tensor };
      return F.crossEntropy(logits.slice(1, 0, -1), target.slice(1, 1));
    },
  },
};

async function train(
  { model, inputs, loss }: Case,
  prepare: (model: nn.Module) => nn.Module,
): Promise<number[]> {
  manualSeed(11);
  const made = model();
  const given = inputs();
  await sync();
  const run = prepare(made);
  manualSeed(12);
  const optimizer = new optim.AdamW(run.parameters(), { lr: 1e-2 });
  const losses: number[] = [];
  for (let step = 0; step < STEPS; step++) {
    using value = loss(run, given);
    value.backward();
    optimizer.step();
    optimizer.zeroGrad();
    await sync(value);
    losses.push(await value.item());
  }
  return losses;
}

const trace =
  ({ inputs }: Case, leafModules?: []) =>
  (model: nn.Module): fx.GraphModule =>
    fx.symbolicTrace(model, { exampleInputs: inputs(), leafModules }).lint();

describe.each(Object.entries(cases))("%s", (_, model) => {
  it.each([
    ["with leaf modules", undefined],
    ["all ops", []],
  ] as const)("traced, %s, trains as it does itself", async (_, leaves) => {
    const losses = await train(model, trace(model, leaves as [] | undefined));
    expect(losses).toEqual(await train(model, (itself) => itself));
    expect(losses.every(Number.isFinite)).toBe(true);
    expect(losses.at(-1)).toBeLessThan(losses[0]);
  });

  it.each([
    ["with leaf modules", undefined],
    ["all ops", []],
  ] as const)("split in 4 stages, %s, trains as it does itself", async (_, leaves) => {
    const split = (made: nn.Module): nn.Module => {
      const traced = trace(model, leaves as [] | undefined)(made);
      const stages = fx.splitModule(traced, fx.splitBalanced(traced, 4)).lint();
      expect(stages.graph.findNodes({ op: "call_module" }).map((node) => node.target)).toEqual(
        [0, 1, 2, 3].map((stage) => `stage_${stage}`),
      );
      expect([...stages.stateDict()]).toEqual([...made.stateDict()]);
      return stages;
    };
    expect(await train(model, split)).toEqual(await train(model, (itself) => itself));
  });

  it("has the state dict it has itself", () => {
    const made = model.model();
    expect([...trace(model)(made).stateDict()]).toEqual([...made.stateDict()]);
  });
});

describe("an activation swapped", () => {
  const swapped =
    (from: (x: Tensor) => Tensor, to: (x: Tensor) => Tensor, count: number) => (traced: fx.GraphModule) => {
      expect(fx.replacePattern(traced, from, to)).toHaveLength(count);
      return traced.lint();
    };

  it("in the Mixer is the Mixer of another activation", async () => {
    const { mixer } = cases;
    const swap = swapped(
      (x) => x.gelu(),
      (x) => x.silu(),
      6,
    );
    const config = { patches: 6, patchSize: 5, channels: 16, layers: 3, classes: 4 };
    const other: Case = { ...mixer, model: () => new Mixer(config, (x) => x.silu()) };
    const losses = await train(mixer, (model) => swap(trace(mixer)(model)));
    expect(losses).toEqual(await train(other, (model) => model));
    expect(losses).not.toEqual(await train(mixer, (model) => model));
  });

  it("in Llama is Llama with another feed-forward", async () => {
    const { llama } = cases;
    const swap = swapped(
      (x) => x.silu(),
      (x) => x.gelu("tanh"),
      2,
    );
    const losses = await train(llama, (model) => swap(trace(llama)(model)));
    const byHand = await train(llama, (model) => {
      for (const { mlp } of (model as Llama).model.layers)
        mlp.forward = (x) =>
          mlp.down_proj.forward(mlp.gate_proj.forward(x).gelu("tanh").mul(mlp.up_proj.forward(x)));
      return model;
    });
    expect(losses).toEqual(byHand);
  });

  it("in the encoder-decoder, by a pattern of several ops", async () => {
    const model = cases["encoder-decoder"];
    const swap = swapped(
      (x) => x.relu(),
      (x) => x.maximum(0).square(),
      4,
    );
    const back = swapped(
      (x) => x.maximum(0).square(),
      (x) => x.relu(),
      4,
    );
    const losses = await train(model, (made) => back(swap(trace(model)(made))));
    expect(losses).toEqual(await train(model, (made) => made));
  });
});
