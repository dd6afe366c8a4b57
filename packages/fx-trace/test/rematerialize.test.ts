import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  cse,
  dce,
  formatGraph,
  type Graph,
  liveBytes,
  type Node,
  rematerialize,
  rematSteps,
  verify,
} from "../src/index.js";
import { graphOf } from "./graph_text.js";
import { makeGraph, recipe } from "./random_graph.js";
import { evaluate } from "./reference.js";

const named = (graph: Graph, op: string): Node[] => graph.nodes.filter((node) => node.op.name === op);
const peak = (graph: Graph): number => liveBytes(graph).peakBytes;
const dot = (contract: string): string =>
  `{lhs_contract=[1], rhs_contract=[${contract}], lhs_batch=[], rhs_batch=[]}`;
const weightGrad = "{lhs_contract=[0], rhs_contract=[0], lhs_batch=[], rhs_batch=[]}";

/** Layers of x → silu(x w), and their gradients for w: each keeps a product and its silu for later. */
function layers(count: number): Graph {
  const lines: string[] = [];
  for (let i = 0; i < count; i++) {
    lines.push(`%p${i} = dot_general(${i === 0 ? "%x" : `%h${i - 1}`}, %w) ${dot("0")}`);
    lines.push(`%h${i} = silu(%p${i})`);
  }
  let cotangent = "%x";
  for (let i = count - 1; i >= 0; i--) {
    lines.push(`%s${i} = silu_grad(%p${i}, ${cotangent})`);
    lines.push(`%g${i} = dot_general(${i === 0 ? "%x" : `%h${i - 1}`}, %s${i}) ${weightGrad}`);
    lines.push(`%t${i} = dot_general(%s${i}, %w) ${dot("1")}`);
    cotangent = `%t${i}`;
  }
  lines.push(`outputs ${Array.from({ length: count }, (_, i) => `%g${i}`).join(", ")}`);
  return dce(graphOf("%x float32[8, 128]; %w float32[128, 128]", lines.join("\n")));
}
/** Of a layer's value. */
const BYTES = 8 * 128 * 4;

describe("liveBytes", () => {
  it("counts what lies between its op and its last reader, views and kernels of several ops as one, outputs not", () => {
    const graph = graphOf(
      "%a float32[256]",
      "%b = sort(%a) {dim=0, descending=false}\n%v = result(%b) {index=0}\n%r = reshape(%v) {shape=[16, 16]}\n" +
        "%e = exp(%v)\n%n = neg(%e)\n%m = softmax(%n)\n%q = reshape(%r) {shape=[256]}\n%o = add(%m, %q)\noutputs %o",
    );
    const { live, stored } = liveBytes(graph);
    const names = [...stored.keys()].map(({ op }) => op.name);
    // exp is inside neg's kernel, the reshapes are views of what sort gives.
    expect(names).toEqual(["result", "neg", "softmax", "add"]);
    const at = (op: string): number => live[graph.nodes.findIndex((node) => node.op.name === op)];
    expect(at("softmax")).toBe(2 * 1024); // over its operand, and the sorted value is read later
    expect(at("add")).toBe(2 * 1024);
  });

  it("adds what a kernel takes while it runs", () => {
    const graph = layers(2);
    const [first] = named(graph, "silu");
    const plain = liveBytes(graph);
    const with_ = liveBytes(graph, (node) => (node === first ? 1e6 : 0));
    expect(with_.peakBytes).toBe(plain.live[with_.peakAt] + 1e6);
    expect(graph.nodes[with_.peakAt]).toBe(first);
  });
});

