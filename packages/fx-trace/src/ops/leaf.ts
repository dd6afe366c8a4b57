import { type DType, dtypeInfo } from "../dtype.js";
import { ShapeError, ValueError } from "../errors.js";
import { defineOp } from "../opdef.js";
import { formatShape, type Shape, sizeOf } from "../shape.js";
import { elementwiseSharding, sourceSharding } from "./factors.js";
import { checkShapeAttr } from "./rules.js";

/** The value of program input `index`. */
export const input = defineOp({
  name: "input",
  attrs: { index: "int", shape: "ints", dtype: "dtype" },
  arity: 0,
  lower: "leaf",
  differentiable: false,
  type: (_, { shape, dtype }) => {
    checkShapeAttr("input", shape);
    return { dtype, shape };
  },
  sharding: (_, { shape }) => sourceSharding([], shape),
});

function checkData(shape: Shape, dtype: DType, data: Uint8Array): void {
  checkShapeAttr("constant", shape);
  const sizeBytes = sizeOf(shape) * dtypeInfo[dtype].sizeBytes;
  if (data.length !== sizeBytes) {
    throw new ShapeError(
      "constant",
      `${dtype}${formatShape(shape)} takes ${sizeBytes} bytes, got ${data.length}`,
    );
  }
}

/** A value known when the graph is recorded: little-endian, row-major. It is part of the key. */
export const constant = defineOp({
  name: "constant",
  attrs: { shape: "ints", dtype: "dtype", data: "bytes" },
  arity: 0,
  lower: "leaf",
  differentiable: false,
  type: (_, { shape, dtype, data }) => {
    checkData(shape, dtype, data);
    return { dtype, shape };
  },
  sharding: (_, { shape }) => sourceSharding([], shape),
});

/** Result `index` of an op of several results. `gradients` routes its cotangent to that op. */
export const result = defineOp({
  name: "result",
  attrs: { index: "int" },
  arity: 1,
  lower: "leaf",
  differentiable: true,
  type: ([x], { index }) => {
    if (!Number.isInteger(index) || index < 0 || index >= x.types.length) {
      throw new ValueError(
        "result",
        `${x.op.name} has ${x.types.length} results, but result ${index} is asked for`,
      );
    }
    return x.types[index];
  },
});

/**
 * x, and nothing else may be known of it: never merged or folded, so that what is computed from it is computed again. What a
 * checkpoint's recomputation reads. As XLA's optimization_barrier.
 */
export const barrier = defineOp({
  name: "barrier",
  attrs: {},
  arity: 1,
  lower: "kernel",
  unique: true,
  type: ([x]) => x.types,
  vjp: ({ grad }) => [grad],
  sharding: elementwiseSharding,
});

/** The value of x; no gradient passes. */
export const detach = defineOp({
  name: "detach",
  attrs: {},
  arity: 1,
  lower: "leaf",
  differentiable: false,
  type: ([x]) => x.types,
  sharding: elementwiseSharding,
});
