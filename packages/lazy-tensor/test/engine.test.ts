import { beforeEach, describe, expect, it } from "vitest";
import {
  arange,
  type CompileEvent,
  configure,
  type Engine,
  F,
  manualSeed,
  nn,
  ones,
  optim,
  randn,
  StaleTensorError,
  sync,
  type Tensor,
  tensor,
  zeros,
} from "../src/index.js";

let engine: Engine;
let compiles: CompileEvent[];

beforeEach(() => {
  engine = configure({ device: "cpu", verifyPasses: true });
  compiles = [];
  engine.events.compile$.subscribe((event) => compiles.push(event));
});

class TwoLayer extends nn.Module {
  first = new nn.Linear(4, 8);
  second = new nn.Linear(8, 1);
  forward(x: Parameters<typeof F.relu>[0]) {
    return this.second.forward(this.first.forward(x).tanh());
  }
}

describe("a step", () => {
  it("computes what nothing else consumed, and keeps only that", async () => {
    const a = tensor([1, 2, 3]);
    const middle = a.mul(2);
    const end = middle.add(1);
    await sync();
    expect(end.isPending).toBe(false);
    expect(middle.isPending).toBe(true);
    expect(await end.array()).toEqual([3, 5, 7]);
    expect(await middle.array()).toEqual([2, 4, 6]);
  });

  it("keeps what is asked for", async () => {
    const middle = tensor([1, 2]).mul(2);
    const end = middle.add(1);
    await sync(middle);
    expect(middle.isPending).toBe(false);
    expect(await end.array()).toEqual([3, 5]);
  });

  it("gives each of two outputs of one value a buffer of its own", async () => {
    const x = tensor([1, 2, 3]);
    const a = x.add(1);
    const b = x.add(1);
    const same = x.clone();
    await sync();
    x.add_(10);
    a.dispose();
    await sync();
    expect(await b.array()).toEqual([2, 3, 4]);
    expect(await same.array()).toEqual([1, 2, 3]);
    expect(await x.array()).toEqual([11, 12, 13]);
  });

  it("runs the same program again without compiling", async () => {
    const x = tensor([1, 2, 3, 4]);
    for (let i = 0; i < 5; i++) {
      x.mul_(2);
      await sync();
    }
    expect(await x.array()).toEqual([32, 64, 96, 128]);
    expect(compiles.length).toBe(1);
  });

  it("does not confuse programs of equal shape and different attributes", async () => {
    const x = tensor([
      [1, 2],
      [3, 4],
    ]);
    expect(await x.sum(0).array()).toEqual([4, 6]);
    expect(await x.sum(1).array()).toEqual([3, 7]);
    expect(await x.mul(2).sum().item()).toBe(20);
    expect(await x.mul(3).sum().item()).toBe(30);
    expect(compiles.length).toBe(4);
  });

  it("draws new random numbers each step from one program, the same after the same seed", async () => {
    manualSeed(7);
    const first = await randn([5]).array();
    const second = await randn([5]).array();
    expect(second).not.toEqual(first);
    expect(compiles.length).toBe(1);
    manualSeed(7);
    expect(await randn([5]).array()).toEqual(first);
  });
});