describe("rematerialize", () => {
  it("leaves a graph that is within the budget as it is", () => {
    const graph = layers(3);
    const { graph: same, recomputed } = rematerialize(graph, { budgetBytes: peak(graph) });
    expect(same).toBe(graph);
    expect(recomputed).toBe(0);
  });

  it("computes what is cheap again, behind a barrier that cse does not see through", () => {
    const graph = layers(6);
    const before = peak(graph);
    const made = rematerialize(graph, { budgetBytes: before - 3 * BYTES });
    verify(made.graph);
    expect(made.peakBytes).toBeLessThanOrEqual(before - 3 * BYTES);
    expect(peak(made.graph)).toBe(made.peakBytes);
    expect(made.flops).toBe(0);
    expect(named(made.graph, "dot_general")).toHaveLength(named(graph, "dot_general").length);
    const elementwise = (each: Graph): number => named(each, "silu").length + named(each, "silu_grad").length;
    const again = elementwise(made.graph) - elementwise(graph);
    expect(again).toBe(made.recomputed);
    expect(again).toBeGreaterThan(0);
    expect(again).toBeLessThan(6);
    expect(named(made.graph, "barrier").length).toBeGreaterThanOrEqual(again);
    const merged = dce(cse(made.graph));
    expect(elementwise(merged)).toBe(elementwise(made.graph));
  });

  it("computes products again only where that is not enough, and each value once at most", () => {
    const graph = layers(8);
    const steps = [...rematSteps(graph)];
    const firstProduct = steps.findIndex(({ flops }) => flops > 0);
    expect(firstProduct).toBeGreaterThan(2);
    let last = Number.POSITIVE_INFINITY;
    for (const step of steps) {
      verify(step.graph);
      expect(step.peakBytes).toBeLessThan(last);
      expect(step.recomputed).toBeLessThanOrEqual(16);
      expect(named(step.graph, "dot_general").length).toBeLessThanOrEqual(
        named(graph, "dot_general").length + 8,
      );
      last = step.peakBytes;
    }
    expect(last).toBeLessThan(peak(graph) / 2);
  });

  it("gives the smallest peak it finds where the budget is less", () => {
    const graph = layers(4);
    const lowest = [...rematSteps(graph)].at(-1);
    const made = rematerialize(graph, { budgetBytes: 1 });
    expect(made.peakBytes).toBe(lowest?.peakBytes);
    expect(made.peakBytes).toBeGreaterThan(1);
  });

  it("draws the same random numbers again, from the same key and stream", () => {
    const mask =
      "%u = random_uniform(%k) {stream=7, shape=[32, 32], whole=[32, 32], dtype=float32}\n%d = mul(%a, %u)\n" +
      `%p = dot_general(%d, %w) ${dot("0")}\n%q = dot_general(%p, %w) ${dot("0")}\n%r = dot_general(%q, %w) ${dot("0")}\n` +
      `%g = dot_general(%d, %r) ${weightGrad}\noutputs %g`;
    const graph = graphOf("%a float32[32, 32]; %k int64[2]; %w float32[32, 32]", mask);
    const made = rematerialize(graph, { budgetBytes: peak(graph) - BYTES });
    verify(made.graph);
    const draws = named(made.graph, "random_uniform");
    expect(draws).toHaveLength(2);
    expect(draws[1].attrs).toEqual(draws[0].attrs);
    expect(draws[1].inputs).toEqual(draws[0].inputs);
  });

  it("runs collectives again only if told, and never an update", () => {
    const graph = graphOf(
      "%x float32[32, 32]; %w float32[32, 32]; %m float32[32, 32]; %v float32[32, 32]; %lr float32[]; %step float32[]",
      `%g = all_gather(%x) {mesh=[2], axes=[0], dim=0}\n%a = dot_general(%g, %w) ${dot("0")}\n` +
        `%b = dot_general(%a, %w) ${dot("0")}\n%c = dot_general(%b, %w) ${dot("0")}\n` +
        `%d = dot_general(%g, %c) ${weightGrad}\n` +
        "%u = adamw_update(%w, %d, %m, %v, %lr, %step) {beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0, decoupled=true}\n" +
        "%n = result(%u) {index=0}\noutputs %n",
    );
    const count = (collectives: boolean): number =>
      named(rematerialize(graph, { budgetBytes: 1, collectives }).graph, "all_gather").length;
    expect(count(false)).toBe(1);
    expect(count(true)).toBe(2);
    for (const { graph: each } of rematSteps(graph, { collectives: true }))
      expect(named(each, "adamw_update")).toHaveLength(1);
  });

  it("is deterministic", () => {
    const text = (): string => formatGraph(rematerialize(layers(5), { budgetBytes: 4 * BYTES }).graph);
    expect(text()).toBe(text());
  });

  it("computes what the graph does, bit for bit, at every step", { timeout: 60_000 }, () => {
    fc.assert(
      fc.property(recipe, (made) => {
        const { graph, data } = makeGraph(made);
        const wanted = evaluate(graph.outputs, data);
        for (const step of rematSteps(graph)) {
          verify(step.graph);
          expect(step.graph.inputs.map(({ attrs }) => attrs.index)).toEqual(
            graph.inputs.map(({ attrs }) => attrs.index),
          );
          expect(evaluate(step.graph.outputs, data)).toEqual(wanted);
        }
      }),
      { numRuns: 100 },
    );
    const graph = layers(5);
    const data = [0, 1].map((k) =>
      Array.from({ length: k === 0 ? 1024 : 128 * 128 }, (_, i) => Math.sin(i * 7 + k) / 8),
    );
    const wanted = evaluate(graph.outputs, data);
    for (const step of rematSteps(graph)) expect(evaluate(step.graph.outputs, data)).toEqual(wanted);
  });
});
