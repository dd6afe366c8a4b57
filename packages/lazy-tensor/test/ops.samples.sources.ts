import type { Attrs, DType, OpName } from "@lazuli/fx-trace";
import {
  bf16,
  bool,
  type Derived,
  differentiated,
  distinct,
  exact,
  f16,
  f32,
  f64,
  flipped,
  forward,
  i32,
  i64,
  type Leaf,
  pointwise,
  type Sample,
  special,
  u8,
  values,
} from "./ops.samples.types.js";

const key = (low: number, high: number): Leaf => i64([2], values(low, high));
const draw = (stream: number, shape: readonly number[], dtype: DType = "float32"): Attrs => ({
  stream,
  shape,
  whole: shape,
  dtype,
});
/** Elements of `whole` from element `first` on. */
const part = (name: string, more: Attrs, first: number | null, tolerance: typeof exact): Sample =>
  forward(
    name,
    first === null ? [key(1, 2)] : [key(1, 2), i64([], values(first))],
    { stream: 4, dtype: "float32", ...more },
    tolerance,
  );

const draws = (more: Attrs, tolerance: typeof exact): Sample[] => [
  forward("1031", [key(1, 2)], { ...more, ...draw(0, [1031]) }, tolerance),
  forward("another stream", [key(1, 2)], { ...more, ...draw(7, [33]) }, tolerance),
  forward("a stream of more than 32 bits", [key(1, 2)], { ...more, ...draw(2 ** 40 + 3, [33]) }, tolerance),
  forward(
    "a key of more than 32 bits",
    [key(2 ** 45 + 12345, -3)],
    { ...more, ...draw(1, [3, 5]) },
    tolerance,
  ),
  forward("scalar", [key(5, 6)], { ...more, ...draw(3, []) }, tolerance),
  forward("empty", [key(5, 6)], { ...more, ...draw(3, [0, 2]) }, exact),
  part("rows of a whole", { ...more, shape: [3, 5], whole: [32, 5] }, 10, tolerance),
  part("columns of a whole", { ...more, shape: [4, 33], whole: [4, 130] }, 66, tolerance),
  part("a block of a whole", { ...more, shape: [2, 3, 5], whole: [4, 6, 10] }, 95, tolerance),
  part("the first of a whole", { ...more, shape: [5, 70], whole: [9, 71] }, null, tolerance),
  part("past 32 bits", { ...more, shape: [3, 257], whole: [2 ** 21, 2 ** 20] }, 2 ** 40 + 3, tolerance),
  part("scalar of a whole", { ...more, shape: [], whole: [] }, 7, tolerance),
  // Moments are checked in conformance.test.ts.
  forward("many", [key(42, 0)], { ...more, ...draw(0, [256, 257]) }, tolerance),
  forward("float64", [key(1, 2)], { ...more, ...draw(2, [33], "float64") }, tolerance),
  forward("bfloat16", [key(1, 2)], { ...more, ...draw(2, [33], "bfloat16") }, tolerance),
  forward("float16", [key(1, 2)], { ...more, ...draw(2, [33], "float16") }, tolerance),
];

/** A node of two results. */
const sorted: Derived = { op: "sort", of: [0], attrs: { dim: 1, descending: false } };

const bytes = new Uint8Array(new Float32Array([1, -2.5, Number.NaN, 3e38, 0, -0]).buffer);

export const sources = {
  // The op of an `input` sample is its one operand.
  input: [f32, f64, bf16, f16, i32, i64, u8, bool].map((leaf) =>
    differentiated(leaf([]).dtype, [leaf([5, 3])], {}, exact),
  ),
  constant: [
    forward("float32", [], { shape: [2, 3], dtype: "float32", data: bytes }, exact),
    forward("int64", [], { shape: [3], dtype: "int64", data: bytes }, exact),
    forward(
      "uint8, bytes no multiple of 4",
      [],
      { shape: [7], dtype: "uint8", data: new Uint8Array([1, 2, 3, 255, 0, 5, 6]) },
      exact,
    ),
    forward("bool scalar", [], { shape: [], dtype: "bool", data: new Uint8Array([1]) }, exact),
    forward("empty", [], { shape: [0, 2], dtype: "float32", data: new Uint8Array(0) }, exact),
    forward(
      "1031",
      [],
      { shape: [1031], dtype: "float32", data: new Uint8Array(new Float32Array(1031).fill(1.5).buffer) },
      exact,
    ),
  ],
  result: [
    { ...differentiated("values", [f32([5, 7], distinct()), sorted], { index: 0 }, exact), args: [1] },
    { ...forward("indices", [f32([5, 7], distinct()), sorted], { index: 1 }, exact), args: [1] },
  ],
  detach: [
    differentiated("float32", [flipped(f32([5, 7]))], {}, exact),
    forward("bool", [bool([5, 7])], {}, exact),
    forward("special", [f32([14], special)], {}, exact),
  ],
  barrier: [
    differentiated("float32", [f32([5, 7])], {}, exact),
    differentiated("a view", [flipped(f32([5, 7]))], {}, exact),
    forward("bool", [bool([5, 7])], {}, exact),
    forward("empty", [f32([0, 3])], {}, exact),
  ],
  full: [
    ...(["float32", "float64", "bfloat16", "float16", "int32", "int64", "uint8", "bool"] as const).map(
      (dtype) => forward(dtype, [], { value: 1, shape: [3, 5], dtype }, exact),
    ),
    forward("rounded", [], { value: 0.1, shape: [1031], dtype: "float32" }, exact),
    forward("rounded to bfloat16", [], { value: 0.1, shape: [9], dtype: "bfloat16" }, exact),
    forward("rounded to float16", [], { value: 0.1, shape: [9], dtype: "float16" }, exact),
    forward("NaN", [], { value: Number.NaN, shape: [2], dtype: "float32" }, exact),
    forward("-inf", [], { value: Number.NEGATIVE_INFINITY, shape: [2], dtype: "float64" }, exact),
    forward("negative int64", [], { value: -(2 ** 53), shape: [2], dtype: "int64" }, exact),
    forward("scalar", [], { value: -2.5, shape: [], dtype: "float32" }, exact),
    forward("empty", [], { value: 1, shape: [0, 3], dtype: "float32" }, exact),
  ],
  iota: [
    ...(["float32", "float64", "bfloat16", "float16", "int32", "int64", "uint8"] as const).map((dtype) =>
      forward(dtype, [], { dim: 1, shape: [3, 7], dtype }, exact),
    ),
    forward("first", [], { dim: 0, shape: [33, 5], dtype: "int32" }, exact),
    forward("middle", [], { dim: 1, shape: [2, 17, 3], dtype: "float32" }, exact),
    forward("1031", [], { dim: 0, shape: [1031], dtype: "float32" }, exact),
    forward("empty", [], { dim: 0, shape: [0, 3], dtype: "int32" }, exact),
    forward("bfloat16 rounds", [], { dim: 0, shape: [300], dtype: "bfloat16" }, exact),
  ],
  random_uniform: draws({}, exact),
  // Computed in float32 whatever the dtype (docs/ir.md).
  random_normal: draws({}, { ...pointwise, as: "float32" }),
  bernoulli: [
    ...draws({ p: 0.3 }, exact),
    forward("never", [key(1, 2)], { p: 0, ...draw(0, [33], "bool") }, exact),
    forward("always", [key(1, 2)], { p: 1, ...draw(0, [33], "bool") }, exact),
    forward("int32", [key(1, 2)], { p: 0.5, ...draw(0, [33], "int32") }, exact),
  ],
} as const satisfies Partial<Record<OpName, readonly Sample[]>>;
