import type { Attrs, DType, OpName } from "@lazuli/fx-trace";
import {
  accumulated,
  bf16,
  bool,
  broadcast,
  differentiated,
  exact,
  type Fill,
  f16,
  f32,
  f64,
  flipped,
  forward,
  heads,
  i32,
  type Leaf,
  normal,
  type Operand,
  type Sample,
  shapeOf,
  type Tolerance,
  values,
} from "./ops.samples.types.js";

const causal = (offset = 0, scale = 0.25): Attrs => ({ causal: true, offset, scale, window: 0 });
const open = (scale = 0.25): Attrs => ({ causal: false, offset: 0, scale, window: 0 });
const sliding = (window: number, offset = 0): Attrs => ({ ...causal(offset), window });

interface AttentionSizes {
  readonly b?: number;
  readonly h?: number;
  readonly g?: number;
  readonly t: number;
  readonly s: number;
  readonly k?: number;
  readonly kv?: number;
}

const qkv = (
  { b = 1, h = 2, g = h, t, s, k = 8, kv = k }: AttentionSizes,
  leaf = f32,
  fill: Fill = normal(),
): Leaf[] => [leaf([b, h, t, k], fill), leaf([b, g, s, k], fill), leaf([b, g, s, kv], normal())];

/** Two runs of segments in each of `b` rows. */
const segmentsOf = (b: number, length: number): Leaf[] =>
  [0, 1].map(() => i32([b, length], values(...new Array<number>(length / 2).fill(0), 1, 1)));

/** `count` of ones among `length` numbers. */
const firstOf = (count: number, length: number): number[] =>
  Array.from({ length }, (_, i) => (i < count ? 1 : 0));

type Case = readonly [name: string, inputs: Leaf[], attrs: Attrs];

