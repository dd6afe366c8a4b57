import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  byteTokenizer,
  findFiles,
  HostRandom,
  NpyBatches,
  openText,
  RandomBatches,
  readText,
  saveNpy,
  splitHeldOut,
} from "../src/index.js";
import { useMemoryDevice } from "./memory_device.js";

let folder = "";
const at = (...path: string[]): string => join(folder, ...path);

beforeAll(async () => {
  useMemoryDevice();
  folder = await mkdtemp(join(tmpdir(), "lazuli-data-"));
  await mkdir(at("text", "deep", "er"), { recursive: true });
  await mkdir(at("none"));
  for (const [path, content] of [
    ["b.txt", "second"],
    ["a.txt", "first"],
    ["c.md", "third"],
    [".hidden.txt", "hidden"],
    ["deep/d.txt", "fourth"],
    ["deep/er/e.txt", "fifth"],
  ]) {
    await writeFile(at("text", path), content);
  }
});
afterAll(() => rm(folder, { recursive: true }));

const relative = async (...paths: string[]): Promise<string[]> =>
  (await findFiles(paths.map((path) => at(path)))).map((path) => path.slice(folder.length + 1));

describe("files", () => {
  it.each([
    [["text/b.txt"], ["text/b.txt"]],
    [["text"], ["text/a.txt", "text/b.txt", "text/c.md", "text/deep/d.txt", "text/deep/er/e.txt"]],
    [["text/*.txt"], ["text/a.txt", "text/b.txt"]],
    [["text/?.md"], ["text/c.md"]],
    [["text/.*.txt"], ["text/.hidden.txt"]],
    [["text/**/*.txt"], ["text/a.txt", "text/b.txt", "text/deep/d.txt", "text/deep/er/e.txt"]],
    [["te*/de*/*.txt"], ["text/deep/d.txt"]],
    [
      ["text/c.md", "text/*"],
      ["text/c.md", "text/a.txt", "text/b.txt", "text/deep/d.txt", "text/deep/er/e.txt"],
    ],
  ])("%j", async (paths, found) => {
    expect(await relative(...paths)).toEqual(found);
  });

  it("one stream of bytes", async () => {
    expect(byteTokenizer.decode(await readText([at("text", "*.txt")]))).toBe("firstsecond");
  });

  it.each([
    ["gone.txt", /gone.txt: cannot be read: no such file/],
    ["none", /none: the folder has no files/],
    ["text/*.rs", /text\/\*.rs: matches no file/],
  ])("%s is named", async (path, message) => {
    await expect(readText([at(path)])).rejects.toThrow(message);
  });

  it("a split keeps every byte once", () => {
    const { train, heldOut } = splitHeldOut(
      Uint8Array.from({ length: 100 }, (_, i) => i),
      0.1,
    );
    expect([train.length, heldOut.length, heldOut[0]]).toEqual([90, 10, 90]);
  });
});

describe("random batches", () => {
  const stream = Uint8Array.from({ length: 250 }, (_, i) => i);
  const rows = async (seed: number, step: number): Promise<number[]> =>
    [...(await (await new RandomBatches(stream, { batch: 4, seq: 7, seed }).at(step)).data())] as number[];

  it("are windows of the stream", async () => {
    const ids = await rows(1, 3);
    expect(ids).toHaveLength(32);
    for (let row = 0; row < 4; row++) {
      for (let i = 1; i < 8; i++) expect(ids[row * 8 + i]).toBe(ids[row * 8] + i);
    }
  });

  it("depend on seed and step alone", async () => {
    expect(await rows(1, 5)).toEqual(await rows(1, 5));
    expect(await rows(1, 5)).not.toEqual(await rows(1, 6));
    expect(await rows(1, 5)).not.toEqual(await rows(2, 5));
  });

  it("reach both ends", async () => {
    const starts = new Set<number>();
    const short = new RandomBatches(stream.subarray(0, 10), { batch: 8, seq: 7, seed: 0 });
    for (let step = 0; step < 20; step++) {
      const ids = await (await short.at(step)).data();
      for (let row = 0; row < 8; row++) starts.add(Number(ids[row * 8]));
    }
    expect([...starts].sort()).toEqual([0, 1, 2]);
  });

  it("are the same of files that are read window by window", async () => {
    const [text, files] = [await readText([at("text")]), await openText([at("text")])];
    expect(files.length).toBe(text.length);
    expect(await files.read(3, text.length - 5)).toEqual(new Uint8Array(text.subarray(3, -2)));
    for (const step of [0, 1, 2]) {
      const [held, read] = [text, files].map((stream) =>
        new RandomBatches(stream, { batch: 5, seq: 7, seed: 2 }).at(step),
      );
      expect(await (await read).data()).toEqual(await (await held).data());
    }
    await expect(openText([at("gone.txt")])).rejects.toThrow(/gone.txt: cannot be read: no such file/);
    await writeFile(at("short.txt"), "0123456789");
    const short = await openText([at("short.txt")]);
    await writeFile(at("short.txt"), "01234");
    await expect(short.read(2, 8)).rejects.toThrow(/short.txt: truncated: it ends at byte 5/);
  });

  it("need a window's worth of data", () => {
    const make = (): unknown =>
      new RandomBatches(stream.subarray(0, 7), { batch: 1, seq: 7, seed: 0, name: "x.txt" });
    expect(make).toThrow(/x.txt: 7 tokens are too few for windows of 8/);
  });
});

describe("batches of a file", () => {
  it("come in order", async () => {
    await saveNpy(
      at("ids.npy"),
      Int32Array.from({ length: 24 }, (_, i) => i),
      [2, 3, 4],
    );
    const batches = await NpyBatches.open(at("ids.npy"), 24);
    expect([batches.steps, batches.batch, batches.seq]).toEqual([2, 3, 3]);
    const second = await batches.at(1);
    expect([second.shape, second.dtype, (await second.data())[0]]).toEqual([[3, 4], "int32", 12]);
    await expect(batches.at(2)).rejects.toThrow(/ids.npy: has 2 batches, none for step 3/);
    await batches.close();
  });

  it("hold tokens that the model has", async () => {
    await saveNpy(at("ids.npy"), Int32Array.of(0, 1, 99, 3), [1, 1, 4]);
    await expect(NpyBatches.open(at("ids.npy"), 50)).rejects.toThrow(
      /ids.npy: token 99 in batch 0 is not among the model's 50/,
    );
  });

  it.each([
    [Float32Array.of(1, 2), [1, 1, 2], /float32 \[1,1,2\], not int32/],
    [Int32Array.of(1, 2), [2], /int32 \[2\], not int32 \[steps, batch, seq \+ 1\]/],
    [Int32Array.of(1, 2), [2, 1, 1], /int32 \[2,1,1\]/],
  ])("of another form %#", async (data, shape, message) => {
    await saveNpy(at("wrong.npy"), data, shape);
    await expect(NpyBatches.open(at("wrong.npy"), 9)).rejects.toThrow(message);
  });
});

describe("random numbers of the host", () => {
  it("are even, and can be taken up anywhere", () => {
    const random = new HostRandom(3);
    const values = Array.from({ length: 10000 }, () => random.next());
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    expect(Math.abs(mean - 0.5)).toBeLessThan(0.01);
    expect(values.every((value) => value >= 0 && value < 1)).toBe(true);
    const buckets = new Array(16).fill(0);
    for (const value of values) buckets[Math.floor(value * 16)]++;
    for (const count of buckets) expect(Math.abs(count - 625)).toBeLessThan(125);
    expect(new HostRandom(3, 9999).next()).toBe(values[9999]);
  });
});
