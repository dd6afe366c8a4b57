import type { DType } from "../src/dtype.js";
import { reachable } from "../src/graph.js";
import { type Node, withGrad, withRecorder } from "../src/node.js";
import type { Shape } from "../src/shape.js";
import { sizeOf } from "../src/shape.js";
import { kernels } from "./reference_kernels.js";

/*
 * What ops mean, in plain loops over float64: for tests. Half and single floats are not rounded, so that central
 * differences are sharp; integers wrap (int64 beyond 2^53 is not exact).
 */

export interface Value {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly data: Float64Array;
}

export type Data = ArrayLike<number>;

export function makeValue(dtype: DType, shape: Shape, data: Data): Value {
  if (data.length !== sizeOf(shape)) throw new Error(`${data.length} elements for [${shape}]`);
  return { dtype, shape, data: Float64Array.from(data) };
}

/** Values of `outputs`; `inputs` holds the elements of each `input` node, by its index. */
export function evaluate(outputs: readonly Node[], inputs: readonly Data[] = []): Value[] {
  const values = new Map<Node, readonly Value[]>();
  return evaluateInto(values, outputs, inputs);
}

function evaluateInto(
  values: Map<Node, readonly Value[]>,
  outputs: readonly Node[],
  inputs: readonly Data[],
): Value[] {
  for (const node of reachable(outputs, (each) => values.has(each))) {
    if (!values.has(node)) values.set(node, evaluateNode(node, values, inputs));
  }
  return outputs.map((node) => (values.get(node) as readonly Value[])[0]);
}

function evaluateNode(
  node: Node,
  values: Map<Node, readonly Value[]>,
  inputs: readonly Data[],
): readonly Value[] {
  const { op, attrs } = node;
  if (op.name === "input") {
    const data = inputs[attrs.index as number];
    if (!data) throw new Error(`no value for input ${attrs.index}`);
    return [makeValue(node.dtype, node.shape, data)];
  }
  const operands = node.inputs.map((input) => values.get(input) as readonly Value[]);
  if (op.name === "result") return [operands[0][attrs.index as number]];
  return evaluateOp(
    node,
    operands.map(([value]) => value),
  );
}

/** Results of a node whose operands have these values; not of `input` and `result`, which are only names. */
export function evaluateOp(node: Node, operands: readonly Value[]): readonly Value[] {
  const { op, attrs, types } = node;
  const kernel = kernels[op.name];
  if (kernel) {
    const results = kernel(operands, types, attrs as never);
    return results.map((data, i) => makeValue(types[i].dtype, types[i].shape, data));
  }
  const { decompose } = op;
  if (!decompose) throw new Error(`the reference has no ${op.name}`);
  const parts = withRecorder(null, () => withGrad(false, () => decompose(node.inputs, attrs as never, node)));
  return evaluateInto(new Map(node.inputs.map((input, i) => [input, [operands[i]]])), parts, []);
}
