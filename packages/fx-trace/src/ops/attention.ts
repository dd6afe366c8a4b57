import type { Node } from "../node.js";
import { defineOp, type ShardingRule } from "../opdef.js";
import { attention_bias_grad, attention_grad } from "./attention_grad.js";
import {
  type AttentionAttrs,
  attentionAttrs,
  checkAttention,
  checkExtras,
  countsPositions,
  extrasOf,
  FORWARD,
  factorsOf,
  finite,
  grouped,
  maskedScores,
  weighed,
} from "./attention_parts.js";
import * as f from "./build.js";
import { maxLast, neededResults } from "./fused.js";

function forwardRule(inputs: readonly Node[], attrs: AttentionAttrs): ShardingRule {
  const { query, key, value, out, row, extras } = factorsOf(inputs, FORWARD);
  const operands = [query, key, value, ...extras].join(", ");
  const replicate = countsPositions(attrs) ? ["t", "s", "k"] : ["s", "k"];
  return { factors: `${operands} -> ${out}, ${row}`, replicate };
}

/**
 * Scaled dot-product attention with grouped heads, over q, k, v, and optionally bias, segments and shift. A bias
 * [B or 1, H or 1, T or 1, S or 1] of floats is added to the scaled scores; of bools it says which keys a query sees. Causal: query i sees keys
 * j <= i + offset + shift, `shift` being an int32 scalar known when the program runs (0 where not given). A window of w > 0:
 * keys j > i + offset + shift - w. Segments, int32 [B, T] of queries and [B, S] of keys: keys of the query's own. Also gives
 * lse, the logarithm of each row's softmax denominator; a row that sees nothing gives 0 and lse -inf.
 */
export const attention = defineOp({
  name: "attention",
  attrs: attentionAttrs,
  arity: [FORWARD, FORWARD + 4],
  results: 2,
  lower: "kernel",
  type: (inputs, attrs) => {
    const [q, k, v] = inputs;
    checkAttention("attention", q, k, v);
    checkExtras("attention", q, k, extrasOf(inputs, FORWARD), attrs);
    const rows = q.shape.slice(0, 3);
    return [
      { dtype: q.dtype, shape: [...rows, v.shape[3]] },
      { dtype: "float32", shape: rows },
    ];
  },
  vjp: ({ inputs, out, grads: [dout, dlse], attrs, needs }) => {
    const [q, k, v, ...more] = inputs;
    const [y, lse] = f.resultsOf(out);
    const operands = [q, k, v, y, lse, dout ?? f.zerosLike(y), ...(dlse ? [dlse] : []), ...more];
    if (!extrasOf(inputs, FORWARD).bias || !needs[FORWARD])
      return neededResults(attention_grad(operands, attrs), needs);
    const [bias] = more;
    const cotangents = neededResults(attention_bias_grad(operands, attrs), needs);
    return cotangents.map((each, i) => (each && i === FORWARD ? f.cast(each, bias.dtype) : each));
  },
  decompose: (inputs, attrs, out) => {
    const [q, k, v] = inputs;
    const [outType, lseType] = out.types;
    const [, groups, keys] = k.shape;
    if (keys === 0)
      return [f.full(0, outType.shape, outType.dtype), f.full(-Infinity, lseType.shape, lseType.dtype)];
    const scores = maskedScores(grouped(q, groups), f.castUp(k), extrasOf(inputs, FORWARD), attrs);
    const { y, lse } = weighed(scores, finite(maxLast(scores)), f.castUp(v));
    return [
      f.reshape(f.cast(y, outType.dtype), outType.shape),
      f.reshape(f.cast(lse, lseType.dtype), lseType.shape),
    ];
  },
  sharding: forwardRule,
});