/** Every query sees a key, so lse has a gradient. */
const cases: readonly Case[] = [
  ["open", qkv({ b: 2, h: 3, t: 5, s: 5 }), open()],
  ["causal", qkv({ b: 2, t: 33, s: 33, k: 16 }), causal()],
  ["cross", qkv({ b: 2, t: 5, s: 11, k: 6, kv: 10 }), open()],
  ["grouped heads", qkv({ h: 6, g: 2, t: 9, s: 9 }), causal()],
  ["one key head", qkv({ h: 5, g: 1, t: 7, s: 9 }), open()],
  ["offset", qkv({ t: 3, s: 11 }), causal(8)],
  ["offset past the end", qkv({ t: 4, s: 6 }), causal(100)],
  ["causal, more keys", qkv({ t: 5, s: 9 }), causal()],
  ["causal, more queries", qkv({ t: 9, s: 5 }), causal()],
  ["decoding", qkv({ b: 3, h: 4, g: 2, t: 1, s: 130, k: 16 }), causal(129)],
  ["larger than tiles", qkv({ h: 1, t: 131, s: 131, k: 64 }), causal(0, 0.125)],
  ["larger than tiles, open, grouped", qkv({ h: 2, g: 1, t: 67, s: 259, k: 32 }), open(0.18)],
  ["odd head size", qkv({ t: 17, s: 17, k: 13, kv: 7 }), causal()],
  ["projections", [heads([2, 9, 4, 8]), heads([2, 9, 2, 8]), heads([2, 9, 2, 8])], causal()],
  ["flipped", qkv({ t: 7, s: 9 }).map((leaf) => flipped(leaf)), causal(2)],
  ["window", qkv({ b: 2, h: 4, g: 2, t: 9, s: 9 }), sliding(3)],
  ["window of two keys", qkv({ t: 5, s: 5 }), sliding(2)],
  ["window, offset", qkv({ t: 5, s: 11 }), sliding(4, 6)],
  ["window, not causal", qkv({ t: 9, s: 9 }), { ...open(), window: 3 }],
  ["larger than tiles, window", qkv({ h: 1, t: 200, s: 200, k: 16 }), sliding(70)],
  ["window past all keys", qkv({ t: 7, s: 7 }), sliding(2 ** 40)],
  ["float64", qkv({ t: 9, s: 9 }, f64), causal()],
];
/** Scores of a few hundred: exp(score - lse) of float32 numbers of that size is right to some 3e-5. */
const largeScores: Case = ["large scores", qkv({ t: 9, s: 9 }, f32, normal(5)), causal(0, 1)];
/** Rows that see nothing: their lse is -inf, so only the output gets a cotangent. */
const blindCases: readonly Case[] = [
  ["blind rows", qkv({ t: 9, s: 9 }), causal(-3)],
  ["blind rows, grouped, many", qkv({ h: 2, g: 1, t: 77, s: 70, k: 16 }), causal(-65)],
  ["all blind", qkv({ t: 4, s: 4 }), causal(-4)],
];
const halfCases: readonly Case[] = [
  ["bfloat16", qkv({ h: 4, g: 2, t: 37, s: 37, k: 16 }, bf16), causal()],
  ["float16", qkv({ h: 4, g: 2, t: 37, s: 37, k: 16 }, f16), causal()],
  ["bfloat16 open", qkv({ t: 5, s: 70, k: 32 }, bf16), open(0.18)],
];
/** The offset is the attribute's and the last operand's sum; no row's lse is -inf. */
type ShiftedCase = readonly [...Case, shift: number];
const shiftedCases: readonly ShiftedCase[] = [
  ["shift", qkv({ t: 9, s: 13 }), causal(1), 3],
  ["shift back to nothing", qkv({ h: 4, g: 2, t: 70, s: 70, k: 16 }), causal(5), -5],
  ["shift past all keys", qkv({ t: 5, s: 67 }), causal(), 2 ** 31 - 1],
  ["shift, open", qkv({ t: 4, s: 6 }), open(), -100],
];
const blindShiftedCases: readonly ShiftedCase[] = [
  ["shift, blind rows", qkv({ h: 4, g: 2, t: 9, s: 9 }), causal(2), -5],
  ["shift, blocks of blind rows", qkv({ t: 140, s: 66, k: 16 }), causal(), -130],
  ["shift before all keys", qkv({ t: 4, s: 5 }), causal(3), -(2 ** 31)],
];
/** q, k, v, and the segments of queries and keys: runs of them. Every query sees a key. */
const inSegments = (
  sizes: AttentionSizes & { readonly b: number },
  runs: readonly number[],
  leaf = f32,
): Leaf[] => {
  const { b, t, s } = sizes;
  const of = (length: number): Leaf => i32([b, length], values(...runs));
  return [...qkv(sizes, leaf), of(t), of(s)];
};
const segmentedCases: readonly Case[] = [
  ["segments", inSegments({ b: 2, h: 4, g: 2, t: 8, s: 8 }, [0, 0, 0, 1, 1, 2, 2, 2]), open()],
  ["segments, causal", inSegments({ b: 1, t: 9, s: 9 }, [3, 3, 1, 1, 1, 1, -7, -7, -7]), causal()],
  ["segments in no order", inSegments({ b: 3, t: 7, s: 7 }, [1, 0, 1, 2, 0]), causal()],
  ["segments, cross", inSegments({ b: 2, t: 5, s: 10 }, [4, 4, 9, 9, 9]), open()],
  ["segments, window", inSegments({ b: 1, t: 12, s: 12 }, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]), sliding(3)],
  [
    "larger than tiles, segments",
    inSegments({ b: 2, h: 1, t: 150, s: 150, k: 16 }, [
      ...new Array<number>(90).fill(2 ** 24),
      ...new Array<number>(60).fill(2 ** 24 + 1),
    ]),
    causal(),
  ],
  ["segments, float64", inSegments({ b: 1, t: 6, s: 6 }, [0, 0, 1, 1, 1, 1], f64), causal()],
];
const blindSegments: Case = [
  "segments, blind rows",
  [...qkv({ b: 1, t: 6, s: 4 }), i32([1, 6], values(0, 1, 2, 0, 1, 5)), i32([1, 4], values(0, 1, 1, 3))],
  open(),
];
const halfSegments: Case = [
  "segments, bfloat16",
  inSegments({ b: 1, t: 9, s: 9 }, [0, 0, 0, 1, 1, 1, 1, 2, 2], bf16),
  causal(),
];

