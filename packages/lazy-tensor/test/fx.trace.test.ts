import { beforeEach, describe, expect, it } from "vitest";
import {
  configure,
  F,
  fx,
  GuardError,
  manualSeed,
  nn,
  noGrad,
  ones,
  optim,
  randn,
  sync,
  type Tensor,
  TraceError,
  tensor,
  valueAndGrad,
  zeros,
} from "../src/index.js";

beforeEach(() => {
  configure({ device: "cpu", verifyPasses: true });
  manualSeed(3);
});

class Mlp extends nn.Module {
  readonly up = new nn.Linear(4, 8);
  readonly down = new nn.Linear(8, 4);
  forward(x: Tensor): Tensor {
    return x.add(this.down.forward(this.up.forward(x).relu()));
  }
}

const text = (lines: readonly string[]): string => `${lines.join("\n")}\n`;

describe("symbolicTrace", () => {
  it("writes down what a module does, leaf modules as one node", async () => {
    const model = new Mlp();
    const x = randn([2, 4]);
    const traced = fx.symbolicTrace(model, { exampleInputs: [x] });
    expect(`${traced.graph}`).toBe(
      text([
        "%x = placeholder x : float32[2, 4]",
        "%up = call_module up(%x) : float32[2, 8]  # up",
        "%relu = relu(%up) : float32[2, 8]",
        "%down = call_module down(%relu) : float32[2, 4]  # down",
        "%add = add(%x, %down) : float32[2, 4]",
        "output %add",
      ]),
    );
    traced.lint();
    const [a, b] = [model.forward(x), traced.forward(x)];
    expect(await b.data()).toEqual(await a.data());
    expect([...traced.stateDict()]).toEqual([...model.stateDict()]);
    expect(`${traced}`).toBe(`${model}`);
  });

  it("inlines everything where nothing is a leaf, and traces again", () => {
    const inlined = fx.symbolicTrace(new Mlp(), { exampleInputs: [randn([2, 4])], leafModules: [] });
    const again = fx.symbolicTrace(inlined, { exampleInputs: [fx.spec([2, 4])] });
    expect(inlined.graph.findNodes({ op: "call_module" })).toEqual([]);
    expect(`${again.graph}`).toBe(`${inlined.graph}`);
    expect(`${inlined.graph}`).toContain("%up_weight = get_attr up.weight : float32[8, 4]  # up");
    const kept = fx.symbolicTrace(new Mlp(), { exampleInputs: [fx.spec([2, 4])] });
    expect(`${fx.inlineModules(kept).graph}`).toBe(`${inlined.graph}`);
    expect(`${fx.symbolicTrace(kept, { exampleInputs: [fx.spec([2, 4])] }).graph}`).toBe(`${kept.graph}`);
  });

  it("takes leaves by class and by test", () => {
    const exampleInputs = [fx.spec([2, 4])];
    const pair = new nn.Sequential(new Mlp(), new nn.ReLU());
    const calls = (leafModules: fx.TraceOptions["leafModules"]): string[] =>
      fx
        .symbolicTrace(pair, { exampleInputs, leafModules })
        .graph.findNodes({ op: "call_module" })
        .map((node) => node.targetName);
    expect(calls(undefined)).toEqual(["0.up", "0.down", "1"]);
    expect(calls([Mlp])).toEqual(["0"]);
    expect(calls((_, path) => path.endsWith("down"))).toEqual(["0.down"]);
  });

  it("keeps structures, optional parts and constants", async () => {
    const fn = (
      x: Tensor,
      { scale, bias }: { scale: Tensor; bias?: Tensor; by: number },
      mode: string,
    ): { parts: Tensor[]; top: { values: Tensor }; mode: string; none: null } => {
      const y = x.mul(scale);
      return { parts: [y, x], top: (bias ? y.add(bias) : y).topk(2), mode, none: null };
    };
    const [x, scale] = [randn([3, 4]), randn([4])];
    const traced = fx.symbolicTrace(fn, {
      exampleInputs: [x, { scale, by: 2 }],
      concreteArgs: { mode: "fast" },
    });
    expect(traced.graph.placeholders.map((node) => node.name)).toEqual(["x", "scale"]);
    const out = traced.forward(x, { scale, by: 2 }, "fast");
    expect(out.parts[1]).toBe(x);
    expect([out.mode, out.none, Object.keys(out.top)]).toEqual(["fast", null, ["values", "indices"]]);
    expect(await out.top.values.array()).toEqual(await x.mul(scale).topk(2).values.array());
    expect(() => fx.symbolicTrace(fn, { concreteArgs: { speed: 1 } })).toThrow(
      "[trace] concreteArgs names speed, and the arguments are x, , mode",
    );
  });

  it("takes a leaf's structure apart, and reads constants by name", async () => {
    class Pair extends nn.Module {
      forward(x: Tensor): { halves: Tensor[]; size: number } {
        return { halves: x.chunk(2, -1), size: x.size };
      }
    }
    class Model extends nn.Module {
      readonly pair = new Pair();
      readonly mask = tensor([1, 0]);
      readonly table = { rows: [ones([2])] };
      forward(x: Tensor): Tensor {
        const { halves, size } = this.pair.forward(x);
        return halves[1]
          .mul(this.mask)
          .add(this.table.rows[0])
          .mul(tensor([2, 3]))
          .add(size);
      }
    }
    const model = new Model();
    const x = randn([2, 4]);
    const traced = fx.symbolicTrace(model, { exampleInputs: [x], leafModules: [Pair] });
    expect(`${traced.graph}`).toBe(
      text([
        "%x = placeholder x : float32[2, 4]",
        "%pair = call_module pair(%x)  # pair",
        '%pair_halves = get_item(%pair, "halves")  # pair',
        "%pair_halves_1 = get_item(%pair_halves, 1) : float32[2, 2]  # pair",
        "%mask = get_attr mask : float32[2]",
        "%mul = mul(%pair_halves_1, %mask) : float32[2, 2]",
        "%table_rows_0 = get_attr table.rows.0 : float32[2]",
        "%add = add(%mul, %table_rows_0) : float32[2, 2]",
        "%_tensor_constant0 = get_attr _tensor_constant0 : float32[2]",
        "%mul_1 = mul(%add, %_tensor_constant0) : float32[2, 2]",
        "%full = full() {value=8, shape=[], dtype=float32} : float32[]",
        "%add_1 = add(%mul_1, %full) : float32[2, 2]",
        "output %add_1",
      ]),
    );
    expect(await traced.lint().forward(x).data()).toEqual(await model.forward(x).data());
    expect([...traced.stateDict().keys()]).toEqual([]);
  });

  it("draws new random numbers at every run, those of the module itself", async () => {
    class Noisy extends nn.Module {
      readonly drop = new nn.Dropout(0.5);
      forward(x: Tensor): Tensor {
        return F.dropout(this.drop.forward(x), 0.3).add(randn([8]));
      }
    }
    const model = new Noisy();
    const x = ones([4, 8]);
    const runs = async (run: nn.Module): Promise<unknown[]> => {
      manualSeed(7);
      const out: unknown[] = [];
      for (let i = 0; i < 2; i++) out.push(await (run.forward(...([x] as never[])) as Tensor).array());
      return out;
    };
    for (const leafModules of [undefined, []]) {
      const [first, second] = await runs(fx.symbolicTrace(model, { exampleInputs: [x], leafModules }));
      expect(first).not.toEqual(second);
      expect([first, second]).toEqual(await runs(model));
    }
  });

  it("updates buffers as the module does, and leaves them alone while tracing", async () => {
    class Running extends nn.Module {
      readonly mean = new nn.Buffer(zeros([4]));
      readonly count = new nn.Buffer(zeros([]));
      forward(x: Tensor): Tensor {
        noGrad(() => {
          this.mean.mul_(0.9).add_(x.mean(0).mul(0.1));
          this.count.add_(1);
        });
        return x.sub(this.mean);
      }
    }
    const [model, other] = [new Running(), new Running()];
    const traced = fx.symbolicTrace(other, { exampleInputs: [fx.spec([3, 4])] });
    expect(await other.count.item()).toBe(0);
    for (let i = 0; i < 3; i++) {
      const x = randn([3, 4]);
      const [a, b] = [model.forward(x), traced.forward(x)];
      expect(await b.array()).toEqual(await a.array());
      expect(await other.mean.array()).toEqual(await model.mean.array());
    }
    expect(await other.count.item()).toBe(3);
  });

  it("lets gradients flow where they flowed", async () => {
    const weight = new nn.Parameter(randn([4]));
    const fn = (x: Tensor): Tensor => {
      const still = noGrad(() => x.mul(weight).exp());
      const { value, grads } = valueAndGrad((w: Tensor) => w.mul(x).tanh().sum())(weight);
      return still.mul(weight).sum().add(value).add(grads[0].square().sum());
    };
    const x = randn([4]);
    const gradient = async (run: (x: Tensor) => Tensor): Promise<unknown> => {
      weight.grad = null;
      run(x).backward();
      return (weight.grad as Tensor | null)?.array();
    };
    const traced = fx.symbolicTrace(fn, { exampleInputs: [x] });
    expect(traced.parameters()).toEqual([weight]);
    const wanted = await gradient(fn);
    expect(await gradient((y) => traced.forward(y))).toEqual(wanted);
    const lowered = fx.applyPass(traced.graph, (graph) => graph);
    expect(await gradient((y) => new fx.GraphModule(traced, lowered).forward(y))).toEqual(wanted);
  });

  it("trains as the module does", async () => {
    const losses = async (trace: boolean): Promise<number[]> => {
      manualSeed(1);
      const model = new Mlp();
      const x = randn([2, 4]);
      await sync(x);
      const run = trace ? fx.symbolicTrace(model, { exampleInputs: [x] }) : model;
      const optimizer = new optim.AdamW(run.parameters(), { lr: 1e-2 });
      const out: number[] = [];
      for (let i = 0; i < 5; i++) {
        const loss = F.mseLoss(run.forward(F.dropout(x, 0.3)), x);
        loss.backward();
        optimizer.step();
        optimizer.zeroGrad();
        await sync(loss);
        out.push(await loss.item());
      }
      return out;
    };
    expect(await losses(true)).toEqual(await losses(false));
  });

  it("adds nothing to what is pending", async () => {
    const pending = ones([3]).mul(2);
    const traced = fx.symbolicTrace((x: Tensor) => x.add(pending), { exampleInputs: [fx.spec([3])] });
    await sync();
    expect(pending.isPending).toBe(false);
    const sum = traced.forward(ones([3]));
    expect(await sum.sub(pending).array()).toEqual([1, 1, 1]);
  });
});

