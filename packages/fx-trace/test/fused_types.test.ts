import { describe, expect, it } from "vitest";
import {
  buildGraph,
  type DType,
  DTypeError,
  dce,
  decompose,
  formatType,
  gradients,
  input,
  type Node,
  ops,
  resultsOf,
  ShapeError,
  type ShardingRule,
  ValueError,
  verify,
} from "../src/index.js";

/** Inputs from texts like `float32[2, 3]`. */
function inputs(...types: string[]): Node[] {
  return types.map((type, index) => {
    const [, dtype, shape] = /^(\w+)\[(.*)\]$/.exec(type) as RegExpExecArray;
    return input([], { index, dtype: dtype as DType, shape: shape ? shape.split(", ").map(Number) : [] });
  });
}

const eps = { eps: 1e-5 };
const turn = { interleaved: false, inverse: false };
const see = { causal: true, offset: 0, scale: 1, window: 0 };
const loss = { ignore_index: -100, label_smoothing: 0 };
const adam = { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, decoupled: true };

type Call = readonly [
  name: string,
  call: (operands: Node[]) => Node,
  operands: readonly string[],
  results: readonly string[],
];

const half = "bfloat16[2, 3, 8]";
const [q, k, v] = ["float16[2, 4, 3, 8]", "float16[2, 2, 5, 8]", "float16[2, 2, 5, 6]"];
const [out, lse] = ["float16[2, 4, 3, 6]", "float32[2, 4, 3]"];
const state = ["float32[2, 3]", "float32[2, 3]", "float32[]", "float32[]"];

