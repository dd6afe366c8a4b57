import { beforeEach, describe, expect, it } from "vitest";
import {
  configure,
  F,
  fx,
  GuardError,
  manualSeed,
  nn,
  ones,
  randn,
  ShapeError,
  type Tensor,
  TraceError,
  tensor,
} from "../src/index.js";

beforeEach(() => {
  configure({ device: "cpu", verifyPasses: true });
  manualSeed(3);
});

class Mlp extends nn.Module {
  readonly up = new nn.Linear(4, 8);
  readonly down = new nn.Linear(8, 4);
  forward(x: Tensor): Tensor {
    return this.down.forward(this.up.forward(x).relu());
  }
}

const twoLayers = (leafModules?: []): fx.GraphModule =>
  fx.symbolicTrace(new nn.Sequential(new Mlp(), new Mlp()), {
    exampleInputs: [fx.spec([2, 4])],
    leafModules,
  });

const opsOf = (module: fx.GraphModule): string[] =>
  module.graph.findNodes({ op: "call_function" }).map((node) => node.targetName);

describe("Interpreter", () => {
  it("runs node by node; methods and single ops are overridden", async () => {
    class Counting extends fx.Interpreter {
      readonly seen: string[] = [];
      protected override readonly overrides = {
        relu: ([x]: fx.OpValue[]): fx.OpValue => (x as Tensor).neg(),
      };
      override callModule(path: string, args: readonly unknown[], node: fx.FxNode): unknown {
        this.seen.push(path);
        return super.callModule(path, args, node);
      }
    }
    const traced = twoLayers();
    const interpreter = new Counting(traced);
    const x = randn([2, 4]);
    const out = interpreter.run(x) as Tensor;
    expect(interpreter.seen).toEqual(["0.up", "0.down", "1.up", "1.down"]);
    const call = (path: string, value: Tensor): Tensor => traced.call(path, value);
    const layer = (n: number, value: Tensor): Tensor => call(`${n}.down`, call(`${n}.up`, value).neg());
    expect(await out.array()).toEqual(await layer(1, layer(0, x)).array());
  });

  it("names the node that fails, and the module it was made in", () => {
    const traced = twoLayers([]);
    traced.addTensor("1.up.bias", ones([5]));
    const run = (): unknown => traced.forward(ones([2, 4]));
    expect(run).toThrow(ShapeError);
    expect(run).toThrow(
      /\[add\] shapes do not broadcast: .* \(in 1\.up\)\n {2}running %add_2 = add\(%dot_general_2, %_1_up_bias\), made in 1\.up$/,
    );
  });

  it("says what is missing", () => {
    const traced = twoLayers();
    expect(() => new fx.Interpreter(traced).runFrom(new Map())).toThrow(GuardError);
    expect(() => traced.getSubmodule("2")).toThrow("there is no module 2 in Sequential");
    expect(() => traced.getAttr("0.up.scale")).toThrow("there is no tensor 0.up.scale in Sequential");
    const [up] = traced.graph.findNodes({ target: "0.up" });
    up.target = "0.side";
    expect(() => traced.lint()).toThrow("calls 0.side, which Sequential does not hold");
  });
});

describe("Transformer", () => {
  it("records what the overrides do, and leaves the module alone", async () => {
    class Gelu extends fx.Transformer {
      protected override readonly overrides = {
        relu: ([x]: fx.OpValue[]): fx.OpValue => (x as Tensor).gelu("tanh"),
      };
    }
    const traced = twoLayers();
    const before = `${traced.graph}`;
    const transformed = new Gelu(traced).transform().lint();
    expect(`${traced.graph}`).toBe(before);
    expect(`${transformed.graph}`).toBe(
      before
        .replace(/%relu(_\d)? = relu\((%\w+)\)/g, "%gelu$1 = gelu($2) {approximate=tanh}")
        .replace(/%relu/g, "%gelu"),
    );
    expect(transformed.parameters()).toEqual(traced.parameters());
    expect(`${new fx.Transformer(traced).transform().graph}`).toBe(before);
  });
});

