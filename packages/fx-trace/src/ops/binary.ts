import type { Node } from "../node.js";
import { type Cotangents, defineOp, type Op, type VjpArgs } from "../opdef.js";
import * as f from "./build.js";
import { elementwiseSharding } from "./factors.js";
import { binaryType, predicateType, type Takes } from "./rules.js";

/** Cotangent of one operand, in the shape of the result. */
type Pull = (a: Node, b: Node, g: Node, y: Node) => Node;
type Plain = Record<never, never>;

function pullBoth(args: VjpArgs<unknown>, pullA: Pull, pullB: Pull): Cotangents {
  const [a, b] = args.inputs;
  return [
    args.needs[0] ? f.sumTo(pullA(a, b, args.grad, args.out), a.shape) : null,
    args.needs[1] ? f.sumTo(pullB(a, b, args.grad, args.out), b.shape) : null,
  ];
}

function binary(name: string, takes: Takes, pullA: Pull, pullB: Pull): Op<Plain> {
  return defineOp({
    name,
    attrs: {},
    arity: 2,
    lower: "elementwise",
    type: (inputs) => binaryType(name, takes, inputs),
    vjp: (args) => pullBoth(args, pullA, pullB),
    sharding: elementwiseSharding,
  });
}

const pass: Pull = (_a, _b, g) => g;
const flat: Pull = (_a, _b, g) => f.zerosLike(g);

export const add = binary("add", "numeric", pass, pass);
export const sub = binary("sub", "numeric", pass, (_a, _b, g) => f.neg(g));
export const mul = binary(
  "mul",
  "numeric",
  (_a, b, g) => f.mul(g, b),
  (a, _b, g) => f.mul(g, a),
);
/** On integers truncates. */
export const div = binary(
  "div",
  "numeric",
  (_a, b, g) => f.div(g, b),
  (_a, b, g, y) => f.neg(f.div(f.mul(g, y), b)),
);

/** The value every element of x has, where that is known; else null. */
const uniformValue = (x: Node): number | null => (x.op.name === "full" ? (x.attrs.value as number) : null);

/**
 * b a^(b-1). Where both are 0 the exponent's 0 must win over 0^-1, also in the second derivative: there b - 1 is
 * taken from 1.
 */
const powBase: Pull = (a, b, g) => {
  const known = uniformValue(b);
  if (known === 0) return f.zerosLike(g);
  if (known === 1) return g;
  if (known === 2) return f.mul(g, f.mul(a, 2));
  if (known !== null) return f.mul(g, f.mul(f.pow(a, known - 1), known));
  const safe = f.where(f.logicalAnd(f.eq(a, 0), f.eq(b, 0)), 1, b);
  return f.mul(g, f.mul(b, f.pow(a, f.sub(safe, 1))));
};

/** a^b log a; 0 where a is 0 and b is not negative, as in PyTorch. */
const powExponent: Pull = (a, b, g, y) => {
  const zero = f.logicalAnd(f.eq(a, 0), f.ge(b, 0));
  return f.mul(g, f.mul(y, f.log(f.where(zero, 1, a))));
};

export const pow = binary("pow", "numeric", powBase, powExponent);

/** All of g where a wins, half of it on ties. */
const winner =
  (loses: (a: Node, b: Node) => Node): Pull =>
  (a, b, g) =>
    f.where(loses(a, b), 0, f.where(f.eq(a, b), f.mul(g, 0.5), g));

/** NaN propagates. */
export const maximum = binary(
  "maximum",
  "numeric",
  winner((a, b) => f.lt(a, b)),
  winner((a, b) => f.gt(a, b)),
);
export const minimum = binary(
  "minimum",
  "numeric",
  winner((a, b) => f.gt(a, b)),
  winner((a, b) => f.lt(a, b)),
);

/** a - b floor(a / b): the sign of b. */
export const remainder = binary("remainder", "numeric", pass, (a, b, g) =>
  f.neg(f.mul(g, f.floorDivide(a, b))),
);
export const floor_divide = binary("floor_divide", "numeric", flat, flat);

/** 1 / (a² + b²), 0 at the origin. */
function atan2Scale(a: Node, b: Node): Node {
  const norm = f.add(f.square(a), f.square(b));
  const origin = f.eq(norm, 0);
  return f.where(origin, 0, f.reciprocal(f.where(origin, 1, norm)));
}

/** The angle of (b, a). */
export const atan2 = binary(
  "atan2",
  "float",
  (a, b, g) => f.mul(g, f.mul(b, atan2Scale(a, b))),
  (a, b, g) => f.neg(f.mul(g, f.mul(a, atan2Scale(a, b)))),
);

function predicate(name: string, takes: Takes): Op<Plain> {
  return defineOp({
    name,
    attrs: {},
    arity: 2,
    lower: "elementwise",
    type: (inputs) => predicateType(name, takes, inputs),
    sharding: elementwiseSharding,
  });
}

export const eq = predicate("eq", "any");
export const ne = predicate("ne", "any");
export const lt = predicate("lt", "any");
export const le = predicate("le", "any");
export const gt = predicate("gt", "any");
export const ge = predicate("ge", "any");
export const logical_and = predicate("logical_and", "bool");
export const logical_or = predicate("logical_or", "bool");
export const logical_xor = predicate("logical_xor", "bool");
