import { DTypeError, ShapeError, ValueError } from "../errors.js";
import type { Node } from "../node.js";
import { type AttrsOf, defineOp, type ShardingRule } from "../opdef.js";
import { formatShape, formatType } from "../shape.js";
import * as f from "./build.js";
import { expectFloat, expectType, maxLast, neededResults, sumLast } from "./fused.js";

// Letters: B batch, H query heads, G key/value heads (groups), R = H / G query heads a group, T queries, S keys,
// K size of a query and key, Kv size of a value. Head h reads group floor(h / R).

// A query's position is i + offset + shift, counted in keys: a causal one sees no key past it, and one with a window (0: none)
// only that many keys up to it.

const attrs = { causal: "bool", offset: "int", scale: "float", window: "int" } as const;
type AttentionAttrs = AttrsOf<typeof attrs>;

function check(op: string, q: Node, k: Node, v: Node): void {
  expectFloat(op, "q", q);
  if (k.dtype !== q.dtype || v.dtype !== q.dtype) {
    throw new DTypeError(
      op,
      `q, k and v differ in dtype: ${formatType(q.type)}, ${formatType(k.type)}, ${formatType(v.type)}`,
    );
  }
  const shapes = `q ${formatShape(q.shape)}, k ${formatShape(k.shape)}, v ${formatShape(v.shape)}`;
  const fail = (what: string): never => {
    throw new ShapeError(op, `${what}: ${shapes}`);
  };
  if (q.shape.length !== 4 || k.shape.length !== 4 || v.shape.length !== 4) {
    fail("q must be [B, H, T, K], k [B, G, S, K] and v [B, G, S, Kv]");
  }
  if (q.shape[0] !== k.shape[0] || q.shape[0] !== v.shape[0]) fail("batch sizes differ");
  if (k.shape[1] !== v.shape[1]) fail("k and v differ in heads");
  if (k.shape[2] !== v.shape[2]) fail("k and v differ in length");
  if (q.shape[3] !== k.shape[3]) fail("q and k differ in head size");
  if (k.shape[1] === 0 || q.shape[1] % k.shape[1] !== 0)
    fail("heads of q must be a multiple of heads of k and v");
}

interface Extras {
  /** A row's cotangent, float32 [B, H, T]. */
  readonly row: Node | undefined;
  /** int32 [B, T] and [B, S], both or none. */
  readonly segments: readonly Node[];
  /** An int32 scalar. */
  readonly shift: Node | undefined;
}

/** Operands after the first `fixed`, in this order: dlse (of the gradient), segments, shift. */
function extrasOf(inputs: readonly Node[], fixed: number): Extras {
  const rest = inputs.slice(fixed);
  const last = rest[rest.length - 1];
  const shift = last?.dtype === "int32" && last.shape.length !== 2 ? rest.pop() : undefined;
  const hasSegments = rest.length >= 2 && rest.slice(-2).every(({ shape }) => shape.length === 2);
  const segments = hasSegments ? rest.splice(-2) : [];
  return { row: fixed === FORWARD ? undefined : rest.shift(), segments, shift: shift ?? rest[0] };
}
const [FORWARD, BACKWARD] = [3, 6];

function checkExtras(
  op: string,
  q: Node,
  k: Node,
  { segments, shift }: Extras,
  { window }: AttentionAttrs,
): void {
  const [ofQueries, ofKeys] = segments;
  if (ofQueries) {
    expectType(op, "segments of queries", ofQueries, "int32", [q.shape[0], q.shape[2]], "batch and queries");
    expectType(op, "segments of keys", ofKeys, "int32", [k.shape[0], k.shape[2]], "batch and keys");
  }
  if (shift) expectType(op, "shift", shift, "int32", [], "a scalar");
  if (!(Number.isInteger(window) && window >= 0))
    throw new ValueError(op, `window must be a number of keys, or 0 for all, but is ${window}`);
}

/** [B, H, ...] → [B, G, R, ...], in the dtype that is computed in. */
function grouped(x: Node, groups: number): Node {
  const [batch, heads, ...rest] = x.shape;
  return f.castUp(f.reshape(x, [batch, groups, heads / groups, ...rest]));
}

/** Contracts a dim of a [B, G, R, T, .] with one of b [B, G, S, .], by group. */
const dot = (a: Node, b: Node, dim: number): Node => f.dotGeneral(a, b, [4], [dim], [0, 1], [0, 1]);
/** Sums a [B, G, R, T, .] times b [B, G, R, T, .] over the queries of a group's heads. */
const overQueries = (a: Node, b: Node): Node => f.dotGeneral(a, b, [2, 3], [2, 3], [0, 1], [0, 1]);

