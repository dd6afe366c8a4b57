import type { DType } from "../dtype.js";
import { dtypeInfo, isFloat } from "../dtype.js";
import { type Shape, sameShape, type TensorType } from "../shape.js";

const elementTypes: Readonly<Record<DType, string>> = {
  float32: "f32",
  float64: "f64",
  bfloat16: "bf16",
  float16: "f16",
  int32: "i32",
  int64: "i64",
  uint8: "ui8",
  bool: "i1",
};

export const hloType = ({ shape, dtype }: TensorType): string =>
  `tensor<${[...shape, elementTypes[dtype]].join("x")}>`;

/** A value of the function that is written. */
export interface Hlo extends TensorType {
  readonly name: string;
}

/** A number as MLIR reads it: floats with a point, what is no number by its bits. */
function literal(value: number, dtype: DType): string {
  if (dtype === "bool") return value ? "true" : "false";
  if (!isFloat(dtype)) return BigInt(Math.trunc(value)).toString();
  if (Number.isFinite(value)) {
    const text = Object.is(value, -0) ? "-0.0" : String(value);
    const [digits, exponent] = text.split("e");
    const pointed = digits.includes(".") ? digits : `${digits}.0`;
    return exponent === undefined ? pointed : `${pointed}e${exponent}`;
  }
  return notFinite[dtype as keyof typeof notFinite][Number.isNaN(value) ? 0 : value > 0 ? 1 : 2];
}

/** NaN, Infinity and -Infinity by their bits. */
const notFinite = {
  float32: ["0x7FC00000", "0x7F800000", "0xFF800000"],
  float64: ["0x7FF8000000000000", "0x7FF0000000000000", "0xFFF0000000000000"],
  bfloat16: ["0x7FC0", "0x7F80", "0xFF80"],
  float16: ["0x7E00", "0x7C00", "0xFC00"],
} as const;

export const ints = (values: readonly number[]): string => `[${values.join(", ")}]`;
/** As the attributes of the operations' generic form have it. */
export const i64s = (values: readonly number[]): string =>
  values.length === 0 ? "array<i64>" : `array<i64: ${values.join(", ")}>`;

/** Writes the body of one StableHLO function, an operation a line. */
export class HloWriter {
  readonly lines: string[] = [];
  private count = 0;
  private indent = "    ";
  /** Set by the caller: stands behind each line. */
  location = "";

  private next(type: TensorType): Hlo {
    return { name: `%${this.count++}`, shape: type.shape, dtype: type.dtype };
  }

  line(text: string): void {
    this.lines.push(`${this.indent}${text}`);
  }

  /** An operation whose operands and result are of one type: `stablehlo.add %a, %b : tensor<2xf32>`. */
  same(op: string, operands: readonly Hlo[], type: TensorType = operands[0]): Hlo {
    const out = this.next(type);
    this.line(
      `${out.name} = ${op} ${operands.map(({ name }) => name).join(", ")} : ${hloType(type)}${this.location}`,
    );
    return out;
  }

  /** An operation in MLIR's generic form; `region` writes its body. */
  generic(
    op: string,
    operands: readonly Hlo[],
    attrs: Readonly<Record<string, string>>,
    types: readonly TensorType[],
    region?: { readonly args: readonly TensorType[]; readonly body: (...args: Hlo[]) => readonly Hlo[] },
  ): Hlo[] {
    const outs = types.map((type) => this.next(type));
    const listed = Object.entries(attrs).map(([name, value]) => `${name} = ${value}`);
    const given = listed.length > 0 ? ` <{${listed.join(", ")}}>` : "";
    const left = outs.map(({ name }) => name).join(", ");
    const call = `${left} = "${op}"(${operands.map(({ name }) => name).join(", ")})${given}`;
    const signature = `(${operands.map(hloType).join(", ")}) -> (${types.map(hloType).join(", ")})${this.location}`;
    if (!region) {
      this.line(`${call} : ${signature}`);
      return outs;
    }
    this.line(`${call} ({`);
    const outer = this.indent;
    this.indent = `${outer}    `;
    const args = region.args.map((type) => this.next(type));
    this.lines.push(`${outer}  ^bb0(${args.map((arg) => `${arg.name}: ${hloType(arg)}`).join(", ")}):`);
    const results = region.body(...args);
    this.line(
      `stablehlo.return ${results.map(({ name }) => name).join(", ")} : ${results.map(hloType).join(", ")}`,
    );
    this.indent = outer;
    this.line(`}) : ${signature}`);
    return outs;
  }

