import {
  type Dim,
  type FxAttr,
  type FxGraph,
  FxNode,
  isPlainObject,
  mapLeaves,
  type SymbolInfo,
  SymExpr,
  TraceError,
} from "@lazuli/fx-trace";
import { fitExpression, type Point } from "./fit.js";
import type { Traced } from "./tracer.js";

/*
 * Shapes are plain numbers while a function runs, so a dim is made symbolic from outside: the function is traced at several
 * sizes, the graphs are laid side by side, and each number that differs is written as an expression of the sizes that
 * gives what was seen at every one of them. What no such expression gives, and any other difference, is refused. Code that
 * branches at a size between and beyond those traced is not seen; runs check every shape against its expression.
 */

/** Symbolic dims by name: the size in the example, and the sizes allowed; `min` null where it is to be found out. */
export type Symbols = ReadonlyMap<string, Omit<SymbolInfo, "min"> & { readonly min: number | null }>;

/** What `traceAt` gives for the sizes of the examples, with numbers that depend on sizes as expressions of them. */
export function traceSymbolic(traceAt: (sizes: Point) => Traced, symbols: Symbols): Traced {
  const hints = new Map([...symbols].map(([name, { hint }]) => [name, hint]));
  const base = traceAt(hints);
  if (symbols.size === 0) return base;
  const points = samplePoints(symbols);
  const traces = points.map((sizes, i) => (i === 0 ? base : sampled(traceAt, sizes, hints)));
  const found = new Map(
    [...symbols].map(([name, info]) => [
      name,
      { hint: info.hint, max: info.max, min: info.min ?? smallest(name, traceAt, traces, points) },
    ]),
  );
  new Unifier(traces, points).unify();
  for (const [name, info] of found) base.graph.symbols.set(name, info);
  return base;
}

/** 1 where a trace at that size is the same program; else 2: a dim of 1 broadcasts. */
function smallest(
  name: string,
  traceAt: (sizes: Point) => Traced,
  traces: readonly Traced[],
  points: readonly Point[],
): number {
  const sizes = new Map(points[0]).set(name, 1);
  try {
    // Fresh graphs: unifying writes into the first.
    const fresh = points.map(traceAt);
    new Unifier([...fresh, traceAt(sizes)], [...points, sizes]).unify();
    return 1;
  } catch {
    return Math.min(2, ...traces.map((_, i) => points[i].get(name) as number));
  }
}

function sampled(traceAt: (sizes: Point) => Traced, sizes: Point, hints: Point): Traced {
  try {
    return traceAt(sizes);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const text = `${show(hints)} can be traced, ${show(sizes)} cannot: ${message}`;
    throw new TraceError("dynamic", text, "", null, { cause: error });
  }
}

/** The hints, every mix of them with another size, and sizes to check by: another mix, and the ends of the ranges. */
function samplePoints(symbols: Symbols): Point[] {
  const other = (
    { hint, min, max }: { hint: number; min: number | null; max: number },
    by: number,
  ): number => {
    if (hint + by <= max) return hint + by;
    return Math.max(hint - by, min ?? 1);
  };
  let points: Map<string, number>[] = [new Map()];
  for (const [name, info] of symbols)
    points = [info.hint, other(info, 1)].flatMap((size) =>
      points.map((point) => new Map(point).set(name, size)),
    );
  const entries = [...symbols];
  points.push(new Map(entries.map(([name, info], i) => [name, other(info, 3 + i)])));
  points.push(new Map(entries.map(([name, info]) => [name, info.min ?? other(info, 2)])));
  points.push(
    new Map(entries.map(([name, info]) => [name, Number.isFinite(info.max) ? info.max : other(info, 7)])),
  );
  return points;
}

const show = (sizes: Point): string => [...sizes].map(([name, size]) => `${name}=${size}`).join(", ");

/** Several traces of one program as one: the first, with expressions written into it. */
class Unifier {
  /** Nodes by position, of each trace. */
  private readonly nodes: readonly (readonly FxNode[])[];
  private readonly positions = new Map<FxNode, number>();

  constructor(
    private readonly traces: readonly Traced[],
    private readonly points: readonly Point[],
  ) {
    this.nodes = traces.map(({ graph }) => graph.nodes);
    for (const list of this.nodes) for (const [i, node] of list.entries()) this.positions.set(node, i);
  }

  unify(): void {
    const graphs = this.traces.map(({ graph }) => graph);
    const [base] = this.nodes;
    for (let i = 0; i < base.length; i++) this.checkSameCall(i);
    this.checkLength();
    this.checkConstants();
    const made = base.map((node, i) => this.unifyNode(node, i));
    for (const [i, { attrs, args, dims }] of made.entries()) {
      base[i].attrs = attrs;
      if (args) base[i].args = args;
      base[i].dims = dims;
    }
    this.unifyParams(graphs);
  }

  private checkSameCall(i: number): void {
    const [first] = this.nodes;
    for (const [t, list] of this.nodes.entries()) {
      const [a, b] = [first[i], list[i]];
      if (b && a.op === b.op && a.targetName === b.targetName && a.noGrad === b.noGrad && a.scope === b.scope)
        continue;
      this.differ(first[i], t, `node ${i} is ${describe(a)}`, b ? describe(b) : "missing");
    }
  }

