import { isFloat } from "../dtype.js";
import type { Node } from "../node.js";
import type { OpTable } from "../ops/table.js";
import { reducedShape, type TensorType } from "../shape.js";
import * as index from "./hlo_index.js";
import { type Hlo, type HloWriter, i64s, ints } from "./hlo_writer.js";

/** Writes one node; gives its results. */
export type HloRule = (h: HloWriter, node: Node, inputs: readonly Hlo[]) => Hlo | readonly Hlo[];

const list = (value: unknown): readonly number[] => value as readonly number[];

// --- elementwise -----------------------------------------------------------------------------------------------------

const unary =
  (op: string): HloRule =>
  (h, _, [x]) =>
    h.same(op, [x]);
/** Integers are as they are already. */
const rounding =
  (write: (h: HloWriter, x: Hlo) => Hlo): HloRule =>
  (h, _, [x]) =>
    isFloat(x.dtype) ? write(h, x) : x;
const formula =
  (write: (h: HloWriter, x: Hlo, node: Node) => Hlo): HloRule =>
  (h, node, [x]) =>
    write(h, x, node);

const add = (h: HloWriter, a: Hlo, b: Hlo): Hlo => h.same("stablehlo.add", [a, b]);
const sub = (h: HloWriter, a: Hlo, b: Hlo): Hlo => h.same("stablehlo.subtract", [a, b]);
const mul = (h: HloWriter, a: Hlo, b: Hlo): Hlo => h.same("stablehlo.multiply", [a, b]);
const div = (h: HloWriter, a: Hlo, b: Hlo): Hlo => h.same("stablehlo.divide", [a, b]);
const times = (h: HloWriter, x: Hlo, by: number): Hlo => mul(h, x, h.like(x, by));
const plus = (h: HloWriter, x: Hlo, by: number): Hlo => add(h, x, h.like(x, by));
const logistic = (h: HloWriter, x: Hlo): Hlo => h.same("stablehlo.logistic", [x]);
/** Of the CHLO dialect, whose operations are written in the generic form. */
const chlo = (h: HloWriter, op: string, x: Hlo): Hlo => h.one(`chlo.${op}`, [x], {}, [x]);
const square = (h: HloWriter, x: Hlo): Hlo => mul(h, x, x);

/** Half types compute in float32 and round once. */
function widely(h: HloWriter, x: Hlo, write: (wide: Hlo) => Hlo): Hlo {
  const half = x.dtype === "float16" || x.dtype === "bfloat16";
  return half ? h.convert(write(h.convert(x, "float32")), x.dtype) : write(x);
}
const wide = (write: (h: HloWriter, x: Hlo, node: Node) => Hlo): HloRule =>
  formula((h, x, node) => widely(h, x, (up) => write(h, up, node)));

/** The tanh approximation's argument, c (x + a x³). */
const geluArgument = (h: HloWriter, x: Hlo): Hlo =>
  mul(h, times(h, x, Math.sqrt(2 / Math.PI)), plus(h, times(h, square(h, x), 0.044715), 1));

/** Φ(x), or its approximation. */
function normalCdf(h: HloWriter, x: Hlo, approximate: unknown): Hlo {
  const inner =
    approximate === "tanh"
      ? h.same("stablehlo.tanh", [geluArgument(h, x)])
      : chlo(h, "erf", times(h, x, Math.SQRT1_2));
  return times(h, plus(h, inner, 1), 0.5);
}

function geluSlope(h: HloWriter, x: Hlo, approximate: unknown): Hlo {
  if (approximate !== "tanh") {
    const density = h.same("stablehlo.exponential", [times(h, square(h, x), -0.5)]);
    return add(h, normalCdf(h, x, approximate), mul(h, times(h, x, 1 / Math.sqrt(2 * Math.PI)), density));
  }
  const t = h.same("stablehlo.tanh", [geluArgument(h, x)]);
  const c = Math.sqrt(2 / Math.PI);
  const du = times(h, plus(h, times(h, square(h, x), 3 * 0.044715), 1), c);
  const half = times(h, plus(h, t, 1), 0.5);
  const rest = mul(h, times(h, x, 0.5), mul(h, sub(h, h.like(x, 1), square(h, t)), du));
  return add(h, half, rest);
}

