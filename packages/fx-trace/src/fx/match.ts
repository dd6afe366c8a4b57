import { commutative } from "../passes/cse.js";
import type { FxGraph } from "./graph.js";
import { FxNode, isPlainObject, visitNodes } from "./node.js";
import { evaluateAttrs, hintSizes, SymExpr } from "./symbolic.js";

/** What a pattern's nodes stand for; its placeholders too. */
export type NodeMap = ReadonlyMap<FxNode, FxNode>;

export interface MatchOptions {
  /** Whether a pattern's `get_attr` is the graph's. */
  readonly sameAttr: (pattern: FxNode, node: FxNode) => boolean;
  /** Whether a module that the pattern calls stands for the graph's. */
  readonly sameModule: (pattern: FxNode, node: FxNode) => boolean;
  /** Leaves attributes and constants out: only which ops read which. */
  readonly structureOnly?: boolean;
}

/** The nodes of what a graph returns, each once, placeholders left out. */
export function returnedNodes(graph: FxGraph): FxNode[] {
  const found = new Set<FxNode>();
  visitNodes(graph.outputNode?.args[0], (node) => {
    if (node.op !== "placeholder") found.add(node);
  });
  return [...found];
}

/**
 * The part of a graph that does what `pattern` does and whose first returned value is `anchor`; null where there is none.
 * What the pattern returns may be read elsewhere, values in between may not. Operands of commutative ops may be swapped.
 * As torch.fx's SubgraphMatcher.
 */
export function matchAt(pattern: FxGraph, anchor: FxNode, options: MatchOptions): NodeMap | null {
  const [first, ...rest] = returnedNodes(pattern);
  if (!first) return null;
  const matcher = new Matcher(pattern, anchor.graph, options);
  return matcher.search([[first, anchor]], new Map(), rest);
}

type Pair = readonly [FxNode, FxNode];

class Matcher {
  private readonly returned: ReadonlySet<FxNode>;
  private readonly patternSizes: ReadonlyMap<string, number>;
  private readonly sizes: ReadonlyMap<string, number>;

  constructor(
    pattern: FxGraph,
    private readonly graph: FxGraph,
    private readonly options: MatchOptions,
  ) {
    this.returned = new Set(returnedNodes(pattern));
    this.patternSizes = hintSizes(pattern.symbols);
    this.sizes = hintSizes(graph.symbols);
  }

  /** Settles the pairs, then the returned nodes that none of them reached; goes back where a choice leads nowhere. */
  search(pairs: readonly Pair[], map: NodeMap, open: readonly FxNode[]): NodeMap | null {
    if (pairs.length > 0) return this.settle(pairs[0], pairs.slice(1), map, open);
    const next = open.find((node) => !map.has(node));
    if (!next) return this.isClosed(map) ? map : null;
    for (const candidate of this.graph) {
      const found = candidate.target === next.target ? this.search([[next, candidate]], map, open) : null;
      if (found) return found;
    }
    return null;
  }

  private settle(
    [pattern, node]: Pair,
    rest: readonly Pair[],
    map: NodeMap,
    open: readonly FxNode[],
  ): NodeMap | null {
    const known = map.get(pattern);
    if (known) return known === node ? this.search(rest, map, open) : null;
    if (pattern.op === "placeholder") {
      const isValue = node.op !== "output" && node.op !== "set_attr" && (node.types?.length ?? 1) === 1;
      return isValue ? this.search(rest, new Map(map).set(pattern, node), open) : null;
    }
    if (!this.sameCall(pattern, node) || this.isTaken(node, map)) return null;
    const next = new Map(map).set(pattern, node);
    for (const args of this.orders(pattern)) {
      const pairs = this.pairsOf(args, node.args);
      const found = pairs && this.search([...pairs, ...rest], next, open);
      if (found) return found;
    }
    return null;
  }

  private isTaken(node: FxNode, map: NodeMap): boolean {
    for (const [pattern, other] of map) if (other === node && pattern.op !== "placeholder") return true;
    return false;
  }

  private orders(pattern: FxNode): (readonly unknown[])[] {
    const { args, opdef } = pattern;
    const swaps = opdef && commutative.has(opdef.name) && args.length === 2;
    return swaps ? [args, [args[1], args[0]]] : [args];
  }

  private sameCall(pattern: FxNode, node: FxNode): boolean {
    if (pattern.op !== node.op) return false;
    if (pattern.op === "get_attr") return this.options.sameAttr(pattern, node);
    if (pattern.op === "call_module") return this.options.sameModule(pattern, node);
    if (pattern.op !== "call_function" || pattern.target !== node.target) return false;
    return this.options.structureOnly === true || this.sameAttrs(pattern, node);
  }

  private sameAttrs(pattern: FxNode, node: FxNode): boolean {
    const a = evaluateAttrs(pattern.attrs, this.patternSizes);
    const b = evaluateAttrs(node.attrs, this.sizes);
    const names = new Set([...Object.keys(a), ...Object.keys(b)]);
    return [...names].every((name) => this.pairsOf(a[name], b[name])?.length === 0);
  }

  /** The nodes that must stand for each other where two arguments are the same but for nodes; null where they are not. */
  private pairsOf(a: unknown, b: unknown): Pair[] | null {
    if (a instanceof FxNode) return b instanceof FxNode ? [[a, b]] : null;
    if (b instanceof FxNode) return null;
    if (a instanceof Uint8Array || b instanceof Uint8Array) return String(a) === String(b) ? [] : null;
    if (Array.isArray(a)) {
      if (!Array.isArray(b) || a.length !== b.length) return null;
      return this.concat(a.map((item, i) => this.pairsOf(item, b[i])));
    }
    if (isPlainObject(a)) {
      if (!isPlainObject(b) || Object.keys(a).length !== Object.keys(b).length) return null;
      return this.concat(Object.keys(a).map((key) => this.pairsOf(a[key], b[key])));
    }
    if (this.options.structureOnly) return [];
    const value = (item: unknown, sizes: ReadonlyMap<string, number>): unknown =>
      item instanceof SymExpr ? item.evaluate(sizes) : item;
    return Object.is(value(a, this.patternSizes), value(b, this.sizes)) ? [] : null;
  }

  private concat(lists: readonly (Pair[] | null)[]): Pair[] | null {
    const out: Pair[] = [];
    for (const list of lists) {
      if (!list) return null;
      out.push(...list);
    }
    return out;
  }

  /** Whether values inside the match are read inside it alone. */
  private isClosed(map: NodeMap): boolean {
    const inside = new Set<FxNode>();
    for (const [pattern, node] of map) if (pattern.op !== "placeholder") inside.add(node);
    for (const [pattern, node] of map) {
      if (pattern.op === "placeholder" || pattern.op === "get_attr" || this.returned.has(pattern)) continue;
      for (const user of node.users) if (!inside.has(user)) return false;
    }
    return true;
  }
}
