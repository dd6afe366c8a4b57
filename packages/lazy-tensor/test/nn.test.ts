import { beforeEach, describe, expect, it } from "vitest";
import {
  configure,
  F,
  manualSeed,
  nn,
  noGrad,
  ones,
  optim,
  randn,
  ShapeError,
  StateDictError,
  sync,
  type Tensor,
  tensor,
  zeros,
} from "../src/index.js";

beforeEach(() => {
  configure({ device: "cpu", verifyPasses: true });
  manualSeed(3);
});

class Block extends nn.Module {
  norm = new nn.LayerNorm(4);
  attn = new nn.SelfAttention({ dim: 4, heads: 2, kvHeads: 1, causal: true });
  forward(x: Tensor): Tensor {
    return x.add(this.attn.forward(this.norm.forward(x)));
  }
}

class Model extends nn.Module {
  embed = new nn.Embedding(7, 4);
  blocks = [new Block(), new Block()];
  mask = new nn.Buffer(ones([4]));
  scratch = new nn.Buffer(zeros([2]), { persistent: false });
  head = new nn.Linear(4, 7, { bias: false });
  constructor(tied = false) {
    super();
    if (tied) Object.assign(this.head, { weight: this.embed.weight });
  }
  forward(ids: Tensor): Tensor {
    let x = this.embed.forward(ids).mul(this.mask);
    for (const block of this.blocks) x = block.forward(x);
    return this.head.forward(x);
  }
}

const ids = () => tensor([[1, 2, 3]], { dtype: "int32" });

describe("Module", () => {
  it("lists parameters and buffers by path, shared ones once", () => {
    const names = [...new Model().stateDict().keys()];
    expect(names).toContain("blocks.1.attn.q.weight");
    expect(names).toContain("mask");
    expect(names).not.toContain("scratch");
    const tied = new Model(true);
    expect([...tied.stateDict().keys()]).not.toContain("head.weight");
    expect(tied.numParameters()).toBe(new Model().numParameters() - 28);
  });

  it("round-trips its state, and a tied weight under either name", async () => {
    const a = new Model(true);
    const b = new Model(true);
    const state = a.stateDict();
    b.loadStateDict(state);
    expect(await b.forward(ids()).array()).toEqual(await a.forward(ids()).array());
    const renamed = new Map(state);
    renamed.set("head.weight", renamed.get("embed.weight") as Tensor);
    renamed.delete("embed.weight");
    expect(new Model(true).loadStateDict(renamed)).toEqual({ missing: [], unexpected: [] });
  });

  it("lists every missing, unexpected and misshapen entry at once and changes nothing", async () => {
    const model = new Model();
    const before = await model.head.weight.array();
    const state = new Map(model.stateDict());
    state.delete("mask");
    state.set("head.bias", zeros([7]));
    state.set("embed.weight", zeros([7, 5]));
    const load = () => model.loadStateDict(state);
    expect(load).toThrow(StateDictError);
    expect(load).toThrow(
      /missing: mask\. unexpected: head\.bias\. wrong shape: embed\.weight is \[7, 5\] and should be \[7, 4\]/,
    );
    expect(await model.head.weight.array()).toEqual(before);
    state.delete("embed.weight");
    expect(model.loadStateDict(state, { strict: false })).toEqual({
      missing: ["mask", "embed.weight"],
      unexpected: ["head.bias"],
    });
  });

  it("puts the module's path on nodes and errors", () => {
    const model = new Model();
    expect(model.forward(ids()).node.scope).toBe("head");
    Object.assign(model.blocks[1].attn, { v: new nn.Linear(5, 2) });
    expect(() => model.forward(ids())).toThrow(ShapeError);
    expect(() => model.forward(ids())).toThrow(/blocks\.1\.attn\.v/);
  });

  it("turns dropout off in eval", async () => {
    const drop = new nn.Sequential(new nn.Dropout(0.5), new nn.ReLU());
    const kept = (await drop.forward(ones([1000])).array()) as number[];
    expect(new Set(kept)).toEqual(new Set([0, 2]));
    expect(kept.filter((v) => v > 0).length).toBeGreaterThan(400);
    expect(
      await drop
        .eval()
        .forward(ones([5]))
        .array(),
    ).toEqual([1, 1, 1, 1, 1]);
  });

  it("changes dtype in place and applies functions to every module", async () => {
    const model = new Model().to("bfloat16");
    expect(model.head.weight.dtype).toBe("bfloat16");
    expect(model.forward(ids()).dtype).toBe("bfloat16");
    const kinds: string[] = [];
    model.apply((module) => kinds.push(module.constructor.name));
    expect(kinds.at(-1)).toBe("Model");
    expect(kinds.filter((kind) => kind === "Block").length).toBe(2);
    expect(`${model}`).toContain("(attn): SelfAttention(");
  });
});

