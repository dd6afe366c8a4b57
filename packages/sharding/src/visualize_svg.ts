import type { Shape } from "@lazuli/fx-trace";
import { type Cells, cellsOf, deviceLabel, type Part } from "./cells.js";
import type { Mesh } from "./mesh.js";
import { type Dims, specOf } from "./spec.js";

/** Pixels that a drawing fits in. */
const WIDEST = 460;
const TALLEST = 300;
/** Of a side, so that a long tensor stays a picture, and of a part, so that its name can be read. */
const SHORTEST = 72;
const SHORTEST_ROW = 22;
const SHORTEST_COLUMN = 34;
const LEFT = 96;
const TOP = 78;
const MARGIN = 20;
/** Of a character of the title. */
const CHARACTER = 7.6;

/** Pastels, neighbours apart in hue. */
const fills = [
  "#bfdbfe",
  "#fed7aa",
  "#bbf7d0",
  "#fecdd3",
  "#ddd6fe",
  "#fef08a",
  "#a5f3fc",
  "#f5d0fe",
  "#d9f99d",
  "#e2e8f0",
  "#fde68a",
  "#c7d2fe",
];

const style = [
  "text { font: 12px ui-sans-serif, system-ui, 'DejaVu Sans', sans-serif; fill: #475569; }",
  ".title { font-weight: 600; fill: #0f172a; }",
  ".device { font-size: 13px; font-weight: 600; fill: #0f172a; text-anchor: middle; dominant-baseline: central; }",
  ".axis { text-anchor: middle; }",
  ".range { font-size: 10px; fill: #94a3b8; text-anchor: middle; }",
  ".side { text-anchor: end; dominant-baseline: central; }",
];

const escaped = (text: string): string =>
  text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
const rounded = (value: number): string => String(Math.round(value * 10) / 10);

function text(x: number, y: number, kind: string, content: string, more = ""): string {
  return `<text x="${rounded(x)}" y="${rounded(y)}" class="${kind}"${more}>${escaped(content)}</text>`;
}

interface Span {
  readonly at: number;
  readonly length: number;
}

/** Where the parts lie on a side of `length` pixels, in proportion. */
function spansOf(parts: readonly Part[], length: number): Span[] {
  const size = Math.max(
    parts.reduce((sum, { count }) => sum + count, 0),
    1,
  );
  let at = 0;
  return parts.map(({ count }) => {
    const span = { at, length: (length * count) / size };
    at += span.length;
    return span;
  });
}

/** `0:4`, as a slice. */
const rangeText = ({ start, count }: Part): string => `${start}:${start + count}`;

/** Pixels of the drawing. */
function sidesOf({ rowDim, columnDim, rows, columns }: Cells, shape: Shape): { wide: number; high: number } {
  const sizeOf = (dim: number | null): number => (dim === null ? 0 : Math.max(shape[dim], 1));
  const scale = Math.min(WIDEST / Math.max(sizeOf(columnDim), 1), TALLEST / Math.max(sizeOf(rowDim), 1));
  return {
    wide: Math.max(SHORTEST, sizeOf(columnDim) * scale, columns.length * SHORTEST_COLUMN),
    high: Math.max(SHORTEST, sizeOf(rowDim) * scale, rows.length * SHORTEST_ROW),
  };
}

/**
 * The picture of `visualizeSharding` as an SVG document: a rectangle a part, named by its devices, with each dim's axes
 * and ranges at the sides. Throws ShardingError where `dims` are not of the shape's rank.
 */
export function shardingSvg(shape: Shape, mesh: Mesh, dims: Dims): string {
  const cells = cellsOf(shape, mesh, dims);
  const { rows, columns, rowDim, columnDim } = cells;
  const { wide, high } = sidesOf(cells, shape);
  const across = spansOf(columns, wide);
  const down = spansOf(rows, high);
  const foot = [cells.note, cells.idle.length > 0 ? `no part: ${deviceLabel(cells.idle, 60)}` : ""].filter(
    Boolean,
  );
  const texts = [cells.title, ...foot].map((line) => line.length * CHARACTER);
  const width = rounded(Math.max(LEFT + wide, MARGIN + Math.max(...texts)) + MARGIN);
  const height = rounded(TOP + high + MARGIN + foot.length * 18);

  const spec = specOf(mesh, dims);
  const axesOf = (dim: number): string => `dim ${dim}: ${[spec[dim] ?? "whole"].flat().join(" ")}`;
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    `<title>${escaped(cells.title)}</title>`,
    `<style>${style.join(" ")}</style>`,
    `<rect width="100%" height="100%" fill="#ffffff"/>`,
    text(MARGIN, 26, "title", cells.title),
  ];
  if (columnDim !== null) {
    lines.push(text(LEFT + wide / 2, TOP - 22, "axis", axesOf(columnDim)));
    // Where a range does not fit, the starts have to do.
    const fits = columns.every((part, i) => rangeText(part).length * 6.5 <= across[i].length);
    across.forEach(({ at, length }, i) => {
      const range = fits ? rangeText(columns[i]) : `${columns[i].start}:`;
      lines.push(text(LEFT + at + length / 2, TOP - 7, "range", range));
    });
  }
  if (rowDim !== null) {
    const turned = ` transform="translate(${MARGIN + 8} ${rounded(TOP + high / 2)}) rotate(-90)"`;
    lines.push(text(0, 0, "axis", axesOf(rowDim), turned));
    down.forEach(({ at, length }, i) => {
      lines.push(text(LEFT - 8, TOP + at + length / 2, "range side", rangeText(rows[i])));
    });
  }
  const isFew = rows.length * columns.length <= fills.length;
  cells.devices.forEach((row, r) => {
    row.forEach((devices, c) => {
      const [x, y] = [LEFT + across[c].at, TOP + down[r].at];
      const [w, h] = [across[c].length, down[r].length];
      const fill = fills[(isFew ? r * columns.length + c : r * 5 + c) % fills.length];
      lines.push(
        `<rect x="${rounded(x + 1)}" y="${rounded(y + 1)}" width="${rounded(w - 2)}" height="${rounded(h - 2)}" rx="4" fill="${fill}"/>`,
        text(x + w / 2, y + h / 2, "device", deviceLabel(devices, Math.max(Math.floor(w / 8), 3))),
      );
    });
  });
  foot.forEach((line, i) => {
    lines.push(text(MARGIN, TOP + high + 22 + i * 18, "note", line));
  });
  return `${[...lines, "</svg>"].join("\n")}\n`;
}