/** q, k, v, and what is added to their scores. */
const withBias = (sizes: AttentionSizes, bias: Leaf, leaf = f32): Leaf[] => [...qkv(sizes, leaf), bias];
const [small, grouped, large] = [
  { b: 2, h: 3, t: 5, s: 7 },
  { b: 2, h: 4, g: 2, t: 6, s: 6 },
  { b: 2, h: 2, g: 1, t: 70, s: 131, k: 16 },
];
/** Biases that get their cotangents; every query sees a key. */
const biasCases: readonly Case[] = [
  ["bias", withBias(small, f32([2, 3, 5, 7])), open()],
  ["bias by head", withBias(grouped, f32([1, 4, 6, 6])), causal()],
  ["one bias", withBias(grouped, f32([1, 1, 6, 6])), sliding(3)],
  ["bias by key", withBias(small, f32([2, 1, 1, 7])), open()],
  ["bias that hides", withBias(small, f32([1, 1, 5, 7], values(0.5, -Infinity, 2, 0, -Infinity))), open()],
  ["larger than tiles, bias by head", withBias(large, f32([1, 2, 70, 131])), causal(61)],
  ["larger than tiles, bias of all", withBias(large, f32([1, 1, 1, 131])), open()],
  ["bias, segments", [...withBias({ b: 2, t: 4, s: 4 }, f32([2, 1, 4, 4])), ...segmentsOf(2, 4)], causal()],
  ["bias, float64", withBias(small, f64([1, 3, 5, 7]), f64), open()],
];
/** A bias that is a view with strides of 0 is one of that shape. */
const expandedBias: Case = [
  "bias in strides of 0",
  withBias({ b: 2, h: 2, t: 5, s: 6 }, broadcast(f32([2, 1, 6]), [2, 2, 5, 6])),
  open(),
];
const maskCases: readonly Case[] = [
  ["mask", withBias(small, bool([2, 3, 5, 7], values(1, 0, 1, 1, 0))), open()],
  ["mask of all", withBias(grouped, bool([1, 1, 6, 6], values(1, 1, 0))), open()],
  ["mask by key", withBias(small, bool([2, 1, 1, 7], values(1, 0, 1, 1))), open()],
  [
    "larger than tiles, mask by key",
    withBias(large, bool([1, 1, 1, 131], values(...firstOf(64, 131)))),
    open(),
  ],
  ["larger than tiles, mask", withBias(large, bool([2, 1, 70, 131], values(1, 0, 0))), open()],
];
/** A number that all keys share changes nothing: its gradient is a sum of some 50 numbers near 1 that give 0, but for rounding. */
const byQuery: readonly Case[] = [
  ["bias by query", withBias(small, f32([1, 3, 5, 1])), open()],
  ["bias, blind rows", withBias(grouped, f32([1, 1, 6, 1], values(1, -Infinity))), causal()],
];
const toZero: Tolerance = { ...accumulated, absolute: 1e-5 };
const blindMasks: readonly Case[] = [
  ["mask, blind rows", withBias(small, bool([1, 1, 5, 1], values(1, 0))), open()],
  ["mask, all blind", withBias(small, bool([2, 1, 1, 7], values(0))), open()],
];
const halfBiases: readonly Case[] = [
  ["bias, bfloat16", withBias(grouped, bf16([1, 4, 6, 6], normal(0.3)), bf16), causal()],
  ["bias of float32 beside bfloat16", withBias(grouped, f32([1, 4, 6, 6], normal(0.3)), bf16), causal()],
  ["bias, float16", withBias(grouped, f16([2, 1, 1, 6], normal(0.3)), f16), open()],
];
const shiftedBias: ShiftedCase = ["bias, shift", withBias({ t: 5, s: 9 }, f32([1, 2, 5, 9])), causal(), 3];
const emptyBiases: readonly Case[] = [
  ["bias, no keys", withBias({ t: 3, s: 0 }, f32([1, 2, 3, 1])), open()],
  ["bias, no batch", withBias({ b: 0, t: 3, s: 3 }, f32([1, 1, 3, 3])), causal()],
];

