import { type Node, ops, type TensorType } from "@lazuli/fx-trace";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  ArgumentError,
  CollectiveError,
  CompileError,
  type NativeDevice,
  openDevice,
  RunError,
} from "../src/index.js";
import { done, f32, program } from "./programs.js";

const i32 = (...shape: number[]): TensorType => ({ shape, dtype: "int32" });
const over = (...mesh: number[]) => ({ mesh, axes: mesh.map((_, axis) => axis) });

let device: NativeDevice;
beforeEach(() => {
  device = openDevice("cpu", { virtualDevices: 4 });
});
afterEach(() => device.close());

async function read(buffer: number, where?: number, of = device): Promise<number[]> {
  const target = new Float32Array(of.bufferBytes(buffer) / 4);
  await of.download(buffer, target, where);
  return [...target];
}

/** Device d's x is [d, 10 d]. */
function uploadShares(buffer: number, of = device): void {
  for (const d of of.localDevices) of.upload(buffer, new Float32Array([d, 10 * d]), d);
}

const total = program([f32(2)], (x) => ops.all_reduce([x], { ...over(4), kind: "sum" }));

describe("virtual devices", () => {
  it("are said", () => {
    expect([device.deviceCount, device.localDevices]).toEqual([4, [0, 1, 2, 3]]);
    const one = openDevice("cpu");
    expect([one.deviceCount, one.localDevices]).toEqual([1, [0]]);
    one.close();
    for (const virtualDevices of [0, -1, 1.5, 100_000])
      expect(() => openDevice("cpu", { virtualDevices })).toThrow(ArgumentError);
    expect(() => openDevice("cpu", { collectiveTimeoutMs: -1 })).toThrow(ArgumentError);
  });

  it("have buffers of their own, or all the same", async () => {
    uploadShares(1);
    device.upload(2, new Float32Array([7]));
    for (const d of [0, 1, 2, 3]) {
      expect(await read(1, d)).toEqual([d, 10 * d]);
      expect(await read(2, d)).toEqual([7]);
    }
    expect(await read(1)).toEqual([0, 0]);
    expect(device.stats().liveBytes).toBe(12);
    expect(device.stats(3).liveBytes).toBe(12);
    device.free([1, 2]);
    expect(device.stats().liveBytes).toBe(0);
  });

  it("refuse buffers that some of them have not got", async () => {
    const { id } = device.compile(total);
    device.upload(1, new Float32Array(2), 0);
    device.upload(1, new Float32Array(2), 2);
    expect(() => device.run(id, [1], [2])).toThrow("buffer 1 was not uploaded to device 1");
    expect(() => device.upload(1, new Float32Array(2), 2)).toThrow("exists already on device 2");
    expect(() => device.upload(1, new Float32Array(3), 3)).toThrow("has 8 bytes on other devices, not 12");
    expect(() => device.upload(1, new Float32Array(2), 4)).toThrow("there is no device 4 among 4");
    expect(() => device.stats(4)).toThrow(ArgumentError);
    await expect(device.download(1, new Float32Array(2), 3)).rejects.toThrow("was not uploaded to device 3");
    device.free([1]);
    uploadShares(1);
    await device.run(id, [1], [2]);
    expect(await read(2, 3)).toEqual([6, 60]);
  });

  it("exchange bytes of one process with itself", async () => {
    expect(await device.exchange(new Uint8Array([1, 2, 3]))).toEqual([new Uint8Array([1, 2, 3])]);
    expect(await device.exchange(new Uint8Array())).toEqual([new Uint8Array()]);
  });
});

