import { afterEach, describe, expect, it } from "vitest";
import {
  allGather,
  allReduce,
  allToAll,
  arange,
  axisIndex,
  axisSize,
  cat,
  collectivePermute,
  compile,
  configure,
  type Engine,
  explainSharding,
  F,
  gradOf,
  Mesh,
  manualSeed,
  manualSharding,
  markSharding,
  nn,
  optim,
  type PartitionSpec,
  randn,
  reduceScatter,
  sync,
  type Tensor,
  tensor,
  zeros,
} from "../src/index.js";

let engine: Engine;
const open = (devices: number): void => {
  engine = configure({ device: "cpu", virtualDevices: devices, verifyPasses: true });
  manualSeed(7);
};
afterEach(() => engine.device.close());

const flat = async (x: Tensor): Promise<number[]> => [...(await x.data())].map(Number);

async function expectClose(actual: Tensor, expected: Tensor, what: string): Promise<void> {
  const [a, b] = [await flat(actual), await flat(expected)];
  expect(actual.shape, what).toEqual(expected.shape);
  const scale = Math.max(...b.map(Math.abs), 1);
  a.forEach((value, i) => {
    expect(Math.abs(value - b[i]) / scale, `${what}, element ${i}: ${value}, expected ${b[i]}`).toBeLessThan(
      2e-5,
    );
  });
}

/** Results and gradients of both for the same arguments, by a cotangent that weighs every element. */
async function expectSame(
  args: readonly Tensor[],
  byHand: (...args: Tensor[]) => Tensor,
  whole: (...args: Tensor[]) => Tensor,
): Promise<void> {
  for (const arg of args) arg.requiresGrad_();
  const outputs = [byHand(...args), whole(...args)];
  const weight = randn(outputs[1].shape);
  const [own, expected] = outputs.map((out) => gradOf(out, args, { gradOutputs: [weight] }));
  await sync(...outputs, ...[...own, ...expected].filter((grad) => grad !== null));
  await expectClose(outputs[0], outputs[1], "result");
  for (const i of args.keys())
    await expectClose(own[i] as Tensor, expected[i] as Tensor, `gradient of argument ${i}`);
}

const meshes = [
  [2, new Mesh({ data: 1, tensor: 2 })],
  [4, new Mesh({ data: 1, tensor: 4 })],
  [4, new Mesh({ data: 2, tensor: 2 })],
  [4, new Mesh({ data: 2, tensor: 2 }, { devices: [3, 0, 1, 2] })],
] as const;