describe("GraphModule", () => {
  it("is edited without touching what it was traced from", async () => {
    const model = new nn.Sequential(new Mlp());
    const traced = fx.symbolicTrace(model, { exampleInputs: [fx.spec([2, 4])] });
    traced.addSubmodule("0.act", new nn.SiLU());
    const { graph } = traced;
    const [relu] = graph.findNodes({ target: "relu" });
    const act = graph.insertingAfter(relu, () => graph.callModule("0.act", relu.args));
    relu.replaceAllUsesWith(act);
    graph.eraseNode(relu);
    traced.lint();
    expect([...model.namedModules()].map(([path]) => path)).toEqual(["", "0", "0.up", "0.down"]);
    const x = randn([2, 4]);
    const [mlp] = model.layers as Mlp[];
    expect(await traced.forward(x).array()).toEqual(await mlp.down.forward(mlp.up.forward(x).silu()).array());
    expect(traced.freePath("0.act")).toBe("0.act_1");
  });

  it("drops what its graph does not use", () => {
    const traced = twoLayers();
    const { graph } = traced;
    const [first] = graph.findNodes({ target: "1.up" });
    (graph.outputNode as fx.FxNode).args = [first.args[0]];
    graph.eliminateDeadCode();
    traced.deleteUnused();
    expect([...traced.stateDict().keys()]).toEqual([
      "0.up.weight",
      "0.up.bias",
      "0.down.weight",
      "0.down.bias",
    ]);
    traced.lint();
  });

  it("is made of a graph and what it reads", async () => {
    const graph = new fx.FxGraph();
    const x = graph.placeholder("x");
    graph.output({ y: graph.callModule("act", [x]), w: graph.getAttr("w") });
    const module = new fx.GraphModule({ act: new nn.ReLU(), w: ones([1]) }, graph).lint();
    const { y, w } = module.forward(tensor([-1, 2])) as { y: Tensor; w: Tensor };
    expect([await y.array(), await w.array()]).toEqual([[0, 2], [1]]);
  });
});

