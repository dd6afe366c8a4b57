import { DTypeError, ShapeError } from "../errors.js";
import type { Node } from "../node.js";
import { type AttrsOf, defineOp, type ShardingRule } from "../opdef.js";
import { formatShape, formatType } from "../shape.js";
import * as f from "./build.js";
import { expectFloat, expectType, maxLast, neededResults, sumLast } from "./fused.js";

// Letters: B batch, H query heads, G key/value heads (groups), R = H / G query heads a group, T queries, S keys,
// K size of a query and key, Kv size of a value. Head h reads group floor(h / R).

const attrs = { causal: "bool", offset: "int", scale: "float" } as const;
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

/** Operands after the first `fixed`: one int32 among them, the last, is the shift. A row's cotangent is float32. */
function optional(
  inputs: readonly Node[],
  fixed: number,
): { row: Node | undefined; shift: Node | undefined } {
  const rest = inputs.slice(fixed);
  const shift = rest[rest.length - 1]?.dtype === "int32" ? rest.pop() : undefined;
  return { row: rest[0], shift };
}

const expectShift = (op: string, shift: Node): void =>
  expectType(op, "shift", shift, "int32", [], "a scalar");

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
  shift: Node | undefined,
  { causal, offset, scale }: AttentionAttrs,
): Node {
  const scores = f.mul(dot(q, k, 3), scale);
  if (!causal) return scores;
  // int64: i + offset + shift must not wrap, whatever they are.
  const shape = scores.shape.slice(-2);
  const own = f.add(f.iota(0, shape, "int64"), offset);
  const lastSeen = shift ? f.add(own, f.cast(shift, "int64")) : own;
  return f.where(f.le(f.iota(1, shape, "int64"), lastSeen), scores, -Infinity);
}

/** x with 0 for -inf: what a row that sees nothing subtracts, so that exp gives 0 and not NaN. */
const finite = (x: Node): Node => f.where(f.eq(x, -Infinity), 0, x);

/**
 * K and S are summed under the softmax, so they stay whole; so does T under a causal mask, which counts queries from
 * the first. Heads split by group, then inside groups.
 */
function factorsOf(
  q: Node,
  k: Node,
): { query: string; key: string; value: string; out: string; row: string } {
  const [groups, heads] = [k.shape[1], q.shape[1]];
  const head = groups === 1 ? "r" : groups === heads ? "g" : "(g r)";
  const group = groups === 1 ? "_" : "g";
  return {
    query: `b ${head} t k`,
    key: `b ${group} s k`,
    value: `b ${group} s v`,
    out: `b ${head} t v`,
    row: `b ${head} t`,
  };
}

function forwardRule([q, k, , shift]: readonly Node[], { causal }: AttentionAttrs): ShardingRule {
  const { query, key, value, out, row } = factorsOf(q, k);
  const replicate = causal ? ["t", "s", "k"] : ["s", "k"];
  const operands = [query, key, value, ...(shift ? [""] : [])].join(", ");
  return { factors: `${operands} -> ${out}, ${row}`, replicate };
}

function gradRule(inputs: readonly Node[], { causal }: AttentionAttrs): ShardingRule {
  const [q, k] = inputs;
  const { query, key, value, out, row } = factorsOf(q, k);
  const given = optional(inputs, 6);
  const more = [...(given.row ? [row] : []), ...(given.shift ? [""] : [])];
  const operands = [query, key, value, out, row, out, ...more].join(", ");
  // The heads of a group and the queries are summed into dk and dv.
  const summed = q.shape[1] === k.shape[1] && k.shape[1] > 1 ? [] : ["r"];
  return {
    factors: `${operands} -> ${query}, ${key}, ${value}`,
    reduce: causal ? summed : [...summed, "t"],
    replicate: causal ? ["t", "s", "k", "v"] : ["s", "k", "v"],
  };
}

