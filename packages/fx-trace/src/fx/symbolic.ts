import { GuardError } from "../errors.js";
import type { Attrs, AttrValue } from "../opdef.js";

/**
 * A number that depends on symbolic dims: a polynomial that is linear in each of them, `2*batch*seq + 1`, or a constant
 * divided by one, `3/(batch*seq)`.
 */
export class SymExpr {
  constructor(
    /** Coefficients by product of symbols, names joined by `*`; "" is the constant term. */
    readonly terms: ReadonlyMap<string, number>,
    /** Where not null the value is this number divided by the polynomial. */
    readonly numerator: number | null = null,
  ) {}

  static symbol(name: string): SymExpr {
    return new SymExpr(new Map([[name, 1]]));
  }

  /** Names of the symbols it reads. */
  get symbols(): string[] {
    const names = [...this.terms.keys()].filter(Boolean).flatMap((product) => product.split("*"));
    return [...new Set(names)];
  }

  evaluate(sizes: SymbolSizes): number {
    let sum = 0;
    for (const [product, coefficient] of this.terms) {
      let term = coefficient;
      if (product) for (const name of product.split("*")) term *= sizeOfSymbol(sizes, name);
      sum += term;
    }
    return this.numerator === null ? sum : this.numerator / sum;
  }

  equals(other: unknown): boolean {
    return other instanceof SymExpr && other.toString() === this.toString();
  }

  /** Reads as an expression of TypeScript: constants last. */
  toString(): string {
    const parts = [...this.terms].sort(([a], [b]) => (a === "" ? 1 : b === "" ? -1 : a < b ? -1 : 1));
    const sum = parts
      .map(([product, coefficient]) =>
        product === ""
          ? String(coefficient)
          : coefficient === 1
            ? product
            : coefficient === -1
              ? `-${product}`
              : `${coefficient}*${product}`,
      )
      .join(" + ")
      .replaceAll("+ -", "- ");
    if (this.numerator === null) return sum;
    return `${this.numerator}/${/^[\w$]+$/.test(sum) ? sum : `(${sum})`}`;
  }
}

/** A size that is known, or depends on symbolic dims. */
export type Dim = number | SymExpr;
/** Sizes by symbol. */
export type SymbolSizes = ReadonlyMap<string, number>;

/** What a symbol stands for. */
export interface SymbolInfo {
  /** The size it was traced with. */
  readonly hint: number;
  /** Sizes it may take. */
  readonly min: number;
  readonly max: number;
}

function sizeOfSymbol(sizes: SymbolSizes, name: string): number {
  const size = sizes.get(name);
  if (size === undefined) throw new GuardError("dynamic", `the size of ${name} is not known`);
  return size;
}

/** An attribute as a graph holds it: where dims are symbolic, numbers may be expressions. */
export type FxAttr = AttrValue | SymExpr | readonly Dim[];
export type FxAttrs = Readonly<Record<string, FxAttr>>;

export const evaluateDim = (dim: Dim, sizes: SymbolSizes): number =>
  dim instanceof SymExpr ? dim.evaluate(sizes) : dim;

const isList = (value: FxAttr): value is readonly Dim[] => Array.isArray(value);

/** The attributes at the given sizes: the object itself where nothing in it is symbolic. */
export function evaluateAttrs(attrs: FxAttrs, sizes: SymbolSizes): Attrs {
  let out: Record<string, FxAttr> | null = null;
  for (const name in attrs) {
    const value = attrs[name];
    if (value instanceof SymExpr) {
      out ??= { ...attrs };
      out[name] = value.evaluate(sizes);
    } else if (isList(value) && value.some((item) => item instanceof SymExpr)) {
      out ??= { ...attrs };
      out[name] = value.map((item) => evaluateDim(item, sizes));
    }
  }
  return (out ?? attrs) as Attrs;
}

/** The sizes that a graph was traced with. */
export const hintSizes = (symbols: ReadonlyMap<string, SymbolInfo>): Map<string, number> =>
  new Map([...symbols].map(([name, { hint }]) => [name, hint]));
