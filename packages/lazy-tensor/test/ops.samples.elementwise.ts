import type { Attrs, OpName } from "@lazuli/fx-trace";
import {
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
  i32,
  i64,
  ints,
  type Leaf,
  normal,
  pointwise,
  type Sample,
  special,
  strided,
  type Tolerance,
  transposed,
  u8,
  uniform,
  values,
} from "./ops.samples.types.js";

const floats = { f32, f64, bf16, f16 };

interface UnaryOptions {
  readonly attrs?: Attrs;
  readonly tolerance?: Tolerance;
  /** For bfloat16 and float16, where the range of `fill` is too wide for them. */
  readonly half?: Fill;
  /** Finite arguments at which the op has a value of its own: a pole, a threshold, a tie. */
  readonly edges?: readonly number[];
}

/** What every float op of one operand goes through: sizes, strides, dtypes, special values. */
function unary(
  fill: Fill,
  { attrs = {}, tolerance = pointwise, half = fill, edges = [] }: UnaryOptions = {},
): Sample[] {
  return [
    differentiated("1031", [f32([1031], fill)], attrs, tolerance),
    differentiated("transposed", [transposed(f32([3, 5, 7], fill), [2, 0, 1])], attrs, tolerance),
    differentiated("flipped", [flipped(f32([5, 33], fill))], attrs, tolerance),
    differentiated("strided", [strided(f32([9, 17], fill))], attrs, tolerance),
    differentiated("broadcast", [broadcast(f32([1, 6], fill), [5, 6])], attrs, tolerance),
    differentiated("scalar", [f32([], fill)], attrs, tolerance),
    differentiated("empty", [f32([0, 3], fill)], attrs, tolerance),
    differentiated("float64", [f64([2, 37], fill)], attrs, tolerance),
    forward("bfloat16", [bf16([67], half)], attrs, tolerance),
    forward("float16", [f16([67], half)], attrs, tolerance),
    forward("special", [f32([14], special)], attrs, tolerance),
    forward("special float64", [f64([14], special)], attrs, tolerance),
    ...(edges.length > 0
      ? [forward("edges", [f32([edges.length], values(...edges))], attrs, tolerance)]
      : []),
  ];
}

const integers = (attrs: Attrs = {}): Sample[] => [
  forward("int32", [flipped(i32([5, 13]))], attrs, exact),
  forward("int64", [i64([41], values(0, 1, -1, 2 ** 40 + 1, -(2 ** 40) - 1, 7))], attrs, exact),
  forward("uint8", [u8([41], ints(0, 256))], attrs, exact),
];

/** Where y is near 1 its derivative takes 1 - y, of which float32 keeps few digits; PyTorch's does too. */
const saturating: Tolerance = { kind: "pointwise", gradScale: 10 };

/** Steps: exact in every dtype; away from the steps the derivative is 0. */
const stepFill = uniform(-4, 4);
const halves = [
  -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999997, -0.49999997, 8388607.5, -8388607.5, 16777217, 3e9, -3e9,
];
const step = (): Sample[] => [...unary(stepFill, { tolerance: exact, edges: halves }), ...integers()];

