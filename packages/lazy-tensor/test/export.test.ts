import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  captureProgram,
  ExportError,
  exportProgram,
  F,
  FileFormatError,
  fx,
  loadProgram,
  manualSeed,
  nn,
  ones,
  optim,
  randn,
  saveSafetensors,
  sync,
  type Tensor,
  tensor,
  toStableHLO,
  UnsupportedOpError,
} from "../src/index.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lazuli-program-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

class Net extends nn.Module {
  readonly layers = new nn.ModuleList([new nn.Linear(4, 8), new nn.Linear(8, 4)]);
  readonly norm = new nn.LayerNorm(4);
  readonly scale = new nn.Buffer(ones([4]));
  readonly mask = new nn.Buffer(ones([4]), { persistent: false });

  forward({ x, skip }: { x: Tensor; skip: Tensor | null }, power: number): { y: Tensor; parts: Tensor[] } {
    const [first, second] = this.layers;
    const h = second.forward(first.forward(x).relu()).mul(this.scale).mul(this.mask);
    const y = this.norm.forward(skip ? h.add(skip) : h).pow(power);
    return { y, parts: [h, tensor([1, 2, 3])] };
  }
}

async function expectSame(a: Tensor, b: Tensor): Promise<void> {
  expect(a.shape).toEqual(b.shape);
  expect([...(await a.data())]).toEqual([...(await b.data())]);
}

