import { afterEach, describe, expect, it } from "vitest";
import {
  arange,
  clearSharding,
  configure,
  type Engine,
  explainSharding,
  F,
  localShards,
  Mesh,
  markSharding,
  mesh1d,
  nn,
  optim,
  randn,
  shardActivations,
  shardModule,
  sync,
  tensor,
  visualizeSharding,
  zeros,
} from "../src/index.js";

let engine: Engine;
const open = (devices: number): void => {
  engine = configure({ device: "cpu", virtualDevices: devices, verifyPasses: true });
};
afterEach(() => engine.device.close());

const mesh = new Mesh({ data: 2, tensor: 2 });

describe("markSharding", () => {
  it("divides a tensor, and changes no value", async () => {
    open(4);
    const x = markSharding(arange(24).reshape([4, 6]), mesh, ["data", "tensor"]);
    expect(x.sharding).toEqual(["data", "tensor"]);
    const shards = await localShards(x);
    expect(shards.map(({ device, start, shape }) => [device, start, shape])).toEqual([
      [0, [0, 0], [2, 3]],
      [1, [0, 3], [2, 3]],
      [2, [2, 0], [2, 3]],
      [3, [2, 3], [2, 3]],
    ]);
    expect([...shards[3].data].map(Number)).toEqual([15, 16, 17, 21, 22, 23]);
    expect(await x.sum().item()).toBe(276);
    expect(((await x.array()) as number[][])[3]).toEqual([18, 19, 20, 21, 22, 23]);
  });

  it("over several axes, and unevenly", async () => {
    open(4);
    const x = markSharding(arange(5), mesh, [["tensor", "data"]]);
    const shards = await localShards(x);
    // Over `tensor` first: 3 and 2; each part then over `data`.
    expect(shards.map(({ start, shape }) => [start[0], shape[0]])).toEqual([
      [0, 2],
      [3, 2],
      [2, 1],
      [5, 0],
    ]);
    expect(await x.mul(x).sum().item()).toBe(30);
    expect(await x.array()).toEqual([0, 1, 2, 3, 4]);
  });

  it("keeps parameters and their optimizer state where they were put", async () => {
    open(4);
    const layer = new nn.Linear(8, 4);
    markSharding(layer.weight, mesh, ["tensor", null]);
    const optimizer = new optim.AdamW(layer.parameters());
    for (let i = 0; i < 2; i++) {
      const loss = layer
        .forward(markSharding(randn([6, 8]), mesh, ["data"]))
        .square()
        .mean();
      loss.backward();
      optimizer.step();
      optimizer.zeroGrad();
      await sync();
    }
    expect(layer.weight.sharding).toEqual(["tensor", null]);
    for (const [name, state] of optimizer.stateDict())
      if (name.startsWith("weight")) expect(state.sharding, name).toEqual(["tensor", null]);
    expect(layer.bias?.sharding).toBeNull();
    clearSharding(layer.weight);
    await sync();
    expect(layer.weight.sharding).toBeNull();
    expect((await localShards(layer.weight))[0].data).toHaveLength(32);
  });

  it("compiles once a step, and once more where a layout changes", async () => {
    open(4);
    let compiles = 0;
    engine.events.compile$.subscribe(() => compiles++);
    const step = async (spec: (string | null)[]): Promise<number> => {
      const x = markSharding(
        tensor([
          [1, 2],
          [3, 4],
        ]),
        mesh,
        spec,
      );
      return x.square().sum().item();
    };
    for (let i = 0; i < 3; i++) expect(await step(["data", null])).toBe(30);
    expect(compiles).toBe(1);
    for (let i = 0; i < 3; i++) expect(await step([null, "data"])).toBe(30);
    expect(compiles).toBe(2);
  });

  it("refuses what cannot be, at the call", () => {
    open(4);
    const x = zeros([4, 6]);
    expect(() => markSharding(x, mesh, ["data", "data"])).toThrow(
      '[markSharding] the spec [data, data] names axis "data" twice',
    );
    expect(() => markSharding(x, mesh, ["model"])).toThrow(
      '[markSharding] no axis "model" in Mesh(data=2, tensor=2)',
    );
    expect(() => markSharding(x, mesh, [null, null, "data"])).toThrow(
      /has 3 dims, the tensor \[4, 6\] has 2/,
    );
    expect(() => markSharding(x, mesh1d("data", 8), ["data"])).toThrow(
      /Mesh\(data=8\) has 8 devices, and there are 4: configure\(\{ virtualDevices: 8 \}\)/,
    );
    expect(() => new Mesh({ data: 0 })).toThrow(/axis "data" has size 0/);
  });
});

