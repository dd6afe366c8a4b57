import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { beforeEach, describe, expect, it, vi } from "vitest";
import {
  compile,
  configure,
  type Engine,
  F,
  GuardError,
  Mesh,
  manualSeed,
  markSharding,
  nn,
  noGrad,
  ones,
  optim,
  type RecordEvent,
  randn,
  type StepEvent,
  sync,
  type Tensor,
  tensor,
} from "../src/index.js";

let engine: Engine;
let records: RecordEvent[];
let steps: StepEvent[];
let compiles: number;

function use(next: Engine): void {
  engine = next;
  records = [];
  steps = [];
  compiles = 0;
  engine.events.record$.subscribe((event) => records.push(event));
  engine.events.step$.subscribe((event) => steps.push(event));
  engine.events.compile$.subscribe(() => compiles++);
}

beforeEach(() => use(configure({ device: "cpu", verifyPasses: true })));

class Net extends nn.Module {
  first = new nn.Linear(4, 8);
  drop = new nn.Dropout(0.5);
  second = new nn.Linear(8, 2);
  forward(x: Tensor): Tensor {
    return this.second.forward(this.drop.forward(this.first.forward(x).tanh()));
  }
}

const batch = (seed: number): { x: Tensor; y: Tensor } => ({
  x: tensor(
    Float32Array.from({ length: 12 }, (_, i) => Math.sin(seed * 7 + i)),
    { shape: [3, 4] },
  ),
  y: tensor(Int32Array.from({ length: 3 }, (_, i) => (seed + i) % 2)),
});

/** Losses and last weights of a training, `wrap` around its step. */
async function trained(wrap: (step: (data: { x: Tensor; y: Tensor }) => Tensor) => typeof step, count = 6) {
  manualSeed(3);
  const model = new Net();
  await sync(); // a compiled call is a step of its own: what is pending would else share its random numbers without
  const optimizer = new optim.AdamW(model.parameters(), { lr: 0.05 });
  const step = wrap(({ x, y }) => {
    const loss = F.crossEntropy(model.forward(x), y);
    loss.backward();
    optim.clipGradNorm(model.parameters(), 1);
    optimizer.step();
    optimizer.zeroGrad();
    return loss;
  });
  const losses: number[] = [];
  for (let i = 0; i < count; i++) {
    optimizer.lr = 0.05 / (1 + i);
    const loss = step(batch(i));
    await sync(loss);
    losses.push(await loss.item());
  }
  return { losses, weights: await model.first.weight.data() };
}

