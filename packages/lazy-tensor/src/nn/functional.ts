import {
  autocastDType,
  type DType,
  DTypeError,
  formatShape,
  isFloat,
  isInt,
  type Node,
  ops,
  promote,
  ShapeError,
  ValueError,
} from "@lazuli/fx-trace";
import { rand } from "../creation.js";
import { castNode } from "../methods/elementwise.js";
import { Tensor } from "../tensor.js";

/** x [..., in] · weight [out, in]ᵀ + bias [out]. As torch.nn.functional.linear. */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor | null): Tensor {
  const [out, features] = weight.shape;
  if (weight.rank !== 2 || x.shape.at(-1) !== features) {
    throw new ShapeError(
      "linear",
      `x ${formatShape(x.shape)} does not end in the weight's in-features: weight ${formatShape(weight.shape)}`,
    );
  }
  const dtype = promote(x.dtype, weight.dtype);
  const product = ops.dot_general([castNode(x.node, dtype), castNode(weight.node, dtype)], {
    lhs_contract: [x.rank - 1],
    rhs_contract: [1],
    lhs_batch: [],
    rhs_batch: [],
  });
  if (bias && (bias.rank !== 1 || bias.shape[0] !== out)) {
    throw new ShapeError(
      "linear",
      `bias ${formatShape(bias.shape)} does not fit the weight ${formatShape(weight.shape)}`,
    );
  }
  if (!bias) return new Tensor(product);
  return new Tensor(product).add(autocastDType() === null ? bias : bias.to(product.dtype));
}

/** Rows of weight [V, D] at integer ids [...] → [..., D]. As torch.nn.functional.embedding. */
export const embedding = (ids: Tensor, weight: Tensor): Tensor => weight.indexSelect(0, ids);

/** A norm's dtype: x's own; under autocast float32, which the weights then keep too. */
const normDType = (x: Tensor): DType =>
  autocastDType() === null || x.dtype === "float64" ? x.dtype : "float32";

/** x · rsqrt(mean(x²) + eps) · weight over the last dim, in float32 inside. As torch.nn.functional.rms_norm. */
export function rmsNorm(x: Tensor, weight: Tensor, eps = 1e-6): Tensor {
  const dtype = normDType(x);
  return new Tensor(ops.rms_norm([castNode(x.node, dtype), castNode(weight.node, dtype)], { eps }));
}

/** Normalised to mean 0 and variance 1 over the last dim, then scaled and shifted. As torch.nn.functional.layer_norm. */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps = 1e-5): Tensor {
  const dtype = normDType(x);
  const operands = [x, weight, bias].map(({ node }) => castNode(node, dtype));
  return new Tensor(ops.layer_norm(operands, { eps }));
}

/** Zeroes elements with probability `p` and scales the rest by 1 / (1 - p), in training. As torch.nn.functional.dropout. */
export function dropout(x: Tensor, p = 0.5, training = true): Tensor {
  if (!(p >= 0 && p <= 1)) throw new ShapeError("dropout", `the probability is ${p}, not within 0 and 1`);
  if (!training || p === 0) return x;
  if (p === 1) return x.mul(0);
  return x.mul(1 / (1 - p)).where(rand(x.shape).ge(p), 0);
}

export const softmax = (x: Tensor, dim = -1): Tensor => x.softmax(dim);
export const logSoftmax = (x: Tensor, dim = -1): Tensor => x.logSoftmax(dim);
export const relu = (x: Tensor): Tensor => x.relu();
export const silu = (x: Tensor): Tensor => x.silu();
export const gelu = (x: Tensor, approximate: "none" | "tanh" = "none"): Tensor => x.gelu(approximate);

/** Rotary position embedding of x [..., T, K] by cos and sin [T, K/2]; halves, or even/odd pairs. Su et al. 2021. */
export function rotaryEmbedding(
  x: Tensor,
  cos: Tensor,
  sin: Tensor,
  options: { interleaved?: boolean } = {},
): Tensor {
  return new Tensor(
    ops.rope([x.node, cos.node, sin.node], { interleaved: options.interleaved ?? false, inverse: false }),
  );
}

/** cos and sin [length, K/2] of the angles position / theta^(2i/K), for rotaryEmbedding. */
export function rotaryTables(length: number, headDim: number, theta = 10000): { cos: Tensor; sin: Tensor } {
  const position = new Tensor(ops.iota([], { dim: 0, shape: [length, headDim / 2], dtype: "float64" }));
  const index = new Tensor(ops.iota([], { dim: 1, shape: [length, headDim / 2], dtype: "float64" }));
  const angle = position.mul(index.mul((-2 * Math.log(theta)) / headDim).exp());
  return { cos: angle.cos().to("float32"), sin: angle.sin().to("float32") };
}

export interface AttentionOptions {
  /** Query i sees key j only where j <= i + offset. */
  readonly causal?: boolean;
  /** Defaults to S - T: the last query sees every key, as when keys are cached. */
  readonly offset?: number;
  /** A query sees only this many keys, up to its position i + offset (sliding window; with `causal`, as Mistral's). */
  readonly window?: number;
  /**
   * int32 [B, T]: a query sees the keys of its own segment only, as where sequences of several lengths lie one after the
   * other. Of queries and keys, [B, T] and [B, S], where they are not the same sequence.
   */
  readonly segmentIds?: Tensor | readonly [queries: Tensor, keys: Tensor];
  /**
   * Broadcast to [B, H, T, S], beside what the other options hide: floats are added to the scaled scores (a bias, with its
   * gradient, as ALiBi's or T5's), bools say which keys a query sees. It is read where it lies, never expanded. Under
   * autocast it keeps its dtype.
   */
  readonly attnMask?: Tensor;
  /** Defaults to 1 / sqrt(K). */
  readonly scale?: number;
}

