import { F, nn, type Tensor } from "@lazuli/lazy-tensor";

// An encoder-decoder with attention, Vaswani et al. 2017, pre-normed.
// B batch, S source length, T target length, D model size, H heads, V vocabulary.

export interface EncoderDecoderConfig {
  readonly vocab: number;
  readonly dim: number;
  readonly heads: number;
  readonly layers: number;
  readonly maxLength: number;
}

/** x [B, T, D] attends to y [B, S, D] → [B, T, D] */
class Attention extends nn.Module {
  readonly q: nn.Linear;
  readonly kv: nn.Linear;
  readonly out: nn.Linear;

  constructor(
    dim: number,
    private readonly heads: number,
    private readonly causal = false,
  ) {
    super();
    this.q = new nn.Linear(dim, dim);
    this.kv = new nn.Linear(dim, 2 * dim);
    this.out = new nn.Linear(dim, dim);
  }

  forward(x: Tensor, y: Tensor): Tensor {
    const split = (z: Tensor): Tensor => z.reshape([z.shape[0], z.shape[1], this.heads, -1]).transpose(1, 2);
    const [k, v] = this.kv.forward(y).chunk(2, -1);
    const attended = F.scaledDotProductAttention(split(this.q.forward(x)), split(k), split(v), {
      causal: this.causal,
    });
    return this.out.forward(attended.transpose(1, 2).reshape(x.shape));
  }
}

/** x [B, T, D], and of a decoder the encoder's memory [B, S, D] → [B, T, D] */
class Layer extends nn.Module {
  readonly norms: nn.LayerNorm[];
  readonly self: Attention;
  readonly cross: Attention | null;
  readonly up: nn.Linear;
  readonly down: nn.Linear;

  constructor({ dim, heads }: EncoderDecoderConfig, decodes: boolean) {
    super();
    this.norms = Array.from({ length: decodes ? 3 : 2 }, () => new nn.LayerNorm(dim));
    this.self = new Attention(dim, heads, decodes);
    this.cross = decodes ? new Attention(dim, heads) : null;
    this.up = new nn.Linear(dim, 4 * dim);
    this.down = new nn.Linear(4 * dim, dim);
  }

  forward(x: Tensor, memory?: Tensor): Tensor {
    const normed = this.norms[0].forward(x);
    let y = x.add(this.self.forward(normed, normed));
    if (this.cross && memory) y = y.add(this.cross.forward(this.norms[1].forward(y), memory));
    const last = this.norms[this.norms.length - 1];
    return y.add(this.down.forward(this.up.forward(last.forward(y)).relu()));
  }
}

/** `{ source: int32 [B, S], target: int32 [B, T] }` → `{ logits: [B, T, V], memory: [B, S, D] }` */
export class EncoderDecoder extends nn.Module {
  readonly embed: nn.Embedding;
  readonly positions: nn.Embedding;
  readonly encoder: Layer[];
  readonly decoder: Layer[];
  readonly norm: nn.LayerNorm;

  constructor(config: EncoderDecoderConfig) {
    super();
    const { vocab, dim, layers, maxLength } = config;
    this.embed = new nn.Embedding(vocab, dim);
    this.positions = new nn.Embedding(maxLength, dim);
    this.encoder = Array.from({ length: layers }, () => new Layer(config, false));
    this.decoder = Array.from({ length: layers }, () => new Layer(config, true));
    this.norm = new nn.LayerNorm(dim);
  }

  forward({ source, target }: { source: Tensor; target: Tensor }): { logits: Tensor; memory: Tensor } {
    let memory = this.embedded(source);
    for (const layer of this.encoder) memory = layer.forward(memory);
    let y = this.embedded(target);
    for (const layer of this.decoder) y = layer.forward(y, memory);
    return { logits: F.linear(this.norm.forward(y), this.embed.weight), memory };
  }

  private embedded(ids: Tensor): Tensor {
    return this.embed.forward(ids).add(this.positions.weight.slice(0, 0, ids.shape[1]));
  }
}
