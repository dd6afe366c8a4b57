import { autocastPass, buildGraph, formatGraph, input, ops, verify } from "@lazuli/fx-trace";
import { beforeEach, describe, expect, it } from "vitest";
import {
  autocast,
  compile,
  configure,
  DTypeError,
  F,
  manualSeed,
  nn,
  ones,
  optim,
  randn,
  sync,
  type Tensor,
  tensor,
  zeros,
} from "../src/index.js";

beforeEach(() => {
  configure({ device: "cpu", verifyPasses: true });
  manualSeed(5);
});

class Net extends nn.Module {
  norm = new nn.RMSNorm(16);
  up = new nn.Linear(16, 32);
  down = new nn.Linear(32, 16);
  forward(x: Tensor): Tensor {
    return x.add(this.down.forward(F.silu(this.up.forward(this.norm.forward(x)))));
  }
}

describe("autocast", () => {
  it("makes products narrow, norms and sums float32, and leaves float64 alone", () => {
    const x = randn([4, 16]);
    const net = new Net();
    autocast("bfloat16", () => {
      expect(net.norm.forward(x).dtype).toBe("float32");
      expect(net.norm.forward(x.to("bfloat16")).dtype).toBe("float32");
      const y = net.up.forward(x);
      expect(y.dtype).toBe("bfloat16");
      expect(F.silu(y).dtype).toBe("bfloat16");
      expect(y.exp().dtype).toBe("float32");
      expect(y.sum().dtype).toBe("float32");
      expect(y.softmax().dtype).toBe("float32");
      expect(y.add(x.sum()).dtype).toBe("float32");
      expect(net.forward(x).dtype).toBe("float32");
      expect(x.to("float64").matmul(x.to("float64").transpose(0, 1)).dtype).toBe("float64");
      const q = x.reshape([1, 2, 2, 16]);
      expect(F.scaledDotProductAttention(q, q, q).dtype).toBe("bfloat16");
      // A bias is not cast: far positions' would be rounded to one another.
      const biased = F.scaledDotProductAttention(q, q, q, { attnMask: x.mean().reshape([1, 1]) });
      expect(biased.dtype).toBe("bfloat16");
      expect(biased.node.inputs[0].inputs.map(({ dtype }) => dtype)).toEqual([
        "bfloat16",
        "bfloat16",
        "bfloat16",
        "float32",
      ]);
    });
    expect(net.up.forward(x).dtype).toBe("float32");
    expect(() => autocast("float32", () => x)).toThrow(DTypeError);
  });

  it("gives gradients in the parameters' dtype, near those of float32", async () => {
    const x = randn([8, 16]);
    const net = new Net();
    const gradients = async (run: (fn: () => Tensor) => Tensor) => {
      const loss = run(() => net.forward(x).square().mean());
      loss.backward();
      const grads = net.parameters().map((param) => param.grad as Tensor);
      expect(grads.every(({ dtype }) => dtype === "float32")).toBe(true);
      const out = await Promise.all([loss, ...grads].map((value) => value.data()));
      for (const param of net.parameters()) param.grad = null;
      return out.map((values) => [...values].map(Number));
    };
    const exact = await gradients((fn) => fn());
    const mixed = await gradients((fn) => autocast("bfloat16", fn));
    exact.forEach((values, i) => {
      const norm = Math.hypot(...values);
      const error = Math.hypot(...values.map((value, k) => value - mixed[i][k]));
      expect(error).toBeGreaterThan(0);
      expect(error / norm).toBeLessThan(1e-2);
    });
  });

  it("is a pass over a recorded forward: inputs and outputs keep their dtypes", () => {
    const graph = buildGraph(() => {
      const x = input([], { index: 0, shape: [4, 8], dtype: "float32" });
      const w = input([], { index: 1, shape: [8, 8], dtype: "float32" });
      const mm = (a: typeof x, b: typeof x) =>
        ops.dot_general([a, b], { lhs_contract: [1], rhs_contract: [0], lhs_batch: [], rhs_batch: [] });
      return ops.add([mm(ops.relu([mm(x, w)]), w), x]);
    });
    const mixed = autocastPass("bfloat16")(graph);
    verify(mixed);
    expect(formatGraph(mixed)).toMatchInlineSnapshot(`
      "%0 = input() {index=0, shape=[4, 8], dtype=float32} : float32[4, 8]
      %1 = input() {index=1, shape=[8, 8], dtype=float32} : float32[8, 8]
      %2 = cast(%0) {dtype=bfloat16} : bfloat16[4, 8]
      %3 = cast(%1) {dtype=bfloat16} : bfloat16[8, 8]
      %4 = dot_general(%2, %3) {lhs_contract=[1], rhs_contract=[0], lhs_batch=[], rhs_batch=[]} : bfloat16[4, 8]
      %5 = relu(%4) : bfloat16[4, 8]
      %6 = cast(%1) {dtype=bfloat16} : bfloat16[8, 8]
      %7 = dot_general(%5, %6) {lhs_contract=[1], rhs_contract=[0], lhs_batch=[], rhs_batch=[]} : bfloat16[4, 8]
      %8 = cast(%7) {dtype=float32} : float32[4, 8]
      %9 = add(%8, %0) : float32[4, 8]
      outputs %9
      "
    `);
  });

  it("is a guard of compiled functions", () => {
    const f = compile((x: Tensor) => x.matmul(x), { fullgraph: true });
    const x = ones([2, 2]);
    expect(autocast("bfloat16", () => f(x)).dtype).toBe("bfloat16");
    expect(() => f(x)).toThrow(/autocast is off, was bfloat16/);
  });
});

