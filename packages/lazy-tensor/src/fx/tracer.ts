import {
  type Attrs,
  atScope,
  currentScope,
  FxGraph,
  type FxNode,
  type FxParam,
  getItem,
  input as inputOp,
  isGradEnabled,
  isPlainObject,
  isRandom,
  mapLeaves,
  type Node,
  type Recorder,
  type TensorType,
  TraceError,
  withGrad,
  withoutUses,
  withRecorder,
} from "@lazuli/fx-trace";
import { DeviceBuffer } from "../buffer.js";
import type { Module } from "../nn/module.js";
import { Parameter } from "../nn/parameter.js";
import { Tensor } from "../tensor.js";
import { type Trace, withTrace } from "./active.js";
import { eachTensor, joinPath } from "./container.js";
import { userSource } from "./source.js";

/** Stands for a tensor of which only the type matters: an example input without data. */
export class TensorSpec {
  constructor(
    readonly shape: readonly number[],
    readonly dtype: TensorType["dtype"],
    readonly requiresGrad = false,
  ) {}
}

/** An example input without data: what a trace needs to know of one. */
export const spec = (shape: readonly number[], dtype: TensorType["dtype"] = "float32"): TensorSpec =>
  new TensorSpec([...shape], dtype);

export type LeafTest = (module: Module, path: string) => boolean;

/** Name of the input at `path` of argument `name`. */
export const inputName = (name: string, path: readonly (string | number)[]): string =>
  [name, ...path].filter((part) => part !== "").join("_");

/** What a trace gives. */
export interface Traced {
  readonly graph: FxGraph;
  /** Tensors the graph reads that are no field of the root, by the name it reads them under. */
  readonly constants: ReadonlyMap<string, Tensor>;
  /** Modules called as one node that the root does not hold, by name. */
  readonly modules: ReadonlyMap<string, Module>;
  /** Modules called as one node. */
  readonly leaves: ReadonlySet<Module>;
  /** The bytes of tensors made from data in the traced function, by name of the constant. */
  readonly data: ReadonlyMap<string, Uint8Array>;
}

/** One argument of what is traced. */
export interface TraceArgument {
  readonly name: string;
  readonly value: unknown;
  /** The value is part of the program: its tensors too. */
  readonly concrete: boolean;
}

/** The paths of what a root holds. */
export interface RootPaths {
  readonly root: Module | null;
  readonly modules: ReadonlyMap<Module, string>;
  readonly tensors: ReadonlyMap<Tensor, string>;
}

export function rootPaths(root: Module | null): RootPaths {
  const modules = new Map<Module, string>();
  const tensors = new Map<Tensor, string>();
  const visit = (module: Module, path: string): void => {
    if (modules.has(module)) return;
    modules.set(module, path);
    eachTensor(module, (name, tensor) => {
      if (!tensors.has(tensor)) tensors.set(tensor, joinPath(path, name));
    });
    for (const [name, child] of module.namedChildren()) visit(child, joinPath(path, name));
  };
  if (root) visit(root, "");
  return { root, modules, tensors };
}

/** Runs a function once on values that stand for its inputs, and writes down what it does. */
export class Tracer implements Trace, Recorder {
  private readonly graph = new FxGraph();
  /** What stands for each recorded value. */
  private readonly nodes = new Map<Node, FxNode>();
  /** What stands for each input while the function runs. */
  private readonly stands = new Map<FxNode, Tensor>();
  /** The tensors whose values were read, by the value they had. */
  private readonly owners = new Map<Node, Tensor>();
  private readonly attrs = new Map<Tensor, FxNode>();
  private readonly constants = new Map<string, Tensor>();
  private readonly leaves = new Set<Module>();
  private readonly extraModules = new Map<string, Module>();
  private readonly data = new Map<Node, Uint8Array>();
  private readonly constantData = new Map<string, Uint8Array>();
  /** Tensors of outside that were assigned to, and how to take that back. */
  private readonly assignments = new Map<Tensor, () => void>();
  /** The same inside the leaf module that is running; null outside one. */
  private leafAssignments: Map<Tensor, () => void> | null = null;
  private readonly randomKey = standIn({ dtype: "int64", shape: [2] });
  private readonly takenPaths: ReadonlySet<string>;
  private failure: TraceError | null = null;

  constructor(
    private readonly paths: RootPaths,
    private readonly isLeaf: LeafTest,
    /** Names that no node may have. */
    taken: readonly string[] = [],
  ) {
    this.graph.reserve(taken);
    this.takenPaths = new Set(paths.tensors.values());
  }

