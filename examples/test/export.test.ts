import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  captureProgram,
  type DType,
  exportProgram,
  F,
  functionalCall,
  loadProgram,
  manualSeed,
  type Tensor,
  tensor,
  toOnnx,
  toStableHLO,
  valueAndGrad,
} from "@lazuli/lazy-tensor";
import { beforeAll, describe, expect, it } from "vitest";
import { configSchema } from "../llama/config.js";
import { Llama } from "../llama/model.js";

interface XlaValue {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

// Test code of a package has no package name to be imported by.
const xlaPath = "../../packages/lazy-tensor/test/xla.ts";
const xla: {
  findJax(): string | null;
  runXla(
    python: string,
    jobs: readonly {
      readonly text: string;
      readonly inputs: readonly XlaValue[];
      readonly outputs: readonly { readonly dtype: DType; readonly shape: readonly number[] }[];
    }[],
  ): (Uint8Array[] | Error)[];
} = await import(xlaPath);

const config = configSchema.parse({
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
});
const [B, T] = [2, 9];

const idsOf = (seed: number): Tensor =>
  tensor(
    Int32Array.from({ length: B * T }, (_, k) => (k * 5 + seed * 13 + k * k) % 64),
    { shape: [B, T] },
  );

const bytesOf = async (value: Tensor): Promise<XlaValue> => {
  const data = await value.data();
  return {
    dtype: value.dtype,
    shape: value.shape,
    bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  };
};

let model: Llama;
beforeAll(() => {
  manualSeed(3);
  model = new Llama(config);
});

/** Loss and the gradient of every parameter: one training step up to the optimizer. */
const step = (parameters: Record<string, Tensor>, ids: Tensor, targets: Tensor) =>
  valueAndGrad((given: Record<string, Tensor>) => F.crossEntropy(functionalCall(model, given, ids), targets))(
    parameters,
  );

describe("an exported Llama", () => {
  it("is loaded and gives the model's logits bit for bit", async () => {
    const folder = await mkdtemp(join(tmpdir(), "lazuli-llama-"));
    try {
      await exportProgram(model, [idsOf(1)], folder);
      const program = await loadProgram(folder);
      expect([...program.stateDict().keys()]).toEqual([...model.stateDict().keys()]);
      const [found, wanted] = [program.forward(idsOf(2)) as Tensor, model.forward(idsOf(2))];
      expect([...(await found.data())]).toEqual([...(await wanted.data())]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

const runtime = await import("onnxruntime-node").catch(() => null);

describe.skipIf(runtime === null)("Llama as ONNX, by ONNX Runtime", () => {
  it("infers the same logits", async () => {
    const { InferenceSession, Tensor: OrtTensor } = runtime as NonNullable<typeof runtime>;
    const session = await InferenceSession.create(await toOnnx(model, [idsOf(1)]), { logSeverityLevel: 3 });
    const ids = idsOf(7);
    const { out0 } = await session.run({
      arg0: new OrtTensor("int32", (await ids.data()) as Int32Array, [B, T]),
    });
    const wanted = Float32Array.from(await model.forward(ids).data(), Number);
    const found = out0.data as Float32Array;
    expect(out0.dims).toEqual([B, T, config.vocab_size]);
    const largest = wanted.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    for (let i = 0; i < wanted.length; i++)
      expect(Math.abs(found[i] - wanted[i])).toBeLessThanOrEqual(2e-5 * largest);
  });
});

const python = xla.findJax();

describe.skipIf(python === null)("Llama as StableHLO, by XLA", () => {
  const run = async (
    fn: Parameters<typeof captureProgram>[0],
    args: readonly unknown[],
    given: readonly Tensor[],
  ): Promise<Float32Array[]> => {
    const { graph, held, inputNames } = await captureProgram(fn, args);
    const inputs = [...given, ...[...held.values()].map((value) => value.tensor)];
    const [outputs] = xla.runXla(python as string, [
      {
        text: toStableHLO(graph, { inputNames }),
        inputs: await Promise.all(inputs.map(bytesOf)),
        outputs: graph.outputs.map(({ type }) => type),
      },
    ]);
    if (outputs instanceof Error) throw outputs;
    return outputs.map((bytes) => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
  };
  const expectClose = async (found: Float32Array, wanted: Tensor): Promise<void> => {
    const data = Float32Array.from(await wanted.data(), Number);
    const largest = data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    expect(found.length).toBe(data.length);
    for (let i = 0; i < data.length; i++)
      expect(Math.abs(found[i] - data[i])).toBeLessThanOrEqual(2e-5 * largest);
  };

  it("infers the same logits", async () => {
    const ids = idsOf(4);
    const [logits] = await run(model, [ids], [ids]);
    await expectClose(logits, model.forward(ids));
  }, 120_000);

  it("takes the same training step: loss and every gradient", async () => {
    const parameters: Record<string, Tensor> = Object.fromEntries(model.namedParameters());
    const [ids, targets] = [idsOf(5), idsOf(6)];
    const tensors = [...Object.values(parameters), ids, targets];
    const [loss, ...grads] = await run(step, [parameters, ids, targets], tensors);
    const wanted = step(parameters, ids, targets);
    await expectClose(loss, wanted.value);
    const names = Object.keys(parameters);
    expect(grads.length).toBe(names.length);
    for (const [i, name] of names.entries()) await expectClose(grads[i], wanted.grads[0][name]);
  }, 120_000);
});
