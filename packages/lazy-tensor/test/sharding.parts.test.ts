import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  arange,
  type Batches,
  configure,
  type Engine,
  F,
  fullyShard,
  loadCheckpoint,
  loadSafetensors,
  localShards,
  Mesh,
  manualSeed,
  markSharding,
  NpyBatches,
  nn,
  OutOfMemoryError,
  optim,
  type PartIndex,
  type PartitionSpec,
  placedAs,
  RandomBatches,
  randn,
  saveCheckpoint,
  saveNpy,
  saveSafetensors,
  sync,
  tensorFromCallback,
} from "../src/index.js";
import { readBlock } from "../src/io/blocks.js";

let engine: Engine | undefined;
let folder: string;
const open = (devices: number, memoryLimitBytes = 0): void => {
  engine?.device.close();
  engine = configure({ device: "cpu", virtualDevices: devices, memoryLimitBytes, verifyPasses: true });
};
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lazuli-parts-"));
});
afterEach(async () => {
  engine?.device.close();
  engine = undefined;
  await rm(folder, { recursive: true });
});

const mesh = new Mesh({ data: 2, tensor: 2 });

describe("tensorFromCallback", () => {
  const shape = [5, 6];
  const numbers = ({ start, shape: [rows, columns] }: PartIndex): Float32Array =>
    Float32Array.from(
      { length: rows * columns },
      (_, i) => (start[0] + Math.floor(i / columns)) * 6 + start[1] + (i % columns),
    );

  it.each([
    [["data", "tensor"], 4],
    [["data"], 2],
    [[null, ["tensor", "data"]], 3], // 2, 1, 2 and 1 of 6 over two and two are 3 and 3, then 2 and 1
    [[["data", "tensor"]], 3], // 3 and 2 rows, then 2, 1 and 1, 1
    [[], 1],
  ] as [PartitionSpec, number][])("as %j asks once for each part", async (spec, least) => {
    open(4);
    const asked: PartIndex[] = [];
    const made = await tensorFromCallback(shape, "float32", mesh, spec, (index) => {
      asked.push(index);
      return numbers(index);
    });
    expect(asked.length).toBeGreaterThanOrEqual(least);
    expect(new Set(asked.map((index) => JSON.stringify(index))).size).toBe(asked.length);
    for (const index of asked) expect(index.shape.every((size) => size > 0)).toBe(true);
    for (const shard of await localShards(made)) expect(shard.data).toEqual(numbers(shard));
    expect(await made.data()).toEqual(numbers({ start: [0, 0], shape }));
    expect(await made.mul(2).sum().item()).toBe(29 * 30);
  });

  it("over devices in another order, and over a submesh, gives each device its own part", async () => {
    open(4);
    const turned = new Mesh({ data: 2, tensor: 2 }, { devices: [3, 1, 0, 2] });
    const made = await tensorFromCallback(shape, "float32", turned, ["data", "tensor"], numbers);
    for (const shard of await localShards(made)) expect(shard.data).toEqual(numbers(shard));
    const [zero] = await localShards(made);
    expect([zero.device, zero.start]).toEqual([0, [3, 0]]);
    const joined = turned.submesh({ all: ["data", "tensor"] });
    const rows = await tensorFromCallback(shape, "float32", joined, ["all"], numbers);
    for (const shard of await localShards(rows)) expect(shard.data).toEqual(numbers(shard));
    expect(await rows.sub(made).abs().sum().item()).toBe(0);
  });

  it("asks nothing for a device that has padding only, and waits for promises", async () => {
    open(4);
    const asked: number[] = [];
    const made = await tensorFromCallback(
      [5],
      "int32",
      mesh,
      [["data", "tensor"]],
      async ({ start, shape }) => {
        asked.push(start[0]);
        return Int32Array.from({ length: shape[0] }, (_, i) => start[0] + i);
      },
    );
    expect(asked.sort()).toEqual([0, 2, 3, 4].slice(0, asked.length));
    expect(await made.data()).toEqual(new Int32Array([0, 1, 2, 3, 4]));
  });

  it("converts to the dtype", async () => {
    open(4);
    for (const dtype of ["bfloat16", "float16", "int64", "bool"] as const) {
      const made = await tensorFromCallback([4], dtype, mesh, ["data"], ({ start }) =>
        Float32Array.from([start[0], start[0] + 1]),
      );
      expect(made.dtype).toBe(dtype);
      expect([...(await made.data())].map(Number)).toEqual(dtype === "bool" ? [0, 1, 1, 1] : [0, 1, 2, 3]);
    }
    const bits = await tensorFromCallback([2], "bfloat16", mesh, ["data"], () => Uint16Array.of(0x3fc0));
    expect(await bits.data()).toEqual(new Float32Array([1.5, 1.5]));
  });

  it("refuses what does not fit", async () => {
    open(4);
    const part = (): Float32Array => new Float32Array(5);
    await expect(tensorFromCallback([4, 6], "float32", mesh, ["data"], part)).rejects.toThrow(
      "[tensorFromCallback] the part [2, 6] at [0, 0] of [4, 6] has 12 elements, the callback gave 5",
    );
    await expect(tensorFromCallback([4], "float32", mesh, ["model"], part)).rejects.toThrow(
      '[tensorFromCallback] no axis "model" in Mesh(data=2, tensor=2)',
    );
    open(4);
    await expect(tensorFromCallback([4], "float32", new Mesh({ data: 8 }), ["data"], part)).rejects.toThrow(
      /Mesh\(data=8\) has 8 devices, and there are 4/,
    );
  });
});

