import { describe, expect, it } from "vitest";
import {
  F,
  fx,
  GraphError,
  manualSeed,
  nn,
  ones,
  randn,
  ShapeError,
  sync,
  type Tensor,
} from "../src/index.js";

class Block extends nn.Module {
  readonly norm: nn.LayerNorm;
  readonly up: nn.Linear;
  readonly down: nn.Linear;

  constructor(size: number) {
    super();
    this.norm = new nn.LayerNorm(size);
    this.up = new nn.Linear(size, 2 * size);
    this.down = new nn.Linear(2 * size, size);
  }

  forward(x: Tensor): Tensor {
    return x.add(this.down.forward(this.up.forward(this.norm.forward(x)).gelu()));
  }
}

class Net extends nn.Module {
  readonly blocks = new nn.ModuleList([new Block(4), new Block(4), new Block(4), new Block(4)]);
  readonly head = new nn.Linear(4, 2);

  forward(x: Tensor): { logits: Tensor; top: Tensor } {
    let h = x;
    for (const block of this.blocks) h = block.forward(h);
    const logits = this.head.forward(h);
    return { logits, top: logits.topk(1).values };
  }
}

const values = async (x: Tensor): Promise<number[]> => Array.from(await x.data(), Number);

async function expectSame(a: Tensor, b: Tensor): Promise<void> {
  expect(a.shape).toEqual(b.shape);
  expect(await values(a)).toEqual(await values(b));
}

const traced = (leafModules?: []): { net: Net; module: fx.GraphModule; x: Tensor } => {
  const net = new Net();
  const x = randn([3, 4]);
  return { net, x, module: fx.symbolicTrace(net, { exampleInputs: [x], leafModules }) };
};

const stagesOf = (module: fx.GraphModule): fx.GraphModule[] =>
  module.graph
    .findNodes({ op: "call_module" })
    .map((node) => module.getSubmodule(node.target as string) as fx.GraphModule);

describe("shapeProp", () => {
  it("writes the types for other arguments, computing nothing", () => {
    const { module } = traced();
    fx.shapeProp(module, fx.spec([7, 4]));
    const shapes = module.graph.findNodes({ op: "call_module" }).map((node) => node.type?.shape);
    expect(shapes[0]).toEqual([7, 4]);
    expect(shapes.at(-1)).toEqual([7, 2]);
    expect(module.forward(randn([7, 4])).logits.shape).toEqual([7, 2]);
  });

  it("follows an edit, and says which node does not fit, leaving the types", () => {
    const module = fx.symbolicTrace((x: Tensor) => x.transpose(0, 1).sum(0), {
      exampleInputs: [randn([2, 3])],
    });
    const [transpose] = module.graph.findNodes({ target: "transpose" });
    transpose.replaceAllUsesWith(module.graph.placeholders[0]);
    fx.shapeProp(module, fx.spec([2, 3]));
    expect(module.graph.findNodes({ target: "sum" })[0].type?.shape).toEqual([3]);
    const { module: net } = traced();
    const before = net.graph.nodes.map((node) => node.types);
    expect(() => fx.shapeProp(net, fx.spec([3, 5]))).toThrow(ShapeError);
    expect(net.graph.nodes.map((node) => node.types)).toEqual(before);
  });
});

