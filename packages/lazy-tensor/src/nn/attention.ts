import { formatShape, ShapeError, ValueError } from "@lazuli/fx-trace";
import type { Tensor } from "../tensor.js";
import * as F from "./functional.js";
import { Linear } from "./layers.js";
import { Module } from "./module.js";

export interface AttentionConfig {
  /** Size of the model's vectors, D. */
  readonly dim: number;
  /** Query heads, H. */
  readonly heads: number;
  /** Key and value heads, G; a divisor of `heads`. Defaults to `heads`. */
  readonly kvHeads?: number;
  /** K; defaults to dim / heads. */
  readonly headDim?: number;
  /** Query i sees keys up to i. */
  readonly causal?: boolean;
  readonly bias?: boolean;
}

/** Multi-head self-attention with grouped queries and, where cos and sin are given, rotary positions. x [B, T, D] → [B, T, D]. */
export class SelfAttention extends Module {
  readonly q: Linear;
  readonly k: Linear;
  readonly v: Linear;
  readonly out: Linear;
  private readonly heads: number;
  private readonly kvHeads: number;
  private readonly causal: boolean;

  constructor(config: AttentionConfig) {
    super();
    const { dim, heads, kvHeads = heads, headDim = dim / heads, causal = false, bias = false } = config;
    if (!Number.isInteger(headDim) || heads % kvHeads !== 0) {
      throw new ValueError("SelfAttention", `${heads} heads (${kvHeads} for keys) do not divide dim ${dim}`);
    }
    this.heads = heads;
    this.kvHeads = kvHeads;
    this.causal = causal;
    this.q = new Linear(dim, heads * headDim, { bias });
    this.k = new Linear(dim, kvHeads * headDim, { bias });
    this.v = new Linear(dim, kvHeads * headDim, { bias });
    this.out = new Linear(heads * headDim, dim, { bias });
  }

  forward(x: Tensor, rotary?: { cos: Tensor; sin: Tensor }): Tensor {
    if (x.rank !== 3)
      throw new ShapeError("SelfAttention", `x is ${formatShape(x.shape)}, not [batch, sequence, dim]`);
    const [batch, length] = x.shape;
    const split = (y: Tensor, heads: number): Tensor => y.reshape([batch, length, heads, -1]).transpose(1, 2);
    const turn = (y: Tensor): Tensor => (rotary ? F.rotaryEmbedding(y, rotary.cos, rotary.sin) : y);
    const q = turn(split(this.q.forward(x), this.heads));
    const k = turn(split(this.k.forward(x), this.kvHeads));
    const v = split(this.v.forward(x), this.kvHeads);
    const y = F.scaledDotProductAttention(q, k, v, { causal: this.causal });
    return this.out.forward(y.transpose(1, 2).reshape([batch, length, -1]));
  }
}
