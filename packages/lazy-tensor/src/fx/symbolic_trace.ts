import { type FxGraph, mapNodes, TraceError } from "@lazuli/fx-trace";
import * as layers from "../nn/layers.js";
import { Module } from "../nn/module.js";
import type { Tensor } from "../tensor.js";
import { GraphModule } from "./graph_module.js";
import { paramNames } from "./param_names.js";
import { type LeafTest, rootPaths, TensorSpec, type TraceArgument, Tracer } from "./tracer.js";

type Fn = (...args: never[]) => unknown;
// biome-ignore lint/suspicious/noExplicitAny: the constructor of any module
type ModuleClass = abstract new (...args: any[]) => Module;

export interface TraceOptions {
  /**
   * Values by position for the traced function's arguments: tensors, or specs (`fx.spec`) of tensors, become inputs of the
   * graph, in arrays and plain objects too; other values are part of the program. Shapes and dtypes of a graph are those
   * of its example inputs.
   */
  readonly exampleInputs?: readonly unknown[];
  /** Arguments by name (or position) that are part of the program, tensors too. As torch.fx's concrete_args. */
  readonly concreteArgs?: Readonly<Record<string, unknown>>;
  /**
   * Modules that become one `call_module` node: classes (exactly, not what extends them), or a test. By default the layers
   * of `nn` that hold no modules, as torch.fx; `[]` inlines everything.
   */
  readonly leafModules?: readonly ModuleClass[] | LeafTest;
  /** For functions: the module whose paths name the parameters, buffers and modules that the function uses. */
  readonly root?: Module;
}

const nnLayers = new Set<unknown>(Object.values(layers));

/** Whether torch.fx's default would make it a leaf: a layer of `nn`, not of a class that extends one. */
export const isLayer: LeafTest = (module) => nnLayers.has(module.constructor);

function leafTest(leaves: TraceOptions["leafModules"] = isLayer): LeafTest {
  // Not a class: a class is given in a list.
  if (typeof leaves === "function") return leaves;
  const classes = new Set<unknown>(leaves);
  return (module) => classes.has(module.constructor);
}

/**
 * Runs a module's forward, or a function, once on values that stand for its inputs, and gives what it did as a
 * GraphModule. What does not depend on the inputs' values is fixed in it: control flow, numbers, shapes. Throws TraceError
 * where a value is asked for. As torch.fx.symbolic_trace.
 */
export function symbolicTrace<M extends Module>(
  module: M,
  options?: TraceOptions,
): GraphModule<Parameters<M["forward"]>, ReturnType<M["forward"]>>;
export function symbolicTrace<F extends Fn>(
  fn: F,
  options?: TraceOptions,
): GraphModule<Parameters<F>, ReturnType<F>>;
export function symbolicTrace(target: Module | Fn, options: TraceOptions = {}): GraphModule {
  const isModule = target instanceof Module;
  const root = isModule ? target : (options.root ?? null);
  const names =
    target instanceof GraphModule
      ? target.graph.params.map(({ name }) => name)
      : paramNames(isModule ? Module.plainForward(target) : target);
  const args = traceArguments(names, options);
  const tracer = new Tracer(rootPaths(root), leafTest(options.leafModules));
  const call: Fn = isModule ? (...given) => target.forward(...given) : target;
  const { graph, constants, modules } = tracer.trace(call, args);
  const made = new GraphModule(root ?? {}, graph, root ? undefined : (target as Fn).name || "GraphModule");
  for (const [path, tensor] of constants) made.addTensor(path, tensor as Tensor);
  for (const [path, module] of modules) made.addSubmodule(path, module);
  return made;
}

/**
 * The graph with every called module in it as its ops. For passes and transforms that know ops alone. Throws TraceError
 * for an input whose type is not known.
 */
export function inlineModules(module: GraphModule): GraphModule {
  if (module.graph.findNodes({ op: "call_module" }).length === 0) return module;
  return symbolicTrace(module, { exampleInputs: exampleSpecs(module.graph), leafModules: [] });
}

/** Specs of a graph's inputs, in the arguments' structure, at the sizes it was traced with. */
export function exampleSpecs(graph: FxGraph): unknown[] {
  return graph.params.map(({ value }) =>
    mapNodes(value, ({ name, type }) => {
      if (!type) throw new TraceError("fx", `the type of the input ${name} is not known`);
      return new TensorSpec(type.shape, type.dtype);
    }),
  );
}

/** Example inputs and concrete arguments, by position. Throws TraceError for a name that the function does not have. */
function traceArguments(names: readonly string[], options: TraceOptions): TraceArgument[] {
  const { exampleInputs = [], concreteArgs = {} } = options;
  const concrete = new Map<number, unknown>();
  for (const [key, value] of Object.entries(concreteArgs)) {
    const position = /^\d+$/.test(key) ? Number(key) : names.indexOf(key);
    if (position < 0)
      throw new TraceError(
        "trace",
        `concreteArgs names ${key}, and the arguments are ${names.join(", ") || "none"}`,
      );
    concrete.set(position, value);
  }
  const count = Math.max(exampleInputs.length, ...[...concrete.keys()].map((position) => position + 1), 0);
  return Array.from({ length: count }, (_, i) => ({
    name: names[i] ?? `arg${i}`,
    value: concrete.has(i) ? concrete.get(i) : exampleInputs[i],
    concrete: concrete.has(i),
  }));
}