describe("compile", () => {
  it("trains as the function does: dropout, clipping, a changing learning rate", async () => {
    const plain = await trained((step) => step);
    const before = compiles;
    const compiled = await trained((step) => compile(step, { fullgraph: true }));
    expect(compiled).toEqual(plain);
    expect(records).toHaveLength(1);
    // The optimizer's count, which was pending before the first call, and the step, which keeps no norm of the gradients.
    expect(compiles).toBe(before + 2);
  });

  it("runs the function once, and one program a call", async () => {
    const w = tensor([1, 1, 1], { requiresGrad: true });
    const calls = vi.fn((x: Tensor) => x.mul(w).sum());
    const f = compile(calls);
    for (let i = 0; i < 4; i++) expect(await f(tensor([i, 1, 1])).item()).toBe(i + 2);
    expect(calls).toHaveBeenCalledTimes(1);
    expect(new Set(steps.map(({ program }) => program)).size).toBe(1);
    expect(steps.length).toBe(4);
  });

  it("takes and returns structures", async () => {
    const f = compile(({ a, list }: { a: Tensor; list: Tensor[] }, scale: number) => ({
      sum: list.reduce((x, y) => x.add(y), a).mul(scale),
      same: a,
      what: "sum",
    }));
    const call = async (value: number) => {
      const a = tensor([value]);
      const out = f({ a, list: [tensor([1]), tensor([2])] }, 2);
      expect(out.same).toBe(a);
      expect(out.what).toBe("sum");
      return out.sum.array();
    };
    expect(await call(1)).toEqual([8]);
    expect(await call(2)).toEqual([10]);
    expect(records).toHaveLength(1);
  });

  it("records anew where a guard fails, says which, and keeps both", async () => {
    const f = compile((x: Tensor, power: number) => x.pow(power));
    expect(await f(tensor([2, 3]), 2).array()).toEqual([4, 9]);
    expect(await f(tensor([2, 3]), 3).array()).toEqual([8, 27]);
    expect(await f(tensor([2]), 2).array()).toEqual([4]);
    expect(await f(tensor([3, 4]), 3).array()).toEqual([27, 64]);
    expect(records.map(({ reason }) => reason)).toEqual([
      "the first call",
      "an argument is 3, was 2",
      "an argument is 2, was 3",
    ]);
  });

  it("keeps so many recordings as it is told", async () => {
    const f = compile((x: Tensor, n: number) => x.add(n), { cacheSize: 2 });
    for (const n of [1, 2, 3, 2, 3, 1]) expect(await f(tensor([0]), n).item()).toBe(n);
    expect(records).toHaveLength(4);
  });

  it("throws GuardError under fullgraph, and changes nothing", async () => {
    const model = new Net().eval();
    const f = compile(model, { fullgraph: true, name: "net" });
    f(batch(1).x);
    expect(() => f(ones([5, 4]))).toThrow(/net: tensor argument 0 is float32\[5, 4\], was float32\[3, 4\]/);
    expect(() => f(ones([5, 4]))).toThrow(GuardError);
    model.train();
    expect(() => f(batch(1).x)).toThrow(/\[compile\] net: Net.training was changed/);
    model.eval();
    expect(() => noGrad(() => f(batch(1).x))).toThrow(/gradients are off, were on/);
    expect(await f(batch(1).x).shape).toEqual([3, 2]);
  });

  it("notices a module's field, a child, a hook, a dtype, and frozen parameters", () => {
    const model = new Net().eval();
    const f = compile(model);
    const reasonFor = (change: () => void): string => {
      change();
      f(batch(1).x);
      return (records.at(-1) as RecordEvent).reason;
    };
    expect(reasonFor(() => {})).toBe("the first call");
    expect(reasonFor(() => (model.drop = new nn.Dropout(0.2).eval() as nn.Dropout))).toMatch(
      /Net.drop was changed/,
    );
    expect(reasonFor(() => model.first.registerForwardHook((_, __, out) => out))).toMatch(/lost a hook/);
    expect(reasonFor(() => model.first.weight.requiresGrad_(false))).toMatch(
      /does not require gradients, did/,
    );
    expect(reasonFor(() => model.to("float64"))).toMatch(/is float64\[.*\], was float32/);
    expect(records).toHaveLength(5);
    f(batch(1).x);
    expect(records).toHaveLength(5);
  });

  it("keeps gradients that are held, and adds to those that are there", async () => {
    const run = async (wrap: <F>(fn: F) => F) => {
      const w = tensor([1, 2], { requiresGrad: true });
      const f = wrap((x: Tensor) => {
        const y = x.mul(w).sum();
        y.backward();
        return y;
      });
      const seen: unknown[] = [];
      for (let i = 1; i <= 4; i++) {
        f(tensor([i, 10 * i]));
        if (i === 3) w.grad = null;
        else seen.push(await (w.grad as Tensor).array());
        await sync();
      }
      return seen;
    };
    const compiled = await run((fn) => compile(fn as never) as typeof fn);
    expect(records.map(({ reason }) => reason)).toEqual([
      "the first call",
      expect.stringMatching(/has a gradient, had none/),
    ]);
    expect(compiled).toEqual(await run((fn) => fn));
  });

  it("updates arguments and closed-over tensors in place, and leaves earlier values alone", async () => {
    const total = tensor([0]);
    const f = compile((cache: Tensor, x: Tensor) => {
      cache.add_(x);
      total.add_(1);
    });
    const cache = tensor([0]);
    f(cache, tensor([5]));
    const early = cache.mul(1);
    const later = early.add(0); // early is consumed, so that no step keeps it
    await sync();
    f(cache, tensor([5]));
    f(cache, tensor([5]));
    expect(await cache.array()).toEqual([15]);
    expect(await total.array()).toEqual([3]);
    expect(await later.array()).toEqual([5]);
    await expect(early.array()).rejects.toThrow(/is gone: it was overwritten/);
    expect(records).toHaveLength(1);
  });

  it("draws new random numbers, the same as without it", async () => {
    const draws = async (f: () => Tensor) => {
      manualSeed(11);
      const out: unknown[] = [];
      for (let i = 0; i < 3; i++) {
        const x = f();
        await sync(x);
        out.push(await x.array());
      }
      return out;
    };
    const compiled = await draws(compile(() => randn([3])));
    expect(compiled).toEqual(await draws(() => randn([3])));
    expect(new Set(compiled.map(String)).size).toBe(3);
  });

  it("does what is pending first, and is a part of an outer compiled function", async () => {
    const inner = compile((x: Tensor) => x.add(1));
    const outer = compile((x: Tensor) => inner(x).mul(2));
    expect(await outer(tensor([1]).mul(3)).array()).toEqual([8]);
    expect(await outer(tensor([2]).mul(3)).array()).toEqual([14]);
    expect(records).toHaveLength(1);
  });

  it("tells two arguments from one given twice", async () => {
    const f = compile((a: Tensor, b: Tensor) => a.sub(b));
    const x = tensor([3]);
    expect(await f(x, x).array()).toEqual([0]);
    expect(await f(x, tensor([1])).array()).toEqual([2]);
    expect(await f(x, x).array()).toEqual([0]);
    expect(records.map(({ reason }) => reason)).toEqual([
      "the first call",
      expect.stringMatching(/argument 1 is not the same as another, as it was/),
    ]);
  });

  it("warns of data that becomes part of the recording, and of what it cannot repeat", async () => {
    const warned = vi.spyOn(process, "emitWarning").mockImplementation(() => {});
    try {
      const f = compile((x: Tensor) => x.add(tensor([1])), { name: "adder" });
      expect(await f(tensor([1])).array()).toEqual([2]);
      expect(await f(tensor([2])).array()).toEqual([3]);
      expect(warned.mock.calls.map(([text]) => text)).toEqual([
        expect.stringMatching(/adder makes a tensor of data/),
      ]);
      class Counting extends nn.Module {
        calls = 0;
        forward(x: Tensor): Tensor {
          return x.mul(++this.calls);
        }
      }
      const g = compile(new Counting());
      expect(await g(tensor([1])).item()).toBe(1);
      expect(await g(tensor([1])).item()).toBe(2);
      expect(warned.mock.calls.at(-1)?.[0]).toMatch(/Counting is recorded anew .*changes its field calls/);
      expect(() => compile(new Counting(), { fullgraph: true })(tensor([1]))).toThrow(GuardError);
    } finally {
      warned.mockRestore();
    }
  });

  it("records anew where data made inside was disposed", async () => {
    const warned = vi.spyOn(process, "emitWarning").mockImplementation(() => {});
    let next = 0;
    const f = compile(() => {
      const data = tensor([next++]);
      return { data, more: data.add(10) };
    });
    const seen: number[] = [];
    for (let i = 0; i < 4; i++) {
      const { data, more } = f();
      seen.push(await more.item());
      if (i % 2 === 1) data.dispose();
    }
    expect(seen).toEqual([10, 10, 11, 11]);
    expect(records.at(-1)?.reason).toMatch(/is gone: it was disposed/);
    warned.mockRestore();
  });

  it("refuses a function that awaits, and an argument with a history", () => {
    expect(() => compile(async () => tensor([1]))()).toThrow(/returns a promise/);
    const w = ones([2], { requiresGrad: true });
    expect(() => compile((x: Tensor) => x.sum())(w.mul(2))).toThrow(
      /argument 0 has a gradient history: detach/,
    );
    const loss = compile((x: Tensor) => x.sum())(w);
    expect(() => loss.backward()).toThrow(/does not depend on anything that requires gradients/);
  });

  it("tells of a failure at the next sync and at a read", async () => {
    const table = ones([3, 2]);
    const f = compile((ids: Tensor) => table.indexSelect(0, ids).sum());
    expect(await f(tensor(Int32Array.of(0, 1))).item()).toBe(4);
    const bad = f(tensor(Int32Array.of(0, 7)));
    await expect(bad.item()).rejects.toThrow(/7/);
    await expect(sync()).rejects.toThrow(/7/);
    expect(await f(tensor(Int32Array.of(2))).item()).toBe(2);
    await sync();
  });

  it("survives a run that is refused, and the collection of what it would have made", async () => {
    use(configure({ device: "cpu", memoryLimitBytes: 1 << 20 }));
    const f = compile((x: Tensor) => x.add(1));
    const x = ones([60_000]);
    const kept = [f(x), f(x)];
    expect(() => kept.push(f(x), f(x))).toThrow(/would need/);
    setFlagsFromString("--expose-gc");
    const gc = runInNewContext("gc") as () => void;
    for (let i = 0; i < 4; i++) {
      gc();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    kept.pop()?.dispose();
    expect((await f(x).data())[7]).toBe(2);
  });

  it("works on a mesh, and notices another layout", async () => {
    use(configure({ device: "cpu", virtualDevices: 2 }));
    const mesh = new Mesh({ data: 2 });
    const w = new nn.Parameter(ones([4, 4]));
    markSharding(w, mesh, ["data", null]);
    const f = compile((x: Tensor) => {
      const y = x.matmul(w);
      noGrad(() => w.add_(1));
      return y.sum();
    });
    const x = (): Tensor => ones([2, 4]);
    expect(await f(x()).item()).toBe(32);
    expect(await f(x()).item()).toBe(64);
    expect(w.sharding).toEqual(["data", null]);
    expect(records).toHaveLength(1);
    markSharding(w, mesh, [null, "data"]);
    expect(await f(x()).item()).toBe(96);
    expect(records.at(-1)?.reason).toMatch(/lies over the mesh in another way/);
  });
});
