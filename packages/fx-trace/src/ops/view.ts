import { ShapeError, ValueError } from "../errors.js";
import { defineOp } from "../opdef.js";
import { broadcastPair, formatShape, type Shape, sameShape, sizeOf } from "../shape.js";
import * as f from "./build.js";
import { alongDims, broadcastFactors, dimFactors, reshapeSharding, ruleOf, WHOLE } from "./factors.js";
import { checkDim, checkDims, checkPerDim, checkSameDType, checkShapeAttr } from "./rules.js";

/** The same elements in row-major order. */
export const reshape = defineOp({
  name: "reshape",
  attrs: { shape: "ints" },
  arity: 1,
  lower: "view",
  type: ([x], { shape }) => {
    checkShapeAttr("reshape", shape);
    if (sizeOf(shape) !== sizeOf(x.shape)) {
      throw new ShapeError(
        "reshape",
        `${formatShape(x.shape)} has ${sizeOf(x.shape)} elements, ${formatShape(shape)} has ${sizeOf(shape)}`,
      );
    }
    return { dtype: x.dtype, shape };
  },
  vjp: ({ inputs: [x], grad }) => [f.reshape(grad, x.shape)],
  sharding: ([x], { shape }) => reshapeSharding(x.shape, shape),
});

/** Dim i of the result is dim perm[i] of x. */
export const transpose = defineOp({
  name: "transpose",
  attrs: { perm: "ints" },
  arity: 1,
  lower: "view",
  type: ([x], { perm }) => {
    const rank = x.shape.length;
    if (perm.length !== rank) {
      throw new ShapeError(
        "transpose",
        `perm ${formatShape(perm)} does not permute the dims of ${formatShape(x.shape)}`,
      );
    }
    checkDims("transpose", perm, rank, false);
    const shape = new Array<number>(rank);
    for (let i = 0; i < rank; i++) shape[i] = x.shape[perm[i]];
    return { dtype: x.dtype, shape };
  },
  vjp: ({ grad, attrs }) => [f.transpose(grad, f.inversePerm(attrs.perm))],
  sharding: ([x], { perm }) => {
    const factors = dimFactors(x.shape.length);
    return ruleOf([factors], [perm.map((dim) => factors[dim])]);
  },
});

/** x repeated along new leading dims and dims of size 1. NumPy's rules. */
export const broadcast_to = defineOp({
  name: "broadcast_to",
  attrs: { shape: "ints" },
  arity: 1,
  lower: "view",
  type: ([x], { shape }) => {
    checkShapeAttr("broadcast_to", shape);
    const met = broadcastPair(x.shape, shape);
    if (!met || !sameShape(met, shape)) {
      throw new ShapeError(
        "broadcast_to",
        `${formatShape(x.shape)} does not broadcast to ${formatShape(shape)}`,
      );
    }
    return { dtype: x.dtype, shape };
  },
  vjp: ({ inputs: [x], grad }) => [f.sumTo(grad, x.shape)],
  sharding: ([x], { shape }) => ruleOf([broadcastFactors(x.shape, shape)], [dimFactors(shape.length)]),
});

/** Number of elements that `from, from + step, ...` has below `limit`. */
const stepCount = (from: number, limit: number, step: number): number => Math.ceil((limit - from) / step);

/** Along each dim the elements start, start + step, ... below limit. */
export const slice = defineOp({
  name: "slice",
  attrs: { starts: "ints", limits: "ints", steps: "ints" },
  arity: 1,
  lower: "view",
  type: ([x], { starts, limits, steps }) => {
    checkPerDim("slice", "starts", starts, x.shape, 0);
    checkPerDim("slice", "limits", limits, x.shape, 0);
    checkPerDim("slice", "steps", steps, x.shape, 1);
    const shape = new Array<number>(starts.length);
    for (let i = 0; i < starts.length; i++) {
      if (starts[i] > limits[i] || limits[i] > x.shape[i]) {
        throw new ShapeError(
          "slice",
          `${starts[i]}..${limits[i]} is out of range for dim ${i} of ${formatShape(x.shape)}`,
        );
      }
      shape[i] = stepCount(starts[i], limits[i], steps[i]);
    }
    return { dtype: x.dtype, shape };
  },
  vjp: ({ inputs: [x], out, grad, attrs: { starts, steps } }) => {
    if (sizeOf(out.shape) === 0) return [f.zerosLike(x)];
    const high = x.shape.map((size, i) => size - starts[i] - (out.shape[i] - 1) * steps[i] - 1);
    return [
      f.pad(
        grad,
        starts,
        high,
        steps.map((step) => step - 1),
        0,
      ),
    ];
  },
  sharding: ([x], { starts, limits, steps }) => {
    const factors = x.shape.map((size, i) =>
      starts[i] === 0 && limits[i] === size && steps[i] === 1 ? `d${i}` : WHOLE,
    );
    return ruleOf([factors], [factors]);
  },
});

