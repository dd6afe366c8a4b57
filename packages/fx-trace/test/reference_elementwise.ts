import { type DType, isFloat } from "../src/dtype.js";

/** A scalar function of elements; `dtype` is that of the first operand. */
export type Scalar = (x: number, y: number, dtype: DType) => number;

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** By series near 0, by the continued fraction of erfc beyond. Good to about 1e-15. */
export function erf(x: number): number {
  if (Number.isNaN(x)) return x;
  if (x < 0) return -erf(-x);
  if (x < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; n < 80; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 80; n >= 1; n--) fraction = n / 2 / (x + fraction);
  return 1 - Math.exp(-x * x) / (Math.sqrt(Math.PI) * (x + fraction));
}

const gelu = (x: number): number => 0.5 * x * (1 + erf(x / Math.SQRT2));
const geluSlope = (x: number): number =>
  0.5 * (1 + erf(x / Math.SQRT2)) + (x * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI);

const geluTanhInner = (x: number): number => Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);
const geluTanh = (x: number): number => 0.5 * x * (1 + Math.tanh(geluTanhInner(x)));
function geluTanhSlope(x: number): number {
  const t = Math.tanh(geluTanhInner(x));
  const inner = Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x);
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner;
}

function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  if (rest !== 0.5) return rest < 0.5 ? down : down + 1;
  return down % 2 === 0 ? down : down + 1;
}

function remainder(x: number, y: number, dtype: DType): number {
  if (y === 0) return isFloat(dtype) ? Number.NaN : 0;
  const rest = x % y;
  return rest !== 0 && rest < 0 !== y < 0 ? rest + y : rest;
}

function divide(x: number, y: number, dtype: DType): number {
  if (isFloat(dtype)) return x / y;
  return y === 0 ? 0 : Math.trunc(x / y);
}

/** By way of the remainder, as Python and PyTorch: infinities give NaN where their quotient has no floor. */
function floorDivide(x: number, y: number, dtype: DType): number {
  if (y === 0) return isFloat(dtype) ? x / y : 0;
  const rest = x % y;
  const quotient = (x - rest) / y - (rest !== 0 && rest < 0 !== y < 0 ? 1 : 0);
  return Math.round(quotient);
}

/** IEEE 754's pow, which gives 1 for 1^NaN and (-1)^±inf where JavaScript gives NaN. */
function power(x: number, y: number): number {
  return x === 1 || (x === -1 && Math.abs(y) === Number.POSITIVE_INFINITY) ? 1 : x ** y;
}

const truth = (value: boolean): number => (value ? 1 : 0);

export const scalars: Readonly<Record<string, Scalar>> = {
  detach: (x) => x,
  barrier: (x) => x,
  sharding_constraint: (x) => x,
  cast: (x) => x,
  neg: (x) => -x,
  abs: Math.abs,
  sign: (x) => (x > 0 ? 1 : x < 0 ? -1 : 0),
  exp: Math.exp,
  exp2: (x) => 2 ** x,
  expm1: Math.expm1,
  log: Math.log,
  log1p: Math.log1p,
  log2: Math.log2,
  sqrt: Math.sqrt,
  rsqrt: (x) => 1 / Math.sqrt(x),
  sin: Math.sin,
  cos: Math.cos,
  tan: Math.tan,
  asin: Math.asin,
  acos: Math.acos,
  atan: Math.atan,
  sinh: Math.sinh,
  cosh: Math.cosh,
  tanh: Math.tanh,
  sigmoid,
  erf,
  reciprocal: (x) => 1 / x,
  square: (x) => x * x,
  floor: Math.floor,
  ceil: Math.ceil,
  round: roundHalfEven,
  trunc: Math.trunc,
  relu: (x) => Math.max(x, 0),
  silu: (x) => x * sigmoid(x),
  softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  logical_not: (x) => truth(x === 0),
  isnan: (x) => truth(Number.isNaN(x)),
  isinf: (x) => truth(Math.abs(x) === Number.POSITIVE_INFINITY),
  isfinite: (x) => truth(Number.isFinite(x)),
  add: (x, y) => x + y,
  sub: (x, y) => x - y,
  mul: (x, y) => x * y,
  div: divide,
  pow: power,
  maximum: (x, y) => (Number.isNaN(x) ? x : Number.isNaN(y) ? y : Math.max(x, y)),
  minimum: (x, y) => (Number.isNaN(x) ? x : Number.isNaN(y) ? y : Math.min(x, y)),
  remainder,
  floor_divide: floorDivide,
  atan2: Math.atan2,
  eq: (x, y) => truth(x === y),
  ne: (x, y) => truth(x !== y),
  lt: (x, y) => truth(x < y),
  le: (x, y) => truth(x <= y),
  gt: (x, y) => truth(x > y),
  ge: (x, y) => truth(x >= y),
  logical_and: (x, y) => truth(x !== 0 && y !== 0),
  logical_or: (x, y) => truth(x !== 0 || y !== 0),
  logical_xor: (x, y) => truth((x !== 0) !== (y !== 0)),
  silu_grad: (x, g) => g * sigmoid(x) * (1 + x * (1 - sigmoid(x))),
};

export const geluScalars = {
  none: { value: gelu, slope: geluSlope },
  tanh: { value: geluTanh, slope: geluTanhSlope },
} as const;

/** A number as the dtype holds it; floats stay as they are. */
export function stored(dtype: DType, value: number): number {
  switch (dtype) {
    case "bool":
      return value === 0 ? 0 : 1;
    case "uint8":
      return Math.trunc(value) & 0xff;
    case "int32":
      return Number(BigInt.asIntN(32, BigInt(Number.isFinite(value) ? Math.trunc(value) : 0)));
    case "int64":
      return Number.isFinite(value) ? Math.trunc(value) : 0;
    default:
      return value;
  }
}
