import { formatGraph, type Graph, verify } from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";
import { type OverlapOptions, overlapCollectives } from "../src/index.js";

// Not part of what fx-trace offers. Behind a name, so that its sources stay outside this project's.
const parsePath = "../../fx-trace/src/parse.ts";
const { parseGraph }: { parseGraph(text: string): Graph } = await import(parsePath);

/** What the pass makes of a graph, by the names of the graph given: `start g0`, `wait g0 in 3` where it has a bucket, `y0`. */
function overlapped(text: string, options: OverlapOptions = {}): string {
  const before = parseGraph(text);
  const names = [...text.matchAll(/%(\w+) = /g)].map(([, name]) => name);
  const graph = overlapCollectives(before, { worthSeconds: 0, ...options });
  verify(graph);
  // It reads what it prints.
  expect(formatGraph(parseGraph(formatGraph(graph)))).toBe(formatGraph(graph));
  // A value is known by its op, module and operands.
  const keyOf = (known: Map<unknown, string>, node: (typeof graph.nodes)[number]): string =>
    [node.op.name, node.scope, JSON.stringify(node.attrs), ...node.inputs.map((x) => known.get(x))].join();
  const given = new Map<unknown, string>();
  const byKey = new Map<string, string>();
  before.nodes.forEach((node, i) => {
    byKey.set(keyOf(given, node), names[i]);
    given.set(node, names[i]);
  });
  const known = new Map<unknown, string>();
  const started = new Set(
    graph.nodes.filter(({ op }) => op.name === "collective_done").map((x) => x.inputs[0]),
  );
  const lines: string[] = [];
  for (const node of graph.nodes) {
    if (node.op.name === "collective_done") {
      const name = known.get(node.inputs[0]) as string;
      known.set(node, name);
      const bucket = node.attrs.bucket as number;
      lines.push(`wait ${name}${bucket >= 0 ? ` in ${bucket}` : ""}`);
      continue;
    }
    const name = byKey.get(keyOf(known, node)) as string;
    known.set(node, name);
    if (node.op.name !== "input") lines.push(started.has(node) ? `start ${name}` : name);
  }
  return lines.join("; ");
}

const dims = "{lhs_contract=[1], rhs_contract=[0], lhs_batch=[], rhs_batch=[]}";
const across = "mesh=[2, 4], axes=[1]";

/** Four blocks, each with two parameters of 128 bytes that are gathered when it begins; the first is used again at the end. */
const blocks = `
  %x = input() {index=0, shape=[8, 8], dtype=float32}
${[0, 1, 2, 3].map((i) => `  %v${i} = input() {index=${2 * i + 1}, shape=[4, 8], dtype=float32}\n  %w${i} = input() {index=${2 * i + 2}, shape=[4, 8], dtype=bfloat16}`).join("\n")}
${[0, 1, 2, 3]
  .map(
    (i) => `
  %g${i} = all_gather(%v${i}) {mesh=[2], axes=[0], dim=0}  # layers.${i}
  %c${i} = cast(%w${i}) {dtype=float32}  # layers.${i}
  %h${i} = all_gather(%c${i}) {mesh=[2], axes=[0], dim=0}  # layers.${i}
  %t${i} = transpose(%h${i}) {perm=[1, 0]}  # layers.${i}
  %y${i} = dot_general(${i === 0 ? "%x" : `%z${i - 1}`}, %g${i}) ${dims}  # layers.${i}
  %z${i} = dot_general(%y${i}, %t${i}) ${dims}  # layers.${i}`,
  )
  .join("")}
  outputs %z3
