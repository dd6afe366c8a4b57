import { DTypeError, ShapeError, ValueError } from "../errors.js";
import type { Node } from "../node.js";
import { type AttrsOf, defineOp, type ShardingRule } from "../opdef.js";
import { formatShape, formatType, type TensorType } from "../shape.js";
import * as f from "./build.js";
import { sourceSharding } from "./factors.js";
import { checkDType, checkShapeAttr, type Takes } from "./rules.js";

/*
 * Counter-based: an element's number depends on the key, the stream and its index only. A step gives every draw a stream
 * of its own, and every step a key of its own; the key is data, so new numbers never recompile.
 *
 * The index is row-major in `whole`, of which `shape` may be a part: `first`, an optional second operand, is the index of
 * the part's first element (0 where not given). So a device of a mesh draws its part alone, and the same numbers.
 */

const drawAttrs = { stream: "int", shape: "ints", whole: "ints", dtype: "dtype" } as const;

function drawType(
  op: string,
  takes: Takes,
  [key, first]: readonly Node[],
  attrs: AttrsOf<typeof drawAttrs>,
): TensorType {
  if (key.dtype !== "int64")
    throw new DTypeError(op, `the key must be int64[2], got ${formatType(key.type)}`);
  if (key.shape.length !== 1 || key.shape[0] !== 2) {
    throw new ShapeError(op, `the key must be int64[2], got ${formatType(key.type)}`);
  }
  if (!Number.isSafeInteger(attrs.stream) || attrs.stream < 0) {
    throw new ValueError(op, `stream must be an integer of at least 0, got ${attrs.stream}`);
  }
  if (first && (first.dtype !== "int64" || first.shape.length > 0))
    throw new ShapeError(op, `the first element's index must be int64[], got ${formatType(first.type)}`);
  checkShapeAttr(op, attrs.shape);
  checkShapeAttr(op, attrs.whole);
  const { shape, whole } = attrs;
  if (shape.length !== whole.length || shape.some((size, dim) => size > whole[dim]))
    throw new ShapeError(op, `${formatShape(shape)} is no part of ${formatShape(whole)}`);
  checkDType(op, takes, attrs.dtype, "the result asked for");
  return { dtype: attrs.dtype, shape: attrs.shape };
}

const drawSharding = (inputs: readonly Node[], { shape }: AttrsOf<typeof drawAttrs>): ShardingRule =>
  sourceSharding(
    inputs.map((x) => x.shape.length),
    shape,
  );

/** Uniform on [0, 1), from 24 random bits. */
export const random_uniform = defineOp({
  name: "random_uniform",
  attrs: drawAttrs,
  arity: [1, 2],
  lower: "source",
  unique: true,
  type: (inputs, attrs) => drawType("random_uniform", "float", inputs, attrs),
  sharding: drawSharding,
});

/** Standard normal (Box-Muller). */
export const random_normal = defineOp({
  name: "random_normal",
  attrs: drawAttrs,
  arity: [1, 2],
  lower: "source",
  unique: true,
  type: (inputs, attrs) => drawType("random_normal", "float", inputs, attrs),
  sharding: drawSharding,
});

/** 1 (or true) with probability `p`, else 0. */
export const bernoulli = defineOp({
  name: "bernoulli",
  attrs: { p: "float", ...drawAttrs },
  arity: [1, 2],
  lower: "composite",
  unique: true,
  differentiable: false,
  type: (inputs, attrs) => {
    if (!(attrs.p >= 0 && attrs.p <= 1))
      throw new ValueError("bernoulli", `p must be in [0, 1], got ${attrs.p}`);
    return drawType("bernoulli", "any", inputs, attrs);
  },
  decompose: (inputs, { p, dtype, ...draw }) => {
    const uniform = random_uniform(inputs, { ...draw, dtype: "float32" });
    return [f.cast(f.lt(uniform, p), dtype)];
  },
  sharding: drawSharding,
});
