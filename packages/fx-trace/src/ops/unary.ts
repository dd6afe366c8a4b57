import { dtypeInfo } from "../dtype.js";
import { DTypeError } from "../errors.js";
import type { Node } from "../node.js";
import { defineOp, type Op } from "../opdef.js";
import * as f from "./build.js";
import { elementwiseSharding } from "./factors.js";
import { checkDType, sameType, type Takes, unaryType } from "./rules.js";

/** Cotangent of x, from x, y = op(x) and the cotangent g of y. */
type Pull = (x: Node, y: Node, g: Node) => Node;
type Plain = Record<never, never>;

function unary(name: string, takes: Takes, pull: Pull): Op<Plain> {
  return defineOp({
    name,
    attrs: {},
    arity: 1,
    lower: "elementwise",
    type: (inputs) => unaryType(name, takes, inputs),
    vjp: ({ inputs: [x], out, grad }) => [pull(x, out, grad)],
    sharding: elementwiseSharding,
  });
}

/** Steps and signs: the derivative is 0 where there is one. */
const flat: Pull = (x) => f.zerosLike(x);

export const neg = unary("neg", "numeric", (_x, _y, g) => f.neg(g));
/** Derivative 0 at 0. */
export const abs = unary("abs", "numeric", (x, _y, g) => f.mul(g, f.sign(x)));
export const sign = unary("sign", "numeric", flat);
export const floor = unary("floor", "numeric", flat);
export const ceil = unary("ceil", "numeric", flat);
/** Half to even. */
export const round = unary("round", "numeric", flat);
export const trunc = unary("trunc", "numeric", flat);
export const square = unary("square", "numeric", (x, _y, g) => f.mul(g, f.mul(x, 2)));
/** Derivative 0 at 0; NaN passes g, as in PyTorch. */
export const relu = unary("relu", "numeric", (_x, y, g) => f.where(f.le(y, 0), 0, g));

export const exp = unary("exp", "float", (_x, y, g) => f.mul(g, y));
export const exp2 = unary("exp2", "float", (_x, y, g) => f.mul(g, f.mul(y, Math.LN2)));
export const expm1 = unary("expm1", "float", (_x, y, g) => f.mul(g, f.add(y, 1)));
export const log = unary("log", "float", (x, _y, g) => f.div(g, x));
export const log1p = unary("log1p", "float", (x, _y, g) => f.div(g, f.add(x, 1)));
export const log2 = unary("log2", "float", (x, _y, g) => f.div(g, f.mul(x, Math.LN2)));
export const sqrt = unary("sqrt", "float", (_x, y, g) => f.div(g, f.mul(y, 2)));
export const rsqrt = unary("rsqrt", "float", (_x, y, g) => f.mul(f.mul(g, -0.5), f.mul(f.square(y), y)));
export const reciprocal = unary("reciprocal", "float", (_x, y, g) => f.neg(f.mul(g, f.square(y))));

export const sin = unary("sin", "float", (x, _y, g) => f.mul(g, f.cos(x)));
export const cos = unary("cos", "float", (x, _y, g) => f.neg(f.mul(g, f.sin(x))));
export const tan = unary("tan", "float", (_x, y, g) => f.mul(g, f.add(f.square(y), 1)));
export const asin = unary("asin", "float", (x, _y, g) => f.mul(g, f.rsqrt(f.sub(1, f.square(x)))));
export const acos = unary("acos", "float", (x, _y, g) => f.neg(f.mul(g, f.rsqrt(f.sub(1, f.square(x))))));
export const atan = unary("atan", "float", (x, _y, g) => f.div(g, f.add(f.square(x), 1)));
export const sinh = unary("sinh", "float", (x, _y, g) => f.mul(g, f.cosh(x)));
export const cosh = unary("cosh", "float", (x, _y, g) => f.mul(g, f.sinh(x)));
export const tanh = unary("tanh", "float", (_x, y, g) => f.mul(g, f.sub(1, f.square(y))));
export const sigmoid = unary("sigmoid", "float", (_x, y, g) => f.mul(g, f.mul(y, f.sub(1, y))));
export const erf = unary("erf", "float", (x, _y, g) =>
  f.mul(g, f.mul(f.exp(f.neg(f.square(x))), 2 / Math.sqrt(Math.PI))),
);

