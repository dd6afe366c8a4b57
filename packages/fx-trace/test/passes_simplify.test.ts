import { describe, expect, it } from "vitest";
import { simplify } from "../src/index.js";
import { passTest } from "./graph_text.js";

const run = passTest(simplify);
const becomes = (inputs: string, before: string, after: string): void => {
  const { got, wanted } = run(inputs, before, after);
  expect(got).toBe(wanted);
};
const stays = (inputs: string, lines: string): void => becomes(inputs, lines, lines);

/** A 0-d `full`. */
const full = (name: string, value: number | string, dtype = "float32", shape = "[]"): string =>
  `${name} = full() {value=${value}, shape=${shape}, dtype=${dtype}}`;

describe("simplify: arithmetic", () => {
  const x = "%x float32[2, 3]";

  it.each([
    ["add", "%x, %c", 0],
    ["add", "%c, %x", 0],
    ["sub", "%x, %c", 0],
    ["mul", "%x, %c", 1],
    ["mul", "%c, %x", 1],
    ["div", "%x, %c", 1],
    ["pow", "%x, %c", 1],
  ])("%s(%s) with %d is x", (op, operands, value) => {
    becomes(x, `${full("%c", value)}\n%y = ${op}(${operands})\noutputs %y`, "outputs %x");
  });

  it.each([
    ["mul", "%x, %c", -1, "neg"],
    ["pow", "%x, %c", 2, "square"],
    ["pow", "%x, %c", -1, "reciprocal"],
  ])("%s(%s) with %d is one op of x", (op, operands, value, simpler) => {
    becomes(
      x,
      `${full("%c", value)}\n%y = ${op}(${operands})\noutputs %y`,
      `%y = ${simpler}(%x)\noutputs %y`,
    );
  });

  it("keeps what only looks like an identity", () => {
    stays(x, `${full("%c", 0)}\n%y = sub(%c, %x)\noutputs %y`);
    stays(x, `${full("%c", 1)}\n%y = div(%c, %x)\noutputs %y`);
    stays(x, `${full("%c", 0)}\n%y = mul(%x, %c)\noutputs %y`); // NaN * 0 is NaN
    stays(x, `${full("%c", 0.5)}\n%y = pow(%x, %c)\noutputs %y`); // pow(-inf, 0.5) is inf
    stays(x, "%y = sub(%x, %x)\noutputs %y"); // inf - inf is NaN
  });

  it("multiplies integers by 0", () => {
    becomes(
      "%x int32[2, 3]",
      `${full("%c", 0, "int32")}\n%y = mul(%x, %c)\noutputs %y`,
      `${full("%y", 0, "int32", "[2, 3]")}\noutputs %y`,
    );
  });

  it("gives an identity the shape of the result", () => {
    becomes(
      "%x float32[3]",
      `${full("%c", 0, "float32", "[2, 3]")}\n%y = add(%x, %c)\noutputs %y`,
      "%y = broadcast_to(%x) {shape=[2, 3]}\noutputs %y",
    );
    becomes(
      "%x float32[3]",
      `${full("%c", 2, "float32", "[2, 3]")}\n%y = pow(%x, %c)\noutputs %y`,
      "%s = square(%x)\n%y = broadcast_to(%s) {shape=[2, 3]}\noutputs %y",
    );
  });

  it("divides by powers of two by multiplying", () => {
    becomes(
      x,
      `${full("%c", 8)}\n%y = div(%x, %c)\noutputs %y`,
      `${full("%c", 0.125)}\n%y = mul(%x, %c)\noutputs %y`,
    );
    stays(x, `${full("%c", 3)}\n%y = div(%x, %c)\noutputs %y`);
    stays(x, `${full("%c", "1e-40")}\n%y = div(%x, %c)\noutputs %y`);
    stays("%x int32[4]", `${full("%c", 8, "int32")}\n%y = div(%x, %c)\noutputs %y`);
  });

  it("merges factors that are powers of two and scale the same way", () => {
    const twice = (a: number, b: number): string =>
      `${full("%a", a)}\n%m = mul(%x, %a)\n${full("%b", b)}\n%y = mul(%b, %m)\noutputs %y`;
    becomes(x, twice(2, 4), `${full("%c", 8)}\n%y = mul(%x, %c)\noutputs %y`);
    becomes(x, twice(0.5, -0.25), `${full("%c", -0.125)}\n%y = mul(%x, %c)\noutputs %y`);
    stays(x, twice(2, 3));
    stays(x, `${full("%a", 2)}\n%m = mul(%x, %a)\n${full("%b", 0.25)}\n%y = mul(%m, %b)\noutputs %y`);
  });

  it("moves signs", () => {
    becomes(x, "%n = neg(%x)\n%y = neg(%n)\noutputs %y", "outputs %x");
    becomes(x, "%n = neg(%x)\n%y = square(%n)\noutputs %y", "%y = square(%x)\noutputs %y");
    becomes(
      x,
      "%n = neg(%x)\n%m = neg(%n)\n%a = abs(%m)\n%y = abs(%a)\noutputs %y",
      "%y = abs(%x)\noutputs %y",
    );
    const both = "%x float32[3]; %z float32[2, 1]";
    becomes(both, "%n = neg(%z)\n%y = add(%x, %n)\noutputs %y", "%y = sub(%x, %z)\noutputs %y");
    becomes(both, "%n = neg(%z)\n%y = add(%n, %x)\noutputs %y", "%y = sub(%x, %z)\noutputs %y");
    becomes(both, "%n = neg(%z)\n%y = sub(%x, %n)\noutputs %y", "%y = add(%x, %z)\noutputs %y");
  });

  it("takes the last step first found over and over", () => {
    const chain = `${full("%z", 0)}\n${full("%o", 1)}\n%a = add(%x, %z)\n%b = mul(%a, %o)\n%c = neg(%b)\n%d = neg(%c)`;
    becomes(x, `${chain}\n%y = detach(%d)\noutputs %y, %a`, "outputs %x, %x");
  });
});

