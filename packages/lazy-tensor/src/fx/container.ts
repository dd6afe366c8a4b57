import { isPlainObject } from "@lazuli/fx-trace";
import { TensorError } from "../errors.js";
import { Module } from "../nn/module.js";
import { Buffer, Parameter } from "../nn/parameter.js";
import { Tensor } from "../tensor.js";

/** Holds modules and tensors by name, for a graph that reads them by path; has no forward of its own. */
export class Container extends Module {
  readonly #children = new Map<string, Module>();
  readonly #tensors = new Map<string, Tensor>();

  constructor(
    /** The class of the module it stands for. */
    readonly label: string,
  ) {
    super();
  }

  override *namedChildren(): Generator<[string, Module]> {
    yield* this.#children;
  }

  override *namedOwnTensors(): Generator<[string, Parameter | Buffer]> {
    for (const [name, tensor] of this.#tensors)
      if (tensor instanceof Parameter || tensor instanceof Buffer) yield [name, tensor];
  }

  get heldTensors(): ReadonlyMap<string, Tensor> {
    return this.#tensors;
  }

  child(name: string): Module | undefined {
    return this.#children.get(name);
  }

  holdModule(name: string, module: Module): void {
    this.#children.set(name, module);
  }

  dropModule(name: string): boolean {
    return this.#children.delete(name);
  }

  holdTensor(name: string, tensor: Tensor): void {
    this.#tensors.set(name, tensor);
  }

  dropTensor(name: string): boolean {
    return this.#tensors.delete(name);
  }

  forward(..._: never[]): unknown {
    throw new TensorError("fx", `${this.label} was traced into a graph and has no forward of its own here`);
  }

  protected override get className(): string {
    return this.label;
  }
}

/** Calls `visit` with every tensor a module's own fields hold, in arrays and plain objects too, by path. */
export function eachTensor(module: Module, visit: (path: string, tensor: Tensor) => void): void {
  if (module instanceof Container) for (const [name, tensor] of module.heldTensors) visit(name, tensor);
  else eachIn(module as unknown as Record<string, unknown>, "", visit, 0);
}

function eachIn(
  holder: Record<string, unknown> | readonly unknown[],
  prefix: string,
  visit: (path: string, tensor: Tensor) => void,
  depth: number,
): void {
  for (const key of Object.keys(holder)) {
    const value = (holder as Record<string, unknown>)[key];
    if (value === null || typeof value !== "object") continue;
    if (value instanceof Tensor) visit(prefix + key, value);
    else if (depth < MAX_DEPTH && (Array.isArray(value) || isPlainObject(value)))
      eachIn(value, `${prefix}${key}.`, visit, depth + 1);
  }
}

/** Structures that hold themselves end here. */
const MAX_DEPTH = 4;

/** The tensor that `eachTensor` gives under `name`. */
export function heldTensor(module: Module, name: string): Tensor | null {
  if (module instanceof Container) return module.heldTensors.get(name) ?? null;
  let value: unknown = module;
  for (const key of name.split(".")) value = (value as Record<string, unknown> | null | undefined)?.[key];
  return value instanceof Tensor ? value : null;
}

/**
 * `into` filled with what `module` holds: tensors and the modules in `leaves` are shared, other modules become containers
 * of theirs. A module found twice is one container.
 */
export function copyTree<C extends Container>(
  module: Module,
  into: C,
  leaves: ReadonlySet<Module>,
  copies = new Map<Module, Module>(),
): C {
  copies.set(module, into);
  into.training = module.training;
  eachTensor(module, (name, tensor) => into.holdTensor(name, tensor));
  for (const [name, child] of module.namedChildren()) {
    const known = leaves.has(child) ? child : copies.get(child);
    into.holdModule(name, known ?? copyTree(child, new Container(labelOf(child)), leaves, copies));
  }
  return into;
}

export const labelOf = (module: Module): string =>
  module instanceof Container ? module.label : module.constructor.name;

export const joinPath = (prefix: string, name: string): string =>
  prefix && name ? `${prefix}.${name}` : prefix || name;

/** Every module below by path, one found twice under both. */
export function modulesByPath(
  root: Module,
  prefix = "",
  into = new Map<string, Module>(),
): Map<string, Module> {
  into.set(prefix, root);
  for (const [name, child] of root.namedChildren()) modulesByPath(child, joinPath(prefix, name), into);
  return into;
}
