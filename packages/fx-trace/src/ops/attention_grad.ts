import { ShapeError } from "../errors.js";
import type { Node } from "../node.js";
import { defineOp, type ShardingRule } from "../opdef.js";
import {
  type AttentionAttrs,
  attentionAttrs,
  BACKWARD,
  checkAttention,
  checkExtras,
  countsPositions,
  dot,
  extrasOf,
  factorsOf,
  finite,
  grouped,
  maskedScores,
  overQueries,
  scoresShape,
} from "./attention_parts.js";
import * as f from "./build.js";
import { expectFloat, expectType, sumLast } from "./fused.js";

function check(op: string, inputs: readonly Node[], attrs: AttentionAttrs): void {
  const [q, k, v, out, lse, dout] = inputs;
  const extras = extrasOf(inputs, BACKWARD);
  const { row: dlse } = extras;
  checkAttention(op, q, k, v);
  const rows = q.shape.slice(0, 3);
  expectType(op, "out", out, q.dtype, [...rows, v.shape[3]], "as attention gives");
  expectType(op, "lse", lse, "float32", rows, "as attention gives");
  expectType(op, "dout", dout, q.dtype, out.shape, "as out");
  if (dlse) expectType(op, "dlse", dlse, "float32", rows, "as lse");
  checkExtras(op, q, k, extras, attrs);
}

/** Cotangents of q, k and v, and of the scaled scores, [B, G, R, T, S], null where there are no keys. */
function backward(
  inputs: readonly Node[],
  attrs: AttentionAttrs,
): { qkv: [Node, Node, Node]; scores: Node | null } {
  // With p = exp(scores - lse): dp = dout vᵀ, ds = p (dp - sum(dout out) + dlse), dq = ds k, dk = dsᵀ q, dv = pᵀ dout.
  const [q, k, v, out, lse, dout] = inputs;
  const extras = extrasOf(inputs, BACKWARD);
  const { row: dlse } = extras;
  const [, groups, keys] = k.shape;
  if (keys === 0) return { qkv: [f.zerosLike(q), f.zerosLike(k), f.zerosLike(v)], scores: null };
  const queries = grouped(q, groups);
  const cotangents = grouped(dout, groups);
  const kc = f.castUp(k);
  const column = (x: Node): Node => f.cast(f.unsqueeze(grouped(x, groups), -1), queries.dtype);
  const p = f.exp(f.sub(maskedScores(queries, kc, extras, attrs), finite(column(lse))));
  const delta = sumLast(f.mul(cotangents, grouped(out, groups)));
  const shared = dlse ? f.sub(delta, column(dlse)) : delta;
  const dp = dot(cotangents, f.castUp(v), 3);
  const own = f.mul(p, f.sub(dp, shared));
  const ds = f.mul(own, attrs.scale);
  const dq = f.reshape(f.cast(dot(ds, kc, 2), q.dtype), q.shape);
  const dk = f.cast(overQueries(ds, queries), k.dtype);
  return { qkv: [dq, dk, f.cast(overQueries(p, cotangents), v.dtype)], scores: own };
}

function gradRule(inputs: readonly Node[], attrs: AttentionAttrs, ofBias: boolean): ShardingRule {
  const [q, k] = inputs;
  const { query, key, value, out, row, bias, extras, sharedBias } = factorsOf(inputs, BACKWARD);
  const operands = [query, key, value, out, row, out, ...extras].join(", ");
  const results = [query, key, value, ...(ofBias ? [bias] : [])].join(", ");
  const replicate = countsPositions(attrs) ? ["t", "s", "k", "v"] : ["s", "k", "v"];
  // The heads of a group and the queries are summed into dk and dv.
  const ofHeads = q.shape[1] === k.shape[1] && k.shape[1] > 1 ? [] : ["r"];
  const summed = new Set([...ofHeads, "t", ...(ofBias ? sharedBias : [])]);
  return {
    factors: `${operands} -> ${results}`,
    reduce: [...summed].filter((factor) => !replicate.includes(factor)),
    replicate,
  };
}

/**
 * q, k, v, out, lse, dout, and optionally dlse (float32), bias, segments and shift → cotangents of q, k and v. out and lse
 * are attention's, or those of attention over more keys than these: what these keys add to the cotangents then.
 */
export const attention_grad = defineOp({
  name: "attention_grad",
  attrs: attentionAttrs,
  arity: [BACKWARD, BACKWARD + 5],
  results: 3,
  lower: "kernel",
  type: (inputs, attrs) => {
    check("attention_grad", inputs, attrs);
    return inputs.slice(0, 3).map(({ type }) => type);
  },
  decompose: (inputs, attrs) => backward(inputs, attrs).qkv,
  sharding: (inputs, attrs) => gradRule(inputs, attrs, false),
});

/** The same with a bias of floats, and its cotangent too: of the bias's shape, float32 (float64 beside float64). */
export const attention_bias_grad = defineOp({
  name: "attention_bias_grad",
  attrs: attentionAttrs,
  arity: [BACKWARD + 1, BACKWARD + 5],
  results: 4,
  lower: "kernel",
  type: (inputs, attrs) => {
    const op = "attention_bias_grad";
    check(op, inputs, attrs);
    const { bias } = extrasOf(inputs, BACKWARD);
    if (!bias) throw new ShapeError(op, "needs a bias, [B or 1, H or 1, T or 1, S or 1]");
    expectFloat(op, "the bias", bias);
    const [q, k, v] = inputs;
    return [q.type, k.type, v.type, { dtype: f.computeDType(q.dtype), shape: bias.shape }];
  },
  decompose: (inputs, attrs) => {
    const [q, k] = inputs;
    const { qkv, scores } = backward(inputs, attrs);
    const { shape } = extrasOf(inputs, BACKWARD).bias as Node;
    const dtype = f.computeDType(q.dtype);
    return [...qkv, scores ? f.sumTo(f.reshape(scores, scoresShape(q, k)), shape) : f.full(0, shape, dtype)];
  },
  sharding: (inputs, attrs) => gradRule(inputs, attrs, true),
});