/** Both operands in the result's shape. */
const broadcastAll = (h: HloWriter, node: Node, inputs: readonly Hlo[]): Hlo[] =>
  inputs.map((x) => h.broadcast(x, node.shape));
const binary =
  (op: string): HloRule =>
  (h, node, inputs) =>
    h.same(op, broadcastAll(h, node, inputs));
const comparison =
  (direction: string): HloRule =>
  (h, node, inputs) => {
    const [a, b] = broadcastAll(h, node, inputs);
    return h.compare(direction, a, b);
  };
/** Of a gradient: its slope at x, times g. */
const slope =
  (write: (h: HloWriter, x: Hlo, node: Node) => Hlo): HloRule =>
  (h, node, [x, g]) => {
    const product = (a: Hlo, b: Hlo): Hlo => mul(h, write(h, a, node), b);
    if (x.dtype !== "float16" && x.dtype !== "bfloat16") return product(x, g);
    return h.convert(product(h.convert(x, "float32"), h.convert(g, "float32")), x.dtype);
  };

/** Whether a and b differ in sign and `rest`, of a / b, is not 0. */
function needsFloor(h: HloWriter, rest: Hlo, b: Hlo): Hlo {
  const zero = h.like(rest, 0);
  const signs = h.same("stablehlo.xor", [h.compare("LT", rest, zero), h.compare("LT", b, zero)]);
  return h.same("stablehlo.and", [signs, h.compare("NE", rest, zero)]);
}

/** Of integers, what a division by 0 is not asked with: it gives 0. */
function nonZero(h: HloWriter, b: Hlo): { divisor: Hlo; zero: Hlo } {
  const zero = h.compare("EQ", b, h.like(b, 0));
  return { divisor: h.select(zero, h.like(b, 1), b), zero };
}

const division: HloRule = (h, node, inputs) => {
  const [a, b] = broadcastAll(h, node, inputs);
  if (isFloat(a.dtype)) return div(h, a, b);
  const { divisor, zero } = nonZero(h, b);
  return h.select(zero, h.like(a, 0), div(h, a, divisor));
};

/** a - b floor(a / b), of the truncating remainder. */
const remainder: HloRule = (h, node, inputs) => {
  const [a, b] = broadcastAll(h, node, inputs);
  const rest = (divisor: Hlo): Hlo => {
    const truncated = h.same("stablehlo.remainder", [a, divisor]);
    return h.select(needsFloor(h, truncated, divisor), add(h, truncated, divisor), truncated);
  };
  if (isFloat(a.dtype)) return rest(b);
  const { divisor, zero } = nonZero(h, b);
  return h.select(zero, h.like(a, 0), rest(divisor));
};

/** (a - rest) / b is near an integer, where a / b may round up to the next one. As torch.floor_divide. */
function floatFloorDivide(h: HloWriter, a: Hlo, b: Hlo): Hlo {
  const rest = h.same("stablehlo.remainder", [a, b]);
  const near = h.same("stablehlo.round_nearest_even", [div(h, sub(h, a, rest), b)]);
  const floored = h.select(needsFloor(h, rest, b), plus(h, near, -1), near);
  return h.select(h.compare("EQ", b, h.like(b, 0)), div(h, a, b), floored);
}

const floorDivide: HloRule = (h, node, inputs) => {
  const [a, b] = broadcastAll(h, node, inputs);
  if (isFloat(a.dtype)) return widely(h, a, (up) => floatFloorDivide(h, up, h.convert(b, up.dtype)));
  const { divisor, zero } = nonZero(h, b);
  const rest = h.same("stablehlo.remainder", [a, divisor]);
  const quotient = div(h, a, divisor);
  const floored = h.select(needsFloor(h, rest, divisor), sub(h, quotient, h.like(quotient, 1)), quotient);
  return h.select(zero, h.like(a, 0), floored);
};

// --- reductions ------------------------------------------------------------------------------------------------------

/** What leaves the others as they are: the reduction's first value. */
const neutral = {
  add: () => 0,
  multiply: () => 1,
  maximum: (dtype: string) => extremes[dtype]?.[0] ?? Number.NEGATIVE_INFINITY,
  minimum: (dtype: string) => extremes[dtype]?.[1] ?? Number.POSITIVE_INFINITY,
} as const;
const extremes: Readonly<Record<string, readonly [number, number]>> = {
  int32: [-(2 ** 31), 2 ** 31 - 1],
  uint8: [0, 255],
  bool: [0, 1],
};

