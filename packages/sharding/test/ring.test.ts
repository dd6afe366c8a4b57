import {
  buildGraph,
  type DType,
  formatType,
  type Graph,
  input,
  type Node,
  ops,
  resultsOf,
  sizeOf,
} from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";
import { type ContextParallel, type Dims, Mesh, type PartitionRequest, partition } from "../src/index.js";
import { evaluate } from "./reference.js";
import { divide, runLocal, simulate } from "./simulate.js";

interface Sizes {
  readonly B: number;
  readonly H: number;
  readonly G: number;
  readonly T: number;
  readonly K: number;
  readonly Kv: number;
}
interface Attention extends Sizes {
  readonly causal: boolean;
  readonly offset: number;
  readonly window: number;
  readonly withLse: boolean;
  readonly dtype: DType;
}

const standard: Attention = {
  ...{ B: 2, H: 4, G: 2, T: 24, K: 3, Kv: 5 },
  causal: true,
  offset: 0,
  window: 0,
  withLse: false,
  dtype: "float32",
};

/** q, k, v, dout, dlse → out, lse, dq, dk, dv. */
function attention({ B, H, G, T, K, Kv, causal, offset, window, withLse, dtype }: Attention): Graph {
  const attrs = { causal, offset, scale: 0.6, window };
  const shapes = [
    [B, H, T, K],
    [B, G, T, K],
    [B, G, T, Kv],
    [B, H, T, Kv],
    [B, H, T],
  ];
  return buildGraph(() => {
    const [q, k, v, dout, dlse] = shapes.map((shape, index) =>
      input([], { index, shape, dtype: index === 4 ? "float32" : dtype }),
    );
    const [out, lse] = resultsOf(ops.attention([q, k, v], attrs));
    const rows = withLse ? [dout, dlse] : [dout];
    const grads = resultsOf(ops.attention_grad([q, k, v, out, lse, ...rows], attrs));
    // dlse is an input in any case.
    return [out, lse, ...grads, ops.neg([dlse])];
  });
}

/** Numbers about 0, different in every place. */
const numbers = (count: number, seed: number): number[] =>
  Array.from({ length: count }, (_, i) => Math.sin((i + 1) * (seed + 1.7)) * 1.3);

interface Laid {
  readonly mesh: Mesh;
  readonly mode?: ContextParallel;
  /** Axes of batch, heads and sequence. */
  readonly batch?: readonly number[];
  readonly heads?: readonly number[];
  readonly sequence?: readonly number[];
}

function request({ mesh, mode, batch = [], heads = [], sequence = [0] }: Laid): PartitionRequest {
  const four: Dims = [batch, heads, sequence, []];
  const row: Dims = [batch, heads, sequence];
  return {
    mesh,
    ...(mode && { contextParallel: mode }),
    inputs: [four, four, four, four, row],
    outputs: [null, null, null, null, null, null],
  };
}

/** What the devices make of it is what one would; gives the local graph and how its outputs lie. */
function check(given: Partial<Attention>, laid: Laid): { local: Graph; outputs: readonly Dims[] } {
  const graph = attention({ ...standard, ...given });
  const asked = request(laid);
  const data = graph.inputs.map(({ shape }, i) => numbers(sizeOf(shape), i));
  const partitioned = partition(graph, asked);
  const found = simulate(partitioned, asked, graph, data);
  const wanted = evaluate(graph.outputs, data);
  found.forEach((value, k) => {
    value.data.forEach((x, i) => {
      const want = wanted[k].data[i];
      if (x === want) return;
      if (!(Math.abs(x - want) <= 1e-11 * (1 + Math.abs(want))))
        expect.fail(`output ${k}[${i}] is ${x}, on one device ${want}`);
    });
  });
  return { local: partitioned.graph, outputs: partitioned.outputs };
}

