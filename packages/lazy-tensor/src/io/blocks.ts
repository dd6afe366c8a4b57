import { type Shape, sizeOf } from "@lazuli/fx-trace";

/** Bytes from which a run is read by itself; shorter ones of a stretch of rows are read with what lies between them. */
const LONG_RUN_BYTES = 1 << 16;
const STRETCH_BYTES = 1 << 22;

/**
 * The elements of a block of a row-major array that lies in a file, read without those outside of it, or a few MiB of them
 * at a time. `read` fills its target from a byte of the array on.
 */
export async function readBlock(
  read: (target: Uint8Array, position: number) => Promise<void>,
  elementBytes: number,
  whole: Shape,
  start: readonly number[],
  shape: Shape,
): Promise<Uint8Array> {
  const out = new Uint8Array(sizeOf(shape) * elementBytes);
  if (out.length === 0) return out;
  // From this dim on a block's elements follow each other.
  let dim = whole.length;
  while (dim > 0 && (dim === whole.length || shape[dim] === whole[dim])) dim--;
  const innerBytes = sizeOf(whole.slice(dim + 1)) * elementBytes;
  const run = whole.length === 0 ? elementBytes : shape[dim] * innerBytes;
  const first = whole.length === 0 ? 0 : start[dim] * innerBytes;
  const rowBytes = whole.length === 0 ? 0 : whole[dim] * innerBytes;
  /** Number of the block's row-th run among all of the array's. */
  const rowAt = (row: number): number => {
    let rest = row;
    let at = 0;
    let stride = 1;
    for (let d = dim - 1; d >= 0; d--) {
      at += (start[d] + (rest % shape[d])) * stride;
      rest = Math.floor(rest / shape[d]);
      stride *= whole[d];
    }
    return at;
  };
  const rows = out.length / run;
  const together = run >= LONG_RUN_BYTES ? 1 : Math.max(1, Math.floor(STRETCH_BYTES / rowBytes));
  for (let row = 0; row < rows; ) {
    const at = rowAt(row);
    let count = 1;
    while (count < together && row + count < rows && rowAt(row + count) === at + count) count++;
    const position = at * rowBytes + first;
    if (count === 1) await read(out.subarray(row * run, (row + 1) * run), position);
    else {
      const stretch = new Uint8Array((count - 1) * rowBytes + run);
      await read(stretch, position);
      for (let i = 0; i < count; i++)
        out.set(stretch.subarray(i * rowBytes, i * rowBytes + run), (row + i) * run);
    }
    row += count;
  }
  return out;
}
