import {
  evaluateDim,
  FxGraph,
  type FxNode,
  formatFxTypes,
  formatType,
  type MatchOptions,
  type NodeMap,
  returnedNodes,
  TraceError,
  visitNodes,
} from "@lazuli/fx-trace";
import { joinPath } from "./container.js";
import { traceSymbolic } from "./dynamic.js";
import type { Point } from "./fit.js";
import type { GraphModule } from "./graph_module.js";
import { paramNames } from "./param_names.js";
import { PatternSearch } from "./pattern_search.js";
import { isLayer } from "./symbolic_trace.js";
import { rootPaths, TensorSpec, type Traced, Tracer } from "./tracer.js";

// biome-ignore lint/suspicious/noExplicitAny: patterns take and give tensors in any structure
type PatternFn = (...args: any[]) => unknown;

/** A part of the graph that a pattern stands for. */
export interface Match {
  /** The node of the first value that the pattern returns. */
  readonly anchor: FxNode;
  /** What stands for the pattern's inputs, in order. */
  readonly inputs: readonly FxNode[];
  /** What stands for the values it returns, in order. */
  readonly outputs: readonly FxNode[];
  /** What stands for each node of the pattern's graph. */
  readonly nodesMap: NodeMap;
  /** The nodes made in their stead. */
  readonly replacements: readonly FxNode[];
}

export interface ReplaceOptions {
  /**
   * Example inputs for the pattern. By default it is tried on the types that are found in the graph, which takes longer the
   * more inputs it has.
   */
  readonly exampleInputs?: readonly unknown[];
}

/**
 * Replaces every part of the graph that does what `pattern` does by what `replacement` does, where `filter` agrees; both
 * are functions of the same inputs, which stand for any values, parameters too. A part counts where ops and attributes are
 * those that the pattern has at the part's own shapes. Parts do not overlap: the first in the graph's order is taken.
 * Modules and tensors that the replacement uses are added to the module. Gives what was replaced. As
 * torch.fx.replace_pattern_with_filters.
 */
export function replacePattern(
  target: GraphModule | FxGraph,
  pattern: PatternFn,
  replacement: PatternFn,
  filter: (match: Match, graph: FxGraph) => boolean = () => true,
  options: ReplaceOptions = {},
): Match[] {
  const module = target instanceof FxGraph ? null : target;
  const graph = module?.graph ?? (target as FxGraph);
  return new Replacing(graph, module, pattern, replacement, options).run(filter);
}

class Replacing {
  private readonly paths;
  private readonly names: readonly string[];
  private readonly search: PatternSearch;
  private readonly cache = new Map<string, Traced>();
  /** What stands for nodes that were replaced. */
  private readonly replaced = new Map<FxNode, FxNode>();

  constructor(
    private readonly graph: FxGraph,
    private readonly module: GraphModule | null,
    pattern: PatternFn,
    private readonly replacement: PatternFn,
    { exampleInputs }: ReplaceOptions,
  ) {
    this.paths = rootPaths(module);
    this.names = paramNames(pattern);
    const trace = (types: readonly TensorSpec[]): Traced => this.trace(pattern, types);
    const matchOptions = (traced: Traced): MatchOptions => ({
      sameAttr: (a, b) => a.target === b.target || this.sameTensor(traced, a, b),
      sameModule: (a, b) => this.sameModule(traced, a, b),
    });
    this.search = new PatternSearch(graph, this.names.length, trace, matchOptions, exampleInputs);
  }

  run(filter: (match: Match, graph: FxGraph) => boolean): Match[] {
    const done: Match[] = [];
    const taken = new Set<FxNode>();
    for (const { pattern, map } of this.search.matches(taken)) {
      const inputs = pattern.placeholders.map((node) => map.get(node) as FxNode);
      const match: Match = {
        anchor: map.get(returnedNodes(pattern)[0]) as FxNode,
        inputs,
        outputs: returnedNodes(pattern).map((node) => map.get(node) as FxNode),
        nodesMap: map,
        replacements: [],
      };
      if (!filter(match, this.graph)) continue;
      for (const [node, stands] of map)
        if (node.op !== "placeholder" && node.op !== "get_attr") taken.add(stands);
      done.push(match);
    }
    return done.filter((match) => this.replace(match));
  }

  private trace(fn: PatternFn, specs: readonly TensorSpec[]): Traced {
    const args = specs.map((value, i) => ({ name: this.names[i] || `arg${i}`, value, concrete: false }));
    return new Tracer(this.paths, isLayer, [...this.graph.symbols.keys()]).trace(fn as never, args);
  }

  private sameTensor({ constants }: Traced, a: FxNode, b: FxNode): boolean {
    const tensor = constants.get(a.targetName);
    return tensor !== undefined && this.module?.getAttr(b.targetName) === tensor;
  }

