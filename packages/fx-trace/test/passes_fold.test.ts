import { describe, expect, it } from "vitest";
import { type DType, foldConstants } from "../src/index.js";
import {
  bfloat16Bits,
  float16Bits,
  fromBfloat16,
  fromFloat16,
  readValues,
  roundTo,
  writeValues,
} from "../src/passes/scalar.js";
import { passTest } from "./graph_text.js";

const run = passTest(foldConstants);
const full = (name: string, value: number, dtype: string, shape = "[]"): string =>
  `${name} = full() {value=${Object.is(value, -0) ? "-0" : value}, shape=${shape}, dtype=${dtype}}\n`;
const hex = (dtype: DType, values: readonly number[]): string =>
  `0x${Buffer.from(writeValues(dtype, values)).toString("hex")}`;
const constant = (
  name: string,
  dtype: DType,
  values: readonly number[],
  shape = `[${values.length}]`,
): string => `${name} = constant() {shape=${shape}, dtype=${dtype}, data=${hex(dtype, values)}}\n`;

/** Folds lines without program inputs. */
function folds(before: string, after: string): void {
  const { got, wanted } = run("%unused bool[]", `${before}outputs %y`, `${after}outputs %y`);
  expect(got).toBe(wanted);
}
const stays = (lines: string): void => folds(lines, lines);

describe("foldConstants: repeated values", () => {
  const binary = (op: string, a: number, b: number, value: number, dtype = "float32", to = dtype): void =>
    folds(
      `${full("%a", a, dtype, "[3]")}${full("%b", b, dtype, "[2, 1]")}%y = ${op}(%a, %b)\n`,
      full("%y", value, to, "[2, 3]"),
    );

  it("computes in the dtype", () => {
    binary("add", 0.1, 0.2, Math.fround(Math.fround(0.1) + Math.fround(0.2)));
    binary("add", 0.1, 0.2, 0.1 + 0.2, "float64");
    binary("add", 1, 2 ** -8, 1, "bfloat16"); // half way, to even
    binary("mul", 65504, 2, Number.POSITIVE_INFINITY, "float16");
    binary("pow", 2, 10, 1024);
    binary("maximum", Number.NaN, 1, Number.NaN);
    binary("sub", Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, Number.NaN);
    binary("mul", -0, 3, -0);
    binary("lt", 1, 2, 1, "float32", "bool");
    binary("ne", Number.NaN, Number.NaN, 1, "float32", "bool");
  });

  it("wraps integers, and divides them by zero to zero", () => {
    binary("add", 2 ** 31 - 1, 1, -(2 ** 31), "int32");
    binary("mul", 123456789, 987654321, -67153019, "int32");
    binary("sub", 3, 5, 254, "uint8");
    binary("div", -7, 2, -3, "int32");
    binary("div", 7, 0, 0, "int32");
    binary("mul", 2 ** 30, 2 ** 20, 2 ** 50, "int64");
  });

  it("leaves what takes more than a double", () => {
    const lines = `${full("%a", 2 ** 53 - 1, "int64")}${full("%b", 3, "int64")}%y = mul(%a, %b)\n`;
    stays(lines);
    stays(`${full("%a", 2, "int32")}${full("%b", -1, "int32")}%y = pow(%a, %b)\n`);
  });

  it.each([
    ["neg", 0, -0],
    ["sqrt", 2, Math.fround(Math.sqrt(2))],
    ["log", 0, Number.NEGATIVE_INFINITY],
    ["round", 2.5, 2],
    ["round", 3.5, 4],
    ["round", -0.5, -0],
    ["rsqrt", 4, 0.5],
    ["trunc", -1.5, -1],
  ])("%s(%d)", (op, value, result) => {
    folds(`${full("%a", value, "float32")}%y = ${op}(%a)\n`, full("%y", result, "float32"));
  });

  it("casts where every device gives the same", () => {
    const cast = (value: number, from: string, to: string): string =>
      `${full("%a", value, from)}%y = cast(%a) {dtype=${to}}\n`;
    folds(cast(1.9, "float32", "int32"), full("%y", 1, "int32"));
    folds(cast(-1.9, "float32", "int64"), full("%y", -1, "int64"));
    folds(cast(300, "int32", "uint8"), full("%y", 44, "uint8"));
    folds(cast(0.5, "float32", "bool"), full("%y", 1, "bool"));
    folds(cast(Number.NaN, "float32", "bool"), full("%y", 1, "bool"));
    folds(cast(0.1, "float64", "float16"), full("%y", fromFloat16(float16Bits(0.1)), "float16"));
    stays(cast(3e9, "float32", "int32"));
    stays(cast(-1, "float32", "uint8"));
    stays(cast(Number.NaN, "float32", "int32"));
  });

  it("passes views", () => {
    const six = full("%a", 2, "float32", "[2, 3]");
    folds(`${six}%y = reshape(%a) {shape=[6]}\n`, full("%y", 2, "float32", "[6]"));
    folds(`${six}%y = transpose(%a) {perm=[1, 0]}\n`, full("%y", 2, "float32", "[3, 2]"));
    folds(`${six}%y = broadcast_to(%a) {shape=[4, 2, 3]}\n`, full("%y", 2, "float32", "[4, 2, 3]"));
    folds(
      `${six}%y = slice(%a) {starts=[0, 1], limits=[2, 3], steps=[2, 1]}\n`,
      full("%y", 2, "float32", "[1, 2]"),
    );
    folds(
      `${six}%b = flip(%a) {dims=[0]}\n%y = concat(%a, %b) {dim=0}\n`,
      full("%y", 2, "float32", "[4, 3]"),
    );
    const pad = (value: number): string =>
      `%y = pad(%a) {low=[1, 0], high=[0, 0], interior=[0, 0], value=${value}}\n`;
    folds(`${six}${pad(2)}`, full("%y", 2, "float32", "[3, 3]"));
    stays(`${six}${pad(0)}`);
    stays(`${six}${full("%b", 1, "float32", "[2, 3]")}%y = concat(%a, %b) {dim=0}\n`);
  });

  it("reduces where the order of terms cannot matter", () => {
    const of = (value: number, op: string): string =>
      `${full("%a", value, "float32", "[2, 3]")}%y = ${op}(%a) {dims=[1], keepdim=false}\n`;
    folds(of(2, "sum"), full("%y", 6, "float32", "[2]"));
    folds(of(0, "sum"), full("%y", 0, "float32", "[2]"));
    folds(of(0.1, "max"), full("%y", Math.fround(0.1), "float32", "[2]"));
    stays(of(0.1, "sum"));
  });
});

