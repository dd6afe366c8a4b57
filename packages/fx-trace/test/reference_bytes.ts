import { type DType, dtypeInfo } from "../src/dtype.js";

/** Elements of little-endian bytes. */
export function readElements(dtype: DType, bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const { sizeBytes } = dtypeInfo[dtype];
  const read: Record<DType, (at: number) => number> = {
    float32: (at) => view.getFloat32(at, true),
    float64: (at) => view.getFloat64(at, true),
    bfloat16: (at) => fromBfloat16(view.getUint16(at, true)),
    float16: (at) => fromFloat16(view.getUint16(at, true)),
    int32: (at) => view.getInt32(at, true),
    int64: (at) => Number(view.getBigInt64(at, true)),
    uint8: (at) => view.getUint8(at),
    bool: (at) => view.getUint8(at),
  };
  return Array.from({ length: bytes.length / sizeBytes }, (_, i) => read[dtype](i * sizeBytes));
}

function fromBfloat16(bits: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, bits << 16);
  return view.getFloat32(0);
}

function fromFloat16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
