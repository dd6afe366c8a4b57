import { DTypeError, ShapeError } from "../errors.js";
import type { Node } from "../node.js";
import { defineOp } from "../opdef.js";
import { formatShape, formatType, type TensorType } from "../shape.js";
import * as f from "./build.js";
import {
  type CrossEntropyAttrs,
  checkLoss,
  cross_entropy,
  cross_entropy_grad,
  lossAttrs,
  softmaxOf,
} from "./cross_entropy.js";
import { dimFactors, ruleOf } from "./factors.js";
import { expectRows, expectType } from "./fused.js";

// x is [..., K], rows of K features; weight [V, K], a row for each class. The logits x · weightᵀ [..., V] are an
// intermediate that a kernel need not hold whole: they are computed, used and differentiated some rows at a time.

const gradAttrs = { ...lossAttrs, need_x: "bool", need_weight: "bool" } as const;

/** Checks and gives the type of one float32 by row. */
function check(op: string, x: Node, weight: Node, target: Node, attrs: CrossEntropyAttrs): TensorType {
  expectRows(op, "x", x);
  if (weight.dtype !== x.dtype)
    throw new DTypeError(
      op,
      `x and weight differ in dtype: ${formatType(x.type)}, ${formatType(weight.type)}`,
    );
  const features = x.shape[x.shape.length - 1];
  if (weight.shape.length !== 2 || weight.shape[1] !== features) {
    throw new ShapeError(
      op,
      `weight must be [V, ${features}], as x is ${formatShape(x.shape)}, but is ${formatShape(weight.shape)}`,
    );
  }
  const shape = x.shape.slice(0, -1);
  if (weight.shape[0] === 0 && !shape.includes(0))
    throw new ShapeError(op, `weight has no classes: ${formatShape(weight.shape)}`);
  checkLoss(op, target, shape, `x is ${formatShape(x.shape)}`, attrs);
  return { dtype: "float32", shape };
}

/** x [..., K] · weight [V, K]ᵀ → [..., V] */
const logitsOf = (x: Node, weight: Node): Node =>
  f.dotGeneral(f.castUp(x), f.castUp(weight), [x.shape.length - 1], [1]);

/** The cotangents of x and weight that those of the logits give; null where not needed. */
function backward(
  dlogits: Node,
  x: Node,
  weight: Node,
  needX: boolean,
  needWeight: boolean,
): [Node | null, Node | null] {
  const last = x.shape.length - 1;
  const rows = x.shape.slice(0, -1).map((_, dim) => dim);
  return [
    needX ? f.cast(f.dotGeneral(dlogits, f.castUp(weight), [last], [0]), x.dtype) : null,
    needWeight ? f.cast(f.dotGeneral(dlogits, f.castUp(x), rows, rows), x.dtype) : null,
  ];
}

const factorsOf = (x: Node): { rows: string[]; x: string[]; weight: string[] } => {
  const rows = dimFactors(x.shape.length - 1);
  return { rows, x: [...rows, "k"], weight: ["v", "k"] };
};

/**
 * cross_entropy of the logits x [..., K] · weight [V, K]ᵀ at target [...]: the loss by row, and lse, both float32. Beside
 * half types the logits are float32.
 */
export const linear_cross_entropy = defineOp({
  name: "linear_cross_entropy",
  attrs: lossAttrs,
  arity: 3,
  results: 2,
  lower: "kernel",
  type: ([x, weight, target], attrs) => {
    const row = check("linear_cross_entropy", x, weight, target, attrs);
    return [row, row];
  },
  vjp: ({ inputs: [x, weight, target], out, grads: [dloss, dlse], attrs, needs }) => {
    const [need_x, need_weight] = needs;
    let dx: Node | null = null;
    let dweight: Node | null = null;
    if (dloss) {
      const wanted = { ...attrs, need_x, need_weight };
      const both = linear_cross_entropy_grad([x, weight, target, dloss], wanted);
      dx = need_x ? f.resultOf(both, 2) : null;
      dweight = need_weight ? f.resultOf(both, 3) : null;
    }
    if (dlse) {
      // lse's own derivative is softmax(logits).
      const p = softmaxOf(logitsOf(x, weight), f.resultOf(out, 1));
      const weighed = f.mul(p, f.cast(f.unsqueeze(dlse, -1), p.dtype));
      const [moreX, moreWeight] = backward(weighed, x, weight, need_x, need_weight);
      dx = dx && moreX ? f.add(dx, moreX) : (moreX ?? dx);
      dweight = dweight && moreWeight ? f.add(dweight, moreWeight) : (moreWeight ?? dweight);
    }
    return [dx, dweight, null];
  },
  decompose: ([x, weight, target], attrs) => f.resultsOf(cross_entropy([logitsOf(x, weight), target], attrs)),
  sharding: ([x]) => {
    const { rows, ...factors } = factorsOf(x);
    return ruleOf([factors.x, factors.weight, rows], [rows, rows], { replicate: ["v", "k"] });
  },
});

/**
 * x, weight, target of linear_cross_entropy, and the cotangent g [...] of its loss → its results, loss and lse, and the
 * cotangents of x and weight: all from logits computed once. One that is not needed is empty, [0].
 */
export const linear_cross_entropy_grad = defineOp({
  name: "linear_cross_entropy_grad",
  attrs: gradAttrs,
  arity: 4,
  results: 4,
  lower: "kernel",
  type: ([x, weight, target, g], attrs) => {
    const op = "linear_cross_entropy_grad";
    const row = check(op, x, weight, target, attrs);
    expectType(op, "g", g, "float32", row.shape, "as the loss");
    const none = { dtype: x.dtype, shape: [0] };
    return [row, row, attrs.need_x ? x.type : none, attrs.need_weight ? weight.type : none];
  },
  decompose: ([x, weight, target, g], { need_x, need_weight, ...attrs }) => {
    const logits = logitsOf(x, weight);
    const [loss, lse] = f.resultsOf(cross_entropy([logits, target], attrs));
    const none = f.full(0, [0], x.dtype);
    if (!need_x && !need_weight) return [loss, lse, none, none];
    const dlogits = cross_entropy_grad([logits, target, lse, g], attrs);
    const [dx, dweight] = backward(dlogits, x, weight, need_x, need_weight);
    return [loss, lse, dx ?? none, dweight ?? none];
  },
  sharding: ([x], { need_x, need_weight }) => {
    const { rows, ...factors } = factorsOf(x);
    const none = ["_"];
    return ruleOf(
      [factors.x, factors.weight, rows, rows],
      [rows, rows, need_x ? factors.x : none, need_weight ? factors.weight : none],
      { reduce: need_weight ? rows : [], replicate: ["v", "k"] },
    );
  },
});
