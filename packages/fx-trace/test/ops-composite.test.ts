import { describe, expect, it } from "vitest";
import {
  buildGraph,
  chunk,
  clamp,
  type DType,
  dropoutMask,
  einsum,
  input,
  iota,
  logsumexp,
  matmul,
  mean,
  type Node,
  norm,
  oneHot,
  reshape,
  type Shape,
  sizeOf,
  split,
  stack,
  std,
  tril,
  triu,
  variance,
} from "../src/index.js";
import { checkGradients, numbers } from "./gradcheck.js";
import { evaluate } from "./reference.js";

const x = (index: number, shape: Shape, dtype: DType = "float64"): Node => input([], { index, shape, dtype });
const elements = (node: Node, ...inputs: number[][]): number[] => [...evaluate([node], inputs)[0].data];

/** The matrices of a stack, leading dims broadcast, multiplied one by one. */
function naiveMatmul(a: { shape: number[]; data: number[] }, b: typeof a, leading: number[]): number[] {
  const [M, K] = a.shape.slice(-2);
  const N = b.shape[b.shape.length - 1];
  const out: number[] = [];
  const start = (m: typeof a, index: number[]): number => {
    const dims = m.shape.slice(0, -2);
    const own = index.slice(index.length - dims.length).map((i, d) => (dims[d] === 1 ? 0 : i));
    return (
      own.reduce((sum, i, d) => sum * dims[d] + i, 0) *
      m.shape[m.shape.length - 2] *
      m.shape[m.shape.length - 1]
    );
  };
  for (let flat = 0; flat < sizeOf(leading); flat++) {
    const index: number[] = [];
    for (let d = leading.length - 1, rest = flat; d >= 0; d--) {
      index[d] = rest % leading[d];
      rest = Math.floor(rest / leading[d]);
    }
    for (let i = 0; i < M; i++) {
      for (let j = 0; j < N; j++) {
        let sum = 0;
        for (let k = 0; k < K; k++)
          sum += a.data[start(a, index) + i * K + k] * b.data[start(b, index) + k * N + j];
        out.push(sum);
      }
    }
  }
  return out;
}

describe("matmul", () => {
  const cases: [a: number[], b: number[], shape: number[], ops: string[]][] = [
    [[3], [3], [], ["dot_general"]],
    [[2, 3], [3], [2], ["dot_general"]],
    [[3], [3, 4], [4], ["dot_general"]],
    [[2, 3], [3, 4], [2, 4], ["dot_general"]],
    [[5, 2, 3], [3], [5, 2], ["dot_general"]],
    [[3], [5, 3, 4], [5, 4], ["dot_general"]],
    [[5, 2, 3], [3, 4], [5, 2, 4], ["dot_general"]],
    [[6, 5, 2, 3], [3, 4], [6, 5, 2, 4], ["dot_general"]],
    [[5, 2, 3], [5, 3, 4], [5, 2, 4], ["dot_general"]],
    [
      [2, 5, 2, 3],
      [5, 3, 4],
      [2, 5, 2, 4],
      ["dot_general", "transpose"],
    ],
    [
      [2, 3],
      [5, 3, 4],
      [5, 2, 4],
      ["dot_general", "transpose"],
    ],
    [
      [5, 7, 2, 3],
      [5, 1, 3, 4],
      [5, 7, 2, 4],
      ["reshape", "dot_general"],
    ],
    [
      [5, 1, 2, 3],
      [5, 7, 3, 4],
      [5, 7, 2, 4],
      ["reshape", "dot_general", "transpose"],
    ],
    [
      [1, 2, 3],
      [5, 3, 4],
      [5, 2, 4],
      ["reshape", "dot_general", "transpose"],
    ],
    [[1, 1, 2, 3], [1, 1, 3, 4], [1, 1, 2, 4], ["dot_general"]],
  ];
  it.each(cases)("%j by %j", (a, b, shape, expected) => {
    const graph = buildGraph(() => matmul(x(0, a), x(1, b)));
    expect(graph.outputs[0].shape).toEqual(shape);
    expect(graph.nodes.flatMap((node) => (node.op.name === "input" ? [] : [node.op.name]))).toEqual(expected);
    const rows = { shape: a.length === 1 ? [1, ...a] : a, data: numbers(sizeOf(a), 3) };
    const columns = { shape: b.length === 1 ? [...b, 1] : b, data: numbers(sizeOf(b), 4) };
    const leading = [...shape];
    if (b.length > 1) leading.pop();
    if (a.length > 1) leading.pop();
    const found = elements(graph.outputs[0], rows.data, columns.data);
    naiveMatmul(rows, columns, leading).forEach((value, i) => {
      expect(found[i]).toBeCloseTo(value, 12);
    });
  });

  it("passes gradients", () => {
    checkGradients(matmul, [{ shape: [2, 1, 2, 3] }, { shape: [3, 3, 2] }]);
    checkGradients(matmul, [{ shape: [3] }, { shape: [2, 3, 2] }]);
  });

  it("names both shapes", () => {
    expect(() => matmul(x(0, [2, 3]), x(1, [4, 5]))).toThrow("[matmul] K differs: a [2, 3], b [4, 5]");
    expect(() => matmul(x(0, []), x(1, [4]))).toThrow(
      "[matmul] takes tensors of rank 1 or more: a [], b [4]",
    );
    expect(() => matmul(x(0, [2, 2, 3]), x(1, [3, 3, 5]))).toThrow(
      "[matmul] leading dims do not broadcast: a [2, 2, 3], b [3, 3, 5]",
    );
  });
});