describe("collectives", () => {
  it("of every kind, over the axes of a mesh", async () => {
    const rows = { mesh: [2, 2], axes: [0] };
    const columns = { mesh: [2, 2], axes: [1] };
    const { id, info } = device.compile(
      program([f32(2)], (x) => [
        ops.all_reduce([x], { ...columns, kind: "sum" }),
        ops.all_gather([x], { ...rows, dim: 0 }),
        ops.reduce_scatter([x], { ...over(2, 2), axes: [0], kind: "max", dim: 0 }),
        ops.all_to_all([x], { ...columns, split_dim: 0, concat_dim: 0 }),
        ops.collective_permute([x], { ...over(2, 2), pairs: [0, 1, 1, 2, 2, 3] }),
        ops.shard_slice([x], { ...columns, dim: 0, size: 1 }),
        ops.cast([ops.axis_index([], over(2, 2))], { dtype: "float32" }),
      ]),
    );
    expect(info.kernels.map(({ label }) => label)).toContain("all_reduce float32 [2] over 2");
    uploadShares(1);
    await device.run(id, [1], [2, 3, 4, 5, 6, 7, 8]);
    for (const d of device.localDevices) {
      const row = d & 2;
      const column = d & 1;
      const high = column + 2;
      expect(await read(2, d)).toEqual([2 * row + 1, 10 * (2 * row + 1)]);
      expect(await read(3, d)).toEqual([column, 10 * column, high, 10 * high]);
      expect(await read(4, d)).toEqual([row === 0 ? high : 10 * high]);
      expect(await read(5, d)).toEqual(column === 0 ? [row, row + 1] : [10 * row, 10 * (row + 1)]);
      expect(await read(6, d)).toEqual(d === 0 ? [0, 0] : [d - 1, 10 * (d - 1)]);
      expect(await read(7, d)).toEqual([column === 0 ? d : 10 * d]);
      expect(await read(8, d)).toEqual([d]);
    }
  });

  it("gives 8 devices what one has, many runs deep", async () => {
    const eight = openDevice("cpu", { virtualDevices: 8 });
    const { id } = eight.compile(
      program(
        [f32(1000)],
        (x) => {
          const sum = ops.all_reduce([x], { ...over(8), kind: "sum" });
          return ops.mul([sum, ops.full([], { value: 0.125, shape: [1000], dtype: "float32" })], {});
        },
        [0],
      ),
    );
    for (const d of eight.localDevices) eight.upload(0, new Float32Array(1000).fill(d), d);
    const runs = Array.from({ length: 200 }, (_, i) => eight.run(id, [i], [i + 1]));
    const values = await Promise.all(eight.localDevices.map((d) => read(200, d, eight)));
    for (const value of values) expect(value).toEqual(new Array(1000).fill(3.5));
    await Promise.all(runs);
    eight.close();
  });

  it("computes each device's share of a matmul", async () => {
    const { id } = device.compile(
      program([f32(64, 32), f32(32, 48)], (x, w) =>
        ops.all_reduce(
          [
            ops.dot_general([x, w], {
              lhs_contract: [1],
              rhs_contract: [0],
              lhs_batch: [],
              rhs_batch: [],
            }),
          ],
          { ...over(4), kind: "sum" },
        ),
      ),
    );
    for (const d of device.localDevices) device.upload(1, new Float32Array(64 * 32).fill(d + 1), d);
    device.upload(2, new Float32Array(32 * 48).fill(1));
    await device.run(id, [1, 2], [3]);
    for (const d of device.localDevices) expect(await read(3, d)).toEqual(new Array(64 * 48).fill(320));
  });

  it("are refused over another number of devices, and unpartitioned", () => {
    const pair = program([f32(2)], (x) => ops.all_reduce([x], { ...over(2), kind: "sum" }));
    expect(() => device.compile(pair)).toThrow(
      "[all_reduce] is over a mesh [2] of 2 devices, but there are 4",
    );
    const wrong = program([f32(2)], (x) =>
      ops.all_reduce([x], { mesh: [4, 0, 0, 1, 2, 7], axes: [0], kind: "sum" }),
    );
    expect(() => device.compile(wrong)).toThrow("the mesh names a device twice, or one that there is not");
    const constrained = program([f32(2)], (x) =>
      ops.sharding_constraint([x], { mesh: [4], dims: [1, 0], direction: "both" }),
    );
    expect(() => device.compile(constrained)).toThrow(CompileError);
    expect(() => device.compile(constrained)).toThrow("not partitioned");
    const manual = program([f32(4)], (x) => ops.full_to_shard([x], { mesh: [4], dims: [1, 0] }));
    expect(() => device.compile(manual)).toThrow("not partitioned");
  });
});

