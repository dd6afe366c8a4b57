import { ops } from "@lazuli/fx-trace";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  ArgumentError,
  BackendError,
  backendInfo,
  CompileError,
  type NativeDevice,
  OutOfMemoryError,
  openDevice,
  RunError,
} from "../src/index.js";
import { f32, program } from "./programs.js";

const sum = program([f32(4), f32(4)], (a, b) => ops.add([a, b], {}));

/** Picks rows of input 0 by the indices of input 1. */
const pick = program([f32(4), { shape: [2], dtype: "int32" }], (x, index) =>
  ops.index_select([x, index], { dim: 0 }),
);

let device: NativeDevice;
beforeEach(() => {
  device = openDevice("cpu");
});
afterEach(() => device.close());

async function read(buffer: number, size = device.bufferBytes(buffer) / 4): Promise<number[]> {
  const target = new Float32Array(size);
  await device.download(buffer, target);
  return [...target];
}

function thrownBy(request: () => unknown): unknown {
  try {
    return request();
  } catch (error) {
    return error;
  }
}

describe("a device", () => {
  it("says what it is", () => {
    const { version, threads, isa } = backendInfo();
    expect(version).toMatch(/^\d+\.\d+\.\d+$/);
    expect(threads).toBeGreaterThan(0);
    expect(["baseline", "avx2", "avx512"]).toContain(isa);
    expect(() => openDevice("tpu" as "cpu")).toThrow(ArgumentError);
    expect(() => openDevice("cpu", { memoryLimitBytes: -1 })).toThrow(ArgumentError);
  });

  it("compiles and runs", async () => {
    const { id, info } = device.compile(sum);
    expect(info.kernels.length).toBe(1);
    expect(info.outputBytes).toBe(16);
    expect(info.text).toBe("");
    device.upload(1, new Float32Array([1, 2, 3, 4]));
    device.upload(2, new Float32Array([10, 20, 30, 40]).buffer);
    const result = await device.run(id, [1, 2], [3], true);
    expect(result.endUs).toBeGreaterThanOrEqual(result.startUs);
    expect(result.kernels.length).toBe(1);
    expect(await read(3)).toEqual([11, 22, 33, 44]);
    expect((await device.run(id, [3, 3], [4])).kernels).toEqual([]);
    expect(await read(4)).toEqual([22, 44, 66, 88]);
    expect(device.stats().liveBytes).toBe(64);
    device.release(id);
    expect(() => device.run(id, [1, 2], [5])).toThrow(ArgumentError);
  });

  it("takes requests in order, without waiting", async () => {
    const { id } = device.compile(sum);
    device.upload(0, new Float32Array(4).fill(1));
    const pending = [];
    for (let i = 0; i < 50; i++) {
      pending.push(device.run(id, [i, i], [i + 1]));
      device.free([i]);
    }
    const values = read(50, 4);
    device.free([50]);
    device.release(id);
    expect(await values).toEqual(new Array(4).fill(2 ** 50));
    await Promise.all(pending);
    expect(device.stats().liveBytes).toBe(0);
  });

  it("updates a donated buffer in place", async () => {
    const { id, info } = device.compile(program([f32(1024)], (x) => ops.neg([x], {}), [0]));
    expect(info.outputBytes + info.arenaBytes).toBe(0);
    device.upload(1, new Float32Array(1024).fill(3));
    await device.run(id, [1], [2]);
    expect(() => device.bufferBytes(1)).toThrow(ArgumentError);
    expect((await read(2))[1023]).toBe(-3);
    expect(device.stats().liveBytes).toBe(4096);
  });

  it("refuses a buffer that is donated and read", () => {
    const { id } = device.compile(program([f32(4), f32(4)], (x, y) => ops.add([x, y], {}), [0]));
    device.upload(1, new Float32Array(4));
    expect(() => device.run(id, [1, 1], [2])).toThrow(/buffer 1 is donated/);
    expect(device.bufferBytes(1)).toBe(16);
  });

  it("explains its steps and plan when asked", () => {
    const { info } = device.compile(
      program([f32(8)], (x) => ops.cumsum([ops.neg([x], {})], { dim: 0, reverse: false })),
      true,
    );
    expect(info.text).toContain("arena");
    expect(info.text).toContain("<- v0 float32[8] @ input 0");
  });
});

