import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FileFormatError, loadNpy, NpyReader, saveNpy } from "../src/index.js";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lazuli-npy-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** A file as NumPy writes it, with the header text given. */
async function fileOf(header: string, data: Uint8Array, version = 1): Promise<string> {
  const length = Buffer.alloc(version === 1 ? 2 : 4);
  if (version === 1) length.writeUInt16LE(header.length);
  else length.writeUInt32LE(header.length);
  const path = join(folder, "made.npy");
  const start = Buffer.from(`\x93NUMPY${String.fromCharCode(version)}\0`, "latin1");
  await writeFile(path, Buffer.concat([start, length, Buffer.from(header, "latin1"), data]));
  return path;
}

const header = (descr = "'<i4'", order = "False", shape = "(2, 3)"): string =>
  `{'descr': ${descr}, 'fortran_order': ${order}, 'shape': ${shape}, }\n`;

describe("npy", () => {
  it.each([
    [Int32Array.of(1, -2, 3, 4, 5, 2 ** 31 - 1), [2, 3]],
    [Float32Array.of(1.5), []],
    [Float32Array.of(1.5, Number.NaN, -0), [3]],
    [new Int32Array(0), [0, 7]],
  ])("round trip %#", async (data, shape) => {
    const path = join(folder, "round.npy");
    await saveNpy(path, data, shape);
    const loaded = await loadNpy(path);
    expect(loaded.shape).toEqual(shape);
    expect(loaded.data).toEqual(data);
    // NumPy maps files by their alignment.
    expect(((await readFile(path)).length - data.byteLength) % 64).toBe(0);
  });

  it.each([1, 2, 3])("version %i", async (version) => {
    const path = await fileOf(header(), new Uint8Array(Int32Array.of(1, 2, 3, 4, 5, 6).buffer), version);
    const reader = await NpyReader.open(path);
    expect(await reader.rows(1, 1)).toEqual(Int32Array.of(4, 5, 6));
    await reader.close();
  });

  const six = new Uint8Array(24);
  it.each<[string, string, Uint8Array, RegExp, number?]>([
    ["too few bytes", header(), new Uint8Array(20), /truncated: int32 \[2,3\] is 24 bytes, the file has 20/],
    ["too many bytes", header(), new Uint8Array(25), /the file has 25/],
    [
      "int64",
      header("'<i8'"),
      new Uint8Array(48),
      /'<i8', not int32 or float32: use \.astype\(numpy\.int32\)/,
    ],
    ["big-endian", header("'>i4'"), six, /'>i4'/],
    ["objects", header("'|O'"), six, /'\|O'/],
    ["records", header("[('a', '<i4')]"), six, /no plain dtype/],
    ["Fortran order", header("'<i4'", "True"), six, /Fortran order/],
    ["no shape", "{'descr': '<i4', 'fortran_order': False}\n", six, /no shape/],
    ["a negative size", header("'<i4'", "False", "(-2, -3)"), six, /no shape/],
    [
      "a shape that overflows",
      header("'<i4'", "False", "(9007199254740991, 9007199254740991)"),
      six,
      /too large/,
    ],
    ["another version", header(), six, /version 9 is not 1, 2 or 3/, 9],
  ])("%s", async (_, text, data, message, version) => {
    const path = await fileOf(text, data, version);
    const error = await loadNpy(path).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(FileFormatError);
    expect((error as Error).message).toContain(path);
    expect((error as Error).message).toMatch(message);
  });

  it("truncated at any byte", async () => {
    const path = join(folder, "whole.npy");
    await saveNpy(path, Int32Array.of(1, 2, 3), [3]);
    const bytes = await readFile(path);
    for (let size = 0; size < bytes.length; size++) {
      await writeFile(path, bytes.subarray(0, size));
      await expect(loadNpy(path), `cut to ${size} bytes`).rejects.toThrow(FileFormatError);
    }
  });

  it("data that does not fit the shape is not written", async () => {
    await expect(saveNpy(join(folder, "no.npy"), Int32Array.of(1), [2])).rejects.toThrow(
      /1 elements do not fit/,
    );
  });
});