describe("a failure on one device", () => {
  const pick = program([f32(4), i32(1)], (x, index) => {
    const picked = ops.index_select([x, index], { dim: 0 });
    return ops.all_reduce([picked], { ...over(4), kind: "sum" });
  });

  it("fails the run on all, and later runs work", async () => {
    const { id } = device.compile(pick);
    const after = device.compile(program([f32(1)], (x) => ops.neg([x], {}))).id;
    device.upload(1, new Float32Array([1, 2, 3, 4]));
    for (const d of device.localDevices) device.upload(2, new Int32Array([d === 3 ? 9 : d]), d);
    const error = await device.run(id, [1, 2], [3]).catch((e) => e);
    expect(error).toBeInstanceOf(RunError);
    expect(error.message).toContain("device 3: index_select: index 9 at position 0 is out of range");
    expect(error.node).toBe(0);
    for (const d of device.localDevices) await expect(read(3, d)).rejects.toThrow("device 3: index_select");
    await expect(device.run(after, [3], [4])).rejects.toThrow("device 3: index_select");
    device.upload(5, new Int32Array([2]));
    await device.run(id, [1, 5], [6]);
    for (const d of device.localDevices) expect(await read(6, d)).toEqual([12]);
  });

  it("that is slow is named when the time is over", async () => {
    const hasty = openDevice("cpu", { virtualDevices: 2, collectiveTimeoutMs: 1 });
    const { id } = hasty.compile(program([f32(1)], (x) => ops.all_reduce([x], { ...over(2), kind: "sum" })));
    hasty.upload(1, new Float32Array(1));
    // Device 1 has a lot to copy before it comes.
    const size = 1 << 24;
    hasty.upload(5, new Float32Array(size));
    const target = new Float32Array(size);
    const copies = Array.from({ length: 4 }, () => hasty.download(5, target, 1));
    const error = await hasty.run(id, [1], [2]).catch((e) => e);
    expect(error).toBeInstanceOf(CollectiveError);
    expect(error.message).toContain("device 1 did not reach all_reduce float32 [1] over 2 within 0.001 s");
    await Promise.all(copies);
    await expect(read(2, 0, hasty)).rejects.toThrow("did not reach");
    hasty.close();
  });
});

describe("collectives that are started and waited for apart", () => {
  /** Collectives of values that are computed, each read late; together where `bucket` says so, or as they stand. */
  const several = (place: (node: Node, bucket: number) => Node): Uint32Array =>
    program([f32(8, 96)], (x) => {
      const rows = { mesh: [2, 2], axes: [0] };
      const made = [
        ops.all_reduce([ops.tanh([x])], { ...over(4), kind: "sum" }),
        ops.all_reduce([ops.exp([x])], { ...over(4), kind: "sum" }),
        ops.all_gather([ops.neg([x])], { ...rows, dim: 1 }),
        ops.all_gather([x], { ...rows, dim: 0 }),
        ops.reduce_scatter([ops.square([x])], { ...over(4), kind: "sum", dim: 0 }),
        ops.reduce_scatter([ops.abs([x])], { ...over(4), kind: "sum", dim: 1 }),
        ops.all_to_all([ops.sin([x])], { ...over(4), split_dim: 0, concat_dim: 1 }),
        ops.collective_permute([ops.cos([x])], { ...over(4), pairs: [0, 1, 1, 2, 2, 3, 3, 0] }),
      ];
      const computed = ops.dot_general([x, ops.exp([x])], {
        lhs_contract: [0],
        rhs_contract: [0],
        lhs_batch: [],
        rhs_batch: [],
      });
      // In between one that is not: it keeps its place in the order.
      const whole = ops.all_reduce([computed], { ...over(4), kind: "max" });
      return [...made.map((node, i) => ops.neg([place(node, i >> 1)])), whole];
    });

  it.each([
    ["alone", (node: Node) => done(node)],
    ["in buckets", (node: Node, bucket: number) => done(node, bucket)],
  ])("give the same bits, %s", async (_, place) => {
    const outputs = Array.from({ length: 9 }, (_, i) => i + 2);
    const shift = 100;
    for (const d of device.localDevices)
      device.upload(
        1,
        Float32Array.from({ length: 8 * 96 }, (_, i) => Math.sin(i * (d + 1))),
        d,
      );
    const plain = device.compile(several((node) => node)).id;
    const started = device.compile(several(place)).id;
    await device.run(plain, [1], outputs);
    for (let round = 0; round < 20; round++) {
      const again = outputs.map((output) => output + shift * (round + 1));
      await device.run(started, [1], again);
      for (const d of device.localDevices)
        for (const [k, output] of outputs.entries())
          expect(await read(again[k], d)).toEqual(await read(output, d));
    }
  });

  const between = program([f32(4), i32(1)], (x, index) => {
    const sums = [x, ops.neg([x])].map((each) => ops.all_reduce([each], { ...over(4), kind: "sum" }));
    const picked = ops.index_select([x, index], { dim: 0 });
    return [picked, ...sums.map((sum) => done(sum))];
  });

  it("end where a kernel fails while they are under way, and later runs work", async () => {
    const { id } = device.compile(between);
    device.upload(1, new Float32Array([1, 2, 3, 4]));
    device.upload(5, new Int32Array([2]));
    for (const d of device.localDevices) device.upload(2, new Int32Array([d === 3 ? 9 : d]), d);
    for (let round = 1; round <= 20; round++) {
      const at = 10 * round;
      const error = await device.run(id, [1, 2], [at, at + 1, at + 2]).catch((e) => e);
      expect(error).toBeInstanceOf(RunError);
      expect(error.message).toContain("device 3: index_select: index 9 at position 0 is out of range");
      await device.run(id, [1, 5], [at + 3, at + 4, at + 5]);
      for (const d of device.localDevices) expect(await read(at + 4, d)).toEqual([4, 8, 12, 16]);
    }
  });

  it("name who does not come", async () => {
    const hasty = openDevice("cpu", { virtualDevices: 2, collectiveTimeoutMs: 1 });
    const { id } = hasty.compile(
      program([f32(1)], (x) => done(ops.all_reduce([x], { ...over(2), kind: "sum" }))),
    );
    hasty.upload(1, new Float32Array(1));
    const size = 1 << 24;
    hasty.upload(5, new Float32Array(size));
    const target = new Float32Array(size);
    const copies = Array.from({ length: 4 }, () => hasty.download(5, target, 1));
    const error = await hasty.run(id, [1], [2]).catch((e) => e);
    expect(error).toBeInstanceOf(CollectiveError);
    expect(error.message).toContain("device 1 did not reach all_reduce float32 [1] over 2 within 0.001 s");
    await Promise.all(copies);
    hasty.close();
  });

  it("are refused where something reads them too early", () => {
    const early = program([f32(2)], (x) => {
      const sum = ops.all_reduce([x], { ...over(4), kind: "sum" });
      return [ops.neg([sum]), done(sum)];
    });
    expect(() => device.compile(early)).toThrow("[neg] reads a collective that is under way until node 2");
  });

  it("end when the device is closed", async () => {
    const busy = openDevice("cpu", { virtualDevices: 3 });
    const { id } = busy.compile(
      program([f32(1 << 18)], (x) => {
        const sum = ops.all_reduce([ops.tanh([x])], { ...over(3), kind: "sum" });
        const meanwhile = ops.exp([ops.sin([x])]);
        return [ops.neg([done(sum)]), meanwhile];
      }),
    );
    busy.upload(0, new Float32Array(1 << 18));
    const runs = Array.from({ length: 30 }, (_, i) =>
      busy.run(id, [0], [2 * i + 1, 2 * i + 2]).catch((error) => error),
    );
    busy.close();
    const failed = (await Promise.all(runs)).filter((outcome) => outcome instanceof Error);
    expect(failed.length).toBeGreaterThan(0);
    for (const error of failed) expect(error.message).toContain("the device was closed");
  });
});

