import { beforeEach, describe, expect, it } from "vitest";
import { configure, F, fx, manualSeed, nn, optim, randn, sync, type Tensor } from "../src/index.js";

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

describe("symbolicTrace", () => {
  it("writes down what a module does, leaf modules as one node", async () => {
    const model = new Mlp();
    const x = randn([2, 4]);
    const traced = fx.symbolicTrace(model, { exampleInputs: [x] });
    expect(`${traced.graph}`).toBe(
      [
        "%x = placeholder x : float32[2, 4]",
        "%up = call_module up(%x) : float32[2, 8]  # up",
        "%relu = relu(%up) : float32[2, 8]",
        "%down = call_module down(%relu) : float32[2, 4]  # down",
        "%add = add(%x, %down) : float32[2, 4]",
        "output %add",
        "",
      ].join("\n"),
    );
    traced.lint();
    const [a, b] = [model.forward(x), traced.forward(x)];
    expect(await b.data()).toEqual(await a.data());
    expect([...traced.stateDict().keys()]).toEqual([...model.stateDict().keys()]);
  });

  it("inlines everything where nothing is a leaf, and traces again", () => {
    const inlined = fx.symbolicTrace(new Mlp(), { exampleInputs: [randn([2, 4])], leafModules: [] });
    const again = fx.symbolicTrace(inlined, { exampleInputs: [fx.spec([2, 4])] });
    expect(inlined.graph.findNodes({ op: "call_module" })).toEqual([]);
    expect(`${again.graph}`).toBe(`${inlined.graph}`);
    expect(`${inlined.graph}`).toContain("%up_weight = get_attr up.weight : float32[8, 4]  # up");
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
});
