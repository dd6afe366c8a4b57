import { DTypeError } from "../errors.js";
import { defineOp } from "../opdef.js";
import { broadcastShapes, formatType } from "../shape.js";
import * as f from "./build.js";
import { elementwiseSharding } from "./factors.js";
import { checkSameDType } from "./rules.js";

/** a where cond holds, else b. All three broadcast. */
export const where = defineOp({
  name: "where",
  attrs: {},
  arity: 3,
  lower: "elementwise",
  type: ([cond, a, b]) => {
    if (cond.dtype !== "bool")
      throw new DTypeError("where", `the condition must be bool, got ${formatType(cond.type)}`);
    checkSameDType("where", a, b);
    const shape = broadcastShapes("where", cond.shape, broadcastShapes("where", a.shape, b.shape));
    return { dtype: a.dtype, shape };
  },
  vjp: ({ inputs: [cond, a, b], grad, needs }) => [
    null,
    needs[1] ? f.sumTo(f.where(cond, grad, 0), a.shape) : null,
    needs[2] ? f.sumTo(f.where(cond, 0, grad), b.shape) : null,
  ],
  sharding: elementwiseSharding,
});
