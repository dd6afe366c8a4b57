import { GraphError } from "../errors.js";
import { Node } from "../node.js";
import type { OpDef } from "../opdef.js";
import { input } from "../ops/leaf.js";
import { type OpName, ops } from "../ops/table.js";
import type { TensorType } from "../shape.js";
import { lintGraph } from "./lint.js";
import { Names } from "./names.js";
import {
  type Argument,
  type FxFunction,
  FxNode,
  type FxTarget,
  getItem,
  isRandom,
  mapNodes,
  type Opcode,
} from "./node.js";
import { formatFxGraph, formatTable } from "./print.js";
import { evaluateAttrs, type FxAttrs, hintSizes, type SymbolInfo } from "./symbolic.js";
import { fxToDot, fxToMermaid } from "./visualize.js";

/** One argument of the traced function: a structure whose leaves are placeholders, and constants it was specialised to. */
export interface FxParam {
  readonly name: string;
  readonly value: Argument;
}

export interface NodeOptions {
  /** A name to start from; the node's own is unique. */
  readonly name?: string;
  /** Module path; that of the node at the insertion point where left out, and a called module's own. */
  readonly scope?: string;
  readonly noGrad?: boolean;
  /** Known types; derived from the inputs' for ops where left out. */
  readonly types?: readonly TensorType[] | null;
}

const noAttrs: FxAttrs = Object.freeze({});
const noArgs: readonly Argument[] = Object.freeze([]);

/**
 * An ordered, editable graph: a doubly linked list of nodes, each of which knows its users. Every node comes before its
 * users. As torch.fx.Graph.
 */
export class FxGraph {
  /** The traced function's arguments, in order. */
  readonly params: FxParam[] = [];
  /** Symbolic dims by name; empty where every shape is fixed. */
  readonly symbols = new Map<string, SymbolInfo>();
  /** Rises with every edit. */
  version = 0;
  private readonly names = new Names();
  private first: FxNode | null = null;
  private last: FxNode | null = null;
  private count = 0;
  /** New nodes go before it; null: at the end, before the output. */
  private insertPoint: FxNode | null = null;
  private returned: FxNode | null = null;

  // --- looking -----------------------------------------------------------------------------------------------------

  /** The nodes in order: an array of its own, so that the graph may be edited while it is walked. */
  get nodes(): FxNode[] {
    return [...this];
  }

  *[Symbol.iterator](): Generator<FxNode> {
    for (let node = this.first; node; node = node.next) yield node;
  }

  get size(): number {
    return this.count;
  }

  /** The node of what the graph returns; null before there is one. */
  get outputNode(): FxNode | null {
    return this.returned;
  }

  get placeholders(): FxNode[] {
    return this.findNodes({ op: "placeholder" });
  }

  /** Nodes of an opcode and, where given, a target: a path, an op, or an op's name. In order. */
  findNodes({ op, target }: { op?: Opcode; target?: FxTarget }): FxNode[] {
    const matches = (node: FxNode): boolean =>
      (op === undefined || node.op === op) &&
      (target === undefined || node.target === target || node.targetName === target);
    return this.nodes.filter(matches);
  }

  /** The node of that name. Throws GraphError. */
  node(name: string): FxNode {
    for (const node of this) if (node.name === name) return node;
    throw new GraphError("fx", `there is no node ${name}`);
  }

  /** Names that no node may have, of those not given out yet. */
  reserve(names: readonly string[]): void {
    for (const name of names) this.names.take(name);
  }

  // --- making nodes ------------------------------------------------------------------------------------------------

  /**
   * Adds a node at the insertion point. Ops are checked as when recorded: throws ShapeError, DTypeError, ValueError; and
   * GraphError for an input of another graph. As torch.fx.Graph.create_node.
   */
  createNode(
    op: Opcode,
    target: FxTarget,
    args: readonly Argument[] = noArgs,
    attrs: FxAttrs = noAttrs,
    options: NodeOptions = {},
  ): FxNode {
    const { types = null, noGrad = false } = options;
    const at = this.insertPoint ?? (op === "output" ? null : this.returned);
    if (op === "output" && this.returned) throw new GraphError("fx", "the graph has an output already");
    const name = this.names.unique(options.name ?? defaultName(op, target));
    const scope = options.scope ?? (op === "call_module" ? (target as string) : (at?.scope ?? ""));
    const node = new FxNode(this, name, { op, target, args, attrs, scope, noGrad, types });
    if (types === null && options.types === undefined) node.types = this.inferTypes(node);
    this.link(node, at);
    if (op === "output") this.returned = node;
    if (op === "placeholder") this.addParam(node);
    return node;
  }

