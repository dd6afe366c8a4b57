import { type NativeDevice, openDevice } from "@lazuli/cuda-backend";
import { type OpDef, ops, toOnnxGraph, UnsupportedOpError } from "@lazuli/fx-trace";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodeOnnx } from "../src/export/onnx.js";
import { F, nn, randn, type Tensor, tensor, toOnnx } from "../src/index.js";
import { everyKernel, runGraph } from "./conformance.harness.js";
import { decodeNumbers } from "./ops.samples.data.js";
import { buildSample } from "./ops.samples.graph.js";
import { type SampledOp, samples } from "./ops.samples.js";
import { isLeaf, type Sample } from "./ops.samples.types.js";

// Models and samples of every op that ONNX has, run by ONNX Runtime against our own kernels.

type Runtime = typeof import("onnxruntime-node");
const runtime: Runtime | null = await import("onnxruntime-node").catch(() => null);
if (!runtime) console.warn("onnxruntime-node is not installed: ONNX export is not checked by running it");

const typedArrays = {
  float32: Float32Array,
  float64: Float64Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  bool: Uint8Array,
} as const;
type Known = keyof typeof typedArrays;

interface Value {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** The model's outputs as numbers. */
async function runOnnx(
  model: Uint8Array,
  inputs: readonly Value[],
): Promise<{ shape: readonly number[]; data: number[] }[]> {
  const { InferenceSession, Tensor: OrtTensor } = runtime as Runtime;
  // Threads of hundreds of sessions would wait for each other.
  const options = { logSeverityLevel: 3, intraOpNumThreads: 1, interOpNumThreads: 1 } as const;
  const session = await InferenceSession.create(model, options);
  const feeds = Object.fromEntries(
    inputs.map(({ dtype, shape, bytes }, i) => {
      const copy = bytes.slice();
      const data = new typedArrays[dtype as Known](copy.buffer);
      return [`arg${i}`, new OrtTensor(dtype as "float32", data as Float32Array, shape)];
    }),
  );
  const used = Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]]));
  const results = await session.run(used);
  const found = session.outputNames.map((name) => ({
    shape: results[name].dims,
    data: Array.from(results[name].data as Float32Array, Number),
  }));
  await session.release();
  return found;
}

const valueOfTensor = async (x: Tensor): Promise<Value> => {
  const data = await x.data();
  return {
    dtype: x.dtype,
    shape: x.shape,
    bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  };
};

function expectClose(found: readonly number[], wanted: readonly number[], tolerance: number): void {
  expect(found.length).toBe(wanted.length);
  const largest = wanted.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 1);
  for (let i = 0; i < wanted.length; i++) {
    const [a, b] = [found[i], wanted[i]];
    if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
    if (!(Math.abs(a - b) <= tolerance * largest))
      expect.fail(`element ${i}: ${a} by ONNX Runtime, ${b} by us`);
  }
}

/** The first samples of an op that are of float32, and of the indices and conditions beside it. */
function chosen(op: SampledOp): Sample[] {
  const inDtypes = (sample: Sample): boolean =>
    sample.operands
      .filter(isLeaf)
      .every(({ dtype }) => ["float32", "int32", "int64", "bool"].includes(dtype)) &&
    sample.operands
      .filter(isLeaf)
      .some(({ dtype }, i) => i === 0 && (dtype === "float32" || dtype === "bool"));
  const isEmpty = (sample: Sample): boolean =>
    sample.operands.filter(isLeaf).some(({ shape }) => shape.includes(0));
  return samples[op]
    .filter((sample: Sample) => inDtypes(sample) && !isEmpty(sample))
    .filter((sample: Sample) => !["bfloat16", "float16"].includes(sample.attrs.dtype as string))
    .filter(
      (sample: Sample) =>
        !["1031", "larger than tiles", "special", "inf", "NaN"].some((x) => sample.name.includes(x)),
    )
    .slice(0, 3);
}

describe.skipIf(runtime === null)("ONNX by ONNX Runtime", () => {
  const cases = (Object.keys(samples) as SampledOp[])
    .filter((op) => op !== "input" && !(ops[op] as unknown as OpDef).unique)
    .flatMap((op) => chosen(op).map((sample) => [op, sample, buildSample(op, sample, false)] as const))
    .flatMap(([op, sample, { graph, leaves }]) => {
      const names = graph.inputs.map((_, i) => `arg${i}`);
      try {
        return [[`${op}/${sample.name}`, graph, leaves, encodeOnnx(toOnnxGraph(graph, names))] as const];
      } catch (error) {
        if (error instanceof UnsupportedOpError) return [];
        throw error;
      }
    });
  let device: NativeDevice;
  beforeAll(() => {
    device = openDevice("cpu");
  });
  afterAll(() => device.close());

  it("has most ops", () => {
    expect(new Set(cases.map(([name]) => name.split("/")[0])).size).toBeGreaterThan(75);
  });

  it.each(cases)("%s", async (_, graph, leaves, model) => {
    const found = await runOnnx(model, leaves);
    const wanted = await runGraph(device, graph, leaves, everyKernel);
    graph.outputs.forEach(({ shape, dtype }, i) => {
      expect(found[i].shape).toEqual(shape);
      expectClose(found[i].data, [...decodeNumbers(wanted[i], dtype)], dtype === "float32" ? 2e-5 : 0);
    });
  });

  const same = async (target: Parameters<typeof toOnnx>[0], inputs: readonly Tensor[]): Promise<void> => {
    const outputs = [
      target instanceof nn.Module ? target.forward(...(inputs as never[])) : target(...inputs),
    ].flat();
    const found = await runOnnx(await toOnnx(target, inputs), await Promise.all(inputs.map(valueOfTensor)));
    for (const [i, output] of (outputs as Tensor[]).entries()) {
      expect(found[i].shape).toEqual(output.shape);
      expectClose(found[i].data, Array.from(await output.data(), Number), 2e-5);
    }
  };

  it("an MLP", async () => {
    const mlp = new nn.Sequential(
      new nn.Linear(8, 16),
      new nn.LayerNorm(16),
      new nn.GELU(),
      new nn.Linear(16, 4),
    );
    await same(mlp, [randn([5, 8])]);
  });

  it("attention with grouped heads under a causal mask", async () => {
    const attend = (q: Tensor, k: Tensor, v: Tensor): Tensor =>
      F.scaledDotProductAttention(q, k, v, { causal: true });
    await same(attend, [randn([2, 4, 5, 8]), randn([2, 2, 7, 8]), randn([2, 2, 7, 8])]);
  });

  it("several results, one of them an argument", async () => {
    await same((x: Tensor) => [x, x.topk(2).values, x], [tensor([[3, 1, 2]])]);
  });
});

describe("toOnnx", () => {
  it("names every op that ONNX has none of, and where", async () => {
    class Angles extends nn.Module {
      readonly inner = new (class Inner extends nn.Module {
        forward(x: Tensor): Tensor {
          return x.atan2(x);
        }
      })();
      forward(x: Tensor): Tensor {
        return this.inner.forward(x);
      }
    }
    const error = await toOnnx(new Angles(), [randn([2])]).catch((thrown) => thrown);
    expect(error).toBeInstanceOf(UnsupportedOpError);
    expect(error.message).toContain("ONNX opset 17 has no atan2 in inner");
    expect(error.places).toEqual([{ op: "atan2", scope: "inner" }]);
  });
});