describe("foldConstants: small constants", () => {
  it("computes element by element, with broadcasting", () => {
    folds(
      `${constant("%a", "int32", [1, 2, 3])}${constant("%b", "int32", [10, 20], "[2, 1]")}%y = add(%a, %b)\n`,
      constant("%y", "int32", [11, 12, 13, 21, 22, 23], "[2, 3]"),
    );
    folds(
      `${constant("%a", "float32", [1, 4])}${full("%b", 0.5, "float32")}%y = mul(%a, %b)\n`,
      constant("%y", "float32", [0.5, 2]),
    );
    folds(
      `%a = iota() {dim=1, shape=[2, 3], dtype=int64}\n${full("%b", 2, "int64")}%y = ge(%a, %b)\n`,
      constant("%y", "bool", [0, 0, 1, 0, 0, 1], "[2, 3]"),
    );
    folds(
      `${constant("%a", "float16", [1.5, -2])}%b = cast(%a) {dtype=int32}\n%y = reshape(%b) {shape=[2, 1]}\n`,
      constant("%y", "int32", [1, -2], "[2, 1]"),
    );
  });

  it("writes equal elements as a repeated value", () => {
    folds(constant("%y", "float32", [3, 3, 3]), full("%y", 3, "float32", "[3]"));
    folds(constant("%y", "int64", [-5], "[]"), full("%y", -5, "int64"));
    stays(constant("%y", "float32", [0, -0]));
    folds("%y = iota() {dim=1, shape=[40, 1], dtype=int32}\n", full("%y", 0, "int32", "[40, 1]"));
  });

  it("leaves large ones", () => {
    const many = constant(
      "%a",
      "int32",
      Array.from({ length: 17 }, (_, i) => i),
    );
    stays(`${many}%y = neg(%a)\n`);
  });
});

describe("scalar", () => {
  const dtypesAndValues: [DType, number[]][] = [
    ["float32", [0, -0, 1.5, Math.fround(0.1), Number.POSITIVE_INFINITY, Number.NaN, 2 ** -149]],
    ["float64", [0.1, -1e300]],
    ["bfloat16", [0, 1, -3.140625, Number.NEGATIVE_INFINITY, Number.NaN]],
    ["float16", [0, -0, 65504, 2 ** -24, 2 ** -14, -0.333251953125, Number.NaN]],
    ["int32", [-(2 ** 31), 2 ** 31 - 1]],
    ["int64", [-(2 ** 53) + 1, 2 ** 53 - 1]],
    ["uint8", [0, 255]],
    ["bool", [0, 1]],
  ];
  it.each(dtypesAndValues)("%s goes to bytes and back", (dtype, values) => {
    expect(readValues(dtype, writeValues(dtype, values))).toEqual(values);
    for (const value of values) expect(roundTo(dtype, value)).toEqual(value);
  });

  it("does not read an int64 past 2^53", () => {
    const data = new Uint8Array(8).fill(0x7f);
    expect(readValues("int64", data)).toBeNull();
  });

  it("rounds every float16 and its midpoints to nearest even", () => {
    const wrong: number[] = [];
    for (let bits = 0; bits < 0x7c00; bits++) {
      const value = fromFloat16(bits);
      const next = bits === 0x7bff ? 65536 : fromFloat16(bits + 1);
      const middle = float16Bits((value + next) / 2);
      const exact = float16Bits(value) === bits && float16Bits(-value) === (bits | 0x8000);
      if (!exact || middle !== (bits % 2 === 0 ? bits : bits + 1)) wrong.push(bits);
    }
    expect(wrong).toEqual([]);
    expect(float16Bits(1e9)).toBe(0x7c00);
    expect(float16Bits(2 ** -26)).toBe(0);
  });

  it("rounds every bfloat16 and its midpoints to nearest even", () => {
    const wrong: number[] = [];
    for (let bits = 0; bits < 0x7f7f; bits++) {
      const value = fromBfloat16(bits);
      const middle = bfloat16Bits((value + fromBfloat16(bits + 1)) / 2);
      if (bfloat16Bits(value) !== bits || middle !== (bits % 2 === 0 ? bits : bits + 1)) wrong.push(bits);
    }
    expect(wrong).toEqual([]);
    expect(bfloat16Bits(3.4e38)).toBe(0x7f80);
  });
});