describe("modules", () => {
  class Two extends nn.Module {
    readonly layers = new nn.ModuleList([new nn.Linear(4, 8), new nn.Linear(8, 4)]);
    forward(x: ReturnType<typeof zeros>): ReturnType<typeof zeros> {
      return this.layers.items.reduce((value, layer) => layer.forward(value).tanh(), x);
    }
  }

  it("are marked by path", async () => {
    open(4);
    const model = shardModule(new Two(), mesh, {
      "layers.*.weight": ["data", null],
      "layers.1.weight": [null, "tensor"],
    });
    await sync();
    expect([...model.namedParameters()].map(([name, { sharding }]) => [name, sharding])).toEqual([
      ["layers.0.weight", ["data", null]],
      ["layers.0.bias", null],
      ["layers.1.weight", [null, "tensor"]],
      ["layers.1.bias", null],
    ]);
  });

  it("refuse a pattern that matches nothing, and mark nothing then", () => {
    open(4);
    const model = new Two();
    expect(() => shardModule(model, mesh, { "layers.*.weight": ["data"], "layer.0.bias": ["data"] })).toThrow(
      '[shardModule] the pattern "layer.0.bias" matches nothing; there are layers.0.weight, layers.0.bias',
    );
    expect(model.parameters().every(({ sharding }) => sharding === null)).toBe(true);
    expect(() => shardActivations(model, mesh, { "blocks.*": ["data"] })).toThrow(
      /"blocks\.\*" matches nothing/,
    );
  });

  it("lay out their results by path", async () => {
    open(4);
    const model = shardActivations(new Two(), mesh, { "layers.*": ["data", "tensor"] });
    const y = model.forward(randn([6, 4]));
    await sync(y);
    expect(y.sharding).toEqual(["data", "tensor"]);
  });
});

describe("explainSharding", () => {
  it("names parameters, and draws the program", async () => {
    open(4);
    const model = new nn.Sequential(new nn.Linear(4, 8, { bias: false }), new nn.Linear(8, 4));
    shardModule(model, mesh, { "0.weight": ["tensor"], "1.weight": ["data", "tensor"] });
    const optimizer = new optim.AdamW(model.parameters());
    const step = (): void => {
      const x = markSharding(zeros([6, 4]).add(1), mesh, ["data"]);
      model.forward(x).square().mean().backward();
      optimizer.step();
      optimizer.zeroGrad();
    };
    step();
    await sync();
    const explained = await explainSharding(step);
    const whys = explained.rows.map(({ why }) => why);
    expect(whys).toContain("1.weight for dot_general in 1");
    expect(whys.join()).toMatch(/gradient of \d\.\w+( and \d more)?: partial sums of/);
    expect(whys.join()).not.toMatch(/input \d/);
    const dot = explained.toDot();
    expect(dot).toMatch(/^digraph \{/);
    expect(dot).toContain("\\n0.weight\\n[tensor, -]");
    expect(dot).toContain("\\n0.weight.exp_avg\\n[tensor, -]");
    expect(dot).toMatch(/all_reduce .*over data.*fillcolor/);
  });
});

describe("visualizeSharding", () => {
  it("draws which devices hold what", () => {
    open(4);
    const text = visualizeSharding(markSharding(zeros([4, 6]), mesh, ["data", null]), { colour: false });
    expect(text).toContain("0,1");
    expect(text).toContain("2,3");
  });
});

describe("a failure on one device", () => {
  it("is an error that names it, and later steps work", async () => {
    open(2);
    const pair = new Mesh({ data: 2 });
    const table = tensor([[1], [2], [3]]);
    const index = markSharding(tensor(Int32Array.of(0, 7), { shape: [2] }), pair, ["data"]);
    await expect(F.embedding(index, table).sum().item()).rejects.toThrow(/device 1: .*7 .*out of range/);
    expect(
      await markSharding(tensor([1, 2]), pair, ["data"])
        .sum()
        .item(),
    ).toBe(3);
  });
});