describe("readBlock", () => {
  it("reads the block and little else", async () => {
    const whole = [3, 40, 6, 50];
    const bytes = Uint8Array.from({ length: 3 * 40 * 6 * 50 * 2 }, (_, i) => (i * 31 + (i >> 8)) & 255);
    const at = (index: number[]): number => index.reduce((sum, x, d) => sum * whole[d] + x, 0) * 2;
    for (const [start, shape] of [
      [[0, 0, 0, 0], whole],
      [
        [1, 10, 0, 0],
        [1, 20, 6, 50],
      ],
      [
        [0, 10, 2, 0],
        [3, 20, 3, 50],
      ],
      [
        [0, 7, 1, 10],
        [2, 33, 4, 15],
      ],
      [
        [2, 39, 5, 49],
        [1, 1, 1, 1],
      ],
      [
        [0, 0, 0, 0],
        [3, 0, 6, 50],
      ],
    ]) {
      let read = 0;
      const got = await readBlock(
        async (target, position) => {
          read += target.length;
          target.set(bytes.subarray(position, position + target.length));
        },
        2,
        whole,
        start,
        shape,
      );
      const expected: number[] = [];
      for (let a = 0; a < shape[0]; a++)
        for (let b = 0; b < shape[1]; b++)
          for (let c = 0; c < shape[2]; c++)
            for (let d = 0; d < shape[3]; d++) {
              const from = at([start[0] + a, start[1] + b, start[2] + c, start[3] + d]);
              expected.push(bytes[from], bytes[from + 1]);
            }
      expect([...got]).toEqual(expected);
      const span = expected.length === 0 ? 0 : at(start.map((x, d) => x + shape[d] - 1)) + 2 - at(start);
      expect(read).toBeLessThanOrEqual(span);
      if (shape[3] === 50 && shape[2] === 6) expect(read).toBe(expected.length);
    }
  });

  it("reads long runs by themselves", async () => {
    const reads: number[] = [];
    // The second half of each of four rows of 512 KiB.
    await readBlock(
      async (target) => void reads.push(target.length),
      4,
      [4, 1 << 17],
      [0, 1 << 16],
      [4, 1 << 16],
    );
    expect(reads).toEqual([1 << 18, 1 << 18, 1 << 18, 1 << 18]);
  });
});