const line = (n: number): Mesh => new Mesh({ context: n });
const count = (graph: Graph, name: string): number => graph.nodes.filter(({ op }) => op.name === name).length;
const collectives = (graph: Graph): Record<string, number> =>
  Object.fromEntries(
    ["collective_permute", "all_to_all", "all_gather", "all_reduce", "reduce_scatter"]
      .map((name) => [name, count(graph, name)] as const)
      .filter(([, times]) => times > 0),
  );
/** Permutes of n devices, forward and backward: k and v twice, dk and dv once more than there are steps between. */
const permutes = (n: number): number => 2 * (n - 1) + 2 * (n - 1) + 2 * n;

const heads = [
  { H: 4, G: 4 },
  { H: 4, G: 2 },
  { H: 3, G: 1 },
];

describe("ring attention gives what one device gives", () => {
  for (const n of [2, 4])
    for (const causal of [false, true])
      it.each(heads)(`n = ${n}, causal ${causal}, %j`, (of) => {
        for (const withLse of [false, true]) {
          const { local, outputs } = check({ ...of, causal, withLse }, { mesh: line(n), mode: "ring" });
          expect(collectives(local)).toEqual({ collective_permute: permutes(n) });
          for (const dims of outputs) expect(dims[2]).toEqual([0]);
        }
      });

  it.each([1, 7, 100, -1, -5, -6, -23, -24, -100, 2 ** 40, -(2 ** 40)])("offset %i", (offset) => {
    // Below 0 the first rows see nothing: their lse is -inf in every step. From -24 on no row sees anything.
    check({ offset, withLse: offset >= 0 }, { mesh: line(4), mode: "ring" });
  });

  it("one position a device", () => {
    check({ T: 4 }, { mesh: line(4), mode: "ring" });
  });

  it("beside divided batch and heads", () => {
    const mesh = new Mesh({ data: 2, context: 2, tensor: 2 });
    const { local } = check({}, { mesh, mode: "ring", batch: [0], heads: [2], sequence: [1] });
    expect(collectives(local)).toEqual({ collective_permute: permutes(2) });
  });

  it("beside heads that share keys, which are summed over devices", () => {
    const mesh = new Mesh({ context: 2, tensor: 2 });
    const shared = { mesh, mode: "ring" as const, sequence: [0] };
    const graph = attention({ ...standard, H: 3, G: 1 });
    const asked = request(shared);
    const inputs = asked.inputs.map((dims, i) => (i === 1 || i === 2 ? dims : dims.with(1, [1])));
    const data = graph.inputs.map(({ shape }, i) => numbers(sizeOf(shape), i));
    const found = simulate(partition(graph, { ...asked, inputs }), { ...asked, inputs }, graph, data);
    const wanted = evaluate(graph.outputs, data);
    found.forEach(({ data: got }, k) => {
      expect(Math.max(...got.map((x, i) => Math.abs(x - wanted[k].data[i])))).toBeLessThan(1e-10);
    });
  });

  it("around two axes", () => {
    const mesh = new Mesh({ a: 2, b: 2 });
    for (const sequence of [
      [0, 1],
      [1, 0],
    ])
      expect(collectives(check({}, { mesh, mode: "ring", sequence }).local)).toEqual({
        collective_permute: permutes(4),
      });
  });
});

