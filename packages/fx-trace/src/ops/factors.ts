import type { Node } from "../node.js";
import type { ShardingRule } from "../opdef.js";
import type { Shape } from "../shape.js";

/*
 * Factor strings: operands and results are comma lists around `->`, their dims space lists of factors. `_` is a dim
 * that must stay whole, `(a b)` a dim of several factors, the first the outermost.
 */

export const WHOLE = "_";

/** `prefix0 prefix1 ...`, one factor a dim. */
export const dimFactors = (rank: number, prefix = "d"): string[] =>
  Array.from({ length: rank }, (_, i) => `${prefix}${i}`);

export const ruleOf = (
  operands: readonly (readonly string[])[],
  results: readonly (readonly string[])[],
  more: Omit<ShardingRule, "factors"> = {},
): ShardingRule => ({
  factors: `${operands.map((dims) => dims.join(" ")).join(", ")} -> ${results.map((dims) => dims.join(" ")).join(", ")}`,
  ...more,
});

/** Factors of an operand that is broadcast to `out`: a dim of size 1 that is stretched has none. */
export function broadcastFactors(shape: Shape, out: Shape): string[] {
  const skip = out.length - shape.length;
  return shape.map((size, i) => (size === out[i + skip] ? `d${i + skip}` : WHOLE));
}

/** Every dim of the result is a factor; operands align at the last dim. */
export function elementwiseSharding(inputs: readonly Node[]): ShardingRule {
  const rank = Math.max(...inputs.map((x) => x.shape.length));
  const out = Array.from({ length: rank }, (_, i) => {
    const sizes = inputs.map((x) => x.shape[i - rank + x.shape.length] ?? 1);
    return sizes.find((size) => size !== 1) ?? 1;
  });
  return ruleOf(
    inputs.map((x) => broadcastFactors(x.shape, out)),
    [dimFactors(rank)],
  );
}

/** A value made in place: any dim may be split. */
export const sourceSharding = (operandRanks: readonly number[], shape: Shape): ShardingRule =>
  ruleOf(
    operandRanks.map((rank) => dimFactors(rank, "k")),
    [dimFactors(shape.length)],
    operandRanks.length > 0 ? { replicate: operandRanks.flatMap((rank) => dimFactors(rank, "k")) } : {},
  );

/** Same shape in every operand and result; the dims named must be whole. */
export function alongDims(
  operands: number,
  results: number,
  rank: number,
  whole: readonly number[],
): ShardingRule {
  const dims = dimFactors(rank);
  return ruleOf(new Array<string[]>(operands).fill(dims), new Array<string[]>(results).fill(dims), {
    replicate: whole.map((dim) => dims[dim]),
  });
}

export function reductionSharding(
  rank: number,
  dims: readonly number[],
  keepdim: boolean,
  partial: boolean,
): ShardingRule {
  const operand = dimFactors(rank);
  const reduced = dims.map((dim) => operand[dim]);
  const result = keepdim
    ? operand.map((factor, i) => (dims.includes(i) ? WHOLE : factor))
    : operand.filter((_, i) => !dims.includes(i));
  return ruleOf([operand], [result], partial ? { reduce: reduced } : { replicate: reduced });
}

/**
 * Splits and merges: walks both shapes from the outermost dim and cuts a factor wherever one dim is used up and divides
 * what is left of the other. Dims that do not divide stay whole, up to where the shapes meet again.
 */
export function reshapeSharding(from: Shape, to: Shape): ShardingRule {
  const operand = from.map((): string[] => []);
  const result = to.map((): string[] => []);
  let count = 0;
  let i = 0;
  let j = 0;
  let restFrom = 1;
  let restTo = 1;
  const elements = from.reduce((product, dim) => product * dim, 1);
  while (elements > 0 && (i < from.length || j < to.length)) {
    if (restFrom === 1 && i < from.length) restFrom = from[i++];
    if (restTo === 1 && j < to.length) restTo = to[j++];
    if ((restFrom === 1 && i < from.length) || (restTo === 1 && j < to.length)) continue; // dims of size 1
    const cut = Math.min(restFrom, restTo);
    if (restFrom % cut === 0 && restTo % cut === 0) {
      restFrom /= cut;
      restTo /= cut;
      if (cut === 1) continue;
      const factor = `d${count++}`;
      operand[i - 1].push(factor);
      result[j - 1].push(factor);
      continue;
    }
    operand[i - 1].push(WHOLE);
    result[j - 1].push(WHOLE);
    while (restFrom !== restTo) {
      if (restFrom < restTo) restFrom *= from[i++];
      else restTo *= to[j++];
    }
    restFrom = 1;
    restTo = 1;
  }
  const text = (groups: readonly string[][]): string[] =>
    groups.map((group) =>
      group.length === 0 ? WHOLE : group.length === 1 ? group[0] : `(${group.join(" ")})`,
    );
  return ruleOf([text(operand)], [text(result)]);
}
