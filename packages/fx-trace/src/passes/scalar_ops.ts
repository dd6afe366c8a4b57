import { type DType, isInt } from "../dtype.js";

/** An op on numbers of `dtype`, its operands' one, in float64; the caller rounds. */
export type ScalarOp = (dtype: DType, ...values: number[]) => number;

const plain =
  (fn: (...values: number[]) => number): ScalarOp =>
  (_, ...values) =>
    fn(...values);

const holds = (fn: (...values: number[]) => boolean): ScalarOp =>
  plain((...values) => (fn(...values) ? 1 : 0));

function roundHalfToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  const nearest = rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
  return nearest === 0 ? x * 0 : nearest; // a zero keeps x's sign
}

const multiply: ScalarOp = (dtype, a, b) => (dtype === "int32" ? Math.imul(a, b) : a * b);

const divide: ScalarOp = (dtype, a, b) => {
  if (!isInt(dtype)) return a / b;
  return b === 0 ? 0 : Math.trunc(a / b);
};

/**
 * Ops that constants are folded through: those whose float64 value, rounded, is what a device computes up to its own
 * rounding.
 */
export const scalarOps: Readonly<Record<string, ScalarOp>> = {
  neg: plain((x) => -x),
  abs: plain(Math.abs),
  square: (dtype, x) => multiply(dtype, x, x),
  reciprocal: plain((x) => 1 / x),
  sqrt: plain(Math.sqrt),
  rsqrt: plain((x) => 1 / Math.sqrt(x)),
  exp: plain(Math.exp),
  exp2: plain((x) => 2 ** x),
  expm1: plain(Math.expm1),
  log: plain(Math.log),
  log1p: plain(Math.log1p),
  log2: plain(Math.log2),
  sin: plain(Math.sin),
  cos: plain(Math.cos),
  tanh: plain(Math.tanh),
  sigmoid: plain((x) => 1 / (1 + Math.exp(-x))),
  floor: plain(Math.floor),
  ceil: plain(Math.ceil),
  trunc: plain(Math.trunc),
  round: plain(roundHalfToEven),
  add: plain((a, b) => a + b),
  sub: plain((a, b) => a - b),
  mul: multiply,
  div: divide,
  // JavaScript gives NaN for 1 ** NaN, IEEE 754 and C give 1.
  pow: plain((a, b) => (a === 1 ? 1 : a ** b)),
  maximum: plain(Math.max),
  minimum: plain(Math.min),
  eq: holds((a, b) => a === b),
  ne: holds((a, b) => a !== b),
  lt: holds((a, b) => a < b),
  le: holds((a, b) => a <= b),
  gt: holds((a, b) => a > b),
  ge: holds((a, b) => a >= b),
  logical_and: holds((a, b) => a !== 0 && b !== 0),
  logical_or: holds((a, b) => a !== 0 || b !== 0),
  logical_xor: holds((a, b) => (a !== 0) !== (b !== 0)),
  logical_not: holds((x) => x === 0),
  isnan: holds(Number.isNaN),
  isinf: holds((x) => Math.abs(x) === Number.POSITIVE_INFINITY),
  isfinite: holds(Number.isFinite),
};
