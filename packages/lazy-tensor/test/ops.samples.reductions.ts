import type { OpName } from "@lazuli/fx-trace";
import {
  accumulated,
  bf16,
  bool,
  broadcast,
  differentiated,
  distinct,
  exact,
  type Fill,
  f16,
  f32,
  f64,
  flipped,
  forward,
  i32,
  i64,
  ints,
  type Leaf,
  normal,
  type Sample,
  special,
  strided,
  type Tolerance,
  transposed,
  u8,
  uniform,
  values,
} from "./ops.samples.types.js";

const all = { keepdim: false };

/** Which dims, and over what strides: last, first, middle, several, none, all. */
function reduction(fill: Fill, tolerance: Tolerance): Sample[] {
  const cases: [string, Leaf, number[], boolean][] = [
    ["last", f32([7, 33], fill), [1], false],
    ["last keepdim", f32([3, 5, 19], fill), [2], true],
    ["first", f32([33, 7], fill), [0], false],
    ["first of many", f32([37, 131], fill), [0], false],
    ["middle", f32([3, 17, 5], fill), [1], false],
    ["outer two", f32([5, 7, 11], fill), [0, 1], false],
    ["outer and last", f32([5, 7, 11], fill), [0, 2], true],
    ["all", f32([5, 7, 3], fill), [0, 1, 2], false],
    ["none", f32([5, 7], fill), [], false],
    ["1031", f32([1031], fill), [0], false],
    ["scalar", f32([], fill), [], false],
    ["one", f32([5, 1], fill), [1], false],
    ["no rows", f32([0, 3], fill), [1], false],
    ["flipped", flipped(f32([6, 19], fill)), [1], false],
    ["transposed", transposed(f32([19, 6, 3], fill), [1, 2, 0]), [2], false],
    ["strided", strided(f32([9, 37], fill)), [1], true],
    ["broadcast", broadcast(f32([5, 1], fill), [3, 5, 6]), [0, 2], false],
    ["float64", f64([7, 33], fill), [1], false],
  ];
  return [
    ...cases.map(([name, x, dims, keepdim]) => differentiated(name, [x], { dims, keepdim }, tolerance)),
    forward("bfloat16", [bf16([7, 33], fill)], { dims: [1], keepdim: false }, tolerance),
    forward("float16", [f16([33, 7], fill)], { dims: [0], keepdim: false }, tolerance),
  ];
}

const integerSums: Sample[] = [
  forward("int32", [flipped(i32([7, 13]))], { dims: [1], keepdim: false }, exact),
  forward("int64", [i64([13, 7], values(2 ** 40, -3, 5))], { dims: [0], keepdim: false }, exact),
  forward("uint8", [u8([7, 3])], { dims: [1], keepdim: true }, exact),
  forward("int32 wraps", [i32([4], values(2147483647))], { dims: [0], ...all }, exact),
  forward("uint8 wraps", [u8([4], values(200))], { dims: [0], ...all }, exact),
  forward("empty int32", [i32([2, 0])], { dims: [1], ...all }, exact),
];
/** No element at all: the neutral element, and no gradient to anything. */
const emptySums: Sample[] = [
  differentiated("empty", [f32([3, 0])], { dims: [1], keepdim: false }, exact),
  forward("empty float64", [f64([0, 0])], { dims: [0, 1], keepdim: true }, exact),
  forward(
    "NaN and infinities",
    [f32([4, 2], values(NaN, 1, Infinity, 1, Infinity, -Infinity, 2, 3))],
    { dims: [1], ...all },
    exact,
  ),
];

/** Many partial sums of like magnitude: plain float32 accumulation in one register would lose three digits. */
const longSums: Sample[] = [
  differentiated("long", [f32([3, 70001], uniform(0, 1))], { dims: [1], ...all }, accumulated),
  forward(
    "bfloat16 accumulates in float32",
    [bf16([2, 3001], uniform(0, 1))],
    { dims: [1], ...all },
    accumulated,
  ),
  forward(
    "float16 accumulates in float32",
    [f16([3001, 2], uniform(0, 1))],
    { dims: [0], ...all },
    accumulated,
  ),
];

const extreme = (): Sample[] => [
  ...reduction(distinct(), exact),
  differentiated("ties", [f32([7, 33], ints(-2, 3))], { dims: [1], keepdim: false }, accumulated),
  differentiated(
    "ties over two dims",
    [f32([3, 5, 7], ints(0, 2))],
    { dims: [0, 2], keepdim: true },
    accumulated,
  ),
  forward("NaN", [f32([5, 6], values(1, NaN, 3, -1, -2, 0, 7))], { dims: [1], keepdim: false }, exact),
  forward(
    "NaN in a long row",
    [f32([2, 67], values(...Array.from({ length: 66 }, (_, i) => i - 30), NaN))],
    { dims: [1], ...all },
    exact,
  ),
  forward(
    "NaN across rows",
    [f32([9, 35], values(...Array.from({ length: 36 }, (_, i) => i % 7), NaN))],
    { dims: [0], ...all },
    exact,
  ),
  forward(
    "infinities",
    [f32([4, 2], values(-Infinity, -Infinity, Infinity, 1, -Infinity, 2, 0, -0))],
    { dims: [1], ...all },
    exact,
  ),
  forward("int32", [flipped(i32([7, 13], ints(-999, 999)))], { dims: [1], keepdim: false }, exact),
  forward("int64", [i64([13, 7], values(2 ** 40, -(2 ** 40), 5))], { dims: [0], keepdim: false }, exact),
  forward("uint8", [u8([7, 3], ints(0, 256))], { dims: [0], keepdim: true }, exact),
  forward("bool", [bool([7, 2])], { dims: [1], keepdim: false }, exact),
];

