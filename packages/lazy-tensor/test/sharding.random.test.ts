import { afterEach, describe, expect, it } from "vitest";
import {
  arange,
  bernoulli,
  configure,
  type Engine,
  explainSharding,
  F,
  fullyShard,
  Mesh,
  manualSeed,
  markSharding,
  nn,
  type PartitionSpec,
  randint,
  randn,
  shardModule,
  sync,
  type Tensor,
  uniform,
} from "../src/index.js";

// Random numbers are those of their place in the whole tensor: a device draws its part, and no more.

let engine: Engine;
const open = (devices: number, device: "cpu" | "null" = "cpu"): void => {
  engine = configure({ device, virtualDevices: devices, verifyPasses: true });
};
afterEach(() => engine.device.close());

const meshes: readonly (readonly [Mesh, readonly PartitionSpec[]])[] = [
  [
    new Mesh({ a: 2, b: 2 }),
    [["a"], [null, "b"], ["b", "a"], [["a", "b"]], [null, ["b", "a"]], [null, null, "a"], ["a", null, "b"]],
  ],
  [
    new Mesh({ a: 2, b: 2 }, { devices: [3, 1, 0, 2] }),
    [
      ["a", "b"],
      [null, ["b", "a"]],
    ],
  ],
  [new Mesh({ a: 8 }), [["a"], [null, "a"], [null, null, "a"]]],
  [new Mesh({ a: 2, b: 4 }), [["a", "b"], [["b", "a"]], [null, "a", "b"]]],
];

const shape = [6, 10, 7]; // most parts are uneven
const draws: Readonly<Record<string, () => Tensor>> = {
  randn: () => randn(shape),
  "randn in bfloat16": () => randn(shape, { dtype: "bfloat16" }),
  uniform: () => uniform(shape, -2, 3),
  randint: () => randint(0, 1000, shape),
  bernoulli: () => bernoulli(shape, 0.4),
  dropout: () => F.dropout(randn(shape), 0.3),
};

describe("draws", () => {
  it.each(Object.keys(draws))("%s: the same numbers on any mesh", async (name) => {
    const draw = async (spec?: PartitionSpec, mesh?: Mesh): Promise<unknown> => {
      manualSeed(11);
      randn([3]); // the stream is not the first
      const made = draws[name]();
      return (mesh && spec ? markSharding(made, mesh, spec) : made).data();
    };
    open(1);
    const alone = await draw();
    for (const [mesh, specs] of meshes) {
      engine.device.close();
      open(mesh.size);
      for (const spec of specs)
        expect(await draw(spec, mesh), `${mesh} ${JSON.stringify(spec)}`).toEqual(alone);
    }
  });

  it("dropout's mask is the same where the value it multiplies is divided, and so is the gradient", async () => {
    const run = async (spec?: PartitionSpec, mesh?: Mesh): Promise<unknown[]> => {
      manualSeed(4);
      const x = randn([5, 9], { requiresGrad: true });
      const y = F.dropout(mesh && spec ? markSharding(x.mul(1), mesh, spec) : x.mul(1), 0.5);
      y.square().sum().backward();
      return [await y.data(), await (x.grad as Tensor).data()];
    };
    open(1);
    const alone = await run();
    engine.device.close();
    const mesh = new Mesh({ a: 2, b: 2 });
    open(mesh.size);
    for (const spec of [["a"], [null, "a"], ["b", "a"], [["a", "b"]]] as PartitionSpec[])
      expect(await run(spec, mesh), JSON.stringify(spec)).toEqual(alone);
  });
});

describe("counts", () => {
  it("round once, as on one device", async () => {
    const mesh = new Mesh({ a: 2 });
    open(2);
    // The second part starts at 257, which bfloat16 has not.
    const counted = markSharding(arange(0, 514, 1, { dtype: "bfloat16" }), mesh, ["a"]);
    const expected = await arange(514).to("bfloat16").data();
    expect(await counted.data()).toEqual(expected);
  });
});

describe("first values", () => {
  class Feed extends nn.Module {
    readonly up: nn.Linear;
    readonly down: nn.Linear;
    constructor(width: number, inner: number) {
      super();
      this.up = new nn.Linear(width, inner);
      this.down = new nn.Linear(inner, width);
    }
    forward(x: Tensor): Tensor {
      return this.down.forward(this.up.forward(x).relu());
    }
  }

  it("of a model are the same however it is divided", async () => {
    const values = async (layOut: (model: Feed) => void): Promise<unknown[]> => {
      manualSeed(2);
      const model = new Feed(10, 14);
      layOut(model);
      await sync();
      return Promise.all([...model.parameters()].map((param) => param.data()));
    };
    open(1);
    const alone = await values(() => {});
    const mesh = new Mesh({ fsdp: 4, tensor: 2 });
    engine.device.close();
    open(mesh.size);
    expect(await values((model) => void fullyShard(model, mesh))).toEqual(alone);
    const patterns = { "up.*": ["tensor"], "down.weight": [null, "tensor"] } as const;
    expect(await values((model) => void shardModule(model, mesh, patterns))).toEqual(alone);
    expect(
      await values((model) => {
        shardModule(model, mesh, patterns);
        fullyShard(model, mesh);
      }),
    ).toEqual(alone);
  });

  // The feed-forward of a Llama of 7 billion parameters: 360 MB, of which a device is to have an eighth at its peak.
  it.each([
    ["fullyShard", (model: Feed, mesh: Mesh) => void fullyShard(model, mesh)],
    [
      "tensor parallel",
      (model: Feed, mesh: Mesh) =>
        void shardModule(model, mesh, {
          "up.*": ["fsdp"],
          "down.weight": [null, "fsdp"],
          "down.bias": ["fsdp"],
        }),
    ],
  ])("need a device's share of the memory: %s", async (_, layOut) => {
    open(8, "null");
    const mesh = new Mesh({ fsdp: 8 });
    const model = new Feed(4096, 11008);
    layOut(model, mesh);
    const { peakBytes, rows } = await explainSharding(() => {});
    expect(rows).toEqual([]);
    const bytes = [...model.parameters()].reduce((sum, { size }) => sum + 4 * size, 0);
    expect(bytes).toBeGreaterThan(360e6);
    expect(peakBytes).toBeLessThan((1.02 * bytes) / 8);
  });
});