describe("what a trace refuses", () => {
  const x = fx.spec([3, 4]);
  const trace = (fn: (x: Tensor) => unknown): unknown => fx.symbolicTrace(fn, { exampleInputs: [x] });
  // biome-ignore-start lint/suspicious/noExplicitAny: what TypeScript would not let pass
  it.each([
    ["item", (t: any) => t.sum().item()],
    ["item", async (t: any) => ((await t.sum().item()) > 0 ? t : t.neg())],
    ["data", (t: any) => t.data()],
    ["array", (t: any) => t.array()],
    ["valueOf", (t: any) => (t > 0 ? t : t.neg())],
    ["valueOf", (t: any) => +t],
    ["valueOf", (t: any) => t.valueOf()],
    ["valueOf", (t: any) => t + 1],
    ["iterator", (t: any) => [...t]],
    ["sync", (t: any) => sync(t)],
    ["sync", () => sync()],
    ["requiresGrad", (t: any) => t.requiresGrad_()],
    ["backward", (t: any) => t.sum().backward()],
    ["Parameter", (t: any) => new nn.Buffer(t)],
    ["optim", () => new optim.SGD([ones([2])], { lr: 1 }).step()],
  ] as const)("%s, with the line it stands on", (op, fn) => {
    let error: unknown;
    try {
      trace(fn as never);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(TraceError);
    const { op: refused, source, message } = error as TraceError;
    if (op !== "optim") expect(refused).toBe(op);
    expect(source).toMatch(/fx\.trace\.test\.ts:\d+:\d+ \(.*\)$/);
    expect(message).toContain(source);
  });
  // biome-ignore-end lint/suspicious/noExplicitAny: as above

  it("an error that the function caught", () => {
    const fn = (t: Tensor): Tensor => {
      try {
        if (Number(t) > 0) return t;
      } catch {
        return t.neg();
      }
      return t;
    };
    expect(() => trace(fn)).toThrow("[valueOf]");
  });

  it("async functions, and results that are no structures", () => {
    expect(() => trace(async (t) => t)).toThrow("[trace] the traced function is async");
    expect(() => trace((t) => new Map([["t", t]]))).toThrow("[output] a Map is returned");
  });

  it("assigning to what neither the module nor the trace owns", () => {
    const outside = ones([3, 4]);
    expect(() => trace((t) => outside.add_(t))).toThrow("[assign] Tensor(float32[3, 4]");
    expect(outside.node.inputs).toEqual([]);
  });

  it("shapes that do not fit, where they stand", () => {
    expect(() =>
      fx.symbolicTrace(new nn.Sequential(new Mlp()), { exampleInputs: [fx.spec([2, 5])] }),
    ).toThrow(/\[linear\] .* \(in 0\.up\)/);
  });

  it("the use of a traced value after the trace", async () => {
    let leaked: Tensor | undefined;
    trace((t) => {
      leaked = t.exp();
      return leaked;
    });
    await expect((leaked as Tensor).data()).rejects.toThrow(TraceError);
    await expect((leaked as Tensor).neg().data()).rejects.toThrow("was traced and has no data");
  });
});

describe("what a traced module refuses", () => {
  const example = (): [Tensor, { a: Tensor; k: number }] => [ones([3, 4]), { a: ones([2]), k: 3 }];
  const fn = (x: Tensor, o: { a: Tensor; b?: Tensor; k: number }, mode = "m"): Tensor =>
    x.mul(o.k + mode.length).add(o.a.sum());

  it.each([
    ["x, dim 0 was size 3 when traced, and is size 2 now", () => [ones([2, 4]), example()[1]]],
    ["x was a shape [3, 4] when traced, and is [3] now", () => [ones([3]), example()[1]]],
    ["x was float32 when traced, and is int32 now", () => [ones([3, 4], { dtype: "int32" }), example()[1]]],
    ["x was a tensor float32[3, 4] when traced, and is 1 now", () => [1, example()[1]]],
    ["o.k was 3 when traced, and is 4 now", () => [ones([3, 4]), { a: ones([2]), k: 4 }]],
    ["o.b was not given when traced", () => [ones([3, 4]), { a: ones([2]), k: 3, b: ones([2]) }]],
    ["o was an object of a, k when traced, and is nothing now", () => [ones([3, 4])]],
    ["3 arguments are given, it was traced with 2", () => [...example(), "m"]],
  ])("%s", (message, args) => {
    const traced = fx.symbolicTrace(fn, { exampleInputs: example() });
    expect(() => traced.forward(...(args() as Parameters<typeof fn>))).toThrow(GuardError);
    expect(() => traced.forward(...(args() as Parameters<typeof fn>))).toThrow(message);
  });

  it("another value of a concrete argument", () => {
    const traced = fx.symbolicTrace(fn, { exampleInputs: example(), concreteArgs: { mode: "q" } });
    traced.forward(...example());
    traced.forward(...example(), "q");
    expect(() => traced.forward(...example(), "z")).toThrow('mode was "q" when traced, and is "z" now');
  });
});
