import { type DType, formatShape, isFloat, sameShape, withScope } from "@lazuli/fx-trace";
import { noGrad } from "../autograd.js";
import { watcher } from "../compile/watcher.js";
import { StateDictError } from "../errors.js";
import { activeTrace } from "../fx/active.js";
import { engine } from "../runtime.js";
import type { Tensor } from "../tensor.js";
import { Buffer, Parameter } from "./parameter.js";

export type StateDict = ReadonlyMap<string, Tensor>;

/** Modules whose `forward` is running, outermost first. */
const running: Module[] = [];

/** Stands around a module's forward: `next` runs it. */
type Around = (next: (...args: never[]) => unknown, args: never[]) => unknown;

/**
 * A part of a model: parameters, buffers and child modules are its fields (arrays of modules too), found by name in the
 * order they were assigned. As torch.nn.Module; call `module.forward(x)`.
 */
export abstract class Module {
  /** False after `eval()`: dropout and the like are off. */
  training = true;
  /** Where this module was found last, so that its scope is looked up once. */
  #place: { parent: Module; path: string } | null = null;
  readonly #around: Around[] = [];
  /** `forward` as the class has it. */
  readonly #forward: (...args: never[]) => unknown;

  constructor() {
    this.#forward = this.forward;
    Object.defineProperty(this, "forward", {
      value: (...args: never[]) => this.#enter(this.#pathIn(running.at(-1)), args),
      enumerable: false,
      configurable: true,
      writable: true,
    });
  }

  abstract forward(...args: never[]): unknown;

  /** `module.forward(...args)` by a caller that knows the path it is found under. */
  static callAt(module: Module, path: string, args: readonly unknown[]): unknown {
    return module.#enter(path, args as never[]);
  }

  /** `forward` as the class has it, without hooks and scope. */
  static plainForward(module: Module): (...args: never[]) => unknown {
    return module.#forward;
  }

  // --- what it holds -----------------------------------------------------------------------------------------------

  /** Every module below and this one (path ""), each once, parents first. */
  *namedModules(prefix = "", seen = new Set<Module>()): Generator<[string, Module]> {
    if (seen.has(this)) return;
    seen.add(this);
    yield [prefix, this];
    for (const [name, child] of this.namedChildren()) yield* child.namedModules(join(prefix, name), seen);
  }

  *modules(): Generator<Module> {
    for (const [, module] of this.namedModules()) yield module;
  }

  /** Modules held directly, those in arrays as `name.0`, `name.1`, … */
  *namedChildren(): Generator<[string, Module]> {
    for (const [name, value] of Object.entries(this)) yield* modulesIn(name, value);
  }

  /** Parameters with their paths, each once: a shared one under its first path. */
  *namedParameters(): Generator<[string, Parameter]> {
    for (const [name, tensor] of this.#namedTensors()) if (tensor instanceof Parameter) yield [name, tensor];
  }

  /** Parameters and buffers held directly, by field. */
  *namedOwnTensors(): Generator<[string, Parameter | Buffer]> {
    for (const [name, value] of Object.entries(this)) {
      if (value instanceof Parameter || value instanceof Buffer) yield [name, value];
    }
  }

  parameters(): Parameter[] {
    return [...this.namedParameters()].map(([, parameter]) => parameter);
  }

  *namedBuffers(): Generator<[string, Buffer]> {
    for (const [name, tensor] of this.#namedTensors()) if (tensor instanceof Buffer) yield [name, tensor];
  }

  buffers(): Buffer[] {
    return [...this.namedBuffers()].map(([, buffer]) => buffer);
  }

  /** Number of learned values. */
  numParameters(): number {
    return this.parameters().reduce((sum, parameter) => sum + parameter.size, 0);
  }

  // --- hooks -------------------------------------------------------------------------------------------------------

  /**
   * Calls `hook` with the arguments before each forward; what it returns, if anything, takes their place. Gives back what
   * takes the hook off again. As torch.nn.Module.register_forward_pre_hook.
   */
  registerForwardPreHook(hook: (module: this, args: unknown[]) => unknown[] | undefined): () => void {
    return this.#addAround((next, args) => next(...((hook(this, args) ?? args) as never[])));
  }

  /** Calls `hook` with the result after each forward; what it returns, if anything, takes its place. As torch's. */
  registerForwardHook(hook: (module: this, args: unknown[], result: unknown) => unknown): () => void {
    return this.#addAround((next, args) => {
      const result = next(...args);
      return hook(this, args, result) ?? result;
    });
  }

