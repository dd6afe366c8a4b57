import {
  type Attrs,
  apply,
  atScope,
  currentScope,
  evaluateAttrs,
  evaluateDim,
  type FxFunction,
  type FxGraph,
  type FxNode,
  formatArgument,
  formatShape,
  GraphError,
  GuardError,
  getItem,
  isRandom,
  LazuliError,
  mapNodes,
  Node,
  type OpDef,
  type OpName,
  type SymbolSizes,
  SymExpr,
  withGrad,
} from "@lazuli/fx-trace";
import { engine } from "../runtime.js";
import { Tensor } from "../tensor.js";
import { bindArguments } from "./bind.js";
import { joinPath } from "./container.js";
import type { GraphModule } from "./graph_module.js";

/** What an op gives: a tensor, or, of an op of several results, its recorded node, which only `result` reads. */
export type OpValue = Tensor | Node;

/** Stands for an op while a graph is run: gets the arguments' values, the attributes and the node. */
export type OpOverride = (args: OpValue[], attrs: Attrs, node: FxNode) => OpValue;

/** A node that has run. */
export interface RunStep {
  readonly node: FxNode;
  readonly value: unknown;
}

function drain(steps: Generator<RunStep, unknown>): unknown {
  for (let step = steps.next(); ; step = steps.next()) if (step.done) return step.value;
}

/**
 * Runs a graph node by node. Override a method for a kind of node, or `overrides` for single ops; `super` does what the
 * graph says. An error says which node failed and where in the source module it was made. As torch.fx.Interpreter.
 */
export class Interpreter {
  /** By op, what is run in its stead. */
  protected readonly overrides: Partial<Record<OpName | "get_item", OpOverride>> = {};
  /** Values of the nodes that have run. */
  protected env = new Map<FxNode, unknown>();
  /** Sizes of the symbolic dims in this run. */
  protected sizes: SymbolSizes = new Map();
  private base = "";

  constructor(
    readonly module: GraphModule,
    readonly graph: FxGraph = module.graph,
  ) {}

  /** The graph's result for `args`, which are as the traced function's. Throws GuardError where they do not fit. */
  run(...args: readonly unknown[]): unknown {
    return drain(this.steps(...args));
  }

  /** Runs as `run` does, a node at each step: `for (const { node, value } of interpreter.steps(x))`. */
  *steps(...args: readonly unknown[]): Generator<RunStep, unknown> {
    engine();
    const { values, sizes } = bindArguments(this.graph, args);
    this.sizes = sizes;
    return yield* this.stepsFrom(values);
  }

  /** The graph's result, where `values` are given for some nodes: those are not run. */
  runFrom(values: ReadonlyMap<FxNode, unknown>): unknown {
    return drain(this.stepsFrom(values));
  }

  private *stepsFrom(values: ReadonlyMap<FxNode, unknown>): Generator<RunStep, unknown> {
    this.env = new Map(values);
    this.base = currentScope();
    for (const node of this.graph) {
      if (node.op === "output") return this.output(node.args.map((arg) => this.valueOf(arg))[0], node);
      if (this.env.has(node)) continue;
      const value = this.runNode(node);
      this.env.set(node, value);
      yield { node, value };
    }
    throw new GraphError("fx", "the graph has no output");
  }

  /** The value of one node; those of its inputs are known. */
  runNode(node: FxNode): unknown {
    try {
      const scope = joinPath(this.base, node.scope);
      const value = atScope(scope, () =>
        node.noGrad ? withGrad(false, () => this.dispatch(node)) : this.dispatch(node),
      );
      if (node.dims) this.checkDims(node, value);
      return value;
    } catch (error) {
      throw explain(error, node);
    }
  }

  protected dispatch(node: FxNode): unknown {
    const args = node.args.map((arg) => this.valueOf(arg));
    switch (node.op) {
      case "placeholder":
        return this.placeholder(node.targetName, node);
      case "get_attr":
        return this.getAttr(node.targetName, node);
      case "set_attr":
        return this.setAttr(node.targetName, args[0] as Tensor, node);
      case "call_module":
        return this.callModule(node.targetName, args, node);
      default:
        return this.runFunction(node, args as OpValue[]);
    }
  }

