import { describe, expect, it } from "vitest";
import {
  add,
  atScope,
  defineOp,
  detach,
  GradError,
  GraphBuilder,
  gradients,
  input,
  mul,
  type Node,
  ops,
  scalar,
  sort,
  sum,
  topk,
  withGrad,
  withRecorder,
} from "../src/index.js";
import { checkGradients } from "./gradcheck.js";
import { evaluate } from "./reference.js";

function leaf(index: number, shape: readonly number[] = [2]): Node {
  const node = input([], { index, shape, dtype: "float64" });
  node.isLeaf = node.requiresGrad = true;
  return node;
}

const ones = (like: Node): Node => ops.full([], { value: 1, shape: like.shape, dtype: like.dtype });
const elements = (node: Node | null, ...inputs: number[][]): number[] => [
  ...evaluate([node as Node], inputs)[0].data,
];

describe("gradients", () => {
  it("sums over every path", () => {
    const x = leaf(0);
    const y = add(mul(x, x), mul(x, 3));
    const [grad] = gradients([y, y], [ones(y), ones(y)], [x]);
    expect(elements(grad, [1, 2])).toEqual([10, 14]);
  });

  it("goes to values in between, to outputs, and on to their inputs", () => {
    const x = leaf(0);
    const h = mul(x, x);
    const y = mul(h, 5);
    const grads = gradients([y], [ones(y)], [x, h, y]);
    expect(grads.map((grad) => elements(grad, [1, 2]))).toEqual([
      [10, 20],
      [5, 5],
      [1, 1],
    ]);
  });

  it("is null for what the outputs do not depend on", () => {
    const [x, other] = [leaf(0), leaf(1)];
    const y = mul(x, 2);
    expect(gradients([y], [ones(y)], [other])).toEqual([null]);
    expect(gradients([mul(detach(x), x)], [ones(y)], [other])).toEqual([null]);
  });

  it("stops at detach, at comparisons and at leaves", () => {
    const x = leaf(0);
    const y = mul(
      mul(detach(mul(x, x)), x),
      ops.cast([ops.gt([x, scalar(0, "float64")])], { dtype: "float64" }),
    );
    expect(elements(gradients([y], [ones(y)], [x])[0], [3, -2])).toEqual([9, 0]);

    const updated = mul(x, 2);
    updated.isLeaf = true;
    const z = mul(updated, updated);
    expect(gradients([z], [ones(z)], [x])).toEqual([null]);
    expect(elements(gradients([z], [ones(z)], [updated])[0], [1, 2])).toEqual([4, 8]);
  });

  it("routes the cotangents of several results to their op", () => {
    checkGradients(
      (x) => {
        const [largest] = topk(x, 2, 0);
        const [values] = sort(x, 0);
        return [ops.add([sum(mul(values, values)), sum(largest)]), values];
      },
      [{ shape: [4] }],
    );
  });

  it("records only what the targets need", () => {
    const builder = new GraphBuilder();
    withRecorder(builder, () => {
      const [x, w] = [leaf(0), leaf(1)];
      const y = mul(ops.exp([x]), w);
      const seed = ones(y);
      const before = builder.nodes.length;
      gradients([y], [seed], [w]);
      expect(builder.nodes.slice(before).map((node) => node.op.name)).toEqual(["mul"]);
    });
  });

  it("records in the scope of the forward node, and for gradients only under createGraph", () => {
    const x = leaf(0);
    const y = atScope("blocks.0", () => ops.tanh([x]));
    const [plain] = gradients([y], [ones(y)], [x]);
    expect([plain?.scope, plain?.requiresGrad]).toEqual(["blocks.0", false]);
    const [again] = withGrad(false, () => gradients([y], [ones(y)], [x], { createGraph: true }));
    expect([again?.scope, again?.requiresGrad]).toEqual(["blocks.0", true]);
  });

  it("passes nothing back through integers", () => {
    const x = leaf(0);
    const rounded = ops.cast([x], { dtype: "int32" });
    expect(rounded.requiresGrad).toBe(false);
    const y = mul(x, ops.cast([rounded], { dtype: "float64" }));
    expect(elements(gradients([y], [ones(y)], [x])[0], [2.5, 7])).toEqual([2, 7]);
  });

  it("refuses cotangents of another type", () => {
    const x = leaf(0);
    const y = mul(x, 2);
    expect(() => gradients([y], [scalar(1, "float64")], [x])).toThrow(GradError);
    expect(() => gradients([y], [scalar(1, "float64")], [x])).toThrow(
      "[gradients] the cotangent of mul must be float64[2], got float64[]",
    );
    expect(() => gradients([y], [], [x])).toThrow("1 outputs but 0 cotangents");
  });

  it("refuses to pass a freed graph, unless it is the target", () => {
    const x = leaf(0);
    const h = atScope("encoder", () => mul(x, x));
    const y = mul(h, 2);
    h.inputs = [];
    expect(() => gradients([y], [ones(y)], [x])).toThrow(GradError);
    expect(() => gradients([y], [ones(y)], [x])).toThrow(
      /\[mul\] the graph behind float64\[2\] was freed .* detach\(\).* \(in encoder\)/,
    );
    expect(gradients([y], [ones(y)], [h])[0]).not.toBeNull();
    const loose = mul(detach(h), x);
    expect(gradients([loose], [ones(loose)], [x])[0]).not.toBeNull();
  });

  it("names an op without a gradient", () => {
    const opaque = defineOp({
      name: "opaque",
      attrs: {},
      arity: 1,
      lower: "kernel",
      differentiable: true,
      type: ([x]) => x.types,
    });
    const y = opaque([leaf(0)]);
    expect(() => gradients([y], [ones(y)], [y.inputs[0]])).toThrow("[opaque] has no gradient");
  });
});

