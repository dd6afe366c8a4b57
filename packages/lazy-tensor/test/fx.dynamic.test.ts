import { beforeEach, describe, expect, it } from "vitest";
import {
  compile,
  configure,
  F,
  fx,
  GuardError,
  manualSeed,
  nn,
  randn,
  sync,
  type Tensor,
  TraceError,
  tensor,
} from "../src/index.js";

beforeEach(() => {
  configure({ device: "cpu", verifyPasses: true });
  manualSeed(3);
});

class Model extends nn.Module {
  readonly attn = new nn.SelfAttention({ dim: 8, heads: 2, causal: true });
  readonly norm = new nn.LayerNorm(8);
  readonly out = new nn.Linear(8, 3);
  forward(x: Tensor): { logits: Tensor; pooled: Tensor; length: number } {
    const y = x.add(this.attn.forward(this.norm.forward(x), F.rotaryTables(x.shape[1], 4)));
    const flat = y.reshape([x.shape[0] * x.shape[1], 8]);
    const pooled = y.var([0, 1]).mul(1 / x.shape[1]);
    return { logits: this.out.forward(flat), pooled, length: 2 * x.shape[1] + 1 };
  }
}

const trace = (dynamic: fx.Dynamic, fn: (x: Tensor) => unknown, shape = [3, 4]): fx.GraphModule =>
  fx.symbolicTrace(fn, { exampleInputs: [fx.spec(shape)], dynamic });

describe("symbolic dims", () => {
  it("may differ in a compiled graph module, and nothing else may", async () => {
    const model = new nn.Linear(4, 2);
    const traced = fx.symbolicTrace(model, {
      exampleInputs: [fx.spec([3, 4])],
      dynamic: { 0: { name: "batch", max: 16 } },
    });
    const run = compile(traced, { fullgraph: true });
    for (const rows of [3, 5, 3, 5, 8]) {
      const x = randn([rows, 4]);
      const [given, wanted] = [run(x) as Tensor, model.forward(x)];
      expect(await given.array()).toEqual(await wanted.array());
    }
    expect(() => run(randn([3, 5]))).toThrow(/dim 1 was size 4 when traced, and is size 5 now/);
    expect(() => run(randn([17, 4]))).toThrow(GuardError);
    traced.train(false);
    expect(() => run(randn([8, 4]))).toThrow(/training was changed/);
    const fixed = compile((x: Tensor) => model.forward(x), { fullgraph: true });
    fixed(randn([3, 4]));
    expect(() => fixed(randn([5, 4]))).toThrow(/tensor argument 0 is float32\[5, 4\]/);
  });

  it.each([[undefined], [[] as []]])("run at other sizes as the module does", async (leafModules) => {
    const model = new Model();
    const traced = fx.symbolicTrace(model, {
      exampleInputs: [fx.spec([2, 5, 8])],
      dynamic: { 0: "batch", 1: "seq" },
      leafModules,
    });
    traced.lint();
    expect(traced.graph.symbols).toEqual(
      new Map([
        ["batch", { hint: 2, min: 1, max: Number.POSITIVE_INFINITY }],
        ["seq", { hint: 5, min: 1, max: Number.POSITIVE_INFINITY }],
      ]),
    );
    expect(`${traced.graph}`).toMatch(/reshape\(%\w+\) \{shape=\[batch\*seq, 8\]\}/);
    for (const shape of [
      [2, 5, 8],
      [1, 7, 8],
      [6, 2, 8],
    ]) {
      const x = randn(shape);
      await sync(x);
      const [a, b] = [model.forward(x), traced.forward(x)];
      expect(await b.logits.data()).toEqual(await a.logits.data());
      expect(await b.pooled.data()).toEqual(await a.pooled.data());
      expect(b.length).toBe(a.length);
    }
  });

  it("are expressions of the sizes, fractions too", () => {
    const traced = trace({ 0: "b", 1: "t" }, (x) =>
      x
        .reshape([-1])
        .broadcastTo([2 * x.shape[0] + 1, x.size])
        .mul(1 / x.shape[0])
        .add(3 - x.shape[1]),
    );
    const lines = `${traced.graph}`.split("\n").map((line) => line.replace(/^%\w+ = /, ""));
    expect(lines).toEqual([
      "placeholder x : float32[b, t]",
      "reshape(%x) {shape=[b*t]} : float32[b*t]",
      "broadcast_to(%reshape) {shape=[2*b + 1, b*t]} : float32[2*b + 1, b*t]",
      "full() {value=1/b, shape=[], dtype=float32} : float32[]",
      "mul(%broadcast_to, %full) : float32[2*b + 1, b*t]",
      "full() {value=-t + 3, shape=[], dtype=float32} : float32[]",
      "add(%mul, %full_1) : float32[2*b + 1, b*t]",
      "output %add",
      "",
    ]);
  });

  it("stay through inlining, a transformer and a pattern's replacement", async () => {
    const traced = fx.symbolicTrace(new nn.Sequential(new nn.Linear(4, 4), new nn.ReLU()), {
      exampleInputs: [fx.spec([2, 4])],
      dynamic: { 0: "batch" },
    });
    const inlined = fx.inlineModules(traced);
    expect(
      fx.replacePattern(
        inlined,
        (x: Tensor) => x.relu(),
        (x: Tensor) => x.reshape([x.size]).tanh().reshape(x.shape),
      ),
    ).toHaveLength(1);
    expect(`${inlined.lint().graph}`).toContain("{shape=[4*batch]}");
    const transformed = new fx.Transformer(inlined).transform();
    expect(transformed.forward(randn([7, 4])).shape).toEqual([7, 4]);
    expect(transformed.graph.symbols).toEqual(traced.graph.symbols);
  });

  it("are told from sizes that are equal by chance", () => {
    const traced = trace({ x: { 0: "b" } }, (x) => x.sum(0).broadcastTo([4, 4]), [4, 4]);
    expect(`${traced.graph}`).toContain("broadcast_to(%sum) {shape=[4, 4]} : float32[4, 4]");
  });

  it("may not be 1 where a dim of 1 is another program", () => {
    const traced = trace({ 0: "b" }, (x) => x.squeeze().neg());
    expect(traced.graph.symbols.get("b")?.min).toBe(2);
    expect(() => traced.forward(randn([1, 4]))).toThrow(
      "b is 1 in x, dim 0, and was traced for 2 to Infinity",
    );
    expect(traced.forward(randn([2, 4])).shape).toEqual([2, 4]);
  });

  it("keep to their range", () => {
    const traced = trace({ 0: { name: "b", min: 2, max: 6 } }, (x) => x.neg());
    expect(() => traced.forward(randn([7, 4]))).toThrow("b is 7 in x, dim 0, and was traced for 2 to 6");
    // The ends of the range are traced: a threshold inside it is found.
    const threshold = (x: Tensor): Tensor => (x.shape[0] > 5 ? x.neg() : x);
    expect(() => trace({ 0: { name: "b", max: 40 } }, threshold, [2, 4])).toThrow(TraceError);
  });
});

