import type { Shape } from "@lazuli/fx-trace";
import { type Cells, cellsOf, deviceLabel, type Part } from "./cells.js";
import type { Mesh } from "./mesh.js";
import type { Dims } from "./spec.js";

/*
 * Which devices hold which part of a tensor, as jax.debug.visualize_array_sharding shows it: one cell a part, sizes in
 * proportion, named by the numbers of the devices that hold it.
 */

export interface VisualizeOptions {
  /** Cells on coloured ground. Default: where standard output is a terminal and NO_COLOR is not set (no-color.org). */
  readonly colour?: boolean;
  /** Characters of a line, as far as labels fit. Default: the terminal's, 64 at most. */
  readonly width?: number;
}

const WIDEST = 64;
const TALLEST = 12;

/** Grounds that black text is read on, from the 256 colours of terminals. */
const grounds = [153, 216, 151, 223, 183, 116, 224, 187, 147, 180, 159, 218];

/** Neighbours differ, and all cells where there are no more than grounds. */
const groundOf = (row: number, column: number, columns: number, cells: number): number =>
  (cells <= grounds.length ? row * columns + column : row * 5 + column) % grounds.length;

const inColour = (): boolean => Boolean(process.stdout?.isTTY) && !process.env.NO_COLOR;

/** Lengths in proportion to the parts, in whole characters, each at least `least`. */
const lengthsOf = (parts: readonly Part[], total: number, least: number): number[] => {
  const size = parts.reduce((sum, { count }) => sum + count, 0);
  return parts.map(({ count }) => Math.max(least, size > 0 ? Math.round((total * count) / size) : 0));
};

const centred = (text: string, width: number): string => {
  const left = Math.floor((width - text.length) / 2);
  return " ".repeat(left) + text + " ".repeat(width - text.length - left);
};

/** Lines of text below the picture. */
const footOf = ({ note, idle }: Cells): string[] => [
  ...(note ? [note] : []),
  ...(idle.length > 0 ? [`no part: ${deviceLabel(idle, 60)}`] : []),
];

/**
 * A picture for a terminal, lines ending in a newline. Of a tensor of more than two dims the last two that are divided
 * are drawn, and a line says so. Throws ShardingError where `dims` are not of the shape's rank.
 */
export function visualizeSharding(
  shape: Shape,
  mesh: Mesh,
  dims: Dims,
  { colour = inColour(), width = Math.min(process.stdout?.columns ?? WIDEST, WIDEST) }: VisualizeOptions = {},
): string {
  const cells = cellsOf(shape, mesh, dims);
  const { rows, columns, devices, rowDim, columnDim } = cells;
  const lines = [cells.title];
  if (rows.length > 0 && columns.length > 0) {
    const labels = devices.map((row) => row.map((each) => deviceLabel(each)));
    const longest = Math.max(...labels.flat().map((label) => label.length)) + 2;
    const widths = lengthsOf(columns, width - columns.length - 1, longest);
    const across = widths.reduce((sum, each) => sum + each, 0);
    // A character is about twice as high as wide.
    const ratio = rowDim === null || columnDim === null ? 0 : shape[rowDim] / Math.max(shape[columnDim], 1);
    const heights = lengthsOf(rows, Math.min(Math.round((across / 2) * ratio), TALLEST), 1);
    const rule = (left: string, middle: string, right: string): string =>
      left + widths.map((each) => "─".repeat(each)).join(middle) + right;
    const paint = (text: string, row: number, column: number): string =>
      colour
        ? `\x1b[48;5;${grounds[groundOf(row, column, columns.length, rows.length * columns.length)]}m\x1b[30m${text}\x1b[0m`
        : text;
    lines.push(rule("┌", "┬", "┐"));
    heights.forEach((height, row) => {
      if (row > 0) lines.push(rule("├", "┼", "┤"));
      for (let line = 0; line < height; line++) {
        const texts = widths.map((each, column) =>
          paint(
            line === Math.floor((height - 1) / 2) ? centred(labels[row][column], each) : " ".repeat(each),
            row,
            column,
          ),
        );
        lines.push(`│${texts.join("│")}│`);
      }
    });
    lines.push(rule("└", "┴", "┘"));
  }
  return `${[...lines, ...footOf(cells)].join("\n")}\n`;
}
