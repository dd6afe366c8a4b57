import {
  buildGraph,
  type Graph,
  gradients,
  input,
  type Node,
  ops,
  relu,
  result,
  type Shape,
  sum,
} from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";
import {
  type Dims,
  encodeDims,
  explainSharding,
  Mesh,
  type PartitionSpec,
  parseSpec,
  partition,
} from "../src/index.js";
import { evaluate } from "./reference.js";
import { simulate } from "./simulate.js";

// The layouts that are known to train large models, and what each is known to send.

const mesh = new Mesh({ data: 2, tensor: 2 });
const layout = (shape: Shape, ...spec: PartitionSpec): Dims => parseSpec("test", mesh, spec, shape);

/** A value from outside and how it lies. */
const leaf = (inputs: Dims[], shape: Shape, ...spec: PartitionSpec): Node => {
  inputs.push(layout(shape, ...spec));
  const node = input([], { index: inputs.length - 1, shape, dtype: "float32" });
  node.isLeaf = node.requiresGrad = true;
  return node;
};
const places = (inputs: Dims[], shape: Shape, ...spec: PartitionSpec): Node => {
  inputs.push(layout(shape, ...spec));
  return input([], { index: inputs.length - 1, shape, dtype: "int32" });
};

const constrained = (x: Node, direction: "both" | "forward" | "regather", ...spec: PartitionSpec): Node =>
  ops.sharding_constraint([x], {
    mesh: mesh.sizes,
    dims: encodeDims(layout(x.shape, ...spec)),
    direction,
  });

const matmul = (a: Node, b: Node): Node =>
  ops.dot_general([a, b], {
    lhs_contract: [a.shape.length - 1],
    rhs_contract: [0],
    lhs_batch: [],
    rhs_batch: [],
  });

const elements = ({ shape, dtype }: Node, salt: number): number[] =>
  Array.from({ length: shape.reduce((n, size) => n * size, 1) }, (_, i) =>
    dtype === "int32" ? (i * 5 + salt) % 8 : Math.sin(i * 1.7 + salt),
  );

/** Collectives as `times op axes operand`, sorted; throws where a device's numbers are not those of one device. */
function sentBy(
  build: (inputs: Dims[]) => Node[],
  outputsOf: (graph: Graph, inputs: readonly Dims[]) => (Dims | null)[],
): string[] {
  const inputs: Dims[] = [];
  const graph = buildGraph(() => build(inputs));
  const request = { mesh, inputs, outputs: outputsOf(graph, inputs) };
  const partitioned = partition(graph, request);
  const data = graph.inputs.map(elements);
  const wanted = evaluate(graph.outputs, data);
  simulate(partitioned, request, graph, data).forEach((value, k) => {
    value.data.forEach((x, i) => {
      const expected = wanted[k].data[i];
      if (!(Math.abs(x - expected) <= 1e-12 * (1 + Math.abs(expected))))
        expect.fail(`output ${k}[${i}] is ${x}, on one device ${expected}`);
    });
  });
  return explainSharding(partitioned.graph, mesh)
    .map(({ times, op, axes, type }) => `${times} ${op} ${axes.join(" ")} ${type}`)
    .sort();
}

const chosen = (graph: Graph): null[] => graph.outputs.map(() => null);

/** The loss, then the gradient of each leaf. */
const withGradients = (loss: Node, leaves: readonly Node[]): Node[] => [
  loss,
  ...(gradients([loss], [ops.full([], { value: 1, shape: [], dtype: "float32" })], leaves) as Node[]),
];
/** The loss whole, gradients as what they are of. */
const likeLeaves =
  (from = 0) =>
  (_: Graph, inputs: readonly Dims[]): Dims[] => [[], ...inputs.slice(from)];

