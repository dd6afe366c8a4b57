import {
  type Batched,
  batchNodes,
  buildGraph,
  type Graph,
  input,
  isFloat,
  type Node,
  type OpName,
  ops,
  sizeOf,
  spread,
  valueIn,
  verify,
} from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";
import { decodeNumbers, drawNumbers, seedOf } from "./ops.samples.data.js";
import { buildSample } from "./ops.samples.graph.js";
import { type SampledOp, samples } from "./ops.samples.js";
import { isLeaf, type Leaf, normal, type Sample } from "./ops.samples.types.js";

// Every op's samples, forward and backward, recorded for two examples at once against a loop over them. Both sides run
// in fx-trace's reference interpreter, in float64: nothing is rounded, so they must agree to the last digits.
const referencePath = "../../fx-trace/test/reference.ts";
const reference: {
  evaluate(outputs: readonly Node[], inputs: readonly ArrayLike<number>[]): { data: Float64Array }[];
} = await import(referencePath);

const SIZE = 2;

const MAX_ELEMENTS = 1500;

/** Large samples say nothing new of batching and take the interpreter seconds; nor do dtypes, all of which it holds as float64. */
function isWanted({ name, operands, attrs }: Sample): boolean {
  const made = Array.isArray(attrs.shape) ? sizeOf(attrs.shape) : 0;
  const elements = operands.filter(isLeaf).reduce((sum, { shape }) => sum + sizeOf(shape), made);
  return elements <= MAX_ELEMENTS && !["bfloat16", "float16", "float64"].includes(name);
}

/** The sample's own numbers for the first example, other ones of their kind for the others. */
function exampleData(op: OpName, sample: Sample): { graph: Graph; data: Float64Array[][] } {
  const { graph, leaves, cotangents } = buildSample(op, sample);
  const fills = [
    ...sample.operands.filter(isLeaf).map((leaf: Leaf) => leaf.fill),
    ...cotangents.map(() => normal()),
  ];
  const own = [...leaves, ...cotangents].map(({ bytes, dtype }) => decodeNumbers(bytes, dtype));
  const data = own.map((numbers, i) => {
    const others = Array.from({ length: SIZE - 1 }, (_, b) => {
      const fill = fills[i];
      // Fixed values come in another order, which keeps them in their range.
      if (fill.kind === "values") return numbers.toReversed();
      return drawNumbers(fill, numbers.length, seedOf(`${op}/${sample.name}/${i}/${b}`));
    });
    return [numbers, ...others.map((list) => (isFloat(graph.inputs[i].dtype) ? list : list.map(Math.trunc)))];
  });
  return { graph, data };
}

function batchGraph(graph: Graph, batched: readonly boolean[]): Graph {
  return buildGraph(() => {
    const values = new Map<Node, readonly Batched[]>();
    for (const [index, { shape, dtype }] of graph.inputs.entries()) {
      const node = input([], { index, shape: batched[index] ? [SIZE, ...shape] : shape, dtype });
      values.set(graph.inputs[index], [{ node, batched: batched[index] }]);
    }
    batchNodes(graph.nodes, values, { size: SIZE, randomness: "same" });
    return graph.outputs.map((output) => spread(valueIn(values, output), SIZE));
  });
}

const joined = (parts: readonly Float64Array[]): Float64Array => {
  const all = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
};

function expectClose(found: Float64Array, wanted: Float64Array, where: string): void {
  expect(found.length, where).toBe(wanted.length);
  const largest = wanted.reduce(
    (most, value) => (Number.isFinite(value) ? Math.max(most, Math.abs(value)) : most),
    1,
  );
  for (let i = 0; i < wanted.length; i++) {
    const [a, b] = [found[i], wanted[i]];
    if (Object.is(a, b) || a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
    if (!(Math.abs(a - b) <= 1e-11 * largest)) expect.fail(`${where}: element ${i} is ${a}, should be ${b}`);
  }
}

/**
 * All operands and cotangents, then each operand alone: the others are one value for all examples. A key is always one for
 * all.
 */
function patterns(op: SampledOp, count: number, operands: number): boolean[][] {
  if (ops[op].unique) return [[false]];
  const each = Array.from({ length: operands }, (_, k) => Array.from({ length: count }, (_, i) => i === k));
  const all = new Array<boolean>(count).fill(true);
  return count > 1 ? [all, ...each] : [all];
}

describe.each((Object.keys(samples) as SampledOp[]).filter((op) => op !== "input"))("vmap: %s", (op) => {
  const list = samples[op].filter((sample: Sample) => isWanted(sample));
  it.each(list.map((sample: Sample) => [sample.name, sample] as const))("%s", (_, sample) => {
    const { graph, data } = exampleData(op, sample);
    const leaves = sample.operands.filter(isLeaf).length;
    for (const batched of patterns(op, graph.inputs.length, leaves)) {
      const many = batchGraph(graph, batched);
      verify(many);
      const found = reference.evaluate(
        many.outputs,
        data.map((examples, i) => (batched[i] ? joined(examples) : examples[0])),
      );
      const loops = Array.from({ length: SIZE }, (_, b) =>
        reference.evaluate(
          graph.outputs,
          data.map((examples, i) => examples[batched[i] ? b : 0]),
        ),
      );
      graph.outputs.forEach(({ shape }, k) => {
        expect(many.outputs[k].shape).toEqual([SIZE, ...shape]);
        expect(found[k].data.length).toBe(SIZE * sizeOf(shape));
        const where = `output ${k} with batched operands ${batched.map(Number).join("")}`;
        expectClose(found[k].data, joined(loops.map((outputs) => outputs[k].data)), where);
      });
    }
  });
});
