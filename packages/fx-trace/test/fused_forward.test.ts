import { describe, expect, it } from "vitest";
import {
  buildGraph,
  type DType,
  type Graph,
  input,
  type Node,
  ops,
  resultsOf,
  sizeOf,
} from "../src/index.js";
import * as formula from "./fused_formulas.js";
import { numbers } from "./gradcheck.js";
import { evaluate } from "./reference.js";

interface Given {
  readonly shape: readonly number[];
  readonly data: readonly number[];
  readonly dtype?: DType;
}

const given = (shape: readonly number[], seed: number, dtype: DType = "float64"): Given => ({
  shape,
  data: numbers(sizeOf(shape), seed),
  dtype,
});

/** Values of every result, by the reference, which takes the op's decomposition. */
function valuesOf(operands: readonly Given[], fn: (inputs: Node[]) => Node): number[][] {
  const graph: Graph = buildGraph(() => {
    const inputs = operands.map(({ shape, dtype = "float64" }, index) => input([], { index, shape, dtype }));
    const node = fn(inputs);
    return node.types.length > 1 ? resultsOf(node) : [node];
  });
  const data = operands.map((operand) => operand.data);
  return evaluate(graph.outputs, data).map((value) => [...value.data]);
}

function expectClose(got: readonly number[], wanted: readonly number[]): void {
  expect(got.length).toBe(wanted.length);
  got.forEach((value, i) => {
    const close =
      Object.is(value, wanted[i]) || Math.abs(value - wanted[i]) <= 1e-12 * Math.max(1, Math.abs(wanted[i]));
    if (!close) expect([i, value]).toEqual([i, wanted[i]]);
  });
}

const rows = (data: readonly number[], size: number): number[][] =>
  Array.from({ length: data.length / size }, (_, i) => data.slice(i * size, (i + 1) * size));
const byRow = (x: Given, fn: (row: number[], i: number) => readonly number[]): number[] =>
  rows(x.data, x.shape[x.shape.length - 1]).flatMap((row, i) => [...fn(row, i)]);

describe("softmax and log_softmax", () => {
  it.each([[[5]], [[2, 3, 4]], [[3, 1]], [[0, 3]]])("agree with the formula on %j", (shape) => {
    const x = given(shape, 1);
    expectClose(valuesOf([x], (inputs) => ops.softmax(inputs))[0], byRow(x, formula.softmax));
    expectClose(valuesOf([x], (inputs) => ops.log_softmax(inputs))[0], byRow(x, formula.logSoftmax));
  });

  it("do not overflow, and take -inf for impossible", () => {
    const x = { shape: [2, 3], data: [1000, 1000, -1000, 0, -Infinity, 0] };
    expect(valuesOf([x], (inputs) => ops.softmax(inputs))[0]).toEqual([0.5, 0.5, 0, 0.5, 0, 0.5]);
    const log = valuesOf([x], (inputs) => ops.log_softmax(inputs))[0];
    expectClose(log, [-Math.LN2, -Math.LN2, -2000 - Math.LN2, -Math.LN2, -Infinity, -Math.LN2]);
  });
});

describe("norms", () => {
  it.each([[[4]], [[3, 4]], [[2, 3, 5]]])("agree with the formulas on %j", (shape) => {
    const size = shape[shape.length - 1];
    const [x, w, b] = [given(shape, 1), given([size], 2), given([size], 3)];
    for (const eps of [0, 1e-5, 0.1]) {
      expectClose(
        valuesOf([x, w], (inputs) => ops.rms_norm(inputs, { eps }))[0],
        byRow(x, (row) => formula.rmsNorm(row, w.data, eps)),
      );
      expectClose(
        valuesOf([x, w, b], (inputs) => ops.layer_norm(inputs, { eps }))[0],
        byRow(x, (row) => formula.layerNorm(row, w.data, b.data, eps)),
      );
    }
  });
});

describe("rope", () => {
  const shape = [2, 3, 4, 6];
  const x = given(shape, 1);
  const [cos, sin] = [given([4, 3], 2), given([4, 3], 3)];
  for (const interleaved of [false, true]) {
    for (const inverse of [false, true]) {
      it(`turns pairs (interleaved ${interleaved}, inverse ${inverse})`, () => {
        const position = (table: Given, i: number): number[] =>
          table.data.slice((i % 4) * 3, (i % 4) * 3 + 3);
        expectClose(
          valuesOf([x, cos, sin], (inputs) => ops.rope(inputs, { interleaved, inverse }))[0],
          byRow(x, (row, i) => formula.rope(row, position(cos, i), position(sin, i), interleaved, inverse)),
        );
      });
    }
  }

  it("is undone by its inverse", () => {
    const angles = numbers(12, 4);
    const tables = [Math.cos, Math.sin].map((fn) => ({ shape: [4, 3], data: angles.map(fn) }));
    const there = (node: Node[], inverse: boolean): Node => ops.rope(node, { interleaved: true, inverse });
    const back = valuesOf([x, ...tables], ([y, c, s]) => there([there([y, c, s], false), c, s], true));
    expectClose(back[0], x.data);
  });
});

