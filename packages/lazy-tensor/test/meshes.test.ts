import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import {
  arange,
  compile,
  configure,
  type Engine,
  explainSharding,
  F,
  fullyShard,
  hybridMesh,
  loadSafetensors,
  localShards,
  Mesh,
  type MeshShape,
  manualSeed,
  markSharding,
  mesh1d,
  nn,
  optim,
  randn,
  saveSafetensors,
  sync,
  type Tensor,
  tensorFromCallback,
  visualizeSharding,
  zeros,
} from "../src/index.js";

let engine: Engine;
const open = (devices: number): void => {
  engine = configure({ device: "cpu", virtualDevices: devices, verifyPasses: true });
  manualSeed(3);
};
afterEach(() => engine.device.close());

const numbers = (x: ArrayLike<number | bigint>): number[] => Array.from(x, Number);

class Mlp extends nn.Module {
  readonly layers = new nn.ModuleList([new nn.Linear(5, 9), new nn.Linear(9, 5)]);
  forward(x: Tensor): Tensor {
    return this.layers.items.reduce((value, layer) => F.silu(layer.forward(value)), x);
  }
}

/** Losses of three steps; `annotate` lays out the model and gives what lays out a batch. */
async function train(annotate: (model: Mlp) => (x: Tensor) => Tensor): Promise<number[]> {
  manualSeed(3);
  const model = new Mlp();
  const layOut = annotate(model);
  const optimizer = new optim.AdamW(model.parameters(), { lr: 0.05 });
  const losses: number[] = [];
  for (let step = 0; step < 3; step++) {
    const loss = model
      .forward(layOut(randn([7, 5])))
      .square()
      .mean();
    loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
    losses.push(await loss.item());
  }
  return losses;
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  actual.forEach((loss, i) => {
    expect(Math.abs(loss - expected[i]) / expected[i], `step ${i}`).toBeLessThan(1e-5);
  });
}

