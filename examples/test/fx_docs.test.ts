import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { configure, F, fx, manualSeed, nn, ones, randn, sync, type Tensor } from "@lazuli/lazy-tensor";
import { beforeEach, describe, expect, it } from "vitest";
import { foldIntoLinear } from "../fx/fold_linear.js";
import { observeLayers, timeNodes } from "../fx/profile.js";
import { siluToGelu } from "../fx/swap_activation.js";

// The passes that docs/fx.md walks through: its code is that of examples/fx, its picture what the graph's is.

const root = fileURLToPath(new URL("../../", import.meta.url));
const docs = readFileSync(`${root}docs/fx.md`, "utf8");

beforeEach(() => {
  configure({ device: "cpu", verifyPasses: true });
  manualSeed(3);
});

/** Of the page's first example. */
class Mlp extends nn.Module {
  readonly up = new nn.Linear(4, 8);
  readonly down = new nn.Linear(8, 4);
  forward(x: Tensor): Tensor {
    return x.add(this.down.forward(this.up.forward(x).silu()));
  }
}

describe("docs/fx.md", () => {
  it.each(
    [...docs.matchAll(/<!-- (examples\/fx\/\w+\.ts) -->\n```ts\n([\s\S]*?)```/g)].map(([, path, code]) => [
      path,
      code,
    ]),
  )("shows %s as it is", (path, code) => {
    expect(code).toBe(readFileSync(root + path, "utf8"));
  });

  it("shows the three of them, and the graph and picture of its first example", () => {
    expect(docs.match(/<!-- examples\/fx\/\w+\.ts -->/g)).toHaveLength(3);
    const { graph } = fx.symbolicTrace(new Mlp(), { exampleInputs: [fx.spec([2, 4])] });
    expect(docs).toContain(`\`\`\`\n${graph}\`\`\``);
    expect(docs).toContain(`\`\`\`mermaid\n${graph.toMermaid()}\`\`\``);
  });
});

it("folds scales and shifts into linear layers", async () => {
  class Scaled extends nn.Module {
    readonly a = new nn.Linear(4, 6);
    readonly b = new nn.Linear(6, 3, { bias: false });
    readonly scale = new nn.Parameter(randn([6]));
    readonly shift = new nn.Parameter(randn([3]));
    forward(x: Tensor): Tensor {
      return this.b.forward(this.a.forward(x).mul(this.scale).relu()).add(this.shift).mul(2);
    }
  }
  const model = new Scaled();
  const traced = fx.symbolicTrace(model, { exampleInputs: [fx.spec([2, 4])] });
  expect(foldIntoLinear(traced)).toBe(2);
  expect(traced.lint().graph.nodes.map((node) => node.targetName)).toEqual([
    "x",
    "a_folded",
    "relu",
    "b_folded",
    "full",
    "mul",
    "output",
  ]);
  expect([...traced.stateDict().keys()]).toEqual([
    "a_folded.weight",
    "a_folded.bias",
    "b_folded.weight",
    "b_folded.bias",
  ]);
  const x = randn([2, 4]);
  const wanted = await model.forward(x).data();
  const folded = await traced.forward(x).data();
  for (const [i, value] of folded.entries()) expect(value).toBeCloseTo(Number(wanted[i]), 5);
  expect([...model.stateDict().keys()]).toEqual(["scale", "shift", "a.weight", "a.bias", "b.weight"]);
});

it("observes layers, and trains as before", async () => {
  const model = new Mlp();
  const traced = observeLayers(fx.symbolicTrace(model, { exampleInputs: [fx.spec([2, 4])] }));
  const x = randn([2, 4]);
  await sync(x);
  const { result, statistics } = traced.forward(x) as unknown as {
    result: Tensor;
    statistics: Record<string, Tensor>;
  };
  F.mseLoss(result, x).backward();
  expect(Object.keys(statistics)).toEqual(["up", "down"]);
  expect(await statistics.up.item()).toBe(await model.up.forward(x).abs().mean().item());
  const grad = await (model.up.weight.grad as Tensor).data();
  model.up.weight.grad = null;
  F.mseLoss(model.forward(x), x).backward();
  expect(await (model.up.weight.grad as unknown as Tensor).data()).toEqual(grad);
});

it("times nodes", async () => {
  const traced = fx.symbolicTrace(new Mlp(), { exampleInputs: [fx.spec([2, 4])] });
  const times = await timeNodes(traced, ones([2, 4]));
  expect([...times.keys()]).toEqual(["up", "silu", "down", "add"]);
  expect([...times.values()].every((ms) => ms > 0)).toBe(true);
});

it("swaps an activation, function or module", async () => {
  const model = new nn.Sequential(new Mlp(), new nn.SiLU(), new Mlp());
  const traced = fx.symbolicTrace(model, { exampleInputs: [fx.spec([2, 4])] });
  expect(siluToGelu(traced)).toBe(3);
  expect(`${traced.lint().graph}`).not.toContain("silu");
  const x = randn([2, 4]);
  const mlp = ({ up, down }: Mlp, y: Tensor): Tensor => y.add(down.forward(up.forward(y).gelu("tanh")));
  const [first, , last] = model.layers as [Mlp, nn.SiLU, Mlp];
  expect(await traced.forward(x).data()).toEqual(await mlp(last, mlp(first, x).gelu("tanh")).data());
});
