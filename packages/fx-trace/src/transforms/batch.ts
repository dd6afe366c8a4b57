import { GraphError } from "../errors.js";
import { GraphBuilder } from "../graph.js";
import { apply, atScope, type Node, withGrad, withoutUses, withRecorder } from "../node.js";
import type { Attrs, ShardingRule } from "../opdef.js";
import * as f from "../ops/build.js";
import { sizeOf } from "../shape.js";

/*
 * Batching: the nodes of a function of one example are recorded again for many, the batch being dim 0 of every value that
 * depends on a batched one. As jax.vmap. What an op does along the new dim is read from its factor rule: a dim that is
 * one factor of operands and results, neither summed nor whole, is computed independently for each of its indices,
 * which is what dividing it over devices relies on too.
 */

/** A value for many examples: of batch dim 0 where `batched`, and one for all where not. */
export interface Batched {
  readonly node: Node;
  readonly batched: boolean;
}

/** Of random ops: an error, numbers of its own for every example, or the same for all. As torch.func.vmap's. */
export type Randomness = "error" | "different" | "same";

export interface Batching {
  /** Number of examples. */
  readonly size: number;
  readonly randomness: Randomness;
}

/**
 * A node of one example, recorded for many: one value a result. `inputs` are its operands, of which one at least is
 * batched (of random ops none need be).
 */
export type BatchRule = (node: Node, inputs: readonly Batched[], batching: Batching) => readonly Batched[];

/** The rule of each op; the table binds itself here, since rules expand into ops that have rules. */
let ruleOf: (node: Node) => BatchRule;
export function bindRules(lookup: (node: Node) => BatchRule): void {
  ruleOf = lookup;
}

// --- the walk --------------------------------------------------------------------------------------------------------

/**
 * Records `nodes` (inputs before users), which compute one example, for `batching.size` of them. `values` holds the
 * placeholders' values and takes every node's, one a result; a node it does not hold is one value for all examples.
 * Nodes on which no gradient was recorded record none. Throws ValueError for random ops where `randomness` is "error".
 */
export function batchNodes(
  nodes: readonly Node[],
  values: Map<Node, readonly Batched[]>,
  batching: Batching,
): void {
  for (const node of nodes) {
    if (values.has(node)) continue;
    values.set(
      node,
      withGrad(node.requiresGrad, () => atScope(node.scope, () => batchNode(node, values, batching))),
    );
  }
}

/** The value of `node` among `values`: itself, for all examples, where they do not hold it. */
export const valueIn = (values: ReadonlyMap<Node, readonly Batched[]>, node: Node): Batched =>
  values.get(node)?.[0] ?? { node, batched: false };

function batchNode(
  node: Node,
  values: ReadonlyMap<Node, readonly Batched[]>,
  batching: Batching,
): readonly Batched[] {
  const { op, attrs } = node;
  if (op.name === "result") {
    const results = values.get(node.inputs[0]);
    if (results) return [results[attrs.index as number]];
  }
  const inputs = node.inputs.map((input) => valueIn(values, input));
  const draws = op.unique && op.lower !== "kernel";
  if (draws || inputs.some(({ batched }) => batched)) return ruleOf(node)(node, inputs, batching);
  return resultsOf(
    apply(
      op,
      inputs.map((input) => input.node),
      attrs,
    ),
    false,
  );
}

/** By result, a recorded node's values. */
export const resultsOf = (node: Node, batched: boolean): Batched[] =>
  (node.types.length === 1 ? [node] : f.resultsOf(node)).map((value) => ({ node: value, batched }));

// --- words for rules -------------------------------------------------------------------------------------------------

/** The value with the batch as dim 0, repeated where it is one for all. */
export const spread = ({ node, batched }: Batched, size: number): Node =>
  batched ? node : f.broadcastTo(node, [size, ...node.shape]);

/** Dim `from` moved to `to`; the others keep their order. */
export function moveDim(x: Node, from: number, to: number): Node {
  const perm = x.shape.map((_, dim) => dim).filter((dim) => dim !== from);
  perm.splice(to, 0, from);
  return f.transpose(x, perm);
}

/** How an attribute changes where every dim moves up by one. */
export type ShiftAttrs = (attrs: Attrs, size: number) => Attrs;
const sameAttrs: ShiftAttrs = (attrs) => attrs;

/**
 * Elementwise ops, operands aligned at the last dim: a batched operand of a smaller rank gets dims of size 1 behind the
 * batch.
 */
export const elementwise: BatchRule = (node, inputs) => {
  const rank = node.shape.length;
  const operands = inputs.map(({ node: x, batched }) => {
    if (!batched || x.shape.length === rank + 1) return x;
    const ones = new Array<number>(rank + 1 - x.shape.length).fill(1);
    return f.reshape(x, [x.shape[0], ...ones, ...x.shape.slice(1)]);
  });
  return resultsOf(apply(node.op, operands, node.attrs), true);
};

