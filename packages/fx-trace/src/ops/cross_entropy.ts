import { ValueError } from "../errors.js";
import type { Node } from "../node.js";
import { type AttrsOf, defineOp, type ShardingRule } from "../opdef.js";
import { formatShape, type Shape, type TensorType } from "../shape.js";
import * as f from "./build.js";
import { dimFactors, ruleOf } from "./factors.js";
import { expectRows, expectShape, expectType, maxLast, meanLast, sumLast } from "./fused.js";
import { checkDType } from "./rules.js";

// Logits are [..., V]: rows of V classes.

export const lossAttrs = { ignore_index: "int", label_smoothing: "float" } as const;
export type CrossEntropyAttrs = AttrsOf<typeof lossAttrs>;

/** Checks and gives the type of one float32 by row. */
function check(op: string, logits: Node, target: Node, attrs: CrossEntropyAttrs): TensorType {
  expectRows(op, "logits", logits);
  const shape = logits.shape.slice(0, -1);
  checkLoss(op, target, shape, `logits are ${formatShape(logits.shape)}`, attrs);
  return { dtype: "float32", shape };
}

/** Checks the target, of `shape` because `like`, and the attributes. */
export function checkLoss(
  op: string,
  target: Node,
  shape: Shape,
  like: string,
  { label_smoothing }: CrossEntropyAttrs,
): void {
  checkDType(op, "index", target.dtype, "target");
  expectShape(op, "target", target, shape, like);
  if (!(label_smoothing >= 0 && label_smoothing <= 1)) {
    throw new ValueError(op, `label_smoothing must be in [0, 1], but is ${label_smoothing}`);
  }
}

/** [...] → [..., 1] */
const column = (x: Node): Node => f.unsqueeze(x, -1);
/** [..., 1] → [...], float32 */
const rows = (x: Node): Node => f.cast(f.squeeze(x, -1), "float32");
const isIgnored = (target: Node, { ignore_index }: CrossEntropyAttrs): Node => f.eq(target, ignore_index);

/** Rows may be divided; `operands` and `results` are by row, besides the logits. */
function rowsRule(logits: Node, operands: number, results: number): ShardingRule {
  const dims = dimFactors(logits.shape.length);
  const row = dims.slice(0, -1);
  const by = (count: number): string[][] => new Array<string[]>(count).fill(row);
  return ruleOf([dims, ...by(operands)], results === 0 ? [dims] : by(results), { replicate: dims.slice(-1) });
}

/** exp(logits - lse) [..., V], computed as lse was. */
export function softmaxOf(logits: Node, lse: Node): Node {
  const x = f.castUp(logits);
  return f.exp(f.sub(x, f.cast(column(lse), x.dtype)));
}

/**
 * Negative log likelihood of softmax(logits [..., V]) at target [...], by row, in float32; and lse, the logarithm of each
 * row's softmax denominator. label_smoothing e mixes the target with e/V of every class. A row whose target is
 * ignore_index has loss 0 (its lse is computed). As torch.nn.functional.cross_entropy(reduction="none").
 */
export const cross_entropy = defineOp({
  name: "cross_entropy",
  attrs: lossAttrs,
  arity: 2,
  results: 2,
  lower: "kernel",
  type: ([logits, target], attrs) => {
    const row = check("cross_entropy", logits, target, attrs);
    return [row, row];
  },
  vjp: ({ inputs: [logits, target], out, grads: [dloss, dlse], attrs }) => {
    const lse = f.resultOf(out, 1);
    const dlogits = dloss ? cross_entropy_grad([logits, target, lse, dloss], attrs) : null;
    if (!dlse) return [dlogits, null];
    // lse's own derivative is softmax(logits).
    const p = softmaxOf(logits, lse);
    const more = f.cast(f.mul(p, f.cast(column(dlse), p.dtype)), logits.dtype);
    return [dlogits ? f.add(dlogits, more) : more, null];
  },
  decompose: ([logits, target], attrs) => {
    const smoothing = attrs.label_smoothing;
    const x = f.castUp(logits);
    const top = maxLast(x);
    const shifted = f.sub(x, top);
    const logTotal = f.log(sumLast(f.exp(shifted)));
    const ignored = column(isIgnored(target, attrs));
    const picked = f.gather(shifted, f.where(ignored, 0, column(target)), logits.shape.length - 1);
    // Without smoothing a logit of -inf that is no target costs nothing: 0 * -inf would be NaN.
    const expected =
      smoothing === 0 ? picked : f.add(f.mul(picked, 1 - smoothing), f.mul(meanLast(shifted), smoothing));
    return [rows(f.where(ignored, 0, f.sub(logTotal, expected))), rows(f.add(top, logTotal))];
  },
  sharding: ([logits]) => rowsRule(logits, 1, 2),
});

/** logits, target, lse of cross_entropy, and the cotangent g [...] of its loss → the cotangent of logits. */
export const cross_entropy_grad = defineOp({
  name: "cross_entropy_grad",
  attrs: lossAttrs,
  arity: 4,
  lower: "kernel",
  type: ([logits, target, lse, g], attrs) => {
    const { shape } = check("cross_entropy_grad", logits, target, attrs);
    expectType("cross_entropy_grad", "lse", lse, "float32", shape, "as cross_entropy gives");
    expectType("cross_entropy_grad", "g", g, "float32", shape, "as the loss");
    return logits.type;
  },
  // g (softmax - (1 - e) onehot(target) - e/V), and 0 on ignored rows.
  decompose: ([logits, target, lse, g], attrs) => {
    const p = softmaxOf(logits, lse);
    const hit = f.eq(f.iota(-1, logits.shape, target.dtype), column(target));
    const spread = attrs.label_smoothing / (logits.shape.at(-1) as number);
    const wanted = f.where(hit, f.full(1 - attrs.label_smoothing + spread, [], p.dtype), spread);
    const weight = f.cast(column(f.where(isIgnored(target, attrs), 0, g)), p.dtype);
    return [f.cast(f.mul(f.sub(p, wanted), weight), logits.dtype)];
  },
  sharding: ([logits]) => rowsRule(logits, 3, 0),
});