const unaryOps = {
  neg: [...unary(normal(3), { tolerance: exact }), ...integers()],
  abs: [...unary(normal(3), { tolerance: exact, edges: [0, -0, -1e-38, 3e38] }), ...integers()],
  sign: [...unary(normal(3), { tolerance: exact, edges: [0, -0, -1e-38, 3e38] }), ...integers()],
  square: [...unary(normal(3)), ...integers()],
  relu: [...unary(normal(3), { tolerance: exact, edges: [0, -0, -1e-38, 3e38] }), ...integers()],
  floor: step(),
  ceil: step(),
  round: step(),
  trunc: step(),
  exp: unary(uniform(-20, 20), {
    half: uniform(-6, 6),
    edges: [88.7, 88.8, -87.3, -88, -103, -104, 1e-8, 709],
  }),
  exp2: unary(uniform(-20, 20), { half: uniform(-6, 6), edges: [127.5, 128, -126, -127, -149, -151, 1e-8] }),
  expm1: unary(uniform(-10, 10), { half: uniform(-4, 4), edges: [1e-8, -1e-8, 1e-4, 88.7, 89, -17, -50] }),
  log: unary(uniform(0.01, 50), { edges: [1, 1.0000001, 0.9999999, 1e-38, 1e-44, 3e38, -1e-20] }),
  log1p: unary(uniform(-0.9, 20), { edges: [1e-8, -1e-8, 1e-4, -0.9999999, -1, 3e38] }),
  log2: unary(uniform(0.01, 50), { edges: [1, 2, 8, 1.0000001, 1e-38, 1e-44, 3e38] }),
  sqrt: unary(uniform(0.1, 50), { edges: [0, 1e-38, 1e-44, 3e38, 4] }),
  rsqrt: unary(uniform(0.1, 50), { edges: [0, 1e-38, 3e38, 4, -1] }),
  reciprocal: unary(uniform(0.1, 50), { edges: [1e-38, 2e38, -4] }),
  sin: unary(uniform(-30, 30), { half: uniform(-6, 6), edges: [Math.PI, 1e-8, 1e4, 1e5, 3e6, -1e5] }),
  cos: unary(uniform(-30, 30), { half: uniform(-6, 6), edges: [1.5707964, 1e-8, 1e4, 1e5, 3e6, -1e5] }),
  tan: unary(uniform(-1.3, 1.3), { edges: [Math.PI, 1e-8, 1e3, 1e5] }),
  asin: unary(uniform(-0.95, 0.95), { edges: [1, -1, 1e-8, 0.9999999, 1.0000001] }),
  acos: unary(uniform(-0.95, 0.95), { edges: [1, -1, 1e-8, 0.9999999, 1.0000001] }),
  atan: unary(normal(4), { edges: [1e-8, 1e8, -1e30, 1] }),
  sinh: unary(uniform(-6, 6), { half: uniform(-4, 4), edges: [1e-8, 1e-3, 88.8, 89.4, -89.4, 90] }),
  cosh: unary(uniform(-6, 6), { half: uniform(-4, 4), edges: [1e-8, 1e-3, 88.8, 89.4, -89.4, 90] }),
  tanh: unary(normal(2), { tolerance: saturating, edges: [1e-8, 1e-3, 9, 20, -100] }),
  sigmoid: unary(normal(4), { tolerance: saturating, edges: [1e-8, -87, -89, -103, 17, 100] }),
  erf: unary(normal(1.5), { edges: [1e-8, 1e-3, 3.9, 4.1, -10] }),
  silu: unary(normal(3), { edges: [1e-8, -87, -89, -103, 17, 100] }),
  softplus: unary(normal(8), { edges: [1e-8, -20, -87, -89, 19.9, 20.1, 100] }),
  gelu: (["none", "tanh"] as const).flatMap((approximate) =>
    unary(normal(2), { attrs: { approximate }, edges: [1e-8, -3, -5, 10, -10, 100, -100] }).map((sample) => ({
      ...sample,
      name: `${approximate} ${sample.name}`,
    })),
  ),
  logical_not: [
    forward("odd", [bool([7, 11])], {}, exact),
    forward("flipped", [flipped(bool([1031]))], {}, exact),
    forward("scalar", [bool([])], {}, exact),
    forward("empty", [bool([3, 0])], {}, exact),
  ],
} as const satisfies Partial<Record<OpName, readonly Sample[]>>;

const test = (): Sample[] => [
  ...Object.entries(floats).map(([name, leaf]) => forward(name, [leaf([29], special)], {}, exact)),
  forward("flipped", [flipped(f32([1031], special))], {}, exact),
  forward("scalar", [f32([], values(NaN))], {}, exact),
  forward("empty", [f32([0], special)], {}, exact),
];

interface BinaryOptions {
  readonly tolerance?: Tolerance;
  readonly grad?: boolean;
  readonly right?: Fill;
  readonly half?: Fill;
}

