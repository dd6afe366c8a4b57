import { collectiveNames, type OpName, opTable } from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";
import { expectGolden, loadGoldens, type Numbers } from "./conformance.goldens.js";
import { decodeNumbers, encodeNumbers } from "./ops.samples.data.js";
import { dumpSample } from "./ops.samples.dump.js";
import { buildSample } from "./ops.samples.graph.js";
import { type SampledOp, samples } from "./ops.samples.js";
import type { Sample } from "./ops.samples.types.js";

// Samples and goldens against fx-trace's reference interpreter: plain loops, no device. The interpreter is test code of
// a package, so it has no package name to be imported by.
const referencePath = "../../fx-trace/test/reference.ts";
const reference: {
  evaluate(outputs: readonly unknown[], inputs: readonly ArrayLike<number>[]): { data: Float64Array }[];
} = await import(referencePath);

const goldens = loadGoldens();

/** Integers the interpreter cannot hold: its int64 is exact to 2^53, and so is the int32 product before it wraps. */
const beyondReference = new Set(["square/int64", "prod/int32 wraps"]);

/** Sizes that say nothing new of an op's meaning, and take the interpreter seconds. */
const isForDevices = ({ name }: Sample): boolean => name.startsWith("larger than tiles");

/** JavaScript's math functions are not correctly rounded: in float64 that shows. */
const loosened = (sample: Sample): Sample => {
  const { scale = 1, gradScale = scale } = sample.tolerance;
  return { ...sample, tolerance: { ...sample.tolerance, scale: scale * 10, gradScale: gradScale * 10 } };
};

function evaluateSample(op: OpName, sample: Sample): { outputs: Map<string, Numbers>; names: string[] } {
  const { graph, leaves, cotangents, names, without } = buildSample(op, sample);
  const inputs = [...leaves, ...cotangents].map(({ bytes, dtype }) => decodeNumbers(bytes, dtype));
  const values = reference.evaluate(graph.outputs, inputs);
  const outputs = new Map(
    values.map(({ data }, i) => {
      const { shape, dtype } = graph.outputs[i].type;
      // The reference computes in float64; what a device would store is compared.
      return [names[i], { shape, dtype, data: decodeNumbers(encodeNumbers(data, dtype), dtype) }];
    }),
  );
  return { outputs, names: [...names, ...without] };
}

describe("goldens", () => {
  it("are of the samples as they are now (else run scripts/goldens/ops.py)", () => {
    const digests = Object.fromEntries(
      (Object.entries(samples) as [OpName, readonly Sample[]][]).flatMap(([op, list]) =>
        list.map((sample) => [`${op}/${sample.name}`, dumpSample(op, sample).digest]),
      ),
    );
    expect(digests).toEqual(goldens.digests);
  });

  it("cover every op, and gradients wherever there is one", () => {
    const onMeshes: readonly string[] = collectiveNames;
    for (const { name, differentiable } of opTable.filter((op) => !onMeshes.includes(op.name))) {
      const list: readonly Sample[] = samples[name as SampledOp];
      expect(list.length, name).toBeGreaterThan(1);
      if (differentiable)
        expect(list.filter(({ grad }) => grad).length, `gradients of ${name}`).toBeGreaterThan(0);
    }
  });
});

describe.each(Object.keys(samples) as SampledOp[])("reference: %s", (op) => {
  const list = samples[op].filter(
    (sample: Sample) => !beyondReference.has(`${op}/${sample.name}`) && !isForDevices(sample),
  );
  it.each(list.map((sample: Sample) => [sample.name, sample] as const))("%s", (_, sample) => {
    const { outputs, names } = evaluateSample(op, sample);
    expectGolden(goldens, "reference", op, loosened(sample), outputs, names);
    expect([...goldens.namesOf(op, sample)].sort()).toEqual([...names].sort());
  });
});