  /** An input of the graph, the next argument. */
  placeholder(name: string, type: TensorType | null = null): FxNode {
    return this.createNode("placeholder", name, noArgs, noAttrs, { name, types: type && [type] });
  }

  /** The parameter, buffer or constant at `path` of the module. */
  getAttr(path: string, type: TensorType | null = null): FxNode {
    return this.createNode("get_attr", path, noArgs, noAttrs, { types: type && [type] });
  }

  /** The submodule at `path` called with `args`. */
  callModule(path: string, args: readonly Argument[], options: NodeOptions = {}): FxNode {
    return this.createNode("call_module", path, args, noAttrs, options);
  }

  /** An op (by name, or its definition), or `getItem`, of `args`. Random ops without a key take the step's. */
  callFunction(
    target: FxFunction | OpName,
    args: readonly Argument[],
    attrs: FxAttrs = noAttrs,
    options: NodeOptions = {},
  ): FxNode {
    const called = typeof target === "string" ? (ops[target] as unknown as OpDef) : target;
    if (!called) throw new GraphError("fx", `there is no op ${String(target)}`);
    return this.createNode("call_function", called, args, attrs, options);
  }

  /** The buffer at `path` gets the value of `value` when the graph has run. */
  setAttr(path: string, value: FxNode): FxNode {
    return this.createNode("set_attr", path, [value], noAttrs, { types: value.types });
  }

  /** What the graph returns: a node, or a structure of nodes and constants. */
  output(value: Argument): FxNode {
    return this.createNode("output", "output", [value]);
  }

  /** A copy of another graph's node at the insertion point, its inputs as `map` gives them. As torch's node_copy. */
  nodeCopy(node: FxNode, map: (input: FxNode) => Argument): FxNode {
    const args = node.args.map((arg) => mapNodes(arg, map));
    const { name, scope, noGrad, types } = node;
    const copy = this.createNode(node.op, node.target, args, node.attrs, { name, scope, noGrad, types });
    copy.dims = node.dims;
    Object.assign(copy.meta, node.meta);
    return copy;
  }

  /**
   * Copies every node of `other` but its output to the insertion point; `replaced` gives nodes for some of them, and is
   * filled with the copies. Gives what `other` returns, in this graph's nodes. As torch's graph_copy.
   */
  graphCopy(other: FxGraph, replaced = new Map<FxNode, Argument>()): Argument {
    const lookup = (node: FxNode): Argument => replaced.get(node);
    for (const node of other) {
      if (replaced.has(node)) continue;
      if (node.op === "output") return node.args.map((arg) => mapNodes(arg, lookup))[0];
      replaced.set(node, this.nodeCopy(node, lookup));
    }
    return undefined;
  }

  /** A copy of the graph; `copies` is filled with what stands for each node. */
  clone(copies = new Map<FxNode, Argument>()): FxGraph {
    const graph = new FxGraph();
    for (const [name, info] of this.symbols) graph.symbols.set(name, info);
    const result = graph.graphCopy(this, copies);
    const lookup = (node: FxNode): Argument => copies.get(node);
    if (this.returned) copies.set(this.returned, graph.output(result));
    graph.params.splice(
      0,
      graph.params.length,
      ...this.params.map((param) => ({ ...param, value: mapNodes(param.value, lookup) })),
    );
    return graph;
  }

  // --- where new nodes go ------------------------------------------------------------------------------------------

  /**
   * New nodes go before `node`: while `fn` runs, or until what is returned is disposed (`using`). As torch's
   * inserting_before.
   */
  insertingBefore<T>(node: FxNode, fn: () => T): T;
  insertingBefore(node: FxNode): Disposable;
  insertingBefore<T>(node: FxNode, fn?: () => T): T | Disposable {
    return this.insertingAt(node, fn);
  }

  /** New nodes go after `node`, in the order they are made. */
  insertingAfter<T>(node: FxNode, fn: () => T): T;
  insertingAfter(node: FxNode): Disposable;
  insertingAfter<T>(node: FxNode, fn?: () => T): T | Disposable {
    this.requireOwn(node);
    return this.insertingAt(node.next, fn);
  }

  private insertingAt<T>(node: FxNode | null, fn?: () => T): T | Disposable {
    if (node) this.requireOwn(node);
    const before = this.insertPoint;
    this.insertPoint = node;
    const restore = (): void => {
      this.insertPoint = before;
    };
    if (!fn) return { [Symbol.dispose]: restore };
    try {
      return fn();
    } finally {
      restore();
    }
  }

  // --- changing ----------------------------------------------------------------------------------------------------

