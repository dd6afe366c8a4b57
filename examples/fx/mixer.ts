import { nn, type Tensor } from "@lazuli/lazy-tensor";

// MLP-Mixer, Tolstikhin et al. 2021: mixes along patches and along channels in turn, as a CNN does along space and depth.
// B batch, P patches, C channels.

export interface MixerConfig {
  readonly patches: number;
  readonly patchSize: number;
  readonly channels: number;
  readonly layers: number;
  readonly classes: number;
}

export type Activation = (x: Tensor) => Tensor;

/** x [..., D] → [..., D] through `hidden`. */
class Mlp extends nn.Module {
  readonly up: nn.Linear;
  readonly down: nn.Linear;

  constructor(
    dim: number,
    hidden: number,
    private readonly activation: Activation,
  ) {
    super();
    this.up = new nn.Linear(dim, hidden);
    this.down = new nn.Linear(hidden, dim);
  }

  forward(x: Tensor): Tensor {
    return this.down.forward(this.activation(this.up.forward(x)));
  }
}

/** x [B, P, C] → [B, P, C] */
class MixerBlock extends nn.Module {
  readonly patchNorm: nn.LayerNorm;
  readonly patches: Mlp;
  readonly channelNorm: nn.LayerNorm;
  readonly channels: Mlp;

  constructor({ patches, channels }: MixerConfig, activation: Activation) {
    super();
    this.patchNorm = new nn.LayerNorm(channels);
    this.patches = new Mlp(patches, 2 * patches, activation);
    this.channelNorm = new nn.LayerNorm(channels);
    this.channels = new Mlp(channels, 2 * channels, activation);
  }

  forward(x: Tensor): Tensor {
    const mixed = x.add(this.patches.forward(this.patchNorm.forward(x).transpose(1, 2)).transpose(1, 2));
    return mixed.add(this.channels.forward(this.channelNorm.forward(mixed)));
  }
}

/** x [B, P, patchSize] → logits [B, classes] */
export class Mixer extends nn.Module {
  readonly embed: nn.Linear;
  readonly blocks: MixerBlock[];
  readonly dropout = new nn.Dropout(0.1);
  readonly norm: nn.LayerNorm;
  readonly head: nn.Linear;

  constructor(config: MixerConfig, activation: Activation = (x) => x.gelu()) {
    super();
    this.embed = new nn.Linear(config.patchSize, config.channels);
    this.blocks = Array.from({ length: config.layers }, () => new MixerBlock(config, activation));
    this.norm = new nn.LayerNorm(config.channels);
    this.head = new nn.Linear(config.channels, config.classes);
  }

  forward(x: Tensor): Tensor {
    let y = this.embed.forward(x);
    for (const block of this.blocks) y = block.forward(y);
    return this.head.forward(this.dropout.forward(this.norm.forward(y).mean(1)));
  }
}
