import type { Attrs, OpName } from "@lazuli/fx-trace";
import {
  accumulated,
  bf16,
  bool,
  broadcast,
  differentiated,
  type Fill,
  f16,
  f32,
  f64,
  flipped,
  forward,
  heads,
  i32,
  i64,
  ints,
  type Leaf,
  normal,
  type Operand,
  type Sample,
  shapeOf,
  special,
  strided,
  type Tolerance,
  transposed,
  uniform,
  values,
} from "./ops.samples.types.js";

const rowShapes: readonly (readonly [string, readonly number[]])[] = [
  ["33", [7, 33]],
  ["rank 1", [19]],
  ["rank 3", [3, 5, 16]],
  ["1031", [2, 1031]],
  ["no rows", [0, 3]],
];

/** Ops over rows of the last dim: `operands` makes the op's from the first one. */
function rows(
  attrs: Attrs,
  operands: (x: Leaf, like: (shape: readonly number[]) => Leaf) => Operand[],
  tolerance: Tolerance = accumulated,
): Sample[] {
  return [
    ...rowShapes.map(([name, shape]) =>
      differentiated(name, operands(f32(shape, normal(2)), f32), attrs, tolerance),
    ),
    differentiated("flipped", operands(flipped(f32([4, 9], normal(2))), f32), attrs, tolerance),
    differentiated("transposed", operands(transposed(f32([9, 5], normal(2)), [1, 0]), f32), attrs, tolerance),
    differentiated("strided", operands(strided(f32([9, 19], normal(2))), f32), attrs, tolerance),
    differentiated("broadcast", operands(broadcast(f32([1, 9], normal(2)), [4, 9]), f32), attrs, tolerance),
    differentiated("float64", operands(f64([5, 17], normal(2)), f64), attrs, tolerance),
    forward("bfloat16", operands(bf16([5, 33], normal(2)), bf16), attrs, tolerance),
    forward("float16", operands(f16([5, 33], normal(2)), f16), attrs, tolerance),
  ];
}

const lastOf = (x: Leaf): number => {
  const shape = shapeOf(x);
  return shape[shape.length - 1];
};
const softmaxSamples = (): Sample[] => [
  ...rows({}, (x) => [x]),
  differentiated("one", [f32([5, 1])], {}, { ...accumulated, absolute: 1e-6 }),
  differentiated("large", [f32([3, 9], uniform(900, 1000))], {}, accumulated),
  differentiated("wide", [f32([3, 9], normal(60))], {}, accumulated),
  differentiated("-inf among others", [f32([3, 7], values(-Infinity, 1, 2, 0.5))], {}, accumulated),
  forward("only -inf", [f32([2, 3], values(-Infinity))], {}, accumulated),
  forward("special", [f32([4, 14], special)], {}, accumulated),
];

/** Rows of one element are constants to a norm: gradients cancel to nearly 0, so `eps` is large and errors absolute. */
const oneElement = (operands: Operand[]): Sample =>
  differentiated("one", operands, { eps: 0.5 }, { ...accumulated, absolute: 2e-6 });

/** Of y = op(x) and a cotangent; x itself is no argument. Of the half types y is any number, as it would be rounded. */
const softmaxGrad = (op: OpName, fill: Fill): Sample[] => [
  ...rows({}, (x, like) => [x, { op, of: [0], result: 0 }, like(shapeOf(x))])
    .filter(({ grad }) => grad)
    .map((sample) => ({ ...sample, args: [1, 2] })),
  forward("bfloat16", [bf16([5, 33], fill), bf16([5, 33])], {}, accumulated),
  forward("float16", [f16([5, 33], fill), f16([5, 33])], {}, accumulated),
];

const norm = { eps: 1e-5 };
const ce = (ignore_index = -100, label_smoothing = 0): Attrs => ({ ignore_index, label_smoothing });
const someIgnored = values(3, -100, 0, 7, -100, 11);

