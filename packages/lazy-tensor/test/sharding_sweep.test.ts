import {
  decompose,
  type Graph,
  isFloat,
  type Node,
  runPasses,
  sizeOf,
  standardPasses,
} from "@lazuli/fx-trace";
import {
  type ContextParallel,
  contextParallels,
  explainSharding,
  type Partitioned,
  type PartitionRequest,
  partition,
} from "@lazuli/sharding";
import { describe, expect, it } from "vitest";
import { everyKernel, noFusedKernel } from "./conformance.harness.js";
import { decodeNumbers } from "./ops.samples.data.js";
import { type BuiltSample, buildSample } from "./ops.samples.graph.js";
import { type SampledOp, samples } from "./ops.samples.js";
import type { Sample } from "./ops.samples.types.js";
import { formatLayouts, type Layouts } from "./sharding.layouts.js";
import { layoutsOf } from "./sharding.sweep.js";

// Every op's samples, forward and with gradients, in many layouts: what the devices of a mesh compute is what one would.
// The simulator is test code of another package, so it has no package name to be imported by.

interface Value {
  readonly data: Float64Array;
}
const simulatePath = "../../sharding/test/simulate.ts";
const {
  simulate,
}: {
  simulate(
    partitioned: Partitioned,
    request: PartitionRequest,
    ends: Graph,
    inputs: readonly ArrayLike<number>[],
  ): Value[];
} = await import(simulatePath);
const referencePath = "../../fx-trace/test/reference.ts";
const { evaluate }: { evaluate(outputs: readonly Node[], inputs: readonly ArrayLike<number>[]): Value[] } =
  await import(referencePath);

/** Elements of the largest value, those inside of fused ops included, above which a sample says nothing new of layouts and takes the interpreter long. */
const LARGEST = 2500;
const isSmall = (graph: Graph): boolean =>
  decompose(noFusedKernel)(graph).nodes.every(({ types }) =>
    types.every(({ shape }) => sizeOf(shape) <= LARGEST),
  );

/** The int32 product before it wraps is beyond what float64 holds, so the order of the factors shows. */
const beyondReference = new Set(["prod/int32 wraps"]);

/** Sums are taken in another order on a mesh; integers are exact. */
function difference(got: Float64Array, expected: Float64Array, isExact: boolean): string | null {
  const largest = expected.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0);
  for (let i = 0; i < expected.length; i++) {
    if (got[i] === expected[i] || (Number.isNaN(got[i]) && Number.isNaN(expected[i]))) continue;
    const allowed = isExact ? 0 : 1e-9 * Math.abs(expected[i]) + 1e-13 * (1 + largest);
    if (!(Math.abs(got[i] - expected[i]) <= allowed))
      return `element ${i} is ${got[i]}, on one device ${expected[i]}`;
  }
  return null;
}

interface Prepared {
  readonly built: BuiltSample;
  readonly graph: Graph;
  readonly inputs: readonly Float64Array[];
  readonly expected: readonly Float64Array[];
}

/** The sample's graph as the engine hands it to the partitioner. */
function prepare(op: SampledOp, sample: Sample, withGrad: boolean): Prepared | null {
  const built = buildSample(op, sample, withGrad);
  if (!isSmall(built.graph)) return null;
  const graph = runPasses(built.graph, standardPasses(everyKernel));
  const inputs = [...built.leaves, ...built.cotangents].map(({ bytes, dtype }) =>
    decodeNumbers(bytes, dtype),
  );
  return { built, graph, inputs, expected: evaluate(graph.outputs, inputs).map(({ data }) => data) };
}

/** What is wrong in one layout, or null. */
function tryLayouts(
  { graph, inputs, expected }: Prepared,
  layouts: Layouts,
  contextParallel: ContextParallel,
): string | null {
  try {
    const partitioned = partition(graph, { ...layouts, contextParallel });
    const sent = explainSharding(partitioned.graph, layouts.mesh).filter(({ bytes }) => bytes > 0);
    if (layouts.isLocal && sent.length > 0)
      return `sends without need: ${sent.map(({ op }) => op).join(", ")}`;
    const found = simulate(partitioned, layouts, graph, inputs);
    for (const [i, { data }] of found.entries()) {
      const problem = difference(data, expected[i], !isFloat(graph.outputs[i].dtype));
      if (problem) return `output ${i}: ${problem}`;
    }
    return null;
  } catch (error) {
    return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  }
}

let count = 0;
let localCount = 0;

describe("on a mesh as on one device", () => {
  it.each(Object.keys(samples) as SampledOp[])(
    "%s",
    (op) => {
      const problems: string[] = [];
      let tried = 0;
      for (const sample of samples[op] as readonly Sample[]) {
        if (beyondReference.has(`${op}/${sample.name}`)) continue;
        for (const withGrad of sample.grad ? [false, true] : [false]) {
          const prepared = prepare(op, sample, withGrad);
          if (!prepared) continue;
          for (const layouts of layoutsOf(op, sample, prepared.built)) {
            const mode = contextParallels[tried++ % contextParallels.length];
            if (layouts.isLocal) localCount++;
            const problem = tryLayouts(prepared, layouts, mode);
            if (problem)
              problems.push(
                `${sample.name}${withGrad ? ", with gradients" : ""}: ${mode}, ${formatLayouts(layouts)}\n    ${problem}`,
              );
          }
        }
      }
      count += tried;
      expect(tried).toBeGreaterThan(0);
      expect(problems, `${problems.length} of ${tried} layouts fail`).toEqual([]);
    },
    30_000,
  );

  it("was tried in thousands of layouts", () => {
    expect(count).toBeGreaterThan(10_000);
    expect(localCount).toBeGreaterThan(1000);
  });
});
