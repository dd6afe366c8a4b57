import { type FxGraph, type FxNode, GraphError, TraceError } from "@lazuli/fx-trace";
import { Module } from "../nn/module.js";
import type { Tensor } from "../tensor.js";
import { activeTrace } from "./active.js";
import { generateCode } from "./code.js";
import { Container, copyTree, heldTensor, labelOf, modulesByPath } from "./container.js";
import { Interpreter } from "./interpreter.js";

/** What a graph reads by path: a module, or named tensors and modules. */
export type GraphRoot = Module | Readonly<Record<string, Module | Tensor>>;

/**
 * A module whose forward is a graph. Parameters, buffers and the modules called as one node are shared with the root it
 * was made from; other modules are containers of its own, so that adding to it leaves the root alone. Edits of the graph
 * take effect at the next call. As torch.fx.GraphModule.
 */
// biome-ignore lint/suspicious/noExplicitAny: a graph's arguments and results are what was traced
export class GraphModule<A extends readonly any[] = any[], R = any> extends Container {
  #graph: FxGraph;
  #modules: Map<string, Module> | null = null;
  readonly #attrs = new Map<string, () => Tensor>();

  /** `leaves`: the modules below `root` that the graph calls, where they are known. */
  constructor(root: GraphRoot, graph: FxGraph, name?: string, leaves?: ReadonlySet<Module>) {
    super(name ?? (root instanceof Module ? labelOf(root) : "GraphModule"));
    this.#graph = graph;
    if (root instanceof Module) {
      copyTree(root, this, leaves ?? calledModules(root, graph));
    } else for (const [path, value] of Object.entries(root)) this.#add(path, value);
  }

  get graph(): FxGraph {
    return this.#graph;
  }
  set graph(graph: FxGraph) {
    this.#graph = graph;
  }

  override forward(...args: A): R {
    return new Interpreter(this as GraphModule).run(...args) as R;
  }

  // --- what the graph reads ----------------------------------------------------------------------------------------

  /** The module at `path`. Throws TraceError. As torch.nn.Module.get_submodule. */
  getSubmodule(path: string): Module {
    this.#modules ??= modulesByPath(this);
    const module = this.#modules.get(path);
    if (!module) throw new TraceError("fx", `there is no module ${path} in ${this.label}`);
    return module;
  }

  /** The parameter, buffer or constant at `path`. Throws TraceError. */
  getAttr(path: string): Tensor {
    let read = this.#attrs.get(path);
    if (!read) {
      read = this.#reader(path);
      this.#attrs.set(path, read);
    }
    const tensor = read();
    activeTrace?.attribute(tensor);
    return tensor;
  }

  /** Runs the forward of the module at `path`. Its nodes carry the path that is current: `Module.forward` adds its own. */
  // biome-ignore lint/suspicious/noExplicitAny: what a module takes and gives
  call(path: string, ...args: unknown[]): any {
    return Module.callAt(this.getSubmodule(path), "", args);
  }

  /** Gives the buffer at `path` the value of `value`. */
  assign(path: string, value: Tensor): Tensor {
    return this.getAttr(path).assign_(value.node);
  }

  /** Puts a module at `path`, in the place of one that is there; containers on the way are made. */
  addSubmodule(path: string, module: Module): this {
    return this.#add(path, module);
  }

  /** Puts a parameter, buffer or constant at `path`. */
  addTensor(path: string, tensor: Tensor): this {
    return this.#add(path, tensor);
  }

