import { type DType, dtypeInfo, type Shape } from "@lazuli/fx-trace";
import { FileFormatError } from "../errors.js";

// A safetensors file: u64 little-endian header length N, N bytes of JSON, then the tensors' bytes without gaps.
// https://github.com/huggingface/safetensors#format

export const LENGTH_BYTES = 8;
/** The format's own limit. */
const MAX_HEADER_BYTES = 100_000_000;

const dtypeNames: Readonly<Record<DType, string>> = {
  float32: "F32",
  float64: "F64",
  bfloat16: "BF16",
  float16: "F16",
  int32: "I32",
  int64: "I64",
  uint8: "U8",
  bool: "BOOL",
};
const dtypeByName = new Map(Object.entries(dtypeNames).map(([dtype, name]) => [name, dtype as DType]));

export interface TensorEntry {
  readonly dtype: DType;
  readonly shape: Shape;
  /** Bytes from the start of the file. */
  readonly offset: number;
  readonly sizeBytes: number;
}

export interface Header {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: ReadonlyMap<string, string>;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** The first key that an object of valid JSON has twice: JSON.parse would take the last one silently. */
function duplicateKey(json: string): string | undefined {
  const open: Set<string>[] = [];
  let text = "";
  for (const [token] of json.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"|[{}:]/g)) {
    if (token === "{") open.push(new Set());
    else if (token === "}") open.pop();
    else if (token !== ":") text = token;
    else {
      const key = JSON.parse(text) as string;
      const keys = open[open.length - 1];
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}

/** Checks the header length against the file's. Throws FileFormatError. */
export function checkHeaderLength(file: string, length: bigint, fileBytes: number): number {
  const fail = (what: string): never => {
    throw new FileFormatError("safetensors", `${file}: ${what}`);
  };
  if (length > BigInt(fileBytes - LENGTH_BYTES)) {
    fail(
      `truncated, or no safetensors file: a header of ${length} bytes does not fit its ${fileBytes} bytes`,
    );
  }
  if (length > BigInt(MAX_HEADER_BYTES)) fail(`its header of ${length} bytes is above the format's limit`);
  return Number(length);
}

/** Reads a header and checks that its tensors fill the data after it exactly. Throws FileFormatError. */
export function parseHeader(file: string, bytes: Uint8Array, dataBytes: number): Header {
  const fail = (what: string): never => {
    throw new FileFormatError("safetensors", `${file}: ${what}`);
  };
  let json: unknown;
  let text = "";
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    json = JSON.parse(text);
  } catch (error) {
    fail(`the header is not valid JSON: ${(error as Error).message}`);
  }
  if (!isRecord(json)) return fail("the header is no JSON object");
  const twice = duplicateKey(text);
  if (twice !== undefined) fail(`the header has the key ${JSON.stringify(twice)} twice`);

  const metadata = new Map<string, string>();
  const tensors = new Map<string, TensorEntry>();
  const start = LENGTH_BYTES + bytes.length;
  for (const [name, value] of Object.entries(json)) {
    if (name !== "__metadata__") {
      tensors.set(
        name,
        parseEntry((what) => fail(`tensor ${JSON.stringify(name)}: ${what}`), value, start),
      );
      continue;
    }
    if (!isRecord(value)) return fail("__metadata__ is no JSON object");
    for (const [key, item] of Object.entries(value)) {
      if (typeof item !== "string") fail(`__metadata__ ${JSON.stringify(key)} is no string`);
      metadata.set(key, item as string);
    }
  }
  checkLayout(fail, tensors, start, dataBytes);
  return { tensors, metadata };
}

function parseEntry(fail: (what: string) => never, value: unknown, start: number): TensorEntry {
  if (!isRecord(value)) return fail("its entry is no JSON object");
  const { dtype: dtypeName, shape, data_offsets: offsets } = value;
  const dtype = dtypeByName.get(String(dtypeName));
  if (!dtype) {
    return fail(`dtype ${JSON.stringify(dtypeName)} is not one of ${[...dtypeByName.keys()].join(", ")}`);
  }
  if (!Array.isArray(shape) || !shape.every(isCount))
    return fail(`shape ${JSON.stringify(shape)} is no list of sizes`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    return fail(`data_offsets ${JSON.stringify(offsets)} are no two byte offsets`);
  }
  const [begin, end] = offsets as [number, number];
  if (end < begin) return fail(`data_offsets ${begin}..${end} run backwards`);
  const wanted = shape.reduce((product, size) => product * size, dtypeInfo[dtype].sizeBytes);
  if (wanted !== end - begin) {
    return fail(
      `${dtypeName} [${shape}] is ${wanted} bytes, data_offsets ${begin}..${end} are ${end - begin}`,
    );
  }
  return { dtype, shape, offset: start + begin, sizeBytes: end - begin };
}

/** Tensors must follow one another without gap or overlap, from the header to the end of the file. */
function checkLayout(
  fail: (what: string) => never,
  tensors: ReadonlyMap<string, TensorEntry>,
  start: number,
  dataBytes: number,
): void {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.offset - b.offset || a.sizeBytes - b.sizeBytes);
  let end = start;
  let before = "";
  for (const [name, { offset, sizeBytes }] of inOrder) {
    const tensor = `tensor ${JSON.stringify(name)}`;
    if (offset + sizeBytes > start + dataBytes) {
      fail(
        `${tensor} ends at data byte ${offset + sizeBytes - start}, the file has ${dataBytes}: truncated?`,
      );
    }
    if (offset < end) fail(`${tensor} overlaps tensor ${JSON.stringify(before)}`);
    if (offset > end) fail(`${offset - end} bytes before ${tensor} belong to no tensor`);
    end = offset + sizeBytes;
    before = name;
  }
  if (end !== start + dataBytes)
    fail(`${start + dataBytes - end} bytes after the last tensor belong to none`);
}

/** The header's bytes, length included, and the order in which the tensors' data must follow. */
export function formatHeader(
  tensors: Iterable<readonly [string, { readonly dtype: DType; readonly shape: Shape }]>,
  metadata: Readonly<Record<string, string>>,
): { bytes: Uint8Array; order: string[] } {
  const size = (dtype: DType, shape: Shape): number =>
    shape.reduce((n, d) => n * d, dtypeInfo[dtype].sizeBytes);
  // Widest elements first, so that every tensor is aligned to its element.
  const inOrder = [...tensors].sort(
    ([, a], [, b]) => dtypeInfo[b.dtype].sizeBytes - dtypeInfo[a.dtype].sizeBytes,
  );
  let end = 0;
  const entries = inOrder.map(([name, { dtype, shape }]) => {
    const begin = end;
    end += size(dtype, shape);
    return [name, { dtype: dtypeNames[dtype], shape, data_offsets: [begin, end] }] as const;
  });
  const noted = Object.keys(metadata).length > 0 ? [["__metadata__", metadata] as const] : [];
  const json = Buffer.from(JSON.stringify(Object.fromEntries([...noted, ...entries])));
  const padded = Math.ceil(json.length / LENGTH_BYTES) * LENGTH_BYTES;
  const bytes = Buffer.alloc(LENGTH_BYTES + padded, " ");
  bytes.writeBigUInt64LE(BigInt(padded), 0);
  json.copy(bytes, LENGTH_BYTES);
  return { bytes, order: inOrder.map(([name]) => name) };
}