describe("training", () => {
  function trainer(model: TwoLayer) {
    const optimizer = new optim.AdamW(model.parameters(), { lr: 0.05 });
    return async (x: number[][], y: number[][]): Promise<number> => {
      const loss = F.mseLoss(model.forward(tensor(x)), tensor(y));
      loss.backward();
      optim.clipGradNorm(model.parameters(), 1);
      optimizer.step();
      optimizer.zeroGrad();
      await sync();
      return loss.item();
    };
  }
  const x = [
    [1, 2, 3, 4],
    [0, 1, 0, 1],
    [2, 0, 2, 0],
  ];
  const y = [[1], [0], [-1]];

  it("compiles the first values once and the step once, whatever the learning rate does", async () => {
    manualSeed(1);
    const model = new TwoLayer();
    const optimizer = new optim.AdamW(model.parameters(), { lr: 0.1 });
    const losses: number[] = [];
    for (let i = 0; i < 20; i++) {
      optimizer.lr = 0.1 / (1 + i);
      const loss = F.mseLoss(model.forward(tensor(x)), tensor(y));
      loss.backward();
      optimizer.step();
      optimizer.zeroGrad();
      await sync();
      losses.push(await loss.item());
    }
    expect(losses.at(-1)).toBeLessThan(losses[0] / 5);
    expect(compiles.length).toBe(2);
  });

  it("compiles once more for another batch size and says which node differs", async () => {
    const step = trainer(new TwoLayer());
    await step(x, y);
    await step(x, y);
    expect(compiles.length).toBe(2);
    await step(x.slice(1), y.slice(1));
    expect(compiles.length).toBe(3);
    expect(compiles[2].reason).toMatch(/first.*float32\[2, 8\], was float32\[3, 8\]/);
    await step(x, y);
    await step(x.slice(1), y.slice(1));
    expect(compiles.length).toBe(3);
  });

  it("compiles the step once though its state was given first values in another order", async () => {
    const [a, b] = [new nn.Parameter(tensor([1])), new nn.Parameter(tensor([2]))];
    for (const param of [b, a]) nn.init.constant_(param, 3);
    const optimizer = new optim.SGD([a, b], { lr: 1 });
    for (let i = 0; i < 3; i++) {
      a.mul(b).sum().backward();
      optimizer.step();
      optimizer.zeroGrad();
      await sync();
    }
    expect(compiles.map(({ reason }) => reason)).toHaveLength(2);
  });

  it("says why the same ops are compiled again: what is kept, whose memory is taken over, how they are wired", async () => {
    const reasonOf = async (record: () => unknown): Promise<string> => {
      const held = record();
      await sync();
      expect(held).toBeDefined();
      return compiles.at(-1)?.reason ?? "";
    };
    const [x, y, state] = [tensor([1, 2]), tensor([3, 4]), new nn.Buffer(tensor([5, 6]))];
    await sync();
    await reasonOf(() => x.exp().add(y));
    const both = (): Tensor[] => {
      const middle = x.exp();
      engine.keep(middle.node);
      return [middle, middle.add(y)];
    };
    expect(await reasonOf(both)).toBe("the value of node 0, exp is kept, was not");
    expect(await reasonOf(() => x.exp().add(x))).toBe("the value of node 0, exp is not kept, was");
    expect(await reasonOf(() => y.exp().mul(x))).toMatch(/^node 1: mul where the program before had add/);
    await reasonOf(() => x.exp().sub(y).div(y));
    expect(await reasonOf(() => x.exp().sub(y).div(x))).toBe(
      "node 2, div: operand 1 is input 0, was input 1",
    );
    expect(await reasonOf(() => x.exp().sub(x).div(x))).toBe("it reads 1 values from before the step, was 2");
    await reasonOf(() => state.mul(2));
    expect(await reasonOf(() => state.mul_(2))).toBe(
      "the memory of input 0, float32[2] (read by mul), is taken over by its new value, was not",
    );
  });

  it("keeps device memory flat", async () => {
    const step = trainer(new TwoLayer());
    for (let i = 0; i < 20; i++) await step(x, y);
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 20));
    const before = engine.device.stats();
    for (let i = 0; i < 300; i++) await step(x, y);
    const after = engine.device.stats();
    expect(after.arenaBytes).toBe(before.arenaBytes);
    expect(after.liveBytes - before.liveBytes).toBeLessThan(300 * 200);
  });

  it("accumulates gradients over backward calls, within a step and across steps", async () => {
    const w = tensor([1, 2], { requiresGrad: true });
    w.mul(3).sum().backward();
    w.mul(4).sum().backward();
    expect(await w.grad?.array()).toEqual([7, 7]);
    w.square().sum().backward();
    expect(await w.grad?.array()).toEqual([9, 11]);
  });

  it("keeps the loss though backward reads it", async () => {
    const w = tensor([0.5], { requiresGrad: true });
    const loss = w.exp().sum().exp();
    loss.backward();
    await sync();
    expect(loss.isPending).toBe(false);
  });
});

describe("values that are gone", () => {
  it("names the op and module of an intermediate whose parameters were updated", async () => {
    const model = new TwoLayer();
    const optimizer = new optim.SGD(model.parameters(), { lr: 0.1 });
    const hidden = model.first.forward(ones([1, 4]));
    const out = model.second.forward(hidden);
    out.sum().backward();
    optimizer.step();
    optimizer.zeroGrad();
    await sync();
    await expect(hidden.array()).rejects.toThrow(StaleTensorError);
    await expect(hidden.array()).rejects.toThrow(/overwritten by the update.*sync\(tensor\)/);
  });

  it("says that a disposed tensor was disposed", async () => {
    const x = tensor([1, 2]);
    x.dispose();
    await expect(x.array()).rejects.toThrow(/disposed/);
    expect(x.toString()).toBe("Tensor(float32[2], freed)");
  });

  it("frees at the end of a `using` block", async () => {
    const before = engine.device.stats().liveBytes;
    {
      using x = tensor(new Float32Array(1 << 16));
      expect(await x.sum().item()).toBe(0);
    }
    await new Promise((resolve) => setImmediate(resolve));
    expect(engine.device.stats().liveBytes).toBeLessThan(before + (1 << 17));
  });
});

describe("errors that only data shows", () => {
  it("names the op and module of an index out of range, and goes on afterwards", async () => {
    const table = new nn.Embedding(10, 2);
    class Model extends nn.Module {
      tokens = table;
      forward(ids: Parameters<typeof F.relu>[0]) {
        return this.tokens.forward(ids);
      }
    }
    const out = new Model().forward(tensor([1, 10], { dtype: "int32" }));
    await expect(out.array()).rejects.toThrow(/index_select.*10.*out of range.*tokens/);
    expect(await zeros([2]).add(1).array()).toEqual([1, 1]);
  });
});

describe("writing in place", () => {
  it("leaves a strided view of a dying value to be read whole", async () => {
    const cos = arange(6).reshape([3, 2]).add(1);
    const x = arange(24).reshape([1, 3, 2, 4]);
    const turned = F.rotaryEmbedding(x.mul(2).transpose(1, 2), cos, cos.mul(0));
    const wanted = (head: number, t: number) =>
      [0, 1, 2, 3].map((k) => 2 * (t * 8 + head * 4 + k) * (t * 2 + (k % 2) + 1));
    expect(await turned.array()).toEqual([[0, 1].map((head) => [0, 1, 2].map((t) => wanted(head, t)))]);
  });
});
