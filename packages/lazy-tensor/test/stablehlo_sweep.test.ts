import { type NativeDevice, openDevice } from "@lazuli/cuda-backend";
import { isFloat, type OpDef, ops, toStableHLO, UnsupportedOpError } from "@lazuli/fx-trace";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { everyKernel, runGraph } from "./conformance.harness.js";
import { decodeNumbers } from "./ops.samples.data.js";
import { type BuiltSample, buildSample } from "./ops.samples.graph.js";
import { type SampledOp, samples } from "./ops.samples.js";
import type { Sample } from "./ops.samples.types.js";
import { findJax, runXla } from "./xla.js";

// Samples of every op, forward and backward, through XLA against our own kernels.
const python = findJax();

/** What draws random numbers has no counterpart. */
const drawn = (op: SampledOp): boolean => (ops[op] as unknown as OpDef).unique;

/** Some samples of each op: XLA takes a second to compile a dozen. */
function chosen(op: SampledOp): Sample[] {
  const list = samples[op].filter(
    (sample: Sample) => !["larger than tiles", "1031", "many"].some((size) => sample.name.includes(size)),
  );
  const wanted = ["special", "bfloat16", "int64", "uint8", "bool"];
  return list.filter((sample: Sample, i) => i < 1 || wanted.includes(sample.name));
}

interface Case {
  readonly op: SampledOp;
  readonly sample: Sample;
  readonly built: BuiltSample;
}

/** Bits of a result's significand, whichever is computed in: fused kernels of float64 keep some rows in float32. */
const precision = { float64: 5e-6, float32: 5e-5, bfloat16: 2e-2, float16: 3e-3 } as const;

describe.skipIf(python === null)("StableHLO through XLA", () => {
  const cases: Case[] = (Object.keys(samples) as SampledOp[])
    .filter((op) => op !== "input" && !drawn(op))
    .flatMap((op) => chosen(op).map((sample) => ({ op, sample, built: buildSample(op, sample) })));
  let device: NativeDevice;
  let found: ReturnType<typeof runXla>;
  beforeAll(() => {
    device = openDevice("cpu");
    found = runXla(
      python as string,
      cases.map(({ built: { graph, leaves, cotangents } }) => ({
        text: toStableHLO(graph),
        inputs: [...leaves, ...cotangents],
        outputs: graph.outputs.map(({ type }) => type),
      })),
    );
  }, 600_000);
  afterAll(() => device?.close());

  it.each(cases.map((each, i) => [`${each.op}/${each.sample.name}`, i] as const))("%s", async (_, i) => {
    const { graph, leaves, cotangents, names } = cases[i].built;
    const outputs = found[i];
    if (outputs instanceof Error) throw outputs;
    const wanted = await runGraph(device, graph, [...leaves, ...cotangents], everyKernel);
    graph.outputs.forEach(({ dtype }, k) => {
      const [a, b] = [decodeNumbers(outputs[k], dtype), decodeNumbers(wanted[k], dtype)];
      const largest = b.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 1);
      const bound = isFloat(dtype) ? precision[dtype as keyof typeof precision] * largest : 0;
      for (let j = 0; j < b.length; j++) {
        if (Object.is(a[j], b[j]) || a[j] === b[j] || (Number.isNaN(a[j]) && Number.isNaN(b[j]))) continue;
        if (!(Math.abs(a[j] - b[j]) <= bound))
          expect.fail(`${names[k]}: element ${j} is ${a[j]} by XLA, ${b[j]} by us`);
      }
    });
  });
});

describe("StableHLO text", () => {
  it("names every op it has no counterpart of, and where", () => {
    const draws = buildSample("random_uniform", samples.random_uniform[0] as Sample);
    expect(() => toStableHLO(draws.graph)).toThrow(UnsupportedOpError);
    expect(() => toStableHLO(draws.graph)).toThrow(/StableHLO has no random_uniform/);
  });
});
