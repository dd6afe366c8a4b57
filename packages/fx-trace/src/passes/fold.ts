import { type DType, isFloat } from "../dtype.js";
import type { Graph } from "../graph.js";
import type { Node } from "../node.js";
import { constant } from "../ops/leaf.js";
import { full } from "../ops/source.js";
import { type Shape, sizeOf } from "../shape.js";
import type { Pass } from "./pass.js";
import { type Rule, type Rules, rewrite } from "./rewrite.js";
import { readValues, roundTo, writeValues } from "./scalar.js";
import { type ScalarOp, scalarOps } from "./scalar_ops.js";

/** Results of more elements than this are not made into constants; a repeated value may have any shape. */
const MAX_ELEMENTS = 16;

/** The value every element of `node` has, where it is written out as such; null otherwise. */
export function uniformValue(node: Node): number | null {
  if (node.op.name !== "full") return null;
  const value = node.attrs.value as number;
  return roundTo(node.dtype, value);
}

const repeat = (value: number, node: Node): Node => full([], { value, shape: node.shape, dtype: node.dtype });

/** Every element, row-major, where they are known and few. */
function knownValues(node: Node): readonly number[] | null {
  const size = sizeOf(node.shape);
  if (size > MAX_ELEMENTS) return null;
  const value = uniformValue(node);
  if (value !== null) return new Array<number>(size).fill(value);
  if (node.op.name === "constant") return readValues(node.dtype, node.attrs.data as Uint8Array);
  if (node.op.name !== "iota") return null;
  const inner = sizeOf(node.shape.slice((node.attrs.dim as number) + 1));
  const length = node.shape[node.attrs.dim as number];
  return Array.from({ length: size }, (_, i) => Math.floor(i / inner) % length);
}

/** `values` as a node of `like`'s type: rounded; null where the dtype cannot hold one. */
function written(values: readonly number[], like: Node): Node | null {
  const rounded: number[] = [];
  for (const value of values) {
    const held = roundTo(like.dtype, value);
    if (held === null) return null;
    rounded.push(held);
  }
  if (rounded.length > 0 && rounded.every((value) => Object.is(value, rounded[0])))
    return repeat(rounded[0], like);
  return constant([], { shape: like.shape, dtype: like.dtype, data: writeValues(like.dtype, rounded) });
}

/** Element numbers of an operand of `shape` for each element of `out`, to which it broadcasts. */
function broadcastIndices(shape: Shape, out: Shape): number[] {
  let indices = [0];
  let stride = sizeOf(shape);
  for (let dim = 0; dim < out.length; dim++) {
    const own = dim - (out.length - shape.length);
    const size = own < 0 ? 1 : shape[own];
    stride /= size;
    const steps = Array.from({ length: out[dim] }, (_, i) => (size === 1 ? 0 : i * stride));
    indices = indices.flatMap((base) => steps.map((step) => base + step));
  }
  return indices;
}

const foldElementwise =
  (evaluate: ScalarOp): Rule =>
  (node, inputs) => {
    const dtype = inputs[inputs.length - 1].dtype;
    const uniform = inputs.map(uniformValue);
    if (uniform.every((value) => value !== null)) {
      const value = roundTo(node.dtype, evaluate(dtype, ...uniform));
      return value === null ? null : repeat(value, node);
    }
    if (sizeOf(node.shape) > MAX_ELEMENTS) return null;
    const operands = inputs.map(knownValues);
    if (!operands.every((values) => values !== null)) return null;
    const indices = inputs.map((input) => broadcastIndices(input.shape, node.shape));
    const values = indices[0].map((_, i) =>
      evaluate(dtype, ...operands.map((operand, k) => operand[indices[k][i]])),
    );
    return written(values, node);
  };

const inRange = (dtype: DType, value: number): boolean =>
  dtype === "int32" ? value === (value | 0) : dtype === "uint8" ? value >= 0 && value <= 255 : true;

/** What a float out of an integer dtype's range becomes is the device's choice: left to it. */
const foldCast: Rule = (node, [x]) => {
  const fits = (value: number): boolean => !isFloat(x.dtype) || inRange(node.dtype, Math.trunc(value));
  const convert = (value: number): number =>
    isFloat(x.dtype) && !isFloat(node.dtype) && node.dtype !== "bool" ? Math.trunc(value) : value;
  const uniform = uniformValue(x);
  if (uniform !== null) {
    const value = fits(uniform) ? roundTo(node.dtype, convert(uniform)) : null;
    return value === null ? null : repeat(value, node);
  }
  const values = knownValues(x);
  return values?.every(fits) ? written(values.map(convert), node) : null;
};

/** Moving or repeating equal elements changes nothing. */
const foldView: Rule = (node, inputs) => {
  const value = uniformValue(inputs[0]);
  if (value === null) return null;
  return inputs.every((input) => Object.is(uniformValue(input), value)) ? repeat(value, node) : null;
};

const foldReshape: Rule = (node, inputs) => {
  const [x] = inputs;
  if (x.op.name !== "constant") return foldView(node, inputs, node);
  return constant([], { shape: node.shape, dtype: node.dtype, data: x.attrs.data as Uint8Array });
};

const foldPad: Rule = (node, inputs) => {
  const value = uniformValue(inputs[0]);
  const padding = roundTo(node.dtype, node.attrs.value as number);
  return value !== null && Object.is(value, padding) ? repeat(value, node) : null;
};

/** A reduction of equal elements, given their count. */
const foldReduction =
  (reduce: (value: number, count: number) => number): Rule =>
  (node, [x]) => {
    const value = uniformValue(x);
    const count = sizeOf(x.shape) / sizeOf(node.shape);
    if (value === null || !(count > 0)) return null;
    const reduced = reduce(value, count);
    // A sum that rounds depends on the order of its terms, which is the device's.
    return Object.is(roundTo(node.dtype, reduced), reduced) ? repeat(reduced, node) : null;
  };

const foldConstant: Rule = (node) => {
  const values = knownValues(node);
  if (!values || values.length === 0) return null;
  return values.every((value) => Object.is(value, values[0])) ? repeat(values[0], node) : null;
};

const foldIota: Rule = (node) => (node.shape[node.attrs.dim as number] === 1 ? repeat(0, node) : null);

export const foldRules: Rules = {
  ...Object.fromEntries(
    Object.entries(scalarOps).map(([name, evaluate]) => [name, foldElementwise(evaluate)]),
  ),
  cast: foldCast,
  reshape: foldReshape,
  transpose: foldView,
  broadcast_to: foldView,
  slice: foldView,
  flip: foldView,
  concat: foldView,
  pad: foldPad,
  max: foldReduction((value) => value),
  min: foldReduction((value) => value),
  sum: foldReduction((value, count) => value * count),
  constant: foldConstant,
  iota: foldIota,
};

/** Computes what is known when the graph is recorded: arithmetic on repeated values and on small constants. */
export const foldConstants: Pass = function foldConstants(graph: Graph): Graph {
  return rewrite(graph, foldRules);
};
