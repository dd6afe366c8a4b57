import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type DType,
  dtypes,
  FileFormatError,
  loadSafetensors,
  SafetensorsReader,
  saveSafetensors,
  type Tensor,
  tensor,
} from "../src/index.js";
import { useMemoryDevice } from "./memory_device.js";

let folder = "";
beforeAll(async () => {
  useMemoryDevice();
  folder = await mkdtemp(join(tmpdir(), "lazuli-safetensors-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** A file with the header given, as text or as JSON, and `dataBytes` zeros. */
async function fileOf(header: unknown, dataBytes: number, lengthField?: bigint): Promise<string> {
  const text = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(lengthField ?? BigInt(text.length));
  const path = join(folder, "lie.safetensors");
  await writeFile(path, Buffer.concat([length, text, Buffer.alloc(dataBytes)]));
  return path;
}

const f32 = (shape: unknown, begin: unknown, end: unknown, dtype: unknown = "F32"): unknown => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

describe("round trip", () => {
  it("keeps every dtype, shape and name", async () => {
    const path = join(folder, "all.safetensors");
    const made = new Map<string, Tensor>(
      dtypes.map((dtype, i) => [`layer.${i}.${dtype}`, tensor([[1, 0, 1]], { dtype })] as const),
    );
    made.set("scalar", tensor(2.5));
    made.set("empty", tensor([], { shape: [0, 4] }));
    made.set('quote " and __proto__', tensor([1, 2], { dtype: "int64" }));
    await saveSafetensors(path, made, { format: "pt" });
    const loaded = await loadSafetensors(path);
    expect(new Set(loaded.keys())).toEqual(new Set(made.keys()));
    for (const [name, value] of made) {
      const other = loaded.get(name);
      expect([name, other?.dtype, other?.shape]).toEqual([name, value.dtype, value.shape]);
      expect(await other?.data()).toEqual(await value.data());
    }
    const reader = await SafetensorsReader.open(path);
    expect(Object.fromEntries(reader.metadata)).toEqual({ format: "pt" });
    expect(reader.entry("scalar")).toMatchObject({ dtype: "float32", shape: [], sizeBytes: 4 });
    await expect(reader.read("nothing")).rejects.toThrow('there is no tensor "nothing"');
    await reader.close();
  });

  it("aligns every tensor to its elements", async () => {
    const path = join(folder, "aligned.safetensors");
    const made = new Map([
      ["a", tensor([1], { dtype: "uint8" })],
      ["b", tensor([1], { dtype: "float64" })],
      ["c", tensor([1], { dtype: "bfloat16" })],
    ]);
    await saveSafetensors(path, made);
    const reader = await SafetensorsReader.open(path);
    for (const [name, { dtype }] of made) {
      const sizeBytes = { uint8: 1, float64: 8, bfloat16: 2 }[dtype as "uint8"];
      expect((reader.entry(name)?.offset ?? 1) % sizeBytes).toBe(0);
    }
    await reader.close();
  });

  it("keeps random tensors", async () => {
    const one = fc.record({
      dtype: fc.constantFrom<DType>("float32", "int32", "uint8"),
      shape: fc.array(fc.nat(3), { maxLength: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.dictionary(fc.string(), one), async (specs) => {
        const path = join(folder, "random.safetensors");
        const made = new Map(
          Object.entries(specs).map(([name, { dtype, shape }]) => {
            const size = shape.reduce((a, b) => a * b, 1);
            return [
              name,
              tensor(
                Array.from({ length: size }, (_, i) => i),
                { dtype, shape },
              ),
            ] as const;
          }),
        );
        made.delete("__metadata__");
        await saveSafetensors(path, made);
        const loaded = await loadSafetensors(path);
        expect([...loaded.keys()].sort()).toEqual([...made.keys()].sort());
        for (const [name, value] of made) expect(await loaded.get(name)?.data()).toEqual(await value.data());
      }),
      { numRuns: 50 },
    );
  });

  it("leaves the old file when a write fails, and nothing else", async () => {
    const path = join(folder, "kept.safetensors");
    await saveSafetensors(path, new Map([["a", tensor([1, 2])]]));
    const before = await readFile(path);
    const gone = tensor([3, 4]);
    gone.dispose();
    await expect(saveSafetensors(path, new Map([["a", gone]]))).rejects.toThrow();
    expect(await readFile(path)).toEqual(before);
    expect((await readdir(folder)).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  it("refuses a tensor named as the metadata", async () => {
    const path = join(folder, "metadata.safetensors");
    await expect(saveSafetensors(path, new Map([["__metadata__", tensor(1)]]))).rejects.toThrow(
      FileFormatError,
    );
  });
});

describe("a file that lies", () => {
  const lies: [what: string, header: unknown, dataBytes: number, message: RegExp, length?: bigint][] = [
    ["a header beyond the file", {}, 0, /truncated, or no safetensors file: a header of 9999/, 9999n],
    ["a header of absurd length", {}, 0, /header of 18446744073709551615/, 2n ** 64n - 1n],
    ["no JSON", "{nothing}", 0, /not valid JSON/],
    ["no object", "[]", 0, /no JSON object/],
    ["null", "null", 0, /no JSON object/],
    ["no UTF-8", '{"\u0000', 0, /not valid JSON/],
    ["an entry that is no object", { a: 3 }, 0, /tensor "a": its entry is no JSON object/],
    ["an unknown dtype", { a: f32([1], 0, 4, "F99") }, 4, /tensor "a": dtype "F99" is not one of F32/],
    ["no dtype", { a: { shape: [1], data_offsets: [0, 4] } }, 4, /tensor "a": dtype undefined/],
    ["a dtype that is an object", { a: f32([1], 0, 4, { F32: 1 }) }, 4, /tensor "a": dtype/],
    ["a negative size", { a: f32([-1], 0, 4) }, 4, /tensor "a": shape \[-1\]/],
    ["half a size", { a: f32([1.5], 0, 6) }, 6, /tensor "a": shape \[1.5\]/],
    ["no shape", { a: { dtype: "F32", data_offsets: [0, 4] } }, 4, /tensor "a": shape/],
    ["a shape that overflows", { a: f32([2 ** 40, 2 ** 40], 0, 4) }, 4, /tensor "a": .* bytes/],
    ["offsets of another kind", { a: f32([1], "0", 4) }, 4, /tensor "a": data_offsets/],
    [
      "three offsets",
      { a: { dtype: "F32", shape: [1], data_offsets: [0, 2, 4] } },
      4,
      /tensor "a": data_offsets/,
    ],
    ["negative offsets", { a: f32([1], -4, 0) }, 4, /tensor "a": data_offsets/],
    ["offsets backwards", { a: f32([1], 4, 0) }, 4, /tensor "a": data_offsets 4\.\.0 run backwards/],
    [
      "a wrong byte count",
      { a: f32([3], 0, 8) },
      8,
      /tensor "a": F32 \[3\] is 12 bytes, data_offsets 0\.\.8 are 8/,
    ],
    [
      "offsets beyond the data",
      { a: f32([2], 0, 8) },
      4,
      /tensor "a" ends at data byte 8, the file has 4: truncated/,
    ],
    ["overlap", { a: f32([2], 0, 8), b: f32([2], 4, 12) }, 12, /tensor "b" overlaps tensor "a"/],
    ["the same place twice", { a: f32([1], 0, 4), b: f32([1], 0, 4) }, 4, /overlaps/],
    ["a gap", { a: f32([1], 0, 4), b: f32([1], 8, 12) }, 12, /4 bytes before tensor "b" belong to no tensor/],
    ["a gap at the start", { a: f32([1], 4, 8) }, 8, /4 bytes before tensor "a"/],
    ["bytes left over", { a: f32([1], 0, 4) }, 9, /5 bytes after the last tensor/],
    [
      "a tensor twice",
      `{"a":${JSON.stringify(f32([1], 0, 4))},"\\u0061":${JSON.stringify(f32([1], 0, 4))}}`,
      4,
      /has the key "a" twice/,
    ],
    [
      "a field twice",
      '{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}',
      4,
      /has the key "shape" twice/,
    ],
    ["metadata that is no object", { __metadata__: "x" }, 0, /__metadata__ is no JSON object/],
    ["metadata that is no text", { __metadata__: { step: 1 } }, 0, /__metadata__ "step" is no string/],
  ];
  it.each(lies)("%s", async (_, header, dataBytes, message, length) => {
    const path = await fileOf(header, dataBytes, length);
    const error = await SafetensorsReader.open(path).then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(FileFormatError);
    expect((error as Error).message).toContain(path);
    expect((error as Error).message).toMatch(message);
  });

  it("bytes that are no UTF-8 in the header", async () => {
    const path = join(folder, "latin.safetensors");
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(6n);
    await writeFile(path, Buffer.concat([length, Buffer.from('{"\xff":1}', "latin1")]));
    await expect(loadSafetensors(path)).rejects.toThrow("not valid JSON");
  });

  it("truncated at any byte", async () => {
    const path = join(folder, "whole.safetensors");
    await saveSafetensors(path, new Map([["a", tensor([1, 2, 3])]]));
    const bytes = await readFile(path);
    const cut = join(folder, "cut.safetensors");
    for (let size = 0; size < bytes.length; size++) {
      await writeFile(cut, bytes.subarray(0, size));
      await expect(loadSafetensors(cut), `cut to ${size} bytes`).rejects.toThrow(FileFormatError);
    }
  });

  it("never fails otherwise, whatever byte is changed", async () => {
    const path = join(folder, "whole.safetensors");
    await saveSafetensors(
      path,
      new Map([
        ["a", tensor([1, 2, 3])],
        ["b", tensor([1], { dtype: "int64" })],
      ]),
      { k: "v" },
    );
    const bytes = await readFile(path);
    const changed = join(folder, "changed.safetensors");
    await fc.assert(
      fc.asyncProperty(fc.nat(bytes.length - 1), fc.nat(255), async (at, value) => {
        const copy = Buffer.from(bytes);
        copy[at] = value;
        await writeFile(changed, copy);
        const error = await loadSafetensors(changed).then(
          () => null,
          (reason: unknown) => reason,
        );
        if (error !== null) expect(error).toBeInstanceOf(FileFormatError);
      }),
      { numRuns: 300 },
    );
  });

  it("no file, or a folder", async () => {
    await expect(loadSafetensors(join(folder, "none.safetensors"))).rejects.toThrow(
      /none.safetensors: cannot be read: no such file/,
    );
    const empty = await mkdtemp(join(folder, "empty-"));
    await expect(loadSafetensors(empty)).rejects.toThrow(/has no model.safetensors/);
  });
});

describe("shards", () => {
  const index = async (weightMap: unknown): Promise<string> => {
    const where = await mkdtemp(join(folder, "sharded-"));
    await saveSafetensors(
      join(where, "one.safetensors"),
      new Map([
        ["a", tensor([1])],
        ["c", tensor([3])],
      ]),
    );
    await saveSafetensors(join(where, "two.safetensors"), new Map([["b", tensor([2])]]));
    const text =
      typeof weightMap === "string" ? weightMap : JSON.stringify({ metadata: {}, weight_map: weightMap });
    await writeFile(join(where, "model.safetensors.index.json"), text);
    return where;
  };

  it("are read as one model", async () => {
    const where = await index({ a: "one.safetensors", b: "two.safetensors", c: "one.safetensors" });
    const loaded = await loadSafetensors(where);
    expect([...loaded.keys()].sort()).toEqual(["a", "b", "c"]);
    expect(await loaded.get("b")?.item()).toBe(2);
  });

  it.each<[string, unknown, RegExp]>([
    ["a tensor that its shard lacks", { a: "two.safetensors" }, /two.safetensors: has no tensor "a"/],
    ["a shard that is missing", { a: "three.safetensors" }, /three.safetensors: cannot be read/],
    [
      "a path outside",
      { a: "../one.safetensors" },
      /tensor "a" in "..\/one.safetensors", which is no file name/,
    ],
    ["no file name", { a: 1 }, /tensor "a" in 1/],
    ["no weight_map", "{}", /no weight_map/],
    ["no JSON", "{", /not valid JSON/],
    ["null", "null", /no weight_map/],
  ])("with %s", async (_, weightMap, message) => {
    await expect(loadSafetensors(await index(weightMap))).rejects.toThrow(message);
  });

  it("with a tensor in two of them", async () => {
    const where = await index({ a: "one.safetensors", b: "two.safetensors" });
    await saveSafetensors(
      join(where, "two.safetensors"),
      new Map([
        ["a", tensor([9])],
        ["b", tensor([2])],
      ]),
    );
    await expect(loadSafetensors(where)).rejects.toThrow(/tensor "a" is in one.safetensors too/);
  });
});