  /** Traces `fn(...args)`. Throws TraceError. */
  trace(fn: (...args: never[]) => unknown, args: readonly TraceArgument[]): Traced {
    const params: FxParam[] = [];
    const given = args.map(({ name, value, concrete }) => {
      const template = concrete ? value : this.placeholdersFor(name, value);
      params.push({ name, value: template });
      return mapLeaves(template, (leaf) => this.stands.get(leaf as FxNode) ?? leaf);
    });
    this.graph.params.splice(0, this.graph.params.length, ...params);
    let result: unknown;
    try {
      result = this.running(() => fn(...(given as never[])));
      this.failIfRefused(result);
      this.running(() => this.finish(result));
    } finally {
      for (const restore of this.assignments.values()) restore();
      // Values that leak out of the trace are told from values that were not computed yet.
      for (const node of this.nodes.keys()) node.storage = traced;
    }
    if (this.failure) throw this.failure;
    return {
      graph: this.graph,
      constants: this.constants,
      modules: this.extraModules,
      leaves: this.leaves,
      data: this.constantData,
    };
  }

  private placeholdersFor(name: string, value: unknown): unknown {
    return mapLeaves(value, (leaf, path) => {
      if (!(leaf instanceof Tensor || leaf instanceof TensorSpec)) return leaf;
      const type = { dtype: leaf.dtype, shape: [...leaf.shape] };
      const node = this.graph.placeholder(inputName(name, path), type);
      this.stands.set(node, this.standFor(node, type, leaf.requiresGrad));
      return node;
    });
  }

  private running<T>(fn: () => T): T {
    return withTrace(this, () =>
      atScope("", () => withGrad(true, () => withoutUses(() => withRecorder(this, fn)))),
    );
  }

  private finish(result: unknown): void {
    for (const tensor of this.assignments.keys()) this.recordAssignment(tensor);
    const output = mapLeaves(result, (leaf) => {
      if (leaf instanceof Tensor) return this.fxOf(leaf);
      if (leaf !== null && typeof leaf === "object")
        throw new TraceError(
          "output",
          `a ${leaf.constructor?.name} is returned: return tensors, arrays and plain objects`,
        );
      return leaf;
    });
    this.graph.output(output);
    for (const node of this.graph.nodes.reverse())
      if (node.target === getItem && node.users.size === 0) this.graph.eraseNode(node);
  }

  /** What was refused is thrown even where the traced function caught it, or turned it into a rejected promise. */
  private failIfRefused(result: unknown): void {
    const isPromise = result instanceof Promise;
    if (isPromise) result.catch(() => {});
    if (this.failure) throw this.failure;
    if (isPromise)
      throw new TraceError(
        "trace",
        "the traced function is async: a program has no point to wait at, so trace what it awaits apart",
      );
  }

  private recordAssignment(tensor: Tensor): void {
    const path = this.paths.tensors.get(tensor) ?? (tensor.isState ? this.constant(tensor) : null);
    if (path === null)
      throw new TraceError(
        "assign",
        `${tensor} is given another value in place, and it is neither made there nor a parameter or buffer`,
      );
    this.graph.setAttr(path, this.fxOf(tensor));
  }

  // --- values ------------------------------------------------------------------------------------------------------

  private standFor(node: FxNode, type: TensorType, requiresGrad: boolean): Tensor {
    const stand = standIn(type);
    stand.requiresGrad = requiresGrad;
    this.nodes.set(stand, node);
    return new Tensor(stand);
  }

  private fxOf(tensor: Tensor): FxNode {
    return this.fxOfNode(tensor.node);
  }

  private fxOfAll(nodes: readonly Node[]): FxNode[] {
    const out = new Array<FxNode>(nodes.length);
    for (let i = 0; i < nodes.length; i++) out[i] = this.fxOfNode(nodes[i]);
    return out;
  }

  private fxOfNode(node: Node): FxNode {
    const known = this.nodes.get(node);
    if (known) return known;
    const tensor = this.owners.get(node) ?? new Tensor(node);
    const before = this.attrs.get(tensor);
    if (before) return before;
    const path = this.paths.tensors.get(tensor) ?? this.constant(tensor);
    const { types } = node;
    const made = this.graph.createNode("get_attr", path, [], {}, { scope: currentScope(), types });
    this.attrs.set(tensor, made);
    return made;
  }

  /** A name for a tensor that the root does not hold. */
  private constant(tensor: Tensor): string {
    for (const [name, known] of this.constants) if (known === tensor) return name;
    const kind = tensor instanceof Parameter ? "_param_constant" : "_tensor_constant";
    let number = 0;
    while (this.constants.has(`${kind}${number}`) || this.takenPaths.has(`${kind}${number}`)) number++;
    const name = `${kind}${number}`;
    this.constants.set(name, tensor);
    const bytes = this.data.get(tensor.node);
    if (bytes) this.constantData.set(name, bytes);
    return name;
  }

  // --- what the traced function does -------------------------------------------------------------------------------