  /** The same module, or one of the same class: as torch's matcher. */
  private sameModule({ modules }: Traced, a: FxNode, b: FxNode): boolean {
    if (!this.module) return a.target === b.target;
    const known = modules.get(a.targetName) ?? this.module.getSubmodule(a.targetName);
    return known.constructor === this.module.getSubmodule(b.targetName).constructor;
  }

  // --- replacing ---------------------------------------------------------------------------------------------------

  /** False where the part cannot be replaced: an input is made after what reads a result. */
  private replace(match: Match): boolean {
    const inputs = match.inputs.map((node) => this.current(node));
    const place = this.placeFor(match, inputs);
    if (!place) return false;
    const traced = this.traceReplacement(inputs);
    this.checkResults(traced, match);
    const results = this.insert(traced, inputs, match, place);
    match.outputs.forEach((output, i) => {
      output.replaceAllUsesWith(results[i]);
      this.replaced.set(output, results[i]);
    });
    const old = [...match.nodesMap.values()].filter((node) => !match.inputs.includes(node));
    for (const node of this.graph.nodes.reverse())
      if (old.includes(node) && node.users.size === 0) this.graph.eraseNode(node);
    return true;
  }

  private current(node: FxNode): FxNode {
    let found = node;
    for (let next = this.replaced.get(found); next; next = this.replaced.get(found)) found = next;
    return found;
  }

  /** The node to insert before: the first of the match that comes after all inputs, and before who reads the results. */
  private placeFor(match: Match, inputs: readonly FxNode[]): FxNode | null {
    const order = new Map(this.graph.nodes.map((node, i) => [node, i] as const));
    const at = (node: FxNode): number => order.get(node) ?? -1;
    const latest = Math.max(-1, ...inputs.map(at));
    const inside = [...match.nodesMap.values()].filter((node) => !match.inputs.includes(node));
    const place = inside.filter((node) => at(node) > latest).sort((a, b) => at(a) - at(b))[0];
    const early = match.outputs.some((output) =>
      [...output.users].some((user) => !inside.includes(user) && at(user) < at(place)),
    );
    return !place || early ? null : place;
  }

  private traceReplacement(inputs: readonly FxNode[]): Traced {
    const key = inputs.map(formatFxTypes).join(";");
    const known = this.cache.get(key);
    if (known) return known;
    const specsAt = (sizes: Point): TensorSpec[] =>
      inputs.map(({ type, dims }) => {
        const shape = dims?.[0] ?? type?.shape ?? [];
        return new TensorSpec(
          shape.map((dim) => evaluateDim(dim, sizes)),
          type?.dtype ?? "float32",
        );
      });
    const traced = traceSymbolic((sizes) => this.trace(this.replacement, specsAt(sizes)), this.graph.symbols);
    this.addHeld(traced);
    this.cache.set(key, traced);
    return traced;
  }

  /** Gives the module what the replacement uses and it does not hold, under names that are free. */
  private addHeld({ graph, constants, modules }: Traced): void {
    for (const [name, held] of [...constants, ...modules]) {
      if (!this.module)
        throw new TraceError(
          "replacePattern",
          "the replacement uses tensors or modules: give the GraphModule, not its graph",
        );
      const path = this.module.freePath(name);
      if ("forward" in held) this.module.addSubmodule(path, held);
      else this.module.addTensor(path, held);
      for (const node of graph.nodes)
        if (typeof node.target === "string" && node.target === name) node.target = path;
    }
  }

  private insert({ graph }: Traced, inputs: readonly FxNode[], match: Match, place: FxNode): FxNode[] {
    const copies = new Map(graph.placeholders.map((node, i) => [node, inputs[i]] as const));
    const lookup = (node: FxNode): FxNode => copies.get(node) as FxNode;
    const { scope, noGrad } = match.anchor;
    const made = match.replacements as FxNode[];
    this.graph.insertingBefore(place, () => {
      for (const node of graph) {
        if (node.op === "placeholder" || node.op === "output") continue;
        const copy = this.graph.nodeCopy(node, lookup);
        copy.scope = joinPath(scope, node.scope);
        copy.noGrad ||= noGrad;
        copies.set(node, copy);
        made.push(copy);
      }
    });
    return returnedBy(graph).map(lookup);
  }

  private checkResults({ graph }: Traced, { outputs }: Match): void {
    const results = returnedBy(graph);
    if (results.length !== outputs.length)
      throw new TraceError(
        "replacePattern",
        `the pattern returns ${outputs.length} values, the replacement ${results.length}`,
      );
    for (const [i, old] of outputs.entries()) {
      const next = results[i];
      if (!old.type || !next.type || formatType(old.type) === formatType(next.type)) continue;
      throw new TraceError(
        "replacePattern",
        `${old.name} is ${formatType(old.type)}, and its replacement ${formatType(next.type)}`,
        old.scope,
      );
    }
  }
}

/** The nodes of what a graph returns, in order, one returned twice twice. */
function returnedBy(graph: FxGraph): FxNode[] {
  const found: FxNode[] = [];
  visitNodes(graph.outputNode?.args[0], (node) => {
    found.push(node);
  });
  return found;
}