describe("splitModule", () => {
  it.each([
    ["leaf modules", undefined],
    ["all ops", []],
  ] as const)("into balanced stages runs the same, with the same state dict (%s)", async (_, leaves) => {
    const { net, module, x } = traced(leaves as [] | undefined);
    const split = fx.splitModule(module, fx.splitBalanced(module, 4)).lint();
    expect(stagesOf(split).length).toBe(4);
    for (const stage of stagesOf(split)) stage.lint();
    expect([...split.stateDict()]).toEqual([...net.stateDict()]);
    expect(split.parameters()).toEqual(net.parameters());
    await expectSame(split.forward(x).logits, net.forward(x).logits);
    await expectSame(split.forward(x).top, net.forward(x).top);
    await expectSame(fx.symbolicTrace(split, { exampleInputs: [x] }).forward(x).top, net.forward(x).top);
  });

  it("balances what stages cost", () => {
    const { module } = traced();
    const assign = fx.splitBalanced(module, 4);
    const costs = [0, 0, 0, 0];
    for (const node of module.graph)
      if (!["placeholder", "output"].includes(node.op))
        costs[assign(node) as number] += fx.nodeCost(module, node);
    const total = costs.reduce((a, b) => a + b, 0);
    expect(Math.min(...costs)).toBeGreaterThan(0);
    expect(Math.max(...costs)).toBeLessThan(total * 0.4);
    expect(() => fx.splitBalanced(module, 1000)).toThrow(GraphError);
  });

  it("begins stages where modules do", async () => {
    const { net, module, x } = traced([]);
    const split = fx.splitModule(module, fx.splitAt(module, ["blocks.1", "blocks.3", "head"]));
    const scopes = stagesOf(split).map((stage) =>
      [...new Set(stage.graph.nodes.map(({ scope }) => scope.split(".").slice(0, 2).join(".")))].filter(
        Boolean,
      ),
    );
    expect(scopes).toEqual([["blocks.0"], ["blocks.1", "blocks.2"], ["blocks.3"], ["head"]]);
    await expectSame(split.forward(x).logits, net.forward(x).logits);
    expect(() => fx.splitAt(module, ["blocks.9"])).toThrow(/blocks\.9/);
  });

  it("by a callback, with nodes left around the parts; refuses parts that wait for each other", async () => {
    const { net, module, x } = traced([]);
    let part = 0;
    const split = fx.splitModule(module, (node) => {
      if (!node.calls("gelu")) return part;
      part++;
      return null;
    });
    expect(split.graph.findNodes({ target: "gelu" }).length).toBe(4);
    expect(stagesOf(split).length).toBe(5);
    await expectSame(split.forward(x).logits, net.forward(x).logits);
    const inCircle = (node: fx.FxNode): number => (node.calls("gelu") ? 1 : 0);
    expect(() => fx.splitModule(module, inCircle)).toThrow(
      /in a circle: 0 reads gelu of 1, 1 reads \w+ of 0/,
    );
  });

  it("keeps buffers that are given values, and random draws, in their stages", async () => {
    class Counting extends nn.Module {
      readonly count = new nn.Buffer(ones([1]));
      forward(x: Tensor): Tensor {
        this.count.add_(1);
        return F.dropout(x.mul(this.count), 0.5);
      }
    }
    const counting = new Counting();
    const x = randn([5]);
    const module = fx.symbolicTrace(counting, { exampleInputs: [x] });
    await sync();
    const split = fx.splitModule(module, fx.splitBalanced(module, 2));
    const before = await counting.count.item();
    manualSeed(4);
    const first = await values(split.forward(x));
    expect(await counting.count.item()).toBe(before + 1);
    manualSeed(4);
    const scaled = (await values(module.forward(x))).map((value) => value / (before + 2));
    for (const [i, value] of first.entries()) expect(value / (before + 1)).toBeCloseTo(scaled[i], 5);
  });
});

describe("partitionBySupport", () => {
  it("collects what is supported into as few parts as there can be", async () => {
    const { net, module, x } = traced([]);
    const supported = (node: fx.FxNode): boolean => !node.calls("gelu");
    const { module: split, parts } = fx.partitionBySupport(module, supported);
    expect(parts.length).toBe(5);
    expect(split.graph.findNodes({ target: "gelu" }).length).toBe(4);
    expect(split.graph.findNodes({ op: "call_module" }).length).toBe(5);
    expect(parts.flat().every(supported)).toBe(true);
    await expectSame(split.lint().forward(x).top, net.forward(x).top);
  });

  it("never makes parts that wait for each other", async () => {
    // a is read by both, and the unsupported exp stands between the two adds.
    const fn = (x: Tensor): Tensor => {
      const a = x.neg();
      return a.add(a.exp().neg()).add(a);
    };
    const x = randn([3]);
    const module = fx.symbolicTrace(fn, { exampleInputs: [x] });
    const { module: split, parts } = fx.partitionBySupport(module, (node) => !node.calls("exp"));
    expect(parts.length).toBe(2);
    await expectSame(split.forward(x), fn(x));
    const small = fx.partitionBySupport(module, (node) => !node.calls("exp"), { minSize: 2 });
    expect(small.parts.length).toBe(1);
    await expectSame(small.module.forward(x), fn(x));
  });
});

describe("cse", () => {
  it("merges equal ops and reads, not draws", async () => {
    const w = randn([3]);
    const fn = (x: Tensor): Tensor => x.mul(w).add(w.mul(x)).add(x.exp().mul(x.exp()));
    const x = randn([3]);
    const module = fx.cse(fx.symbolicTrace(fn, { exampleInputs: [x] })).lint();
    expect(module.graph.findNodes({ target: "exp" }).length).toBe(1);
    expect(module.graph.findNodes({ target: "mul" }).length).toBe(2);
    await expectSame(module.forward(x), fn(x));
    const drawn = fx.symbolicTrace((y: Tensor) => F.dropout(y, 0.5).add(F.dropout(y, 0.5)), {
      exampleInputs: [x],
    });
    expect(fx.cse(drawn).graph.findNodes({ target: "random_uniform" }).length).toBe(2);
  });
});

