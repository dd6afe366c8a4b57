import { DTypeError } from "../errors.js";
import type { Node } from "../node.js";
import { defineOp, type ShardingRule } from "../opdef.js";
import { formatType, type TensorType } from "../shape.js";
import * as f from "./build.js";
import { dimFactors, ruleOf } from "./factors.js";
import {
  expectOrFloat32,
  expectRows,
  expectShape,
  expectType,
  lastDim,
  meanLast,
  neededResults,
  sumToLast,
} from "./fused.js";

/** Rows x, and a weight of one row's shape: parameters may stay float32 beside half activations. */
function checkRows(op: string, x: Node, name: string, w: Node): void {
  expectRows(op, "x", x);
  expectOrFloat32(op, name, w, x.dtype, "x");
  expectShape(op, name, w, [lastDim(x.shape)], "the last dim of x");
}

function gradTypes(op: string, [x, w, g]: readonly Node[], weights: number): readonly TensorType[] {
  checkRows(op, x, "w", w);
  expectType(op, "g", g, x.dtype, x.shape, "as x");
  return [x.type, ...new Array<TensorType>(weights).fill(w.type)];
}

/** Rows may be split, but not a row. Weights' cotangents sum over rows: split rows give partial sums of them. */
function rowsRule(inputs: readonly Node[], weightGrads: number): ShardingRule {
  const rank = inputs[0].shape.length;
  const rows = dimFactors(rank);
  const row = rows.slice(-1);
  const operands = inputs.map((x, i) => (i === 0 || x.shape.length === rank ? rows : row));
  const results = [rows, ...new Array<string[]>(weightGrads).fill(row)];
  const reduce = weightGrads > 0 ? { reduce: rows.slice(0, -1) } : {};
  return ruleOf(operands, results, { replicate: row, ...reduce });
}

/** x / rms(x), and 1 / rms(x) by row. */
function scaleRows(x: Node, eps: number): { h: Node; inverse: Node } {
  const inverse = f.rsqrt(f.add(meanLast(f.square(x)), eps));
  return { h: f.mul(x, inverse), inverse };
}

/** (x - mean(x)) / std(x), and 1 / std(x) by row, of the biased variance. */
const normalizeRows = (x: Node, eps: number): { h: Node; inverse: Node } =>
  scaleRows(f.sub(x, meanLast(x)), eps);

/** x * rsqrt(mean(x²) + eps) * w over the last dim. As torch.nn.functional.rms_norm. */
export const rms_norm = defineOp({
  name: "rms_norm",
  attrs: { eps: "float" },
  arity: 2,
  lower: "kernel",
  type: ([x, w]) => {
    checkRows("rms_norm", x, "w", w);
    return x.type;
  },
  vjp: ({ inputs: [x, w], grad, attrs, needs }) => neededResults(rms_norm_grad([x, w, grad], attrs), needs),
  decompose: ([x, w], { eps }) => {
    const { h } = scaleRows(f.castUp(x), eps);
    return [f.cast(f.mul(h, f.castUp(w)), x.dtype)];
  },
  sharding: (inputs) => rowsRule(inputs, 0),
});

/** x, w and the cotangent g of rms_norm(x, w) → the cotangents of x and w. */
export const rms_norm_grad = defineOp({
  name: "rms_norm_grad",
  attrs: { eps: "float" },
  arity: 3,
  results: 2,
  lower: "kernel",
  type: (inputs) => gradTypes("rms_norm_grad", inputs, 1),
  // With h = x / rms: dx = (g w - h mean(g w h)) / rms, dw = sum over rows of g h.
  decompose: ([x, w, g], { eps }) => {
    const gc = f.castUp(g);
    const { h, inverse } = scaleRows(f.castUp(x), eps);
    const gw = f.mul(gc, f.castUp(w));
    const dx = f.mul(f.sub(gw, f.mul(h, meanLast(f.mul(gw, h)))), inverse);
    return [f.cast(dx, x.dtype), f.cast(sumToLast(f.mul(gc, h), 1), w.dtype)];
  },
  sharding: (inputs) => rowsRule(inputs, 1),
});

/** (x - mean(x)) / sqrt(var(x) + eps) * w + b over the last dim. As torch.nn.functional.layer_norm. */
export const layer_norm = defineOp({
  name: "layer_norm",
  attrs: { eps: "float" },
  arity: 3,
  lower: "kernel",
  type: ([x, w, b]) => {
    checkRows("layer_norm", x, "w", w);
    checkRows("layer_norm", x, "b", b);
    if (w.dtype !== b.dtype) {
      throw new DTypeError(
        "layer_norm",
        `w and b differ in dtype: ${formatType(w.type)} and ${formatType(b.type)}`,
      );
    }
    return x.type;
  },
  vjp: ({ inputs: [x, w], grad, attrs, needs }) => neededResults(layer_norm_grad([x, w, grad], attrs), needs),
  decompose: ([x, w, b], { eps }) => {
    const { h } = normalizeRows(f.castUp(x), eps);
    return [f.cast(f.add(f.mul(h, f.castUp(w)), f.castUp(b)), x.dtype)];
  },
  sharding: (inputs) => rowsRule(inputs, 0),
});

/** x, w and the cotangent g of layer_norm(x, w, b) → the cotangents of x, w and b. */
export const layer_norm_grad = defineOp({
  name: "layer_norm_grad",
  attrs: { eps: "float" },
  arity: 3,
  results: 3,
  lower: "kernel",
  type: (inputs) => gradTypes("layer_norm_grad", inputs, 2),
  // With h the normalised x: dx = (g w - mean(g w) - h mean(g w h)) / std, dw = sum over rows of g h, db of g.
  decompose: ([x, w, g], { eps }) => {
    const gc = f.castUp(g);
    const { h, inverse } = normalizeRows(f.castUp(x), eps);
    const gw = f.mul(gc, f.castUp(w));
    const dx = f.mul(f.sub(f.sub(gw, meanLast(gw)), f.mul(h, meanLast(f.mul(gw, h)))), inverse);
    const row = (x: Node): Node => f.cast(sumToLast(x, 1), w.dtype);
    return [f.cast(dx, x.dtype), row(f.mul(gc, h)), row(gc)];
  },
  sharding: (inputs) => rowsRule(inputs, 2),
});