  one(...args: Parameters<HloWriter["generic"]>): Hlo {
    return this.generic(...args)[0];
  }

  // --- words -------------------------------------------------------------------------------------------------------

  /** `value` in every element. */
  full(value: number, type: TensorType): Hlo {
    const out = this.next(type);
    this.line(
      `${out.name} = stablehlo.constant dense<${literal(value, type.dtype)}> : ${hloType(type)}${this.location}`,
    );
    return out;
  }

  /** `value` in the shape and dtype of `x`. */
  like(x: Hlo, value: number): Hlo {
    return this.full(value, x);
  }

  /** Little-endian data, row-major. */
  constant(type: TensorType, data: Uint8Array): Hlo {
    const out = this.next(type);
    let text = `"0x${Buffer.from(data).toString("hex").toUpperCase()}"`;
    // MLIR packs bits; a list of words says the same.
    if (type.dtype === "bool")
      text = nested(
        [...data].map((byte) => literal(byte, "bool")),
        type.shape,
      );
    if (data.length === 0) text = "";
    this.line(`${out.name} = stablehlo.constant dense<${text}> : ${hloType(type)}${this.location}`);
    return out;
  }

  iota(dim: number, type: TensorType): Hlo {
    const out = this.next(type);
    this.line(`${out.name} = stablehlo.iota dim = ${dim} : ${hloType(type)}${this.location}`);
    return out;
  }

  convert(x: Hlo, dtype: DType): Hlo {
    if (x.dtype === dtype) return x;
    const out = this.next({ shape: x.shape, dtype });
    this.line(
      `${out.name} = stablehlo.convert ${x.name} : (${hloType(x)}) -> ${hloType(out)}${this.location}`,
    );
    return out;
  }

  reshape(x: Hlo, shape: Shape): Hlo {
    return sameShape(x.shape, shape)
      ? x
      : this.one("stablehlo.reshape", [x], {}, [{ shape, dtype: x.dtype }]);
  }

  /** x by NumPy's rules, aligned at the last dim. */
  broadcast(x: Hlo, shape: Shape): Hlo {
    if (sameShape(x.shape, shape)) return x;
    const dims = x.shape.map((_, i) => shape.length - x.shape.length + i);
    return this.one("stablehlo.broadcast_in_dim", [x], { broadcast_dimensions: i64s(dims) }, [
      { shape, dtype: x.dtype },
    ]);
  }

  transpose(x: Hlo, perm: readonly number[]): Hlo {
    const type = { shape: perm.map((dim) => x.shape[dim]), dtype: x.dtype };
    return this.one("stablehlo.transpose", [x], { permutation: i64s(perm) }, [type]);
  }

  slice(
    x: Hlo,
    starts: readonly number[],
    limits: readonly number[],
    steps: readonly number[],
    shape: Shape,
  ): Hlo {
    const attrs = { start_indices: i64s(starts), limit_indices: i64s(limits), strides: i64s(steps) };
    return this.one("stablehlo.slice", [x], attrs, [{ shape, dtype: x.dtype }]);
  }

  /** A comparison, as `EQ` or `LT`. */
  compare(direction: string, a: Hlo, b: Hlo): Hlo {
    const out = this.next({ shape: a.shape, dtype: "bool" });
    const { kind } = dtypeInfo[a.dtype];
    const how =
      kind === "float" ? "FLOAT" : a.dtype === "bool" || a.dtype === "uint8" ? "UNSIGNED" : "SIGNED";
    this.line(
      `${out.name} = stablehlo.compare ${direction}, ${a.name}, ${b.name}, ${how} : (${hloType(a)}, ${hloType(b)}) -> ${hloType(out)}${this.location}`,
    );
    return out;
  }

  select(condition: Hlo, a: Hlo, b: Hlo): Hlo {
    const out = this.next(a);
    this.line(
      `${out.name} = stablehlo.select ${condition.name}, ${a.name}, ${b.name} : ${hloType(condition)}, ${hloType(a)}${this.location}`,
    );
    return out;
  }
}

/** Elements as nested lists of `shape`. */
function nested(elements: readonly string[], shape: Shape): string {
  if (shape.length === 0) return elements[0];
  const size = elements.length / shape[0];
  const rows = Array.from({ length: shape[0] }, (_, i) =>
    nested(elements.slice(i * size, (i + 1) * size), shape.slice(1)),
  );
  return `[${rows.join(", ")}]`;
}
