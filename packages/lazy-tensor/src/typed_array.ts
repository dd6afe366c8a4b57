import { type DType, dtypeInfo, type Shape, sizeOf } from "@lazuli/fx-trace";
import { TensorError } from "./errors.js";

export type TypedArray = Float32Array | Float64Array | Int32Array | BigInt64Array | Uint8Array | Uint16Array;

/** What `Tensor.data()` gives: float32 for the half types, one byte an element for bool. */
export type DataArray = Float32Array | Float64Array | Int32Array | BigInt64Array | Uint8Array;

const floatView = new Float32Array(1);
const bitsView = new Uint32Array(floatView.buffer);

/** float32 → bfloat16 bits, to nearest even; NaN stays NaN. */
export function toBfloat16(value: number): number {
  floatView[0] = value;
  const bits = bitsView[0];
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export function fromBfloat16(bits: number): number {
  bitsView[0] = bits << 16;
  return floatView[0];
}

/** float32 → IEEE half bits, to nearest even. */
export function toFloat16(value: number): number {
  floatView[0] = value;
  const bits = bitsView[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00; // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // rounds to infinity
  if (magnitude < 0x38800000) {
    // Subnormal: the value in units of 2^-24, where adding to 0.5 aligns and rounds the mantissa.
    floatView[0] = Math.abs(value) + 0.5;
    return sign | (bitsView[0] - 0x3f000000);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

export function fromFloat16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** An array of the bytes that a tensor of `dtype` has on the device: zeros, or what a buffer has. */
export function rawArray(dtype: DType, from: number | ArrayBufferLike): TypedArray {
  switch (dtype) {
    case "float32":
      return new Float32Array(from as number);
    case "float64":
      return new Float64Array(from as number);
    case "bfloat16":
    case "float16":
      return new Uint16Array(from as number);
    case "int32":
      return new Int32Array(from as number);
    case "int64":
      return new BigInt64Array(from as number);
    case "uint8":
    case "bool":
      return new Uint8Array(from as number);
  }
}

/** Copies the block of `shape` at the origin of an array of shape `fromShape` to that of one of shape `toShape`. */
export function copyBlock<T extends TypedArray | DataArray>(
  to: T,
  toShape: Shape,
  from: T,
  fromShape: Shape,
  shape: Shape,
): void {
  const run = shape.at(-1) ?? 1;
  const rows = sizeOf(shape.slice(0, -1));
  if (run === 0) return;
  const at = (row: number, whole: Shape): number => {
    let rest = row;
    let offset = 0;
    let stride = whole.at(-1) ?? 1;
    for (let d = shape.length - 2; d >= 0; d--) {
      offset += (rest % shape[d]) * stride;
      rest = Math.floor(rest / shape[d]);
      stride *= whole[d];
    }
    return offset;
  };
  for (let row = 0; row < rows; row++) {
    const start = at(row, fromShape);
    to.set(from.subarray(start, start + run) as never, at(row, toShape));
  }
}

/** Device bytes as an array a caller can use: half types become float32. */
export function decodeArray(dtype: DType, raw: TypedArray): DataArray {
  if (dtype === "bfloat16") return Float32Array.from(raw as Uint16Array, fromBfloat16);
  if (dtype === "float16") return Float32Array.from(raw as Uint16Array, fromFloat16);
  return raw as DataArray;
}

/** Numbers as the device's bytes of `dtype`. Throws TensorError for a number that an integer dtype cannot hold. */
export function encodeNumbers(dtype: DType, numbers: ArrayLike<number | boolean | bigint>): TypedArray {
  const raw = rawArray(dtype, numbers.length);
  if (dtype === "int64") {
    for (let i = 0; i < numbers.length; i++) (raw as BigInt64Array)[i] = BigInt(integer(dtype, numbers[i]));
  } else if (dtype === "bool") {
    for (let i = 0; i < numbers.length; i++) (raw as Uint8Array)[i] = numbers[i] ? 1 : 0;
  } else if (dtypeInfo[dtype].kind === "int") {
    for (let i = 0; i < numbers.length; i++) (raw as Int32Array)[i] = Number(integer(dtype, numbers[i]));
  } else {
    const encode = dtype === "bfloat16" ? toBfloat16 : dtype === "float16" ? toFloat16 : Number;
    for (let i = 0; i < numbers.length; i++) (raw as Float32Array)[i] = encode(Number(numbers[i]));
  }
  return raw;
}

const ranges: Partial<Record<DType, readonly [number, number]>> = {
  int32: [-(2 ** 31), 2 ** 31 - 1],
  uint8: [0, 255],
};

function integer(dtype: DType, value: number | boolean | bigint): number | bigint {
  if (typeof value === "bigint") return value;
  const number = Number(value);
  const [low, high] = ranges[dtype] ?? [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER];
  if (!Number.isInteger(number) || number < low || number > high) {
    throw new TensorError("tensor", `${value} is not an ${dtype}`);
  }
  return number;
}
