import { describe, expect, it } from "vitest";
import {
  add,
  clamp,
  gradients,
  input,
  logsumexp,
  max,
  maximum,
  min,
  minimum,
  mul,
  type Node,
  norm,
  ops,
  pow,
  prod,
  std,
  sum,
} from "../src/index.js";
import { checkGradients } from "./gradcheck.js";
import { evaluate } from "./reference.js";

/** Gradient of the sum of fn's result by each argument, elements in order. */
function gradOf(fn: (...inputs: Node[]) => Node, ...args: number[][]): number[][] {
  const inputs = args.map((data, index) => {
    const node = input([], { index, shape: [data.length], dtype: "float64" });
    node.isLeaf = node.requiresGrad = true;
    return node;
  });
  const y = sum(fn(...inputs));
  const one = ops.full([], { value: 1, shape: [], dtype: "float64" });
  const grads = gradients([y], [one], inputs);
  return evaluate(grads as Node[], args).map(({ data }) => [...data].map((value) => value + 0)); // -0 as 0
}

// Values as PyTorch 2 gives them.
describe("gradients where the derivative jumps or is not defined", () => {
  it("abs, sign and relu are 0 at 0", () => {
    expect(gradOf((x) => ops.abs([x]), [-2, 0, 3])).toEqual([[-1, 0, 1]]);
    expect(gradOf((x) => ops.sign([x]), [-2, 0, 3])).toEqual([[0, 0, 0]]);
    expect(gradOf((x) => ops.relu([x]), [-2, 0, 3, Number.NaN])).toEqual([[0, 0, 1, 1]]);
  });
  it("maximum and minimum give half on ties", () => {
    expect(gradOf(maximum, [1, 2, 5], [3, 2, 4])).toEqual([
      [0, 0.5, 1],
      [1, 0.5, 0],
    ]);
    expect(gradOf(minimum, [1, 2, 5], [3, 2, 4])).toEqual([
      [1, 0.5, 0],
      [0, 0.5, 1],
    ]);
  });
  it("max and min split among ties", () => {
    expect(gradOf((x) => max(x), [4, 1, 4, 4])).toEqual([[1 / 3, 0, 1 / 3, 1 / 3]]);
    expect(gradOf((x) => min(x), [4, 1, 1, 4])).toEqual([[0, 0.5, 0.5, 0]]);
  });
  it("clamp passes at the bounds", () => {
    expect(gradOf((x) => clamp(x, -1, 2), [-2, -1, 0, 2, 3])).toEqual([[0, 1, 1, 1, 0]]);
  });
  it("norm and std are flat at 0", () => {
    expect(gradOf((x) => norm(x), [0, 0])).toEqual([[0, 0]]);
    expect(gradOf((x) => std(x), [3, 3, 3])).toEqual([[0, 0, 0]]);
  });
  it("atan2 is flat at the origin", () => {
    expect(gradOf((a, b) => ops.atan2([a, b]), [0, 1], [0, 0])).toEqual([
      [0, 0],
      [0, -1],
    ]);
  });
  it("logsumexp of -inf", () => {
    expect(gradOf((x) => logsumexp(x), [Number.NEGATIVE_INFINITY, 0])).toEqual([[0, 1]]);
    expect(gradOf((x) => logsumexp(x), [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY])).toEqual([
      [0, 0],
    ]);
  });
});

describe("pow", () => {
  it("of base 0", () => {
    expect(gradOf(pow, [0, 0, 0, 2], [0, 1, 2, 0])).toEqual([
      [0, 1, 0, 0],
      [0, 0, 0, Math.log(2)],
    ]);
  });
  it("by a number", () => {
    const powers = (k: number) => gradOf((x) => pow(x, k), [-1.5, 0, 2])[0];
    expect(powers(0)).toEqual([0, 0, 0]);
    expect(powers(1)).toEqual([1, 1, 1]);
    expect(powers(2)).toEqual([-3, 0, 4]);
    expect(powers(3)).toEqual([6.75, 0, 12]);
    expect(gradOf((x) => pow(x, 0.5), [0, 4])[0]).toEqual([Number.POSITIVE_INFINITY, 0.25]);
  });
  it("of a negative base by a value has no gradient for the exponent", () => {
    const [base, exponent] = gradOf(pow, [-2], [3]);
    expect(base).toEqual([12]);
    expect(exponent).toEqual([Number.NaN]);
  });
  it("is finite in the second derivative at 0", () => {
    const twice = (x: Node): Node => {
      const one = ops.full([], { value: 1, shape: [4], dtype: "float64" });
      const k = ops.add([
        ops.iota([], { dim: 0, shape: [4], dtype: "float64" }),
        ops.full([], { value: 0, shape: [], dtype: "float64" }),
      ]);
      return gradients([pow(x, k)], [one], [x], { createGraph: true })[0] as Node;
    };
    expect(gradOf(twice, [0, 0, 0, 0])).toEqual([[0, 0, 2, 0]]);
  });
});

describe("prod", () => {
  it("of zeros", () => {
    expect(gradOf((x) => prod(x), [2, 0, 3])).toEqual([[0, 6, 0]]);
    expect(gradOf((x) => prod(x), [2, 0, 0])).toEqual([[0, 0, 0]]);
    expect(gradOf((x) => prod(x), [5])).toEqual([[1]]);
  });
  it("of zeros, second derivative", () => {
    checkGradients(
      (x) => prod(x, [0, 2]),
      [{ shape: [2, 2, 3], data: [0, 1, 2, 3, 0, 0, 4, 5, 6, -1, 2, 3] }],
      { step: 1e-4 },
    );
  });
});

describe("dtypes", () => {
  it.each(["float32", "float64", "bfloat16", "float16"] as const)(
    "cotangents are %s as their inputs",
    (dtype) => {
      const x = input([], { index: 0, shape: [2, 3], dtype });
      x.isLeaf = x.requiresGrad = true;
      const y = add(
        logsumexp(mul(ops.gelu([x], { approximate: "tanh" }), 0.5), 1),
        ops.mean([x], { dims: [1], keepdim: false }),
      );
      const one = ops.full([], { value: 1, shape: y.shape, dtype: y.dtype });
      const [grad] = gradients([y], [one], [x]);
      expect([y.dtype, grad?.dtype, grad?.shape]).toEqual([dtype, dtype, [2, 3]]);
    },
  );
});
