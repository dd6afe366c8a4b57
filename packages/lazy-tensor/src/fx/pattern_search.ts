import {
  type FxGraph,
  type FxNode,
  formatArgument,
  LazuliError,
  type MatchOptions,
  matchAt,
  type NodeMap,
  returnedNodes,
  type TensorType,
  TraceError,
} from "@lazuli/fx-trace";
import { Tensor } from "../tensor.js";
import { TensorSpec, type Traced } from "./tracer.js";

/** How far above a node inputs of a pattern that ends there are looked for, and how many types are taken. */
const DEPTH = 8;
const MAX_TYPES = 12;
const MAX_TRIALS = 20_000;

/** A match of the pattern as it is at the shapes of the match. */
export interface FoundPattern {
  readonly pattern: FxGraph;
  readonly map: NodeMap;
}

/*
 * What a function records depends on the shapes it is given, so a pattern has no graph of its own. It is traced on types
 * found in the graph for what it looks like (its variants); a part of the graph that has a variant's structure says which
 * types its inputs have there, and the pattern traced on those is what the part must be, attributes included.
 */
export class PatternSearch {
  private readonly traces = new Map<string, Traced | null>();
  /** Traces of different structure. */
  private readonly variants = new Map<string, Traced>();
  private lastError: LazuliError | null = null;

  constructor(
    private readonly graph: FxGraph,
    private readonly inputCount: number,
    private readonly trace: (types: readonly TensorSpec[]) => Traced,
    private readonly optionsOf: (traced: Traced) => MatchOptions,
    exampleInputs?: readonly unknown[],
  ) {
    if (exampleInputs) this.addVariant(trace(exampleInputs.map(specOf)));
    else this.tryTypes();
    if (this.variants.size === 0 && this.lastError)
      throw new TraceError(
        "replacePattern",
        `the pattern fits no types in the graph: ${this.lastError.message}`,
        "",
        null,
        { cause: this.lastError },
      );
  }

  /** Matches in the graph's order that touch none of `taken`. */
  *matches(taken: ReadonlySet<FxNode>): Generator<FoundPattern> {
    for (const anchor of this.graph.nodes) {
      if (taken.has(anchor)) continue;
      const found = this.matchAt(anchor);
      if (found && !touches(found, taken)) yield found;
    }
  }

  private matchAt(anchor: FxNode): FoundPattern | null {
    for (const variant of this.variants.values()) {
      const { graph } = variant;
      if (returnedNodes(graph)[0]?.op !== anchor.op) continue;
      const rough = matchAt(graph, anchor, { ...this.optionsOf(variant), structureOnly: true });
      if (!rough) continue;
      const types = graph.placeholders.map((node) => rough.get(node)?.type ?? null);
      const exact = types.every((type) => type !== null) ? this.traceOn(types) : null;
      const map = exact && matchAt(exact.graph, anchor, this.optionsOf(exact));
      if (exact && map) return { pattern: exact.graph, map };
    }
    return null;
  }

  /** Traces the pattern on every choice of types that values near one another have. */
  private tryTypes(): void {
    for (const node of this.graph.nodes) {
      const types = typesAbove(node);
      for (const choice of choices(types, this.inputCount)) {
        if (this.traces.size > MAX_TRIALS)
          throw new TraceError(
            "replacePattern",
            `the pattern was tried on ${MAX_TRIALS} choices of types: give exampleInputs`,
          );
        this.traceOn(choice);
      }
    }
  }

  private traceOn(types: readonly TensorType[]): Traced | null {
    const key = types.map(({ dtype, shape }) => `${dtype}[${shape}]`).join(";");
    const known = this.traces.get(key);
    if (known !== undefined) return known;
    let traced: Traced | null = null;
    try {
      traced = this.trace(types.map(({ shape, dtype }) => new TensorSpec(shape, dtype)));
      this.addVariant(traced);
    } catch (error) {
      // Types that the pattern does not take.
      if (!(error instanceof LazuliError) || error instanceof TraceError) throw error;
      this.lastError = error;
    }
    this.traces.set(key, traced);
    return traced;
  }

  private addVariant(traced: Traced): void {
    for (const node of traced.graph.placeholders)
      if (node.users.size === 0)
        throw new TraceError("replacePattern", `the pattern does not use its input ${node.name}`);
    const lines = traced.graph.nodes.map(
      (node) => `${node.name} ${node.targetName} ${node.args.map((arg) => formatArgument(arg))}`,
    );
    const text = lines.join("\n");
    if (!this.variants.has(text)) this.variants.set(text, traced);
  }
}

function specOf(value: unknown): TensorSpec {
  if (value instanceof TensorSpec) return value;
  if (value instanceof Tensor) return new TensorSpec(value.shape, value.dtype);
  throw new TraceError("replacePattern", "a pattern's example inputs are tensors, or specs of tensors");
}

const touches = ({ pattern, map }: FoundPattern, taken: ReadonlySet<FxNode>): boolean => {
  for (const node of pattern) {
    const stands = map.get(node);
    if (stands && node.op !== "placeholder" && taken.has(stands)) return true;
  }
  return false;
};

/** Distinct types of the values above a node, nearest first. */
function typesAbove(node: FxNode): TensorType[] {
  const types = new Map<string, TensorType>();
  const seen = new Set<FxNode>();
  let level = node.inputs;
  for (let depth = 0; depth < DEPTH && types.size < MAX_TYPES; depth++) {
    const next: FxNode[] = [];
    for (const input of level) {
      if (seen.has(input)) continue;
      seen.add(input);
      if (input.types?.length === 1)
        types.set(`${input.types[0].dtype}[${input.types[0].shape}]`, input.types[0]);
      next.push(...input.inputs);
    }
    level = next;
  }
  return [...types.values()].slice(0, MAX_TYPES);
}

/** Every list of `count` of the types. */
function* choices(types: readonly TensorType[], count: number): Generator<TensorType[]> {
  if (count === 0) {
    yield [];
    return;
  }
  for (const rest of choices(types, count - 1)) for (const type of types) yield [...rest, type];
}
