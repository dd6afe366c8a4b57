import { type DType, F, nn, type Tensor } from "@lazuli/lazy-tensor";
import type { LlamaConfig } from "./config.js";

// Llama as Hugging Face has it: fields are named as in its state dict, so that its weights load by name.
// B batch, T sequence, D hidden size, H query heads, G key and value heads, K head size, F feed-forward, V vocabulary.

type Rotary = ReturnType<typeof F.rotaryTables>;

/** Float32 parameters, used in the dtype of the activations. */
class Linear extends nn.Linear {
  override forward(x: Tensor): Tensor {
    return F.linear(x, this.weight.to(x.dtype), this.bias?.to(x.dtype));
  }
}

/** x [B, T, D] → [B, T, D] */
class Attention extends nn.Module {
  readonly q_proj: Linear;
  readonly k_proj: Linear;
  readonly v_proj: Linear;
  readonly o_proj: Linear;

  constructor(readonly config: LlamaConfig) {
    super();
    const { hidden_size: D, num_attention_heads: H, num_key_value_heads: G, head_dim: K } = config;
    const options = { bias: config.attention_bias };
    this.q_proj = new Linear(D, H * K, options);
    this.k_proj = new Linear(D, G * K, options);
    this.v_proj = new Linear(D, G * K, options);
    this.o_proj = new Linear(H * K, D, options);
  }

  forward(x: Tensor, { cos, sin }: Rotary): Tensor {
    const [B, T] = x.shape;
    /** [B, T, heads * K] → [B, heads, T, K] */
    const heads = (y: Tensor): Tensor => y.reshape([B, T, -1, this.config.head_dim]).transpose(1, 2);
    const q = F.rotaryEmbedding(heads(this.q_proj.forward(x)), cos, sin);
    const k = F.rotaryEmbedding(heads(this.k_proj.forward(x)), cos, sin);
    const v = heads(this.v_proj.forward(x));
    const y = F.scaledDotProductAttention(q, k, v, { causal: true });
    return this.o_proj.forward(y.transpose(1, 2).reshape([B, T, -1]));
  }
}

/** x [B, T, D] → [B, T, D] through F, gated. Shazeer 2020. */
class FeedForward extends nn.Module {
  readonly gate_proj: Linear;
  readonly up_proj: Linear;
  readonly down_proj: Linear;

  constructor({ hidden_size, intermediate_size, mlp_bias: bias }: LlamaConfig) {
    super();
    this.gate_proj = new Linear(hidden_size, intermediate_size, { bias });
    this.up_proj = new Linear(hidden_size, intermediate_size, { bias });
    this.down_proj = new Linear(intermediate_size, hidden_size, { bias });
  }

  forward(x: Tensor): Tensor {
    return this.down_proj.forward(this.gate_proj.forward(x).silu().mul(this.up_proj.forward(x)));
  }
}

class Block extends nn.Module {
  readonly input_layernorm: nn.RMSNorm;
  readonly self_attn: Attention;
  readonly post_attention_layernorm: nn.RMSNorm;
  readonly mlp: FeedForward;

  constructor(config: LlamaConfig) {
    super();
    const eps = config.rms_norm_eps;
    this.input_layernorm = new nn.RMSNorm(config.hidden_size, { eps });
    this.self_attn = new Attention(config);
    this.post_attention_layernorm = new nn.RMSNorm(config.hidden_size, { eps });
    this.mlp = new FeedForward(config);
  }

  forward(x: Tensor, rotary: Rotary): Tensor {
    const h = x.add(this.self_attn.forward(this.input_layernorm.forward(x), rotary));
    return h.add(this.mlp.forward(this.post_attention_layernorm.forward(h)));
  }
}

/** ids [B, T] → hidden states [B, T, D] */
class Decoder extends nn.Module {
  readonly embed_tokens: nn.Embedding;
  readonly layers: nn.ModuleList<Block>;
  readonly norm: nn.RMSNorm;

  constructor(readonly config: LlamaConfig) {
    super();
    this.embed_tokens = new nn.Embedding(config.vocab_size, config.hidden_size);
    this.layers = new nn.ModuleList(
      Array.from({ length: config.num_hidden_layers }, () => new Block(config)),
    );
    this.norm = new nn.RMSNorm(config.hidden_size, { eps: config.rms_norm_eps });
  }

  forward(ids: Tensor, dtype: DType): Tensor {
    const { head_dim, rope_theta } = this.config;
    const rotary = F.rotaryTables(ids.shape[1], head_dim, rope_theta);
    let x = this.embed_tokens.forward(ids).to(dtype);
    for (const layer of this.layers) x = layer.forward(x, rotary);
    return this.norm.forward(x);
  }
}

/** ids int32 [B, T] → logits [B, T, V]. Parameters are float32; activations are of `dtype`. */
export class Llama extends nn.Module {
  readonly model: Decoder;
  /** Null where the embedding is used both ways. */
  readonly lm_head: Linear | null;

  constructor(
    readonly config: LlamaConfig,
    readonly dtype: DType = "float32",
  ) {
    super();
    const { hidden_size, vocab_size, tie_word_embeddings, initializer_range: std } = config;
    this.model = new Decoder(config);
    this.lm_head = tie_word_embeddings ? null : new Linear(hidden_size, vocab_size, { bias: false });
    for (const weight of this.parameters()) if (weight.rank > 1) nn.init.normal_(weight, { std });
  }

  forward(ids: Tensor): Tensor {
    const x = this.model.forward(ids, this.dtype);
    return this.lm_head ? this.lm_head.forward(x) : F.linear(x, this.model.embed_tokens.weight.to(x.dtype));
  }
}
