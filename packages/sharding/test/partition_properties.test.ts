import { formatGraph, type Graph, runPasses, standardPasses } from "@lazuli/fx-trace";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  combineSmallSums,
  formatDims,
  overlapCollectives,
  type Partitioned,
  partition,
} from "../src/index.js";
import { makeSharded, recipe, type Sharded } from "./random_sharded.js";
import { evaluate, type Value } from "./reference.js";
import { simulate } from "./simulate.js";

// Seeded, so that a run says the same every time; raise numRuns to look for more.
const options = { seed: 20261122, numRuns: 400 };

/** Whole numbers below this stay exact however they are added up. */
const EXACT = 2 ** 40;

/** What every value of the graph is, or null where the numbers outgrow float64. */
function evaluateWhole({ graph, data }: Sharded): Value[] | null {
  const values = graph.nodes.filter(({ types }) => types.length === 1);
  const found = evaluate(values, data);
  if (found.some((value) => value.data.some((x) => Math.abs(x) > EXACT))) return null;
  return graph.outputs.map((output) => found[values.indexOf(output)]);
}

function expectSame(sharded: Sharded, partitioned: Partitioned, wanted: readonly Value[]): void {
  const { graph, request, data } = sharded;
  const where = (): string => {
    const { mesh, inputs, outputs } = request;
    const layouts = [...inputs, null, ...outputs].map((dims) => (dims ? formatDims(mesh, dims) : "?"));
    return `\n${mesh} ${layouts.join(" ")}\n${formatGraph(graph)}\n${formatGraph(partitioned.graph)}`;
  };
  let found: Value[];
  try {
    found = simulate(partitioned, request, graph, data);
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}${where()}`, { cause: error });
  }
  found.forEach((value, k) => {
    value.data.forEach((x, i) => {
      if (x !== wanted[k].data[i])
        expect.fail(`output ${k}[${i}] is ${x}, on one device ${wanted[k].data[i]}${where()}`);
    });
  });
}

describe("a partitioned graph gives what the graph gives", { timeout: 60_000 }, () => {
  it("as recorded", () => {
    fc.assert(
      fc.property(recipe, (made) => {
        const sharded = makeSharded(made);
        const wanted = evaluateWhole(sharded);
        fc.pre(wanted !== null);
        expectSame(sharded, partition(sharded.graph, sharded.request), wanted as Value[]);
      }),
      options,
    );
  });

  it("after the passes, and with the local graph going through them again, small sums combined", () => {
    const passes = standardPasses((op) => op.lower !== "composite");
    fc.assert(
      fc.property(recipe, (made) => {
        const sharded = makeSharded(made);
        const wanted = evaluateWhole(sharded);
        fc.pre(wanted !== null);
        const graph = runPasses(sharded.graph, passes);
        const { graph: local, outputs } = partition(graph, sharded.request);
        const simplified = {
          graph: runPasses(local, [...passes, combineSmallSums], { verify: true }),
          outputs,
        };
        expectSame({ ...sharded, graph }, simplified, wanted as Value[]);
      }),
      options,
    );
  });

  it("with collectives started early, in buckets of any size", () => {
    const passes = standardPasses((op) => op.lower !== "composite");
    const anyPlacing = fc.record({
      bucketBytes: fc.constantFrom(1, 100, 1e9),
      prefetch: fc.nat(3),
      worthSeconds: fc.constantFrom(0, Number.MIN_VALUE, 1e-6),
    });
    let started = 0;
    let joined = 0;
    fc.assert(
      fc.property(recipe, anyPlacing, (made, placing) => {
        const sharded = makeSharded(made);
        const wanted = evaluateWhole(sharded);
        fc.pre(wanted !== null);
        const { graph: local, outputs } = partition(sharded.graph, sharded.request);
        const overlapped = (graph: Graph): Graph => overlapCollectives(graph, placing);
        const graph = runPasses(local, [...passes, combineSmallSums, overlapped], { verify: true });
        const dones = graph.nodes.filter(({ op }) => op.name === "collective_done");
        started += dones.length;
        joined += dones.filter(({ attrs }) => (attrs.bucket as number) >= 0).length;
        expectSame(sharded, { graph, outputs }, wanted as Value[]);
      }),
      options,
    );
    expect(started).toBeGreaterThan(100);
    expect(joined).toBeGreaterThan(20);
  });
});