`;

describe("parameters", () => {
  it("of a block are under way, as one, while the block before computes", () => {
    expect(overlapped(blocks)).toBe(
      "start g0; c0; start h0; start g1; c1; start h1; wait g0 in 0; y0; wait h0 in 0; t0; z0; " +
        "start g2; c2; start h2; wait g1 in 1; y1; wait h1 in 1; t1; z1; " +
        "start g3; c3; start h3; wait g2 in 2; y2; wait h2 in 2; t2; z2; " +
        "wait g3 in 3; y3; wait h3 in 3; t3; z3",
    );
  });

  it("are there for one block more with each that is prefetched", () => {
    expect(overlapped(blocks, { prefetch: 2 })).toBe(
      "start g0; c0; start h0; start g1; c1; start h1; start g2; c2; start h2; wait g0 in 0; y0; wait h0 in 0; t0; z0; " +
        "start g3; c3; start h3; wait g1 in 1; y1; wait h1 in 1; t1; z1; " +
        "wait g2 in 2; y2; wait h2 in 2; t2; z2; wait g3 in 3; y3; wait h3 in 3; t3; z3",
    );
    expect(overlapped(blocks, { prefetch: 0 })).not.toMatch(/start|wait/);
  });

  it("of more bytes than a bucket takes go one by one", () => {
    expect(overlapped(blocks, { bucketBytes: 128 })).toMatch(
      /^c0; start h0; g0; start g1; c1; start h1; y0; wait h0; t0; z0; start g2; .*; wait g3; y3; wait h3; t3; z3$/,
    );
  });
});

/** Backward of three blocks, then their optimizers: the gradients' addends are there one after the other. */
const gradients = `
  %x = input() {index=0, shape=[8, 8], dtype=float32}
${[0, 1, 2].map((i) => `  %p${i} = input() {index=${i + 1}, shape=[4, 8], dtype=float32}`).join("\n")}
  %a0 = dot_general(%x, %x) ${dims}  # layers.2.up
  %a1 = dot_general(%a0, %x) ${dims}  # layers.1.up
  %a2 = dot_general(%a1, %x) ${dims}  # layers.0.up
  %last = dot_general(%a2, %x) ${dims}
${[0, 1, 2].map((i) => `  %s${i} = reduce_scatter(%a${i}) {mesh=[2], axes=[0], kind=sum, dim=0}\n  %n${i} = sub(%p${i}, %s${i})`).join("\n")}
  outputs %n0, %n1, %n2, %last
`;

describe("gradients", () => {
  it("start where their addends are there, in buckets", () => {
    expect(overlapped(gradients, { bucketBytes: 512 })).toBe(
      "a0; a1; start s0; start s1; a2; start s2; last; wait s0 in 0; n0; wait s1 in 0; n1; wait s2; n2",
    );
    expect(overlapped(gradients, { bucketBytes: 256, prefetch: 9 })).toBe(
      "a0; start s0; a1; start s1; a2; start s2; last; wait s0; n0; wait s1; n1; wait s2; n2",
    );
  });

  it("are waited for before more than `prefetch` buckets are under way", () => {
    expect(overlapped(gradients, { bucketBytes: 256, prefetch: 1 })).toBe(
      "a0; start s0; a1; start s1; a2; wait s0; start s2; last; n0; wait s1; n1; wait s2; n2",
    );
    expect(overlapped(gradients, { bucketBytes: 256, prefetch: 0 })).toBe(
      "a0; start s0; a1; wait s0; start s1; a2; wait s1; start s2; last; n0; n1; wait s2; n2",
    );
  });
});

describe("other collectives", () => {
  const text = `
  %x = input() {index=0, shape=[64, 64], dtype=float32}
  %a = exp(%x)
  %m = dot_general(%x, %x) ${dims}
  %s = all_reduce(%a) {${across}, kind=sum}
  %v = reshape(%s) {shape=[4096]}
  %n = dot_general(%m, %x) ${dims}
  %r = softmax(%v)
  %q = all_reduce(%r) {${across}, kind=sum}
  %e = exp(%q)
  %f = dot_general(%n, %x) ${dims}
  outputs %e, %f
`;
  it("start where the operand is there and are waited for where the value is read, behind views", () => {
    expect(overlapped(text)).toBe("a; start s; m; n; wait s; v; r; q; e; f");
  });

  it("stay where they are if too little is computed in between", () => {
    expect(overlapped(text, { worthSeconds: 1 })).toBe("a; m; s; v; n; r; q; e; f");
  });
});
