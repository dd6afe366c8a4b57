import { ShapeError } from "../errors.js";
import type { Node } from "../node.js";
import { type AttrsOf, defineOp, type ShardingRule } from "../opdef.js";
import { formatShape, type Shape } from "../shape.js";
import * as f from "./build.js";
import { ruleOf } from "./factors.js";
import { checkDims, checkDType, checkSameDType } from "./rules.js";

const dotAttrs = {
  lhs_contract: "ints",
  rhs_contract: "ints",
  lhs_batch: "ints",
  rhs_batch: "ints",
} as const;
type DotAttrs = AttrsOf<typeof dotAttrs>;

/** Dims that are neither contracted nor batch, ascending. */
function freeDims(rank: number, contract: readonly number[], batch: readonly number[]): readonly number[] {
  const free = new Array<number>(rank - contract.length - batch.length);
  let count = 0;
  for (let i = 0; i < rank; i++) if (!contract.includes(i) && !batch.includes(i)) free[count++] = i;
  return free;
}

function checkPairs(
  what: string,
  a: Shape,
  b: Shape,
  dimsA: readonly number[],
  dimsB: readonly number[],
): void {
  if (dimsA.length !== dimsB.length) {
    throw new ShapeError(
      "dot_general",
      `${what} dims do not pair up: ${formatShape(dimsA)} and ${formatShape(dimsB)}`,
    );
  }
  for (let i = 0; i < dimsA.length; i++) {
    if (a[dimsA[i]] !== b[dimsB[i]]) {
      throw new ShapeError(
        "dot_general",
        `${what} sizes differ: dim ${dimsA[i]} of ${formatShape(a)} and dim ${dimsB[i]} of ${formatShape(b)}`,
      );
    }
  }
}

function checkRoles(rank: number, contract: readonly number[], batch: readonly number[]): void {
  checkDims("dot_general", contract, rank, false);
  checkDims("dot_general", batch, rank, false);
  for (let i = 0; i < batch.length; i++) {
    if (contract.includes(batch[i])) {
      throw new ShapeError(
        "dot_general",
        `dim ${batch[i]} is both contracted ${formatShape(contract)} and batch ${formatShape(batch)}`,
      );
    }
  }
}

function dotShape(a: Shape, b: Shape, attrs: DotAttrs): Shape {
  const { lhs_contract, rhs_contract, lhs_batch, rhs_batch } = attrs;
  const out = new Array<number>(a.length + b.length - 2 * lhs_contract.length - lhs_batch.length);
  let rank = 0;
  for (let i = 0; i < lhs_batch.length; i++) out[rank++] = a[lhs_batch[i]];
  for (let i = 0; i < a.length; i++) {
    if (!lhs_contract.includes(i) && !lhs_batch.includes(i)) out[rank++] = a[i];
  }
  for (let i = 0; i < b.length; i++) {
    if (!rhs_contract.includes(i) && !rhs_batch.includes(i)) out[rank++] = b[i];
  }
  return out;
}

/** from, from + 1, ... */
function range(from: number, count: number): readonly number[] {
  if (count === 0) return f.noDims;
  const list = new Array<number>(count);
  for (let i = 0; i < count; i++) list[i] = from + i;
  return list;
}

/** One operand in its contraction, and where its free dims stand in the result. */
interface Side {
  readonly node: Node;
  readonly contract: readonly number[];
  readonly batch: readonly number[];
  readonly at: number;
}

/** The dims of `own` that other's contracted dims, ascending, pair with: what is left of `other` beside g. */
function pairedDims(own: Side, other: Side): readonly number[] {
  if (own.contract.length === 1) return own.contract;
  const order = [...other.contract].sort((x, y) => x - y);
  return order.map((dim) => own.contract[other.contract.indexOf(dim)]);
}

/** Whether the dims, one list after the other, are 0, 1, 2, ... */
function isInOrder(first: readonly number[], second: readonly number[], third: readonly number[]): boolean {
  let next = 0;
  for (let i = 0; i < first.length; i++) if (first[i] !== next++) return false;
  for (let i = 0; i < second.length; i++) if (second[i] !== next++) return false;
  for (let i = 0; i < third.length; i++) if (third[i] !== next++) return false;
  return true;
}