describe("closing", () => {
  it("ends runs that wait in collectives", async () => {
    const busy = openDevice("cpu", { virtualDevices: 3 });
    const { id } = busy.compile(
      program([f32(1 << 20)], (x) => ops.all_reduce([ops.tanh([x], {})], { ...over(3), kind: "sum" })),
    );
    busy.upload(0, new Float32Array(1 << 20));
    const runs = Array.from({ length: 30 }, (_, i) => busy.run(id, [0], [i + 1]).catch((error) => error));
    busy.close();
    const outcomes = await Promise.all(runs);
    const failed = outcomes.filter((outcome) => outcome instanceof Error);
    expect(failed.length).toBeGreaterThan(0);
    for (const error of failed) expect(error.message).toContain("the device was closed");
  });
});

describe("the null device", () => {
  it("plans as the first of thousands", async () => {
    const nothing = openDevice("null", { virtualDevices: 4096 });
    expect(nothing.deviceCount).toBe(4096);
    const words = program([f32(2)], (x) => ops.all_gather([x], { ...over(64, 64), dim: 0 }));
    const { id, info } = nothing.compile(words);
    expect(info.outputBytes).toBe(4096 * 8);
    nothing.upload(1, new Float32Array([1, 2]));
    await nothing.run(id, [1], [2]);
    expect(nothing.stats().liveBytes).toBe(4097 * 8);
    nothing.close();
  });

  it("plans as the CPU does", () => {
    const nothing = openDevice("null", { virtualDevices: 4 });
    expect(nothing.compile(total).info).toEqual(device.compile(total).info);
    nothing.close();
  });
});
