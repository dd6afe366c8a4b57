import { type DType, dtypeInfo, isFloat, type Node, ops, promote } from "@lazuli/fx-trace";
import { Tensor } from "../tensor.js";

/** A tensor, or a number that takes the tensor's dtype. */
export type Operand = Tensor | number | boolean;

/**
 * The dtype of `tensor ∘ number`: the tensor's, unless the number's kind is higher (an int tensor with 0.5 gives
 * float32, a bool one with 2 int32). As torch's promotion of Python scalars.
 */
function scalarDtype(dtype: DType, value: number | boolean): DType {
  if (typeof value === "boolean" || isFloat(dtype)) return dtype;
  if (!Number.isInteger(value)) return "float32";
  return dtype === "bool" ? "int32" : dtype;
}

export const castNode = (node: Node, dtype: DType): Node =>
  node.dtype === dtype ? node : ops.cast([node], { dtype });

const scalarNode = (value: number | boolean, dtype: DType): Node =>
  ops.full([], { value: Number(value), shape: [], dtype });

/** Both operands as nodes of one dtype. */
export function operands(a: Tensor, b: Operand): [Node, Node] {
  if (b instanceof Tensor) {
    const dtype = promote(a.dtype, b.dtype);
    return [castNode(a.node, dtype), castNode(b.node, dtype)];
  }
  const dtype = scalarDtype(a.dtype, b);
  return [castNode(a.node, dtype), scalarNode(b, dtype)];
}

/** As a float: integers and bool become float32. As torch's unary float functions. */
const asFloat = (tensor: Tensor): Node =>
  isFloat(tensor.dtype) ? tensor.node : ops.cast([tensor.node], { dtype: "float32" });

const floatUnary = [
  "exp",
  "exp2",
  "expm1",
  "log",
  "log1p",
  "log2",
  "sqrt",
  "rsqrt",
  "sin",
  "cos",
  "tan",
  "asin",
  "acos",
  "atan",
  "sinh",
  "cosh",
  "tanh",
  "sigmoid",
  "erf",
  "reciprocal",
  "silu",
  "softplus",
] as const;
const anyUnary = ["neg", "abs", "sign", "square", "floor", "ceil", "round", "trunc", "relu"] as const;
const testUnary = { isnan: "isnan", isinf: "isinf", isfinite: "isfinite" } as const;
const arithmetic = {
  add: "add",
  sub: "sub",
  mul: "mul",
  pow: "pow",
  maximum: "maximum",
  minimum: "minimum",
  remainder: "remainder",
  floorDivide: "floor_divide",
} as const;
const floatBinary = { div: "div", atan2: "atan2" } as const;
const comparison = { eq: "eq", ne: "ne", lt: "lt", le: "le", gt: "gt", ge: "ge" } as const;
const logical = { logicalAnd: "logical_and", logicalOr: "logical_or", logicalXor: "logical_xor" } as const;
const inPlace = { add_: "add", sub_: "sub", mul_: "mul" } as const;

type Unary = (typeof floatUnary)[number] | (typeof anyUnary)[number] | keyof typeof testUnary;
type Binary =
  | keyof typeof arithmetic
  | keyof typeof floatBinary
  | keyof typeof comparison
  | keyof typeof logical;

/**
 * Elementwise methods, each as the torch function of its name. Operands broadcast as in NumPy and meet in their promoted
 * dtype; a shape that does not broadcast throws ShapeError at the call.
 */
export type ElementwiseMethods = { [N in Unary]: () => Tensor } & {
  [N in Binary]: (other: Operand) => Tensor;
} & {
  [N in keyof typeof inPlace]: (other: Operand) => Tensor;
} & {
  div_(other: Operand): Tensor;
  logicalNot(): Tensor;
  /** Gaussian error linear unit; `approximate: "tanh"` for the tanh form. As torch.nn.functional.gelu. */
  gelu(approximate?: "none" | "tanh"): Tensor;
  /** Limits to [min, max]; either may be left out. As torch.clamp. */
  clamp(min?: number, max?: number): Tensor;
  /** The same values in another dtype; float to int truncates. As torch.Tensor.to. */
  to(dtype: DType): Tensor;
  /** `this` where `condition` holds, else `other`. As torch.Tensor.where. */
  where(condition: Tensor, other: Operand): Tensor;
  /** `value` where `mask` holds, else this. As torch.Tensor.masked_fill. */
  maskedFill(mask: Tensor, value: number): Tensor;
  /** Overwrites the value with that of `source`, cast and broadcast. As torch.Tensor.copy_. */
  copy_(source: Tensor): Tensor;
  fill_(value: number): Tensor;
  zero_(): Tensor;
};