describe("zig-zag gives what one device gives", () => {
  for (const n of [2, 3, 4])
    it.each(heads)(`n = ${n}, %j`, (of) => {
      for (const withLse of [false, true]) {
        const { local, outputs } = check({ ...of, withLse }, { mesh: line(n), mode: "zigzag" });
        expect(count(local, "attention")).toBe(3 * n);
        expect(Object.keys(collectives(local))).toEqual(["collective_permute"]);
        for (const dims of outputs) expect(dims[2]).toEqual([0]);
        expect(local.nodes.flatMap(({ types }) => types).filter(({ shape }) => shape.includes(24))).toEqual(
          [],
        );
      }
    });

  it("beside divided batch and heads, and around two axes", () => {
    const mesh = new Mesh({ data: 2, context: 2, tensor: 2 });
    check({}, { mesh, mode: "zigzag", batch: [0], heads: [2], sequence: [1] });
    check({}, { mesh: new Mesh({ a: 2, b: 2 }), mode: "zigzag", sequence: [1, 0] });
  });

  it("is the plain ring without a mask, with another offset, and for parts of odd length", () => {
    for (const given of [{ causal: false }, { offset: 3 }, { offset: -3 }, { T: 20 }])
      expect(collectives(check(given, { mesh: line(4), mode: "zigzag" }).local)).toEqual({
        collective_permute: permutes(4),
      });
  });

  /** By step and device, the (query, key) pairs that see each other in `blocks` calls of attention. */
  function pairs(mode: ContextParallel, blocks: number): number[][] {
    const mesh = line(4);
    const asked = request({ mesh, mode });
    const graph = attention(standard);
    const { graph: local } = partition(graph, asked);
    const calls = local.nodes.filter(({ op }) => op.name === "attention");
    const shifts = calls.flatMap(({ inputs }) => (inputs[3] ? [inputs[3]] : []));
    const parts = graph.inputs.map((type, i) =>
      divide(mesh, type, asked.inputs[i], new Float64Array(sizeOf(type.shape))),
    );
    const found = runLocal({ ...local, outputs: shifts }, mesh, parts);
    const steps: number[][] = [];
    for (const [i, { inputs, attrs }] of calls.entries()) {
      const length = inputs[0].shape[2];
      steps[Math.floor(i / blocks)] ??= [0, 0, 0, 0];
      for (let device = 0; device < 4; device++) {
        const shift = inputs[3] ? found[shifts.indexOf(inputs[3])][device].data[0] : 0;
        for (let query = 0; query < length; query++)
          steps[Math.floor(i / blocks)][device] += attrs.causal
            ? Math.min(Math.max(query + shift + 1, 0), length)
            : length;
      }
    }
    return steps;
  }

  it("every device has the same work in every step", () => {
    // Parts of 6 positions, chunks of 3.
    expect(pairs("zigzag", 3)).toEqual([
      [21, 21, 21, 21],
      [18, 18, 18, 18],
      [18, 18, 18, 18],
      [18, 18, 18, 18],
    ]);
    expect(pairs("ring", 1)).toEqual([
      [21, 21, 21, 21],
      [0, 36, 36, 36],
      [0, 0, 36, 36],
      [0, 0, 0, 36],
    ]);
  });
});