describe.each(meshes)("by hand on %i devices, %s", (devices, mesh) => {
  const n = mesh.shape.tensor;

  it("a Megatron MLP is the automatic one", async () => {
    open(devices);
    const mlp = (x: Tensor, up: Tensor, down: Tensor): Tensor => F.silu(x.matmul(up)).matmul(down);
    const byHand = manualSharding(
      (x: Tensor, up: Tensor, down: Tensor) => allReduce(mlp(x, up, down), "tensor"),
      mesh,
      { inSpecs: [["data"], [null, "tensor"], ["tensor", null]], outSpecs: ["data"] },
    );
    await expectSame([randn([4, 6]), randn([6, 8]), randn([8, 5])], byHand, mlp);
  });

  it("sequence parallelism gathers and scatters", async () => {
    open(devices);
    const mlp = (x: Tensor, up: Tensor, down: Tensor): Tensor => F.gelu(x.matmul(up)).matmul(down);
    const byHand = manualSharding(
      (x: Tensor, up: Tensor, down: Tensor) =>
        reduceScatter(mlp(allGather(x, "tensor", 1), up, down), "tensor", 1),
      mesh,
      {
        inSpecs: [
          ["data", "tensor"],
          [null, "tensor"],
          ["tensor", null],
        ],
        outSpecs: ["data", "tensor"],
      },
    );
    await expectSame([randn([2, 4, 6]), randn([6, 8]), randn([8, 5])], byHand, mlp);
  });

  it("a ring adds up", async () => {
    open(devices);
    const ring = Array.from({ length: n }, (_, i) => [i, (i + 1) % n] as const);
    const byHand = manualSharding(
      (x: Tensor) => {
        let [sum, passed] = [x, x];
        for (let step = 1; step < axisSize("tensor"); step++) {
          passed = collectivePermute(passed, "tensor", ring);
          sum = sum.add(passed);
        }
        return sum.mul(x);
      },
      mesh,
      { inSpecs: [["tensor", "data"]], outSpecs: ["tensor", "data"] },
    );
    const whole = (x: Tensor): Tensor => {
      const parts = x.reshape([n, 2, 6]);
      return parts.mul(parts.sum(0, true)).reshape([2 * n, 6]);
    };
    await expectSame([randn([2 * n, 6])], byHand, whole);
  });

  it("allToAll moves a division from dim to dim", async () => {
    open(devices);
    const byHand = manualSharding(
      (x: Tensor) => allToAll(F.softmax(allToAll(x, "tensor", 1, 0), 0), "tensor", 0, 1),
      mesh,
      { inSpecs: [["tensor"]], outSpecs: ["tensor"] },
    );
    await expectSame([randn([8, 4])], byHand, (x) => F.softmax(x, 0));
  });

  it("what devices share gets the sum of their cotangents", async () => {
    open(devices);
    const row = tensor(Array.from({ length: n }, (_, i) => [i + 1]));
    const weigh = manualSharding(
      (x: Tensor) => {
        const index = axisIndex("tensor").add(1).to("float32");
        // Read alone, with what differs, gathered, and summed.
        const gathered = allGather(x.mul(index).unsqueeze(0), "tensor").sum(0);
        return allReduce(x.mul(index).add(x), "tensor")
          .add(gathered)
          .add(x)
          .add(allReduce(x, "tensor", "mean"));
      },
      mesh,
      { inSpecs: [[]], outSpecs: [] },
    );
    const whole = (x: Tensor): Tensor => x.mul(row).sum(0).mul(2).add(x.mul(n)).add(x.mul(2));
    await expectSame([randn([3])], weigh, whole);
  });

  it("what devices share may be scattered, exchanged and sent", async () => {
    open(devices);
    const given = (fn: (x: Tensor) => Tensor) =>
      manualSharding(fn, mesh, { inSpecs: [[]], outSpecs: ["tensor"] });
    await expectSame(
      [randn([2 * n])],
      given((x) => reduceScatter(x, "tensor")),
      (x) => x.mul(n),
    );
    await expectSame(
      [randn([2 * n])],
      given((x) => reduceScatter(x.exp(), "tensor", 0, "mean")),
      (x) => x.exp(),
    );
    await expectSame(
      [randn([2 * n])],
      given((x) => allToAll(x, "tensor", 0, 0)),
      (x) =>
        x
          .reshape([n, 1, 2])
          .expand([n, n, 2])
          .reshape([2 * n * n]),
    );
    await expectSame(
      [randn([2])],
      given((x) => collectivePermute(x.square(), "tensor", [[0, 1]])),
      (x) => cat([zeros([2]), x.square(), zeros([2 * n - 4])]),
    );
  });

  it("a value all share may be laid out divided, and a gathered one whole", async () => {
    open(devices);
    const copies = manualSharding((x: Tensor) => x.exp(), mesh, { inSpecs: [[]], outSpecs: ["tensor"] });
    await expectSame([randn([2, 3])], copies, (x) =>
      x
        .exp()
        .unsqueeze(0)
        .expand([n, 2, 3])
        .reshape([2 * n, 3]),
    );
    const gathered = manualSharding((x: Tensor) => allGather(x, ["data", "tensor"]).tanh(), mesh, {
      inSpecs: [[["data", "tensor"]]],
      outSpecs: [],
    });
    await expectSame([randn([8, 3])], gathered, (x) => x.tanh());
  });
});