describe("attention", () => {
  const sizes = { B: 2, H: 4, G: 2, T: 3, S: 5, K: 4, Kv: 3 };
  const cases = [
    { ...sizes, causal: false, offset: 0, window: 0 },
    { ...sizes, causal: true, offset: 0, window: 0 },
    { ...sizes, causal: true, offset: 2, window: 0 }, // the last T of S positions
    { ...sizes, causal: true, offset: -2, window: 0 }, // the first two rows see nothing
    { ...sizes, causal: true, offset: -10, window: 0 }, // no row does
    { ...sizes, G: 1, causal: true, offset: 1, window: 0 },
    { ...sizes, G: 4, causal: false, offset: 0, window: 0 },
    { ...sizes, S: 0, causal: false, offset: 0, window: 0 },
    { ...sizes, causal: true, offset: 1, window: 2 },
    { ...sizes, causal: false, offset: 0, window: 1 },
  ];
  it.each(cases)("agrees with the formula: %j", ({ causal, offset, window, ...of }) => {
    const q = given([of.B, of.H, of.T, of.K], 1);
    const k = given([of.B, of.G, of.S, of.K], 2);
    const v = given([of.B, of.G, of.S, of.Kv], 3);
    const attrs = { causal, offset, scale: 0.7, window };
    const [out, lse] = valuesOf([q, k, v], (inputs) => ops.attention(inputs, attrs));
    const wanted = formula.attention(of, [q.data, k.data, v.data], attrs);
    expectClose(out, wanted.out);
    expectClose(lse, wanted.lse);
  });

  it.each([
    [0, 2],
    [3, -4], // one row sees nothing
    [1, 2 ** 31 - 1],
    [0, -(2 ** 31)],
  ])("offset %i and shift %i are one offset", (offset, shift) => {
    const of = sizes;
    const q = given([of.B, of.H, of.T, of.K], 1);
    const k = given([of.B, of.G, of.S, of.K], 2);
    const v = given([of.B, of.G, of.S, of.Kv], 3);
    const by: Given = { shape: [], data: [shift], dtype: "int32" };
    const attrs = { causal: true, offset, scale: 0.7, window: 0 };
    const [out, lse] = valuesOf([q, k, v, by], (inputs) => ops.attention(inputs, attrs));
    const wanted = formula.attention(of, [q.data, k.data, v.data], { ...attrs, offset: offset + shift });
    expectClose(out, wanted.out);
    expectClose(lse, wanted.lse);
  });

  it("does not overflow", () => {
    const q = { shape: [1, 1, 1, 1], data: [1000] };
    const k = { shape: [1, 1, 2, 1], data: [1, -1] };
    const [out, lse] = valuesOf([q, k, k], (inputs) =>
      ops.attention(inputs, { causal: false, offset: 0, scale: 1, window: 0 }),
    );
    expect([out, lse]).toEqual([[1], [1000]]);
  });
});

describe("cross_entropy", () => {
  const logits = given([4, 5], 1);
  const target: Given = { shape: [4], data: [2, -100, 0, 4], dtype: "int64" };
  it.each([
    [-100, 0],
    [-100, 0.1],
    [4, 0],
    [0, 1],
  ])("agrees with the formula (ignore_index %d, label_smoothing %d)", (ignore_index, label_smoothing) => {
    const targets = { ...target, data: target.data.map((t) => (t === -100 ? ignore_index : t)) };
    const [loss, lse] = valuesOf([logits, targets], (inputs) =>
      ops.cross_entropy(inputs, { ignore_index, label_smoothing }),
    );
    expectClose(
      loss,
      rows(logits.data, 5).map((row, i) =>
        formula.crossEntropy(row, targets.data[i], ignore_index, label_smoothing),
      ),
    );
    expectClose(lse, rows(logits.data, 5).map(formula.logSumExp));
  });

  it("takes -inf for impossible where that is not the target", () => {
    const masked = { shape: [2, 3], data: [0, -Infinity, 0, 1e4, -1e4, 0] };
    const hard: Given = { shape: [2], data: [0, 1], dtype: "int32" };
    const attrs = { ignore_index: -1, label_smoothing: 0 };
    expectClose(valuesOf([masked, hard], (inputs) => ops.cross_entropy(inputs, attrs))[0], [Math.LN2, 2e4]);
  });
});

describe("adamw_update", () => {
  const base = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, decoupled: true };
  const [p, g, m] = [1, 2, 3].map((seed) => given([2, 3], seed, "float32"));
  const v = { ...given([2, 3], 4, "float32"), data: numbers(6, 4).map(Math.abs) };
  const scalar = (value: number): Given => ({ shape: [], data: [value], dtype: "float32" });

  it.each([
    [base, 1, 1],
    [base, 10, 0.25],
    [{ ...base, decoupled: false }, 3, 1],
    [{ ...base, weight_decay: 0 }, 3, 1],
    [{ ...base, beta1: 0 }, 2, 1],
  ])("agrees with the paper: %j at step %d, gradient times %d", (attrs, step, scale) => {
    const operands = [p, g, m, v, scalar(0.01), scalar(step), scalar(scale)];
    const wanted = p.data.map((value, i) =>
      formula.adamw({ p: value, m: m.data[i], v: v.data[i] }, g.data[i] * scale, 0.01, step, attrs),
    );
    const got = valuesOf(operands, (inputs) => ops.adamw_update(inputs, attrs));
    for (const [k, name] of (["p", "m", "v"] as const).entries()) {
      const each = wanted.map((state) => state[name]);
      expectClose(got[k], each);
    }
    if (scale === 1) {
      const unscaled = valuesOf(operands.slice(0, 6), (inputs) => ops.adamw_update(inputs, attrs));
      expect(unscaled).toEqual(got);
    }
  });
});