describe("optimizers", () => {
  async function minimise(make: (w: Tensor) => optim.SGD | optim.Adam | optim.AdamW, steps: number) {
    const w = new nn.Parameter(tensor([1, -2]));
    const optimizer = make(w);
    for (let i = 0; i < steps; i++) {
      w.square().sum().backward();
      optimizer.step();
      optimizer.zeroGrad();
      await sync();
    }
    return (await w.array()) as number[];
  }
  const near = (a: number[], b: number[]) => a.forEach((v, i) => void expect(v).toBeCloseTo(b[i], 5));

  // The wanted values are torch.optim's, after 3 steps from [1, -2] on sum(w²).
  it("SGD with momentum, nesterov and weight decay", async () => {
    const reference = (nesterov: boolean) =>
      [1, -2].map((start) => {
        let [w, velocity] = [start, 0];
        for (let i = 0; i < 3; i++) {
          const g = 2 * w + 0.1 * w;
          velocity = 0.9 * velocity + g;
          w -= 0.1 * (nesterov ? g + 0.9 * velocity : velocity);
        }
        return w;
      });
    for (const nesterov of [false, true]) {
      near(
        await minimise((w) => new optim.SGD([w], { lr: 0.1, momentum: 0.9, weightDecay: 0.1, nesterov }), 3),
        reference(nesterov),
      );
    }
  });

  it("Adam and AdamW differ by where the decay goes", async () => {
    const reference = (decoupled: boolean) =>
      [1, -2].map((start) => {
        let [w, m, v] = [start, 0, 0];
        for (let t = 1; t <= 3; t++) {
          if (decoupled) w *= 1 - 0.1 * 0.5;
          const g = 2 * w * (decoupled ? 1 / (1 - 0.1 * 0.5) : 1) + (decoupled ? 0 : 0.5 * w);
          m = 0.9 * m + 0.1 * g;
          v = 0.999 * v + 0.001 * g * g;
          w -= (0.1 * (m / (1 - 0.9 ** t))) / (Math.sqrt(v / (1 - 0.999 ** t)) + 1e-8);
        }
        return w;
      });
    near(await minimise((w) => new optim.AdamW([w], { lr: 0.1, weightDecay: 0.5 }), 3), reference(true));
    near(await minimise((w) => new optim.Adam([w], { lr: 0.1, weightDecay: 0.5 }), 3), reference(false));
  });

  it("takes groups with settings of their own, in proportion to one learning rate", async () => {
    const [a, b] = [new nn.Parameter(tensor([1])), new nn.Parameter(tensor([1]))];
    const optimizer = new optim.SGD([{ params: [a] }, { params: [b], lr: 0.2 }], { lr: 0.1 });
    optimizer.lr = 0.05;
    a.sum().add(b.sum()).backward();
    optimizer.step();
    await sync();
    near([await a.item(), await b.item()], [0.95, 0.9]);
  });

  it("goes on from a saved state as if it had not stopped", async () => {
    const run = async (interrupt: boolean) => {
      manualSeed(5);
      let layer = new nn.Linear(3, 3);
      let optimizer = new optim.AdamW(layer.parameters(), { lr: 0.1 });
      for (let i = 0; i < 6; i++) {
        if (interrupt && i === 3) {
          [...layer.namedParameters()];
          const [weights, state] = [layer.stateDict(), optimizer.stateDict()];
          layer = new nn.Linear(3, 3);
          [...layer.namedParameters()];
          layer.loadStateDict(weights);
          optimizer = new optim.AdamW(layer.parameters(), { lr: 0.1 });
          optimizer.loadStateDict(state);
        }
        layer
          .forward(tensor([[1, 2, 3]]))
          .square()
          .sum()
          .backward();
        optimizer.step();
        optimizer.zeroGrad();
        await sync();
      }
      return layer.weight.array();
    };
    expect(await run(true)).toEqual(await run(false));
  });

  it("clips to the joint norm and tells the norm before", async () => {
    const [a, b] = [new nn.Parameter(tensor([3])), new nn.Parameter(tensor([4]))];
    a.mul(3).sum().add(b.mul(4).sum()).backward();
    const norm = optim.clipGradNorm([a, b], 1);
    expect(await norm.item()).toBeCloseTo(5, 5);
    near([(await a.grad?.item()) as number, (await b.grad?.item()) as number], [0.6, 0.8]);
  });

  it("refuses to update a leaf outside noGrad", async () => {
    const w = new nn.Parameter(tensor([1]));
    expect(() => w.add_(w)).toThrow(/noGrad/);
    noGrad(() => w.add_(1));
    expect(await w.item()).toBe(2);
  });

  it("follows its schedules", () => {
    const { constant, linear, cosine } = optim.schedules;
    const options = { lr: 1, steps: 10, warmup: 2, min: 0.1 };
    expect([0, 1, 2, 9].map(constant(options))).toEqual([0.5, 1, 1, 1]);
    near([2, 6, 10, 99].map(linear(options)), [1, 0.55, 0.1, 0.1]);
    near([1, 2, 6, 10].map(cosine(options)), [1, 1, 0.55, 0.1]);
  });
});

