import { ops } from "@lazuli/fx-trace";
import { full } from "../creation.js";
import type { Tensor } from "../tensor.js";
import { Optimizer, type Params } from "./optimizer.js";

export interface AdamOptions {
  lr: number;
  betas: readonly [number, number];
  eps: number;
  weightDecay: number;
}

/** Adam's update by one fused op a parameter; `decoupled` decay (AdamW) or decay added to the gradient (Adam). */
abstract class AdamBase extends Optimizer<AdamOptions> {
  protected abstract readonly decoupled: boolean;
  protected override readonly skips = true;

  protected update(params: readonly Tensor[], options: AdamOptions, lr: Tensor, unless: Tensor | null): void {
    const { betas, eps, weightDecay } = options;
    const attrs = {
      beta1: betas[0],
      beta2: betas[1],
      eps,
      weight_decay: weightDecay,
      decoupled: this.decoupled,
    };
    const skip = unless ? [full([], 1).node, unless.node] : []; // behind a scale of the gradient
    for (const param of params) {
      const m = this.state(param, "exp_avg");
      const v = this.state(param, "exp_avg_sq");
      const grad = param.grad as Tensor;
      const update = ops.adamw_update(
        [param.node, grad.node, m.node, v.node, lr.node, this.stepCount.node, ...skip],
        attrs,
      );
      [param, m, v].forEach((target, index) => {
        target.assign_(ops.result([update], { index }));
      });
    }
  }
}

const defaults = { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8 } as const;

/** As torch.optim.AdamW; Loshchilov & Hutter 2019. */
export class AdamW extends AdamBase {
  protected readonly decoupled = true;

  constructor(params: Params<AdamOptions>, options: Partial<AdamOptions> = {}) {
    super(params, { ...defaults, weightDecay: 0.01, ...options });
  }
}

/** As torch.optim.Adam; Kingma & Ba 2015. */
export class Adam extends AdamBase {
  protected readonly decoupled = false;

  constructor(params: Params<AdamOptions>, options: Partial<AdamOptions> = {}) {
    super(params, { ...defaults, weightDecay: 0, ...options });
  }
}
