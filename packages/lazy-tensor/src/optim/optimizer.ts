import { noGrad } from "../autograd.js";
import { tensor, zeros } from "../creation.js";
import { TensorError } from "../errors.js";
import { activeTrace } from "../fx/active.js";
import { setInitial } from "../nn/module.js";
import { engine } from "../runtime.js";
import type { Tensor } from "../tensor.js";

/** Parameters that share settings of their own. */
export interface ParamGroup<O> {
  readonly params: readonly Tensor[];
  readonly options: O;
}

/** Parameters, or groups of them with settings that differ from the optimizer's. As torch.optim's param_groups. */
export type Params<O> = Iterable<Tensor> | readonly ({ readonly params: Iterable<Tensor> } & Partial<O>)[];

/** What every optimizer is: state by parameter, a learning rate that changes without a recompile. As torch.optim.Optimizer. */
export abstract class Optimizer<O extends { lr: number }> {
  readonly groups: readonly ParamGroup<O>[];
  private readonly states = new Map<Tensor, Map<string, Tensor>>();
  /** Updates taken, a 0-d float32 tensor: one count for all parameters, as in optax. */
  protected readonly stepCount: Tensor;
  private rate: number;
  private rates = new Map<number, Tensor>();

  constructor(params: Params<O>, options: O) {
    const list = [...(params as Iterable<Tensor | ({ params: Iterable<Tensor> } & Partial<O>)>)];
    const plain = list.filter((item): item is Tensor => "node" in item);
    const grouped = list.filter((item) => !("node" in item)) as ({ params: Iterable<Tensor> } & Partial<O>)[];
    this.groups = [
      ...(plain.length > 0 ? [{ params: plain, options }] : []),
      ...grouped.map(({ params: members, ...own }) => ({
        params: [...members],
        options: { ...options, ...own } as O,
      })),
    ];
    if (this.parameters().length === 0) throw new TensorError("optim", "the list of parameters is empty");
    if (!(options.lr >= 0))
      throw new TensorError("optim", `the learning rate is ${options.lr}, not a number of at least 0`);
    this.rate = options.lr;
    this.stepCount = zeros([]);
    engine().markInitial(this.stepCount);
  }

  /** Learning rate; a group with one of its own keeps its ratio to it. */
  get lr(): number {
    return this.rate;
  }
  set lr(value: number) {
    if (!(value >= 0))
      throw new TensorError("optim", `the learning rate is ${value}, not a number of at least 0`);
    this.rate = value;
  }

  parameters(): Tensor[] {
    return this.groups.flatMap((group) => group.params);
  }

  /** Records the update of every parameter that has a gradient. As torch.optim.Optimizer.step. */
  step(): void {
    activeTrace?.refuse("optim", "an optimizer takes a step in what is traced: trace the forward alone");
    noGrad(() => {
      this.stepCount.add_(1);
      for (const { params, options } of this.groups) {
        const withGrad = params.filter((param) => param.grad !== null);
        if (withGrad.length > 0) this.update(withGrad, options, this.rateTensor(options.lr));
      }
    });
  }

  /** Drops the gradients; their memory is given back with the next step. As torch's zero_grad(set_to_none=True). */
  zeroGrad(): void {
    for (const param of this.parameters()) {
      if (param.grad) engine().retire(param.grad.node);
      param.grad = null;
    }
  }

  /** State tensors as `parameter name or number . state name`, and `step`, for checkpoints. */
  stateDict(): Map<string, Tensor> {
    const out = new Map<string, Tensor>([["step", this.stepCount]]);
    for (const [i, param] of this.parameters().entries()) {
      for (const [name, state] of this.states.get(param) ?? []) out.set(`${param.name || i}.${name}`, state);
    }
    return out;
  }

  /** Restores what `stateDict` gave. Throws TensorError for a state of the wrong shape. */
  loadStateDict(saved: ReadonlyMap<string, Tensor>): void {
    const step = saved.get("step");
    if (step) setInitial(this.stepCount, step);
    for (const [i, param] of this.parameters().entries()) {
      const prefix = `${param.name || i}.`;
      for (const [key, value] of saved) {
        if (!key.startsWith(prefix) || key.slice(prefix.length).includes(".")) continue;
        setInitial(this.state(param, key.slice(prefix.length), value.shape), value);
      }
    }
  }

  protected abstract update(params: readonly Tensor[], options: O, lr: Tensor): void;

  /** A parameter's state, zeros (float32) when first asked for. */
  protected state(param: Tensor, name: string, shape = param.shape): Tensor {
    const states = this.states.get(param) ?? new Map<string, Tensor>();
    this.states.set(param, states);
    const existing = states.get(name);
    if (existing) return existing;
    const fresh = zeros(shape);
    if (shape === param.shape) fresh.layout = param.stateLayout ?? param.layout;
    engine().markInitial(fresh);
    states.set(name, fresh);
    return fresh;
  }

  /** The learning rate as a 0-d input, uploaded only when it changes. */
  private rateTensor(groupRate: number): Tensor {
    const base = this.groups[0].options.lr;
    const rate = base === 0 ? this.rate : (groupRate / base) * this.rate;
    const existing = this.rates.get(rate);
    if (existing) return existing;
    if (this.rates.size >= this.groups.length) this.rates.clear();
    const made = tensor(rate);
    this.rates.set(rate, made);
    return made;
  }
}