describe("what a device holds and does in a ring", () => {
  it("has no tensor with the whole sequence in it", () => {
    for (const causal of [false, true]) {
      const { local } = check({ T: 28, causal }, { mesh: line(4), mode: "ring" });
      const whole = local.nodes.flatMap(({ types }) => types).filter(({ shape }) => shape.includes(28));
      expect(whole.map(formatType)).toEqual([]);
      // Nor scores of a part against a part: the op keeps those to itself.
      const scores = (shape: readonly number[]): boolean => shape.filter((size) => size === 7).length > 1;
      expect(local.nodes.flatMap(({ types }) => types).filter(({ shape }) => scores(shape))).toEqual([]);
    }
  });

  it("sends keys and values before it computes on those it has", () => {
    const { local } = check({}, { mesh: line(4), mode: "ring" });
    const at = (name: string): number[] => local.nodes.flatMap(({ op }, i) => (op.name === name ? [i] : []));
    const sent = at("collective_permute");
    at("attention").forEach((place, step) => {
      expect(sent.filter((each) => each < place)).toHaveLength(Math.min(2 * (step + 1), 6));
    });
    // None of what a step sends hangs on what it computes.
    const own = (node: Node): boolean =>
      node.op.name === "attention" || node.inputs.some((x) => x.op.name !== "input" && own(x));
    const forward = sent.slice(0, 6).map((i) => local.nodes[i]);
    expect(forward.filter(own)).toEqual([]);
  });

  it("adds up half types in float32, and sends their gradients so", () => {
    for (const mode of ["ring", "zigzag"] as const) {
      const { local } = check({ dtype: "bfloat16" }, { mesh: line(4), mode });
      const sums = local.nodes.filter(({ op, shape }) => op.name === "add" && shape.length === 4);
      expect(new Set(sums.map(({ dtype }) => dtype))).toEqual(new Set(["float32"]));
      const sent = local.nodes.filter(({ op }) => op.name === "collective_permute");
      const made = sent.filter(
        ({ inputs: [x] }) => ["add", "cast"].includes(x.op.name) && x.dtype === "float32",
      );
      expect(made.length).toBeGreaterThanOrEqual(2 * 4);
      expect(local.outputs.map(({ dtype }) => dtype)).toEqual([
        ...["bfloat16", "float32", "bfloat16", "bfloat16", "bfloat16", "float32"],
      ]);
    }
  });

  it("gives each step its own shift, and the first none", () => {
    const { local } = check({}, { mesh: line(4), mode: "ring" });
    const operands = (name: string): number[] =>
      local.nodes.filter(({ op }) => op.name === name).map(({ inputs }) => inputs.length);
    expect(operands("attention")).toEqual([3, 4, 4, 4]);
    expect(operands("attention_grad")).toEqual([6, 7, 7, 7]);
    const open = check({ causal: false }, { mesh: line(4), mode: "ring" });
    expect(count(open.local, "axis_index")).toBe(0);
  });
});

describe("the choice of who divides the sequence", () => {
  it("is the heads where they divide evenly, unless asked otherwise", () => {
    for (const causal of [false, true])
      for (const mode of [undefined, "ulysses"] as const) {
        const { local } = check({ H: 4, G: 4, causal }, { mesh: line(4), mode });
        expect(count(local, "collective_permute")).toBe(0);
        expect(count(local, "all_to_all")).toBeGreaterThan(0);
        expect(count(local, "all_gather")).toBe(0);
      }
  });

  it("is the ring where heads do not divide evenly", () => {
    for (const causal of [false, true])
      for (const given of [
        { H: 3, G: 3, causal },
        { H: 4, G: 2, causal },
      ])
        expect(collectives(check(given, { mesh: line(4) }).local)).toEqual({
          collective_permute: permutes(4),
        });
  });

  it("is both: the last axis the heads', the others the ring's", () => {
    const mesh = new Mesh({ a: 2, b: 2 });
    for (const causal of [false, true]) {
      const { local } = check({ H: 4, G: 2, causal }, { mesh, mode: "ulysses+ring", sequence: [0, 1] });
      expect(count(local, "collective_permute")).toBe(permutes(2));
      expect(count(local, "all_to_all")).toBeGreaterThan(0);
      expect(count(local, "all_gather")).toBe(0);
      const steps = local.nodes.filter(({ op }) => op.name === "attention");
      expect(steps.map(({ inputs: [q] }) => q.shape)).toEqual(steps.map(() => [2, 2, 12, 3]));
    }
  });

  it("falls back to whole keys where parts are uneven", () => {
    for (const causal of [false, true]) {
      const { local } = check({ T: 10, H: 3, G: 3, causal }, { mesh: line(4), mode: "ring" });
      expect(count(local, "collective_permute")).toBe(0);
    }
  });

  it("leaves queries alone that see whole keys without a mask", () => {
    const graph = attention({ ...standard, causal: false });
    const asked = request({ mesh: line(4), mode: "ring" });
    const inputs = asked.inputs.map((dims, i) => (i === 1 || i === 2 ? dims.map(() => []) : dims));
    const local = partition(graph, { ...asked, inputs }).graph;
    expect(count(local, "collective_permute")).toBe(0);
    expect(count(local, "all_gather")).toBe(0);
  });
});
