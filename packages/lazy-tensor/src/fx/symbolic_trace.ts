import * as layers from "../nn/layers.js";
import { Module } from "../nn/module.js";
import { type Dynamic, dynamicArguments, dynamicOf, exampleSpecs, traceArguments } from "./arguments.js";
import { traceSymbolic } from "./dynamic.js";
import { GraphModule } from "./graph_module.js";
import { paramNames } from "./param_names.js";
import { type LeafTest, rootPaths, type TraceArgument, Tracer } from "./tracer.js";

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
  /**
   * Dims that may have other sizes than in the examples: of every input (`{ 0: "batch" }`), or by input. Throws TraceError
   * where the program itself depends on the size. docs/fx.md says how, and what is checked when.
   */
  readonly dynamic?: Dynamic;
  /** For functions: the module whose paths name the parameters, buffers and modules that the function uses. */
  readonly root?: Module;
}

const nnLayers = new Set<unknown>(Object.values(layers));

/** Whether torch.fx's default would make it a leaf: a layer of `nn`, not of a class that extends one. */
export const isLayer: LeafTest = (module) => nnLayers.has(module.constructor);

function leafTest(leaves: TraceOptions["leafModules"], root: Module | null): LeafTest {
  if (leaves === undefined) return root instanceof GraphModule ? calledBy(root) : isLayer;
  // Not a class: a class is given in a list.
  if (typeof leaves === "function") return leaves;
  const classes = new Set<unknown>(leaves);
  return (module) => classes.has(module.constructor);
}

/** What a graph calls as one node stays so when it is traced again. */
export function calledBy(root: GraphModule): LeafTest {
  const paths = root.graph.findNodes({ op: "call_module" }).map((node) => node.targetName);
  const called = new Set(paths.map((path) => root.getSubmodule(path)));
  return (module, path) => called.has(module) || isLayer(module, path);
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
  const { exampleInputs = [], concreteArgs = {}, leafModules, dynamic } = options;
  const call: Fn = isModule ? (...given) => target.forward(...given) : target;
  return traceProgram(call, {
    args: traceArguments(names, exampleInputs, concreteArgs),
    root,
    isLeaf: leafTest(leafModules, root),
    dynamic,
    name: root ? undefined : (target as Fn).name || "GraphModule",
  });
}

/** What is traced, and how: `symbolicTrace` with everything decided. */
export interface Program {
  readonly args: readonly TraceArgument[];
  readonly root: Module | null;
  readonly isLeaf: LeafTest;
  readonly dynamic?: Dynamic;
  readonly name?: string;
}

export function traceProgram(call: Fn, { args, root, isLeaf, dynamic = {}, name }: Program): GraphModule {
  const paths = rootPaths(root);
  const { symbols, at } = dynamicArguments(args, dynamic);
  const { graph, constants, modules, leaves } = traceSymbolic(
    (sizes) => new Tracer(paths, isLeaf, [...symbols.keys()]).trace(call, at(sizes)),
    symbols,
  );
  const made = new GraphModule(root ?? {}, graph, name, leaves);
  for (const [path, tensor] of constants) made.addTensor(path, tensor);
  for (const [path, module] of modules) made.addSubmodule(path, module);
  return made;
}

/** The graph run by `call` in place of its module's forward, as a GraphModule: called modules stay such where `isLeaf` says. */
export function retrace(module: GraphModule, call: Fn, isLeaf: LeafTest): GraphModule {
  const { graph } = module;
  const names = graph.params.map(({ name }) => name);
  const args = traceArguments(names, exampleSpecs(graph), {});
  return traceProgram(call, { args, root: module, isLeaf, dynamic: dynamicOf(graph) });
}

/**
 * The graph with every called module in it as its ops. For passes and transforms that know ops alone. Throws TraceError
 * for an input whose type is not known.
 */
export function inlineModules(module: GraphModule): GraphModule {
  if (module.graph.findNodes({ op: "call_module" }).length === 0) return module;
  return retrace(
    module,
    (...args) => module.forward(...args),
    () => false,
  );
}
