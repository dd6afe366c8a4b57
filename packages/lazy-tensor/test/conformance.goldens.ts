import { readFileSync } from "node:fs";
import { type DType, formatShape, isFloat, type OpName } from "@lazuli/fx-trace";
import { decodeNumbers } from "./ops.samples.data.js";
import type { Sample, Tolerance } from "./ops.samples.types.js";

/** Numbers as a device or a golden has them; `dtype` is what they are rounded to. */
export interface Numbers {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly data: Float64Array;
}

interface Entry {
  readonly dtype: string;
  readonly data_offsets: readonly [number, number];
}

const storedAs: Record<string, DType> = {
  F32: "float32",
  F64: "float64",
  I32: "int32",
  I64: "int64",
  U8: "uint8",
  BOOL: "bool",
};

/** Of a tensor of more than LIMIT elements PICKED are stored, and sums: see scripts/goldens/ops.py, which wrote them. */
const LIMIT = 1100;
const PICKED = 251;

export class Goldens {
  private readonly file: Buffer;
  private readonly entries: Record<string, Entry>;
  private readonly dataStart: number;
  private readonly names = new Map<string, string[]>();
  /** By `op/sample`: the digest of what the golden was computed from. */
  readonly digests: Readonly<Record<string, string>>;

  constructor(path: URL) {
    this.file = readFileSync(path);
    this.dataStart = 8 + Number(this.file.readBigUInt64LE(0));
    const { __metadata__, ...entries } = JSON.parse(this.file.toString("utf8", 8, this.dataStart));
    this.entries = entries;
    this.digests = JSON.parse(__metadata__.digests);
    for (const key of Object.keys(this.entries)) {
      const cut = key.lastIndexOf("/");
      const sample = key.slice(0, cut);
      if (!this.names.has(sample)) this.names.set(sample, []);
      if (!key.endsWith(".sums")) this.names.get(sample)?.push(key.slice(cut + 1));
    }
  }

  /** Names of the tensors stored for a sample: `out0`, `grad1`, ... */
  namesOf(op: OpName, sample: Sample): readonly string[] {
    return this.names.get(`${op}/${sample.name}`) ?? [];
  }

  read(key: string): Float64Array | null {
    const entry = this.entries[key];
    if (!entry) return null;
    const [start, end] = entry.data_offsets;
    return decodeNumbers(
      this.file.subarray(this.dataStart + start, this.dataStart + end),
      storedAs[entry.dtype],
    );
  }
}

export const loadGoldens = (): Goldens => new Goldens(new URL("goldens/ops.safetensors", import.meta.url));

/** Half the distance of neighbours, relative: the error of rounding once, plus a little for the float32 arithmetic before. */
const halfStep = { bfloat16: 2 ** -8 * 1.01, float16: 2 ** -11 * 1.05 };

interface Bound {
  /** Of the element. */
  readonly relative: number;
  /** Of the largest magnitude in the tensor. */
  readonly ofLargest: number;
  /** Whatever the numbers. */
  readonly absolute: number;
}

const none: Bound = { relative: 0, ofLargest: 0, absolute: 0 };

/** How far from the golden a number may be. */
export function boundOf(tolerance: Tolerance, dtype: DType, isGradient: boolean): Bound {
  const { kind, scale = 1, gradScale = scale } = tolerance;
  if (!isFloat(dtype) || (kind === "exact" && !isGradient)) return none;
  const as = isGradient ? (tolerance.gradAs ?? tolerance.as) : tolerance.as;
  const { relative, ofLargest, absolute } = plainBound(
    kind,
    dtype === "float64" && as ? as : dtype,
    isGradient,
  );
  const by = isGradient ? gradScale : scale;
  return {
    relative: relative * by,
    ofLargest: ofLargest * by,
    absolute: Math.max(absolute * by, tolerance.absolute ?? 0),
  };
}

function plainBound(kind: Tolerance["kind"], dtype: DType, isGradient: boolean): Bound {
  if (dtype === "bfloat16" || dtype === "float16") {
    // float16 is denormal below 6e-5: there its step is absolute.
    const absolute = dtype === "float16" ? 2 ** -25 + 1e-7 : 1e-7;
    return { relative: halfStep[dtype], ofLargest: kind === "accumulated" ? 2e-5 : 0, absolute };
  }
  const isWide = dtype === "float64";
  const tiny = isWide ? 1e-15 : 1e-9;
  if (isGradient) return { relative: 0, ofLargest: isWide ? 1e-13 : 1e-5, absolute: tiny };
  if (kind === "accumulated") return { relative: 0, ofLargest: isWide ? 1e-13 : 5e-6, absolute: tiny };
  return isWide
    ? { relative: 8e-15, ofLargest: 0, absolute: 1e-15 }
    : { relative: 2e-6, ofLargest: 0, absolute: 2e-7 };
}