type BinaryName =
  | "add"
  | "sub"
  | "mul"
  | "div"
  | "pow"
  | "maximum"
  | "minimum"
  | "remainder"
  | "floor_divide"
  | "atan2"
  | "eq"
  | "ne"
  | "lt"
  | "le"
  | "gt"
  | "ge"
  | "logical_and"
  | "logical_or"
  | "logical_xor";
const binary = (name: BinaryName, a: Node, b: Node): Node => ops[name]([a, b], {});

/** The value of `tensor` after an in-place operation: its dtype and shape stay. */
function assignFrom(tensor: Tensor, value: Node): Tensor {
  const cast = castNode(value, tensor.dtype);
  return tensor.assign_(
    cast.shape.length === tensor.rank && cast.shape.every((d, i) => d === tensor.shape[i])
      ? cast
      : ops.broadcast_to([cast], { shape: tensor.shape }),
  );
}

function divide(a: Tensor, b: Operand): Node {
  const [x, y] = operands(a, b);
  return dtypeInfo[x.dtype].kind === "float"
    ? ops.div([x, y], {})
    : ops.div([castNode(x, "float32"), castNode(y, "float32")], {});
}

const methods: Record<string, (this: Tensor, ...args: never[]) => unknown> = {
  div(other: Operand) {
    return new Tensor(divide(this, other));
  },
  atan2(other: Operand) {
    const [x, y] = operands(this, other);
    return new Tensor(
      isFloat(x.dtype)
        ? binary("atan2", x, y)
        : binary("atan2", castNode(x, "float32"), castNode(y, "float32")),
    );
  },
  div_(other: Operand) {
    return assignFrom(this, divide(this, other));
  },
  logicalNot() {
    return new Tensor(ops.logical_not([castNode(this.node, "bool")], {}));
  },
  gelu(approximate: "none" | "tanh" = "none") {
    return new Tensor(ops.gelu([asFloat(this)], { approximate }));
  },
  clamp(min?: number, max?: number) {
    let result: Tensor = this;
    if (min !== undefined) result = result.maximum(min);
    if (max !== undefined) result = result.minimum(max);
    return result;
  },
  to(dtype: DType) {
    return dtype === this.dtype ? this : new Tensor(castNode(this.node, dtype));
  },
  where(condition: Tensor, other: Operand) {
    const [x, y] = operands(this, other);
    return new Tensor(ops.where([castNode(condition.node, "bool"), x, y], {}));
  },
  maskedFill(mask: Tensor, value: number) {
    return new Tensor(ops.where([castNode(mask.node, "bool"), scalarNode(value, this.dtype), this.node], {}));
  },
  copy_(source: Tensor) {
    // A node of its own: two tensors of one node would share a buffer that the next update gives up.
    return assignFrom(this, ops.reshape([castNode(source.node, this.dtype)], { shape: source.shape }));
  },
  fill_(value: number) {
    return this.assign_(ops.full([], { value, shape: this.shape, dtype: this.dtype }));
  },
  zero_() {
    return this.fill_(0);
  },
};

for (const name of floatUnary)
  methods[name] = function () {
    return new Tensor(ops[name]([asFloat(this)], {}));
  };
for (const name of anyUnary)
  methods[name] = function () {
    return new Tensor(ops[name]([this.node], {}));
  };
for (const name of Object.values(testUnary))
  methods[name] = function () {
    return new Tensor(ops[name]([asFloat(this)], {}));
  };
for (const [method, op] of [...Object.entries(arithmetic), ...Object.entries(comparison)]) {
  methods[method] = function (other: Operand) {
    return new Tensor(binary(op, ...operands(this, other)));
  };
}
for (const [method, op] of Object.entries(logical)) {
  methods[method] = function (other: Operand) {
    const right = other instanceof Tensor ? castNode(other.node, "bool") : scalarNode(other, "bool");
    return new Tensor(binary(op, castNode(this.node, "bool"), right));
  };
}
for (const [method, op] of Object.entries(inPlace)) {
  methods[method] = function (other: Operand) {
    return assignFrom(this, binary(op, ...operands(this, other)));
  };
}

Object.assign(Tensor.prototype, methods);

declare module "../tensor.js" {
  interface Tensor extends ElementwiseMethods {}
}
