import { describe, expect, it } from "vitest";
import {
  add,
  buildGraph,
  cast,
  dce,
  div,
  dotGeneral,
  full,
  fuseLinearCrossEntropy,
  type Graph,
  gradients,
  input,
  mul,
  type Node,
  ops,
  reshape,
  resultOf,
  runPasses,
  type Shape,
  standardPasses,
  sum,
  verify,
} from "../src/index.js";
import { evaluate } from "./reference.js";

const [ROWS, K, V] = [6, 3, 5];
function leaf(index: number, shape: Shape, dtype: "float32" | "bfloat16" | "int32" = "float32"): Node {
  const node = input([], { index, shape, dtype });
  node.requiresGrad = dtype !== "int32";
  return node;
}
const attrs = { ignore_index: -1, label_smoothing: 0.1 };
const logitsOf = (x: Node, w: Node): Node => dotGeneral(x, w, [x.shape.length - 1], [1]);
const lossOf = (logits: Node, target: Node): Node => resultOf(ops.cross_entropy([logits, target], attrs), 0);

const gradientsOf = (loss: Node, targets: readonly Node[]): Node[] =>
  gradients([loss], [full(1, [], "float32")], targets) as Node[];

/** Outputs of a loss over x [2, 3, K], weight and targets [2, 3], as the passes leave them. */
function graphOf(
  outputs: (x: Node, weight: Node, target: Node) => readonly Node[],
  dtype?: "bfloat16",
): Graph {
  const graph = buildGraph(() =>
    outputs(leaf(0, [2, ROWS / 2, K], dtype), leaf(1, [V, K], dtype), leaf(2, [2, ROWS / 2], "int32")),
  );
  return runPasses(
    graph,
    standardPasses((op) => op.lower !== "composite"),
  );
}

/** The ops of the graph once fused, which computes what it did. */
function fused(graph: Graph, leastBytes = 0): string[] {
  const after = dce(fuseLinearCrossEntropy(() => true, leastBytes)(graph));
  verify(after);
  const data = [
    Array.from({ length: ROWS * K }, (_, i) => Math.sin(i)),
    Array.from({ length: V * K }, (_, i) => Math.cos(2 * i)),
    [3, -1, 0, 4, 2, 1],
  ];
  const wanted = evaluate(graph.outputs, data);
  evaluate(after.outputs, data).forEach((value, i) => {
    value.data.forEach((x, k) => {
      expect(x).toBeCloseTo(wanted[i].data[k], 9);
    });
  });
  return after.nodes.map(({ op }) => op.name);
}

const count = (names: readonly string[], wanted: string): number =>
  names.filter((name) => name === wanted).length;

describe("fuseLinearCrossEntropy", () => {
  it("makes loss and gradients one op where the loss's cotangent is known before it", () => {
    const names = fused(
      graphOf((x, weight, target) => {
        const loss = div(sum(lossOf(logitsOf(x, weight), target)), ROWS);
        return [loss, ...gradientsOf(loss, [x, weight])];
      }),
    );
    expect(count(names, "linear_cross_entropy_grad")).toBe(1);
    expect(names.join(" ")).not.toMatch(/dot_general|(^| )cross_entropy|linear_cross_entropy( |$)/);
  });

  it("computes the logits again where it is not", () => {
    const names = fused(
      graphOf((x, weight, target) => {
        const losses = lossOf(logitsOf(x, weight), target);
        return gradientsOf(sum(mul(losses, losses)), [x, weight]);
      }),
    );
    expect([count(names, "linear_cross_entropy"), count(names, "linear_cross_entropy_grad")]).toEqual([1, 1]);
    expect(names).not.toContain("dot_general");
  });

  it("does the same to a loss recorded as one op", () => {
    const withLoss = (loss: (losses: Node) => Node): string[] =>
      fused(
        graphOf((x, weight, target) => {
          const value = loss(resultOf(ops.linear_cross_entropy([x, weight, target], attrs), 0));
          return [value, ...gradientsOf(value, [x, weight])];
        }),
      );
    const known = withLoss((losses) => sum(losses));
    expect([count(known, "linear_cross_entropy"), count(known, "linear_cross_entropy_grad")]).toEqual([0, 1]);
    const late = withLoss((losses) => sum(mul(losses, losses)));
    expect([count(late, "linear_cross_entropy"), count(late, "linear_cross_entropy_grad")]).toEqual([1, 1]);
  });

  it("does not wait for itself where two losses weigh each other", () => {
    const names = fused(
      graphOf((x, weight, target) => {
        const [a, b] = [mul(x, 2), mul(x, 3)].map((each) => sum(lossOf(logitsOf(each, weight), target)));
        return gradientsOf(mul(a, b), [weight]);
      }),
    );
    expect([count(names, "linear_cross_entropy"), count(names, "linear_cross_entropy_grad")]).toEqual([2, 2]);
  });

  it("is a loss alone without gradients, and only of what is asked for with them", () => {
    const alone = graphOf((x, weight, target) => [lossOf(logitsOf(x, weight), target)]);
    expect(fused(alone)).toEqual(["input", "input", "input", "linear_cross_entropy", "result"]);
    for (const wanted of [0, 1]) {
      const names = fused(
        graphOf((x, weight, target) => {
          const loss = sum(lossOf(logitsOf(x, weight), target));
          return [loss, ...gradientsOf(loss, [[x, weight][wanted]])];
        }),
      );
      expect(count(names, "linear_cross_entropy_grad")).toBe(1);
      expect(names).not.toContain("dot_general");
    }
  });

  it("sees through rows flattened, and half logits cast up", () => {
    for (const dtype of [undefined, "bfloat16"] as const) {
      const graph = graphOf((x, weight, target) => {
        const logits = reshape(logitsOf(x, weight), [ROWS, V]);
        const loss = sum(lossOf(dtype ? cast(logits, "float32") : logits, reshape(target, [ROWS])));
        return [loss, ...gradientsOf(loss, [x, weight])];
      }, dtype);
      const after = dce(fuseLinearCrossEntropy(() => true, 0)(graph));
      verify(after);
      const names = after.nodes.map(({ op }) => op.name);
      expect(count(names, "linear_cross_entropy_grad")).toBe(1);
      expect(names).not.toContain("dot_general");
      if (!dtype) fused(graph);
    }
  });

  it("leaves logits that are read elsewhere, small ones, and devices without the kernels", () => {
    const withGradients = (more: (logits: Node) => readonly Node[]): Graph =>
      graphOf((x, weight, target) => {
        const logits = logitsOf(x, weight);
        const loss = sum(lossOf(logits, target));
        return [loss, ...more(logits), ...gradientsOf(loss, [x, weight])];
      });
    for (const more of [(logits: Node) => [logits], (logits: Node) => [ops.exp([logits])]])
      expect(count(fused(withGradients(more)), "dot_general")).toBe(3);
    const plain = withGradients(() => []);
    expect(count(fused(plain, 1 << 20), "dot_general")).toBe(3);
    expect(fuseLinearCrossEntropy((op) => !op.decompose, 0)(plain)).toBe(plain);
    const addedTo = graphOf((x, weight, target) => {
      const loss = sum(lossOf(add(logitsOf(x, weight), 1), target));
      return gradientsOf(loss, [weight]) as Node[];
    });
    expect(count(fused(addedTo), "cross_entropy")).toBe(1);
  });
});