  add(node: Node): void {
    const { op } = node;
    const draws = isRandom(op) && node.inputs[0] === this.randomKey;
    const made = this.graph.createNode(
      "call_function",
      op,
      draws ? [] : this.fxOfAll(node.inputs),
      draws ? withoutStream(node.attrs) : node.attrs,
      { scope: node.scope, noGrad: !isGradEnabled(), types: node.types },
    );
    this.nodes.set(node, made);
  }

  read(tensor: Tensor, node: Node): void {
    if (this.leafAssignments || this.nodes.has(node) || this.owners.has(node)) return;
    this.owners.set(node, tensor);
  }

  attribute(tensor: Tensor): void {
    if (!this.leafAssignments) this.fxOf(tensor);
  }

  refuse(op: string, what: string): never {
    const error = new TraceError(op, what, currentScope(), userSource());
    this.failure ??= error;
    throw error;
  }

  assigned(tensor: Tensor, before: Node, restore: () => void): void {
    const assignments = this.leafAssignments ?? this.assignments;
    if (assignments.has(tensor)) return;
    // A tensor made in the trace has no value outside it.
    if (!this.leafAssignments && (this.nodes.has(before) || this.data.has(before))) return;
    assignments.set(tensor, restore);
  }

  uploaded(node: Node, _type: TensorType, bytes: ArrayBufferView): void {
    this.data.set(node, new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength).slice());
  }

  nextRandom(): { key: Node; stream: number } {
    return { key: this.randomKey, stream: 0 };
  }

  callModule(module: Module, args: readonly unknown[], run: () => unknown): unknown {
    if (this.leafAssignments || module === this.paths.root) return run();
    const known = this.paths.modules.get(module);
    if (!this.isLeaf(module, known ?? "")) return run();
    const path = known ?? this.extraModule(module);
    this.leaves.add(module);
    const given = mapLeaves(args, (leaf) => this.leafArgument(leaf, path)) as unknown[];
    const result = this.insideLeaf(run);
    const types = result instanceof Tensor ? result.node.types : null;
    const node = this.graph.createNode(
      "call_module",
      path,
      given,
      {},
      { scope: currentScope(), noGrad: !isGradEnabled(), types },
    );
    const held = new Map<string, FxNode>();
    return mapLeaves(result, (leaf, at) => {
      if (!(leaf instanceof Tensor)) return leaf;
      return this.standFor(this.itemAt(node, at, leaf, held), leaf.node.type, leaf.requiresGrad);
    });
  }

  private extraModule(module: Module): string {
    for (const [name, known] of this.extraModules) if (known === module) return name;
    const name = `_module${this.extraModules.size}`;
    this.extraModules.set(name, module);
    return name;
  }

  private leafArgument(leaf: unknown, path: string): unknown {
    if (leaf instanceof Tensor) return this.fxOf(leaf);
    if (leaf !== null && typeof leaf === "object" && !isPlainObject(leaf))
      for (const value of Object.values(leaf))
        if (value instanceof Tensor)
          this.refuse(
            "call_module",
            `${path} is given a ${leaf.constructor.name} that holds tensors: pass them in arrays and plain objects, or make ${path} no leaf`,
          );
    return leaf;
  }

  /** Runs a leaf's forward for its result's types; what it records and assigns is its own. */
  private insideLeaf(run: () => unknown): unknown {
    const assigned = new Map<Tensor, () => void>();
    this.leafAssignments = assigned;
    try {
      const result = withRecorder(null, run);
      if (result instanceof Promise) {
        result.catch(() => {});
        this.refuse("call_module", "the module's forward is async");
      }
      return result;
    } finally {
      this.leafAssignments = null;
      for (const [tensor, restore] of assigned) {
        restore();
        this.attrs.delete(tensor); // read again later, it has the value that the module gave it
      }
    }
  }

  /** The node of one tensor in a leaf's result. */
  private itemAt(
    node: FxNode,
    path: readonly (string | number)[],
    leaf: Tensor,
    held: Map<string, FxNode>,
  ): FxNode {
    let at = node;
    for (const [depth, key] of path.entries()) {
      const id = JSON.stringify(path.slice(0, depth + 1));
      const types = depth === path.length - 1 ? leaf.node.types : null;
      const next =
        held.get(id) ??
        this.graph.createNode(
          "call_function",
          getItem,
          [at, key],
          {},
          { name: `${at.name}_${key}`, scope: node.scope, noGrad: node.noGrad, types },
        );
      held.set(id, next);
      at = next;
    }
    return at;
  }
}

const withoutStream = ({ stream: _, ...attrs }: Attrs): Attrs => attrs;

/** What marks a value that has no data: the state of its buffer. */
const traced = new DeviceBuffer({ dtype: "float32", shape: [] }, null, { mesh: null });
traced.state = "traced";

function standIn(type: TensorType): Node {
  const node = withRecorder(null, () =>
    (inputOp as never as (inputs: Node[], attrs: object) => Node)([], { index: 0, ...type }),
  );
  node.storage = traced;
  return node;
}