const index = (): Sample[] => [
  forward("last", [f32([7, 33], distinct())], { dim: 1, keepdim: false }, exact),
  forward("first", [f32([33, 7], distinct())], { dim: 0, keepdim: false }, exact),
  forward("middle keepdim", [f32([3, 17, 5], distinct())], { dim: 1, keepdim: true }, exact),
  forward("1031", [f32([1031], distinct())], { dim: 0, keepdim: false }, exact),
  forward("ties", [f32([31, 9], ints(0, 3))], { dim: 1, keepdim: false }, exact),
  forward("ties across rows", [f32([9, 31], ints(0, 2))], { dim: 0, keepdim: false }, exact),
  forward("ties flipped", [flipped(f32([9, 31], ints(0, 2)))], { dim: 1, keepdim: false }, exact),
  forward("one", [f32([3, 1])], { dim: 1, keepdim: false }, exact),
  forward("no rows", [f32([0, 3])], { dim: 1, keepdim: false }, exact),
  forward("flipped", [flipped(f32([6, 19], distinct()))], { dim: 1, keepdim: false }, exact),
  forward("NaN", [f32([5, 6], values(1, NaN, 3, -1, NaN, 0, 7))], { dim: 1, keepdim: false }, exact),
  forward(
    "infinities",
    [f32([3, 3], values(-Infinity, -Infinity, -Infinity, Infinity, 1, Infinity, 2, -Infinity, 1))],
    { dim: 1, keepdim: false },
    exact,
  ),
  forward("float64", [f64([7, 33], distinct())], { dim: 1, keepdim: false }, exact),
  forward("bfloat16", [bf16([7, 33], distinct())], { dim: 1, keepdim: false }, exact),
  forward("float16", [f16([33, 7], distinct())], { dim: 0, keepdim: true }, exact),
  forward("int32", [i32([7, 13])], { dim: 1, keepdim: false }, exact),
  forward("int64", [i64([13, 7], values(2 ** 53, 2 ** 53 - 1, -3))], { dim: 0, keepdim: false }, exact),
  forward("uint8", [u8([7, 13], ints(0, 256))], { dim: 1, keepdim: false }, exact),
  forward("bool", [bool([7, 13])], { dim: 1, keepdim: false }, exact),
];

export const reductions = {
  sum: [...reduction(normal(), accumulated), ...integerSums, ...emptySums, ...longSums],
  prod: [
    ...reduction(uniform(0.7, 1.4), accumulated),
    ...integerSums,
    ...emptySums,
    differentiated("zeros", [f32([5, 6], values(2, 0, 3, -1, 1, 0, 4))], { dims: [1], ...all }, accumulated),
  ],
  max: extreme(),
  min: extreme(),
  argmax: index(),
  argmin: index(),
  cumsum: [
    differentiated("last", [f32([7, 33])], { dim: 1, reverse: false }, accumulated),
    differentiated("last reverse", [f32([7, 33])], { dim: 1, reverse: true }, accumulated),
    differentiated("first", [f32([33, 7])], { dim: 0, reverse: false }, accumulated),
    differentiated("middle reverse", [f32([3, 17, 5])], { dim: 1, reverse: true }, accumulated),
    differentiated("1031", [f32([1031])], { dim: 0, reverse: false }, accumulated),
    differentiated("flipped", [flipped(f32([6, 19]))], { dim: 1, reverse: false }, accumulated),
    differentiated("transposed", [transposed(f32([6, 19]), [1, 0])], { dim: 1, reverse: true }, accumulated),
    differentiated("empty", [f32([3, 0])], { dim: 1, reverse: false }, exact),
    differentiated("float64", [f64([7, 33])], { dim: 1, reverse: false }, accumulated),
    forward("bfloat16", [bf16([7, 33])], { dim: 1, reverse: false }, accumulated),
    forward("float16", [f16([33, 7])], { dim: 0, reverse: true }, accumulated),
    forward("int32", [i32([7, 13])], { dim: 1, reverse: true }, exact),
    forward("int64", [i64([13, 7])], { dim: 0, reverse: false }, exact),
    forward("uint8 wraps", [u8([41], ints(0, 256))], { dim: 0, reverse: false }, exact),
    forward(
      "NaN",
      [f32([2, 3], values(1, NaN, 2, Infinity, -Infinity, 1))],
      { dim: 1, reverse: false },
      exact,
    ),
  ],
  mean: [...reduction(normal(), accumulated), ...longSums],
  logsumexp: [
    ...reduction(normal(3), accumulated),
    // The gradient is exp(x - y), and a y of 1000 is right to 3e-5 in float32.
    differentiated(
      "large",
      [f32([3, 5], uniform(900, 1000))],
      { dims: [1], ...all },
      { ...accumulated, gradScale: 10 },
    ),
    differentiated(
      "-inf among others",
      [f32([3, 4], values(-Infinity, 1, 2, 3, 0.5))],
      { dims: [1], ...all },
      accumulated,
    ),
    forward("only -inf", [f32([2, 3], values(-Infinity))], { dims: [1], ...all }, exact),
    forward("special", [f32([14, 1], special)], { dims: [1], ...all }, accumulated),
  ],
} as const satisfies Partial<Record<OpName, readonly Sample[]>>;