/** q [B, G, R, T, K] · k [B, G, S, K] → scaled scores [B, G, R, T, S], -inf where a query does not see a key. */
function maskedScores(
  q: Node,
  k: Node,
  { segments, shift }: Extras,
  { causal, offset, scale, window }: AttentionAttrs,
): Node {
  let scores = f.mul(dot(q, k, 3), scale);
  const hide = (seen: Node): void => {
    scores = f.where(seen, scores, -Infinity);
  };
  if (causal || window > 0) {
    // int64: i + offset + shift must not wrap, whatever they are.
    const shape = scores.shape.slice(-2);
    const own = f.add(f.iota(0, shape, "int64"), offset);
    const position = shift ? f.add(own, f.cast(shift, "int64")) : own;
    const key = f.iota(1, shape, "int64");
    if (causal) hide(f.le(key, position));
    if (window > 0) hide(f.gt(key, f.sub(position, window)));
  }
  if (segments.length > 0) {
    const [batch, , , queries, keys] = scores.shape;
    const [ofQueries, ofKeys] = segments;
    hide(f.eq(f.reshape(ofQueries, [batch, 1, 1, queries, 1]), f.reshape(ofKeys, [batch, 1, 1, 1, keys])));
  }
  return scores;
}

/** x with 0 for -inf: what a row that sees nothing subtracts, so that exp gives 0 and not NaN. */
const finite = (x: Node): Node => f.where(f.eq(x, -Infinity), 0, x);

/** Values by softmax(scores), less `top` so that nothing overflows; and the scores' log-sum-exp [..., 1]. */
function weighed(scores: Node, top: Node, values: Node): { y: Node; lse: Node } {
  const e = f.exp(f.sub(scores, top));
  const total = sumLast(e);
  // Only a row that sees nothing has total 0: the largest score of any other adds exp(0).
  const y = f.div(dot(e, values, 2), f.where(f.eq(total, 0), 1, total));
  return { y, lse: f.add(top, f.log(total)) };
}

/**
 * K and S are summed under the softmax, so they stay whole; so does T under a causal mask or a window, which count queries
 * from the first. Heads split by group, then inside groups.
 */
function factorsOf(
  q: Node,
  k: Node,
): { query: string; key: string; value: string; out: string; row: string; segments: string[] } {
  const [groups, heads] = [k.shape[1], q.shape[1]];
  const head = groups === 1 ? "r" : groups === heads ? "g" : "(g r)";
  const group = groups === 1 ? "_" : "g";
  return {
    query: `b ${head} t k`,
    key: `b ${group} s k`,
    value: `b ${group} s v`,
    out: `b ${head} t v`,
    row: `b ${head} t`,
    segments: ["b t", "b s"],
  };
}

const countsPositions = ({ causal, window }: AttentionAttrs): boolean => causal || window > 0;

function forwardRule(inputs: readonly Node[], attrs: AttentionAttrs): ShardingRule {
  const { query, key, value, out, row, segments } = factorsOf(inputs[0], inputs[1]);
  const given = extrasOf(inputs, FORWARD);
  const replicate = countsPositions(attrs) ? ["t", "s", "k"] : ["s", "k"];
  const more = [...(given.segments.length > 0 ? segments : []), ...(given.shift ? [""] : [])];
  const operands = [query, key, value, ...more].join(", ");
  return { factors: `${operands} -> ${out}, ${row}`, replicate };
}

function gradRule(inputs: readonly Node[], attrs: AttentionAttrs): ShardingRule {
  const [q, k] = inputs;
  const { query, key, value, out, row, segments } = factorsOf(q, k);
  const given = extrasOf(inputs, BACKWARD);
  const more = [
    ...(given.row ? [row] : []),
    ...(given.segments.length > 0 ? segments : []),
    ...(given.shift ? [""] : []),
  ];
  const operands = [query, key, value, out, row, out, ...more].join(", ");
  // The heads of a group and the queries are summed into dk and dv.
  const summed = q.shape[1] === k.shape[1] && k.shape[1] > 1 ? [] : ["r"];
  return {
    factors: `${operands} -> ${query}, ${key}, ${value}`,
    reduce: countsPositions(attrs) ? summed : [...summed, "t"],
    replicate: countsPositions(attrs) ? ["t", "s", "k", "v"] : ["s", "k", "v"],
  };
}

/**
 * Scaled dot-product attention with grouped heads, over q, k, v, and optionally segments and shift. Causal: query i sees keys
 * j <= i + offset + shift, `shift` being an int32 scalar known when the program runs (0 where not given). A window of w > 0:
 * keys j > i + offset + shift - w. Segments, int32 [B, T] of queries and [B, S] of keys: keys of the query's own. Also gives
 * lse, the logarithm of each row's softmax denominator; a row that sees nothing gives 0 and lse -inf.
 */