describe("replacePattern", () => {
  it("swaps an op everywhere; parts do not overlap", () => {
    const fn = (x: Tensor): Tensor => x.exp().exp().exp().exp().exp();
    const traced = fx.symbolicTrace(fn, { exampleInputs: [fx.spec([2])] });
    const matches = fx.replacePattern(
      traced,
      (x: Tensor) => x.exp().exp(),
      (x: Tensor) => x.tanh(),
    );
    expect(opsOf(traced.lint())).toEqual(["tanh", "tanh", "exp"]);
    expect(matches.map(({ anchor }) => anchor.name)).toEqual(["exp_1", "exp_3"]);
    expect(matches[0].replacements.map((node) => node.name)).toEqual(["tanh"]);
  });

  it("binds parameters to inputs, and compares attributes at the part's own shapes", async () => {
    const traced = twoLayers([]);
    const x = randn([2, 4]);
    const before = await traced.forward(x).array();
    const linear = (x: Tensor, w: Tensor, b: Tensor): Tensor => F.linear(x, w, b);
    const byMatmul = (x: Tensor, w: Tensor, b: Tensor): Tensor => x.matmul(w.t()).add(b);
    const matches = fx.replacePattern(traced, linear, byMatmul);
    expect(matches.map(({ inputs }) => inputs.map((node) => node.targetName))).toEqual([
      ["x", "0.up.weight", "0.up.bias"],
      ["relu", "0.down.weight", "0.down.bias"],
      ["add", "1.up.weight", "1.up.bias"],
      ["relu", "1.down.weight", "1.down.bias"],
    ]);
    expect(opsOf(traced.lint()).filter((name) => name === "transpose")).toHaveLength(4);
    expect(traced.graph.findNodes({ target: "transpose" })[0].scope).toBe("0.up");
    const after = (await traced.forward(x).array()) as number[][];
    after.flat().forEach((value, i) => {
      expect(value).toBeCloseTo((before as number[][]).flat()[i], 5);
    });
    // A reshape to another shape is another op.
    const flat = fx.symbolicTrace((x: Tensor) => x.reshape([8]).add(x.reshape([4, 2]).sum()), {
      exampleInputs: [fx.spec([2, 4])],
    });
    expect(
      fx.replacePattern(
        flat,
        (x: Tensor) => x.reshape([-1]),
        (x: Tensor) => x.flatten().neg(),
      ),
    ).toHaveLength(1);
  });

  it("tells numbers apart, and takes several results", () => {
    const fn = (x: Tensor): Tensor => x.mul(2).add(x.mul(3));
    const traced = fx.symbolicTrace(fn, { exampleInputs: [fx.spec([2])] });
    expect(
      fx.replacePattern(
        traced,
        (x: Tensor) => x.mul(3),
        (x: Tensor) => x.add(x).add(x),
      ),
    ).toHaveLength(1);
    expect(opsOf(traced.lint())).toEqual(["full", "mul", "add", "add", "add"]);
    const pair = fx.symbolicTrace((x: Tensor) => x.sin().add(x.cos().exp()), {
      exampleInputs: [fx.spec([2])],
    });
    const matches = fx.replacePattern(
      pair,
      (x: Tensor) => [x.sin(), x.cos()],
      (x: Tensor) => ({ sin: x.neg(), cos: x.abs() }),
    );
    expect(matches[0].outputs.map((node) => node.name)).toEqual(["sin", "cos"]);
    expect(opsOf(pair.lint())).toEqual(["neg", "abs", "exp", "add"]);
  });

  it("asks the filter, and matches modules by class", async () => {
    const traced = twoLayers();
    const linear = new nn.Linear(4, 8);
    const matches = fx.replacePattern(
      traced,
      (x: Tensor) => linear.forward(x),
      (x: Tensor) => linear.forward(x).mul(tensor([2])),
      ({ anchor }) => anchor.targetName === "1.up",
    );
    expect(matches).toHaveLength(1);
    expect(traced.graph.findNodes({ op: "call_module" }).map((node) => node.targetName)).toEqual([
      "0.up",
      "0.down",
      "_module0",
      "1.down",
    ]);
    expect(traced.lint().getSubmodule("_module0")).toBe(linear);
    expect(await traced.getAttr("_tensor_constant0").array()).toEqual([2]);
    expect(traced.forward(ones([2, 4])).shape).toEqual([2, 4]);
  });

  it("takes example inputs where types in the graph would not do", () => {
    const fn = (x: Tensor): Tensor => x.relu();
    const traced = fx.symbolicTrace(fn, { exampleInputs: [fx.spec([2, 2])] });
    const replace = (options?: fx.ReplaceOptions): fx.Match[] =>
      fx.replacePattern(
        traced,
        (x: Tensor) => x.relu(),
        (x: Tensor) => x.abs(),
        undefined,
        options,
      );
    expect(replace({ exampleInputs: [fx.spec([7])] })).toHaveLength(1);
  });

  it("refuses a replacement of another type or count, and inputs that are not used", () => {
    const make = (): fx.GraphModule =>
      fx.symbolicTrace((x: Tensor) => x.relu(), { exampleInputs: [fx.spec([2, 2])] });
    const relu = (x: Tensor): Tensor => x.relu();
    expect(() => fx.replacePattern(make(), relu, (x: Tensor) => x.sum())).toThrow(
      "relu is float32[2, 2], and its replacement float32[]",
    );
    expect(() => fx.replacePattern(make(), relu, (x: Tensor) => [x, x])).toThrow(
      "the pattern returns 1 values, the replacement 2",
    );
    expect(() => fx.replacePattern(make(), (x: Tensor, _: Tensor) => x.relu(), relu)).toThrow(TraceError);
    expect(() => fx.replacePattern(make().graph, relu, (x: Tensor) => x.add(tensor([1])))).toThrow(
      "give the GraphModule, not its graph",
    );
    const bad = (x: Tensor): Tensor => x.reshape([3]).relu();
    expect(() => fx.replacePattern(make(), bad, relu)).toThrow("the pattern fits no types in the graph");
  });
});