/** Summed over the dims that a broadcast from `shape` stretched. */
function sumTo(x: Tensor, shape: readonly number[]): Tensor {
  const front = x.rank - shape.length;
  const dims = x.shape.map((_, i) => i).filter((i) => i < front || shape[i - front] === 1);
  return x.sum(dims, true).reshape([...shape]);
}

describe("attention", () => {
  const [B, H, G, T, S, K] = [2, 4, 2, 5, 7, 3];
  const operands = () => [randn([B, H, T, K]), randn([B, G, S, K]), randn([B, G, S, K])];
  const ids = (list: readonly number[]): Tensor =>
    tensor([...list, ...list], { dtype: "int32" }).reshape([B, list.length]);

  it("is the same by a mask that says what a window and segments say", async () => {
    const [q, k, v] = operands();
    const segmentIds = [ids([0, 0, 1, 1, 1]), ids([0, 0, 0, 0, 1, 1, 1])] as const;
    const position = tensor([0, 1, 2, 3, 4])
      .reshape([T, 1])
      .add(S - T);
    const key = tensor([0, 1, 2, 3, 4, 5, 6]).reshape([1, S]);
    const inWindow = key.le(position).logicalAnd(key.gt(position.sub(4)));
    const own = segmentIds[0].reshape([B, 1, T, 1]).eq(segmentIds[1].reshape([B, 1, 1, S]));
    const seen = own.logicalAnd(inWindow);
    const direct = F.scaledDotProductAttention(q, k, v, { causal: true, window: 4, segmentIds });
    const byBool = F.scaledDotProductAttention(q, k, v, { attnMask: seen });
    const byBias = F.scaledDotProductAttention(q, k, v, {
      attnMask: zeros([B, 1, T, S]).where(seen, -Infinity),
    });
    for (const other of [byBool, byBias])
      expect(await other.sub(direct).abs().max().item()).toBeLessThan(1e-6);
  });

  it("gives a bias its gradient", async () => {
    const [q, k, v] = operands();
    const bias = randn([1, H, T, S]).requiresGrad_();
    const loss = (by: Tensor): Tensor =>
      F.scaledDotProductAttention(q, k, v, { causal: true, attnMask: by }).square().sum();
    loss(bias).backward();
    const grad = (await (bias.grad as Tensor).data()) as Float32Array;
    const direction = randn([1, H, T, S]);
    const step = 1e-2;
    const ahead = await noGrad(() => loss(bias.add(direction.mul(step)))).item();
    const behind = await noGrad(() => loss(bias.sub(direction.mul(step)))).item();
    const along = ((await direction.data()) as Float32Array).reduce((sum, x, i) => sum + x * grad[i], 0);
    expect((ahead - behind) / (2 * step)).toBeCloseTo(along, 2);
    expect(Math.abs(along)).toBeGreaterThan(0.1);
    expect(grad[S - 1]).toBe(0); // hidden from the first query
  });

  it("refuses masks, windows and segments that do not fit", () => {
    const [q, k, v] = operands();
    const attend = (options: object) => () => F.scaledDotProductAttention(q, k, v, options);
    expect(attend({ attnMask: zeros([S, T]) })).toThrow(
      "[attention] the mask must be [2 or 1, 4 or 1, 5 or 1, 7 or 1], but is [1, 1, 7, 5]",
    );
    expect(attend({ attnMask: zeros([1, B, H, T, S]) })).toThrow(/does not broadcast to \[B, H, T, S\]/);
    expect(attend({ attnMask: zeros([T, S], { dtype: "int32" }) })).toThrow(
      "[attention] the mask must be bool or float32 or a half type, as q is float32, but is int32[1, 1, 5, 7]",
    );
    expect(attend({ window: 0 })).toThrow(/the window is 0/);
    expect(attend({ segmentIds: zeros([B, T], { dtype: "int32" }) })).toThrow(/segments of keys/);
  });

  it("takes masks of fewer dims, and gives theirs to biases that are shared", async () => {
    const [q, k, v] = operands();
    const attend = (attnMask: Tensor): Tensor => F.scaledDotProductAttention(q, k, v, { attnMask });
    for (const shape of [[S], [T, 1], [T, S], [H, 1, S], [B, 1, 1, S]]) {
      const bias = randn(shape).requiresGrad_();
      const whole = zeros([B, H, T, S]).add(bias.detach()).requiresGrad_();
      const [short, long] = [attend(bias), attend(whole)];
      expect(await short.sub(long).abs().max().item()).toBeLessThan(1e-6);
      short.square().sum().backward();
      long.square().sum().backward();
      const grad = bias.grad as Tensor;
      expect(grad.shape).toEqual(shape);
      const sums = sumTo(whole.grad as Tensor, shape);
      expect(await grad.sub(sums).abs().max().item()).toBeLessThan(1e-5);
    }
  });

  it("gives 0 where a mask hides every key", async () => {
    const [q, k, v] = operands();
    const seen = tensor([1, 0, 1, 0, 0]).reshape([T, 1]).ne(0);
    const y = F.scaledDotProductAttention(q.requiresGrad_(), k, v, { attnMask: seen });
    y.sum().backward();
    const byQuery = async (x: Tensor): Promise<unknown> => x.abs().sum([0, 1, 3]).gt(0).array();
    expect(await byQuery(y)).toEqual([true, false, true, false, false]);
    expect(await byQuery(q.grad as Tensor)).toEqual([true, false, true, false, false]);
  });

  it.each([
    { causal: true },
    { causal: true, window: 256 },
    { isSegmented: true },
    { isMasked: true },
    { isBiased: true, causal: true },
  ])(
    "takes memory by the length, not its square: %j",
    async ({
      isSegmented,
      isMasked,
      isBiased,
      ...options
    }: {
      isSegmented?: boolean;
      isMasked?: boolean;
      isBiased?: boolean;
    }) => {
      const arena = async (length: number): Promise<number> => {
        const engine = configure({ device: "null" });
        let most = 0;
        engine.events.compile$.subscribe(({ info }) => {
          most = Math.max(most, info.arenaBytes);
        });
        const [q, k, v] = [1, 2, 3].map(() => ones([1, 2, length, 64]).requiresGrad_());
        const segments = isSegmented ? { segmentIds: zeros([1, length], { dtype: "int32" }) } : {};
        const mask = isMasked ? { attnMask: ones([1, 1, 1, length], { dtype: "bool" }) } : {};
        const bias = isBiased ? { attnMask: ones([length]).requiresGrad_() } : {};
        F.scaledDotProductAttention(q, k, v, { ...options, ...segments, ...mask, ...bias })
          .sum()
          .backward();
        await sync();
        return most;
      };
      const many = await arena(16384);
      expect(many).toBeLessThan(8.5 * (await arena(2048)));
      expect(many).toBeLessThan(16384 * 16384);
    },
  );
});