  /** Takes a node out. Throws GraphError while it has users. */
  eraseNode(node: FxNode): void {
    this.requireOwn(node);
    if (node.users.size > 0) {
      const users = [...node.users].map((user) => user.name).join(", ");
      throw new GraphError("fx", `${node.name} cannot be erased: ${users} still read it`, node.scope);
    }
    node.args = noArgs;
    this.unlink(node);
    node.erased = true;
    if (this.insertPoint === node) this.insertPoint = node.next;
    if (node === this.returned) this.returned = null;
    if (node.op === "placeholder") this.dropParam(node);
  }

  /** Moves `node` to stand before `place`. */
  moveBefore(node: FxNode, place: FxNode): void {
    this.requireOwn(node);
    this.requireOwn(place);
    if (node === place) return;
    this.unlink(node);
    this.link(node, place);
  }

  /** Drops nodes without users that only give a value; placeholders and random draws stay. Gives how many. */
  eliminateDeadCode(isImpure: (node: FxNode) => boolean = (node) => node.isImpure): number {
    const before = this.count;
    for (const node of this.nodes.reverse()) {
      if (node.users.size === 0 && !isImpure(node)) this.eraseNode(node);
    }
    return before - this.count;
  }

  /** Throws GraphError for a graph that breaks what every pass may rely on; names the node. */
  lint(): void {
    lintGraph(this);
  }

  /** For nodes: something was edited. */
  changed(): void {
    this.version++;
  }

  // --- showing -----------------------------------------------------------------------------------------------------

  /** One line a node. */
  toString(): string {
    return formatFxGraph(this);
  }

  /** A table of opcode, name, target, arguments and types. As torch's print_tabular, which prints it. */
  tabular(): string {
    return formatTable(this);
  }
  printTabular(): void {
    console.log(this.tabular());
  }

  /** For Graphviz: a box a node, grouped by module path. */
  toDot(): string {
    return fxToDot(this);
  }
  /** For Mermaid, which GitHub shows in Markdown: a flowchart, grouped by module path. */
  toMermaid(): string {
    return fxToMermaid(this);
  }

  // --- inside ------------------------------------------------------------------------------------------------------

  private link(node: FxNode, before: FxNode | null): void {
    const after = before ? before.prev : this.last;
    node.prev = after;
    node.next = before;
    if (after) after.next = node;
    else this.first = node;
    if (before) before.prev = node;
    else this.last = node;
    this.count++;
    this.version++;
  }

  private unlink(node: FxNode): void {
    if (node.prev) node.prev.next = node.next;
    else this.first = node.next;
    if (node.next) node.next.prev = node.prev;
    else this.last = node.prev;
    this.count--;
    this.version++;
  }

  private requireOwn(node: FxNode): void {
    if (node.graph !== this || node.erased)
      throw new GraphError("fx", `${node.name} is ${node.erased ? "erased" : "a node of another graph"}`);
  }

  private addParam(node: FxNode): void {
    let later = node.next;
    while (later && later.op !== "placeholder") later = later.next;
    const at = later ? this.params.findIndex(({ value }) => value === later) : -1;
    this.params.splice(at < 0 ? this.params.length : at, 0, { name: node.name, value: node });
  }

  private dropParam(node: FxNode): void {
    const at = this.params.findIndex(({ value }) => value === node);
    if (at >= 0) this.params.splice(at, 1);
    else
      for (const [i, param] of this.params.entries())
        this.params[i] = {
          ...param,
          value: mapNodes(param.value, (other) => (other === node ? undefined : other)),
        };
  }

  /** What the op's type rule gives for the inputs' types, at the sizes traced with; null where one is not known. */
  private inferTypes(node: FxNode): readonly TensorType[] | null {
    const op = node.opdef;
    if (!op) return null;
    const attrs = evaluateAttrs(node.attrs, hintSizes(this.symbols));
    if (isRandom(op) && node.args.length === 0) {
      const { dtype, shape } = attrs as unknown as TensorType;
      return [{ dtype, shape }];
    }
    const inputs: Node[] = [];
    for (const arg of node.args) {
      if (!(arg instanceof FxNode) || !arg.types) return null;
      inputs.push(
        new Node(arg.opdef ?? (input as unknown as OpDef), [], noAttrs as never, arg.types, arg.scope),
      );
    }
    const type = op.type(inputs, attrs as never);
    return Array.isArray(type) ? (type as TensorType[]) : [type as TensorType];
  }
}

function defaultName(op: Opcode, target: FxTarget): string {
  if (typeof target !== "string") return target === getItem ? getItem.name : target.name;
  return op === "set_attr" ? `set_${target}` : target;
}