const calls: readonly Call[] = [
  ["softmax", (x) => ops.softmax(x), [half], [half]],
  ["log_softmax", (x) => ops.log_softmax(x), [half], [half]],
  ["softmax_grad", (x) => ops.softmax_grad(x), [half, half], [half]],
  ["log_softmax_grad", (x) => ops.log_softmax_grad(x), [half, half], [half]],
  ["rms_norm", (x) => ops.rms_norm(x, eps), [half, "bfloat16[8]"], [half]],
  ["rms_norm, float32 weights", (x) => ops.rms_norm(x, eps), [half, "float32[8]"], [half]],
  ["rms_norm_grad", (x) => ops.rms_norm_grad(x, eps), [half, "float32[8]", half], [half, "float32[8]"]],
  ["layer_norm", (x) => ops.layer_norm(x, eps), [half, "float32[8]", "float32[8]"], [half]],
  [
    "layer_norm_grad",
    (x) => ops.layer_norm_grad(x, eps),
    [half, "bfloat16[8]", half],
    [half, "bfloat16[8]", "bfloat16[8]"],
  ],
  ["rope", (x) => ops.rope(x, turn), [half, "float32[3, 4]", "float32[3, 4]"], [half]],
  ["rope, half tables", (x) => ops.rope(x, turn), [half, "bfloat16[3, 4]", "bfloat16[3, 4]"], [half]],
  ["attention", (x) => ops.attention(x, see), [q, k, v], [out, lse]],
  ["attention_grad", (x) => ops.attention_grad(x, see), [q, k, v, out, lse, out], [q, k, v]],
  ["attention_grad, dlse", (x) => ops.attention_grad(x, see), [q, k, v, out, lse, out, lse], [q, k, v]],
  ["attention, mask", (x) => ops.attention(x, see), [q, k, v, "bool[1, 1, 3, 5]"], [out, lse]],
  [
    "attention, bias, segments and shift",
    (x) => ops.attention(x, see),
    [q, k, v, "float32[2, 4, 1, 5]", "int32[2, 3]", "int32[2, 5]", "int32[]"],
    [out, lse],
  ],
  [
    "attention_grad, dlse and mask",
    (x) => ops.attention_grad(x, see),
    [q, k, v, out, lse, out, lse, "bool[2, 1, 1, 5]"],
    [q, k, v],
  ],
  [
    "attention_bias_grad",
    (x) => ops.attention_bias_grad(x, see),
    [q, k, v, out, lse, out, "float16[1, 4, 3, 5]"],
    [q, k, v, "float32[1, 4, 3, 5]"],
  ],
  [
    "attention_bias_grad, dlse and shift",
    (x) => ops.attention_bias_grad(x, see),
    [q, k, v, out, lse, out, lse, "bfloat16[1, 1, 3, 1]", "int32[]"],
    [q, k, v, "float32[1, 1, 3, 1]"],
  ],
  ["attention, shift", (x) => ops.attention(x, see), [q, k, v, "int32[]"], [out, lse]],
  [
    "attention_grad, shift",
    (x) => ops.attention_grad(x, see),
    [q, k, v, out, lse, out, "int32[]"],
    [q, k, v],
  ],
  [
    "attention_grad, dlse and shift",
    (x) => ops.attention_grad(x, see),
    [q, k, v, out, lse, out, lse, "int32[]"],
    [q, k, v],
  ],
  [
    "cross_entropy",
    (x) => ops.cross_entropy(x, loss),
    ["bfloat16[4, 9]", "int64[4]"],
    ["float32[4]", "float32[4]"],
  ],
  [
    "cross_entropy_grad",
    (x) => ops.cross_entropy_grad(x, { ...loss, label_smoothing: 0.1 }),
    ["bfloat16[4, 9]", "int32[4]", "float32[4]", "float32[4]"],
    ["bfloat16[4, 9]"],
  ],
  [
    "linear_cross_entropy",
    (x) => ops.linear_cross_entropy(x, loss),
    ["bfloat16[2, 4, 3]", "bfloat16[9, 3]", "int64[2, 4]"],
    ["float32[2, 4]", "float32[2, 4]"],
  ],
  [
    "linear_cross_entropy_grad",
    (x) => ops.linear_cross_entropy_grad(x, { ...loss, need_x: true, need_weight: true }),
    ["bfloat16[4, 3]", "bfloat16[9, 3]", "int32[4]", "float32[4]"],
    ["float32[4]", "float32[4]", "bfloat16[4, 3]", "bfloat16[9, 3]"],
  ],
  [
    "linear_cross_entropy_grad, of x",
    (x) => ops.linear_cross_entropy_grad(x, { ...loss, need_x: true, need_weight: false }),
    ["float32[4, 3]", "float32[9, 3]", "int32[4]", "float32[4]"],
    ["float32[4]", "float32[4]", "float32[4, 3]", "float32[0]"],
  ],
  [
    "adamw_update",
    (x) => ops.adamw_update(x, adam),
    ["bfloat16[2, 3]", "bfloat16[2, 3]", ...state],
    ["bfloat16[2, 3]", ...state.slice(0, 2)],
  ],
  [
    "adamw_update, float32 gradient and scale",
    (x) => ops.adamw_update(x, adam),
    ["bfloat16[2, 3]", "float32[2, 3]", ...state, "float32[]"],
    ["bfloat16[2, 3]", ...state.slice(0, 2)],
  ],
];

describe("fused ops give their types", () => {
  it.each(calls)("%s", (_, call, operands, results) => {
    expect(call(inputs(...operands)).types.map(formatType)).toEqual(results);
  });
});

describe("fused ops decompose", () => {
  const all = decompose((op) => op.lower !== "kernel" || op.name === "gather");

  it.each(calls)("%s: to results of the same type, computed in float32", (_, call, operands) => {
    const graph = buildGraph(() => {
      const node = call(inputs(...operands));
      return node.types.length > 1 ? resultsOf(node) : [node];
    });
    const after = dce(all(graph));
    verify(after);
    expect(after.outputs.map((node) => node.type)).toEqual(graph.outputs.map((node) => node.type));
    for (const node of after.nodes) {
      if (["leaf", "view"].includes(node.op.lower) || node.op.name === "cast") continue;
      expect(["float32", "int32", "int64", "bool"], node.op.name).toContain(node.dtype);
    }
  });
});