/** Reversed along `dims`. */
export const flip = defineOp({
  name: "flip",
  attrs: { dims: "ints" },
  arity: 1,
  lower: "view",
  type: ([x], { dims }) => {
    checkDims("flip", dims, x.shape.length, false);
    return x.types;
  },
  vjp: ({ grad, attrs: { dims } }) => [f.flip(grad, dims)],
  sharding: ([x], { dims }) => alongDims(1, 1, x.shape.length, dims),
});

/** Size of a padded dim: `interior` elements between neighbours. */
const paddedSize = (size: number, low: number, high: number, interior: number): number =>
  low + size + Math.max(size - 1, 0) * interior + high;

/** `value` before (low), after (high) and between (interior) the elements of each dim. */
export const pad = defineOp({
  name: "pad",
  attrs: { low: "ints", high: "ints", interior: "ints", value: "float" },
  arity: 1,
  lower: "view",
  type: ([x], { low, high, interior }) => {
    checkPerDim("pad", "low", low, x.shape, 0);
    checkPerDim("pad", "high", high, x.shape, 0);
    checkPerDim("pad", "interior", interior, x.shape, 0);
    return {
      dtype: x.dtype,
      shape: x.shape.map((size, i) => paddedSize(size, low[i], high[i], interior[i])),
    };
  },
  vjp: ({ grad, attrs: { low, high, interior } }) => {
    const limits = grad.shape.map((size, i) => size - high[i]);
    return [
      f.slice(
        grad,
        low,
        limits,
        interior.map((count) => count + 1),
      ),
    ];
  },
  sharding: ([x], { low, high, interior }) => {
    const factors = x.shape.map((_, i) => (low[i] + high[i] + interior[i] === 0 ? `d${i}` : WHOLE));
    return ruleOf([factors], [factors]);
  },
});

function joinedShape(shapes: readonly Shape[], dim: number): Shape {
  const first = shapes[0];
  const out = [...first];
  for (let k = 1; k < shapes.length; k++) {
    const shape = shapes[k];
    let fits = shape.length === first.length;
    for (let i = 0; fits && i < first.length; i++) fits = i === dim || shape[i] === first[i];
    if (!fits) {
      throw new ShapeError(
        "concat",
        `shapes must agree but for dim ${dim}: ${formatShape(first)} and ${formatShape(shape)}`,
      );
    }
    out[dim] += shape[dim];
  }
  return out;
}

/** One after the other along `dim`. */
export const concat = defineOp({
  name: "concat",
  attrs: { dim: "int" },
  arity: [1, Number.POSITIVE_INFINITY],
  lower: "view",
  type: (inputs, { dim }) => {
    if (inputs.length === 0) throw new ValueError("concat", "takes 1 input or more, got 0");
    checkDim("concat", dim, inputs[0].shape.length);
    for (let i = 1; i < inputs.length; i++) checkSameDType("concat", inputs[0], inputs[i]);
    return {
      dtype: inputs[0].dtype,
      shape: joinedShape(
        inputs.map((x) => x.shape),
        dim,
      ),
    };
  },
  vjp: ({ inputs, grad, attrs: { dim }, needs }) => {
    let at = 0;
    return inputs.map((x, i) => {
      const from = at;
      at += x.shape[dim];
      return needs[i] ? f.sliceDim(grad, dim, from, at) : null;
    });
  },
  sharding: (inputs, { dim }) => {
    const factors = dimFactors(inputs[0].shape.length);
    factors[dim] = WHOLE;
    return ruleOf(new Array<string[]>(inputs.length).fill(factors), [factors]);
  },
});
