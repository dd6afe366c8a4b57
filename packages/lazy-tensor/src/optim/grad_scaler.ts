import { noGrad } from "../autograd.js";
import { tensor } from "../creation.js";
import { TensorError } from "../errors.js";
import { setInitial } from "../nn/module.js";
import { engine } from "../runtime.js";
import type { Tensor } from "../tensor.js";
import type { Optimizer } from "./optimizer.js";

export interface GradScalerOptions {
  /** Factor of the loss at first. Default 65536. */
  readonly initScale: number;
  /** Of the factor after `growthInterval` steps without an overflow. Default 2. */
  readonly growthFactor: number;
  /** Of the factor after an overflow. Default 0.5. */
  readonly backoffFactor: number;
  /** Default 2000. */
  readonly growthInterval: number;
}

const defaults: GradScalerOptions = {
  initScale: 65536,
  growthFactor: 2,
  backoffFactor: 0.5,
  growthInterval: 2000,
};

type AnyOptimizer = Optimizer<{ lr: number }>;

/**
 * Keeps float16 gradients from vanishing: the loss is multiplied by a factor, and gradients are divided by it before the
 * update. A step whose gradients have an infinity or NaN is skipped and lowers the factor; many without raise it. All of
 * it on the device: whether a step is skipped is not known to the host, and costs no round trip.
 *
 *     scaler.scale(loss).backward();
 *     scaler.unscale_(optimizer);            // only to clip in between
 *     optim.clipGradNorm(params, 1);
 *     scaler.step(optimizer);
 *     scaler.update();
 *
 * As torch.amp.GradScaler; Micikevicius et al. 2018.
 */
export class GradScaler {
  private readonly factor: Tensor;
  /** Steps since the factor was changed. */
  private readonly clean: Tensor;
  private readonly options: GradScalerOptions;
  /** By optimizer whose gradients are divided already: whether one of them is not finite. */
  private readonly found = new Map<AnyOptimizer, Tensor>();

  /** Throws TensorError for a factor that is not positive. */
  constructor(options: Partial<GradScalerOptions> = {}) {
    this.options = { ...defaults, ...options };
    for (const [name, value] of Object.entries(this.options))
      if (!(value > 0)) throw new TensorError("GradScaler", `${name} is ${value}, not a positive number`);
    this.factor = tensor(this.options.initScale);
    this.clean = tensor(0);
    for (const state of [this.factor, this.clean]) engine().markInitial(state);
  }

  /** The loss times the factor. */
  scale(loss: Tensor): Tensor {
    return loss.mul(this.factor.to(loss.dtype === "float64" ? "float64" : "float32"));
  }

  /** Divides the gradients of the optimizer's parameters by the factor. Throws TensorError where that was done already. */
  unscale_(optimizer: AnyOptimizer): void {
    if (this.found.has(optimizer))
      throw new TensorError(
        "unscale_",
        "the optimizer's gradients are divided already since the last update()",
      );
    noGrad(() => {
      const inverse = this.factor.reciprocal();
      let bad: Tensor | null = null;
      for (const { grad } of optimizer.parameters()) {
        if (!grad) continue;
        grad.copy_(grad.mul(inverse.to(grad.dtype === "float64" ? "float64" : "float32")));
        const own = grad.isfinite().all().logicalNot();
        bad = bad ? bad.logicalOr(own) : own;
      }
      if (bad === null) throw new TensorError("unscale_", "no parameter of the optimizer has a gradient");
      this.found.set(optimizer, bad);
    });
  }

  /** Records the optimizer's step, which is skipped on the device where a gradient is not finite. */
  step(optimizer: AnyOptimizer): void {
    if (!this.found.has(optimizer)) this.unscale_(optimizer);
    optimizer.step(this.found.get(optimizer) as Tensor);
  }

  /** Adjusts the factor by what the steps since the last call found. Throws TensorError where there was none. */
  update(): void {
    const founds = [...this.found.values()];
    if (founds.length === 0) throw new TensorError("update", "no step was taken since the last update()");
    this.found.clear();
    const { growthFactor, backoffFactor, growthInterval } = this.options;
    noGrad(() => {
      const bad = founds.reduce((a, b) => a.logicalOr(b));
      const count = this.clean.add(1);
      const grows = count.ge(growthInterval);
      const kept = this.factor.mul(growthFactor).where(grows, this.factor);
      this.factor.copy_(this.factor.mul(backoffFactor).where(bad, kept));
      this.clean.copy_(count.where(bad.logicalOr(grows).logicalNot(), 0));
    });
  }

  /** The factor; takes a step where it is pending. */
  getScale(): Promise<number> {
    return this.factor.item();
  }

  /** `scale` and `growth_tracker`, for checkpoints. */
  stateDict(): Map<string, Tensor> {
    return new Map([
      ["scale", this.factor],
      ["growth_tracker", this.clean],
    ]);
  }

  /** Restores what `stateDict` gave. */
  loadStateDict(saved: ReadonlyMap<string, Tensor>): void {
    for (const [name, state] of this.stateDict()) {
      const value = saved.get(name);
      if (!value) throw new TensorError("loadStateDict", `the scaler's state has no ${name}`);
      setInitial(state, value);
    }
  }
}