describe("exportProgram", () => {
  it("runs without the model's source, bit for bit, with its state dict's names", async () => {
    const net = new Net();
    const [x, skip] = [randn([3, 4]), randn([3, 4])];
    await exportProgram(net, [{ x, skip }, 2], folder);
    const program = await loadProgram(folder);
    expect([...program.stateDict().keys()].sort()).toEqual([...net.stateDict().keys()].sort());
    expect([...program.namedParameters()].map(([name]) => name).sort()).toEqual(
      [...net.namedParameters()].map(([name]) => name).sort(),
    );
    const other = randn([3, 4]);
    const found = program.forward({ x: other, skip }, 2) as ReturnType<Net["forward"]>;
    const wanted = net.forward({ x: other, skip }, 2);
    await expectSame(found.y, wanted.y);
    await expectSame(found.parts[0], wanted.parts[0]);
    await expectSame(found.parts[1], tensor([1, 2, 3]));
    const text = await readFile(join(folder, "program.txt"), "utf8");
    expect(text).toMatch(/^lazuli-program 1\nsignature \{/);
    expect(text).toMatch(/= dot_general\(%\d+, %\d+\) .* # layers\.0/);
    expect((await readdir(folder)).length).toBe(2);
  });

  it("trains on as the model does, and takes its state", async () => {
    const net = new Net();
    const inputs = [{ x: randn([3, 4]), skip: null }, 2] as const;
    await exportProgram(net, inputs, folder);
    const program = await loadProgram(folder);
    const losses = async (module: nn.Module): Promise<number[]> => {
      const optimizer = new optim.AdamW(module.parameters(), { lr: 1e-2 });
      const list: number[] = [];
      for (let i = 0; i < 3; i++) {
        const { y } = module.forward(...(inputs as unknown as never[])) as { y: Tensor };
        const loss = y.sub(1).square().mean();
        optimizer.zeroGrad();
        loss.backward();
        optimizer.step();
        await sync();
        list.push(await loss.item());
      }
      return list;
    };
    const before = new Map([...net.stateDict()].map(([name, value]) => [name, value.clone()]));
    await sync(...before.values());
    const wanted = await losses(net);
    expect(await losses(program)).toEqual(wanted);
    program.loadStateDict(before);
    expect(await losses(program)).toEqual(wanted);
  });

  it("exports functions, holding what they read from outside", async () => {
    const weight = randn([4]);
    await exportProgram((x: Tensor) => [x.mul(weight), x], [randn([2, 4])], folder);
    const program = await loadProgram(folder);
    const x = randn([2, 4]);
    const [product, same] = program.forward(x) as Tensor[];
    await expectSame(product, x.mul(weight));
    await expectSame(same, x);
    expect(program.stateDict().size).toBe(0);
  });

  it("exports a traced module, and a loaded program, as what they are", async () => {
    const net = new Net();
    const x = randn([3, 4]);
    const traced = fx.symbolicTrace(net, { exampleInputs: [{ x, skip: null }, 2] });
    await exportProgram(traced, [{ x, skip: null }, 2], folder);
    const program = await loadProgram(folder);
    expect([...program.stateDict().keys()].sort()).toEqual([...net.stateDict().keys()].sort());
    await exportProgram(program, [{ x, skip: null }, 2], folder);
    const again = (await loadProgram(folder)).forward({ x, skip: null }, 2) as ReturnType<Net["forward"]>;
    await expectSame(again.y, net.forward({ x, skip: null }, 2).y);
    const retraced = fx.symbolicTrace(program, { exampleInputs: [{ x, skip: null }, 2] });
    expect([...retraced.stateDict().keys()].sort()).toEqual([...net.stateDict().keys()].sort());
  });

  it("replaces an older program whole", async () => {
    for (const by of [2, 3]) await exportProgram((x: Tensor) => x.mul(tensor([by])), [randn([1])], folder);
    expect((await readdir(folder)).length).toBe(2);
    await expectSame((await loadProgram(folder)).forward(tensor([2])) as Tensor, tensor([6]));
  });

  it("refuses arguments of another structure, and what cannot be exported", async () => {
    const net = new Net();
    const x = randn([3, 4]);
    await exportProgram(net, [{ x, skip: x }, 2], folder);
    const program = await loadProgram(folder);
    const fails = (args: unknown[], message: RegExp): void => {
      expect(() => program.forward(...args)).toThrow(ExportError);
      expect(() => program.forward(...args)).toThrow(message);
    };
    fails([{ x, skip: null }, 2], /arguments\.0\.skip must be float32\[3, 4\].*got null/);
    fails([{ x: randn([2, 4]), skip: x }, 2], /arguments\.0\.x must be float32\[3, 4\].*got float32\[2, 4\]/);
    fails([{ x, skip: x }, 3], /arguments\.1 must be 2.*got 3/);
    fails([{ x, skip: x, more: x }, 2], /must be an object of x, skip/);
    fails([{ x, skip: x }], /arguments\.1 must be 2.*got undefined/);
    await expect(exportProgram((y: Tensor) => F.dropout(y, 0.5), [x], folder)).rejects.toThrow(/eval\(\)/);
    await expect(exportProgram((y: Tensor) => new Map([["y", y]]), [x], folder)).rejects.toThrow(ExportError);
  });

  it("says what is wrong with a file", async () => {
    const net = new Net();
    const x = randn([3, 4]);
    await exportProgram(net, [{ x, skip: null }, 2], folder);
    const file = join(folder, "program.txt");
    const text = await readFile(file, "utf8");
    const weights = (await readdir(folder)).find((name) => name.startsWith("weights")) as string;
    const fails = async (changed: string, message: RegExp): Promise<void> => {
      await writeFile(file, changed);
      await expect(loadProgram(folder)).rejects.toThrow(FileFormatError);
      await expect(loadProgram(folder)).rejects.toThrow(message);
    };
    await fails(
      text.replace("lazuli-program 1", "lazuli-program 7"),
      /of version 7, this Lazuli reads version 1/,
    );
    await fails("hello", /no program/);
    await fails(text.replace("= relu(", "= rulu("), /line \d+: there is no op rulu/);
    await fails(text.slice(0, text.length / 2), /line \d+/);
    await fails(text.replace(/outputs .*/, "outputs"), /has 0 outputs, its signature 3/);
    await fails(text.replace('"args"', '"arks"'), /no signature/);
    await fails(text.replace(weights, "../../secret.safetensors"), /no signature/);
    const line = text.split("\n").findIndex((each) => each.includes("= relu("));
    await writeFile(file, text.replace("= relu(", "= rulu("));
    await expect(loadProgram(folder)).rejects.toThrow(new RegExp(`line ${line + 1}:`));
    await writeFile(file, text);
    await saveSafetensors(join(folder, weights), new Map([["norm.weight", ones([5])]]));
    await expect(loadProgram(folder)).rejects.toThrow(/weights are missing: layers\.0\.weight, /);
    const state = new Map([...net.stateDict(), ["mask", net.mask], ["norm.weight", ones([5])]] as [
      string,
      Tensor,
    ][]);
    const constants = [...text.matchAll(/"name":"(constant\.\d+)"/g)].map(
      ([, name]) => [name, ones([3])] as const,
    );
    await saveSafetensors(join(folder, weights), new Map([...state, ...constants]));
    await expect(loadProgram(folder)).rejects.toThrow(
      /norm\.weight is float32\[5\] and should be float32\[4\]/,
    );
    await rm(join(folder, weights));
    await expect(loadProgram(folder)).rejects.toThrow(/the program's weights are missing/);
    await rm(file);
    await expect(loadProgram(folder)).rejects.toThrow(/cannot be read/);
  });
});

describe("toStableHLO", () => {
  it("writes a captured module, names its inputs and says where an op stands that it cannot write", async () => {
    manualSeed(0);
    const { graph, inputNames } = await captureProgram(new Net(), [{ x: randn([3, 4]), skip: null }, 2]);
    const text = toStableHLO(graph, { inputNames, name: "net" });
    expect(text).toContain("module @net {");
    expect(text).toContain('loc("layers.0.weight")');
    expect(text).toMatch(/stablehlo\.dot_general.*loc\("layers\.0"\)/);
    expect(() => toStableHLO({ ...graph, nodes: graph.nodes })).not.toThrow(UnsupportedOpError);
  });
});