export const attention = defineOp({
  name: "attention",
  attrs,
  arity: [3, 6],
  results: 2,
  lower: "kernel",
  type: (inputs, attrs) => {
    const [q, k, v] = inputs;
    check("attention", q, k, v);
    checkExtras("attention", q, k, extrasOf(inputs, FORWARD), attrs);
    const rows = q.shape.slice(0, 3);
    return [
      { dtype: q.dtype, shape: [...rows, v.shape[3]] },
      { dtype: "float32", shape: rows },
    ];
  },
  vjp: ({ inputs: [q, k, v, ...more], out, grads: [dout, dlse], attrs, needs }) => {
    const [y, lse] = f.resultsOf(out);
    const operands = [q, k, v, y, lse, dout ?? f.zerosLike(y), ...(dlse ? [dlse] : []), ...more];
    return neededResults(attention_grad(operands, attrs), needs);
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

/**
 * What attention gives where `mask`, [B or 1, H or 1, T, S], has a say too: floats are added to the scaled scores, bools say
 * which keys a query sees. In smaller ops, with all scores in memory; the mask gets its gradient.
 */
export function maskedAttention(inputs: readonly Node[], mask: Node, attrs: AttentionAttrs): Node {
  const op = "attention";
  const [q, k, v] = inputs;
  const extras = extrasOf(inputs, FORWARD);
  check(op, q, k, v);
  checkExtras(op, q, k, extras, attrs);
  const [batch, heads, queries] = q.shape;
  const [, groups, keys] = k.shape;
  const [b, h, t, s] = mask.shape;
  const fits = mask.shape.length === 4 && (b === 1 || b === batch) && (h === 1 || h === heads);
  if (!fits || t !== queries || s !== keys) {
    throw new ShapeError(
      op,
      `the mask must be [1 or ${batch}, 1 or ${heads}, ${queries}, ${keys}], but is ${formatShape(mask.shape)}`,
    );
  }
  if (mask.dtype !== "bool") expectFloat(op, "the mask", mask);
  const shape = [...q.shape.slice(0, 3), v.shape[3]];
  if (keys === 0) return f.full(0, shape, q.dtype);
  const over = f.reshape(mask, [b, ...(h === 1 ? [1, 1] : [groups, heads / groups]), t, s]);
  const own = maskedScores(grouped(q, groups), f.castUp(k), extras, attrs);
  const scores = mask.dtype === "bool" ? f.where(over, own, -Infinity) : f.add(own, f.cast(over, own.dtype));
  // What is subtracted changes nothing, and so has no gradient.
  const { y } = weighed(scores, f.detach(finite(maxLast(scores))), f.castUp(v));
  return f.reshape(f.cast(y, q.dtype), shape);
}

/**
 * q, k, v, out, lse, dout, and optionally dlse (float32), segments and shift → cotangents of q, k and v. out and lse
 * are attention's, or those of attention over more keys than these: what these keys add to the cotangents then.
 */
export const attention_grad = defineOp({
  name: "attention_grad",
  attrs,
  arity: [6, 10],
  results: 3,
  lower: "kernel",
  type: (inputs, attrs) => {
    const op = "attention_grad";
    const [q, k, v, out, lse, dout] = inputs;
    const extras = extrasOf(inputs, BACKWARD);
    const { row: dlse } = extras;
    check(op, q, k, v);
    const rows = q.shape.slice(0, 3);
    expectType(op, "out", out, q.dtype, [...rows, v.shape[3]], "as attention gives");
    expectType(op, "lse", lse, "float32", rows, "as attention gives");
    expectType(op, "dout", dout, q.dtype, out.shape, "as out");
    if (dlse) expectType(op, "dlse", dlse, "float32", rows, "as lse");
    checkExtras(op, q, k, extras, attrs);
    return [q.type, k.type, v.type];
  },
  // With p = exp(scores - lse): dp = dout vᵀ, ds = p (dp - sum(dout out) + dlse), dq = ds k, dk = dsᵀ q, dv = pᵀ dout.
  decompose: (inputs, attrs) => {
    const [q, k, v, out, lse, dout] = inputs;
    const extras = extrasOf(inputs, BACKWARD);
    const { row: dlse } = extras;
    const [, groups, keys] = k.shape;
    if (keys === 0) return [f.zerosLike(q), f.zerosLike(k), f.zerosLike(v)];
    const queries = grouped(q, groups);
    const cotangents = grouped(dout, groups);
    const kc = f.castUp(k);
    const column = (x: Node): Node => f.cast(f.unsqueeze(grouped(x, groups), -1), queries.dtype);
    const p = f.exp(f.sub(maskedScores(queries, kc, extras, attrs), finite(column(lse))));
    const delta = sumLast(f.mul(cotangents, grouped(out, groups)));
    const shared = dlse ? f.sub(delta, column(dlse)) : delta;
    const dp = dot(cotangents, f.castUp(v), 3);
    const ds = f.mul(f.mul(p, f.sub(dp, shared)), attrs.scale);
    return [
      f.reshape(f.cast(dot(ds, kc, 2), q.dtype), q.shape),
      f.cast(overQueries(ds, queries), k.dtype),
      f.cast(overQueries(p, cotangents), v.dtype),
    ];
  },
  sharding: gradRule,
});