describe("constFold", () => {
  it("computes what inputs and parameters do not reach, once", async () => {
    class Rotated extends nn.Module {
      readonly layer = new nn.Linear(4, 4);
      forward(x: Tensor): Tensor {
        const { cos, sin } = F.rotaryTables(3, 4);
        return F.rotaryEmbedding(this.layer.forward(x), cos, sin);
      }
    }
    const rotated = new Rotated();
    const x = randn([3, 4]);
    const trace = (): fx.GraphModule => fx.symbolicTrace(rotated, { exampleInputs: [x], leafModules: [] });
    const module = (await fx.constFold(trace())).lint();
    expect(module.graph.findNodes({ target: "cos" })).toEqual([]);
    expect(module.graph.findNodes({ op: "get_attr" }).map((node) => node.target)).toContain("_folded0");
    expect(module.parameters()).toEqual(rotated.parameters());
    await expectSame(module.forward(x), rotated.forward(x));
    module.forward(x).sum().backward();
    expect(rotated.layer.weight.grad).not.toBeNull();

    const twice = fx.symbolicTrace((y: Tensor) => y.matmul(rotated.layer.weight.transpose(0, 1).mul(2)), {
      exampleInputs: [x],
      root: rotated,
    });
    const before = await values(twice.forward(x));
    const frozen = await fx.constFold(twice, { freeze: true });
    expect(frozen.graph.findNodes({ target: "mul" })).toEqual([]);
    expect(await values(frozen.forward(x))).toEqual(before);

    class Counting extends nn.Module {
      readonly count = new nn.Buffer(ones([1]));
      readonly scale = new nn.Buffer(ones([1]));
      forward(y: Tensor): Tensor {
        this.count.add_(1);
        return y.mul(this.count.mul(2)).mul(this.scale.mul(3));
      }
    }
    const counting = await fx.constFold(fx.symbolicTrace(new Counting(), { exampleInputs: [x] }), {
      freeze: true,
    });
    // A buffer that the graph writes is another one at every run.
    expect(
      counting.graph
        .findNodes({ op: "get_attr" })
        .map((node) => node.target)
        .sort(),
    ).toEqual(["_folded0", "count"]);
    expect(await values(counting.forward(ones([3, 4])))).toEqual(new Array(12).fill(12));
    expect(await values(counting.forward(ones([3, 4])))).toEqual(new Array(12).fill(18));
  });
});

describe("normalize", () => {
  it("drops what changes nothing, orders operands, reads attributes once", async () => {
    const w = randn([2, 3]);
    const fn = (x: Tensor): Tensor => {
      const y = x.reshape([2, 3]).to("float32");
      return w.mul(y.exp()).add(w).add(x.transpose(0, 1).transpose(0, 1));
    };
    const x = randn([2, 3]);
    const module = fx.normalize(fx.symbolicTrace(fn, { exampleInputs: [x] })).lint();
    expect(module.graph.findNodes({ target: "reshape" })).toEqual([]);
    expect(module.graph.findNodes({ op: "get_attr" }).length).toBe(1);
    await expectSame(module.forward(x), fn(x));
    const other = fx.normalize(
      fx.symbolicTrace((x: Tensor) => x.exp().mul(w).add(w).add(x.transpose(0, 1).transpose(0, 1)), {
        exampleInputs: [x],
      }),
    );
    expect(other.graph.toString()).toBe(module.graph.toString());
  });

  it("keeps results that are values of their own", async () => {
    const module = fx.normalize(fx.symbolicTrace((x: Tensor) => x.clone(), { exampleInputs: [randn([2])] }));
    expect(module.graph.findNodes({ target: "reshape" }).length).toBe(1);
  });
});