function reduced(h: HloWriter, x: Hlo, dims: readonly number[], kind: keyof typeof neutral): Hlo {
  const scalar = { shape: [], dtype: x.dtype };
  const first =
    x.dtype === "int64" && kind.endsWith("imum")
      ? int64Extreme(h, kind)
      : h.full(neutral[kind](x.dtype), scalar);
  const type = { shape: reducedShape(x.shape, dims, false), dtype: x.dtype };
  return h.one("stablehlo.reduce", [x, first], { dimensions: i64s(dims) }, [type], {
    args: [scalar, scalar],
    body: (a, b) => [h.same(`stablehlo.${kind}`, [a, b])],
  });
}

/** Not to be written as a JavaScript number. */
function int64Extreme(h: HloWriter, kind: string): Hlo {
  const data = new BigInt64Array([kind === "maximum" ? -(2n ** 63n) : 2n ** 63n - 1n]);
  return h.constant({ shape: [], dtype: "int64" }, new Uint8Array(data.buffer));
}

const reduction =
  (kind: keyof typeof neutral): HloRule =>
  (h, node, [x]) =>
    widely(h, x, (up) => h.reshape(reduced(h, up, list(node.attrs.dims), kind), node.shape));

/** The first of the largest (smallest); NaN wins. */
const extremeIndex =
  (direction: "GT" | "LT"): HloRule =>
  (h, node, [x]) => {
    const dim = node.attrs.dim as number;
    const places = h.iota(dim, { shape: x.shape, dtype: "int32" });
    const values = { shape: [], dtype: x.dtype };
    const place: TensorType = { shape: [], dtype: "int32" };
    const shape = reducedShape(x.shape, [dim], false);
    const kind = direction === "GT" ? "maximum" : "minimum";
    const first = x.dtype === "int64" ? int64Extreme(h, kind) : h.full(neutral[kind](x.dtype), values);
    const zero = h.full(2 ** 31 - 1, place);
    const types = [
      { shape, dtype: x.dtype },
      { shape, dtype: place.dtype },
    ];
    const [, found] = h.generic(
      "stablehlo.reduce",
      [x, places, first, zero],
      { dimensions: i64s([dim]) },
      types,
      {
        args: [values, place, values, place],
        body: (a, i, b, j) => {
          const or = (p: Hlo, q: Hlo): Hlo => h.same("stablehlo.or", [p, q]);
          const and = (p: Hlo, q: Hlo): Hlo => h.same("stablehlo.and", [p, q]);
          const nanA = h.compare("NE", a, a);
          const nanB = h.compare("NE", b, b);
          const wins = or(nanA, and(h.compare(direction, a, b), h.same("stablehlo.not", [nanB])));
          const ties = or(h.compare("EQ", a, b), and(nanA, nanB));
          const earlier = h.compare("LT", i, j);
          const takes = h.select(ties, earlier, wins);
          return [h.select(takes, a, b), h.select(takes, i, j)];
        },
      },
    );
    return h.reshape(found, node.shape);
  };

const cumsum: HloRule = (h, node, [x]) => {
  const { dim, reverse } = node.attrs as { dim: number; reverse: boolean };
  const size = x.shape[dim];
  if (size === 0) return x;
  return widely(h, x, (up) => {
    const scalar = { shape: [], dtype: up.dtype };
    const at = (value: number, rest: number): number[] => x.shape.map((_, i) => (i === dim ? value : rest));
    const pairs = x.shape.map((_, i) =>
      i !== dim ? "[0, 0]" : reverse ? `[0, ${size - 1}]` : `[${size - 1}, 0]`,
    );
    const attrs = {
      window_dimensions: i64s(at(size, 1)),
      padding: `dense<[${pairs.join(", ")}]> : tensor<${x.shape.length}x2xi64>`,
    };
    return h.one("stablehlo.reduce_window", [up, h.full(0, scalar)], attrs, [up], {
      args: [scalar, scalar],
      body: (a, b) => [add(h, a, b)],
    });
  });
};

// --- contraction and views -------------------------------------------------------------------------------------------

