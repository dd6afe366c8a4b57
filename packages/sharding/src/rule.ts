import { GraphError, type Node, type ShardingRule } from "@lazuli/fx-trace";
import type { Mesh } from "./mesh.js";

/** A factor of a dim; `_` stands for a part that stays whole. */
export const WHOLE = "_";

/** An op's sharding rule, read: by operand and by result, for each dim its factors, the outermost first. */
export interface Factors {
  readonly operands: readonly (readonly (readonly string[])[])[];
  readonly results: readonly (readonly (readonly string[])[])[];
  readonly sizes: ReadonlyMap<string, number>;
  readonly reduce: ReadonlySet<string>;
  readonly replicate: ReadonlySet<string>;
}

function parseDims(text: string): string[][] {
  const dims: string[][] = [];
  for (const [token] of text.matchAll(/\([^)]*\)|\S+/g))
    dims.push(token.startsWith("(") ? token.slice(1, -1).trim().split(/\s+/) : [token]);
  return dims;
}

const parsed = new Map<string, Pick<Factors, "operands" | "results">>();

function parseText(text: string): Pick<Factors, "operands" | "results"> {
  const known = parsed.get(text);
  if (known) return known;
  const [operands, results] = text.split("->");
  const list = (side: string): string[][][] => side.split(",").map(parseDims);
  const read = { operands: list(operands), results: list(results) };
  parsed.set(text, read);
  return read;
}

/** Sizes of the factors: those alone in a dim are the dim's, others follow. */
function sizesOf(
  dims: Iterable<{ readonly factors: readonly string[]; readonly size: number }>,
): Map<string, number> {
  const sizes = new Map<string, number>();
  const open: { factors: readonly string[]; size: number }[] = [];
  for (const dim of dims) {
    if (dim.factors.length === 1) sizes.set(dim.factors[0], dim.size);
    else open.push(dim);
  }
  for (let changed = true; changed; ) {
    changed = false;
    for (const { factors, size } of open) {
      const unknown = factors.filter((factor) => !sizes.has(factor));
      if (unknown.length !== 1 || unknown[0] === WHOLE) continue;
      const rest = factors.reduce((product, factor) => product * (sizes.get(factor) ?? 1), 1);
      sizes.set(unknown[0], rest === 0 ? 0 : size / rest);
      changed = true;
    }
  }
  sizes.delete(WHOLE);
  return sizes;
}

/** The factors of a node's operands and results. A `result` node has none of its own. */
export function factorsOf(node: Node): Factors {
  const { sharding, name } = node.op;
  if (!sharding) throw new GraphError(name, "has no sharding rule", node.scope);
  const rule: ShardingRule =
    typeof sharding === "function" ? sharding(node.inputs, node.attrs as never) : sharding;
  const text = parseText(rule.factors);
  // A rule of an op without operands is written "-> ...", whose left side reads as one operand without dims.
  const operands = text.operands.slice(0, node.inputs.length);
  const results = text.results.slice(0, node.types.length);
  const shapes = [...node.inputs.map((x) => x.shape), ...node.types.map((type) => type.shape)];
  const dims = [...operands, ...results].flatMap((list, i) =>
    list.map((factors, d) => ({ factors, size: shapes[i][d] })),
  );
  return {
    operands,
    results,
    sizes: sizesOf(dims),
    reduce: new Set(rule.reduce),
    replicate: new Set(rule.replicate),
  };
}

/** By factor, the mesh axes it is divided over, the major first. */
export type Assignment = ReadonlyMap<string, readonly number[]>;

/**
 * The axes of one dim as axes of its factors. Of several factors the inner ones may be divided only where the outer are
 * divided to the end, and all evenly; null where the axes do not fall so.
 */
export function splitAxes(
  factors: readonly string[],
  axes: readonly number[],
  sizes: ReadonlyMap<string, number>,
  mesh: Mesh,
): ReadonlyMap<string, readonly number[]> | null {
  const out = new Map<string, readonly number[]>();
  if (axes.length === 0) return out;
  if (factors.length === 1) return factors[0] === WHOLE ? null : out.set(factors[0], axes);
  let at = 0;
  for (const factor of factors) {
    let rest = sizes.get(factor);
    if (factor === WHOLE || rest === undefined) break;
    const mine: number[] = [];
    while (at < axes.length && rest > 1 && rest % mesh.sizes[axes[at]] === 0) {
      rest /= mesh.sizes[axes[at]];
      mine.push(axes[at++]);
    }
    if (mine.length > 0) out.set(factor, mine);
    if (rest > 1) break;
  }
  return at === axes.length ? out : null;
}

/** The axes of a dim under an assignment, as far as its factors may be divided. */
export function joinAxes(
  factors: readonly string[],
  assigned: Assignment,
  sizes: ReadonlyMap<string, number>,
  mesh: Mesh,
): readonly number[] {
  if (factors.length === 1) return assigned.get(factors[0]) ?? [];
  const out: number[] = [];
  for (const factor of factors) {
    const axes = assigned.get(factor) ?? [];
    out.push(...axes);
    if (sizes.get(factor) !== mesh.sizeOf(axes)) break;
  }
  return out;
}

/** Whether every dim that has the factor can be divided as assigned: inner factors need their outer ones used up. */
export function fits(f: Factors, factor: string, assigned: Assignment, mesh: Mesh): boolean {
  const axes = assigned.get(factor) ?? [];
  if (axes.length === 0) return true;
  const size = f.sizes.get(factor);
  for (const dims of [...f.operands, ...f.results]) {
    for (const factors of dims) {
      const at = factors.indexOf(factor);
      if (at < 0 || factors.length === 1) continue;
      if (size === undefined || size % mesh.sizeOf(axes) !== 0) return false;
      for (const outer of factors.slice(0, at))
        if (f.sizes.get(outer) !== mesh.sizeOf(assigned.get(outer) ?? [])) return false;
    }
  }
  return true;
}
