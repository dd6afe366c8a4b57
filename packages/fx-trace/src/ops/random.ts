import { DTypeError, ShapeError, ValueError } from "../errors.js";
import type { Node } from "../node.js";
import { type AttrsOf, defineOp } from "../opdef.js";
import { formatType, type TensorType } from "../shape.js";
import * as f from "./build.js";
import { sourceSharding } from "./factors.js";
import { checkDType, checkShapeAttr, type Takes } from "./rules.js";

/*
 * Counter-based: an element's number depends on the key, the stream and its index only. A step gives every draw a stream
 * of its own, and every step a key of its own; the key is data, so new numbers never recompile.
 */

const drawAttrs = { stream: "int", shape: "ints", dtype: "dtype" } as const;

function drawType(op: string, takes: Takes, key: Node, attrs: AttrsOf<typeof drawAttrs>): TensorType {
  if (key.dtype !== "int64")
    throw new DTypeError(op, `the key must be int64[2], got ${formatType(key.type)}`);
  if (key.shape.length !== 1 || key.shape[0] !== 2) {
    throw new ShapeError(op, `the key must be int64[2], got ${formatType(key.type)}`);
  }
  if (!Number.isSafeInteger(attrs.stream) || attrs.stream < 0) {
    throw new ValueError(op, `stream must be an integer of at least 0, got ${attrs.stream}`);
  }
  checkShapeAttr(op, attrs.shape);
  checkDType(op, takes, attrs.dtype, "the result asked for");
  return { dtype: attrs.dtype, shape: attrs.shape };
}

/** Uniform on [0, 1), from 24 random bits. */
export const random_uniform = defineOp({
  name: "random_uniform",
  attrs: drawAttrs,
  arity: 1,
  lower: "source",
  unique: true,
  type: ([key], attrs) => drawType("random_uniform", "float", key, attrs),
  sharding: (_, { shape }) => sourceSharding([1], shape),
});

/** Standard normal (Box-Muller). */
export const random_normal = defineOp({
  name: "random_normal",
  attrs: drawAttrs,
  arity: 1,
  lower: "source",
  unique: true,
  type: ([key], attrs) => drawType("random_normal", "float", key, attrs),
  sharding: (_, { shape }) => sourceSharding([1], shape),
});

/** 1 (or true) with probability `p`, else 0. */
export const bernoulli = defineOp({
  name: "bernoulli",
  attrs: { p: "float", ...drawAttrs },
  arity: 1,
  lower: "composite",
  unique: true,
  differentiable: false,
  type: ([key], attrs) => {
    if (!(attrs.p >= 0 && attrs.p <= 1))
      throw new ValueError("bernoulli", `p must be in [0, 1], got ${attrs.p}`);
    return drawType("bernoulli", "any", key, attrs);
  },
  decompose: ([key], { p, stream, shape, dtype }) => {
    const uniform = f.randomUniform(key, stream, shape, "float32");
    return [f.cast(f.lt(uniform, p), dtype)];
  },
  sharding: (_, { shape }) => sourceSharding([1], shape),
});