/** What every float op of two operands goes through; ties appear where both draw from the same integers. */
function binary(
  fill: Fill,
  { tolerance = pointwise, grad = true, right = fill, half = fill }: BinaryOptions = {},
): Sample[] {
  const make = grad ? differentiated : forward;
  const pairs: [string, Leaf, Leaf][] = [
    ["1031", f32([1031], fill), f32([1031], right)],
    ["row", f32([7, 33], fill), f32([33], right)],
    ["column", f32([7, 33], fill), f32([7, 1], right)],
    ["outer", f32([5, 1, 3], fill), f32([4, 1], right)],
    ["scalar left", f32([], fill), f32([5, 7], right)],
    ["scalar right", f32([5, 7], fill), f32([1], right)],
    ["scalars", f32([], fill), f32([], right)],
    ["flipped", flipped(f32([6, 19], fill)), transposed(f32([19, 6], right), [1, 0])],
    ["strided", strided(f32([7, 13], fill)), broadcast(f32([1, 6], right), [3, 6])],
    ["empty", f32([0, 3], fill), f32([1, 3], right)],
    ["float64", f64([3, 17], fill), f64([17], right)],
  ];
  return [
    ...pairs.map(([name, a, b]) => make(name, [a, b], {}, tolerance)),
    forward("bfloat16", [bf16([67], half), bf16([67], right)], {}, tolerance),
    forward("float16", [f16([67], half), f16([67], right)], {}, tolerance),
    forward("special", [f32([14, 1], special), f32([14], special)], {}, tolerance),
  ];
}

/** Operands of every int dtype; the right one through zero, and int32 and int64 out of their range. */
const integerPairs = (least = -9): Sample[] => [
  forward("int32", [i32([7, 13]), flipped(i32([13], ints(least, 5)))], {}, exact),
  forward("int64", [i64([5, 1]), i64([1, 11], ints(least, 5))], {}, exact),
  forward("uint8", [u8([61], ints(0, 256)), u8([61], ints(0, 9))], {}, exact),
];
/** The quotient of the least integer and -1 has no place in the dtype: it wraps, and must not trap. */
const quotientWraps: Sample[] = [
  forward("int32 wraps", [i32([5], values(-2147483648, -2147483647)), i32([5], values(-1))], {}, exact),
  forward("int64 wraps", [i64([5], values(-(2 ** 63), 7)), i64([5], values(-1))], {}, exact),
];
/** 0.1 in float32 is a little more than a tenth: the quotient rounds up to an integer that it does not reach. */
const justBelow: Leaf[] = [f32([6], values(1, -1, 6, 0.3, -0.7, 1e6)), f32([6], values(0.1))];
const wraps: Sample[] = [
  forward(
    "int32 wraps",
    [i32([9], values(2147483647, -2147483648, 65536)), i32([9], values(3, -5, 65537))],
    {},
    exact,
  ),
  forward(
    "int64 wraps",
    [i64([9], values(2 ** 53, -(2 ** 53), 2 ** 40)), i64([9], values(2 ** 53, 2 ** 50))],
    {},
    exact,
  ),
  forward("uint8 wraps", [u8([9], values(255, 0, 17)), u8([9], values(200, 3))], {}, exact),
];

/** Left and right share small integers, so every comparison meets ties. */
const compare = (): Sample[] => [
  ...binary(ints(-3, 4), { tolerance: exact, grad: false }),
  ...integerPairs(),
  forward("bool", [bool([5, 1]), bool([9])], {}, exact),
  forward(
    "int64 beyond float64",
    [i64([4], values(2 ** 53, -(2 ** 53))), i64([1], values(2 ** 53))],
    {},
    exact,
  ),
];

const logical = (): Sample[] => [
  forward("odd", [bool([7, 11]), bool([11])], {}, exact),
  forward("flipped", [flipped(bool([1031])), bool([1031])], {}, exact),
  forward("scalars", [bool([]), bool([])], {}, exact),
  forward("empty", [bool([0, 2]), bool([2])], {}, exact),
];

const extreme = (): Sample[] => [
  ...binary(normal(3), { tolerance: exact }),
  differentiated("ties", [f32([67], ints(-2, 3)), f32([67], ints(-2, 3))], {}, exact),
  ...integerPairs(),
];

