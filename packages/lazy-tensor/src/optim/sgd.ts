import type { Tensor } from "../tensor.js";
import { Optimizer, type Params } from "./optimizer.js";

export interface SgdOptions {
  lr: number;
  momentum: number;
  weightDecay: number;
  nesterov: boolean;
}

/** Stochastic gradient descent with momentum. As torch.optim.SGD. */
export class SGD extends Optimizer<SgdOptions> {
  constructor(params: Params<SgdOptions>, options: Partial<SgdOptions> = {}) {
    super(params, { lr: 1e-3, momentum: 0, weightDecay: 0, nesterov: false, ...options });
  }

  protected update(params: readonly Tensor[], options: SgdOptions, lr: Tensor): void {
    const { momentum, weightDecay, nesterov } = options;
    for (const param of params) {
      let direction = param.grad as Tensor;
      if (weightDecay !== 0) direction = direction.add(param.mul(weightDecay));
      if (momentum !== 0) {
        const velocity = this.state(param, "momentum_buffer");
        velocity.copy_(velocity.mul(momentum).add(direction));
        direction = nesterov ? direction.add(velocity.mul(momentum)) : velocity;
      }
      param.sub_(direction.mul(lr));
    }
  }
}