const lossCases: readonly (readonly [string, Leaf, Leaf, Attrs])[] = [
  ["33", f32([7, 33], normal(3)), i32([7], ints(0, 33)), ce()],
  ["int64 target", f32([7, 33], normal(3)), i64([7], ints(0, 33)), ce()],
  ["ignored rows", f32([13, 33], normal(3)), i32([13], someIgnored), ce()],
  ["ignore_index is a class", f32([9, 5], normal(3)), i32([9], ints(0, 5)), ce(2)],
  ["smoothing", f32([7, 33], normal(3)), i32([7], ints(0, 33)), ce(-100, 0.1)],
  ["smoothing and ignored rows", f32([13, 12], normal(3)), i64([13], someIgnored), ce(-100, 0.3)],
  ["smoothing 1", f32([5, 9], normal(3)), i32([5], ints(0, 9)), ce(-100, 1)],
  ["1031", f32([3, 1031], normal(3)), i32([3], ints(0, 1031)), ce()],
  ["many rows", f32([260, 17], normal(3)), i32([260], ints(0, 17)), ce(-100, 0.05)],
  ["large", f32([5, 9], uniform(-1000, 1000)), i32([5], ints(0, 9)), ce()],
  ["one class", f32([5, 1]), i32([5], ints(0, 1)), ce()],
  ["all ignored", f32([5, 9]), i32([5], values(-1)), ce(-1)],
  ["flipped", flipped(f32([7, 33], normal(3))), flipped(i32([7], ints(0, 33))), ce()],
  ["transposed", transposed(f32([33, 7], normal(3)), [1, 0]), i32([7], ints(0, 33)), ce()],
  ["float64", f64([7, 33], normal(3)), i32([7], ints(0, 33)), ce(-100, 0.1)],
];
/** lse is float32, and so good gradients are of float64 logits too. */
const fromLse = ({ dtype }: Leaf): Tolerance =>
  dtype === "float64" ? { ...accumulated, as: "float32" } : accumulated;
const otherLossCases = [
  ["bfloat16", bf16([7, 33], normal(3)), i32([7], ints(0, 33)), ce()],
  ["float16", f16([7, 33], normal(3)), i32([7], ints(0, 33)), ce(-100, 0.1)],
  ["no rows", f32([0, 9]), i32([0]), ce()],
  ["-inf beside the target", f32([3, 4], values(1, -Infinity, 2)), i32([3], values(0, 1, 0)), ce()],
] as const;

const features = normal(0.5);
const linearLossCases: readonly (readonly [string, Leaf, Leaf, Leaf, Attrs])[] = [
  ["33", f32([7, 12], features), f32([33, 12]), i32([7], ints(0, 33)), ce()],
  ["int64 target", f32([7, 5], features), f32([19, 5]), i64([7], ints(0, 19)), ce()],
  ["ignored rows", f32([13, 8], features), f32([33, 8]), i32([13], someIgnored), ce()],
  ["smoothing and ignored rows", f32([13, 8], features), f32([12, 8]), i64([13], someIgnored), ce(-100, 0.3)],
  ["sequences", f32([2, 5, 8], features), f32([17, 8]), i32([2, 5], ints(0, 17)), ce()],
  ["blocks of classes", f32([5, 6], features), f32([1031, 6]), i32([5], ints(0, 1031)), ce(-100, 0.1)],
  ["chunks of rows", f32([260, 3], features), f32([17, 3]), i32([260], ints(0, 17)), ce()],
  ["one class", f32([5, 4]), f32([1, 4]), i32([5], ints(0, 1)), ce()],
  ["all ignored", f32([5, 4]), f32([9, 4]), i32([5], values(-1)), ce(-1)],
  [
    "transposed",
    transposed(f32([6, 7]), [1, 0]),
    transposed(f32([6, 9]), [1, 0]),
    i32([7], ints(0, 9)),
    ce(),
  ],
  ["float64", f64([7, 6], features), f64([33, 6]), i32([7], ints(0, 33)), ce(-100, 0.1)],
];
/** Of half types the gradient of the logits, up to about 1, is rounded before it goes into the products. */
const fromRounded = (x: Leaf): Tolerance =>
  x.dtype === "bfloat16" || x.dtype === "float16"
    ? { ...accumulated, absolute: x.dtype === "bfloat16" ? 2 ** -7 : 2 ** -10 }
    : fromLse(x);
const both = { need_x: true, need_weight: true };
const halfLinearLossCases = [
  ["bfloat16", bf16([7, 16], features), bf16([33, 16]), i32([7], ints(0, 33)), ce()],
  ["float16", f16([7, 16], features), f16([33, 16]), i32([7], ints(0, 33)), ce(-100, 0.1)],
  ["no rows", f32([0, 4]), f32([9, 4]), i32([0]), ce()],
] as const;

const scalar = (value: number): Leaf => f32([], values(value));
const adam = (weight_decay: number, decoupled = true): Attrs => ({
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  weight_decay,
  decoupled,
});

function update(
  name: string,
  shape: readonly number[],
  attrs: Attrs,
  step = 7,
  leaf = f32,
  more: readonly Leaf[] = [],
  grad = leaf,
): Sample {
  const moments = [f32(shape, normal(0.1)), f32(shape, uniform(1e-4, 0.02))];
  const operands = [
    leaf(shape, normal()),
    grad(shape, normal(0.1)),
    ...moments,
    scalar(1e-3),
    scalar(step),
    ...more,
  ];
  return forward(name, operands, attrs, { kind: "pointwise" });
}

