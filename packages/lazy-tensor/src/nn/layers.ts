import type { DType } from "@lazuli/fx-trace";
import { normal, ones, uniform, zeros } from "../creation.js";
import type { Tensor } from "../tensor.js";
import * as F from "./functional.js";
import { Module } from "./module.js";
import { Parameter } from "./parameter.js";

interface LayerOptions {
  /** Dtype of the parameters; float32 unless given. */
  readonly dtype?: DType;
}

/** y = x · weightᵀ + bias; weight [out, in], initialised as torch.nn.Linear. */
export class Linear extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;

  constructor(
    readonly inFeatures: number,
    readonly outFeatures: number,
    options: LayerOptions & { bias?: boolean } = {},
  ) {
    super();
    const bound = 1 / Math.sqrt(inFeatures);
    const { dtype } = options;
    this.weight = new Parameter(uniform([outFeatures, inFeatures], -bound, bound, { dtype }));
    this.bias =
      (options.bias ?? true) ? new Parameter(uniform([outFeatures], -bound, bound, { dtype })) : null;
  }

  forward(x: Tensor): Tensor {
    return F.linear(x, this.weight, this.bias);
  }

  protected override extraRepr(): string {
    return `${this.inFeatures} -> ${this.outFeatures}, bias=${this.bias !== null}`;
  }
}

/** Rows of weight [V, D] by integer id, initialised from N(0, 1). As torch.nn.Embedding. */
export class Embedding extends Module {
  readonly weight: Parameter;

  constructor(
    readonly numEmbeddings: number,
    readonly embeddingDim: number,
    options: LayerOptions = {},
  ) {
    super();
    this.weight = new Parameter(normal([numEmbeddings, embeddingDim], 0, 1, { dtype: options.dtype }));
  }

  forward(ids: Tensor): Tensor {
    return F.embedding(ids, this.weight);
  }

  protected override extraRepr(): string {
    return `${this.numEmbeddings}, ${this.embeddingDim}`;
  }
}

/** Root-mean-square norm over the last dim, with a learned scale. As torch.nn.RMSNorm; Zhang & Sennrich 2019. */
export class RMSNorm extends Module {
  readonly weight: Parameter;
  readonly eps: number;

  constructor(dim: number, options: LayerOptions & { eps?: number } = {}) {
    super();
    this.eps = options.eps ?? 1e-6;
    this.weight = new Parameter(ones([dim], { dtype: options.dtype }));
  }

  forward(x: Tensor): Tensor {
    return F.rmsNorm(x, this.weight, this.eps);
  }

  protected override extraRepr(): string {
    return `${this.weight.shape[0]}, eps=${this.eps}`;
  }
}

/** Layer norm over the last dim, with a learned scale and shift. As torch.nn.LayerNorm; Ba et al. 2016. */
export class LayerNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;
  readonly eps: number;

  constructor(dim: number, options: LayerOptions & { eps?: number } = {}) {
    super();
    this.eps = options.eps ?? 1e-5;
    this.weight = new Parameter(ones([dim], { dtype: options.dtype }));
    this.bias = new Parameter(zeros([dim], { dtype: options.dtype }));
  }

  forward(x: Tensor): Tensor {
    return F.layerNorm(x, this.weight, this.bias, this.eps);
  }

  protected override extraRepr(): string {
    return `${this.weight.shape[0]}, eps=${this.eps}`;
  }
}

/** Dropout while training. As torch.nn.Dropout. */
export class Dropout extends Module {
  constructor(readonly p = 0.5) {
    super();
  }

  forward(x: Tensor): Tensor {
    return F.dropout(x, this.p, this.training);
  }

  protected override extraRepr(): string {
    return `p=${this.p}`;
  }
}

/** An activation as a module, for Sequential. */
class Activation extends Module {
  constructor(private readonly fn: (x: Tensor) => Tensor) {
    super();
  }

  forward(x: Tensor): Tensor {
    return this.fn(x);
  }
}

export class ReLU extends Activation {
  constructor() {
    super(F.relu);
  }
}
export class SiLU extends Activation {
  constructor() {
    super(F.silu);
  }
}
export class GELU extends Activation {
  constructor(approximate: "none" | "tanh" = "none") {
    super((x) => F.gelu(x, approximate));
  }
}