const halfShifted: ShiftedCase = ["shift, bfloat16", qkv({ h: 4, g: 2, t: 7, s: 9 }, bf16), causal(), -1];
const emptyCases: readonly Case[] = [
  ["no keys", qkv({ t: 3, s: 0 }), open()],
  ["no queries", qkv({ t: 0, s: 3 }), causal()],
  ["no batch", qkv({ b: 0, t: 3, s: 3 }), causal()],
];

/** q, k, v, then the results of attention over them, and cotangents of both results or the first. */
function gradOperands(inputs: readonly Leaf[], withLse: boolean): Operand[] {
  const [q, , v] = inputs.map(shapeOf);
  const leaf = (shape: readonly number[]): Leaf => ({ shape, dtype: inputs[0].dtype, fill: normal() });
  const of = inputs.map((_, i) => i);
  const results = [0, 1].map((result) => ({ op: "attention", of, result }) as const);
  const dout = leaf([...q.slice(0, 3), v[3]]);
  return [...inputs, ...results, dout, ...(withLse ? [f32(q.slice(0, 3))] : [])];
}

/**
 * Of gradients. They are made from lse, which is float32 beside float64 too, and from the output, which was rounded to
 * the half type before: an error of half a step of the output's largest elements, which are about 1.
 */
const fromResults: Partial<Record<DType, Tolerance>> = {
  float64: { ...accumulated, as: "float32" },
  bfloat16: { ...accumulated, absolute: 2 ** -8 },
  float16: { ...accumulated, absolute: 2 ** -11 },
};
/** The scores' own gradient is not yet made smaller by the scale, a fourth. */
const unscaled = (tolerance: Tolerance): Tolerance => ({
  ...tolerance,
  absolute: 4 * (tolerance.absolute ?? 0),
});
const toleranceOf = (inputs: readonly Leaf[]): Tolerance => fromResults[inputs[0].dtype] ?? accumulated;

const attentionOf = ([given, inputs, attrs]: Case, cotangents = [0], name = given): Sample =>
  differentiated(name, inputs, attrs, { ...accumulated, gradAs: toleranceOf(inputs).as }, cotangents);

const gradOf = ([name, inputs, attrs]: Case, tolerance = toleranceOf(inputs)): Sample =>
  forward(name, gradOperands(inputs, false), attrs, tolerance);

/** Those that need not be given are the last, after the cotangents. */
function extendedGradOf([name, inputs, attrs]: Case, withLse: boolean): Sample {
  const operands = gradOperands(inputs, withLse);
  const own = operands.map((_, i) => i);
  const extras = own.slice(3, inputs.length);
  const args = [...own.filter((i) => !extras.includes(i)), ...extras];
  return {
    ...forward(withLse ? `${name}, with dlse` : name, operands, attrs, toleranceOf(inputs)),
    args,
  };
}

/** The gradients' own gradients, of float64 operands and a bias. */
const secondOf = (inputs: Leaf[]): Sample => ({
  ...extendedGradOf(["second derivative", inputs, causal(2)], false),
  grad: true,
  tolerance: { ...accumulated, as: "float32" },
});

/** q, k, v and the shift. */
const withShift = ([name, inputs, attrs, shift]: ShiftedCase): Case => [
  name,
  [...inputs, i32([], values(shift))],
  attrs,
];