/**
 * Cotangent of the operand `own`: g contracted with the other operand over the other's free dims. Of the two operand
 * orders the one is taken that gives own's layout without a transpose, where one does.
 */
function cotangent(g: Node, own: Side, other: Side): Node {
  const ownFree = freeDims(own.node.shape.length, own.contract, own.batch);
  const otherFree = freeDims(other.node.shape.length, other.contract, other.batch);
  const batchOfG = range(0, own.batch.length);
  const freeOfG = range(other.at, otherFree.length);
  const paired = pairedDims(own, other);
  const gFirst = isInOrder(own.batch, ownFree, paired);
  if (!gFirst && isInOrder(own.batch, paired, ownFree)) {
    return f.dotGeneral(other.node, g, otherFree, freeOfG, other.batch, batchOfG);
  }
  const product = f.dotGeneral(g, other.node, freeOfG, otherFree, batchOfG, other.batch);
  return gFirst ? product : f.transpose(product, f.inversePerm([...own.batch, ...ownFree, ...paired]));
}

function sharding(
  [a, b]: readonly Node[],
  { lhs_contract, rhs_contract, lhs_batch, rhs_batch }: DotAttrs,
): ShardingRule {
  const factorsOf = (
    rank: number,
    prefix: string,
    contract: readonly number[],
    batch: readonly number[],
  ): string[] =>
    Array.from({ length: rank }, (_, dim) => {
      if (batch.includes(dim)) return `b${batch.indexOf(dim)}`;
      return contract.includes(dim) ? `k${contract.indexOf(dim)}` : `${prefix}${dim}`;
    });
  const fa = factorsOf(a.shape.length, "m", lhs_contract, lhs_batch);
  const fb = factorsOf(b.shape.length, "n", rhs_contract, rhs_batch);
  const out = [
    ...lhs_batch.map((dim) => fa[dim]),
    ...freeDims(fa.length, lhs_contract, lhs_batch).map((dim) => fa[dim]),
    ...freeDims(fb.length, rhs_contract, rhs_batch).map((dim) => fb[dim]),
  ];
  return ruleOf([fa, fb], [out], { reduce: lhs_contract.map((_, i) => `k${i}`) });
}

/** a and b summed over pairs of contracted dims → [batch..., a's free dims..., b's free dims...]. As XLA's dot_general. */
export const dot_general = defineOp({
  name: "dot_general",
  attrs: dotAttrs,
  arity: 2,
  lower: "contraction",
  type: ([a, b], attrs) => {
    checkSameDType("dot_general", a, b);
    checkDType("dot_general", "numeric", a.dtype, "its operands' dtype");
    checkRoles(a.shape.length, attrs.lhs_contract, attrs.lhs_batch);
    checkRoles(b.shape.length, attrs.rhs_contract, attrs.rhs_batch);
    checkPairs("contracted", a.shape, b.shape, attrs.lhs_contract, attrs.rhs_contract);
    checkPairs("batch", a.shape, b.shape, attrs.lhs_batch, attrs.rhs_batch);
    return { dtype: a.dtype, shape: dotShape(a.shape, b.shape, attrs) };
  },
  vjp: ({ inputs: [a, b], grad, attrs, needs }) => {
    const { lhs_contract, rhs_contract, lhs_batch, rhs_batch } = attrs;
    const freeOfA = a.shape.length - lhs_contract.length - lhs_batch.length;
    const lhs: Side = { node: a, contract: lhs_contract, batch: lhs_batch, at: lhs_batch.length };
    const rhs: Side = { node: b, contract: rhs_contract, batch: rhs_batch, at: lhs_batch.length + freeOfA };
    return [needs[0] ? cotangent(grad, lhs, rhs) : null, needs[1] ? cotangent(grad, rhs, lhs) : null];
  },
  sharding,
});