  private checkLength(): void {
    const [first] = this.nodes;
    for (const [t, list] of this.nodes.entries())
      if (list.length !== first.length)
        this.differ(first[first.length - 1], t, `there are ${first.length} nodes`, `${list.length}`);
  }

  private checkConstants(): void {
    const [first] = this.traces;
    for (const [t, { constants, data }] of this.traces.entries())
      for (const [name, bytes] of first.data) {
        const other = data.get(name);
        const same = other && other.length === bytes.length && other.every((byte, i) => byte === bytes[i]);
        if (same && String(constants.get(name)?.shape) === String(first.constants.get(name)?.shape)) continue;
        const node = first.graph.findNodes({ op: "get_attr", target: name })[0];
        this.differ(node, t, "a tensor is made from numbers", "other numbers");
      }
  }

  private unifyNode(
    node: FxNode,
    i: number,
  ): Pick<FxNode, "attrs" | "dims"> & { args: readonly unknown[] | null } {
    const row = this.nodes.map((list) => list[i]);
    const attrs: Record<string, FxAttr> = {};
    for (const name in node.attrs)
      attrs[name] = this.unifyValue(
        row.map((other) => other.attrs[name]),
        node,
        name,
      ) as FxAttr;
    const args = this.unifyValue(
      row.map((other) => other.args),
      node,
      "an argument",
    ) as readonly unknown[];
    return { attrs, args: holdsSymbols(args) ? args : null, dims: this.unifyDims(row, node) };
  }

  private unifyDims(row: readonly FxNode[], node: FxNode): readonly (readonly Dim[])[] | null {
    if (!node.types) return null;
    const shapes = row.map((other) => other.types?.map(({ shape }) => shape));
    const dims = this.unifyValue(shapes, node, "its shape") as readonly (readonly Dim[])[];
    return dims.some((list) => list.some((dim) => dim instanceof SymExpr)) ? dims : null;
  }

  private unifyParams(graphs: readonly FxGraph[]): void {
    const [base] = graphs;
    const params = base.params.map((param, i) => ({
      ...param,
      value: this.unifyValue(
        graphs.map((graph) => graph.params[i].value),
        base.nodes[0],
        `argument ${param.name}`,
      ),
    }));
    base.params.splice(0, base.params.length, ...params);
  }

  /** One value for those of every trace, nodes as the first trace's. */
  private unifyValue(values: readonly unknown[], node: FxNode, what: string): unknown {
    const [first] = values;
    if (first instanceof FxNode) {
      const t = values.findIndex(
        (value) => !(value instanceof FxNode) || this.positions.get(value) !== this.positions.get(first),
      );
      if (t >= 0) this.differ(node, t, `${what} is ${first.name}`, String(values[t]));
      return first;
    }
    if (first instanceof Uint8Array) {
      const t = values.findIndex((value) => String(value) !== String(first));
      if (t >= 0) this.differ(node, t, `${what} is made of bytes`, "others");
      return first;
    }
    if (Array.isArray(first)) return this.unifyArrays(values as unknown[][], node, what);
    if (isPlainObject(first)) return this.unifyObjects(values as Record<string, unknown>[], node, what);
    if (values.every((value) => Object.is(value, first))) return first;
    const fitted = values.every((value) => typeof value === "number")
      ? fitExpression(values as number[], this.points)
      : null;
    if (fitted) return fitted;
    const t = values.findIndex((value) => !Object.is(value, first));
    const numbers = typeof first === "number" && typeof values[t] === "number";
    return this.differ(
      node,
      t,
      `${what} is ${String(first)}`,
      String(values[t]),
      numbers ? ", which is no polynomial of the sizes that is linear in each" : "",
    );
  }

  private unifyArrays(values: readonly unknown[][], node: FxNode, what: string): unknown[] {
    const t = values.findIndex((value) => !Array.isArray(value) || value.length !== values[0].length);
    if (t >= 0) this.differ(node, t, `${what} has ${values[0].length} entries`, `${values[t]?.length}`);
    return values[0].map((_, i) =>
      this.unifyValue(
        values.map((value) => value[i]),
        node,
        what,
      ),
    );
  }

  private unifyObjects(values: readonly Record<string, unknown>[], node: FxNode, what: string): unknown {
    const keys = Object.keys(values[0]);
    const t = values.findIndex(
      (value) => !isPlainObject(value) || String(Object.keys(value)) !== String(keys),
    );
    if (t >= 0) this.differ(node, t, `${what} has ${keys}`, String(Object.keys(values[t] ?? {})));
    return Object.fromEntries(
      keys.map((key) => [
        key,
        this.unifyValue(
          values.map((value) => value[key]),
          node,
          what,
        ),
      ]),
    );
  }

  private differ(node: FxNode, t: number, first: string, other: string, why = ""): never {
    const names = [...this.points[0].keys()].join(", ");
    throw new TraceError(
      "dynamic",
      `the program depends on ${names}: ${describe(node)}: ${first} at ${show(this.points[0])}, and ${other} at ` +
        `${show(this.points[t])}${why}`,
      node.scope,
    );
  }
}

const describe = (node: FxNode): string =>
  `${node.op === "call_function" ? "" : `${node.op} `}${node.targetName}`;

function holdsSymbols(value: unknown): boolean {
  let found = false;
  mapLeaves(value, (leaf) => {
    found ||= leaf instanceof SymExpr;
    return leaf;
  });
  return found;
}
