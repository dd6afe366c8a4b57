import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  cse,
  dce,
  decompose,
  foldConstants,
  formatGraph,
  type Graph,
  runPasses,
  simplify,
  standardPasses,
  verify,
} from "../src/index.js";
import { parseGraph } from "../src/parse.js";
import { makeGraph, recipe } from "./random_graph.js";
import { evaluate } from "./reference.js";

const close = (a: number, b: number): boolean =>
  a === b ||
  (Number.isNaN(a) && Number.isNaN(b)) ||
  Math.abs(a - b) <= 1e-9 * Math.max(1, Math.abs(a), Math.abs(b));

function expectSame(before: Graph, after: Graph, data: readonly (readonly number[])[]): void {
  verify(after);
  expect(after.inputs.map((node) => node.attrs.index)).toEqual(before.inputs.map((node) => node.attrs.index));
  expect(after.outputs.map((node) => node.type)).toEqual(before.outputs.map((node) => node.type));
  const wanted = evaluate(before.outputs, data);
  evaluate(after.outputs, data).forEach((got, k) => {
    got.data.forEach((value, i) => {
      if (close(value, wanted[k].data[i])) return;
      expect.fail(
        `output ${k}[${i}] was ${wanted[k].data[i]}, is ${value}\n${formatGraph(before)}\n${formatGraph(after)}`,
      );
    });
  });
}

// Seeded, so that a run says the same every time; raise numRuns to look for more.
const options = { seed: 20240607, numRuns: 100 };

describe("passes keep the values of a graph", { timeout: 60_000 }, () => {
  const passes = {
    dce,
    cse,
    foldConstants,
    simplify,
    decompose: decompose((op) => op.lower !== "kernel"),
    standardPasses: (graph: Graph): Graph =>
      runPasses(
        graph,
        standardPasses((op) => op.name !== "rms_norm"),
        { verify: true },
      ),
  };
  it.each(Object.entries(passes))("%s", (_, pass) => {
    fc.assert(
      fc.property(recipe, (made) => {
        const { graph, data } = makeGraph(made);
        expectSame(graph, pass(graph), data);
      }),
      options,
    );
  });

  it("and what was simplified has nothing left to simplify", () => {
    const size = (graph: Graph): number => dce(cse(graph)).nodes.length;
    fc.assert(
      fc.property(recipe, (made) => {
        const { graph } = makeGraph(made);
        const once = simplify(graph);
        expect(size(simplify(once))).toBeLessThanOrEqual(size(once));
      }),
      options,
    );
  });
});

it("text holds all of a graph", { timeout: 60_000 }, () => {
  fc.assert(
    fc.property(recipe, (made) => {
      const { graph, data } = makeGraph(made);
      const text = formatGraph(graph);
      const read = parseGraph(text);
      expect(formatGraph(read)).toBe(text);
      expectSame(graph, read, data);
    }),
    options,
  );
});