describe("einsum", () => {
  /** Sums over every value of every label. */
  function naive(terms: string[], output: string, shapes: number[][], data: number[][]): number[] {
    const labels = [...new Set([...output, ...terms.join("")])];
    const sizes = labels.map((label) =>
      Math.max(
        ...terms.flatMap((term, t) => [...term].flatMap((each, d) => (each === label ? [shapes[t][d]] : []))),
      ),
    );
    const out = new Array<number>(sizeOf(sizes.slice(0, output.length))).fill(0);
    for (let flat = 0; flat < sizeOf(sizes); flat++) {
      const value = new Map<string, number>();
      for (let d = labels.length - 1, rest = flat; d >= 0; d--) {
        value.set(labels[d], rest % sizes[d]);
        rest = Math.floor(rest / sizes[d]);
      }
      const product = terms.reduce((all, term, t) => {
        const at = [...term].reduce(
          (sum, label, d) => sum * shapes[t][d] + (shapes[t][d] === 1 ? 0 : (value.get(label) as number)),
          0,
        );
        return all * data[t][at];
      }, 1);
      const to = [...output].reduce((sum, label, d) => sum * sizes[d] + (value.get(label) as number), 0);
      out[to] += product;
    }
    return out;
  }

  const cases: [equation: string, ...shapes: number[][]][] = [
    ["ij,jk->ik", [2, 3], [3, 4]],
    ["bik,bkj->bij", [2, 3, 4], [2, 4, 2]],
    ["ij->ji", [2, 3]],
    ["ij->", [2, 3]],
    ["ii->i", [3, 3]],
    ["ii->", [3, 3]],
    ["i,j->ij", [2], [3]],
    ["ij,ij->ij", [2, 3], [2, 3]],
    ["bhtk,bhsk->bhts", [2, 2, 3, 2], [2, 2, 4, 2]],
    ["ij,jk,kl->il", [2, 3], [3, 4], [4, 2]],
    ["ij,kj->k", [2, 3], [4, 3]],
    ["ibj,bkj->kib", [2, 3, 4], [3, 2, 4]],
    ["ij,jk->ik", [2, 1], [3, 4]],
    ["iji,ki->kj", [2, 3, 2], [4, 2]],
    ["abc,cb,b->ca", [2, 3, 4], [4, 3], [3]],
  ];
  it.each(cases)("%s %j %j %j", (equation, ...shapes) => {
    const [left, output] = equation.split("->");
    const data = shapes.map((shape, i) => numbers(sizeOf(shape), i + 1));
    const node = einsum(equation, ...shapes.map((shape, i) => x(i, shape)));
    const expected = naive(left.split(","), output, shapes, data);
    const found = elements(node, ...data);
    expect(found.length).toBe(expected.length);
    expected.forEach((value, i) => {
      expect(found[i]).toBeCloseTo(value, 12);
    });
  });

  it("reads ellipses and leaves out the output", () => {
    const shapes = [
      [2, 3, 4],
      [4, 2],
    ];
    const data = shapes.map((shape, i) => numbers(sizeOf(shape), i + 1));
    const operands = shapes.map((shape, i) => x(i, shape));
    const expected = elements(einsum("abi,ij->abj", ...operands), ...data);
    expect(elements(einsum("...i,ij->...j", ...operands), ...data)).toEqual(expected);
    expect(elements(einsum("...i, ij", ...operands), ...data)).toEqual(expected);
    expect(einsum("...ij->...", x(0, [5, 6, 2, 3])).shape).toEqual([5, 6]);
    expect(einsum("...,...->...", x(0, [5, 1]), x(1, [2, 3, 5, 4])).shape).toEqual([2, 3, 5, 4]);
    expect(einsum("ba", x(0, [2, 3])).shape).toEqual([3, 2]);
  });

  it("is one dot_general where one is enough", () => {
    const graph = buildGraph(() => einsum("btd,df->btf", x(0, [2, 3, 4]), x(1, [4, 5])));
    expect(graph.nodes.map((node) => node.op.name)).toEqual(["input", "input", "dot_general"]);
  });

  it("passes gradients", () => {
    checkGradients((a, b) => einsum("iji,ki->kj", a, b), [{ shape: [2, 3, 2] }, { shape: [4, 2] }]);
  });

  it("says what does not fit", () => {
    const a = x(0, [2, 3]);
    expect(() => einsum("ij,jk->ik", a, x(1, [4, 5]))).toThrow('[einsum] "j" of "ij,jk->ik" is both 3 and 4');
    expect(() => einsum("ij,jk->ik", a)).toThrow('"ij,jk->ik" names 2 operands, got 1');
    expect(() => einsum("ijk->i", a)).toThrow('"ijk" has 3 dims, operand 0 is [2, 3]');
    expect(() => einsum("ij->k", a)).toThrow('output label "k" of "ij->k" is in no operand');
    expect(() => einsum("ij->ii", a)).toThrow('output label "i" of "ij->ii" is named twice');
    expect(() => einsum("i1->i", a)).toThrow('cannot read the term "i1" of "i1->i"');
  });
});