describe("manualSharding", () => {
  const mesh = new Mesh({ data: 2, tensor: 2 });

  /** Feed-forward by hand, the rest of the model as ever. */
  class Mlp extends nn.Module {
    readonly norm = new nn.LayerNorm(8);
    readonly up = new nn.Linear(8, 12, { bias: false });
    readonly down = new nn.Linear(12, 8, { bias: false });
    constructor(private readonly byHand: boolean) {
      super();
    }
    forward(x: Tensor): Tensor {
      const normed = this.norm.forward(x);
      if (!this.byHand) return this.down.forward(F.silu(this.up.forward(normed))).add(x);
      const forward = manualSharding(
        (part: Tensor, up: Tensor, down: Tensor) =>
          allReduce(F.silu(part.matmul(up.transpose(0, 1))).matmul(down.transpose(0, 1)), "tensor"),
        mesh,
        { inSpecs: [["data"], ["tensor"], [null, "tensor"]], outSpecs: ["data"] },
      );
      return forward(normed, this.up.weight, this.down.weight).add(x);
    }
  }

  it("stands in a training step that is partitioned around it", async () => {
    const losses = async (byHand: boolean, devices: number): Promise<number[]> => {
      open(devices);
      const model = new Mlp(byHand);
      if (devices > 1) {
        markSharding(model.up.weight, mesh, ["tensor"]);
        markSharding(model.down.weight, mesh, [null, "tensor"]);
      }
      const optimizer = new optim.AdamW(model.parameters(), { lr: 0.05 });
      let compiles = 0;
      engine.events.compile$.subscribe(() => compiles++);
      const out: number[] = [];
      for (let step = 0; step < 4; step++) {
        const batch = randn([6, 8]);
        const x = devices > 1 ? markSharding(batch, mesh, ["data"]) : batch;
        const loss = model.forward(x).square().mean();
        loss.backward();
        optimizer.step();
        optimizer.zeroGrad();
        out.push(await loss.item());
      }
      expect(compiles).toBeLessThan(4);
      if (devices > 1) expect(model.up.weight.sharding).toEqual(["tensor", null]);
      engine.device.close();
      return out;
    };
    const alone = await losses(false, 1);
    for (const sharded of [await losses(true, 4), await losses(false, 4)])
      sharded.forEach((loss, i) => {
        expect(Math.abs(loss - alone[i]) / alone[i], `step ${i}`).toBeLessThan(1e-5);
      });
    open(1);
  });

  it("stands in a compiled step", async () => {
    open(4);
    const losses = async (byHand: boolean): Promise<number[]> => {
      manualSeed(7);
      const model = new Mlp(byHand);
      const optimizer = new optim.SGD(model.parameters(), { lr: 0.1 });
      const step = compile((x: Tensor) => {
        const loss = model
          .forward(markSharding(x, mesh, ["data"]))
          .square()
          .mean();
        loss.backward();
        optimizer.step();
        optimizer.zeroGrad();
        return loss;
      });
      const out: number[] = [];
      for (let i = 0; i < 4; i++) out.push(await (await step(randn([6, 8]))).item());
      return out;
    };
    const [own, expected] = [await losses(true), await losses(false)];
    own.forEach((loss, i) => {
      expect(Math.abs(loss - expected[i]) / expected[i], `step ${i}`).toBeLessThan(1e-5);
    });
  });

  it("brings in whole what the function uses without being given it, and gives it its gradient", async () => {
    open(4);
    const layer = new nn.Linear(3, 2);
    const x = markSharding(randn([8, 3]), mesh, [["data", "tensor"]]);
    const forward = manualSharding((part: Tensor) => layer.forward(part.clone()).tanh(), mesh, {
      inSpecs: [[["data", "tensor"]]],
      outSpecs: [["data", "tensor"]],
    });
    const params = layer.parameters();
    const own = gradOf(forward(x).square().sum(), params);
    const expected = gradOf(layer.forward(x).tanh().square().sum(), params);
    for (const i of params.keys())
      await expectClose(own[i] as Tensor, expected[i] as Tensor, `parameter ${i}`);
  });

  it("gives several results, and numbers devices", async () => {
    open(4);
    const both = manualSharding(
      (x: Tensor) => [x.add(axisIndex(["data", "tensor"])), axisIndex("data").reshape([1])],
      mesh,
      { inSpecs: [[["data", "tensor"]]], outSpecs: [[["data", "tensor"]], ["data"]] },
    );
    const [sum, index] = both(zeros([8]));
    expect(await sum.array()).toEqual([0, 0, 1, 1, 2, 2, 3, 3]);
    expect(await index.array()).toEqual([0, 1]);
    // In another order the tensor axis is the major.
    const turned = manualSharding(() => axisIndex(["tensor", "data"]).reshape([1]), mesh, {
      inSpecs: [],
      outSpecs: [["data", "tensor"]],
    });
    expect(await turned().array()).toEqual([0, 2, 1, 3]);
  });

  it("takes the axes of a submesh, and differentiates twice", async () => {
    open(4);
    const cube = manualSharding((x: Tensor) => allReduce(x.pow(3).sum(0), "tensor"), mesh.submesh("tensor"), {
      inSpecs: [["tensor"]],
      outSpecs: [],
    });
    const x = arange(4).to("float32").requiresGrad_();
    const [first] = gradOf(cube(x), [x], { createGraph: true });
    const [second] = gradOf((first as Tensor).sum(), [x]);
    expect(await (first as Tensor).array()).toEqual([0, 3, 12, 27]);
    expect(await (second as Tensor).array()).toEqual([0, 6, 12, 18]);
  });

  it("meets once forward and once backward for a Megatron block", async () => {
    open(4);
    const up = randn([6, 8]).requiresGrad_();
    const x = randn([4, 6]).requiresGrad_();
    await sync(x, up);
    const block = manualSharding(
      (part: Tensor, w: Tensor) => allReduce(part.matmul(w).tanh(), "tensor"),
      mesh,
      {
        inSpecs: [["data"], [null, "tensor"]],
        outSpecs: ["data"],
      },
    );
    const { rows } = await explainSharding(async () => {
      const [grad] = gradOf(
        block(markSharding(x.mul(2), mesh, ["data"]), up)
          .square()
          .sum(),
        [x],
      );
      await sync(markSharding(grad as Tensor, mesh, ["data"]));
    });
    const overTensor = rows.filter(({ axes }) => axes.includes("tensor"));
    expect(overTensor.map(({ op, times, type }) => [op, times, type])).toEqual([
      ["all_reduce", 1, "float32[2, 6]"],
      ["all_reduce", 1, "float32[2, 4]"],
    ]);
  });

  it("is in explainSharding's table, and in a program's key", async () => {
    open(4);
    const x = await (async () => {
      const made = markSharding(randn([4, 4]), mesh, ["data"]);
      await sync(made);
      return made;
    })();
    let compiles = 0;
    engine.events.compile$.subscribe(() => compiles++);
    const sum = (axis: string, spec: PartitionSpec): Tensor =>
      manualSharding((part: Tensor) => allReduce(part.sum(0), axis), mesh, {
        inSpecs: [[axis]],
        outSpecs: spec,
      })(x);
    const explained = await explainSharding(() => sync(sum("data", [])));
    expect(explained.rows).toHaveLength(1);
    expect(explained.rows[0]).toMatchObject({
      op: "all_reduce",
      axes: ["data"],
      bytes: 16,
      scope: "manualSharding",
      why: "written by hand",
    });
    await sync(sum("data", []));
    expect(compiles).toBe(1);
    await sync(sum("tensor", []));
    expect(compiles).toBe(2);
  });

  it("leaves parts that nothing returns to nobody", async () => {
    open(4);
    let seen: Tensor | undefined;
    const doubled = manualSharding(
      (x: Tensor) => {
        x.sum();
        seen = x.mul(3);
        return x.mul(2);
      },
      mesh,
      { inSpecs: [["data"]], outSpecs: ["data"] },
    )(arange(4));
    expect(await doubled.array()).toEqual([0, 2, 4, 6]);
    await expect((seen as Tensor).array()).rejects.toThrow(
      /\[manualSharding\] the result of mul, float32\[2\], is one device's part and is asked for outside.*in manualSharding/,
    );
  });

  it("refuses what cannot be, at the call", async () => {
    open(4);
    const x = zeros([4, 6]);
    const call = (
      fn: (x: Tensor) => Tensor,
      inSpec: PartitionSpec = ["data"],
      outSpec: PartitionSpec = ["data"],
    ) => manualSharding(fn, mesh, { inSpecs: [inSpec], outSpecs: outSpec })(x);
    expect(() => allReduce(x, "data")).toThrow("[allReduce] is called outside manualSharding");
    expect(() => axisIndex("data")).toThrow("[axisIndex] is called outside manualSharding");
    expect(() => call((part) => part, ["data", null, null])).toThrow(/has 3 dims, the tensor \[4, 6\] has 2/);
    expect(() => call((part) => part, [null, ["data", "tensor"]])).toThrow(
      /argument 0: dim 1 of size 6 is not divided evenly over 4 devices, as \[-, \(data tensor\)\]/,
    );
    expect(() => call((part) => part, ["model"])).toThrow('no axis "model"');
    expect(() => call((part) => part.sum(), ["data"], ["data"])).toThrow(
      /the spec \[data\] has 1 dims, the tensor \[\] has 0/,
    );
    expect(() => call((part) => part, ["data"], [])).toThrow(
      'the result differs along "data", which its spec [] does not name: name the axis, or take allReduce or allGather',
    );
    expect(() => call((part) => allReduce(part, "model"))).toThrow(
      '[allReduce] no axis "model" in Mesh(data=2, tensor=2)',
    );
    expect(() => call((part) => allReduce(part, ["data", "data"]))).toThrow(
      '[allReduce] names axis "data" twice',
    );
    expect(() => call((part) => reduceScatter(part, ["data", "tensor"], 1))).toThrow(
      /dim 1 of size 6 is not divided by the group's 4 devices/,
    );
    expect(() => call((part) => collectivePermute(part, "data", [[0, 2]]))).toThrow(
      "there is no member 2: the group over data has members 0 to 1",
    );
    expect(() =>
      call((part) =>
        collectivePermute(part, "data", [
          [0, 1],
          [1, 1],
        ]),
      ),
    ).toThrow("[collectivePermute] 1 is a target twice");
    // A part has the local shape.
    expect(() => call((part) => part.add(zeros([4, 6])))).toThrow(/\[add\].*in manualSharding/s);
    expect(() => call((part) => call(() => part))).toThrow("is called inside manualSharding");
    expect(() =>
      manualSharding((a: Tensor, b: Tensor) => a.add(b), mesh, { inSpecs: [[]], outSpecs: [] })(x, x),
    ).toThrow("there are 2 arguments and inSpecs has 1");
    // A call that threw leaves nothing behind.
    expect(
      await call((part) => part.add(1))
        .sum()
        .item(),
    ).toBe(24);
  });

  it("gives results that a step keeps, and makes no state", async () => {
    open(4);
    const squared = manualSharding((part: Tensor) => part.square(), mesh, {
      inSpecs: [["data"]],
      outSpecs: ["data"],
    })(arange(4));
    await sync();
    expect(squared.isPending).toBe(false);
    expect(await squared.array()).toEqual([0, 1, 4, 9]);
    const own = manualSharding((part: Tensor) => part.mul(zeros([2]).requiresGrad_()), mesh, {
      inSpecs: [["data"]],
      outSpecs: ["data"],
    });
    expect(() => own(zeros([4]))).toThrow(/\[state\].*in manualSharding/);
  });

  it("has no gradient of a maximum", () => {
    open(4);
    const x = zeros([4]).requiresGrad_();
    const largest = manualSharding((part: Tensor) => allReduce(part.max(0), "data", "max"), mesh, {
      inSpecs: [["data"]],
      outSpecs: [],
    });
    expect(() => largest(x).backward()).toThrow(/\[all_reduce\] has a gradient for sums, not for max/);
  });
});
