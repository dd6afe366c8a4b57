import { type Node, ops, type Shape, sameShape } from "@lazuli/fx-trace";
import { type Dims, specOf } from "@lazuli/sharding";
import { noGrad } from "../autograd.js";
import { tensor, zeros } from "../creation.js";
import { TensorError } from "../errors.js";
import { activeTrace } from "../fx/active.js";
import { setInitial } from "../nn/module.js";
import { engine } from "../runtime.js";
import type { Placement } from "../sharding/parts.js";
import { Tensor } from "../tensor.js";

/** Parameters that share settings of their own. */
export interface ParamGroup<O> {
  readonly params: readonly Tensor[];
  readonly options: O;
}

/** Parameters, or groups of them with settings that differ from the optimizer's. As torch.optim's param_groups. */
export type Params<O> = Iterable<Tensor> | readonly ({ readonly params: Iterable<Tensor> } & Partial<O>)[];

/** Whether `stateDict` has state of the parameter, number `i`, under that name. */
const isStateOf = (key: string, param: Tensor, i: number): boolean =>
  key.slice(0, Math.max(key.lastIndexOf("."), 0)) === (param.name || String(i));

/** What every optimizer is: state by parameter, a learning rate that changes without a recompile. As torch.optim.Optimizer. */
export abstract class Optimizer<O extends { lr: number }> {
  readonly groups: readonly ParamGroup<O>[];
  private readonly states = new Map<Tensor, Map<string, Tensor>>();
  /** Updates taken, a 0-d float32 tensor: one count for all parameters, as in optax. */
  protected readonly stepCount: Tensor;
  private rate: number;
  /** The learning rate of each group, a 0-d tensor: an input of the step, so that a new one never recompiles. */
  private readonly rates: readonly Tensor[];
  /** While a step is recorded that may be skipped: what parameters and state were. */
  private before: Map<Tensor, Node> | null = null;
  /** Whether `update` itself sees to `unless`; where not, parameters and state are chosen after it. */
  protected readonly skips: boolean = false;

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
    this.rates = this.groups.map((group) => tensor(group.options.lr));
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
    if (value === this.rate) return;
    this.rate = value;
    const base = this.groups[0].options.lr;
    for (const [i, { options }] of this.groups.entries())
      Tensor.give(this.rates[i], tensor(base === 0 ? value : (options.lr / base) * value).node);
  }

  parameters(): Tensor[] {
    return this.groups.flatMap((group) => group.params);
  }

  /**
   * Records the update of every parameter that has a gradient. Where `unless`, a bool scalar, is true on the device, parameters
   * and state stay as they were. As torch.optim.Optimizer.step.
   */
  step(unless: Tensor | null = null): void {
    activeTrace?.refuse("optim", "an optimizer takes a step in what is traced: trace the forward alone");
    noGrad(() => {
      this.before = unless && new Map([[this.stepCount, this.stepCount.node]]);
      if (!this.skips) for (const param of this.parameters()) this.before?.set(param, param.node);
      this.stepCount.add_(1);
      for (const [i, { params, options }] of this.groups.entries()) {
        const withGrad = params.filter((param) => param.grad !== null);
        if (withGrad.length > 0) this.update(withGrad, options, this.rates[i], unless);
      }
      for (const [tensor, old] of this.before ?? [])
        if (tensor.node !== old) tensor.assign_(ops.where([(unless as Tensor).node, old, tensor.node], {}));
      this.before = null;
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
      for (const [key, value] of saved) {
        if (!isStateOf(key, param, i)) continue;
        setInitial(this.state(param, key.slice(key.lastIndexOf(".") + 1), value.shape), value);
      }
    }
  }

  /** Where state of that name in `stateDict` lies, or will once it is there; null where every device has it whole. */
  placementOf(key: string, shape: Shape): Placement | null {
    const { mesh } = engine();
    const found = [...this.parameters().entries()].find(([i, param]) => isStateOf(key, param, i));
    if (!mesh || !found) return null;
    const layout = this.layoutOf(found[1], shape);
    return layout && { mesh, spec: specOf(mesh, layout) };
  }

  /** State of a parameter's shape lies as the parameter, unless the parameter says otherwise. */
  private layoutOf(param: Tensor, shape: Shape): Dims | null {
    return sameShape(shape, param.shape) ? (param.stateLayout ?? param.layout) : null;
  }

  protected abstract update(params: readonly Tensor[], options: O, lr: Tensor, unless: Tensor | null): void;

  /** A parameter's state, zeros (float32) when first asked for. */
  protected state(param: Tensor, name: string, shape = param.shape): Tensor {
    const states = this.states.get(param) ?? new Map<string, Tensor>();
    this.states.set(param, states);
    const existing = states.get(name);
    if (existing) {
      this.keep(existing);
      return existing;
    }
    const fresh = zeros(shape);
    fresh.layout = this.layoutOf(param, shape);
    if (param.name) fresh.name = `${param.name}.${name}`;
    engine().markInitial(fresh);
    states.set(name, fresh);
    this.keep(fresh);
    return fresh;
  }

  private keep(state: Tensor): void {
    if (!this.skips) this.before?.set(state, state.node);
  }
}