describe("devices in another order", () => {
  const order = [5, 0, 3, 6, 1, 7, 2, 4];

  it("have the parts of their points", async () => {
    open(8);
    const mesh = new Mesh({ data: 2, tensor: 4 }, { devices: order });
    const x = markSharding(arange(8).reshape([2, 4]), mesh, ["data", "tensor"]);
    const shards = await localShards(x);
    expect(shards.map(({ device }) => device)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    for (const { device, data, start } of shards) {
      expect(numbers(data)).toEqual([order.indexOf(device)]);
      expect(start).toEqual([Math.floor(order.indexOf(device) / 4), order.indexOf(device) % 4]);
    }
    expect(await x.array()).toEqual([
      [0, 1, 2, 3],
      [4, 5, 6, 7],
    ]);
    expect(await x.sum(0).array()).toEqual([4, 6, 8, 10]);
    const text = visualizeSharding(x, { colour: false });
    expect(text).toContain("Mesh(data=2, tensor=4; devices 5 0 3 6 1 7 2 4)");
    expect(text).toMatch(/5 +│ +0 +│ +3 +│ +6/);
  });

  it("train as one device does", async () => {
    open(1);
    const alone = await train(() => (x) => x);
    engine.device.close();
    for (const devices of [order, [7, 6, 5, 4, 3, 2, 1, 0]]) {
      open(8);
      const mesh = new Mesh({ data: 2, fsdp: 4 }, { devices });
      const losses = await train((model) => {
        fullyShard(model, mesh);
        return (x) => markSharding(x, mesh, [["data", "fsdp"]]);
      });
      expectClose(losses, alone);
      engine.device.close();
    }
    open(1);
  });
});

describe("checkpoints", () => {
  it("hold whole tensors, whatever the order of devices", async () => {
    const folder = await mkdtemp(join(tmpdir(), "lazuli-meshes-"));
    try {
      open(4);
      const turned = new Mesh({ fsdp: 4 }, { devices: [2, 0, 3, 1] });
      const saved = fullyShard(new nn.Linear(5, 8), turned);
      const weight = await saved.weight.array();
      await saveSafetensors(join(folder, "model.safetensors"), saved.stateDict());
      engine.device.close();
      open(4);
      const loaded = fullyShard(
        new nn.Linear(5, 8),
        new Mesh({ other: 2, fsdp: 2 }, { devices: [1, 3, 0, 2] }),
      );
      loaded.loadStateDict(await loadSafetensors(folder));
      expect(await loaded.weight.array()).toEqual(weight);
      expect(loaded.weight.sharding).toEqual(["fsdp", null]);
      const held = (await localShards(loaded.weight)).map(({ device, start }) => [device, start[0]]);
      expect(held).toEqual([
        [0, 0],
        [1, 0],
        [2, 4],
        [3, 4],
      ]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe("several meshes of the same devices", () => {
  const grid = new Mesh({ data: 2, tensor: 4 });
  const all = mesh1d("all", 8);
  const pairs: readonly (readonly [string, Mesh, Mesh, MeshShape])[] = [
    ["a coarser one", grid, all, { data: 2, tensor: 4 }],
    ["a finer one", all, grid, { data: 2, tensor: 4 }],
    ["cut elsewhere", grid, new Mesh({ a: 4, b: 2 }), { data: 2, tensor_a: 2, b: 2 }],
    [
      "axes changed about",
      grid,
      new Mesh({ tensor: 4, data: 2 }, { devices: [0, 4, 1, 5, 2, 6, 3, 7] }),
      grid.shape,
    ],
    ["a submesh", grid, grid.submesh("tensor"), grid.shape],
    ["axes joined", grid, grid.submesh({ both: ["tensor", "data"] }), grid.shape],
  ];

  it.each(pairs)("%s: %s and %s", async (_, first, second, finest) => {
    open(8);
    const axis = second.axisNames[0];
    const whole = randn([16, 8]);
    await sync(whole);
    const x = markSharding(whole.mul(1), first, [first.axisNames[0]]);
    await sync(x);
    const y = markSharding(whole.mul(2), second, [axis]);
    expect(engine.mesh?.shape).toEqual(finest);
    await sync(y);
    const sum = x.add(y).square().sum();
    const expected = whole.mul(3).square().sum();
    expect(await sum.item()).toBeCloseTo(await expected.item(), 2);
    // Each device has what its mesh says.
    for (const [value, mesh, scale] of [
      [x, first, 1],
      [y, second, 2],
    ] as const) {
      const rows = 16 / mesh.sizes[0];
      const elements = numbers(await whole.data());
      for (const { device, start, data } of await localShards(value)) {
        expect(start).toEqual([mesh.coordinates(device)[0] * rows, 0]);
        numbers(data).forEach((element, i) => {
          expect(element).toBeCloseTo(elements[start[0] * 8 + i] * scale, 4);
        });
      }
    }
  });

  it("serve one model: parameters over one, batches over the other", async () => {
    open(1);
    const alone = await train(() => (x) => x);
    engine.device.close();
    for (const meshes of [
      [grid, all],
      [all, grid],
    ] as const) {
      open(8);
      const [weights, batches] = meshes;
      const losses = await train((model) => {
        fullyShard(model, weights, { axis: weights.axisNames[0] });
        return (x) => markSharding(x, batches, [batches.axisNames[0]]);
      });
      expectClose(losses, alone);
      engine.device.close();
    }
    open(1);
  });

  it("move a value whose uneven parts the finer mesh cuts elsewhere", async () => {
    open(8);
    const x = markSharding(arange(10), all, ["all"]);
    await sync(x);
    expect((await localShards(x)).map(({ shape }) => shape[0])).toEqual([2, 2, 2, 2, 2, 0, 0, 0]);
    const y = markSharding(zeros([10]), grid, ["tensor"]);
    expect(await x.add(y).array()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(await x.array()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    // A parameter is updated in place over the finer one.
    const layer = new nn.Linear(3, 10);
    markSharding(layer.weight, all, ["all"]);
    const optimizer = new optim.SGD(layer.parameters(), { lr: 1 });
    layer
      .forward(zeros([2, 3]).add(1))
      .sum()
      .backward();
    optimizer.step();
    await sync();
    expect(layer.weight.sharding).toEqual([["data", "tensor"], null]);
  });

  it("take parts made over any of them", async () => {
    open(8);
    markSharding(zeros([8]), grid, ["data"]);
    const rows = await tensorFromCallback([10, 2], "float32", all, ["all"], ({ start, shape }) =>
      Float32Array.from({ length: shape[0] * 2 }, (_, i) => 2 * start[0] + i),
    );
    expect(rows.sharding).toEqual([["data", "tensor"], null]);
    expect(numbers(await rows.data())).toEqual(Array.from({ length: 20 }, (_, i) => i));
  });

  it("are told apart by a compiled function", async () => {
    open(8);
    const [first, second] = [
      markSharding(arange(10), all, ["all"]),
      markSharding(arange(10).mul(2), all, ["all"]),
    ];
    await sync(first, second);
    markSharding(zeros([8]), grid, ["data"]);
    const shifted = compile((x: Tensor) => x.add(1));
    for (const [x, scale] of [
      [first, 1],
      [first, 1],
      [second, 2],
    ] as const)
      expect(numbers(await (await shifted(x)).data())).toEqual(
        Array.from({ length: 10 }, (_, i) => scale * i + 1),
      );
  });

  it("are refused where no finer mesh has the axes of both, and of another size", () => {
    open(6);
    const x = zeros([6]);
    markSharding(x, new Mesh({ a: 2, b: 3 }), ["a"]);
    expect(() => markSharding(x, new Mesh({ c: 3, d: 2 }), ["c"])).toThrow(
      /values lie over Mesh\(a=2, b=3\), and no finer mesh has the axes of Mesh\(c=3, d=2\) too/,
    );
    expect(() => markSharding(x, mesh1d("all", 4), ["all"])).toThrow(
      /Mesh\(all=4\) has 4 devices, and there are 6/,
    );
    expect(() => markSharding(x, new Mesh({ a: 2, b: 3 }, { devices: [5, 4, 3, 2, 1, 0] }), ["a"])).toThrow(
      /no finer mesh/,
    );
    // The size that goes into both does.
    markSharding(x, mesh1d("all", 6), ["all"]);
  });

  it("tell collectives by the finest axes", async () => {
    open(8);
    const x = markSharding(zeros([8, 8]), all, ["all"]);
    await sync(x);
    markSharding(zeros([8]), grid, ["data"]);
    const { rows } = await explainSharding(() => sync(x.sum()));
    expect(rows).toMatchObject([{ op: "all_reduce", axes: ["data", "tensor"] }]);
  });
});

describe("hybrid meshes", () => {
  it("keep the inner axes on one host", async () => {
    open(8);
    const mesh = hybridMesh(
      { tensor: 2, data: 2 },
      { data: 2 },
      { hosts: ["a", "b", "a", "b", "a", "b", "a", "b"] },
    );
    expect(mesh.shape).toEqual({ data: 4, tensor: 2 });
    const x = markSharding(arange(8).reshape([4, 2]), mesh, ["data", "tensor"]);
    const even = (await localShards(x)).filter(({ device }) => device % 2 === 0);
    expect(Math.max(...even.flatMap(({ data }) => numbers(data)))).toBe(3);
    expect(await x.sum(0).array()).toEqual([12, 16]);
  });
});