/** The op over batched operands, each with the batch in front; `shift` moves the dims its attributes name. */
export const leading =
  (shift: ShiftAttrs = sameAttrs): BatchRule =>
  (node, inputs, { size }) => {
    const operands = inputs.map((input) => spread(input, size));
    const made = apply(node.op, operands, shift(node.attrs, size));
    checkBatchFactor(
      made,
      operands.map(() => true),
    );
    return resultsOf(made, true);
  };

/**
 * As `leading`, where no operands but those at `rows` are batched, the others being one for all rows; else through the
 * op's decomposition.
 */
export const leadingRows =
  (rows: readonly number[]): BatchRule =>
  (node, inputs, batching) => {
    if (inputs.some(({ batched }, i) => batched && !rows.includes(i))) return expand(node, inputs, batching);
    const operands = inputs.map((input, i) => (rows.includes(i) ? spread(input, batching.size) : input.node));
    const made = apply(node.op, operands, node.attrs);
    checkBatchFactor(
      made,
      operands.map((_, i) => rows.includes(i)),
    );
    return resultsOf(made, true);
  };

/**
 * For ops of fixed ranks: the batch is merged into the factor that dim 0 of every result is, outermost, in each operand
 * that has it there. Through the decomposition where an operand without it is batched, or the rule sums it.
 */
export const merged: BatchRule = (node, inputs, batching) => {
  const rule = factorRule(node);
  const factor = rule && batchFactor(rule);
  const has = node.inputs.map((_, i) => factor !== null && rule?.operands[i][0]?.join() === factor);
  if (!factor || inputs.some(({ batched }, i) => batched && !has[i])) return expand(node, inputs, batching);
  const { size } = batching;
  const operands = inputs.map((input, i) => {
    if (!has[i]) return input.node;
    const [, first, ...rest] = spread(input, size).shape;
    return f.reshape(spread(input, size), [size * first, ...rest]);
  });
  const made = apply(node.op, operands, node.attrs);
  return resultsOf(made, true).map(({ node: value }, i) => ({
    node: f.reshape(value, [size, ...node.types[i].shape]),
    batched: true,
  }));
};

/** Records the op's decomposition instead, for many examples. */
export const expand: BatchRule = (node, inputs, batching) => {
  const { decompose } = node.op;
  if (!decompose)
    throw new GraphError(node.op.name, "has neither a batching rule nor a decomposition", node.scope);
  const parts = new GraphBuilder();
  const results = withoutUses(() =>
    withRecorder(parts, () =>
      withGrad(node.requiresGrad, () => decompose(node.inputs, node.attrs as never, node)),
    ),
  );
  const values = new Map<Node, readonly Batched[]>(node.inputs.map((input, i) => [input, [inputs[i]]]));
  batchNodes(parts.nodes, values, batching);
  return results.map((result) => valueIn(values, result));
};

// --- factor rules ----------------------------------------------------------------------------------------------------

interface FactorRule extends Pick<ShardingRule, "reduce" | "replicate"> {
  /** By operand and by dim, its factors. */
  readonly operands: readonly (readonly (readonly string[])[])[];
  readonly results: readonly (readonly (readonly string[])[])[];
}

const parseDims = (text: string): string[][] =>
  Array.from(text.matchAll(/\([^)]*\)|\S+/g), ([token]) =>
    token.startsWith("(") ? token.slice(1, -1).trim().split(/\s+/) : [token],
  );

function factorRule(node: Node): FactorRule | null {
  const { sharding } = node.op;
  if (!sharding) return null;
  const rule = typeof sharding === "function" ? sharding(node.inputs, node.attrs as never) : sharding;
  const [operands, results] = rule.factors.split("->").map((side) => side.split(",").map(parseDims));
  return { operands, results, reduce: rule.reduce, replicate: rule.replicate };
}

/** The one factor that dim 0 of every result is, computed independently for each index; null where there is none. */
function batchFactor({ results, reduce, replicate }: FactorRule): string | null {
  const [first] = results;
  const factors = first[0];
  if (factors?.length !== 1 || factors[0] === "_") return null;
  const [factor] = factors;
  if (reduce?.includes(factor) || replicate?.includes(factor)) return null;
  return results.every((dims) => dims[0]?.join() === factor) ? factor : null;
}

/** Throws GraphError unless the op's factor rule says that dim 0 of results and `batched` operands is a batch. */
function checkBatchFactor(made: Node, batched: readonly boolean[]): void {
  // Rules leave dims of one element or of none whole.
  if (made.types.some(({ shape }) => shape[0] <= 1) || made.inputs.some(({ shape }) => sizeOf(shape) === 0))
    return;
  const rule = factorRule(made);
  if (!rule) return;
  const factor = batchFactor(rule);
  const fits = (dims: readonly (readonly string[])[], i: number): boolean =>
    batched[i] ? dims[0]?.join() === factor : !dims.flat().includes(factor as string);
  if (factor && rule.operands.slice(0, made.inputs.length).every(fits)) return;
  throw new GraphError(made.op.name, "its factor rule does not leave the batch apart", made.scope);
}