const binaryOps = {
  add: [...binary(normal(2)), ...integerPairs(), ...wraps],
  sub: [...binary(normal(2)), ...integerPairs(), ...wraps],
  mul: [...binary(normal(2)), ...integerPairs(), ...wraps],
  div: [...binary(normal(2), { right: uniform(0.3, 3) }), ...integerPairs(), ...quotientWraps],
  pow: [
    ...binary(uniform(0.2, 3), { right: uniform(-2, 3) }),
    differentiated("integer exponents", [f32([41], normal(2)), f32([41], ints(-3, 4))], {}, pointwise),
    differentiated("zero base", [f32([4], values(0)), f32([4], values(0, 1, 2, 0.5))], {}, pointwise),
    forward("int32", [i32([63], ints(-5, 6)), i32([63], ints(0, 6))], {}, exact),
    forward("int64", [i64([63], ints(-5, 6)), i64([63], ints(0, 20))], {}, exact),
  ],
  maximum: extreme(),
  minimum: extreme(),
  remainder: [
    ...binary(normal(5), { right: uniform(0.3, 3) }),
    forward("signs", [f32([8], values(5.5, -5.5)), f32([8], values(3, 3, -3, -3))], {}, exact),
    forward("exact multiples", [f32([9], values(6, -6, 0)), f32([9], values(3, -3, 0.1))], {}, pointwise),
    forward("just below a multiple", justBelow, {}, pointwise),
    ...integerPairs(),
    ...quotientWraps,
  ],
  floor_divide: [
    ...binary(normal(5), { tolerance: exact, right: uniform(0.3, 3) }),
    forward("signs", [f32([8], values(5.5, -5.5)), f32([8], values(3, 3, -3, -3))], {}, exact),
    forward("just below a multiple", justBelow, {}, exact),
    ...integerPairs(),
    ...quotientWraps,
  ],
  atan2: [
    ...binary(normal(2)),
    forward("axes", [f32([3, 1], values(0, 2, -2)), f32([3], values(0, 2, -2))], {}, pointwise),
  ],
  eq: compare(),
  ne: compare(),
  lt: compare(),
  le: compare(),
  gt: compare(),
  ge: compare(),
  logical_and: logical(),
  logical_or: logical(),
  logical_xor: logical(),
} as const satisfies Partial<Record<OpName, readonly Sample[]>>;

/** Of one shape: these ops do not broadcast. */
const gradOf = (attrs: Attrs, prefix = ""): Sample[] =>
  (
    [
      ["1031", f32([1031], normal(2)), f32([1031])],
      ["flipped", flipped(f32([5, 9], normal(2))), transposed(f32([9, 5]), [1, 0])],
      ["scalar", f32([]), f32([])],
      ["empty", f32([0, 3]), f32([0, 3])],
      ["float64", f64([3, 17], normal(2)), f64([3, 17])],
      ["bfloat16", bf16([67], normal(2)), bf16([67])],
      ["float16", f16([67], normal(2)), f16([67])],
      ["large", f32([8], values(20, -20, 90, -90, 104, -104, 1e12, -1e12)), f32([8])],
    ] satisfies [string, Leaf, Leaf][]
  ).map(([name, x, g]) => {
    const grad = x.dtype === "float32" || x.dtype === "float64";
    return {
      name: `${prefix}${name}`,
      operands: [x, g],
      attrs,
      tolerance: pointwise,
      grad: grad && name !== "large",
    };
  });

