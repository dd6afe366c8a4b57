import { type DType, isFloat } from "../dtype.js";
import type { Graph } from "../graph.js";
import type { Node } from "../node.js";
import { add, mul, sub } from "../ops/binary.js";
import { full } from "../ops/source.js";
import { abs, cast, neg, reciprocal, square } from "../ops/unary.js";
import { broadcast_to } from "../ops/view.js";
import { where } from "../ops/where.js";
import { broadcastPair, type Shape, sameShape } from "../shape.js";
import { foldRules, uniformValue } from "./fold.js";
import type { Pass } from "./pass.js";
import { type Rule, type Rules, rewrite } from "./rewrite.js";
import { viewRules } from "./simplify_views.js";

// Identities that hold for every value, NaN and infinities included, as in XLA's algebraic simplifier; x + 0 gives x,
// which differs for x = -0 alone. Nothing is reassociated that would round differently.

/** x in `node`'s shape. */
const inShapeOf = (node: Node, x: Node): Node =>
  sameShape(x.shape, node.shape) ? x : broadcast_to([x], { shape: node.shape });

const repeated = (value: number, node: Node): Node =>
  full([], { value, shape: node.shape, dtype: node.dtype });
const scalar = (value: number, dtype: DType): Node => full([], { value, shape: [], dtype });

/** Tries the rules in turn. */
const first =
  (...rules: readonly Rule[]): Rule =>
  (node, inputs, original) => {
    for (const rule of rules) {
      const next = rule(node, inputs, original);
      if (next !== null) return next;
    }
    return null;
  };

/** Elementwise ops broadcast by themselves: broadcasting an operand first adds nothing while another spans the result. */
const dropBroadcasts: Rule = (node, inputs) => {
  for (let i = 0; i < inputs.length; i++) {
    if (inputs[i].op.name !== "broadcast_to") continue;
    const fewer = inputs.map((input, k) => (k === i ? input.inputs[0] : input));
    const shape = fewer.reduce<Shape | null>((so, { shape }) => so && broadcastPair(so, shape), []);
    if (shape && sameShape(shape, node.shape)) return (node.op as never as CallWithInputs)(fewer, node.attrs);
  }
  return null;
};
type CallWithInputs = (inputs: readonly Node[], attrs: unknown) => Node;

/** (other operand, value) where one operand of a commuting op is one value throughout. */
function withUniform([a, b]: readonly Node[]): readonly [Node, number] | null {
  const right = uniformValue(b);
  if (right !== null) return [a, right];
  const left = uniformValue(a);
  return left !== null ? [b, left] : null;
}

const simplifyAdd: Rule = (node, inputs) => {
  const known = withUniform(inputs);
  if (known?.[1] === 0) return inShapeOf(node, known[0]);
  const [a, b] = inputs;
  if (b.op.name === "neg") return sub([a, b.inputs[0]]);
  return a.op.name === "neg" ? sub([b, a.inputs[0]]) : null;
};

const simplifySub: Rule = (node, [a, b]) => {
  if (uniformValue(b) === 0) return inShapeOf(node, a);
  return b.op.name === "neg" ? add([a, b.inputs[0]]) : null;
};

/** Whether `value` is a power of two whose reciprocal `dtype` holds, and not subnormally. */
function isPowerOfTwo(value: number, dtype: DType): boolean {
  if (!isFloat(dtype) || !Number.isFinite(value) || value === 0) return false;
  const exponent = Math.log2(Math.abs(value));
  const limit = dtype === "float64" ? 1021 : dtype === "float16" ? 13 : 125;
  return Number.isInteger(exponent) && Math.abs(exponent) <= limit && 2 ** exponent === Math.abs(value);
}

/** Two factors as one: exact when both are powers of two that scale the same way, so that no step over- or underflows alone. */
function mergedScale(a: number, b: number, dtype: DType): number | null {
  if (!isPowerOfTwo(a, dtype) || !isPowerOfTwo(b, dtype) || !isPowerOfTwo(a * b, dtype)) return null;
  return Math.abs(a) > 1 === Math.abs(b) > 1 ? a * b : null;
}

const simplifyMul: Rule = (node, inputs) => {
  const known = withUniform(inputs);
  if (!known) return null;
  const [x, value] = known;
  if (value === 1) return inShapeOf(node, x);
  if (value === 0 && !isFloat(node.dtype)) return repeated(0, node);
  if (value === -1) return inShapeOf(node, neg([x]));
  if (x.op.name !== "mul") return null;
  const inner = withUniform(x.inputs);
  const scale = inner && mergedScale(value, inner[1], node.dtype);
  return inner && scale !== null ? inShapeOf(node, mul([inner[0], scalar(scale, node.dtype)])) : null;
};