  /** Runs each forward inside `around`, which calls `next` for it. For wrappers that must undo what they set up. */
  wrapForward(around: (next: () => unknown) => unknown): () => void {
    return this.#addAround((next, args) => around(() => next(...args)));
  }

  // --- state -------------------------------------------------------------------------------------------------------

  /** Parameters and persistent buffers by path; a shared tensor once, under its first path. */
  stateDict(): Map<string, Tensor> {
    const state = new Map<string, Tensor>();
    for (const [name, tensor] of this.#namedTensors()) {
      if (tensor instanceof Parameter || (tensor as Buffer).persistent) state.set(name, tensor);
    }
    return state;
  }

  /**
   * Copies values in, cast to each tensor's dtype. Throws StateDictError that lists every missing, unexpected and
   * misshapen entry, before anything is changed; `strict: false` lets missing and unexpected ones pass.
   */
  loadStateDict(
    state: StateDict,
    options: { strict?: boolean } = {},
  ): { missing: string[]; unexpected: string[] } {
    const targets = new Map<Tensor, string[]>();
    for (const [name, tensor] of this.#namedTensors(false)) {
      if (tensor instanceof Buffer && !tensor.persistent) continue;
      targets.set(tensor, [...(targets.get(tensor) ?? []), name]);
    }
    const known = new Set([...targets.values()].flat());
    const unexpected = [...state.keys()].filter((name) => !known.has(name));
    const missing = [...targets.values()]
      .filter((names) => !names.some((name) => state.has(name)))
      .map((names) => names[0]);
    const misshapen: string[] = [];
    const copies: [Tensor, Tensor][] = [];
    for (const [target, names] of targets) {
      const name = names.find((candidate) => state.has(candidate));
      if (name === undefined) continue;
      const source = state.get(name) as Tensor;
      if (sameShape(source.shape, target.shape)) copies.push([target, source]);
      else
        misshapen.push(`${name} is ${formatShape(source.shape)} and should be ${formatShape(target.shape)}`);
    }
    const strict = options.strict ?? true;
    const problems = [
      ...(strict && missing.length > 0 ? [`missing: ${missing.join(", ")}`] : []),
      ...(strict && unexpected.length > 0 ? [`unexpected: ${unexpected.join(", ")}`] : []),
      ...(misshapen.length > 0 ? [`wrong shape: ${misshapen.join("; ")}`] : []),
    ];
    if (problems.length > 0) throw new StateDictError("loadStateDict", problems.join(". "));
    for (const [target, source] of copies) setInitial(target, source);
    return { missing, unexpected };
  }

  /** Makes float parameters and buffers `dtype`. As torch.nn.Module.to. */
  to(dtype: DType): this {
    for (const [, tensor] of this.#namedTensors()) {
      if (!isFloat(tensor.dtype) || tensor.dtype === dtype) continue;
      const cast = noGrad(() => tensor.to(dtype));
      tensor.assign_(cast.node);
      engine().markInitial(tensor);
    }
    return this;
  }

  train(mode = true): this {
    for (const module of this.modules()) module.training = mode;
    return this;
  }

  eval(): this {
    return this.train(false);
  }

  /** Calls `fn` on every module, children first. As torch.nn.Module.apply. */
  apply(fn: (module: Module) => void): this {
    for (const [, child] of this.namedChildren()) child.apply(fn);
    fn(this);
    return this;
  }

  /** Freezes or unfreezes every parameter. */
  requiresGrad_(requires = true): this {
    for (const parameter of this.parameters()) parameter.requiresGrad_(requires);
    return this;
  }

  toString(): string {
    const children = [...this.namedChildren()].map(
      ([name, child]) => `  (${name}): ${child.toString().replaceAll("\n", "\n  ")}`,
    );
    return children.length > 0
      ? `${this.className}(\n${children.join("\n")}\n)`
      : `${this.className}(${this.extraRepr()})`;
  }

