import type { OpDef } from "../opdef.js";
import type { TensorType } from "../shape.js";
import type { FxGraph } from "./graph.js";
import type { Dim, FxAttr, FxAttrs } from "./symbolic.js";

/**
 * - `placeholder`: an input of the graph; target is its name
 * - `get_attr`: a parameter, buffer or constant of the module; target is its path
 * - `call_module`: a submodule called as one node; target is its path, args its forward's
 * - `call_function`: an op of the table with its attributes, or `getItem`
 * - `set_attr`: the graph's run gives the buffer at path `target` the value args[0], when it ends
 * - `output`: what the graph returns, args[0], of any structure
 */
export const opcodes = [
  "placeholder",
  "get_attr",
  "call_module",
  "call_function",
  "set_attr",
  "output",
] as const;
export type Opcode = (typeof opcodes)[number];

/** args[1] of args[0], a structure that a called module gave. As operator.getitem in torch.fx. */
export const getItem = Object.freeze({ name: "get_item" as const });
export type GetItem = typeof getItem;

/** What a `call_function` calls. */
export type FxFunction = OpDef | GetItem;
export type FxTarget = string | FxFunction;

/** A node, a constant, or arrays and plain objects of them. */
export type Argument = unknown;

/** Nodes in `value`, in order. */
export function visitNodes(value: Argument, visit: (node: FxNode) => void): void {
  if (value === null || typeof value !== "object") return;
  if (value instanceof FxNode) visit(value);
  else if (Array.isArray(value)) for (let i = 0; i < value.length; i++) visitNodes(value[i], visit);
  else if (isPlainObject(value)) for (const key in value) visitNodes(value[key], visit);
}

/** An object literal, of any prototype's realm. */
export function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (value === null || typeof value !== "object") return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype || Object.getPrototypeOf(prototype) === null;
}

/** `value` with each leaf (what is neither an array nor a plain object) replaced; `path` tells where it stands. */
export function mapLeaves(
  value: unknown,
  replace: (leaf: unknown, path: readonly (string | number)[]) => unknown,
  path: readonly (string | number)[] = [],
): unknown {
  if (Array.isArray(value)) return value.map((item, i) => mapLeaves(item, replace, [...path, i]));
  if (isPlainObject(value))
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [key, mapLeaves(item, replace, [...path, key])]),
    );
  return replace(value, path);
}

/** `value` with its nodes replaced; the value itself where it is a constant. */
export function mapNodes(value: Argument, replace: (node: FxNode) => Argument): Argument {
  if (value === null || typeof value !== "object") return value;
  if (value instanceof FxNode) return replace(value);
  if (Array.isArray(value)) return value.map((item) => mapNodes(item, replace));
  if (!isPlainObject(value)) return value;
  const out: Record<string, Argument> = {};
  for (const key in value) out[key] = mapNodes(value[key], replace);
  return out;
}

/** What a node is made from. */
export interface FxNodeSpec {
  readonly op: Opcode;
  readonly target: FxTarget;
  readonly args: readonly Argument[];
  readonly attrs: FxAttrs;
  readonly scope: string;
  readonly noGrad: boolean;
  readonly types: readonly TensorType[] | null;
}

/** One step of an editable graph; made by `FxGraph`. As torch.fx.Node. */
export class FxNode {
  readonly op: Opcode;
  /** A path or a name; for `call_function` what is called. */
  target: FxTarget;
  /** Attributes of the op that is called. */
  attrs: FxAttrs;
  /** Path of the module whose forward made the call. */
  scope: string;
  /** Recorded inside `noGrad`: no gradient flows through it. */
  noGrad: boolean;
  /**
   * One type per result, at the sizes it was traced with; null where it is not known (a module's result that is a
   * structure, or an edited input).
   */
  types: readonly TensorType[] | null;
  /** By result and dim where dims are symbolic; null where none of them is. */
  dims: readonly (readonly Dim[])[] | null = null;
  /** The nodes that read this one. */
  readonly users = new Set<FxNode>();
  /** For the graph: neighbours in its order. */
  prev: FxNode | null = null;
  next: FxNode | null = null;
  /** For the graph: whether it was erased. */
  erased = false;
  private currentArgs: readonly Argument[] = [];
  private notes: Record<string, unknown> | null = null;

  constructor(
    readonly graph: FxGraph,
    /** Unique in its graph, and an identifier. */
    readonly name: string,
    spec: FxNodeSpec,
  ) {
    this.op = spec.op;
    this.target = spec.target;
    this.attrs = spec.attrs;
    this.scope = spec.scope;
    this.noGrad = spec.noGrad;
    this.types = spec.types;
    this.setArgs(spec.args);
  }

  get args(): readonly Argument[] {
    return this.currentArgs;
  }
  set args(args: readonly Argument[]) {
    visitNodes(this.currentArgs, (input) => input.users.delete(this));
    this.setArgs(args);
    this.graph.changed();
  }

  private setArgs(args: readonly Argument[]): void {
    this.currentArgs = args;
    for (let i = 0; i < args.length; i++) {
      const arg = args[i];
      if (arg instanceof FxNode) arg.users.add(this);
      else visitNodes(arg, (input) => input.users.add(this));
    }
  }

  /** Room for passes. */
  get meta(): Record<string, unknown> {
    this.notes ??= {};
    return this.notes;
  }

  /** The nodes it reads, each once. */
  get inputs(): FxNode[] {
    const found = new Set<FxNode>();
    visitNodes(this.currentArgs, (input) => found.add(input));
    return [...found];
  }

  /** The type of its one result, or null. */
  get type(): TensorType | null {
    return this.types?.[0] ?? null;
  }

  /** The op it calls, or null for anything but an op of the table. */
  get opdef(): OpDef | null {
    return this.op === "call_function" && this.target !== getItem ? (this.target as OpDef) : null;
  }

  /** Name of the op, `get_item`, or the path. */
  get targetName(): string {
    return typeof this.target === "string" ? this.target : this.target.name;
  }

  /** Whether it does more than give a value: it may not be dropped for having no users. */
  get isImpure(): boolean {
    return (
      this.op === "output" || this.op === "placeholder" || this.op === "set_attr" || isRandom(this.target)
    );
  }

  /** Whether the call is of `op` (an OpDef's name, or `get_item`). */
  calls(name: string): boolean {
    return this.op === "call_function" && (this.target as FxFunction).name === name;
  }

  /** Makes every user of this node read `replacement` instead, or those that `filter` takes. Gives the users changed. */
  replaceAllUsesWith(replacement: FxNode, filter: (user: FxNode) => boolean = () => true): FxNode[] {
    const changed = [...this.users].filter(filter);
    for (const user of changed) user.replaceInputWith(this, replacement);
    return changed;
  }

  /** Reads `next` wherever it read `old`. As torch.fx.Node.replace_input_with. */
  replaceInputWith(old: FxNode, next: FxNode): void {
    this.args = this.args.map((arg) => mapNodes(arg, (node) => (node === old ? next : node)));
  }

  /** The same call with another attribute. */
  setAttr(name: string, value: FxAttr): void {
    this.attrs = { ...this.attrs, [name]: value };
    this.graph.changed();
  }

  toString(): string {
    return this.name;
  }
}

/** Ops that draw random numbers. Recorded without a key they take the step's, fresh at every run. */
export const isRandom = (target: FxTarget): boolean =>
  typeof target !== "string" && "attrSchema" in target && "stream" in target.attrSchema;