const largestOf = (data: Float64Array): number =>
  data.reduce((largest, value) => (Number.isFinite(value) ? Math.max(largest, Math.abs(value)) : largest), 0);

/** `[2, 5]` for element 17 of a tensor [3, 6]. */
function placeOf(flat: number, shape: readonly number[]): string {
  const place: number[] = [];
  let rest = flat;
  for (let dim = shape.length - 1; dim >= 0; dim--) {
    place.unshift(rest % shape[dim]);
    rest = Math.floor(rest / shape[dim]);
  }
  return formatShape(place);
}

/** What is wrong with `ours`, or null. */
export function compare(
  ours: Numbers,
  golden: Float64Array,
  sums: Float64Array | null,
  bound: Bound,
): string | null {
  const { data, shape } = ours;
  const count = data.length;
  const stored = count > LIMIT ? PICKED : count;
  if (golden.length !== stored)
    return `has ${count} elements, shape ${formatShape(shape)}: the golden stores ${golden.length}`;
  const at = (k: number): number => (count > LIMIT ? Math.floor((k * count) / PICKED) : k);
  const largest = largestOf(golden);
  const allowed = (expected: number): number =>
    Number.isFinite(expected)
      ? bound.relative * Math.abs(expected) + bound.ofLargest * largest + bound.absolute
      : 0;
  let wrong = 0;
  let first = -1;
  let worst = 0;
  for (let k = 0; k < stored; k++) {
    const value = data[at(k)];
    const expected = golden[k];
    // Equal covers infinities and 0 against -0.
    if (value === expected || (Number.isNaN(value) && Number.isNaN(expected))) continue;
    const error = Math.abs(value - expected);
    if (Number.isFinite(value) && error <= allowed(expected)) continue;
    if (first < 0) first = k;
    worst = Math.max(worst, error);
    wrong++;
  }
  if (first >= 0) {
    return (
      `element ${placeOf(at(first), shape)} is ${data[at(first)]}, PyTorch gives ${golden[first]} ` +
      `(allowed ${allowed(golden[first]).toPrecision(3)}); ${wrong} of the ${stored} compared differ, by ${worst.toPrecision(3)} at most`
    );
  }
  return sums ? compareSums(data, sums, allowed(largest)) : null;
}

/** Sums over all elements catch what lies between those stored. Errors of either sign add up as a random walk does. */
function compareSums(data: Float64Array, sums: Float64Array, allowed: number): string | null {
  let sum = 0;
  let squares = 0;
  let weighted = 0;
  let size = 0;
  data.forEach((value, i) => {
    if (!Number.isFinite(value)) return;
    sum += value;
    squares += value * value;
    weighted += value * (((i * 7) % 11) - 5);
    size += Math.abs(value);
  });
  const slack = 1e-11 * (size + squares);
  const off = (what: string, value: number, expected: number, error: number): string | null =>
    Math.abs(value - expected) <= error + slack
      ? null
      : `${what} over all ${data.length} elements is ${value}, PyTorch's ${expected} (allowed ${error.toPrecision(3)})`;
  const total = 4 * allowed * Math.sqrt(data.length);
  return (
    off("the sum", sum, sums[0], total) ??
    off("the sum of squares", squares, sums[1], 2 * total * Math.sqrt(squares / data.length)) ??
    off("the sum weighted by position", weighted, sums[2], 3 * total)
  );
}

/** Compares every output of a sample. Throws an Error that names op, sample and output. */
export function expectGolden(
  goldens: Goldens,
  where: string,
  op: OpName,
  sample: Sample,
  outputs: ReadonlyMap<string, Numbers>,
  names: readonly string[],
): void {
  const problems: string[] = [];
  for (const name of names) {
    const key = `${op}/${sample.name}/${name}`;
    const golden = goldens.read(key);
    const ours = outputs.get(name);
    if (!golden) problems.push(`${name}: there is no golden`);
    else if (!ours)
      problems.push(
        ...(golden.some((value) => value !== 0) ? [`${name}: no gradient flows, PyTorch gives one`] : []),
      );
    else {
      const bound = boundOf(sample.tolerance, ours.dtype, name.startsWith("grad"));
      const problem = compare(ours, golden, goldens.read(`${key}.sums`), bound);
      if (problem) problems.push(`${name}: ${problem}`);
    }
  }
  if (problems.length > 0) throw new Error(`${op} / ${sample.name} (${where}):\n  ${problems.join("\n  ")}`);
}