describe("batches", () => {
  const specs: PartitionSpec[] = [["data"], [["data", "tensor"]], ["tensor", "data"], []];

  async function expectSame(batches: Batches): Promise<void> {
    for (const step of [0, 1]) {
      const whole = await (await batches.at(step)).data();
      for (const spec of specs) {
        const placed = await batches.at(step, { mesh, spec });
        expect(await placed.data(), `${JSON.stringify(spec)}, step ${step}`).toEqual(whole);
      }
    }
  }

  it("drawn from a stream are the same in parts", async () => {
    open(4);
    const stream = Uint8Array.from({ length: 999 }, (_, i) => (i * 7) & 255);
    await expectSame(new RandomBatches(stream, { batch: 6, seq: 12, seed: 3 }));
  });

  it("of a file are the same in parts, and ids are checked where they are read", async () => {
    open(4);
    const path = join(folder, "ids.npy");
    const ids = Int32Array.from({ length: 2 * 6 * 13 }, (_, i) => (i * 5) % 31);
    await saveNpy(path, ids, [2, 6, 13]);
    await using batches = await NpyBatches.open(path, 31);
    await expectSame(batches);
    process.env.PMI_SIZE = "2";
    try {
      ids[3 * 13] = 31;
      await saveNpy(path, ids, [2, 6, 13]);
      await using oneOfTwo = await NpyBatches.open(path, 31);
      await expect(oneOfTwo.at(0, { mesh, spec: ["data"] })).rejects.toThrow(
        /ids.npy: token 31 in batch 0 is not among the model's 31/,
      );
    } finally {
      delete process.env.PMI_SIZE;
    }
  });
});

describe("files", () => {
  it("are read as tensors of the names lie", async () => {
    open(4);
    const path = join(folder, "x.safetensors");
    const like = new Map([
      ["a", markSharding(randn([5, 6]), mesh, ["data", "tensor"])],
      ["b", markSharding(arange(7, undefined, 1, { dtype: "int64" }), mesh, [["tensor", "data"]])],
      ["c", markSharding(randn([6, 3], { dtype: "bfloat16" }), mesh, [null, "data"])],
      ["d", randn([3])],
    ]);
    await saveSafetensors(path, like);
    const loaded = await loadSafetensors(path, placedAs(like));
    for (const [name, tensor] of like) {
      expect(loaded.get(name)?.sharding, name).toEqual(tensor.sharding);
      expect(await loaded.get(name)?.data(), name).toEqual(await tensor.data());
    }
  });

  // 8 layers of 256 KiB and two moments each, 6 MiB, on devices that may hold 3 MiB: nothing is whole anywhere but one
  // tensor while it is written.
  it("a checkpoint of a divided model needs no more than a part and a tensor on any device", async () => {
    const whole = new Mesh({ fsdp: 4 });
    const build = (): { model: nn.Sequential; optimizer: optim.AdamW } => {
      open(4, 3 * 2 ** 20);
      manualSeed(1);
      const layers = Array.from({ length: 8 }, () => new nn.Linear(256, 256, { bias: false }));
      const model = new nn.Sequential(...layers);
      fullyShard(model, whole, { wrap: ["*"] });
      return { model, optimizer: new optim.AdamW(model.parameters(), { lr: 1e-2 }) };
    };
    const step = async ({ model, optimizer }: ReturnType<typeof build>): Promise<number> => {
      const x = await tensorFromCallback([4, 256], "float32", whole, ["fsdp"], ({ shape }) =>
        new Float32Array(shape[0] * shape[1]).fill(0.5),
      );
      const loss = F.mseLoss(model.forward(x), x);
      loss.backward();
      optimizer.step();
      optimizer.zeroGrad();
      await sync(loss);
      return loss.item();
    };
    const first = build();
    await step(first);
    await saveCheckpoint(folder, {
      model: first.model.stateDict(),
      optimizer: first.optimizer.stateDict(),
      training: { step: 1, seed: 1, config: {} },
    });
    const expected = await step(first);

    const second = build();
    const saved = await loadCheckpoint(folder, second);
    second.model.loadStateDict(saved.model);
    second.optimizer.loadStateDict(saved.optimizer);
    await sync();
    for (const [name, state] of second.optimizer.stateDict())
      if (name !== "step") expect(state.sharding, name).toEqual(["fsdp", null]);
    expect(await step(second)).toBe(expected);
    // Read whole they do not fit.
    const third = build();
    await expect(
      loadCheckpoint(folder).then(async (all) => {
        third.model.loadStateDict(all.model);
        third.optimizer.loadStateDict(all.optimizer);
        await sync();
      }),
    ).rejects.toThrow(OutOfMemoryError);
  });
});
