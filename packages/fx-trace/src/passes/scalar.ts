import type { DType } from "../dtype.js";
import { dtypeInfo } from "../dtype.js";

// Numbers of a dtype, as JavaScript numbers: rounding to it, its bytes, and its arithmetic as far as folding needs it.

const view = new DataView(new ArrayBuffer(8));

/** The bits of float32 `value` rounded to bfloat16, to nearest even. */
export function bfloat16Bits(value: number): number {
  view.setFloat32(0, value);
  const bits = view.getUint32(0);
  if (Number.isNaN(value)) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export function fromBfloat16(bits: number): number {
  view.setUint32(0, bits << 16);
  return view.getFloat32(0);
}

/** The bits of float32 `value` rounded to float16, to nearest even. */
export function float16Bits(value: number): number {
  view.setFloat32(0, value);
  const bits = view.getUint32(0);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and up round to infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14 float16 is fixed point with a unit of 2^-24: adding 0.5 leaves that unit in the last place.
    view.setUint32(0, magnitude);
    view.setFloat32(0, view.getFloat32(0) + 0.5);
    return sign | (view.getUint32(0) - 0x3f000000);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

export function fromFloat16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** `value` as `dtype` holds it; null where that takes more than a JavaScript number (int64 past 2^53). */
export function roundTo(dtype: DType, value: number): number | null {
  switch (dtype) {
    case "float64":
      return value;
    case "float32":
      return Math.fround(value);
    case "bfloat16":
      return fromBfloat16(bfloat16Bits(Math.fround(value)));
    case "float16":
      return fromFloat16(float16Bits(Math.fround(value)));
    case "bool":
      return value !== 0 ? 1 : 0;
    case "int32":
      return Number.isSafeInteger(value) ? value | 0 : null;
    case "uint8":
      return Number.isSafeInteger(value) ? value & 255 : null;
    case "int64":
      return Number.isSafeInteger(value) ? value + 0 : null;
  }
}

/** Little-endian values of `dtype`; null where one is no JavaScript number. */
export function readValues(dtype: DType, data: Uint8Array): number[] | null {
  const from = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const size = dtypeInfo[dtype].sizeBytes;
  const values: number[] = [];
  for (let at = 0; at < data.byteLength; at += size) {
    const value = readValue(dtype, from, at);
    if (dtype === "int64" && !Number.isSafeInteger(value)) return null;
    values.push(value);
  }
  return values;
}

function readValue(dtype: DType, from: DataView, at: number): number {
  switch (dtype) {
    case "float32":
      return from.getFloat32(at, true);
    case "float64":
      return from.getFloat64(at, true);
    case "bfloat16":
      return fromBfloat16(from.getUint16(at, true));
    case "float16":
      return fromFloat16(from.getUint16(at, true));
    case "int32":
      return from.getInt32(at, true);
    case "int64":
      return Number(from.getBigInt64(at, true));
    case "uint8":
    case "bool":
      return from.getUint8(at);
  }
}

/** The inverse of `readValues`, for values `dtype` holds. */
export function writeValues(dtype: DType, values: readonly number[]): Uint8Array {
  const size = dtypeInfo[dtype].sizeBytes;
  const data = new Uint8Array(values.length * size);
  const to = new DataView(data.buffer);
  for (let i = 0; i < values.length; i++) writeValue(dtype, to, i * size, values[i]);
  return data;
}

function writeValue(dtype: DType, to: DataView, at: number, value: number): void {
  switch (dtype) {
    case "float32":
      to.setFloat32(at, value, true);
      return;
    case "float64":
      to.setFloat64(at, value, true);
      return;
    case "bfloat16":
      to.setUint16(at, bfloat16Bits(value), true);
      return;
    case "float16":
      to.setUint16(at, float16Bits(value), true);
      return;
    case "int32":
      to.setInt32(at, value, true);
      return;
    case "int64":
      to.setBigInt64(at, BigInt(value), true);
      return;
    case "uint8":
    case "bool":
      to.setUint8(at, value);
      return;
  }
}
