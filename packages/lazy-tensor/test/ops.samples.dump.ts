import { createHash } from "node:crypto";
import type { Attrs, DType, OpName } from "@lazuli/fx-trace";
import { buildSample } from "./ops.samples.graph.js";
import { samples } from "./ops.samples.js";
import { isLeaf, type Sample } from "./ops.samples.types.js";

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");

/** JSON has no bytes, infinities or NaN: bytes are base64, the others as Python's float() reads them. */
const plainAttrs = (attrs: Attrs): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(attrs).map(([name, value]) => {
      if (value instanceof Uint8Array) return [name, base64(value)];
      return [name, typeof value === "number" && !Number.isFinite(value) ? String(value) : value];
    }),
  );

export interface SampleDump {
  readonly op: OpName;
  readonly name: string;
  /** Changes with anything that the golden depends on. */
  readonly digest: string;
}

/** All that a golden is computed from. */
export function dumpSample(op: OpName, sample: Sample): SampleDump {
  const { graph, names, leaves, cotangents } = buildSample(op, sample);
  const data = (value: { shape: readonly number[]; dtype: DType; bytes: Uint8Array }) => ({
    shape: value.shape,
    dtype: value.dtype,
    data: base64(value.bytes),
  });
  let at = 0;
  const operands = sample.operands.map((operand) => {
    if (!isLeaf(operand)) return { ...operand, attrs: operand.attrs && plainAttrs(operand.attrs) };
    const via = operand.via && { op: operand.via.op, attrs: plainAttrs(operand.via.attrs) };
    return { ...data(leaves[at++]), via };
  });
  const dump = {
    op,
    name: sample.name,
    attrs: plainAttrs(sample.attrs),
    operands,
    args: sample.args ?? sample.operands.map((_, position) => position),
    results: graph.outputs
      .filter((_, i) => names[i].startsWith("out"))
      .map(({ shape, dtype }) => ({ shape, dtype })),
    exact: sample.tolerance.kind === "exact",
    grad: sample.grad,
    cotangents: cotangents.map(({ result, ...value }) => ({ result, ...data(value) })),
  };
  return { ...dump, digest: createHash("sha256").update(JSON.stringify(dump)).digest("hex").slice(0, 16) };
}

export const eachSample = (): { op: OpName; sample: Sample }[] =>
  (Object.entries(samples) as [OpName, readonly Sample[]][]).flatMap(([op, list]) =>
    list.map((sample) => ({ op, sample })),
  );

export const dumpSamples = (): SampleDump[] => eachSample().map(({ op, sample }) => dumpSample(op, sample));
