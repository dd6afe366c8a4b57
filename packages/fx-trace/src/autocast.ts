import { type DType, isFloat, promote } from "./dtype.js";
import { GraphBuilder } from "./graph.js";
import { apply, atScope, type Casts, type Node, withCasts, withRecorder } from "./node.js";
import type { OpDef } from "./opdef.js";
import { FORWARD } from "./ops/attention_parts.js";
import { cast } from "./ops/build.js";
import { collectiveNames } from "./ops/collective.js";
import { type OpName, ops } from "./ops/table.js";
import type { Pass } from "./passes/pass.js";

/** What an op's float operands are cast to: the narrow dtype, float32, the widest among them, or nothing. */
type Policy = "narrow" | "float32" | "widest" | "own";

const policies = {
  // Products: worth the narrow dtype, and added up in float32 inside.
  narrow: ["dot_general", "attention", "linear_cross_entropy"],
  // What loses too much in a narrow dtype, as in torch.autocast.
  float32: [
    "exp",
    "exp2",
    "expm1",
    "log",
    "log1p",
    "log2",
    "rsqrt",
    "reciprocal",
    "pow",
    "tan",
    "asin",
    "acos",
    "sinh",
    "cosh",
    "softplus",
    "sum",
    "prod",
    "cumsum",
    "mean",
    "logsumexp",
    "softmax",
    "log_softmax",
    "rms_norm",
    "layer_norm",
  ],
  widest: [
    "neg",
    "abs",
    "sign",
    "sqrt",
    "sin",
    "cos",
    "atan",
    "tanh",
    "sigmoid",
    "erf",
    "square",
    "floor",
    "ceil",
    "round",
    "trunc",
    "relu",
    "silu",
    "gelu",
    "logical_not",
    "isnan",
    "isinf",
    "isfinite",
    "add",
    "sub",
    "mul",
    "div",
    "maximum",
    "minimum",
    "remainder",
    "floor_divide",
    "atan2",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_and",
    "logical_or",
    "logical_xor",
    "silu_grad",
    "gelu_grad",
    "where",
    "max",
    "min",
    "argmax",
    "argmin",
    "reshape",
    "transpose",
    "broadcast_to",
    "slice",
    "flip",
    "pad",
    "concat",
    "index_select",
    "index_add",
    "gather",
    "scatter_add",
    "sort",
    "topk",
  ],
  // Sources, moves, and kernels whose operands differ by design.
  own: [
    "result",
    "detach",
    "barrier",
    "cast",
    "adamw_update",
    "softmax_grad",
    "log_softmax_grad",
    "rms_norm_grad",
    "layer_norm_grad",
    "attention_grad",
    "attention_bias_grad",
    "cross_entropy",
    "cross_entropy_grad",
    "linear_cross_entropy_grad",
    "rope",
    ...collectiveNames,
    "input",
    "constant",
    "full",
    "iota",
    "random_uniform",
    "random_normal",
    "bernoulli",
  ],
} as const satisfies Readonly<Record<Policy, readonly OpName[]>>;

/** An op in no list does not compile. */
const _everyOp: Exclude<OpName, (typeof policies)[Policy][number]> extends never ? true : false = true;

const policyOf = new Map<OpDef, Policy>();
for (const policy of Object.keys(policies) as Policy[])
  for (const name of policies[policy]) policyOf.set(ops[name] as unknown as OpDef, policy);

/** Ops that are cast in their first operands only: a bias of the scores may be wider than q, k and v, and is large. */
const castOperands = new Map<OpDef, number>([[ops.attention as unknown as OpDef, FORWARD]]);

/** The widest float dtype among the operands; null where there is none. */
function widest(inputs: readonly Node[]): DType | null {
  let dtype: DType | null = null;
  for (const input of inputs)
    if (isFloat(input.dtype)) dtype = dtype === null ? input.dtype : promote(dtype, input.dtype);
  return dtype;
}

const casts =
  (narrow: DType): Casts =>
  (op, inputs) => {
    const policy = policyOf.get(op) as Policy;
    const count = castOperands.get(op) ?? inputs.length;
    const own = policy === "own" ? null : widest(count < inputs.length ? inputs.slice(0, count) : inputs);
    // float64 was asked for: it is left alone.
    if (own === null || own === "float64") return inputs;
    const dtype = policy === "narrow" ? narrow : policy === "float32" ? "float32" : own;
    const differs = (input: Node, i: number): boolean =>
      i < count && isFloat(input.dtype) && input.dtype !== dtype;
    return inputs.some(differs)
      ? inputs.map((input, i) => (differs(input, i) ? cast(input, dtype) : input))
      : inputs;
  };

/**
 * Runs `fn` with products (matmul, linear, einsum, attention) recorded in `dtype`, and what is sensitive (norms, softmax,
 * exp, log, sums) in float32. Parameters stay as they are; gradients come back in the parameters' dtype. As torch.autocast.
 */
export const withAutocast = <T>(dtype: DType, fn: () => T): T =>
  withCasts({ dtype, casts: casts(dtype) }, fn);

/** The same as a pass over a graph of a forward: inputs and outputs keep their dtypes. */
export function autocastPass(dtype: DType): Pass {
  return function autocast(graph) {
    const builder = new GraphBuilder();
    const replaced = new Map<Node, Node>();
    const replacementOf = (node: Node): Node => replaced.get(node) as Node;
    const outputs = withRecorder(builder, () => {
      withAutocast(dtype, () => {
        for (const node of graph.nodes) {
          const inputs = node.inputs.map(replacementOf);
          replaced.set(
            node,
            atScope(node.scope, () => apply(node.op, inputs, node.attrs)),
          );
        }
      });
      return graph.outputs.map((output) => cast(replacementOf(output), output.dtype));
    });
    return builder.finish(outputs);
  };
}