const dot: HloRule = (h, node, [a, b]) => {
  const { lhs_contract, rhs_contract, lhs_batch, rhs_batch } = node.attrs;
  const numbers = [
    `lhs_batching_dimensions = ${ints(list(lhs_batch))}`,
    `rhs_batching_dimensions = ${ints(list(rhs_batch))}`,
    `lhs_contracting_dimensions = ${ints(list(lhs_contract))}`,
    `rhs_contracting_dimensions = ${ints(list(rhs_contract))}`,
  ].join(", ");
  const attrs = {
    dot_dimension_numbers: `#stablehlo.dot<${numbers}>`,
    precision_config: "[#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>]",
  };
  return h.one("stablehlo.dot_general", [a, b], attrs, [node.type]);
};

const pad: HloRule = (h, node, [x]) => {
  const { low, high, interior, value } = node.attrs;
  const filler = h.full(value as number, { shape: [], dtype: x.dtype });
  const attrs = {
    edge_padding_low: i64s(list(low)),
    edge_padding_high: i64s(list(high)),
    interior_padding: i64s(list(interior)),
  };
  return h.one("stablehlo.pad", [x, filler], attrs, [node.type]);
};

const alias: HloRule = (_, __, [x]) => x;

/**
 * How each op is written once composites and fused kernels are in smaller ops; null for what has no counterpart: random
 * draws are Lazuli's own generator's, and collectives are of a program that has been partitioned already.
 */
