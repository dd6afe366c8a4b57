import type { Attrs, DType, OpName } from "@lazuli/fx-trace";

/** How the numbers of an input are drawn; `makeLeaf` in ops.samples.data.ts says what comes out. */
export type Fill =
  | { readonly kind: "normal"; readonly scale: number }
  | { readonly kind: "uniform"; readonly low: number; readonly high: number }
  /** Integers, `high` excluded. */
  | { readonly kind: "ints"; readonly low: number; readonly high: number }
  /** A permutation of the multiples of `step` around 0: no two elements are equal. */
  | { readonly kind: "distinct"; readonly step: number }
  /** These, over and over. */
  | { readonly kind: "values"; readonly values: readonly number[] };

/** Data that comes from outside, then through a view where `via` names one, so that the op reads with strides. */
export interface Leaf {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly fill: Fill;
  readonly via?: { readonly op: OpName; readonly attrs: Attrs };
}

/** An operand that must agree with others: a result of an op over the operands at `of`. */
export interface Derived {
  readonly op: OpName;
  readonly of: readonly number[];
  /** The sample's own where not given. */
  readonly attrs?: Attrs;
  /** The node itself, with all its results, where not given. */
  readonly result?: number;
}

export type Operand = Leaf | Derived;
export const isLeaf = (operand: Operand): operand is Leaf => "fill" in operand;

/**
 * The largest error accepted: relative to the element for `pointwise`, to the largest magnitude for `accumulated`, none
 * for `exact`; gradients count as accumulated. `scale` multiplies what the dtype gives (default 1).
 */
export interface Tolerance {
  readonly kind: "exact" | "pointwise" | "accumulated";
  readonly scale?: number;
  /** For gradients, where they need another than `scale`. */
  readonly gradScale?: number;
  /** For float64 of which a part is kept in float32; `gradAs` for gradients only. */
  readonly as?: "float32";
  readonly gradAs?: "float32";
  /** Accepted whatever the magnitudes: for results that cancel to nearly 0. */
  readonly absolute?: number;
}

export interface Sample {
  readonly name: string;
  readonly attrs: Attrs;
  readonly operands: readonly Operand[];
  /** Positions of the operands that the op is given; all of them where not said. */
  readonly args?: readonly number[];
  /** Whether gradients of the float leaves are checked. */
  readonly grad: boolean;
  /** Results that get a cotangent; every float one where not said. */
  readonly cotangents?: readonly number[];
  readonly tolerance: Tolerance;
}

export const exact: Tolerance = { kind: "exact" };
export const pointwise: Tolerance = { kind: "pointwise" };
export const accumulated: Tolerance = { kind: "accumulated" };

export const normal = (scale = 1): Fill => ({ kind: "normal", scale });
export const uniform = (low: number, high: number): Fill => ({ kind: "uniform", low, high });
export const ints = (low: number, high: number): Fill => ({ kind: "ints", low, high });
export const distinct = (step = 0.25): Fill => ({ kind: "distinct", step });
export const values = (...list: number[]): Fill => ({ kind: "values", values: list });
/** What tells special cases of arithmetic apart. Finite ones are exact in every float dtype. */
export const special = values(NaN, Infinity, -Infinity, 0, -0, 1, -1, 0.5, -0.5, 1.5, -2.5, 3, 88, -88);

export const f32 = (shape: readonly number[], fill: Fill = normal()): Leaf => ({
  shape,
  dtype: "float32",
  fill,
});
export const f64 = (shape: readonly number[], fill: Fill = normal()): Leaf => ({
  shape,
  dtype: "float64",
  fill,
});
export const bf16 = (shape: readonly number[], fill: Fill = normal()): Leaf => ({
  shape,
  dtype: "bfloat16",
  fill,
});
export const f16 = (shape: readonly number[], fill: Fill = normal()): Leaf => ({
  shape,
  dtype: "float16",
  fill,
});
export const i32 = (shape: readonly number[], fill: Fill = ints(-9, 10)): Leaf => ({
  shape,
  dtype: "int32",
  fill,
});
export const i64 = (shape: readonly number[], fill: Fill = ints(-9, 10)): Leaf => ({
  shape,
  dtype: "int64",
  fill,
});
export const u8 = (shape: readonly number[], fill: Fill = ints(0, 10)): Leaf => ({
  shape,
  dtype: "uint8",
  fill,
});
export const bool = (shape: readonly number[], fill: Fill = ints(0, 2)): Leaf => ({
  shape,
  dtype: "bool",
  fill,
});

/** Read backwards along `dims`: negative strides once the view is fused away. */
export const flipped = (leaf: Leaf, dims: readonly number[] = leaf.shape.map((_, dim) => dim)): Leaf => ({
  ...leaf,
  via: { op: "flip", attrs: { dims } },
});
/** `leaf.shape` is the shape before the transpose. */
export const transposed = (leaf: Leaf, perm: readonly number[]): Leaf => ({
  ...leaf,
  via: { op: "transpose", attrs: { perm } },
});
/** Stride 0 along the new dims. */
export const broadcast = (leaf: Leaf, shape: readonly number[]): Leaf => ({
  ...leaf,
  via: { op: "broadcast_to", attrs: { shape } },
});
/** From 1 on, every `step`-th element of each dim. */
export const strided = (leaf: Leaf, step = 2): Leaf => ({
  ...leaf,
  via: {
    op: "slice",
    attrs: { starts: leaf.shape.map(() => 1), limits: leaf.shape, steps: leaf.shape.map(() => step) },
  },
});

/** [B, T, H, K] read as [B, H, T, K], as a model's projections give it. */
export const heads = (shape: readonly number[]): Leaf => transposed(f32(shape), [0, 2, 1, 3]);

/** What the op is given, after `via`. */
export function shapeOf({ shape, via }: Leaf): readonly number[] {
  if (!via) return shape;
  const { perm, steps, shape: to } = via.attrs as Record<string, readonly number[]>;
  if (via.op === "transpose") return perm.map((dim) => shape[dim]);
  if (via.op === "slice") return shape.map((size, dim) => Math.ceil((size - 1) / steps[dim]));
  return via.op === "broadcast_to" ? to : shape;
}

/** A sample whose gradients are checked. */
export const differentiated = (
  name: string,
  operands: readonly Operand[],
  attrs: Attrs,
  tolerance: Tolerance,
  cotangents?: readonly number[],
): Sample => ({ name, operands, attrs, tolerance, grad: true, ...(cotangents && { cotangents }) });

export const forward = (
  name: string,
  operands: readonly Operand[],
  attrs: Attrs,
  tolerance: Tolerance,
): Sample => ({ name, operands, attrs, tolerance, grad: false });