describe("what known layouts send", () => {
  it("data parallelism: gradients are added up", () => {
    const sent = sentBy((inputs) => {
      const x = leaf(inputs, [8, 4], "data");
      const w = leaf(inputs, [4, 6]);
      const v = leaf(inputs, [6, 2]);
      return withGradients(sum(matmul(relu(matmul(x, w)), v)), [w, v]);
    }, likeLeaves(1));
    expect(sent).toEqual([
      "1 all_reduce data float32[4, 6]",
      "1 all_reduce data float32[6, 2]",
      "1 all_reduce data float32[]",
    ]);
  });

  it("tensor parallelism (Megatron-LM): one sum forward, one backward", () => {
    const sent = sentBy((inputs) => {
      const x = leaf(inputs, [8, 4]);
      const w = leaf(inputs, [4, 6], null, "tensor");
      const v = leaf(inputs, [6, 4], "tensor");
      return withGradients(sum(relu(matmul(relu(matmul(x, w)), v))), [x, w, v]);
    }, likeLeaves());
    expect(sent).toEqual(["2 all_reduce tensor float32[8, 4]"]);
  });

  it("sequence parallelism: a gather and a scatter for each sum", () => {
    const sent = sentBy((inputs) => {
      const x = leaf(inputs, [8, 4], "tensor");
      const w = leaf(inputs, [4, 6], null, "tensor");
      const v = leaf(inputs, [6, 4], "tensor");
      const y = constrained(matmul(relu(matmul(constrained(x, "both"), w)), v), "both", "tensor");
      return [relu(y)];
    }, chosen);
    expect(sent).toEqual(["1 all_gather tensor float32[4, 4]", "1 reduce_scatter tensor float32[8, 4]"]);
  });

  it("fully sharded data parallelism (ZeRO-3): weights are gathered twice, gradients scattered", () => {
    const sent = sentBy((inputs) => {
      const x = leaf(inputs, [8, 4], "data");
      const w = leaf(inputs, [4, 6], "data");
      const v = leaf(inputs, [6, 2], "data");
      const whole = (weight: Node): Node => constrained(weight, "regather");
      return withGradients(sum(matmul(relu(matmul(x, whole(w))), whole(v))), [w, v]);
    }, likeLeaves(1));
    expect(sent).toEqual([
      // x takes no gradient, so that w is read forward only.
      "1 all_gather data float32[2, 6]",
      "1 all_reduce data float32[]",
      "1 reduce_scatter data float32[4, 6]",
      "1 reduce_scatter data float32[6, 2]",
      "2 all_gather data float32[3, 2]",
    ]);
  });

  it("an embedding over a divided vocabulary: the rows found are added up, no table is gathered", () => {
    const sent = sentBy((inputs) => {
      const table = leaf(inputs, [8, 4], "tensor");
      const tokens = places(inputs, [6], "data");
      return [ops.index_select([table, tokens], { dim: 0 })];
    }, chosen);
    expect(sent).toEqual(["1 all_reduce tensor float32[3, 4]"]);
  });

  it("its gradient: each device adds to its own rows, and these are added up over the batch", () => {
    const sent = sentBy(
      (inputs) => {
        const table = leaf(inputs, [8, 4], "tensor");
        const tokens = places(inputs, [6], "data");
        const weights = leaf(inputs, [6, 4], "data");
        const rows = ops.index_select([table, tokens], { dim: 0 });
        return withGradients(sum(ops.mul([rows, weights])), [table]);
      },
      (_, [table]) => [null, table],
    );
    expect(sent).toEqual(["1 all_reduce data float32[4, 4]", "1 all_reduce data tensor float32[]"]);
  });

  it("cross entropy over a divided vocabulary: a number a row, no logits", () => {
    const sent = sentBy(
      (inputs) => {
        const logits = leaf(inputs, [6, 8], "data", "tensor");
        const target = places(inputs, [6], "data");
        const node = ops.cross_entropy([logits, target], { ignore_index: -100, label_smoothing: 0 });
        return withGradients(sum(result([node], { index: 0 })), [logits]);
      },
      (_, [logits]) => [[], logits],
    );
    expect(sent).toEqual(["1 all_reduce data float32[]", "3 all_reduce tensor float32[3, 1]"]);
  });

  const attention = (inputs: Dims[], ...spec: PartitionSpec): Node => {
    const [q, k, v] = [0, 1, 2].map(() => leaf(inputs, [2, 4, 6, 2], ...spec));
    return result([ops.attention([q, k, v], { causal: true, offset: 0, scale: 0.5, window: 0 })], {
      index: 0,
    });
  };

  it("attention over batch and heads: nothing", () => {
    expect(sentBy((inputs) => [attention(inputs, "data", "tensor")], chosen)).toEqual([]);
  });

  it("a bias of attention lies as heads and batch do; its gradient is added up where it is shared", () => {
    const attrs = { causal: true, offset: 0, scale: 0.5, window: 0 };
    const sent = sentBy(
      (inputs) => {
        const qkv = [0, 1, 2].map(() => leaf(inputs, [2, 4, 6, 2], "data", "tensor"));
        const bias = leaf(inputs, [1, 4, 6, 6], null, "tensor");
        const y = result([ops.attention([...qkv, bias], attrs)], { index: 0 });
        return withGradients(sum(ops.mul([y, y])), [bias]);
      },
      (_, [, , , bias]) => [[], bias],
    );
    expect(sent).toEqual(["1 all_reduce data float32[1, 2, 6, 6]", "1 all_reduce data tensor float32[]"]);
  });

  it("attention over a divided sequence (Ulysses): sequence for heads and back", () => {
    const sent = sentBy(
      (inputs) => [attention(inputs, "data", null, "tensor")],
      (_, [q]) => [q],
    );
    expect(sent).toEqual([
      "1 all_to_all tensor float32[1, 2, 6, 2]",
      "3 all_to_all tensor float32[1, 4, 3, 2]",
    ]);
  });
});