/**
 * Scaled dot-product attention with grouped heads. Causal: query i sees keys j <= i + offset + shift, `shift` being an
 * optional last operand, an int32 scalar known when the program runs (0 where not given). Also gives lse, the logarithm of
 * each row's softmax denominator; a row that sees nothing gives 0 and lse -inf.
 */
export const attention = defineOp({
  name: "attention",
  attrs,
  arity: [3, 4],
  results: 2,
  lower: "kernel",
  type: ([q, k, v, shift]) => {
    check("attention", q, k, v);
    if (shift) expectShift("attention", shift);
    const rows = q.shape.slice(0, 3);
    return [
      { dtype: q.dtype, shape: [...rows, v.shape[3]] },
      { dtype: "float32", shape: rows },
    ];
  },
  vjp: ({ inputs: [q, k, v, shift], out, grads: [dout, dlse], attrs, needs }) => {
    const [y, lse] = f.resultsOf(out);
    const operands = [q, k, v, y, lse, dout ?? f.zerosLike(y)];
    if (dlse) operands.push(dlse);
    if (shift) operands.push(shift);
    return neededResults(attention_grad(operands, attrs), needs);
  },
  decompose: ([q, k, v, shift], attrs, out) => {
    const [outType, lseType] = out.types;
    const [, groups, keys] = k.shape;
    if (keys === 0)
      return [f.full(0, outType.shape, outType.dtype), f.full(-Infinity, lseType.shape, lseType.dtype)];
    const scores = maskedScores(grouped(q, groups), f.castUp(k), shift, attrs);
    const top = finite(maxLast(scores));
    const e = f.exp(f.sub(scores, top));
    const total = sumLast(e);
    // Only a row that sees nothing has total 0: the largest score of any other adds exp(0).
    const y = f.div(dot(e, f.castUp(v), 2), f.where(f.eq(total, 0), 1, total));
    const lse = f.add(top, f.log(total));
    return [
      f.reshape(f.cast(y, outType.dtype), outType.shape),
      f.reshape(f.cast(lse, lseType.dtype), lseType.shape),
    ];
  },
  sharding: forwardRule,
});

/**
 * q, k, v, out, lse, dout, and optionally dlse (float32) and shift (int32, last) → cotangents of q, k and v. out and lse
 * are attention's, or those of attention over more keys than these: what these keys add to the cotangents then.
 */
export const attention_grad = defineOp({
  name: "attention_grad",
  attrs,
  arity: [6, 8],
  results: 3,
  lower: "kernel",
  type: (inputs) => {
    const op = "attention_grad";
    const [q, k, v, out, lse, dout] = inputs;
    const { row: dlse, shift } = optional(inputs, 6);
    check(op, q, k, v);
    const rows = q.shape.slice(0, 3);
    expectType(op, "out", out, q.dtype, [...rows, v.shape[3]], "as attention gives");
    expectType(op, "lse", lse, "float32", rows, "as attention gives");
    expectType(op, "dout", dout, q.dtype, out.shape, "as out");
    if (dlse) expectType(op, "dlse", dlse, "float32", rows, "as lse");
    const last = inputs[7] ?? shift;
    if (last) expectShift(op, last);
    return [q.type, k.type, v.type];
  },
  // With p = exp(scores - lse): dp = dout vᵀ, ds = p (dp - sum(dout out) + dlse), dq = ds k, dk = dsᵀ q, dv = pᵀ dout.
  decompose: (inputs, attrs) => {
    const [q, k, v, out, lse, dout] = inputs;
    const { row: dlse, shift } = optional(inputs, 6);
    const [, groups, keys] = k.shape;
    if (keys === 0) return [f.zerosLike(q), f.zerosLike(k), f.zerosLike(v)];
    const queries = grouped(q, groups);
    const cotangents = grouped(dout, groups);
    const kc = f.castUp(k);
    const column = (x: Node): Node => f.cast(f.unsqueeze(grouped(x, groups), -1), queries.dtype);
    const p = f.exp(f.sub(maskedScores(queries, kc, shift, attrs), finite(column(lse))));
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
