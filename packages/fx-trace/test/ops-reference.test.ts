import { describe, expect, it } from "vitest";
import { add, cast, floorDivide, full, input, type Node, ops, remainder, topk } from "../src/index.js";
import { philox } from "./philox.js";
import { evaluate } from "./reference.js";
import { erf } from "./reference_elementwise.js";

const hex = (words: readonly number[]): string =>
  words.map((word) => word.toString(16).padStart(8, "0")).join(" ");
const elements = (node: Node, ...inputs: number[][]): number[] => [...evaluate([node], inputs)[0].data];

describe("the reference interpreter", () => {
  it("draws Philox4x32-10", () => {
    // Known answers published with Random123.
    const ones = new Array<number>(6).fill(0xffffffff);
    expect(hex(philox([0, 0, 0, 0], [0, 0]))).toBe("6627e8d5 e169c58d bc57ac4c 9b00dbd8");
    expect(hex(philox(ones.slice(0, 4), ones.slice(4)))).toBe("408f276d 41c83b0e a20bc7c6 6d5451fd");
    const counter = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
    expect(hex(philox(counter, [0xa4093822, 0x299f31d0]))).toBe("d16cfe09 94fdcceb 5001e420 24126ea1");
  });

  it("draws uniform and normal numbers", () => {
    const key = input([], { index: 0, shape: [2], dtype: "int64" });
    const uniform = elements(
      ops.random_uniform([key], { stream: 7, shape: [4096], whole: [4096], dtype: "float32" }),
      [5, 6],
    );
    expect(Math.min(...uniform)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...uniform)).toBeLessThan(1);
    expect(uniform.reduce((sum, value) => sum + value, 0) / 4096).toBeCloseTo(0.5, 1);
    const normal = elements(
      ops.random_normal([key], { stream: 7, shape: [4096], whole: [4096], dtype: "float32" }),
      [5, 6],
    );
    expect(normal.reduce((sum, value) => sum + value, 0) / 4096).toBeCloseTo(0, 1);
    expect(normal.reduce((sum, value) => sum + value * value, 0) / 4096).toBeCloseTo(1, 0);
  });

  it("knows erf", () => {
    // Abramowitz and Stegun, table 7.1.
    expect(erf(0.5)).toBeCloseTo(0.5204998778, 10);
    expect(erf(1)).toBeCloseTo(0.8427007929, 10);
    expect(erf(2)).toBeCloseTo(0.995322265, 9);
    expect(erf(-3)).toBeCloseTo(-0.9999779095, 10);
    expect(erf(2.4999999)).toBeCloseTo(erf(2.5000001), 8);
  });

  it("wraps integers and divides them as the IR says", () => {
    const int = (value: number) => full(value, [1], "int32");
    expect(elements(add(int(2147483647), 1))).toEqual([-2147483648]);
    expect(elements(ops.div([int(-7), int(2)]))).toEqual([-3]);
    expect(elements(ops.div([int(-7), int(0)]))).toEqual([0]);
    expect(elements(floorDivide(int(-7), 2))).toEqual([-4]);
    expect(elements(remainder(int(-7), 3))).toEqual([2]);
    expect(elements(remainder(int(7), -3))).toEqual([-2]);
    expect(elements(cast(full(-1.9, [1], "float32"), "int32"))).toEqual([-1]);
    expect(elements(cast(full(0.5, [1], "float32"), "bool"))).toEqual([1]);
  });

  it("orders NaN last, and lets it win", () => {
    const x = input([], { index: 0, shape: [4], dtype: "float64" });
    const data = [2, Number.NaN, 3, 2];
    const sorted = ops.sort([x], { dim: 0, descending: false });
    expect(elements(ops.result([sorted], { index: 0 }), data)).toEqual([2, 2, 3, Number.NaN]);
    expect(elements(ops.result([sorted], { index: 1 }), data)).toEqual([0, 3, 2, 1]);
    expect(elements(topk(x, 2)[0], data)).toEqual([Number.NaN, 3]);
    expect(elements(ops.argmin([x], { dim: 0, keepdim: false }), data)).toEqual([1]);
    expect(elements(ops.max([x], { dims: [0], keepdim: false }), data)).toEqual([Number.NaN]);
    expect(elements(ops.round([x], {}), [0.5, 1.5, -0.5, 2.5]).map((v) => v + 0)).toEqual([0, 2, 0, 2]);
  });

  it("reads constants of every dtype", () => {
    const read = (dtype: "bfloat16" | "float16" | "int64" | "uint8", ...bytes: number[]): number[] => {
      const size = { bfloat16: 2, float16: 2, int64: 8, uint8: 1 }[dtype];
      return elements(
        ops.constant([], { shape: [bytes.length / size], dtype, data: Uint8Array.from(bytes) }),
      );
    };
    expect(read("bfloat16", 0x80, 0x3f, 0x20, 0xc0)).toEqual([1, -2.5]);
    expect(read("float16", 0x00, 0x3c, 0x01, 0x00)).toEqual([1, 2 ** -24]);
    expect(read("int64", 0xfe, 255, 255, 255, 255, 255, 255, 255)).toEqual([-2]);
    expect(read("uint8", 7, 250)).toEqual([7, 250]);
  });
});
