import {
  buildGraph,
  gradients,
  input,
  isFloat,
  type Node,
  type OpDef,
  ops,
  pushForward,
} from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";
import { decodeNumbers, drawNumbers, seedOf } from "./ops.samples.data.js";
import { buildSample } from "./ops.samples.graph.js";
import { type SampledOp, samples } from "./ops.samples.js";
import { normal, type Sample } from "./ops.samples.types.js";

// The forward derivative of every op's samples, in fx-trace's reference interpreter (float64): against vjp by the identity
// <u, J t> = <Jt u, t>, and against central differences wherever these have a limit.
const referencePath = "../../fx-trace/test/reference.ts";
const reference: {
  evaluate(outputs: readonly Node[], inputs: readonly ArrayLike<number>[]): { data: Float64Array }[];
} = await import(referencePath);

const differentiable = (Object.keys(samples) as SampledOp[]).filter(
  (op) => op !== "input" && (ops[op] as unknown as OpDef).differentiable,
);
const isWanted = ({ name, grad }: Sample): boolean =>
  grad && !name.startsWith("larger than tiles") && !name.includes("1031");

const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, x, i) => sum + x * b[i], 0);
const largest = (numbers: Float64Array): number =>
  numbers.reduce((most, x) => Math.max(most, Math.abs(x)), 1);

function derivatives(op: SampledOp, sample: Sample) {
  const built = buildSample(op, sample, false);
  const outputs = built.graph.outputs.filter(({ dtype, requiresGrad }) => isFloat(dtype) && requiresGrad);
  const leaves = built.graph.inputs;
  const moving = leaves.filter(({ requiresGrad }) => requiresGrad);
  const data = built.leaves.map(({ bytes, dtype }) => decodeNumbers(bytes, dtype));
  const draw = (size: number, what: string): Float64Array =>
    drawNumbers(normal(), size, seedOf(`${op}/${sample.name}/${what}`));
  const tangents = moving.map((leaf, k) => draw(data[leaves.indexOf(leaf)].length, `tangent${k}`));
  const values = reference.evaluate(outputs, data).map((value) => value.data);
  const cotangents = values.map((value, k) => draw(value.length, `cotangent${k}`));
  let pushed: (Node | null)[] = [];
  let pulled: (Node | null)[] = [];
  buildGraph(() => {
    const at = (node: Node, index: number): Node =>
      input([], { index, shape: node.shape, dtype: node.dtype });
    pushed = pushForward(
      outputs,
      moving,
      moving.map((leaf, k) => at(leaf, leaves.length + k)),
    );
    const seeds = outputs.map((output, k) => at(output, leaves.length + moving.length + k));
    pulled = gradients(outputs, seeds, moving);
    return outputs;
  });
  const inputs = [...data, ...tangents, ...cotangents];
  const evaluate = (nodes: readonly (Node | null)[], like: readonly Float64Array[]): Float64Array[] =>
    nodes.map((node, k) =>
      node ? reference.evaluate([node], inputs)[0].data : new Float64Array(like[k].length),
    );
  const along = (eps: number): Float64Array[] =>
    reference
      .evaluate(
        outputs,
        data.map((numbers, i) => {
          const k = moving.indexOf(leaves[i]);
          return k < 0 ? numbers : numbers.map((x, j) => x + eps * tangents[k][j]);
        }),
      )
      .map((value) => value.data);
  return {
    tangents,
    cotangents,
    forward: evaluate(pushed, values),
    backward: evaluate(pulled, tangents),
    oneSided: (eps: number): Float64Array[] =>
      along(eps).map((list, k) => list.map((x, j) => (x - values[k][j]) / eps)),
    central: (eps: number): Float64Array[] => {
      const [above, below] = [along(eps), along(-eps)];
      return above.map((list, k) => list.map((x, j) => (x - below[k][j]) / (2 * eps)));
    },
  };
}

describe.each(differentiable)("jvp: %s", (op) => {
  const list = samples[op].filter((sample: Sample) => isWanted(sample));
  let compared = 0;
  it.each(list.map((sample: Sample) => [sample.name, sample] as const))("%s", (_, sample) => {
    const { tangents, cotangents, forward, backward, central, oneSided } = derivatives(op, sample);
    const sum = (a: readonly Float64Array[], b: readonly Float64Array[]): number =>
      a.reduce((total, numbers, k) => total + dot(numbers, b[k]), 0);
    const [inner, outer] = [sum(cotangents, forward), sum(backward, tangents)];
    const scale =
      Math.max(...forward.map(largest), ...backward.map(largest)) * Math.max(1, cotangents.length);
    const size = forward.reduce((count, numbers) => count + numbers.length, 1);
    if (Number.isFinite(inner)) expect(Math.abs(inner - outer)).toBeLessThanOrEqual(1e-11 * scale * size);
    else expect(Number.isFinite(outer)).toBe(false);

    // How ties are ordered is a convention: to the side there may be another order, with another derivative.
    if (sample.name.includes("ties")) return;
    // Where a step half as wide tells something else, or the sides do, there is an edge.
    const [wide, narrow] = [central(1e-4), central(5e-5)];
    const [left, right] = [oneSided(-1e-6), oneSided(1e-6)];
    forward.forEach((numbers, k) => {
      const bound = 1e-6 * largest(numbers);
      numbers.forEach((x, j) => {
        const found = narrow[k][j];
        if (!(Math.abs(found - wide[k][j]) <= bound / 2)) return;
        if (!(Math.abs(left[k][j] - right[k][j]) <= 1e-3)) return;
        compared++;
        if (!(Math.abs(x - found) <= bound))
          expect.fail(`element ${j} of ${k}: ${x}, by differences ${found}`);
      });
    });
  });
  it("was compared with differences", () => {
    expect(compared).toBeGreaterThan(0);
  });
});
