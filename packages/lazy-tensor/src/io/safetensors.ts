import type { FileHandle } from "node:fs/promises";
import { readFile, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { dtypeInfo, type Shape, sameShape } from "@lazuli/fx-trace";
import { fromRaw } from "../creation.js";
import { FileFormatError } from "../errors.js";
import { engine, isFirstProcess } from "../runtime.js";
import { type Placement, placementOf, tensorFromCallback } from "../sharding/parts.js";
import { sync } from "../step.js";
import type { Tensor } from "../tensor.js";
import { rawArray } from "../typed_array.js";
import { readBlock } from "./blocks.js";
import { openToRead, readExactly, systemReason, writeAll, writeAtomically } from "./files.js";
import {
  checkHeaderLength,
  formatHeader,
  type Header,
  LENGTH_BYTES,
  parseHeader,
  type TensorEntry,
} from "./safetensors_header.js";

/** One open safetensors file. */
interface Shard extends Header {
  readonly path: string;
  readonly handle: FileHandle;
}

/**
 * Safetensors, one file or the shards of an index: headers are read and checked when it is opened, a tensor's data when
 * it is asked for. As safetensors.safe_open. Close it, or hold it by `await using`.
 */
export class SafetensorsReader implements AsyncDisposable {
  private constructor(
    private readonly shards: ReadonlyMap<string, Shard>,
    private readonly files: readonly Shard[],
  ) {}

  /** `path`: a .safetensors file, an .index.json, or a folder with a model in either form. Throws FileFormatError. */
  static async open(path: string): Promise<SafetensorsReader> {
    const file = await resolveModel(path);
    const opened: Shard[] = [];
    try {
      const shards = file.endsWith(".json") ? await openShards(file, opened) : await openSingle(file, opened);
      return new SafetensorsReader(shards, opened);
    } catch (error) {
      await Promise.all(opened.map(({ handle }) => handle.close()));
      throw error;
    }
  }

  names(): string[] {
    return [...this.shards.keys()];
  }

  /** The files' `__metadata__`; of several shards, that of the first with the key. */
  get metadata(): ReadonlyMap<string, string> {
    return new Map([...this.files].reverse().flatMap((file) => [...file.metadata]));
  }

  /** Dtype, shape and place of a tensor, without reading it; undefined where there is none. */
  entry(name: string): TensorEntry | undefined {
    return this.shards.get(name)?.tensors.get(name);
  }

  /** Reads one tensor; one that is placed over a mesh in the parts that this process's devices hold. Throws FileFormatError. */
  async read(name: string, placement: Placement | null = null): Promise<Tensor> {
    const shard = this.shards.get(name);
    if (!shard) {
      const files = this.files.map(({ path }) => path).join(", ");
      throw new FileFormatError("safetensors", `${files}: there is no tensor ${JSON.stringify(name)}`);
    }
    const { dtype, shape, offset, sizeBytes } = shard.tensors.get(name) as TensorEntry;
    const fill = (target: Uint8Array, at: number): Promise<void> =>
      readExactly("safetensors", shard.path, shard.handle, target, offset + at);
    if (!placement) {
      const bytes = new Uint8Array(sizeBytes);
      await fill(bytes, 0);
      return fromRaw(dtype, shape, bytes);
    }
    return tensorFromCallback(shape, dtype, placement.mesh, placement.spec, async (index) => {
      const bytes = await readBlock(fill, dtypeInfo[dtype].sizeBytes, shape, index.start, index.shape);
      return rawArray(dtype, bytes.buffer);
    });
  }

  /** Reads every tensor. */
  async readAll(placementOf: PlacementByName = () => null): Promise<Map<string, Tensor>> {
    const all = new Map<string, Tensor>();
    for (const name of this.names())
      all.set(name, await this.read(name, placementOf(name, this.entry(name)?.shape ?? [])));
    return all;
  }

  async close(): Promise<void> {
    await Promise.all(this.files.map(({ handle }) => handle.close()));
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Where a tensor that is read is to lie over the mesh; null: whole on every device. */
export type PlacementByName = (name: string, shape: Shape) => Placement | null;

/** Each as the tensor of its name lies. */
export const placedAs =
  (tensors: ReadonlyMap<string, Tensor>): PlacementByName =>
  (name, shape) => {
    const like = tensors.get(name);
    return like && sameShape(like.shape, shape) ? placementOf(like) : null;
  };

/**
 * Every tensor of a safetensors file, index or folder. Those that `placementOf` places over a mesh are read in parts, by
 * each process its own: `loadSafetensors(path, placedAs(model.stateDict()))`. Throws FileFormatError. As
 * safetensors.torch.load_file.
 */
export async function loadSafetensors(
  path: string,
  placementOf?: PlacementByName,
): Promise<Map<string, Tensor>> {
  const reader = await SafetensorsReader.open(path);
  try {
    return await reader.readAll(placementOf);
  } finally {
    await reader.close();
  }
}

/**
 * Writes tensors by name, taking a step first where one is pending. The file appears whole or not at all.
 * As safetensors.torch.save_file.
 */
export async function saveSafetensors(
  path: string,
  tensors: ReadonlyMap<string, Tensor>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  if (tensors.has("__metadata__"))
    throw new FileFormatError("safetensors", `${path}: no tensor can be named __metadata__`);
  await sync(...tensors.values());
  const { bytes, order } = formatHeader(tensors, metadata);
  const inOrder = order.map((name) => tensors.get(name) as Tensor);
  // Of several processes each has parts, which all must join in gathering, one tensor at a time; the first writes.
  if (!isFirstProcess()) {
    for (const { node } of inOrder) await engine().read(node, null);
    return;
  }
  await writeAtomically(path, async (handle) => {
    await writeAll(handle, bytes);
    for (const { dtype, size, node } of inOrder) {
      const raw = rawArray(dtype, size);
      await engine().read(node, raw);
      await writeAll(handle, new Uint8Array(raw.buffer, raw.byteOffset, raw.byteLength));
    }
  });
}

/** The file that a folder's model is in, as Hugging Face names them. */
async function resolveModel(path: string): Promise<string> {
  const isFolder = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (!isFolder) return path;
  for (const name of ["model.safetensors.index.json", "model.safetensors"]) {
    const file = join(path, name);
    if (
      await stat(file).then(
        () => true,
        () => false,
      )
    )
      return file;
  }
  throw new FileFormatError(
    "safetensors",
    `${path}: the folder has no model.safetensors and no model.safetensors.index.json`,
  );
}

async function openShard(path: string, opened: Shard[]): Promise<Shard> {
  const { handle, size } = await openToRead("safetensors", path);
  try {
    const length = Buffer.alloc(LENGTH_BYTES);
    await readExactly("safetensors", path, handle, length, 0);
    const header = Buffer.alloc(checkHeaderLength(path, length.readBigUInt64LE(), size));
    await readExactly("safetensors", path, handle, header, LENGTH_BYTES);
    const shard = { path, handle, ...parseHeader(path, header, size - LENGTH_BYTES - header.length) };
    opened.push(shard);
    return shard;
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function openSingle(path: string, opened: Shard[]): Promise<Map<string, Shard>> {
  const shard = await openShard(path, opened);
  return new Map([...shard.tensors.keys()].map((name) => [name, shard]));
}

/** The shards of an index, by tensor. Each tensor must be in the shard that the index names, and in no other. */
async function openShards(path: string, opened: Shard[]): Promise<Map<string, Shard>> {
  const weightMap = await readIndex(path);
  const byFile = new Map<string, Shard>();
  for (const file of new Set(weightMap.values()))
    byFile.set(file, await openShard(join(dirname(path), file), opened));
  const shards = new Map<string, Shard>();
  for (const [name, file] of weightMap) {
    const shard = byFile.get(file) as Shard;
    if (!shard.tensors.has(name)) {
      throw new FileFormatError(
        "safetensors",
        `${shard.path}: has no tensor ${JSON.stringify(name)}, which ${basename(path)} places there`,
      );
    }
    shards.set(name, shard);
  }
  for (const shard of opened) {
    for (const name of shard.tensors.keys()) {
      const owner = shards.get(name) ?? shard;
      if (owner !== shard) {
        throw new FileFormatError(
          "safetensors",
          `${shard.path}: tensor ${JSON.stringify(name)} is in ${basename(owner.path)} too`,
        );
      }
      shards.set(name, shard);
    }
  }
  return shards;
}

async function readIndex(path: string): Promise<Map<string, string>> {
  const fail = (what: string, cause?: unknown): never => {
    throw new FileFormatError("safetensors", `${path}: ${what}`, "", { cause });
  };
  const text = await readFile(path, "utf8").catch((error) =>
    fail(`cannot be read: ${systemReason(error)}`, error),
  );
  let index: { weight_map?: unknown } | null = null;
  try {
    index = JSON.parse(text);
  } catch (error) {
    fail(`not valid JSON: ${(error as Error).message}`, error);
  }
  const map = index?.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) return fail("has no weight_map");
  for (const [name, file] of Object.entries(map)) {
    // A shard lies beside its index: a path would read files that are no part of the model.
    if (typeof file !== "string" || file === "" || basename(file) !== file || file === "..") {
      fail(
        `weight_map places tensor ${JSON.stringify(name)} in ${JSON.stringify(file)}, which is no file name`,
      );
    }
  }
  return new Map(Object.entries(map));
}
