import { describe, expect, it } from "vitest";
import { type Node, type OpName, ops, opTable } from "../src/index.js";
import { checkGradients, type Operand } from "./gradcheck.js";

type Sample = readonly Operand[];

const anywhere: Sample = [{ shape: [2, 3] }];
const positive: Sample = [{ shape: [4], data: [0.3, 1.1, 2.7, 0.05] }];
const inside: Sample = [{ shape: [4], data: [-0.8, -0.2, 0.4, 0.7] }];
const wide: Sample = [{ shape: [6], data: [-4.1, -1.3, -0.2, 0.6, 2.2, 5.3] }];

const unary: Partial<Record<OpName, Sample>> = {
  neg: anywhere,
  abs: anywhere,
  sign: anywhere,
  exp: anywhere,
  exp2: anywhere,
  expm1: anywhere,
  log: positive,
  log1p: positive,
  log2: positive,
  sqrt: positive,
  rsqrt: [{ shape: [3], data: [0.6, 1.4, 3.1] }],
  sin: wide,
  cos: wide,
  tan: inside,
  asin: inside,
  acos: inside,
  atan: wide,
  sinh: anywhere,
  cosh: anywhere,
  tanh: wide,
  sigmoid: wide,
  erf: wide,
  reciprocal: [{ shape: [4], data: [-1.7, -0.6, 0.8, 2.1] }],
  square: wide,
  floor: anywhere,
  ceil: anywhere,
  round: anywhere,
  trunc: anywhere,
  relu: wide,
  silu: wide,
  softplus: wide,
};

const stretched: Sample = [{ shape: [2, 1, 3] }, { shape: [4, 1] }];
const alike: Sample = [{ shape: [2, 3] }, { shape: [2, 3] }];
const scalarRight: Sample = [{ shape: [2, 3] }, { shape: [], data: [0.7] }];
const scalarLeft: Sample = [{ shape: [], data: [-0.4] }, { shape: [3] }];
const anyPair: readonly Sample[] = [alike, stretched, scalarRight, scalarLeft];
const bases = { shape: [2, 1], data: [0.4, 1.9] };

const binary: Partial<Record<OpName, readonly Sample[]>> = {
  add: anyPair,
  sub: anyPair,
  mul: anyPair,
  div: anyPair,
  pow: [[bases, { shape: [3], data: [-1.3, 0.6, 2.5] }]],
  maximum: anyPair,
  minimum: anyPair,
  remainder: [
    [
      { shape: [4], data: [-3.7, -0.4, 1.3, 5.2] },
      { shape: [2, 1], data: [-1.5, 1.1] },
    ],
  ],
  floor_divide: [
    [
      { shape: [4], data: [-3.7, -0.4, 1.3, 5.2] },
      { shape: [2, 1], data: [-1.5, 1.1] },
    ],
  ],
  atan2: anyPair,
  silu_grad: [alike, [wide[0], { shape: [6] }]],
};

const call = (name: OpName, inputs: Node[]): Node =>
  (ops[name] as unknown as (inputs: Node[]) => Node)(inputs);

describe("vjp of elementwise ops against central differences", () => {
  for (const [name, sample] of Object.entries(unary)) {
    it(name, () => checkGradients((x) => call(name as OpName, [x]), sample));
  }
  for (const [name, samples] of Object.entries(binary)) {
    it.each(samples)(`${name} %#`, (...operands) => {
      checkGradients((a, b) => call(name as OpName, [a, b]), operands);
    });
  }
  for (const approximate of ["none", "tanh"] as const) {
    it(`gelu ${approximate}`, () => checkGradients((x) => ops.gelu([x], { approximate }), wide));
    it(`gelu_grad ${approximate}`, () => {
      checkGradients((x, g) => ops.gelu_grad([x, g], { approximate }), [wide[0], { shape: [6] }]);
    });
  }
  it("where", () => {
    const cond: Operand = { shape: [2, 1], data: [1, 0], dtype: "bool" };
    checkGradients((c, a, b) => ops.where([c, a, b]), [cond, { shape: [3] }, { shape: [2, 3] }]);
    checkGradients((c, a, b) => ops.where([c, a, b]), [cond, { shape: [] }, { shape: [2, 1] }]);
  });
  it("cast between floats", () => {
    checkGradients(
      (x) => ops.cast([ops.square([ops.cast([x], { dtype: "float32" })])], { dtype: "float64" }),
      anywhere,
    );
  });

  it("covers every differentiable elementwise op", () => {
    const covered = new Set([
      ...Object.keys(unary),
      ...Object.keys(binary),
      "gelu",
      "gelu_grad",
      "where",
      "cast",
    ]);
    const missing = opTable.filter((op) => op.lower === "elementwise" && op.vjp && !covered.has(op.name));
    expect(missing.map((op) => op.name)).toEqual([]);
  });
});

describe("one operand twice", () => {
  it("x * x, x / x + x, x ** x", () => {
    checkGradients((x) => ops.mul([x, x]), anywhere);
    checkGradients((x) => ops.add([ops.div([x, x]), x]), anywhere);
    checkGradients((x) => ops.pow([x, x]), positive);
  });
});