describe("simplify: casts", () => {
  const chain = (from: string, over: string, to: string): [string, string] => [
    `%x ${from}[2]`,
    `%a = cast(%x) {dtype=${over}}\n%y = cast(%a) {dtype=${to}}\noutputs %y`,
  ];

  it.each([
    ["bfloat16", "float32", "bfloat16"],
    ["float16", "float64", "float16"],
    ["bool", "float16", "bool"],
    ["uint8", "bfloat16", "uint8"],
    ["int32", "float64", "int32"],
  ])("%s to %s and back is nothing", (from, over, to) => {
    becomes(...chain(from, over, to), "outputs %x");
  });

  it("goes straight where the way loses nothing", () => {
    const straight = (to: string): string => `%y = cast(%x) {dtype=${to}}\noutputs %y`;
    becomes(...chain("bfloat16", "float32", "float16"), straight("float16"));
    becomes(...chain("uint8", "int64", "float32"), straight("float32"));
  });

  it.each([
    ["float32", "bfloat16", "float32"],
    ["bfloat16", "float16", "bfloat16"],
    ["float16", "bfloat16", "float16"],
    ["int32", "float32", "int32"],
    ["int64", "float64", "int64"],
    ["int32", "uint8", "int32"],
    ["float32", "int32", "float32"],
    ["float32", "bool", "float32"],
  ])("%s to %s to %s stays", (...dtypes) => {
    const [inputs, lines] = chain(...dtypes);
    stays(inputs, lines);
  });

  it("drops a cast to the same dtype", () => {
    becomes("%x int32[2]", "%y = cast(%x) {dtype=int32}\noutputs %y", "outputs %x");
  });
});