  /** A path like `wanted` at which there is nothing yet. */
  freePath(wanted: string): string {
    this.#modules ??= modulesByPath(this);
    const taken = (path: string): boolean =>
      (this.#modules as Map<string, Module>).has(path) || this.#find(path) !== null;
    let path = wanted;
    for (let i = 1; taken(path); i++) path = `${wanted}_${i}`;
    return path;
  }

  /** Takes out what no node of the graph reads or calls. As torch's delete_all_unused_submodules, tensors too. */
  deleteUnused(): void {
    const used = this.graph.nodes.flatMap((node) => (typeof node.target === "string" ? [node.target] : []));
    const isUsed = (path: string): boolean =>
      used.some((target) => target === path || target.startsWith(`${path}.`));
    const prune = (container: Container, prefix: string): void => {
      for (const name of [...container.heldTensors.keys()])
        if (!isUsed(prefix + name)) container.dropTensor(name);
      for (const [name, child] of [...container.namedChildren()]) {
        if (!isUsed(prefix + name)) container.dropModule(name);
        else if (child instanceof Container) prune(child, `${prefix}${name}.`);
      }
    };
    prune(this, "");
    this.#forget();
  }

  /**
   * The graph as a TypeScript module: `forward(self, ...)` does what this module's forward does, and traced with
   * `{ root: self }` rebuilds the graph. Throws TraceError for an argument that cannot be written down.
   */
  get code(): string {
    return generateCode(this.graph, this.label);
  }

  // --- the graph ---------------------------------------------------------------------------------------------------

  /** Checks the graph, and that what it reads by path is there. Throws GraphError. */
  lint(): this {
    this.graph.lint();
    for (const node of this.graph) this.#checkTarget(node);
    return this;
  }

  #checkTarget(node: FxNode): void {
    const fail = (what: string): never => {
      throw new GraphError(
        "lint",
        `${node.name} ${what} ${node.targetName}, which ${this.label} does not hold`,
        node.scope,
      );
    };
    this.#modules ??= modulesByPath(this);
    if (node.op === "call_module" && !this.#modules.has(node.targetName)) fail("calls");
    if ((node.op === "get_attr" || node.op === "set_attr") && !this.#find(node.targetName)) fail("reads");
  }

  // --- inside ------------------------------------------------------------------------------------------------------

  #add(path: string, value: Module | Tensor): this {
    const parts = path.split(".");
    let holder: Container = this;
    let rest = parts;
    // Names of children may hold dots: those of modules in arrays.
    for (let count = 1; count < rest.length; count++) {
      const child = holder.child(rest.slice(0, count).join("."));
      if (!(child instanceof Container)) {
        if (child)
          throw new TraceError(
            "fx",
            `${path} lies in ${rest.slice(0, count).join(".")}, a module of its own`,
          );
        continue;
      }
      holder = child;
      rest = rest.slice(count);
      count = 0;
    }
    while (rest.length > 1) {
      const made = new Container("Module");
      holder.holdModule(rest[0], made);
      holder = made;
      rest = rest.slice(1);
    }
    if (value instanceof Module) holder.holdModule(rest[0], value);
    else holder.holdTensor(rest[0], value);
    this.#forget();
    return this;
  }

  #forget(): void {
    this.#modules = null;
    this.#attrs.clear();
  }

  /** Reads anew at each run: a field of a shared module may be given another tensor. */
  #reader(path: string): () => Tensor {
    const found = this.#find(path);
    return () => {
      const tensor = found && heldTensor(found.holder, found.name);
      if (!tensor) throw new TraceError("fx", `there is no tensor ${path} in ${this.label}`);
      return tensor;
    };
  }

  /** The module that holds the tensor at `path`: names of modules and of tensors may hold dots. */
  #find(path: string): { holder: Module; name: string } | null {
    this.#modules ??= modulesByPath(this);
    const parts = path.split(".");
    for (let count = parts.length - 1; count >= 0; count--) {
      const holder = this.#modules.get(parts.slice(0, count).join("."));
      const name = parts.slice(count).join(".");
      if (holder && heldTensor(holder, name)) return { holder, name };
    }
    return null;
  }
}

function calledModules(root: Module, graph: FxGraph): Set<Module> {
  const modules = modulesByPath(root);
  const called = graph.findNodes({ op: "call_module" }).map((node) => modules.get(node.targetName));
  return new Set(called.filter((module) => module !== undefined));
}
