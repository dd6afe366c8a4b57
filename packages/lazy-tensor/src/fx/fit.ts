import { SymExpr } from "@lazuli/fx-trace";

/** Sizes by symbol. */
export type Point = ReadonlyMap<string, number>;

/**
 * The polynomial, linear in each symbol, or the number divided by one, that is `values[i]` exactly at `points[i]`; null
 * where there is none. The first 2^symbols points are every mix of two sizes of each.
 */
export function fitExpression(values: readonly number[], points: readonly Point[]): SymExpr | null {
  return fit(values, points, null) ?? fit(values, points, 1);
}

function fit(values: readonly number[], points: readonly Point[], numerator: number | null): SymExpr | null {
  const products = monomials([...points[0].keys()].sort());
  const wanted = numerator === null ? values : values.map((value) => numerator / value);
  if (!wanted.every(Number.isFinite)) return null;
  const rows = products.map((_, i) => [...products.map((product) => valueAt(product, points[i])), wanted[i]]);
  const solution = solve(rows);
  if (!solution) return null;
  const terms = new Map<string, number>();
  products.forEach((product, i) => {
    const coefficient = Number(solution[i].toPrecision(12));
    if (Math.abs(coefficient) > 1e-9) terms.set(product.join("*"), coefficient);
  });
  const expression = new SymExpr(terms, numerator);
  return points.every((point, i) => Object.is(expression.evaluate(point), values[i])) ? expression : null;
}

/** Every product of distinct symbols, the empty one first. */
function monomials(symbols: readonly string[]): string[][] {
  const sets: string[][] = [[]];
  for (const symbol of symbols) sets.push(...sets.map((set) => [...set, symbol]));
  return sets;
}

const valueAt = (product: readonly string[], point: Point): number =>
  product.reduce((value, symbol) => value * (point.get(symbol) as number), 1);

/** Solves a square system whose last column is the right side, by elimination with pivoting; null where it has no one solution. */
function solve(rows: number[][]): number[] | null {
  const n = rows.length;
  for (let column = 0; column < n; column++) {
    let pivot = column;
    for (let row = column + 1; row < n; row++)
      if (Math.abs(rows[row][column]) > Math.abs(rows[pivot][column])) pivot = row;
    if (Math.abs(rows[pivot][column]) < 1e-9) return null;
    [rows[column], rows[pivot]] = [rows[pivot], rows[column]];
    for (let row = 0; row < n; row++) {
      if (row === column) continue;
      const factor = rows[row][column] / rows[column][column];
      for (let k = column; k <= n; k++) rows[row][k] -= factor * rows[column][k];
    }
  }
  return rows.map((row, i) => row[n] / row[i]);
}