describe("simplify: where", () => {
  const inputs = "%c bool[3]; %a float32[3]; %b float32[2, 3]; %d float32[3]";

  it("knows the choice", () => {
    const known = (value: number): string =>
      `${full("%k", value, "bool")}\n%y = where(%k, %a, %b)\noutputs %y`;
    becomes(inputs, known(1), "%y = broadcast_to(%a) {shape=[2, 3]}\noutputs %y");
    becomes(inputs, known(0), "outputs %b");
    becomes(inputs, "%y = where(%c, %a, %a)\noutputs %y", "outputs %a");
  });

  it("chooses once under one condition", () => {
    becomes(
      inputs,
      "%w = where(%c, %a, %d)\n%y = where(%c, %w, %b)\noutputs %y",
      "%y = where(%c, %a, %b)\noutputs %y",
    );
    becomes(
      inputs,
      "%w = where(%c, %d, %b)\n%y = where(%c, %a, %w)\noutputs %y",
      "%y = where(%c, %a, %b)\noutputs %y",
    );
    becomes(
      inputs,
      "%w = where(%c, %a, %b)\n%y = where(%c, %w, %d)\noutputs %y",
      "%w = where(%c, %a, %d)\n%y = broadcast_to(%w) {shape=[2, 3]}\noutputs %y",
    );
    stays(`${inputs}; %e bool[3]`, "%w = where(%e, %a, %d)\n%y = where(%c, %w, %b)\noutputs %y");
  });

  it("turns a negated condition round", () => {
    becomes(
      inputs,
      "%n = logical_not(%c)\n%y = where(%n, %a, %b)\noutputs %y",
      "%y = where(%c, %b, %a)\noutputs %y",
    );
    becomes("%c bool[3]", "%n = logical_not(%c)\n%y = logical_not(%n)\noutputs %y", "outputs %c");
  });
});

describe("simplify: views", () => {
  it("reshapes once, or not at all", () => {
    const twice = (shape: string): string =>
      `%a = reshape(%x) {shape=[6]}\n%y = reshape(%a) {shape=${shape}}\noutputs %y`;
    becomes("%x float32[2, 3]", twice("[3, 2]"), "%y = reshape(%x) {shape=[3, 2]}\noutputs %y");
    becomes("%x float32[2, 3]", twice("[2, 3]"), "outputs %x");
  });

  it("transposes once, or not at all", () => {
    const twice = (first: string, second: string): string =>
      `%a = transpose(%x) {perm=${first}}\n%y = transpose(%a) {perm=${second}}\noutputs %y`;
    const x = "%x float32[2, 3, 4]";
    becomes(x, twice("[1, 2, 0]", "[1, 2, 0]"), "%y = transpose(%x) {perm=[2, 0, 1]}\noutputs %y");
    becomes(x, twice("[1, 2, 0]", "[2, 0, 1]"), "outputs %x");
    becomes(
      "%x float32[1, 3, 4]",
      "%y = transpose(%x) {perm=[1, 2, 0]}\noutputs %y",
      "%y = reshape(%x) {shape=[3, 4, 1]}\noutputs %y",
    );
    becomes("%x float32[1, 1]", "%y = transpose(%x) {perm=[1, 0]}\noutputs %y", "outputs %x");
  });

  it("broadcasts once, not at all, or by reshaping", () => {
    const twice = "%a = broadcast_to(%x) {shape=[2, 3]}\n%y = broadcast_to(%a) {shape=[4, 2, 3]}\noutputs %y";
    becomes("%x float32[3]", twice, "%y = broadcast_to(%x) {shape=[4, 2, 3]}\noutputs %y");
    becomes("%x float32[3]", "%y = broadcast_to(%x) {shape=[3]}\noutputs %y", "outputs %x");
    becomes(
      "%x float32[3]",
      "%y = broadcast_to(%x) {shape=[1, 3]}\noutputs %y",
      "%y = reshape(%x) {shape=[1, 3]}\noutputs %y",
    );
  });

  it("leaves broadcasting to elementwise ops", () => {
    const inputs = "%x float32[3]; %z float32[2, 3]";
    const wide = "%a = broadcast_to(%x) {shape=[2, 3]}";
    becomes(inputs, `${wide}\n%y = maximum(%a, %z)\noutputs %y`, "%y = maximum(%x, %z)\noutputs %y");
    becomes(
      inputs,
      `${wide}\n%c = lt(%a, %z)\n%y = where(%c, %a, %a)\noutputs %c, %y`,
      `${wide}\n%c = lt(%x, %z)\noutputs %c, %a`,
    );
    stays(inputs, `${wide}\n%y = exp(%a)\noutputs %y`);
    // The other operand does not span the result: one broadcast must stay.
    becomes(
      "%x float32[3]",
      `${wide}\n%y = mul(%a, %a)\noutputs %y`,
      `${wide}\n%y = mul(%x, %a)\noutputs %y`,
    );
  });

  it("slices once, or not at all", () => {
    const twice = `%a = slice(%x) {starts=[2, 0], limits=[10, 5], steps=[2, 1]}
      %y = slice(%a) {starts=[1, 1], limits=[4, 5], steps=[2, 3]}\noutputs %y`;
    becomes(
      "%x float32[10, 5]",
      twice,
      "%y = slice(%x) {starts=[4, 1], limits=[9, 5], steps=[4, 3]}\noutputs %y",
    );
    becomes("%x float32[4]", "%y = slice(%x) {starts=[0], limits=[4], steps=[1]}\noutputs %y", "outputs %x");
    const nothing = `%a = slice(%x) {starts=[1], limits=[4], steps=[1]}
      %y = slice(%a) {starts=[2], limits=[2], steps=[1]}\noutputs %y`;
    becomes("%x float32[4]", nothing, "%y = slice(%x) {starts=[3], limits=[3], steps=[1]}\noutputs %y");
  });

  it("flips, pads and joins only where that does something", () => {
    const x = "%x float32[2, 1, 3]";
    becomes(
      x,
      "%a = flip(%x) {dims=[0, 2]}\n%y = flip(%a) {dims=[0, 1]}\noutputs %y",
      "%y = flip(%x) {dims=[2]}\noutputs %y",
    );
    becomes(x, "%a = flip(%x) {dims=[0]}\n%y = flip(%a) {dims=[0]}\noutputs %y", "outputs %x");
    becomes(x, "%y = flip(%x) {dims=[1]}\noutputs %y", "outputs %x");
    const none = "low=[0, 0, 0], high=[0, 0, 0]";
    becomes(x, `%y = pad(%x) {${none}, interior=[0, 5, 0], value=1}\noutputs %y`, "outputs %x");
    stays(x, `%y = pad(%x) {${none}, interior=[1, 0, 0], value=1}\noutputs %y`);
    becomes(x, "%y = concat(%x) {dim=0}\noutputs %y", "outputs %x");
    stays(x, "%y = concat(%x, %x) {dim=0}\noutputs %y");
  });

  it("reduces nothing over dims of size 1", () => {
    const x = "%x float32[2, 1, 3]";
    becomes(
      x,
      "%y = sum(%x) {dims=[1], keepdim=false}\noutputs %y",
      "%y = reshape(%x) {shape=[2, 3]}\noutputs %y",
    );
    becomes(x, "%y = max(%x) {dims=[1], keepdim=true}\noutputs %y", "outputs %x");
    becomes(x, "%y = prod(%x) {dims=[], keepdim=false}\noutputs %y", "outputs %x");
    stays(x, "%y = sum(%x) {dims=[0, 1], keepdim=false}\noutputs %y");
  });
});

