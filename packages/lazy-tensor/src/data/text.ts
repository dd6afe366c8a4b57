import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { FileFormatError } from "../errors.js";
import { openToRead, readExactly, systemReason } from "../io/files.js";
import { glob, isGlob } from "./glob.js";

const unreadable = (path: string, error: unknown): never => {
  throw new FileFormatError("data", `${path}: cannot be read: ${systemReason(error)}`, "", { cause: error });
};

/** Files under a folder, those of hidden folders and hidden files left out, in order of name. */
async function filesUnder(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch((error) => unreadable(folder, error));
  const out: string[] = [];
  for (const name of names.filter((name) => !name.startsWith(".")).sort()) {
    const path = join(folder, name);
    const info = await stat(path).catch((error) => unreadable(path, error));
    if (info.isDirectory()) out.push(...(await filesUnder(path)));
    else if (info.isFile()) out.push(path);
  }
  return out;
}

/** The files that `paths` name: files, folders (all files below them) and globs. Throws FileFormatError. */
export async function findFiles(paths: readonly string[]): Promise<string[]> {
  const out = new Set<string>();
  for (const path of paths) {
    const exists = await stat(path).then(
      () => true,
      () => false,
    );
    const matches = !exists && isGlob(path) ? await glob(path) : [path];
    const before = out.size;
    for (const match of matches) {
      const info = await stat(match).catch((error) => unreadable(match, error));
      for (const file of info.isDirectory() ? await filesUnder(match) : [match]) out.add(file);
    }
    if (out.size === before && matches.every((match) => !out.has(match))) {
      throw new FileFormatError(
        "data",
        `${path}: ${isGlob(path) && !exists ? "matches no file" : "the folder has no files"}`,
      );
    }
  }
  return [...out];
}

/** The bytes of every file, one after the other. Throws FileFormatError. */
export async function readText(paths: readonly string[]): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (const file of await findFiles(paths)) {
    parts.push(await readFile(file).catch((error) => unreadable(file, error)));
  }
  return Buffer.concat(parts);
}

/** Bytes that are read where they are asked for. */
export interface ByteStream {
  readonly length: number;
  /** `count` bytes from `start` on; they must be there. */
  read(start: number, count: number): Promise<Uint8Array>;
}

/** The bytes of files one after the other, none of them held: a process reads the windows it needs. */
class FileStream implements ByteStream {
  readonly length: number;

  constructor(private readonly files: readonly { readonly path: string; readonly size: number }[]) {
    this.length = files.reduce((sum, { size }) => sum + size, 0);
  }

  async read(start: number, count: number): Promise<Uint8Array> {
    const out = new Uint8Array(count);
    let from = 0;
    for (const { path, size } of this.files) {
      const first = Math.max(start, from);
      const last = Math.min(start + count, from + size);
      if (first < last) {
        const { handle } = await openToRead("data", path);
        try {
          await readExactly("data", path, handle, out.subarray(first - start, last - start), first - from);
        } finally {
          await handle.close();
        }
      }
      from += size;
    }
    return out;
  }
}

/** As readText, but of the files the sizes alone are read now. Throws FileFormatError, also where a file is shorter later. */
export async function openText(paths: readonly string[]): Promise<ByteStream> {
  const files: { path: string; size: number }[] = [];
  for (const path of await findFiles(paths)) {
    const { handle, size } = await openToRead("data", path);
    await handle.close();
    files.push({ path, size });
  }
  return new FileStream(files);
}

/** The first part of a stream to train on and the last `fraction` held out, without a copy. */
export function splitHeldOut(
  stream: Uint8Array,
  fraction: number,
): { train: Uint8Array; heldOut: Uint8Array } {
  const at = Math.floor(stream.length * (1 - fraction));
  return { train: stream.subarray(0, at), heldOut: stream.subarray(at) };
}