  private runFunction(node: FxNode, args: OpValue[]): unknown {
    const attrs = this.sizes.size > 0 ? evaluateAttrs(node.attrs, this.sizes) : (node.attrs as Attrs);
    const override = this.overrides[node.targetName as OpName];
    return override
      ? override(args, attrs, node)
      : this.callFunction(node.target as FxFunction, args, attrs, node);
  }

  // --- by kind of node ---------------------------------------------------------------------------------------------

  /** A placeholder that the arguments gave no value. */
  placeholder(name: string, node: FxNode): unknown {
    throw new GuardError("forward", `there is no value for the input ${name}`, node.scope);
  }

  getAttr(path: string, _node: FxNode): Tensor {
    return this.module.getAttr(path);
  }

  setAttr(path: string, value: Tensor, _node: FxNode): unknown {
    return this.module.assign(path, value);
  }

  callModule(path: string, args: readonly unknown[], _node: FxNode): unknown {
    return this.module.call(path, ...args);
  }

  /** An op of `args`, or `getItem`. */
  callFunction(target: FxFunction, args: readonly OpValue[], attrs: Attrs, _node: FxNode): unknown {
    if (target === getItem)
      return (args[0] as unknown as Record<string, unknown>)[args[1] as unknown as string];
    return callOp(target as OpDef, args, attrs);
  }

  output(value: unknown, _node: FxNode): unknown {
    return value;
  }

  // --- inside ------------------------------------------------------------------------------------------------------

  /** An argument with nodes replaced by their values, and symbolic numbers by what they are now. */
  protected valueOf(arg: unknown): unknown {
    if (arg instanceof SymExpr) return evaluateDim(arg, this.sizes);
    if (arg === null || typeof arg !== "object") return arg;
    if (this.sizes.size > 0)
      return mapSymbols(
        mapNodes(arg, (node) => this.env.get(node)),
        this.sizes,
      );
    return mapNodes(arg, (node) => this.env.get(node));
  }

  /** What a dim was derived to be holds in this run. */
  private checkDims(node: FxNode, value: unknown): void {
    const types = value instanceof Tensor ? [value] : value instanceof Node ? value.types : [];
    types.forEach(({ shape }, i) => {
      const dims = node.dims?.[i] ?? [];
      dims.forEach((dim, d) => {
        const wanted = evaluateDim(dim, this.sizes);
        if (shape[d] === wanted) return;
        throw new GuardError(
          "forward",
          `dim ${d} of ${node.name} is ${dim} = ${wanted} by the trace, and came out as ${shape[d]} in ${formatShape(shape)}`,
          node.scope,
        );
      });
    });
  }
}

/** Applies an op to values; a random one without a key takes the step's. */
export function callOp(op: OpDef, args: readonly OpValue[], attrs: Attrs): OpValue {
  const inputs = args.map((arg) => (arg instanceof Tensor ? arg.node : arg));
  if (isRandom(op) && inputs.length === 0) {
    const { key, stream } = engine().nextRandom();
    return new Tensor(apply(op, [key], { ...attrs, stream }));
  }
  const node = apply(op, inputs, attrs);
  return node.types.length === 1 ? new Tensor(node) : node;
}

function mapSymbols(value: unknown, sizes: SymbolSizes): unknown {
  if (value instanceof SymExpr) return value.evaluate(sizes);
  if (Array.isArray(value)) return value.map((item) => mapSymbols(item, sizes));
  if (value === null || typeof value !== "object" || Object.getPrototypeOf(value) !== Object.prototype)
    return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, mapSymbols(item, sizes)]));
}

const explained = new WeakSet<Error>();

/** The error with the node it came from, and the module that the node was made in. */
function explain(error: unknown, node: FxNode): unknown {
  if (!(error instanceof Error) || explained.has(error)) return error;
  explained.add(error);
  if (error instanceof LazuliError) error.place(node.scope);
  const args = node.args.map((arg) => formatArgument(arg)).join(", ");
  const where = node.scope ? `, made in ${node.scope}` : "";
  const before = error.message;
  error.message = `${before}\n  running %${node.name} = ${node.targetName}(${args})${where}`;
  error.stack = error.stack?.replace(before, () => error.message);
  return error;
}
