import type { FileHandle } from "node:fs/promises";
import { type Shape, sizeOf } from "@lazuli/fx-trace";
import { FileFormatError } from "../errors.js";
import { readBlock } from "./blocks.js";
import { openToRead, readExactly, writeAll, writeAtomically } from "./files.js";

// NumPy's .npy, versions 1 to 3: "\x93NUMPY", major, minor, header length (u16, from version 2 on u32), a Python dict as text,
// then the elements. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

const magic = Buffer.from("\x93NUMPY", "latin1");
const dtypes = { "<i4": "int32", "<f4": "float32" } as const;
type NpyDType = (typeof dtypes)[keyof typeof dtypes];
export type NpyData = Int32Array | Float32Array;

/** An .npy file of int32 or float32 in C order, read a few rows at a time. Close it, or hold it by `await using`. */
export class NpyReader implements AsyncDisposable {
  private constructor(
    readonly path: string,
    readonly dtype: NpyDType,
    readonly shape: Shape,
    private readonly handle: FileHandle,
    private readonly dataOffset: number,
  ) {}

  /** Opens and checks the header. Throws FileFormatError. */
  static async open(path: string): Promise<NpyReader> {
    const { handle, size } = await openToRead("npy", path);
    try {
      const { header, end } = await readHeader(path, handle, size);
      const { dtype, shape } = parseHeader(path, header);
      const wanted = sizeOf(shape) * 4;
      if (size - end !== wanted) {
        const what = size - end < wanted ? "truncated: " : "";
        throw new FileFormatError(
          "npy",
          `${path}: ${what}${dtype} [${shape}] is ${wanted} bytes, the file has ${size - end}`,
        );
      }
      return new NpyReader(path, dtype, shape, handle, end);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** `count` entries of the first dim from `start`, flat. */
  async rows(start: number, count: number): Promise<NpyData> {
    const row = sizeOf(this.shape.slice(1));
    return this.elements(start * row, count * row);
  }

  /** A block of the array, flat. */
  async block(start: readonly number[], shape: Shape): Promise<NpyData> {
    const bytes = await readBlock((target, at) => this.read(target, at), 4, this.shape, start, shape);
    return this.dtype === "int32" ? new Int32Array(bytes.buffer) : new Float32Array(bytes.buffer);
  }

  /** Every element, flat. */
  all(): Promise<NpyData> {
    return this.elements(0, sizeOf(this.shape));
  }

  private async elements(start: number, count: number): Promise<NpyData> {
    const data = this.dtype === "int32" ? new Int32Array(count) : new Float32Array(count);
    await this.read(new Uint8Array(data.buffer), start * 4);
    return data;
  }

  private read(target: Uint8Array, position: number): Promise<void> {
    return readExactly("npy", this.path, this.handle, target, this.dataOffset + position);
  }

  close(): Promise<void> {
    return this.handle.close();
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** A whole .npy file. Throws FileFormatError. As numpy.load. */
export async function loadNpy(path: string): Promise<{ dtype: NpyDType; shape: Shape; data: NpyData }> {
  const reader = await NpyReader.open(path);
  try {
    return { dtype: reader.dtype, shape: reader.shape, data: await reader.all() };
  } finally {
    await reader.close();
  }
}

/** Writes an .npy file, version 1. The file appears whole or not at all. As numpy.save. */
export async function saveNpy(path: string, data: NpyData, shape: Shape): Promise<void> {
  if (sizeOf(shape) !== data.length) {
    throw new FileFormatError("npy", `${path}: ${data.length} elements do not fit the shape [${shape}]`);
  }
  const descr = data instanceof Int32Array ? "<i4" : "<f4";
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`;
  const dict = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const prefix = magic.length + 4;
  // The elements start at a multiple of 64 bytes; the text ends in a newline.
  const total = Math.ceil((prefix + dict.length + 1) / 64) * 64;
  const header = Buffer.alloc(total, " ");
  magic.copy(header);
  header.writeUInt8(1, magic.length);
  header.writeUInt8(0, magic.length + 1);
  header.writeUInt16LE(total - prefix, magic.length + 2);
  header.write(`${dict}`, prefix, "latin1");
  header.write("\n", total - 1);
  await writeAtomically(path, async (handle) => {
    await writeAll(handle, header);
    await writeAll(handle, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  });
}

async function readHeader(
  path: string,
  handle: FileHandle,
  size: number,
): Promise<{ header: string; end: number }> {
  const fail = (what: string): never => {
    throw new FileFormatError("npy", `${path}: ${what}`);
  };
  const start = Buffer.alloc(Math.min(12, size));
  await readExactly("npy", path, handle, start, 0);
  if (start.length < 12 || !start.subarray(0, magic.length).equals(magic)) fail("no .npy file");
  const major = start[magic.length];
  if (major < 1 || major > 3) fail(`.npy version ${major} is not 1, 2 or 3`);
  const length = major === 1 ? start.readUInt16LE(8) : start.readUInt32LE(8);
  const begin = major === 1 ? 10 : 12;
  if (begin + length > size) fail(`truncated: a header of ${length} bytes does not fit its ${size} bytes`);
  const header = Buffer.alloc(length);
  await readExactly("npy", path, handle, header, begin);
  return { header: header.toString(major === 3 ? "utf8" : "latin1"), end: begin + length };
}

function parseHeader(path: string, header: string): { dtype: NpyDType; shape: Shape } {
  const fail = (what: string): never => {
    throw new FileFormatError("npy", `${path}: ${what}`);
  };
  const descr = /'descr'\s*:\s*'([^']*)'/.exec(header)?.[1];
  const order = /'fortran_order'\s*:\s*(True|False)/.exec(header)?.[1];
  const sizes = /'shape'\s*:\s*\(\s*((?:\d+\s*,\s*)*(?:\d+)?)\s*\)/.exec(header)?.[1];
  const dtype = dtypes[descr as keyof typeof dtypes];
  if (!dtype)
    return fail(
      `its elements are ${descr ? `'${descr}'` : "of no plain dtype"}, not int32 or float32: use .astype(numpy.int32)`,
    );
  if (order !== "False") fail("its elements are in Fortran order: save numpy.ascontiguousarray(x)");
  if (sizes === undefined) return fail("its header has no shape");
  const shape = sizes.split(",").flatMap((size) => (size.trim() === "" ? [] : [Number(size)]));
  if (!Number.isSafeInteger(sizeOf(shape) * 4)) fail(`the shape [${shape}] is too large`);
  return { dtype, shape };
}
