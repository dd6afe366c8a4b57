import { type DType, dtypes } from "../dtype.js";
import { defineOp } from "../opdef.js";
import type { TensorType } from "../shape.js";
import { sourceSharding } from "./factors.js";
import { checkDim, checkDType, checkShapeAttr } from "./rules.js";

/** Scalars are many: those of one dtype share their type. */
const scalarTypes = Object.fromEntries(
  dtypes.map((dtype): [DType, readonly TensorType[]] => [dtype, [{ dtype, shape: [] }]]),
) as Record<DType, readonly TensorType[]>;

/** `value` in every element, rounded to the dtype. */
export const full = defineOp({
  name: "full",
  attrs: { value: "float", shape: "ints", dtype: "dtype" },
  arity: 0,
  lower: "source",
  type: (_, { shape, dtype }) => {
    if (shape.length === 0) return scalarTypes[dtype];
    checkShapeAttr("full", shape);
    return { dtype, shape };
  },
  sharding: (_, { shape }) => sourceSharding([], shape),
});

/** Each element's index along `dim`. */
export const iota = defineOp({
  name: "iota",
  attrs: { dim: "int", shape: "ints", dtype: "dtype" },
  arity: 0,
  lower: "source",
  type: (_, { dim, shape, dtype }) => {
    checkShapeAttr("iota", shape);
    checkDim("iota", dim, shape.length);
    checkDType("iota", "numeric", dtype, "the result asked for");
    return { dtype, shape };
  },
  sharding: (_, { shape }) => sourceSharding([], shape),
});
