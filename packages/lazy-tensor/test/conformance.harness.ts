import { type DeviceName, type NativeDevice, openDevice } from "@lazuli/cuda-backend";
import {
  dtypeInfo,
  encodeNodes,
  type Graph,
  type OpDef,
  type OpName,
  ops,
  runPasses,
  sizeOf,
  standardPasses,
} from "@lazuli/fx-trace";
import { afterAll, beforeAll, describe, it } from "vitest";
import { expectGolden, type Goldens, loadGoldens, type Numbers } from "./conformance.goldens.js";
import { decodeNumbers } from "./ops.samples.data.js";
import { buildSample, type Data } from "./ops.samples.graph.js";
import { type SampledOp, samples } from "./ops.samples.js";
import type { Sample } from "./ops.samples.types.js";

export type Supports = (op: OpDef) => boolean;

/** The device's own kernels, but for composites. */
export const everyKernel: Supports = (op) => op.lower !== "composite";
/** What can be said in smaller ops is. */
export const noFusedKernel: Supports = (op) => op.decompose === undefined;

let nextBuffer = 1;

/** Runs `graph` on `device` as the engine does: passes, encode, compile, run. Gives its outputs' bytes. */
export async function runGraph(
  device: NativeDevice,
  graph: Graph,
  inputs: readonly Data[],
  supports: Supports,
): Promise<Uint8Array[]> {
  const lowered = runPasses(graph, standardPasses(supports), { verify: true });
  const isInput = (node: { op: OpDef }): boolean => node.op.name === "input";
  const nodes = lowered.nodes.filter((node) => !isInput(node));
  const { words } = encodeNodes(nodes, lowered.outputs, { isInput, inputs: lowered.inputs });
  const program = device.compile(words, false);
  const inputIds = inputs.map(({ bytes }) => {
    device.upload(nextBuffer, bytes);
    return nextBuffer++;
  });
  const outputIds = lowered.outputs.map(() => nextBuffer++);
  try {
    await device.run(program.id, inputIds, outputIds, false);
    const found: Uint8Array[] = [];
    for (const [i, { shape, dtype }] of graph.outputs.map(({ type }) => type).entries()) {
      const bytes = new Uint8Array(sizeOf(shape) * dtypeInfo[dtype].sizeBytes);
      await device.download(outputIds[i], bytes);
      found.push(bytes);
    }
    device.free(outputIds);
    return found;
  } finally {
    device.free(inputIds);
    device.release(program.id);
  }
}

export async function runSample(
  device: NativeDevice,
  op: OpName,
  sample: Sample,
  supports: Supports,
  withGrad = sample.grad,
): Promise<{ outputs: Map<string, Numbers>; names: string[] }> {
  const { graph, leaves, cotangents, names, without } = buildSample(op, sample, withGrad);
  const bytes = await runGraph(device, graph, [...leaves, ...cotangents], supports);
  const outputs = new Map(
    graph.outputs.map(({ shape, dtype }, i) => [
      names[i],
      { shape, dtype, data: decodeNumbers(bytes[i], dtype) },
    ]),
  );
  return { outputs, names: [...names, ...without] };
}

export interface Conformance {
  readonly device: DeviceName;
  readonly supports: Supports;
  /** Whether a sample is of interest; all of them where not given. */
  readonly takes?: (op: OpDef, sample: Sample) => boolean;
}

/** One test a sample: forward alone, then with gradients in the same program. */
export function conformance(title: string, { device: name, supports, takes }: Conformance): void {
  let device: NativeDevice;
  let goldens: Goldens;
  beforeAll(() => {
    device = openDevice(name);
    goldens = loadGoldens();
  });
  afterAll(() => {
    const { liveBytes } = device.stats();
    device.close();
    if (liveBytes !== 0) throw new Error(`${liveBytes} bytes are still live on ${name}`);
  });

  for (const op of Object.keys(samples) as SampledOp[]) {
    const list: readonly Sample[] = samples[op];
    const wanted = list.filter((sample) => !takes || takes(ops[op] as unknown as OpDef, sample));
    if (wanted.length === 0) continue;
    describe(`${title}: ${op}`, () => {
      it.each(wanted.map((sample) => [sample.name, sample] as const))("%s", async (_, sample) => {
        for (const withGrad of sample.grad ? [false, true] : [false]) {
          const { outputs, names } = await runSample(device, op, sample, supports, withGrad);
          const where = `${title}, ${withGrad ? "with gradients" : "forward"}`;
          if (name !== "null") expectGolden(goldens, where, op, sample, outputs, names);
        }
      });
    });
  }
}
