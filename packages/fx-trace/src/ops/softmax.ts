import type { Node } from "../node.js";
import { defineOp } from "../opdef.js";
import type { TensorType } from "../shape.js";
import * as f from "./build.js";
import { alongDims } from "./factors.js";
import { expectRows, expectType, maxLast, sumLast } from "./fused.js";

const rowType = (op: string, x: Node): TensorType => {
  expectRows(op, "x", x);
  return x.type;
};

const gradType = (op: string, y: Node, g: Node): TensorType => {
  expectRows(op, "y", y);
  expectType(op, "g", g, y.dtype, y.shape, "as y");
  return y.type;
};

/** x less its row's largest value, so that exp never overflows. */
const shifted = (x: Node): Node => f.sub(x, maxLast(x));

/** Rows may be split, but not a row. */
const rowsRule = (inputs: readonly Node[]) => {
  const rank = inputs[0].shape.length;
  return alongDims(inputs.length, 1, rank, [rank - 1]);
};

/** exp(x) / sum(exp(x)) over the last dim. As torch.softmax(x, -1). */
export const softmax = defineOp({
  name: "softmax",
  attrs: {},
  arity: 1,
  lower: "kernel",
  type: ([x]) => rowType("softmax", x),
  vjp: ({ out, grad }) => [softmax_grad([out, grad])],
  decompose: ([x]) => {
    const e = f.exp(shifted(f.castUp(x)));
    return [f.cast(f.div(e, sumLast(e)), x.dtype)];
  },
  sharding: rowsRule,
});

/** x - log(sum(exp(x))) over the last dim. As torch.log_softmax(x, -1). */
export const log_softmax = defineOp({
  name: "log_softmax",
  attrs: {},
  arity: 1,
  lower: "kernel",
  type: ([x]) => rowType("log_softmax", x),
  vjp: ({ out, grad }) => [log_softmax_grad([out, grad])],
  decompose: ([x]) => {
    const s = shifted(f.castUp(x));
    return [f.cast(f.sub(s, f.log(sumLast(f.exp(s)))), x.dtype)];
  },
  sharding: rowsRule,
});

/** y = softmax(x) and its cotangent g → y (g - sum(y g)), the cotangent of x. */
export const softmax_grad = defineOp({
  name: "softmax_grad",
  attrs: {},
  arity: 2,
  lower: "kernel",
  type: ([y, g]) => gradType("softmax_grad", y, g),
  decompose: ([y, g]) => {
    const [yc, gc] = [f.castUp(y), f.castUp(g)];
    return [f.cast(f.mul(yc, f.sub(gc, sumLast(f.mul(yc, gc)))), y.dtype)];
  },
  sharding: rowsRule,
});

/** y = log_softmax(x) and its cotangent g → g - exp(y) sum(g), the cotangent of x. */
export const log_softmax_grad = defineOp({
  name: "log_softmax_grad",
  attrs: {},
  arity: 2,
  lower: "kernel",
  type: ([y, g]) => gradType("log_softmax_grad", y, g),
  decompose: ([y, g]) => {
    const gc = f.castUp(g);
    return [f.cast(f.sub(gc, f.mul(f.exp(f.castUp(y)), sumLast(gc))), y.dtype)];
  },
  sharding: rowsRule,
});
