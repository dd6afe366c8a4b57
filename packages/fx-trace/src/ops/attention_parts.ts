import { isFloat } from "../dtype.js";
import { DTypeError, ShapeError, ValueError } from "../errors.js";
import type { Node } from "../node.js";
import type { AttrsOf } from "../opdef.js";
import { formatShape, formatType } from "../shape.js";
import * as f from "./build.js";
import { expectFloat, expectType, sumLast } from "./fused.js";

// What attention and its gradients share.

// Letters: B batch, H query heads, G key/value heads (groups), R = H / G query heads a group, T queries, S keys,
// K size of a query and key, Kv size of a value. Head h reads group floor(h / R).

// A query's position is i + offset + shift, counted in keys: a causal one sees no key past it, and one with a window (0: none)
// only that many keys up to it.

export const attentionAttrs = { causal: "bool", offset: "int", scale: "float", window: "int" } as const;
export type AttentionAttrs = AttrsOf<typeof attentionAttrs>;

export function checkAttention(op: string, q: Node, k: Node, v: Node): void {
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

/** Operands that need not be given. */
interface Extras {
  /** A row's cotangent, float32 [B, H, T]. */
  readonly row: Node | undefined;
  /** [B or 1, H or 1, T or 1, S or 1]: floats that are added to the scaled scores, or bools, true where a query sees a key. */
  readonly bias: Node | undefined;
  /** int32 [B, T] and [B, S], both or none. */
  readonly segments: readonly Node[];
  /** An int32 scalar. */
  readonly shift: Node | undefined;
}

/** Of attention, the operands that are always given, and of its gradients. */
export const [FORWARD, BACKWARD] = [3, 6];

/** Operands after the first `fixed`, in this order: dlse (of the gradients), bias, segments, shift. */
export function extrasOf(inputs: readonly Node[], fixed: number): Extras {
  const rest = inputs.slice(fixed);
  const last = rest[rest.length - 1];
  const isShift = last?.dtype === "int32" && last.shape.length !== 2 && last.shape.length !== 4;
  const shift = isShift ? rest.pop() : undefined;
  const hasSegments = rest.length >= 2 && rest.slice(-2).every(({ shape }) => shape.length === 2);
  const segments = hasSegments ? rest.splice(-2) : [];
  const bias = rest[rest.length - 1]?.shape.length === 4 ? rest.pop() : undefined;
  const row = fixed === FORWARD ? undefined : rest.shift();
  return { row, bias, segments, shift: shift ?? rest[0] };
}

export function checkExtras(
  op: string,
  q: Node,
  k: Node,
  { bias, segments, shift }: Extras,
  { window }: AttentionAttrs,
): void {
  if (bias) checkBias(op, q, k, bias);
  const [ofQueries, ofKeys] = segments;
  if (ofQueries) {
    expectType(op, "segments of queries", ofQueries, "int32", [q.shape[0], q.shape[2]], "batch and queries");
    expectType(op, "segments of keys", ofKeys, "int32", [k.shape[0], k.shape[2]], "batch and keys");
  }
  if (shift) expectType(op, "shift", shift, "int32", [], "a scalar");
  if (!(Number.isInteger(window) && window >= 0))
    throw new ValueError(op, `window must be a number of keys, or 0 for all, but is ${window}`);
}

function checkBias(op: string, q: Node, k: Node, bias: Node): void {
  const isWide = (x: Node): boolean => x.dtype === "float64";
  if (bias.dtype !== "bool" && (!isFloat(bias.dtype) || isWide(bias) !== isWide(q))) {
    const floats = isWide(q) ? "float64" : "float32 or a half type";
    throw new DTypeError(
      op,
      `the mask must be bool or ${floats}, as q is ${q.dtype}, but is ${formatType(bias.type)}`,
    );
  }
  const whole = scoresShape(q, k);
  if (bias.shape.every((size, i) => size === whole[i] || size === 1)) return;
  const sizes = whole.map((size) => (size === 1 ? "1" : `${size} or 1`)).join(", ");
  throw new ShapeError(op, `the mask must be [${sizes}], but is ${formatShape(bias.shape)}`);
}

/** [B, H, T, S] */
export const scoresShape = (q: Node, k: Node): number[] => [...q.shape.slice(0, 3), k.shape[2]];

/** [B, H, ...] → [B, G, R, ...], in the dtype that is computed in. */
export function grouped(x: Node, groups: number): Node {
  const [batch, heads, ...rest] = x.shape;
  return f.castUp(f.reshape(x, [batch, groups, heads / groups, ...rest]));
}

/** Contracts a dim of a [B, G, R, T, .] with one of b [B, G, S, .], by group. */
export const dot = (a: Node, b: Node, dim: number): Node => f.dotGeneral(a, b, [4], [dim], [0, 1], [0, 1]);
/** Sums a [B, G, R, T, .] times b [B, G, R, T, .] over the queries of a group's heads. */
export const overQueries = (a: Node, b: Node): Node => f.dotGeneral(a, b, [2, 3], [2, 3], [0, 1], [0, 1]);

/** q [B, G, R, T, K] · k [B, G, S, K] → scaled scores [B, G, R, T, S], -inf where a query does not see a key. */
export function maskedScores(
  q: Node,
  k: Node,
  { bias, segments, shift }: Extras,
  { causal, offset, scale, window }: AttentionAttrs,
): Node {
  let scores = f.mul(dot(q, k, 3), scale);
  const hide = (seen: Node): void => {
    scores = f.where(seen, scores, -Infinity);
  };
  if (bias) {
    const [batch, heads, ...rest] = bias.shape;
    const [groups, ofGroup] = scores.shape.slice(1);
    const over = f.reshape(bias, [batch, ...(heads === 1 ? [1, 1] : [groups, ofGroup]), ...rest]);
    if (bias.dtype === "bool") hide(over);
    else scores = f.add(scores, f.cast(over, scores.dtype));
  }
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
export const finite = (x: Node): Node => f.where(f.eq(x, -Infinity), 0, x);

/** Values by softmax(scores), less `top` so that nothing overflows; and the scores' log-sum-exp [..., 1]. */
export function weighed(scores: Node, top: Node, values: Node): { y: Node; lse: Node } {
  const e = f.exp(f.sub(scores, top));
  const total = sumLast(e);
  // Only a row that sees nothing has total 0: the largest score of any other adds exp(0).
  const y = f.div(dot(e, values, 2), f.where(f.eq(total, 0), 1, total));
  return { y, lse: f.add(top, f.log(total)) };
}

interface AttentionFactors {
  readonly query: string;
  readonly key: string;
  readonly value: string;
  readonly out: string;
  readonly row: string;
  readonly bias: string;
  /** Of the operands after the first `fixed`. */
  readonly extras: readonly string[];
  /** Factors that the bias does not have: its cotangent is summed over them. */
  readonly sharedBias: readonly string[];
}

/**
 * K and S are summed under the softmax, so they stay whole; so does T under a causal mask or a window, which count queries
 * from the first. Heads split by group, then inside groups. A dim of the bias that is stretched stays whole.
 */
export function factorsOf(inputs: readonly Node[], fixed: number): AttentionFactors {
  const [q, k] = inputs;
  const { row, bias, segments, shift } = extrasOf(inputs, fixed);
  const [groups, heads] = [k.shape[1], q.shape[1]];
  const head = groups === 1 ? "r" : groups === heads ? "g" : "(g r)";
  const group = groups === 1 ? "_" : "g";
  const rows = `b ${head} t`;
  const dims = ["b", head, "t", "s"];
  const whole = scoresShape(q, k);
  const own = bias ? dims.map((factor, i) => (bias.shape[i] === whole[i] ? factor : "_")) : dims;
  return {
    query: `${rows} k`,
    key: `b ${group} s k`,
    value: `b ${group} s v`,
    out: `${rows} v`,
    row: rows,
    bias: own.join(" "),
    extras: [
      ...(row ? [rows] : []),
      ...(bias ? [own.join(" ")] : []),
      ...(segments.length > 0 ? ["b t", "b s"] : []),
      ...(shift ? [""] : []),
    ],
    sharedBias: dims.filter((_, i) => own[i] === "_").flatMap((factor) => factor.match(/\w/g) ?? []),
  };
}

export const countsPositions = ({ causal, window }: AttentionAttrs): boolean => causal || window > 0;