/** The operands of normalisations: weights around 1, so that a forgotten one shows. */
const weight = (x: Leaf, like: (shape: readonly number[], fill?: Fill) => Leaf): Leaf =>
  like([lastOf(x)], uniform(0.5, 1.5));
/** Half activations beside float32 weights. */
const mixed = [
  ["bfloat16 with float32 weights", bf16([5, 33])],
  ["float16 with float32 weights", f16([5, 33])],
] as const;

export const fused = {
  softmax: softmaxSamples(),
  log_softmax: softmaxSamples(),
  softmax_grad: softmaxGrad("softmax", uniform(0, 0.1)),
  log_softmax_grad: softmaxGrad("log_softmax", uniform(-6, -1)),
  rms_norm: [
    ...rows(norm, (x, like) => [x, weight(x, like)]),
    oneElement([f32([5, 1]), f32([1])]),
    differentiated("eps shows", [f32([3, 9], normal(1e-3)), f32([9])], { eps: 1e-6 }, accumulated),
    differentiated("zero row", [f32([2, 5], values(0)), f32([5])], { eps: 1e-2 }, accumulated),
    ...mixed.map(([name, x]) => forward(name, [x, f32([33])], norm, accumulated)),
  ],
  rms_norm_grad: [
    ...rows(norm, (x, like) => [x, weight(x, like), like(shapeOf(x))]),
    oneElement([f32([5, 1]), f32([1]), f32([5, 1])]),
    differentiated("many rows", [f32([260, 17]), f32([17]), f32([260, 17])], norm, accumulated),
    ...mixed.map(([name, x]) => forward(name, [x, f32([33]), x], norm, accumulated)),
  ],
  layer_norm: [
    ...rows(norm, (x, like) => [x, weight(x, like), like([lastOf(x)])]),
    oneElement([f32([5, 1]), f32([1]), f32([1])]),
    differentiated("eps shows", [f32([3, 9], normal(1e-3)), f32([9]), f32([9])], { eps: 1e-6 }, accumulated),
    differentiated("far from 0", [f32([3, 33], uniform(1000, 1001)), f32([33]), f32([33])], norm, {
      kind: "accumulated",
      scale: 30,
    }),
    ...mixed.map(([name, x]) => forward(name, [x, f32([33]), f32([33])], norm, accumulated)),
  ],
  layer_norm_grad: [
    ...rows(norm, (x, like) => [x, weight(x, like), like(shapeOf(x))]),
    oneElement([f32([5, 1]), f32([1]), f32([5, 1])]),
    differentiated("many rows", [f32([260, 17]), f32([17]), f32([260, 17])], norm, accumulated),
    ...mixed.map(([name, x]) => forward(name, [x, f32([33]), x], norm, accumulated)),
  ],
  rope: [false, true].flatMap((interleaved) =>
    [false, true].flatMap((inverse) => {
      const name = `${interleaved ? "interleaved" : "halves"}${inverse ? " inverse" : ""}`;
      const attrs = { interleaved, inverse };
      return [
        differentiated(`${name}`, [f32([2, 3, 5, 8]), f32([5, 4]), f32([5, 4])], attrs, accumulated),
        differentiated(`${name} rank 2`, [f32([7, 6]), f32([7, 3]), f32([7, 3])], attrs, accumulated),
        differentiated(`${name} 1031`, [f32([2, 37, 66]), f32([37, 33]), f32([37, 33])], attrs, accumulated),
        differentiated(`${name} heads`, [heads([2, 5, 3, 8]), f32([5, 4]), f32([5, 4])], attrs, accumulated),
        differentiated(
          `${name} flipped`,
          [flipped(f32([2, 5, 8])), flipped(f32([5, 4])), f32([5, 4])],
          attrs,
          accumulated,
        ),
        differentiated(
          `${name} of part of the tables`,
          [f32([2, 4, 4]), strided(f32([9, 5])), strided(f32([9, 5]))],
          attrs,
          accumulated,
        ),
        differentiated(`${name} empty`, [f32([2, 0, 8]), f32([0, 4]), f32([0, 4])], attrs, accumulated),
        differentiated(`${name} float64`, [f64([2, 5, 8]), f64([5, 4]), f64([5, 4])], attrs, accumulated),
        forward(`${name} bfloat16`, [bf16([2, 5, 8]), bf16([5, 4]), bf16([5, 4])], attrs, accumulated),
        forward(
          `${name} float16 with float32 tables`,
          [f16([2, 5, 8]), f32([5, 4]), f32([5, 4])],
          attrs,
          accumulated,
        ),
      ];
    }),
  ),
  cross_entropy: [
    ...lossCases.map(([name, logits, target, attrs]) =>
      differentiated(name, [logits, target], attrs, { ...accumulated, gradAs: fromLse(logits).as }, [0]),
    ),
    ...lossCases
      .slice(0, 6)
      .map(([name, logits, target, attrs]) =>
        differentiated(`${name}, with lse`, [logits, target], attrs, accumulated, [0, 1]),
      ),
    ...otherLossCases.map(([name, logits, target, attrs]) =>
      forward(name, [logits, target], attrs, accumulated),
    ),
  ],
  cross_entropy_grad: [
    ...[...lossCases, ...otherLossCases].map(([name, logits, target, attrs]) => {
      const lse = { op: "cross_entropy", of: [0, 1], result: 1 } as const;
      return forward(name, [logits, target, lse, f32(shapeOf(target))], attrs, fromLse(logits));
    }),
    differentiated(
      "second derivative",
      [f64([5, 9]), i32([5], ints(0, 9)), { op: "cross_entropy", of: [0, 1], result: 1 }, f32([5])],
      ce(-100, 0.1),
      { ...accumulated, as: "float32" },
    ),
  ],
  linear_cross_entropy: [
    ...linearLossCases.map(([name, x, w, target, attrs]) =>
      differentiated(name, [x, w, target], attrs, { ...accumulated, gradAs: fromLse(x).as }, [0]),
    ),
    ...linearLossCases
      .slice(0, 5)
      .map(([name, x, w, target, attrs]) =>
        differentiated(`${name}, with lse`, [x, w, target], attrs, accumulated, [0, 1]),
      ),
    ...halfLinearLossCases.map(([name, x, w, target, attrs]) =>
      forward(name, [x, w, target], attrs, accumulated),
    ),
  ],
  linear_cross_entropy_grad: [
    ...[...linearLossCases, ...halfLinearLossCases].map(([name, x, w, target, attrs]) =>
      forward(name, [x, w, target, f32(shapeOf(target))], { ...attrs, ...both }, fromRounded(x)),
    ),
    ...[
      ["of x", { need_x: true, need_weight: false }],
      ["of the weight", { need_x: false, need_weight: true }],
      ["of neither", { need_x: false, need_weight: false }],
    ].map(([name, needs]) => {
      const [, x, w, target, attrs] = linearLossCases[2];
      return forward(
        name as string,
        [x, w, target, f32(shapeOf(target))],
        { ...attrs, ...(needs as Attrs) },
        accumulated,
      );
    }),
    differentiated(
      "second derivative",
      [f64([4, 3]), f64([7, 3]), i32([4], ints(0, 7)), f32([4])],
      { ...ce(-100, 0.1), ...both },
      { ...accumulated, as: "float32" },
    ),
  ],
  adamw_update: [
    update("decoupled", [37], adam(0.1)),
    update("L2", [37], adam(0.1, false)),
    update("no decay", [5, 7], adam(0)),
    update("first step", [33], adam(0.1), 1),
    update("late step", [33], adam(0.1), 100000),
    update("1031", [1031], adam(0.01)),
    update("scaled gradient", [37], adam(0.1), 7, f32, [scalar(0.37)]),
    update("scaled gradient, L2", [37], adam(0.1, false), 7, f32, [scalar(0.37)]),
    update("skipped", [37], adam(0.1), 7, f32, [scalar(0.37), bool([], values(1))]),
    update("not skipped", [37], adam(0.1), 7, f32, [scalar(0.37), bool([], values(0))]),
    update("skipped, bfloat16", [37], adam(0.1, false), 7, bf16, [scalar(1), bool([], values(1))]),
    update("float32 with bfloat16 gradient", [37], adam(0.1), 7, f32, [], bf16),
    update("float32 with float16 gradient", [37], adam(0.1), 7, f32, [scalar(0.37)], f16),
    update("scalar", [], adam(0.1)),
    update("empty", [0, 3], adam(0.1)),
    update("bfloat16", [37], adam(0.1), 7, bf16),
    update("bfloat16 with float32 gradient", [37], adam(0.1), 7, bf16, [], f32),
    update("float16", [37], adam(0.1), 7, f16),
    update("float64", [37], adam(0.1), 7, f64),
  ],
} as const satisfies Partial<Record<OpName, readonly Sample[]>>;