describe("ops without a vjp are differentiated through their decomposition", () => {
  const scaled = defineOp({
    name: "scaled",
    attrs: { by: "float" },
    arity: 3,
    results: 2,
    lower: "composite",
    type: ([a, b]) => [a.type, b.type],
    decompose: ([a, b, c], { by }) => {
      const [values] = sort(mul(mul(a, b), a), 0);
      return [mul(values, by), mul(mul(c, c), detach(b))];
    },
  });
  const results = (node: Node): Node[] => [
    ops.result([node], { index: 0 }),
    ops.result([node], { index: 1 }),
  ];

  it("to first and second order", () => {
    const three = { shape: [3] };
    // detach(b) is constant to the vjp, not to central differences: c is differentiated on its own.
    checkGradients((a, b) => results(scaled([a, b, ones(a)], { by: 2 }))[0], [three, three]);
    checkGradients((c) => results(scaled([ones(c), ones(c), c], { by: 2 }))[1], [three]);
  });

  it("with one operand in two places", () => {
    checkGradients((a) => results(scaled([a, a, ones(a)], { by: 2 }))[0], [{ shape: [3] }]);
  });

  it("with results that are operands", () => {
    const both = defineOp({
      name: "both",
      attrs: {},
      arity: 2,
      results: 2,
      lower: "composite",
      type: ([a, b]) => [a.type, b.type],
      decompose: ([a, b]) => [b, a],
    });
    checkGradients(
      (a, b) => {
        const [first, second] = results(both([a, b]));
        return [mul(first, first), second];
      },
      [{ shape: [2] }, { shape: [2] }],
    );
  });
});

describe("recording speed", () => {
  it("grows with the graph, and does not recurse", () => {
    const x = leaf(0, [8, 8]);
    let y: Node = x;
    for (let i = 0; i < 5000; i++) y = ops.silu([ops.add([ops.mul([y, x]), ops.tanh([y])])]);
    const seed = ones(y);
    const times: number[] = [];
    for (let run = 0; run < 3; run++) {
      const builder = new GraphBuilder();
      const start = performance.now();
      withRecorder(builder, () => gradients([y], [seed], [x]));
      times.push(performance.now() - start);
      expect(builder.nodes.length).toBe(45000);
    }
    // About 40 ms, most of it garbage collection; a walk in the square of 20,000 nodes takes seconds.
    expect(Math.min(...times)).toBeLessThan(1000);
  });
});