describe("functional", () => {
  it("reduces cross entropy over the targets that count", async () => {
    const logits = randn([3, 5]);
    const target = tensor([1, -100, 4], { dtype: "int32" });
    const [one, skipped, two] = (await F.crossEntropy(logits, target, {
      reduction: "none",
    }).array()) as number[];
    expect(skipped).toBe(0);
    expect(await F.crossEntropy(logits, target).item()).toBeCloseTo((one + two) / 2, 5);
    expect(await F.crossEntropy(logits, target, { reduction: "sum" }).item()).toBeCloseTo(one + two, 5);
    const x = tensor([
      [1, 0.5],
      [0, 2],
      [-1, 3],
    ]);
    const weight = tensor([
      [1, 0],
      [0, 1],
      [1, 1],
      [-1, 0.5],
      [2, -1],
    ]);
    for (const reduction of ["mean", "sum"] as const) {
      const options = { reduction, labelSmoothing: 0.1 };
      expect(await F.linearCrossEntropy(x, weight, target, options).item()).toBeCloseTo(
        await F.crossEntropy(F.linear(x, weight), target, options).item(),
        5,
      );
    }
    expect(() => F.linearCrossEntropy(x, logits, target)).toThrow(/weight must be \[V, 2\]/);
    expect(() => F.linearCrossEntropy(x, weight, zeros([3]))).toThrow(/takes int32 and int64/);
    expect(() => F.crossEntropy(logits, zeros([3]))).toThrow(/not integers/);
    expect(() => F.crossEntropy(logits, tensor([1], { dtype: "int32" }))).toThrow(/\[3, 5\].*\[1\]/);
  });

  it("attends with grouped queries as with repeated keys", async () => {
    const [q, k, v] = [randn([2, 4, 5, 8]), randn([2, 2, 5, 8]), randn([2, 2, 5, 8])];
    await sync(q, k, v);
    const repeat = (x: Tensor) => x.unsqueeze(2).expand([2, 2, 2, 5, 8]).reshape([2, 4, 5, 8]);
    const a = (await F.scaledDotProductAttention(q, k, v, { causal: true }).data()) as Float32Array;
    const b = (await F.scaledDotProductAttention(q, repeat(k), repeat(v), {
      causal: true,
    }).data()) as Float32Array;
    a.forEach((value, i) => void expect(value).toBeCloseTo(b[i], 5));
  });
});
