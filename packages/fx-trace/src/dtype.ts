export const dtypes = [
  "float32",
  "float64",
  "bfloat16",
  "float16",
  "int32",
  "int64",
  "uint8",
  "bool",
] as const;
export type DType = (typeof dtypes)[number];
export type DTypeKind = "bool" | "int" | "float";

interface DTypeInfo {
  readonly kind: DTypeKind;
  readonly sizeBytes: number;
  /** Position in `dtypes`; the number that stands for it on the wire. */
  readonly code: number;
}

const info = (kind: DTypeKind, sizeBytes: number, code: number): DTypeInfo => ({ kind, sizeBytes, code });

export const dtypeInfo: Readonly<Record<DType, DTypeInfo>> = {
  float32: info("float", 4, 0),
  float64: info("float", 8, 1),
  bfloat16: info("float", 2, 2),
  float16: info("float", 2, 3),
  int32: info("int", 4, 4),
  int64: info("int", 8, 5),
  uint8: info("int", 1, 6),
  bool: info("bool", 1, 7),
};

export const isFloat = (dtype: DType): boolean => dtypeInfo[dtype].kind === "float";
export const isInt = (dtype: DType): boolean => dtypeInfo[dtype].kind === "int";

const kindRank: Record<DTypeKind, number> = { bool: 0, int: 1, float: 2 };
const intOrder: readonly DType[] = ["uint8", "int32", "int64"];

/**
 * The dtype of a result of `a` and `b`: the higher kind wins (bool < int < float), inside a kind the wider
 * one; float16 with bfloat16 gives float32. As torch.promote_types.
 */
export function promote(a: DType, b: DType): DType {
  if (a === b) return a;
  const ka = dtypeInfo[a].kind;
  const kb = dtypeInfo[b].kind;
  if (ka !== kb) return kindRank[ka] > kindRank[kb] ? a : b;
  if (ka === "int") return intOrder[Math.max(intOrder.indexOf(a), intOrder.indexOf(b))];
  const size = Math.max(dtypeInfo[a].sizeBytes, dtypeInfo[b].sizeBytes);
  if (size === 8) return "float64";
  return "float32"; // two different floats of at most 4 bytes meet in float32
}
