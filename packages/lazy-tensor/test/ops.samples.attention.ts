import type { Attrs, DType, OpName } from "@lazuli/fx-trace";
import {
  accumulated,
  bf16,
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
    gradOf(largeScores, { ...accumulated, scale: 20 }),
    ...emptyCases.map((each) => gradOf(each, exact)),
    differentiated(
      "second derivative",
      gradOperands(qkv({ h: 4, g: 2, t: 5, s: 7 }, f64), false),
      causal(2),
      { ...accumulated, as: "float32" },
    ),
  ],
} as const satisfies Partial<Record<OpName, readonly Sample[]>>;