/** x sigmoid(x). */
export const silu = unary("silu", "float", (x, _y, g) => f.siluGrad(x, g));
/** log(1 + exp(x)). */
export const softplus = unary("softplus", "float", (x, _y, g) => f.mul(g, f.sigmoid(x)));

const approximations = ["none", "tanh"] as const;

/** x Φ(x), or its tanh approximation. As torch.nn.functional.gelu. */
export const gelu = defineOp({
  name: "gelu",
  attrs: { approximate: approximations },
  arity: 1,
  lower: "elementwise",
  type: (inputs) => unaryType("gelu", "float", inputs),
  vjp: ({ inputs: [x], grad, attrs }) => [f.geluGrad(x, grad, attrs.approximate)],
  sharding: elementwiseSharding,
});

/** With s = sigmoid(x): silu'' = s (1 - s) (2 + x (1 - 2 s)). */
function siluSecond(x: Node): Node {
  const s = f.sigmoid(x);
  return f.mul(f.mul(s, f.sub(1, s)), f.add(f.mul(x, f.sub(1, f.mul(s, 2))), 2));
}

/** With φ the normal density: gelu'' = φ(x) (2 - x²). */
function geluSecond(x: Node): Node {
  const square = f.square(x);
  const density = f.mul(f.exp(f.mul(square, -0.5)), 1 / Math.sqrt(2 * Math.PI));
  return f.mul(density, f.sub(2, square));
}

/** With u = c (x + a x³), t = tanh u: gelu'' = (1 - t²) (u' + x (u'' / 2 - t u'²)). */
function geluTanhSecond(x: Node): Node {
  const c = Math.sqrt(2 / Math.PI);
  const a = 0.044715;
  const square = f.square(x);
  const t = f.tanh(f.mul(f.mul(x, c), f.add(f.mul(square, a), 1)));
  const du = f.mul(f.add(f.mul(square, 3 * a), 1), c);
  const halfDdu = f.mul(x, 3 * a * c);
  return f.mul(f.sub(1, f.square(t)), f.add(du, f.mul(x, f.sub(halfDdu, f.mul(t, f.square(du))))));
}

/** g times the derivative of silu at x. */
export const silu_grad = defineOp({
  name: "silu_grad",
  attrs: {},
  arity: 2,
  lower: "elementwise",
  type: (inputs) => sameType("silu_grad", "float", inputs),
  vjp: ({ inputs: [x, g], grad, needs }) => [
    needs[0] ? f.mul(f.mul(grad, g), siluSecond(x)) : null,
    needs[1] ? f.siluGrad(x, grad) : null,
  ],
  sharding: elementwiseSharding,
});

/** g times the derivative of gelu at x. */
export const gelu_grad = defineOp({
  name: "gelu_grad",
  attrs: { approximate: approximations },
  arity: 2,
  lower: "elementwise",
  type: (inputs) => sameType("gelu_grad", "float", inputs),
  vjp: ({ inputs: [x, g], grad, attrs: { approximate }, needs }) => [
    needs[0] ? f.mul(f.mul(grad, g), approximate === "tanh" ? geluTanhSecond(x) : geluSecond(x)) : null,
    needs[1] ? f.geluGrad(x, grad, approximate) : null,
  ],
  sharding: elementwiseSharding,
});

function predicate(name: string, takes: Takes): Op<Plain> {
  return defineOp({
    name,
    attrs: {},
    arity: 1,
    lower: "elementwise",
    type: ([x]) => {
      checkDType(name, takes, x.dtype);
      return { dtype: "bool", shape: x.shape };
    },
    sharding: elementwiseSharding,
  });
}

export const logical_not = predicate("logical_not", "bool");
export const isnan = predicate("isnan", "float");
export const isinf = predicate("isinf", "float");
export const isfinite = predicate("isfinite", "float");

/** Float to int truncates, to bool is != 0. A gradient passes between float dtypes. */
export const cast = defineOp({
  name: "cast",
  attrs: { dtype: "dtype" },
  arity: 1,
  lower: "elementwise",
  type: ([x], { dtype }) => {
    if (!(dtype in dtypeInfo)) throw new DTypeError("cast", `no such dtype: ${x.dtype} to ${dtype}`);
    return { dtype, shape: x.shape };
  },
  vjp: ({ inputs: [x], grad }) => [f.cast(grad, x.dtype)],
  sharding: elementwiseSharding,
});
