import { describe, it } from "vitest";
import { add, cast, mul, type Node, ops, resultsOf } from "../src/index.js";
import { checkGradients, type Operand } from "./gradcheck.js";

const floats = (...shape: number[]): Operand => ({ shape });
const wide = (x: Node): Node => cast(x, "float64");

type Case = readonly [
  name: string,
  fn: (...inputs: Node[]) => Node | readonly Node[],
  ...operands: Operand[],
];

const rows: Case[] = [
  ["softmax", (x) => ops.softmax([x]), floats(2, 2, 3)],
  ["log_softmax", (x) => ops.log_softmax([x]), floats(3, 4)],
  ["softmax_grad", (y, g) => ops.softmax_grad([y, g]), floats(2, 3), floats(2, 3)],
  ["log_softmax_grad", (y, g) => ops.log_softmax_grad([y, g]), floats(2, 3), floats(2, 3)],
  ["rms_norm", (x, w) => ops.rms_norm([x, w], { eps: 0.1 }), floats(2, 2, 3), floats(3)],
  ["rms_norm of one row", (x, w) => ops.rms_norm([x, w], { eps: 0 }), floats(4), floats(4)],
  [
    "rms_norm_grad",
    (...all) => resultsOf(ops.rms_norm_grad(all, { eps: 0.1 })),
    floats(2, 3),
    floats(3),
    floats(2, 3),
  ],
  ["layer_norm", (x, w, b) => ops.layer_norm([x, w, b], { eps: 0.1 }), floats(2, 2, 4), floats(4), floats(4)],
  [
    "layer_norm_grad",
    (...all) => resultsOf(ops.layer_norm_grad(all, { eps: 0.1 })),
    floats(2, 4),
    floats(4),
    floats(2, 4),
  ],
];

const ropes: Case[] = [false, true].flatMap((interleaved) =>
  [false, true].map(
    (inverse): Case => [
      `rope (interleaved ${interleaved}, inverse ${inverse})`,
      (x, cos, sin) => ops.rope([x, cos, sin], { interleaved, inverse }),
      floats(2, 2, 3, 4),
      floats(3, 2),
      floats(3, 2),
    ],
  ),
);

const attentions: Case[] = (
  [
    [false, 0, 2, 1],
    [true, 0, 2, 2],
    [true, 1, 2, 1],
    [true, -1, 4, 2],
  ] as const
).flatMap(([causal, offset, H, G]): Case[] => {
  const name = `attention (causal ${causal}, offset ${offset}, ${H} heads on ${G})`;
  const attrs = { causal, offset, scale: 0.8, window: 0 };
  const operands = [floats(1, H, 2, 3), floats(1, G, 3, 3), floats(1, G, 3, 2)];
  const both = (...qkv: Node[]): Node[] => resultsOf(ops.attention(qkv, attrs));
  // lse of a row that sees nothing is -inf, of which there is no difference to take.
  const results = (...qkv: Node[]): Node[] => {
    const [out, lse] = both(...qkv);
    return offset < 0 ? [out] : [out, wide(lse)];
  };
  return [
    [`${name}: out alone`, (...qkv) => both(...qkv)[0], ...operands],
    [name, results, ...operands],
  ];
});

/** The same offsets as sums of the attribute and the operand. */
const shifted: Case[] = [
  [0, 1],
  [-3, 2],
].map(([offset, shift]): Case => {
  const attrs = { causal: true, offset, scale: 0.8, window: 0 };
  return [
    `attention (offset ${offset} and shift ${shift})`,
    (...operands) => {
      const [out, lse] = resultsOf(ops.attention(operands, attrs));
      return offset + shift < 0 ? [out] : [out, wide(lse)];
    },
    ...[floats(1, 4, 2, 3), floats(1, 2, 3, 3), floats(1, 2, 3, 2)],
    { shape: [], data: [shift], dtype: "int32" } as const,
  ];
});

const segments = { shape: [1, 3], data: [4, 4, 1], dtype: "int32" } as const;
const masked: Case = [
  "attention (window and segments)",
  (...operands) => {
    const attrs = { causal: true, offset: 0, scale: 0.8, window: 2 };
    const [out, lse] = resultsOf(ops.attention(operands, attrs));
    return [out, wide(lse)];
  },
  ...[floats(1, 4, 3, 2), floats(1, 2, 3, 2), floats(1, 2, 3, 2), segments, segments],
];

const biased: Case[] = [
  [2, 4, 3, 2],
  [1, 4, 1, 2],
  [2, 1, 3, 1],
  [1, 1, 3, 2],
].map((shape): Case => {
  const attrs = { causal: true, offset: 0, scale: 0.8, window: 0 };
  return [
    `attention (bias ${shape})`,
    (...operands) => {
      const [out, lse] = resultsOf(ops.attention(operands, attrs));
      return [out, wide(lse)];
    },
    ...[floats(2, 4, 3, 1), floats(2, 2, 2, 1), floats(2, 2, 2, 1), floats(...shape)],
  ];
});

const target = { shape: [4], data: [2, -1, 0, 3], dtype: "int64" } as const;
const losses: Case[] = [0, 0.2].flatMap((label_smoothing): Case[] => {
  const attrs = { ignore_index: -1, label_smoothing };
  const both = (logits: Node, t: Node): Node[] => resultsOf(ops.cross_entropy([logits, t], attrs)).map(wide);
  return [
    [
      `cross_entropy (smoothing ${label_smoothing}): loss alone`,
      (x, t) => both(x, t)[0],
      floats(4, 5),
      target,
    ],
    [
      `cross_entropy (smoothing ${label_smoothing}): lse alone`,
      (x, t) => both(x, t)[1],
      floats(4, 5),
      target,
    ],
    [`cross_entropy (smoothing ${label_smoothing})`, both, floats(4, 5), target],
    ...[0, 1, 2].map(
      (results): Case => [
        `linear_cross_entropy (smoothing ${label_smoothing}): ${["loss", "lse", "both"][results]}`,
        (x, w, t) => {
          const all = resultsOf(ops.linear_cross_entropy([x, w, t], attrs)).map(wide);
          return results === 2 ? all : all[results];
        },
        floats(4, 3),
        floats(5, 3),
        target,
      ],
    ),
  ];
});

describe("vjps of fused ops agree with central differences, twice", { timeout: 60_000 }, () => {
  for (const [name, fn, ...operands] of [
    ...rows,
    ...ropes,
    ...attentions,
    ...shifted,
    ...biased,
    masked,
    ...losses,
  ]) {
    it(name, () => checkGradients(fn, operands));
  }

  it("one value in every place of an op", () => {
    const attrs = { causal: true, offset: 0, scale: 1, window: 0 };
    checkGradients((x) => resultsOf(ops.attention([x, x, x], attrs))[0], [floats(1, 2, 3, 2)]);
    checkGradients((x) => ops.softmax_grad([x, x]), [floats(2, 3)]);
  });

  it("a result that is used twice, and one that is not", () => {
    const attrs = { eps: 0.1 };
    checkGradients(
      (x, w, g) => {
        const [dx] = resultsOf(ops.rms_norm_grad([x, w, g], attrs));
        return add(mul(dx, dx), dx);
      },
      [floats(2, 3), floats(3), floats(2, 3)],
    );
  });
});