const simplifyDiv: Rule = (node, [a, b]) => {
  const divisor = uniformValue(b);
  if (divisor === null) return null;
  if (divisor === 1) return inShapeOf(node, a);
  return isPowerOfTwo(divisor, node.dtype)
    ? inShapeOf(node, mul([a, scalar(1 / divisor, node.dtype)]))
    : null;
};

const simplifyPow: Rule = (node, [a, b]) => {
  switch (uniformValue(b)) {
    case 0:
      return repeated(1, node);
    case 1:
      return inShapeOf(node, a);
    case 2:
      return inShapeOf(node, square([a]));
    case -1:
      return isFloat(node.dtype) ? inShapeOf(node, reciprocal([a])) : null;
    default:
      return null;
  }
};

const undoes =
  (name: string): Rule =>
  (_, [x]) =>
    x.op.name === name ? x.inputs[0] : null;

/** An op that does not see its operand's sign. */
const evenIn =
  (op: typeof abs): Rule =>
  (_, [x]) =>
    x.op.name === "neg" || x.op.name === "abs" ? op([x.inputs[0]]) : null;

const integerBits: Partial<Record<DType, number>> = { bool: 1, uint8: 8, int32: 31, int64: 63 };
/** Integers up to 2^bits are exact. */
const mantissaBits: Partial<Record<DType, number>> = { float16: 11, bfloat16: 8, float32: 24, float64: 53 };

/** Whether `to` holds every value of `from`. */
function holdsAll(from: DType, to: DType): boolean {
  if (from === to) return true;
  const fromInteger = integerBits[from];
  const toInteger = integerBits[to];
  if (fromInteger !== undefined) return fromInteger <= (toInteger ?? mantissaBits[to] ?? 0);
  if (toInteger !== undefined) return false;
  return to === "float64" || (to === "float32" && from !== "float64");
}

const simplifyCast: Rule = (node, [x]) => {
  if (x.dtype === node.dtype) return x;
  if (x.op.name !== "cast") return null;
  const source = x.inputs[0];
  if (!holdsAll(source.dtype, x.dtype)) return null;
  return source.dtype === node.dtype ? source : cast([source], { dtype: node.dtype });
};

const simplifyWhere: Rule = (node, [condition, a, b]) => {
  const known = uniformValue(condition);
  if (known !== null) return inShapeOf(node, known !== 0 ? a : b);
  if (a === b) return inShapeOf(node, a);
  if (condition.op.name === "logical_not") return where([condition.inputs[0], b, a]);
  // Inside either branch the same condition is already decided.
  const thenValue = a.op.name === "where" && a.inputs[0] === condition ? a.inputs[1] : a;
  const elseValue = b.op.name === "where" && b.inputs[0] === condition ? b.inputs[2] : b;
  if (thenValue === a && elseValue === b) return null;
  return inShapeOf(node, where([condition, thenValue, elseValue]));
};

const alwaysFirst: Rule = (_, [x]) => x;

/** The elementwise ops that broadcast, by name, with what else is known of them. */
const broadcasting: Readonly<Record<string, Rule | null>> = {
  add: simplifyAdd,
  sub: simplifySub,
  mul: simplifyMul,
  div: simplifyDiv,
  pow: simplifyPow,
  where: simplifyWhere,
  maximum: null,
  minimum: null,
  remainder: null,
  floor_divide: null,
  atan2: null,
  eq: null,
  ne: null,
  lt: null,
  le: null,
  gt: null,
  ge: null,
  logical_and: null,
  logical_or: null,
  logical_xor: null,
};

const identities: Rules = {
  ...viewRules,
  ...Object.fromEntries(
    Object.entries(broadcasting).map(([name, rule]) => [
      name,
      rule ? first(rule, dropBroadcasts) : dropBroadcasts,
    ]),
  ),
  neg: undoes("neg"),
  logical_not: undoes("logical_not"),
  abs: evenIn(abs),
  square: evenIn(square),
  cast: simplifyCast,
  detach: alwaysFirst,
};

const rules: Record<string, Rule> = { ...identities };
for (const [name, fold] of Object.entries(foldRules)) {
  rules[name] = name in identities ? first(fold, identities[name]) : fold;
}

/** Constant folding, algebraic identities, views of views, transposes into contractions; detach is dropped: gradients are made before. */
export const simplify: Pass = function simplify(graph: Graph): Graph {
  return rewrite(graph, rules, { settle: true });
};