describe("joining, splitting and masks", () => {
  const six = reshape(iota(0, [6], "float64"), [2, 3]);

  it("stack", () => {
    expect(stack([six, six], -1).shape).toEqual([2, 3, 2]);
    expect(elements(stack([six, six], 1))).toEqual([0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
  });
  it("split and chunk", () => {
    expect(split(x(0, [7, 2]), 3).map((part) => part.shape[0])).toEqual([3, 3, 1]);
    expect(split(six, [1, 0, 2], 1).map((part) => elements(part))).toEqual([[0, 3], [], [1, 2, 4, 5]]);
    expect(chunk(x(0, [7]), 3).map((part) => part.shape[0])).toEqual([3, 3, 1]);
    expect(chunk(x(0, [6]), 4).map((part) => part.shape[0])).toEqual([2, 2, 2]);
    expect(() => split(six, [2, 3], -1)).toThrow("[split] sizes [2, 3] do not add up to dim 1 of [2, 3]");
  });
  it("triu and tril", () => {
    expect(elements(triu(six))).toEqual([0, 1, 2, 0, 4, 5]);
    expect(elements(triu(six, 1))).toEqual([0, 1, 2, 0, 0, 5]);
    expect(elements(tril(six))).toEqual([0, 0, 0, 3, 4, 0]);
    expect(elements(tril(six, -1))).toEqual([0, 0, 0, 3, 0, 0]);
  });
  it("oneHot", () => {
    const hot = oneHot(x(0, [2], "int32"), 3, "float32");
    expect([hot.dtype, ...hot.shape]).toEqual(["float32", 2, 3]);
    expect(elements(hot, [2, 0])).toEqual([0, 0, 1, 1, 0, 0]);
  });
  it("dropoutMask", () => {
    const mask = dropoutMask(x(0, [2], "int64"), 5, 0.25, [4000], "float32");
    const values = elements(mask, [3, 9]);
    expect(new Set(values)).toEqual(new Set([0, 1 / 0.75]));
    expect(Math.abs(values.reduce((sum, value) => sum + value, 0) / 4000 - 1)).toBeLessThan(0.04);
  });
});

describe("statistics", () => {
  const data = [1, 2, 4, -3, 0, 5];
  const rows = x(0, [2, 3]);

  it("mean, variance, std", () => {
    expect(elements(mean(rows, 1), data)).toEqual([7 / 3, 2 / 3]);
    expect(elements(variance(rows), data)[0]).toBeCloseTo(8.3, 12);
    expect(elements(variance(rows, 1, 0), data)[0]).toBeCloseTo(14 / 9, 12);
    expect(elements(std(rows, 0, 1, true), data)[0]).toBeCloseTo(Math.sqrt(8), 12);
  });
  it("norms", () => {
    expect(elements(norm(rows, 1), data)).toEqual([15]);
    expect(elements(norm(rows, 2, 1), data)).toEqual([Math.sqrt(21), Math.sqrt(34)]);
    expect(elements(norm(rows, Number.POSITIVE_INFINITY), data)).toEqual([5]);
    expect(elements(norm(rows, Number.NEGATIVE_INFINITY), data)).toEqual([0]);
    expect(elements(norm(rows, 0), data)).toEqual([5]);
    expect(elements(norm(rows, 3, 1), data)[0]).toBeCloseTo(73 ** (1 / 3), 12);
  });
  it("clamp and logsumexp", () => {
    expect(elements(clamp(rows, -1, 3), data)).toEqual([1, 2, 3, -1, 0, 3]);
    expect(elements(clamp(rows, undefined, 3), [Number.NaN, 2, 4, -3, 0, 5])).toEqual([
      Number.NaN,
      2,
      3,
      -3,
      0,
      3,
    ]);
    const big = elements(logsumexp(rows, 1), [1000, 1000, 1000, -1e4, -1e4, -1e4]);
    expect(big[0]).toBeCloseTo(1000 + Math.log(3), 10);
    expect(big[1]).toBeCloseTo(-1e4 + Math.log(3), 10);
    const infinite = elements(
      logsumexp(rows, 1),
      [-1, -1, -1, 1, Infinity, 1].map((v) => (v === -1 ? -Infinity : v)),
    );
    expect(infinite).toEqual([Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]);
  });
  it("pass gradients", () => {
    const cube = { shape: [2, 3, 2] };
    checkGradients((a) => variance(a, [0, 2], 1, true), [cube]);
    checkGradients((a) => std(a, 1), [cube]);
    checkGradients((a) => norm(a, 2, 1), [cube]);
    checkGradients((a) => norm(a, 3), [cube]);
    checkGradients((a) => norm(a, Number.POSITIVE_INFINITY, 2), [cube]);
    checkGradients((a) => clamp(a, -0.5, 0.4), [cube]);
    checkGradients((a) => triu(a, 0), [cube]);
    checkGradients((a) => stack(chunk(a, 2, 2), 0), [cube]);
  });
});
