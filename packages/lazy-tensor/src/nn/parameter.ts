import { engine } from "../runtime.js";
import { Tensor } from "../tensor.js";

/** A tensor that a module learns: listed by `parameters()`, saved in the state dict. As torch.nn.Parameter. */
export class Parameter extends Tensor {
  constructor(value: Tensor, options: { requiresGrad?: boolean } = {}) {
    super(value.requiresGrad ? value.detach().node : value.node);
    if (options.requiresGrad ?? true) this.requiresGrad_();
    else engine().markInitial(this);
  }
}

/** A tensor that belongs to a module and is not learned; saved unless `persistent` is false. As torch.nn.Buffer. */
export class Buffer extends Tensor {
  readonly persistent: boolean;

  constructor(value: Tensor, options: { persistent?: boolean } = {}) {
    super(value.requiresGrad ? value.detach().node : value.node);
    this.persistent = options.persistent ?? true;
    engine().markInitial(this);
  }
}