const shiftedGradOf = (each: ShiftedCase, withLse = false): Sample =>
  extendedGradOf(withShift(each), withLse);

export const attentions = {
  attention: [
    ...[...cases, ...blindCases].map((each) => attentionOf(each)),
    ...cases.slice(0, 5).map((each) => ({ ...attentionOf(each, [0, 1]), name: `${each[0]}, with lse` })),
    attentionOf(["lse alone", qkv({ t: 5, s: 7 }), open()], [1]),
    { ...attentionOf(largeScores), tolerance: { ...accumulated, gradScale: 10 } },
    ...[...segmentedCases, blindSegments].map((each) => attentionOf(each)),
    attentionOf(segmentedCases[1], [0, 1], "segments, causal, with lse"),
    ...[...halfCases, withShift(halfShifted), halfSegments].map(([name, inputs, attrs]) =>
      forward(name, inputs, attrs, accumulated),
    ),
    ...[...shiftedCases, ...blindShiftedCases].map((each) => attentionOf(withShift(each))),
    attentionOf(withShift(shiftedCases[0]), [0, 1], "shift, with lse"),
    ...[...biasCases, expandedBias, withShift(shiftedBias), ...maskCases, ...blindMasks].map((each) =>
      attentionOf(each),
    ),
    ...biasCases.slice(0, 2).map((each) => attentionOf(each, [0, 1], `${each[0]}, with lse`)),
    ...byQuery.map((each) => ({ ...attentionOf(each), tolerance: toZero })),
    ...halfBiases.map(([name, inputs, attrs]) => forward(name, inputs, attrs, accumulated)),
    ...emptyBiases.map(([name, inputs, attrs]) => differentiated(name, inputs, attrs, exact, [0])),
    ...emptyCases.map(([name, inputs, attrs]) => differentiated(name, inputs, attrs, exact, [0])),
  ],
  attention_grad: [
    ...[...cases, ...blindCases, ...halfCases].map((each) => gradOf(each)),
    ...cases.map(([name, inputs, attrs]) =>
      forward(`${name}, with dlse`, gradOperands(inputs, true), attrs, toleranceOf(inputs)),
    ),
    ...[...shiftedCases, ...blindShiftedCases, halfShifted].map((each) => shiftedGradOf(each)),
    ...shiftedCases.map((each) => shiftedGradOf(each, true)),
    ...[...segmentedCases, blindSegments, halfSegments].map((each) => extendedGradOf(each, false)),
    ...segmentedCases.map((each) => extendedGradOf(each, true)),
    ...[...maskCases, ...blindMasks, biasCases[0], expandedBias, ...halfBiases].map((each) =>
      extendedGradOf(each, false),
    ),
    ...maskCases.slice(0, 2).map((each) => extendedGradOf(each, true)),
    gradOf(largeScores, { ...accumulated, scale: 20 }),
    ...emptyCases.map((each) => gradOf(each, exact)),
    differentiated(
      "second derivative",
      gradOperands(qkv({ h: 4, g: 2, t: 5, s: 7 }, f64), false),
      causal(2),
      { ...accumulated, as: "float32" },
    ),
  ],
  attention_bias_grad: [
    ...[...biasCases, expandedBias, withShift(shiftedBias)].map((each) => extendedGradOf(each, false)),
    ...byQuery.map((each) => ({ ...extendedGradOf(each, false), tolerance: toZero })),
    ...halfBiases.map((each) => {
      const sample = extendedGradOf(each, false);
      return { ...sample, tolerance: unscaled(sample.tolerance) };
    }),
    ...biasCases.slice(0, 3).map((each) => extendedGradOf(each, true)),
    ...emptyBiases.map((each) => extendedGradOf(each, false)),
    secondOf(withBias({ b: 2, h: 4, g: 2, t: 3, s: 5 }, f64([1, 4, 3, 5]), f64)),
  ],
} as const satisfies Partial<Record<OpName, readonly Sample[]>>;