describe("fused ops say how they split", () => {
  it.each(calls)("%s", (_, call, operands) => {
    const node = call(inputs(...operands));
    const { sharding } = node.op;
    const rule = (
      typeof sharding === "function" ? sharding(node.inputs, node.attrs as never) : sharding
    ) as ShardingRule;
    const sides = rule.factors
      .split(" -> ")
      .map((side) => side.split(",").map((dims) => dims.match(/\([^)]*\)|\S+/g) ?? []));
    expect(sides[0].map((dims) => dims.length)).toEqual(node.inputs.map((x) => x.shape.length));
    expect(sides[1].map((dims) => dims.length)).toEqual(node.types.map((type) => type.shape.length));
    const known = new Set(sides[0].flat().flatMap((dim) => dim.replace(/[()]/g, "").split(" ")));
    for (const factor of [...(rule.reduce ?? []), ...(rule.replicate ?? [])]) expect(known).toContain(factor);
    known.add("_");
    for (const dim of sides[1].flat()) expect(known).toContain(dim.replace(/[()]/g, "").split(" ")[0]);
  });
});

type Refusal = readonly [call: () => Node, error: unknown, message: string];
const [m32, s32] = ["float32[2, 3]", "float32[]"];

const refusals: readonly Refusal[] = [
  [
    () => ops.softmax(inputs("int32[3]")),
    DTypeError,
    "[softmax] x must be of a float dtype, but is int32[3]",
  ],
  [
    () => ops.softmax(inputs("float32[]")),
    ShapeError,
    "[softmax] x must have at least 1 dim, but is a scalar",
  ],
  [
    () => ops.log_softmax(inputs("float32[2, 0]")),
    ShapeError,
    "[log_softmax] the last dim of x is empty: [2, 0]",
  ],
  [
    () => ops.softmax_grad(inputs("float32[2, 3]", "float32[3, 2]")),
    ShapeError,
    "[softmax_grad] g must be float32[2, 3], as y, but is float32[3, 2]",
  ],
  [
    () => ops.log_softmax_grad(inputs("float16[3]", "float32[3]")),
    DTypeError,
    "[log_softmax_grad] g must be float16[3], as y, but is float32[3]",
  ],
  [
    () => ops.rms_norm(inputs("float32[2, 3]", "float32[2]"), eps),
    ShapeError,
    "[rms_norm] w must have shape [3], as the last dim of x, but has [2]",
  ],
  [
    () => ops.rms_norm(inputs("float16[2, 3]", "bfloat16[3]"), eps),
    DTypeError,
    "[rms_norm] w must be float16, as x, or float32, but is bfloat16[3]",
  ],
  [
    () => ops.layer_norm(inputs("float16[2, 3]", "float16[3]", "float32[3]"), eps),
    DTypeError,
    "[layer_norm] w and b differ in dtype: float16[3] and float32[3]",
  ],
  [
    () => ops.layer_norm_grad(inputs("float32[2, 3]", "float32[3]", "float32[2]"), eps),
    ShapeError,
    "[layer_norm_grad] g must be float32[2, 3], as x, but is float32[2]",
  ],
  [
    () => ops.rope(inputs("float32[4]", m32, m32), turn),
    ShapeError,
    "[rope] x must be [..., T, K], but has shape [4]",
  ],
  [
    () => ops.rope(inputs("float32[2, 3]", m32, m32), turn),
    ShapeError,
    "[rope] the last dim of x must be even: [2, 3]",
  ],
  [
    () => ops.rope(inputs("float32[5, 6]", "float32[5, 6]", "float32[5, 3]"), turn),
    ShapeError,
    "[rope] cos must have shape [5, 3], as x has [5, 6], but has [5, 6]",
  ],
  [
    () => ops.rope(inputs("float16[5, 6]", "float16[5, 3]", "float32[5, 3]"), turn),
    DTypeError,
    "[rope] cos and sin differ in dtype: float16[5, 3] and float32[5, 3]",
  ],
  [
    () => ops.attention(inputs("float32[1, 2, 3, 4]", "float16[1, 2, 3, 4]", "float32[1, 2, 3, 4]"), see),
    DTypeError,
    "[attention] q, k and v differ in dtype: float32[1, 2, 3, 4], float16[1, 2, 3, 4], float32[1, 2, 3, 4]",
  ],
  [
    () => ops.attention(inputs("float32[2, 3, 4]", "float32[2, 3, 4]", "float32[2, 3, 4]"), see),
    ShapeError,
    "q must be [B, H, T, K], k [B, G, S, K] and v [B, G, S, Kv]: q [2, 3, 4], k [2, 3, 4], v [2, 3, 4]",
  ],
  ...(
    [
      ["float32[2, 3, 5, 4]", "float32[1, 3, 5, 4]", "float32[1, 3, 5, 4]", "batch sizes differ"],
      ["float32[1, 3, 5, 4]", "float32[1, 3, 5, 4]", "float32[1, 1, 5, 4]", "k and v differ in heads"],
      ["float32[1, 3, 5, 4]", "float32[1, 3, 5, 4]", "float32[1, 3, 6, 4]", "k and v differ in length"],
      ["float32[1, 3, 5, 4]", "float32[1, 3, 5, 6]", "float32[1, 3, 5, 4]", "q and k differ in head size"],
      [
        "float32[1, 3, 5, 4]",
        "float32[1, 2, 5, 4]",
        "float32[1, 2, 5, 4]",
        "heads of q must be a multiple of heads of k and v",
      ],
    ] as const
  ).map(
    ([q, k, v, message]): Refusal => [
      () => ops.attention(inputs(q, k, v), see),
      ShapeError,
      `[attention] ${message}: q `,
    ],
  ),
  [
    () => ops.attention_grad(inputs(q, k, v, q, lse, out), see),
    ShapeError,
    "[attention_grad] out must be float16[2, 4, 3, 6], as attention gives, but is float16[2, 4, 3, 8]",
  ],
  [
    () => ops.attention_grad(inputs(q, k, v, out, lse, out, "float16[2, 4, 3]"), see),
    DTypeError,
    "[attention_grad] dlse must be float32[2, 4, 3], as lse, but is float16[2, 4, 3]",
  ],
  [
    () => ops.attention(inputs(q, k, v, "int64[]"), see),
    DTypeError,
    "[attention] shift must be int32[], a scalar, but is int64[]",
  ],
  [
    () => ops.attention(inputs(q, k, v, "int32[1]"), see),
    ShapeError,
    "[attention] shift must be int32[], a scalar, but is int32[1]",
  ],
  [
    () => ops.attention_grad(inputs(q, k, v, out, lse, out, "int32[2]"), see),
    ShapeError,
    "[attention_grad] shift must be int32[], a scalar, but is int32[2]",
  ],
  [
    () => ops.attention_grad(inputs(q, k, v, out, lse, out, "int32[]", lse), see),
    DTypeError,
    "[attention_grad] dlse must be float32[2, 4, 3], as lse, but is int32[]",
  ],
  [
    () => ops.attention_grad(inputs(q, k, v, out, lse, out, lse, lse), see),
    DTypeError,
    "[attention_grad] shift must be int32[], a scalar, but is float32[2, 4, 3]",
  ],
  [
    () => ops.attention(inputs(q, k, v, "float32[1, 4, 5, 3]"), see),
    ShapeError,
    "[attention] the mask must be [2 or 1, 4 or 1, 3 or 1, 5 or 1], but is [1, 4, 5, 3]",
  ],
  [
    () => ops.attention(inputs(q, k, v, "float64[1, 1, 3, 5]"), see),
    DTypeError,
    "[attention] the mask must be bool or float32 or a half type, as q is float16, but is float64[1, 1, 3, 5]",
  ],
  [
    () => ops.attention_bias_grad(inputs(q, k, v, out, lse, out, lse), see),
    ShapeError,
    "[attention_bias_grad] needs a bias, [B or 1, H or 1, T or 1, S or 1]",
  ],
  [
    () => ops.attention_bias_grad(inputs(q, k, v, out, lse, out, "bool[1, 1, 3, 5]"), see),
    DTypeError,
    "[attention_bias_grad] the bias must be of a float dtype, but is bool[1, 1, 3, 5]",
  ],
  [
    () => ops.cross_entropy(inputs("float32[2, 3, 4]", "int64[2]"), loss),
    ShapeError,
    "[cross_entropy] target must have shape [2, 3], as logits are [2, 3, 4], but has [2]",
  ],
  [
    () => ops.cross_entropy(inputs("float32[2, 3]", "float32[2]"), loss),
    DTypeError,
    "[cross_entropy] takes int32 and int64, but target is float32",
  ],
  [
    () => ops.cross_entropy(inputs("float32[2, 3]", "int64[3]"), loss),
    ShapeError,
    "[cross_entropy] target must have shape [2], as logits are [2, 3], but has [3]",
  ],
  [
    () => ops.cross_entropy(inputs("float32[2, 3]", "int64[2]"), { ...loss, label_smoothing: 1.5 }),
    ValueError,
    "[cross_entropy] label_smoothing must be in [0, 1], but is 1.5",
  ],
  [
    () => ops.linear_cross_entropy(inputs("float32[2, 3]", "float32[5, 4]", "int64[2]"), loss),
    ShapeError,
    "[linear_cross_entropy] weight must be [V, 3], as x is [2, 3], but is [5, 4]",
  ],
  [
    () => ops.linear_cross_entropy(inputs("bfloat16[2, 3]", "float32[5, 3]", "int64[2]"), loss),
    DTypeError,
    "[linear_cross_entropy] x and weight differ in dtype: bfloat16[2, 3], float32[5, 3]",
  ],
  [
    () => ops.linear_cross_entropy(inputs("float32[2, 3]", "float32[5, 3]", "int64[3]"), loss),
    ShapeError,
    "[linear_cross_entropy] target must have shape [2], as x is [2, 3], but has [3]",
  ],
  [
    () => ops.linear_cross_entropy(inputs("float32[2, 3]", "float32[0, 3]", "int64[2]"), loss),
    ShapeError,
    "[linear_cross_entropy] weight has no classes: [0, 3]",
  ],
  [
    () => ops.cross_entropy_grad(inputs("float16[2, 3]", "int64[2]", "float16[2]", "float32[2]"), loss),
    DTypeError,
    "[cross_entropy_grad] lse must be float32[2], as cross_entropy gives, but is float16[2]",
  ],
  [
    () => ops.adamw_update(inputs("int32[2, 3]", m32, m32, m32, s32, s32), adam),
    DTypeError,
    "[adamw_update] p must be of a float dtype, but is int32[2, 3]",
  ],
  [
    () => ops.adamw_update(inputs("float16[2, 3]", m32, "float16[2, 3]", m32, s32, s32), adam),
    DTypeError,
    "[adamw_update] m must be float32[2, 3], a moment of p, but is float16[2, 3]",
  ],
  [
    () => ops.adamw_update(inputs(m32, m32, m32, m32, "float32[1]", s32), adam),
    ShapeError,
    "[adamw_update] lr must be float32[], a scalar, but is float32[1]",
  ],
];

describe("fused ops refuse", () => {
  it.each(refusals)("%#", (call, error, message) => {
    expect(call).toThrow(error as never);
    expect(call).toThrow(message);
  });

  it("a gradient through an optimizer step", () => {
    const [p, ...rest] = inputs(m32, m32, m32, m32, s32, s32);
    p.requiresGrad = true;
    const [updated] = resultsOf(ops.adamw_update([p, ...rest], adam));
    expect(updated.requiresGrad).toBe(false);
    const [ones] = inputs(m32);
    expect(gradients([updated], [ones], [p])).toEqual([null]);
  });
});