describe("simplify: dot_general", () => {
  const matmul = (a: string, b: string, attrs: string): string =>
    `%y = dot_general(${a}, ${b}) {${attrs}}\noutputs %y`;
  const dims = (lhs: string, rhs: string, lhsBatch = "[]", rhsBatch = "[]"): string =>
    `lhs_contract=${lhs}, rhs_contract=${rhs}, lhs_batch=${lhsBatch}, rhs_batch=${rhsBatch}`;

  it("reads transposed operands in place", () => {
    const inputs = "%a float32[3, 2]; %b float32[4, 3]";
    const transposed = "%s = transpose(%a) {perm=[1, 0]}\n%t = transpose(%b) {perm=[1, 0]}";
    becomes(
      inputs,
      `${transposed}\n${matmul("%s", "%t", dims("[1]", "[0]"))}`,
      matmul("%a", "%b", dims("[0]", "[1]")),
    );
  });

  it("reads batched operands in place, through chains", () => {
    const inputs = "%q float32[2, 5, 3, 4]; %k float32[2, 6, 3, 4]"; // [B, T, H, K]
    const lines = `%a = transpose(%q) {perm=[0, 2, 1, 3]}
      %b = transpose(%k) {perm=[0, 2, 1, 3]}
      %c = transpose(%b) {perm=[0, 1, 3, 2]}
      ${matmul("%a", "%c", dims("[3]", "[2]", "[0, 1]", "[0, 1]"))}`;
    becomes(inputs, lines, matmul("%q", "%k", dims("[3]", "[3]", "[0, 2]", "[0, 2]")));
  });

  it("keeps a transpose that orders free dims", () => {
    stays(
      "%a float32[3, 5, 2]; %b float32[3]",
      `%s = transpose(%a) {perm=[2, 1, 0]}\n${matmul("%s", "%b", dims("[2]", "[0]"))}`,
    );
  });
});