describe("what a symbolic dim refuses", () => {
  it.each([
    [
      "a number that is no polynomial of the size",
      (x: Tensor) => x.mul(Math.sqrt(x.shape[0])),
      "value is 1.7320508075688772 at b=3, and 2 at b=4, which is no polynomial",
    ],
    ["ops by the size", (x: Tensor) => (x.shape[0] > 3 ? x : x.neg()), "node 1 is neg at b=3, and output"],
    ["a loop over the dim", (x: Tensor) => x.split(1).reduce((a, b) => a.add(b)), "the program depends on b"],
    ["a fixed shape", (x: Tensor) => x.reshape([3, 4]), "b=3 can be traced, b=4 cannot: [reshape]"],
    [
      "a tensor made of the size",
      (x: Tensor) => x.add(tensor(x.shape[0])),
      "a tensor is made from numbers at b=3, and other numbers at b=4",
    ],
  ])("%s", (_, fn, message) => {
    expect(() => trace({ 0: "b" }, fn)).toThrow(TraceError);
    expect(() => trace({ 0: "b" }, fn)).toThrow(message);
  });

  it("names and dims that are not there", () => {
    expect(() => trace({ y: { 0: "b" } }, (x) => x)).toThrow("no input is or has a dim y");
    expect(() => trace({ 4: "b" }, (x) => x)).toThrow("no input is or has a dim 4");
    expect(() => trace({ x: { 2: "b" } }, (x) => x)).toThrow("x has 2 dims, and dim 2 is to be b");
    expect(() => trace({ 0: "a b" }, (x) => x)).toThrow('"a b" is no name for a dim');
    const sum = (x: Tensor, y: Tensor): Tensor => x.add(y);
    expect(() =>
      fx.symbolicTrace(sum, { exampleInputs: [fx.spec([2, 4]), fx.spec([1, 4])], dynamic: { 0: "b" } }),
    ).toThrow("b is 2 in x, dim 0, and 1 in y, dim 0");
  });

  it("sizes that differ between inputs in a run", () => {
    const sum = (x: Tensor, y: Tensor): Tensor => x.sum(0).add(y.sum(0));
    const traced = fx.symbolicTrace(sum, {
      exampleInputs: [fx.spec([2, 4]), fx.spec([2, 4])],
      dynamic: { 0: "b" },
    });
    expect(() => traced.forward(randn([3, 4]), randn([5, 4]))).toThrow(GuardError);
    expect(() => traced.forward(randn([3, 4]), randn([5, 4]))).toThrow(
      "b is 3 in x, dim 0, but 5 in y, dim 0",
    );
    expect(() => traced.forward(randn([3, 5]), randn([3, 4]))).toThrow(
      "x, dim 1 was size 4 when traced, and is size 5",
    );
  });

  it("a shape that comes out other than it was derived", () => {
    const traced = trace({ 0: "b" }, (x) => x.neg());
    traced.graph.findNodes({ target: "neg" })[0].replaceInputWith(
      traced.graph.placeholders[0],
      traced.graph.insertingBefore(traced.graph.findNodes({ target: "neg" })[0], () =>
        traced.graph.callFunction("slice", [traced.graph.placeholders[0]], {
          starts: [1, 0],
          limits: [3, 4],
          steps: [1, 1],
        }),
      ),
    );
    expect(() => traced.forward(randn([3, 4]))).toThrow(
      "dim 0 of neg is b = 3 by the trace, and came out as 2",
    );
  });
});