export const hloRules: OpTable<HloRule | null> = {
  input: null,
  constant: (h, node) => h.constant(node.type, node.attrs.data as Uint8Array),
  result: null,
  detach: alias,
  barrier: alias,
  full: (h, node) => h.full(node.attrs.value as number, node.type),
  iota: (h, node) => h.iota(node.attrs.dim as number, node.type),
  random_uniform: null,
  random_normal: null,
  bernoulli: null,

  neg: unary("stablehlo.negate"),
  abs: (h, _, [x]) => (x.dtype === "uint8" ? x : h.same("stablehlo.abs", [x])),
  // 0 for NaN
  sign: (h, _, [x]) => {
    const above = h.convert(h.compare("GT", x, h.like(x, 0)), x.dtype);
    return x.dtype === "uint8" ? above : sub(h, above, h.convert(h.compare("LT", x, h.like(x, 0)), x.dtype));
  },
  exp: unary("stablehlo.exponential"),
  exp2: wide((h, x) => h.same("stablehlo.exponential", [times(h, x, Math.LN2)])),
  expm1: unary("stablehlo.exponential_minus_one"),
  log: unary("stablehlo.log"),
  log1p: unary("stablehlo.log_plus_one"),
  log2: wide((h, x) => times(h, h.same("stablehlo.log", [x]), Math.LOG2E)),
  sqrt: unary("stablehlo.sqrt"),
  rsqrt: unary("stablehlo.rsqrt"),
  sin: unary("stablehlo.sine"),
  cos: unary("stablehlo.cosine"),
  tan: wide((h, x) => div(h, h.same("stablehlo.sine", [x]), h.same("stablehlo.cosine", [x]))),
  asin: wide((h, x) => chlo(h, "asin", x)),
  acos: wide((h, x) => chlo(h, "acos", x)),
  atan: wide((h, x) => h.same("stablehlo.atan2", [x, h.like(x, 1)])),
  sinh: wide((h, x) => chlo(h, "sinh", x)),
  cosh: wide((h, x) => chlo(h, "cosh", x)),
  tanh: unary("stablehlo.tanh"),
  sigmoid: unary("stablehlo.logistic"),
  erf: wide((h, x) => chlo(h, "erf", x)),
  reciprocal: formula((h, x) => div(h, h.like(x, 1), x)),
  square: formula(square),
  floor: rounding((h, x) => h.same("stablehlo.floor", [x])),
  ceil: rounding((h, x) => h.same("stablehlo.ceil", [x])),
  round: rounding((h, x) => h.same("stablehlo.round_nearest_even", [x])),
  trunc: rounding((h, x) =>
    h.select(h.compare("LT", x, h.like(x, 0)), h.same("stablehlo.ceil", [x]), h.same("stablehlo.floor", [x])),
  ),
  relu: formula((h, x) => h.same("stablehlo.maximum", [x, h.like(x, 0)])),
  silu: wide((h, x) => mul(h, x, logistic(h, x))),
  softplus: wide((h, x) => {
    const small = h.same("stablehlo.exponential", [
      h.same("stablehlo.negate", [h.same("stablehlo.abs", [x])]),
    ]);
    return add(h, h.same("stablehlo.log_plus_one", [small]), h.same("stablehlo.maximum", [x, h.like(x, 0)]));
  }),
  gelu: wide((h, x, node) => mul(h, x, normalCdf(h, x, node.attrs.approximate))),
  logical_not: unary("stablehlo.not"),
  isnan: formula((h, x) => h.compare("NE", x, x)),
  isinf: formula((h, x) =>
    h.compare("EQ", h.same("stablehlo.abs", [x]), h.like(x, Number.POSITIVE_INFINITY)),
  ),
  isfinite: formula((h, x) =>
    h.compare("LT", h.same("stablehlo.abs", [x]), h.like(x, Number.POSITIVE_INFINITY)),
  ),
  cast: (h, node, [x]) =>
    node.dtype === "bool" ? h.compare("NE", x, h.like(x, 0)) : h.convert(x, node.dtype),
  add: binary("stablehlo.add"),
  sub: binary("stablehlo.subtract"),
  mul: binary("stablehlo.multiply"),
  div: division,
  pow: binary("stablehlo.power"),
  maximum: binary("stablehlo.maximum"),
  minimum: binary("stablehlo.minimum"),
  remainder,
  floor_divide: floorDivide,
  atan2: binary("stablehlo.atan2"),
  eq: comparison("EQ"),
  ne: comparison("NE"),
  lt: comparison("LT"),
  le: comparison("LE"),
  gt: comparison("GT"),
  ge: comparison("GE"),
  logical_and: binary("stablehlo.and"),
  logical_or: binary("stablehlo.or"),
  logical_xor: binary("stablehlo.xor"),
  silu_grad: slope((h, x) => {
    const s = logistic(h, x);
    return mul(h, s, plus(h, mul(h, x, sub(h, h.like(x, 1), s)), 1));
  }),
  gelu_grad: slope((h, x, node) => geluSlope(h, x, node.attrs.approximate)),
  where: (h, node, inputs) => {
    const [condition, a, b] = broadcastAll(h, node, inputs);
    return h.select(condition, a, b);
  },

  sum: reduction("add"),
  prod: reduction("multiply"),
  max: reduction("maximum"),
  min: reduction("minimum"),
  argmax: extremeIndex("GT"),
  argmin: extremeIndex("LT"),
  cumsum,
  mean: null,
  logsumexp: null,
  dot_general: dot,

  reshape: (h, node, [x]) => h.reshape(x, node.shape),
  transpose: (h, node, [x]) => h.transpose(x, list(node.attrs.perm)),
  broadcast_to: (h, node, [x]) => h.broadcast(x, node.shape),
  slice: (h, node, [x]) =>
    h.slice(x, list(node.attrs.starts), list(node.attrs.limits), list(node.attrs.steps), node.shape),
  flip: (h, node, [x]) =>
    h.one("stablehlo.reverse", [x], { dimensions: i64s(list(node.attrs.dims)) }, [node.type]),
  pad,
  concat: (h, node, inputs) =>
    h.one("stablehlo.concatenate", inputs, { dimension: `${node.attrs.dim} : i64` }, [node.type]),

  index_select: index.indexSelect,
  index_add: index.indexAdd,
  gather: index.gather,
  scatter_add: index.scatterAdd,
  sort: index.sort,
  topk: index.topk,

  softmax: null,
  log_softmax: null,
  softmax_grad: null,
  log_softmax_grad: null,
  rms_norm: null,
  rms_norm_grad: null,
  layer_norm: null,
  layer_norm_grad: null,
  rope: null,
  attention: null,
  attention_grad: null,
  attention_bias_grad: null,
  cross_entropy: null,
  cross_entropy_grad: null,
  linear_cross_entropy: null,
  linear_cross_entropy_grad: null,
  adamw_update: null,

  all_reduce: null,
  all_gather: null,
  reduce_scatter: null,
  all_to_all: null,
  collective_permute: null,
  shard_slice: null,
  axis_index: null,
  sharding_constraint: alias,
  collective_done: null,
  full_to_shard: null,
  shard_to_full: null,
};
