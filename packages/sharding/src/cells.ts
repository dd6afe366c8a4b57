import { formatShape, type Shape } from "@lazuli/fx-trace";
import { ShardingError } from "./errors.js";
import type { Mesh } from "./mesh.js";
import { type Dims, formatDims, localRange } from "./spec.js";

/** A part of one dim: elements start .. start + count - 1. */
export interface Part {
  readonly start: number;
  readonly count: number;
}

/** A tensor's parts as a grid of rows and columns: what pictures are drawn from. */
export interface Cells {
  /** The dims drawn, as rows and columns; null where a tensor has no such dim. */
  readonly rowDim: number | null;
  readonly columnDim: number | null;
  readonly rows: readonly Part[];
  readonly columns: readonly Part[];
  /** By row and column, the devices that hold the part, ascending. */
  readonly devices: readonly (readonly (readonly number[])[])[];
  /** Devices whose part is empty. */
  readonly idle: readonly number[];
  /** `[8, 5] as [data, -] over Mesh(data=2, tensor=4)` */
  readonly title: string;
  /** What is not drawn, in sentences; "" where all is. */
  readonly note: string;
}

/** The dims to draw: all up to rank 2, else the last two that are divided, filled up with the last that are not. */
function drawnDims(dims: Dims): number[] {
  const all = dims.map((_, dim) => dim);
  if (dims.length <= 2) return all;
  const divided = all.filter((dim) => dims[dim].length > 0);
  const whole = all.filter((dim) => dims[dim].length === 0);
  const drawn = [...whole, ...divided].slice(-2);
  return drawn.sort((a, b) => a - b);
}

const list = (numbers: readonly number[]): string =>
  numbers.length === 1 ? `dim ${numbers[0]}` : `dims ${numbers.join(", ").replace(/, (\d+)$/, " and $1")}`;

function noteOf(dims: Dims, drawn: readonly number[]): string {
  if (dims.length <= 2) return "";
  const others = dims.map((_, dim) => dim).filter((dim) => !drawn.includes(dim));
  const divided = others.filter((dim) => dims[dim].length > 0);
  const rest =
    divided.length > 0
      ? `the first part of ${list(divided)} is shown`
      : `${list(others)} ${others.length === 1 ? "is" : "are"} whole`;
  return `${list(drawn)} are drawn; ${rest}`;
}

/** Throws ShardingError where `dims` are not of the shape's rank. */
export function cellsOf(shape: Shape, mesh: Mesh, dims: Dims): Cells {
  if (dims.length !== shape.length)
    throw new ShardingError(
      "visualizeSharding",
      `the layout ${formatDims(mesh, dims)} has ${dims.length} dims, the tensor ${formatShape(shape)} has ${shape.length}`,
    );
  const drawn = drawnDims(dims);
  const columnDim = drawn.at(-1) ?? null;
  const rowDim = drawn.length > 1 ? drawn[0] : null;
  const rangeOf = (dim: number | null, device: number): Part =>
    dim === null ? { start: 0, count: 1 } : localRange(mesh, shape[dim], dims[dim], device);
  const everyDevice = Array.from({ length: mesh.size }, (_, device) => device);
  const idle = everyDevice.filter((device) =>
    shape.some((size, dim) => size > 0 && rangeOf(dim, device).count === 0),
  );
  // Of dims that are divided and not drawn the first part.
  const shown = everyDevice.filter(
    (device) =>
      !idle.includes(device) &&
      shape.every((_, dim) => drawn.includes(dim) || rangeOf(dim, device).start === 0),
  );
  const parts = (dim: number | null): Part[] => {
    const byStart = new Map(shown.map((device) => [rangeOf(dim, device).start, rangeOf(dim, device)]));
    return [...byStart.values()].sort((a, b) => a.start - b.start);
  };
  const rows = parts(rowDim);
  const columns = parts(columnDim);
  const devices = rows.map((row) =>
    columns.map((column) =>
      shown.filter(
        (device) =>
          rangeOf(rowDim, device).start === row.start && rangeOf(columnDim, device).start === column.start,
      ),
    ),
  );
  const title = `${formatShape(shape)} as ${formatDims(mesh, dims)} over ${mesh}`;
  return { rowDim, columnDim, rows, columns, devices, idle, title, note: noteOf(dims, drawn) };
}

/** `0,4`; `0-7` for runs of three and more; the first and the last where that is longer than `longest`. */
export function deviceLabel(devices: readonly number[], longest = 14): string {
  const runs: number[][] = [];
  for (const device of devices) {
    const last = runs.at(-1);
    if (last && last[last.length - 1] === device - 1) last.push(device);
    else runs.push([device]);
  }
  const text = runs
    .map((run) => (run.length > 2 ? `${run[0]}-${run[run.length - 1]}` : run.join(",")))
    .join();
  return text.length <= longest ? text : `${devices[0]},…,${devices[devices.length - 1]}`;
}