const castSamples: Sample[] = [
  ...([f32, f64, bf16, f16] as const).flatMap((from) =>
    (["float32", "float64", "bfloat16", "float16"] as const).map((dtype) =>
      differentiated(`${from([]).dtype} to ${dtype}`, [from([67], normal(100))], { dtype }, exact),
    ),
  ),
  ...([f32, f64, bf16, f16] as const).flatMap((from) =>
    (["int32", "int64"] as const).map((dtype) =>
      forward(`${from([]).dtype} to ${dtype}`, [flipped(from([67], uniform(-300, 300)))], { dtype }, exact),
    ),
  ),
  ...([f32, f64, bf16, f16, i32, i64] as const).map((from) =>
    forward(`${from([]).dtype} to uint8`, [from([67], uniform(0, 255))], { dtype: "uint8" }, exact),
  ),
  ...([f32, f64, bf16, f16] as const).map((from) =>
    forward(`${from([]).dtype} to bool`, [from([14], special)], { dtype: "bool" }, exact),
  ),
  ...([i32, i64, u8, bool] as const).flatMap((from) =>
    (["float32", "float64", "bfloat16", "float16", "int32", "int64", "bool"] as const).map((dtype) =>
      forward(
        `${from([]).dtype} to ${dtype}`,
        [from([37], ints(0, from === bool ? 2 : 256))],
        { dtype },
        exact,
      ),
    ),
  ),
  forward("bool to uint8", [bool([9, 9])], { dtype: "uint8" }, exact),
  forward("negative int32 to int64", [i32([5], values(-1, -2147483648))], { dtype: "int64" }, exact),
  forward("int64 to int32 wraps", [i64([4], values(2 ** 32 + 5, -(2 ** 32) - 5))], { dtype: "int32" }, exact),
  forward(
    "int64 to float32 rounds",
    [i64([6], values(16777217, 16777219, 2 ** 52 + 1))],
    { dtype: "float32" },
    exact,
  ),
  forward(
    "to bfloat16 ties",
    [f32([6], values(1.00390625, 1.01171875, 3.4e38, -1e-40))],
    { dtype: "bfloat16" },
    exact,
  ),
  forward(
    "to float16 ties",
    [f32([8], values(2049, 2051, 65519, 65520, 1e-7, 6e-8, 2e-8, -5e-6))],
    { dtype: "float16" },
    exact,
  ),
  forward("special to bfloat16", [f32([14], special)], { dtype: "bfloat16" }, exact),
  forward("special to float16", [f32([14], special)], { dtype: "float16" }, exact),
  forward("1031", [f32([1031], normal(1000))], { dtype: "int32" }, exact),
  differentiated("scalar", [f32([])], { dtype: "float64" }, exact),
  differentiated("empty", [f32([0, 2])], { dtype: "bfloat16" }, exact),
];

export const elementwise = {
  ...unaryOps,
  ...binaryOps,
  isnan: test(),
  isinf: test(),
  isfinite: test(),
  cast: castSamples,
  silu_grad: gradOf({}),
  gelu_grad: [...gradOf({ approximate: "none" }, "none "), ...gradOf({ approximate: "tanh" }, "tanh ")],
  where: [
    differentiated("1031", [bool([1031]), f32([1031]), f32([1031])], {}, exact),
    differentiated("broadcast", [bool([7, 1]), f32([1, 9]), f32([3, 7, 9])], {}, exact),
    differentiated("scalars", [bool([]), f32([]), f32([])], {}, exact),
    differentiated("scalar branches", [bool([5, 5]), f32([]), f32([5])], {}, exact),
    differentiated(
      "flipped",
      [flipped(bool([5, 9])), transposed(f32([9, 5]), [1, 0]), flipped(f32([5, 9]))],
      {},
      exact,
    ),
    differentiated("empty", [bool([0, 3]), f32([3]), f32([0, 3])], {}, exact),
    differentiated("float64", [bool([17]), f64([17]), f64([17])], {}, exact),
    forward("the other branch may be NaN", [bool([6]), f32([6], values(NaN)), f32([6])], {}, exact),
    forward("bfloat16", [bool([17]), bf16([17]), bf16([17])], {}, exact),
    forward("float16", [bool([17]), f16([17]), f16([17])], {}, exact),
    forward("int32", [bool([17]), i32([17]), i32([])], {}, exact),
    forward("int64", [bool([17]), i64([17]), i64([17])], {}, exact),
    forward("uint8", [bool([17]), u8([17]), u8([17])], {}, exact),
    forward("bool", [bool([17]), bool([17]), bool([1])], {}, exact),
  ],
} as const satisfies Partial<Record<OpName, readonly Sample[]>>;
