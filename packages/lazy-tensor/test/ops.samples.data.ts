import { type DType, dtypeInfo, sizeOf } from "@lazuli/fx-trace";
import type { Fill, Leaf } from "./ops.samples.types.js";

/** An integer hash: every bit of the result depends on every bit of `seed` and `index`. */
function hash(seed: number, index: number): number {
  let x = Math.imul(index + 1, 0x9e3779b9) ^ seed;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return (x ^ (x >>> 15)) >>> 0;
}

/** FNV-1a: samples are seeded by their names, so adding one leaves the numbers of the others alone. */
export function seedOf(text: string): number {
  let seed = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) seed = Math.imul(seed ^ text.charCodeAt(i), 0x01000193);
  return seed >>> 0;
}

const unit = (seed: number, index: number): number => hash(seed, index) / 0x1_0000_0000;

/** Numbers as float64, before they are rounded to a dtype. */
export function drawNumbers(fill: Fill, count: number, seed: number): Float64Array {
  const draw = (index: number): number => {
    switch (fill.kind) {
      case "normal": {
        // The sum of four uniforms, of variance 1: no transcendental function, so the same on every machine.
        let sum = -2;
        for (let k = 0; k < 4; k++) sum += unit(seed, index * 4 + k);
        return sum * Math.sqrt(3) * fill.scale;
      }
      case "uniform":
        return fill.low + (fill.high - fill.low) * unit(seed, index);
      case "ints":
        return fill.low + Math.floor((fill.high - fill.low) * unit(seed, index));
      case "values":
        return fill.values[index % fill.values.length];
      case "distinct":
        return index;
    }
  };
  const numbers = Float64Array.from({ length: count }, (_, index) => draw(index));
  if (fill.kind !== "distinct") return numbers;
  for (let i = count - 1; i > 0; i--) {
    const j = hash(seed, i) % (i + 1);
    [numbers[i], numbers[j]] = [numbers[j], numbers[i]];
  }
  return numbers.map((value) => (value - (count >> 1)) * fill.step);
}

const floatView = new Float32Array(1);
const bitsView = new Uint32Array(floatView.buffer);

/** Bits of the bfloat16 nearest to a float32, halfway to even. */
export function toBfloat16(value: number): number {
  floatView[0] = value;
  const bits = bitsView[0];
  if (Number.isNaN(value)) return 0x7fc0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export function fromBfloat16(bits: number): number {
  bitsView[0] = bits << 16;
  return floatView[0];
}

/** A float16 of exponent e (unbiased, -14 at least) counts in steps of 2^(e - 10). */
export function toFloat16(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(Math.fround(value));
  if (size >= 65520) return sign | 0x7c00;
  floatView[0] = size;
  const exponent = Math.max((bitsView[0] >>> 23) - 127, -14);
  const steps = size / 2 ** (exponent - 10);
  const low = Math.floor(steps);
  const rest = steps - low;
  const rounded = low + (rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? 1 : 0);
  // The implicit leading bit is counted in `rounded`: it carries into the exponent field where there is one.
  return sign | ((exponent + 14) * 1024 + rounded);
}

export function fromFloat16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const field = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (field === 31) return fraction ? NaN : sign * Infinity;
  return sign * (field === 0 ? fraction : fraction + 1024) * 2 ** (Math.max(field, 1) - 25);
}

/** Little-endian bytes of `numbers`, each rounded to `dtype` (ints: towards 0). */
export function encodeNumbers(numbers: Float64Array, dtype: DType): Uint8Array {
  const bytes = (array: ArrayBufferView): Uint8Array =>
    new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  switch (dtype) {
    case "float32":
      return bytes(Float32Array.from(numbers));
    case "float64":
      return bytes(Float64Array.from(numbers));
    case "bfloat16":
      return bytes(Uint16Array.from(numbers, toBfloat16));
    case "float16":
      return bytes(Uint16Array.from(numbers, toFloat16));
    case "int32":
      return bytes(Int32Array.from(numbers));
    case "int64":
      return bytes(BigInt64Array.from(Array.from(numbers, (value) => BigInt(Math.trunc(value)))));
    default:
      return bytes(Uint8Array.from(numbers));
  }
}

/** The numbers in `bytes`. An int64 beyond 2^53 is rounded. */
export function decodeNumbers(bytes: Uint8Array, dtype: DType): Float64Array {
  const count = bytes.length / dtypeInfo[dtype].sizeBytes;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const read: Record<DType, (index: number) => number> = {
    float32: (i) => view.getFloat32(i * 4, true),
    float64: (i) => view.getFloat64(i * 8, true),
    bfloat16: (i) => fromBfloat16(view.getUint16(i * 2, true)),
    float16: (i) => fromFloat16(view.getUint16(i * 2, true)),
    int32: (i) => view.getInt32(i * 4, true),
    int64: (i) => Number(view.getBigInt64(i * 8, true)),
    uint8: (i) => view.getUint8(i),
    bool: (i) => view.getUint8(i),
  };
  return Float64Array.from({ length: count }, (_, index) => read[dtype](index));
}

/** The bytes of an operand that comes from outside; `key` names it among all samples. */
export const makeLeaf = (leaf: Leaf, key: string): Uint8Array =>
  encodeNumbers(drawNumbers(leaf.fill, sizeOf(leaf.shape), seedOf(key)), leaf.dtype);