describe("GradScaler", () => {
  it("trains as without it, in float16 products", async () => {
    const losses = async (scaler: optim.GradScaler | null) => {
      manualSeed(9);
      const net = new Net();
      await sync();
      const optimizer = new optim.AdamW(net.parameters(), { lr: 1e-2 });
      const x = randn([8, 16]);
      await sync(x);
      const out: number[] = [];
      for (let i = 0; i < 5; i++) {
        const loss = autocast("float16", () => net.forward(x).square().mean());
        (scaler ? scaler.scale(loss) : loss).backward();
        if (scaler) scaler.step(optimizer);
        else optimizer.step();
        scaler?.update();
        optimizer.zeroGrad();
        out.push(await loss.item());
      }
      return out;
    };
    const plain = await losses(null);
    const scaled = await losses(new optim.GradScaler({ initScale: 1024 }));
    scaled.forEach((loss, i) => {
      expect(Math.abs(loss - plain[i]) / plain[i]).toBeLessThan(2e-3);
    });
    expect(plain[4]).toBeLessThan(plain[0]);
  });

  it("skips steps that overflow, parameters and state untouched, and adjusts its factor, without a read", async () => {
    const w = tensor([1, 2], { requiresGrad: true });
    const optimizer = new optim.AdamW([w], { lr: 0.1, weightDecay: 0 });
    const scaler = new optim.GradScaler({ initScale: 8, growthInterval: 2 });
    const step = compile(
      (x: Tensor) => {
        scaler.scale(w.mul(x).sum()).backward();
        scaler.step(optimizer);
        scaler.update();
        optimizer.zeroGrad();
      },
      { fullgraph: true },
    );
    const seen: { scale: number; w: unknown; m: unknown; count: unknown }[] = [];
    for (const x of [1, Number.POSITIVE_INFINITY, 1, Number.NaN, 1, 1]) {
      step(tensor([1, x]));
      const state = optimizer.stateDict();
      const m = [...state].find(([name]) => name.endsWith("exp_avg"))?.[1] as Tensor;
      seen.push({
        scale: await scaler.getScale(),
        w: await w.array(),
        m: await m.array(),
        count: await (state.get("step") as Tensor).item(),
      });
    }
    expect(seen.map(({ scale }) => scale)).toEqual([8, 4, 4, 2, 2, 4]);
    expect(seen.map(({ count }) => count)).toEqual([1, 1, 2, 2, 3, 4]);
    expect(seen[1]).toEqual({ ...seen[0], scale: 4 });
    expect(seen[3]).toEqual({ ...seen[2], scale: 2 });
    expect(seen[2].w).not.toEqual(seen[1].w);
  });

  it("divides gradients before they are clipped, keeps its state, and refuses wrong use", async () => {
    const w = tensor([3], { requiresGrad: true });
    const optimizer = new optim.SGD([w], { lr: 1 });
    const scaler = new optim.GradScaler({ initScale: 64 });
    expect(() => scaler.update()).toThrow(/no step was taken/);
    expect(() => scaler.unscale_(optimizer)).toThrow(/no parameter of the optimizer has a gradient/);
    scaler.scale(w.mul(2).sum()).backward();
    scaler.unscale_(optimizer);
    expect(() => scaler.unscale_(optimizer)).toThrow(/divided already/);
    expect(await (w.grad as Tensor).array()).toEqual([2]);
    scaler.step(optimizer);
    scaler.update();
    expect(await w.array()).toEqual([1]);
    const other = new optim.GradScaler();
    other.loadStateDict(scaler.stateDict());
    expect(await other.getScale()).toBe(64);
    expect(() => other.loadStateDict(new Map([["scale", zeros([])]]))).toThrow(/no growth_tracker/);
    expect(() => new optim.GradScaler({ backoffFactor: 0 })).toThrow(/backoffFactor is 0/);
  });
});