describe("PassManager", () => {
  const pass = (name: string, spec: Partial<fx.PassSpec> = {}): fx.PassSpec => ({
    name,
    run: () => undefined,
    ...spec,
  });
  const names = (manager: fx.PassManager): string[] => manager.order().map(({ name }) => name);

  it("orders by constraints, else as added", () => {
    const manager = new fx.PassManager([
      pass("a", { after: ["c"] }),
      pass("b"),
      pass("c", { requires: ["d"] }),
      pass("d", { before: ["b", "absent"] }),
    ]);
    expect(names(manager)).toEqual(["d", "b", "c", "a"]);
    expect(() => names(new fx.PassManager([pass("a", { requires: ["z"] })]))).toThrow(/a requires z/);
    const circle = new fx.PassManager([pass("a", { after: ["b"] }), pass("b", { after: ["a"] })]);
    expect(() => names(circle)).toThrow(/wait for each other: (a before b before a|b before a before b)/);
    expect(() => new fx.PassManager([pass("a"), pass("a")])).toThrow(GraphError);
  });

  it("runs, times, dumps and verifies each pass", async () => {
    const { net, module, x } = traced([]);
    const reports: fx.FxPassReport[] = [];
    const manager = new fx.PassManager([
      { name: "fold", run: (of) => fx.constFold(of), after: ["cse"] },
      { name: "cse", run: fx.cse },
      { name: "normalize", run: fx.normalize, before: ["cse"] },
    ]);
    const made = await manager.run(module, { onPass: (report) => reports.push(report) });
    expect(reports.map(({ name }) => name)).toEqual(["normalize", "cse", "fold"]);
    expect(reports.every(({ wallMs, text }) => wallMs >= 0 && text.includes("output"))).toBe(true);
    expect(reports[2].changed).toBe(reports[2].before !== reports[2].after);
    await expectSame(made.forward(x).logits, net.forward(x).logits);
    const broken = new fx.PassManager([
      pass("breaks", {
        run: (of) => {
          const [first] = of.graph.findNodes({ target: "gelu" });
          of.graph.moveBefore(first, of.graph.nodes[1]);
          return of;
        },
      }),
    ]);
    await expect(broken.run(fx.symbolicTrace(net, { exampleInputs: [x] }))).rejects.toThrow(
      /in the pass breaks/,
    );
  });
});

describe("minimize", () => {
  /** Runs a graph wrong in one op. */
  const wrong = (op: "gelu" | "topk" | "sub", by: number): fx.Backend => {
    class Wrong extends fx.Interpreter {
      protected override readonly overrides = {
        [op]: (args: fx.OpValue[], attrs: object, node: fx.FxNode): fx.OpValue => {
          const right = this.callFunction(node.target as never, args, attrs as never, node) as Tensor;
          return right.mul(by);
        },
      };
    }
    return (module, inputs) => new Wrong(module).run(...inputs);
  };

  it("finds the op that one backend gets wrong", async () => {
    const { module, x } = traced([]);
    const found = await fx.minimize(module, [x], fx.native, wrong("gelu", 1.01));
    expect(found?.nodes.map((node) => node.targetName)).toEqual(["gelu"]);
    expect(found?.nodes[0].scope).toBe("blocks.0");
    expect(found?.difference).toBeCloseTo(0.01, 5);
    const { module: part, inputs } = found as fx.Disagreement;
    await expectSame(part.forward(...inputs), inputs[0].gelu());
  });

  it("finds a pair that is wrong only together", async () => {
    const fn = (x: Tensor): Tensor => x.exp().neg().add(1).tanh().sqrt().abs();
    const x = randn([4]).abs().add(1).neg();
    const module = fx.symbolicTrace(fn, { exampleInputs: [x] });
    /** Wrong where a tanh follows an add. */
    const fused: fx.Backend = async (part, inputs) => {
      const fuses = part.graph.findNodes({ target: "tanh" }).some((node) => node.inputs[0].calls("add"));
      const right = part.forward(...inputs);
      return fuses ? [right].flat().map((value: Tensor) => value.add(0.5)) : right;
    };
    const found = await fx.minimize(module, [x], fx.native, fused);
    expect(found?.nodes.map((node) => node.targetName)).toEqual(["add", "tanh"]);
    // What stands between them and has no part in it is left out.
    const apart = fx.symbolicTrace(
      (y: Tensor) => {
        const sum = y.add(y);
        const beside = y.exp().neg();
        return sum.tanh().mul(beside);
      },
      { exampleInputs: [x] },
    );
    const smallest = await fx.minimize(apart, [x], fx.native, fused);
    expect(smallest?.nodes.map((node) => node.targetName)).toEqual(["add", "tanh"]);
  });

  it("gives null where both agree, fused kernels and smaller ops too", async () => {
    const { module, x } = traced();
    expect(await fx.minimize(module, [x], fx.native, fx.decomposed)).toBeNull();
  });
});