  /** The name that `toString` shows. */
  protected get className(): string {
    return this.constructor.name;
  }

  /** What a module without children shows between its parentheses. */
  protected extraRepr(): string {
    return "";
  }

  *#namedTensors(once = true): Generator<[string, Tensor]> {
    const seen = new Set<Tensor>();
    for (const [path, module] of this.namedModules("", once ? undefined : new Set())) {
      for (const [name, value] of module.namedOwnTensors()) {
        if (once && seen.has(value)) continue;
        seen.add(value);
        value.name ||= join(path, name);
        yield [join(path, name), value];
      }
    }
  }

  #pathIn(parent: Module | undefined): string {
    if (!parent) return "";
    if (this.#place?.parent !== parent) {
      const path = pathTo(this, parent.namedChildren()) ?? pathTo(this, parent.namedModules());
      this.#place = { parent, path: path ?? this.constructor.name };
    }
    return this.#place.path;
  }

  #enter(path: string, args: never[]): unknown {
    return withScope(path, () =>
      activeTrace === null ? this.#run(args) : activeTrace.callModule(this, args, () => this.#run(args)),
    );
  }

  #run(args: never[]): unknown {
    watcher?.module(this);
    running.push(this);
    try {
      let next = (...given: never[]): unknown => this.#forward.apply(this, given);
      for (const around of this.#around) {
        const inner = next;
        next = (...given) => around(inner, given);
      }
      return next(...args);
    } finally {
      running.pop();
    }
  }

  /** Rises when any module gets or loses a hook: what was recorded before may no longer be what runs. */
  static hookChanges = 0;

  #addAround(around: Around): () => void {
    this.#around.push(around);
    Module.hookChanges++;
    return () => {
      const at = this.#around.indexOf(around);
      if (at >= 0) this.#around.splice(at, 1);
      Module.hookChanges++;
    };
  }
}

/** Gives a state tensor a new first value, computed by a program of its own like any first value. */
export function setInitial(target: Tensor, source: Tensor): void {
  noGrad(() => target.copy_(source));
  engine().markInitial(target);
}

/** The first path of `module` among `modules`; null where it is none of them. */
function pathTo(module: Module, modules: Iterable<[string, Module]>): string | null {
  for (const [path, found] of modules) if (found === module) return path;
  return null;
}

const join = (prefix: string, name: string): string => (prefix ? `${prefix}.${name}` : name);

function* modulesIn(name: string, value: unknown): Generator<[string, Module]> {
  if (value instanceof ModuleList)
    for (const [i, child] of value.items.entries()) yield [`${name}.${i}`, child];
  else if (value instanceof Module) yield [name, value];
  else if (Array.isArray(value))
    for (const [i, item] of value.entries()) yield* modulesIn(`${name}.${i}`, item);
}

/** Modules in order, numbered by position. Iterable and indexable; has no forward of its own. As torch.nn.ModuleList. */
export class ModuleList<M extends Module> extends Module implements Iterable<M> {
  readonly items: M[];

  constructor(items: Iterable<M>) {
    super();
    this.items = [...items];
  }

  get length(): number {
    return this.items.length;
  }

  get(index: number): M | undefined {
    return this.items.at(index);
  }

  [Symbol.iterator](): Iterator<M> {
    return this.items[Symbol.iterator]();
  }

  override *namedChildren(): Generator<[string, Module]> {
    for (const [i, item] of this.items.entries()) yield [`${i}`, item];
  }

  forward(): never {
    throw new StateDictError("ModuleList", "a ModuleList has no forward: call its modules in turn");
  }
}

/** Modules called one after the other. As torch.nn.Sequential. */
export class Sequential extends Module {
  readonly layers: Module[];

  constructor(...layers: Module[]) {
    super();
    this.layers = layers;
  }

  override *namedChildren(): Generator<[string, Module]> {
    for (const [i, layer] of this.layers.entries()) yield [`${i}`, layer];
  }

  forward(x: Tensor): Tensor {
    return this.layers.reduce((value, layer) => layer.forward(value as never) as Tensor, x);
  }
}