/**
 * softmax(q kᵀ · scale) v, without holding the T x S scores. q [B, H, T, K], k [B, G, S, K], v [B, G, S, Kv] →
 * [B, H, T, Kv]; G divides H (grouped queries, PyTorch's enable_gqa). A query that sees no key gives 0. Throws ShapeError,
 * DTypeError and ValueError. As torch.nn.functional.scaled_dot_product_attention; Dao et al. 2022.
 */
export function scaledDotProductAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttentionOptions = {},
): Tensor {
  return new Tensor(ops.result([attend(q, k, v, options)], { index: 0 }));
}

/** As scaledDotProductAttention, with the float32 log-sum-exp of each row's scores, [B, H, T]. */
export function attentionWithLse(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttentionOptions = {},
): { out: Tensor; lse: Tensor } {
  const both = attend(q, k, v, options);
  return {
    out: new Tensor(ops.result([both], { index: 0 })),
    lse: new Tensor(ops.result([both], { index: 1 })),
  };
}

function attend(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Node {
  const {
    attnMask,
    causal = false,
    offset = (k.shape[2] ?? 0) - (q.shape[2] ?? 0),
    scale = 1 / Math.sqrt(q.shape.at(-1) ?? 1),
    window,
    segmentIds,
  } = options;
  if (window !== undefined && !(Number.isInteger(window) && window > 0))
    throw new ValueError("attention", `the window is ${window}, not a number of keys`);
  const segments = segmentIds instanceof Tensor ? [segmentIds, segmentIds] : (segmentIds ?? []);
  const operands = [
    q,
    k,
    v,
    ...(attnMask ? [ofRank4(attnMask, q)] : []),
    ...segments.map((each) => each.to("int32")),
  ];
  return ops.attention(
    operands.map(({ node }) => node),
    { causal, offset: causal || window !== undefined ? offset : 0, scale, window: window ?? 0 },
  );
}

/** A mask with dims of size 1 in front, as NumPy aligns shapes; one of floats in float64 where q is. */
function ofRank4(mask: Tensor, q: Tensor): Tensor {
  if (mask.rank > 4) {
    throw new ShapeError(
      "attention",
      `the mask ${formatShape(mask.shape)} does not broadcast to [B, H, T, S]: q is ${formatShape(q.shape)}`,
    );
  }
  const ones = new Array<number>(4 - mask.rank).fill(1);
  const whole = ones.length > 0 ? mask.reshape([...ones, ...mask.shape]) : mask;
  return isFloat(mask.dtype) && q.dtype === "float64" ? whole.to("float64") : whole;
}

export interface CrossEntropyOptions {
  /** Targets of this value count for nothing. */
  readonly ignoreIndex?: number;
  /** Share of the target spread evenly over all classes, in [0, 1). */
  readonly labelSmoothing?: number;
  /** `mean` is over the targets that count. */
  readonly reduction?: "mean" | "sum" | "none";
}

/** Cross entropy of logits [..., V] against integer targets [...], float32. As torch.nn.functional.cross_entropy. */
export function crossEntropy(logits: Tensor, target: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const { ignoreIndex = -100, labelSmoothing = 0, reduction = "mean" } = options;
  if (!isInt(target.dtype)) throw new DTypeError("crossEntropy", `targets are ${target.dtype}, not integers`);
  if (formatShape(logits.shape.slice(0, -1)) !== formatShape(target.shape)) {
    throw new ShapeError(
      "crossEntropy",
      `logits ${formatShape(logits.shape)} and targets ${formatShape(target.shape)} do not fit: [..., V] and [...]`,
    );
  }
  const both = ops.cross_entropy([logits.node, target.node], {
    ignore_index: ignoreIndex,
    label_smoothing: labelSmoothing,
  });
  return reduced(both, target, ignoreIndex, reduction);
}

/** The losses of a cross entropy, by row, as the reduction has them. */
function reduced(
  losses: Node,
  target: Tensor,
  ignoreIndex: number,
  reduction: CrossEntropyOptions["reduction"],
): Tensor {
  const byRow = new Tensor(ops.result([losses], { index: 0 }));
  if (reduction === "none") return byRow;
  if (reduction === "sum") return byRow.sum();
  return byRow.sum().div(target.ne(ignoreIndex).to("float32").sum());
}

/**
 * crossEntropy(linear(x, weight), target) of x [..., K], weight [V, K] and targets [...], float32, forward and backward
 * without the logits [..., V] in memory. A loss over `linear` whose logits nothing else reads becomes the same by itself
 * where they are large. Throws ShapeError and DTypeError. Hsu et al., "Liger Kernel" 2024.
 */
export function linearCrossEntropy(
  x: Tensor,
  weight: Tensor,
  target: Tensor,
  options: CrossEntropyOptions = {},
): Tensor {
  const { ignoreIndex = -100, labelSmoothing = 0, reduction = "mean" } = options;
  const dtype = promote(x.dtype, weight.dtype);
  const both = ops.linear_cross_entropy(
    [castNode(x.node, dtype), castNode(weight.node, dtype), target.node],
    {
      ignore_index: ignoreIndex,
      label_smoothing: labelSmoothing,
    },
  );
  return reduced(both, target, ignoreIndex, reduction);
}

/** Mean of the squared differences. As torch.nn.functional.mse_loss. */
export const mseLoss = (x: Tensor, target: Tensor): Tensor => x.sub(target).square().mean();