describe("errors", () => {
  it("of programs name the op and the node", () => {
    const words = sum.slice();
    words[words.length - 2] ^= 1; // the result's dim
    const error = thrownBy(() => device.compile(words)) as CompileError;
    expect(error).toBeInstanceOf(CompileError);
    expect(error).toBeInstanceOf(BackendError);
    expect(error.message).toBe("[add] is declared float32[5] but gives float32[4]");
    expect([error.op, error.node, error.name]).toEqual(["add", 0, "CompileError"]);
    expect(() => device.compile(new Uint32Array([1, 2, 3]))).toThrow(CompileError);
    expect(() => device.compile([] as unknown as Uint32Array)).toThrow(ArgumentError);
  });

  it("of runs reach everything made of them, and no further", async () => {
    const { id } = device.compile(pick);
    const { id: double } = device.compile(program([f32(2)], (x) => ops.add([x, x], {})));
    device.upload(1, new Float32Array([1, 2, 3, 4]));
    device.upload(2, new Int32Array([0, 7]));
    const error = await device.run(id, [1, 2], [3]).catch((caught) => caught);
    expect(error).toBeInstanceOf(RunError);
    expect(error.message).toMatch(/index_select.*7/);
    expect(error.node).toBe(0);
    await expect(device.run(double, [3], [4])).rejects.toThrow(error.message);
    await expect(device.download(4, new Float32Array(2))).rejects.toThrow(error.message);
    device.free([2, 3, 4]);
    device.upload(2, new Int32Array([3, 0]));
    await device.run(id, [1, 2], [3]);
    expect(await read(3)).toEqual([4, 1]);
  });

  it("come before memory would pass the limit, and name the largest values", () => {
    const small = openDevice("cpu", { memoryLimitBytes: 1_000_000 });
    const big = program([f32(1000)], (x) => {
      const wide = ops.broadcast_to([x], { shape: [1000, 1000] });
      return ops.cumsum(
        [ops.sort([wide], { dim: 1, descending: true })].map((y) => ops.result([y], { index: 0 })),
        {
          dim: 0,
          reverse: false,
        },
      );
    });
    expect(() => small.compile(big)).toThrow(OutOfMemoryError);
    expect(() => small.compile(big)).toThrow(
      /limit is 1.0 MB[\s\S]*4\.0 MB {2}float32\[1000, 1000\] {2}node/,
    );
    expect(() => small.upload(1, new Uint8Array(2_000_000))).toThrow(OutOfMemoryError);
    expect(small.stats().liveBytes).toBe(0);
    small.close();
  });

  it("refuse what makes no sense, and change nothing", async () => {
    const { id } = device.compile(sum);
    device.upload(1, new Float32Array(4));
    for (const request of [
      () => device.run(id, [1], [2]),
      () => device.run(id, [1, 9], [2]),
      () => device.run(id, [1, 1], [1]),
      () => device.run(id, [1, 1.5], [2]),
      () => device.run(id, "ab" as unknown as number[], [2]),
      () => device.upload(1, new Float32Array(4)),
      () => device.upload(-1, new Float32Array(4)),
      () => device.upload(2, [1, 2] as unknown as Float32Array),
      () => device.free([1, 1]),
      () => device.free([9]),
      () => device.release(99),
      () => device.bufferBytes(9),
    ]) {
      expect(request).toThrow(ArgumentError);
    }
    await expect(device.download(1, new Float32Array(3))).rejects.toThrow(ArgumentError);
    expect(device.stats().liveBytes).toBe(16);
  });

  it("of a closed device", async () => {
    const { id } = device.compile(sum);
    device.upload(1, new Float32Array(4));
    const waiting = Array.from({ length: 20 }, (_, i) =>
      device.run(id, [1, 1], [i + 2]).catch((error) => error),
    );
    device.close();
    for (const outcome of await Promise.all(waiting)) {
      if (outcome instanceof Error) expect(outcome.message).toContain("the device was closed");
    }
    expect(() => device.stats()).toThrow("the device is closed");
    expect(() => device.free([1])).not.toThrow();
  });
});

describe("a download", () => {
  it("fills any view of the buffer's size", async () => {
    device.upload(1, new Float32Array([1, 2]));
    const bytes = new Uint8Array(12);
    await device.download(1, bytes.subarray(4));
    expect([...new Float32Array(bytes.buffer)]).toEqual([0, 1, 2]);
    const shared = new Float32Array(new SharedArrayBuffer(8));
    await device.download(1, shared);
    expect([...shared]).toEqual([1, 2]);
    const view = new DataView(new ArrayBuffer(8));
    await device.download(1, view);
    expect(view.getFloat32(4, true)).toBe(2);
  });

  it("is refused where its target was taken away meanwhile", async () => {
    device.upload(1, new Float32Array([1, 2]));
    const target = new Float32Array(2);
    const pending = device.download(1, target);
    structuredClone(target.buffer, { transfer: [target.buffer] });
    await expect(pending).rejects.toThrow("the target was detached or resized");
  });
});

describe("the null device", () => {
  it("accounts as the CPU does, and computes nothing", async () => {
    const nothing = openDevice("null");
    const { id, info } = nothing.compile(sum);
    expect(info).toEqual(device.compile(sum).info);
    nothing.upload(1, new Float32Array([1, 2, 3, 4]));
    const result = await nothing.run(id, [1, 1], [2], true);
    expect(result.kernels.length).toBe(1);
    const target = new Float32Array(4).fill(9);
    await nothing.download(2, target);
    expect([...target]).toEqual([0, 0, 0, 0]);
    await nothing.download(1, target);
    expect([...target]).toEqual([1, 2, 3, 4]);
    expect(nothing.stats().liveBytes).toBe(32);
    nothing.close();
  });
});
