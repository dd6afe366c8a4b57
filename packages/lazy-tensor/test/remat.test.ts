import { beforeEach, describe, expect, it } from "vitest";
import {
  type CompileEvent,
  checkpoint,
  compile,
  configure,
  F,
  Mesh,
  manualSeed,
  markSharding,
  nn,
  optim,
  randn,
  sync,
  type Tensor,
} from "../src/index.js";

let compiles: CompileEvent[];

function use(options: Parameters<typeof configure>[0] = {}): void {
  compiles = [];
  configure({ device: "cpu", verifyPasses: true, ...options }).events.compile$.subscribe((event) =>
    compiles.push(event),
  );
  manualSeed(3);
}
beforeEach(() => use());

class Block extends nn.Module {
  norm = new nn.LayerNorm(8);
  up = new nn.Linear(8, 32);
  drop = new nn.Dropout(0.25);
  down = new nn.Linear(32, 8);
  forward(x: Tensor): Tensor {
    return x.add(this.down.forward(this.drop.forward(F.gelu(this.up.forward(this.norm.forward(x))))));
  }
}

class Stack extends nn.Module {
  readonly blocks: Block[];
  constructor(
    layers: number,
    readonly around: (fn: (x: Tensor) => Tensor) => (x: Tensor) => Tensor,
  ) {
    super();
    this.blocks = Array.from({ length: layers }, () => new Block());
  }
  forward(x: Tensor): Tensor {
    return this.blocks.reduce((h, block) => this.around((each: Tensor) => block.forward(each))(h), x);
  }
}

/** Losses, last weights and the step's arena. */
async function trained(around: Stack["around"], { layers = 3, rows = 16, mesh = null as Mesh | null } = {}) {
  manualSeed(3);
  const model = new Stack(layers, around);
  const x = randn([rows, 8]);
  await sync(x);
  if (mesh) markSharding(x, mesh, ["data"]);
  await sync(x);
  const optimizer = new optim.AdamW(model.parameters(), { lr: 0.02 });
  const losses: number[] = [];
  for (let i = 0; i < 3; i++) {
    const loss = model.forward(x).square().mean();
    loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
    losses.push(await loss.item());
  }
  const arena = Math.max(...compiles.map(({ info }) => info.arenaBytes));
  const weights = await Promise.all(model.parameters().map((param) => param.data()));
  return { losses, weights, arena, last: compiles.at(-1) as CompileEvent };
}

/** Equal but for the rounding of kernels that are fused otherwise. */
function near(values: ArrayLike<number | bigint>, expected: ArrayLike<number | bigint>): void {
  expect(values.length).toBe(expected.length);
  for (let i = 0; i < values.length; i++)
    expect(Math.abs(Number(values[i]) - Number(expected[i]))).toBeLessThan(
      1e-5 * (1 + Math.abs(Number(expected[i]))),
    );
}

const kernels = ({ graph }: CompileEvent, op: string): number =>
  graph.nodes.filter((node) => node.op.name === op).length;

describe("checkpoint", () => {
  it("trains as without it, dropout included, and computes the blocks again", async () => {
    const plain = await trained((fn) => fn);
    const before = plain.last;
    const again = await trained(checkpoint);
    near(again.losses, plain.losses);
    again.weights.forEach((weights, i) => {
      near(weights, plain.weights[i]);
    });
    // up again in each block; down's product is read by no gradient.
    expect(kernels(again.last, "dot_general")).toBe(kernels(before, "dot_general") + 3);
    expect(kernels(again.last, "barrier")).toBeGreaterThan(0);
  });

  it("needs memory for one block's intermediate values, not for all", async () => {
    const arenas = async (around: Stack["around"]) => {
      const out: number[] = [];
      for (const layers of [2, 12]) {
        use();
        out.push((await trained(around, { layers, rows: 2048 })).arena);
      }
      return out[1] - out[0];
    };
    const plain = await arenas((fn) => fn);
    const again = await arenas(checkpoint);
    // 10 blocks more keep their inputs, [2048, 8], alone; without a checkpoint [2048, 32] several times.
    expect(again).toBeLessThan(plain / 3);
  });

  it("keeps the gradients of what it is given and of what it uses, of several arguments and results", async () => {
    const run = async (around: <F>(fn: F) => F) => {
      manualSeed(1);
      const [a, b, w] = [randn([4]), randn([4]), randn([4])];
      await sync(a, b, w);
      for (const x of [a, b, w]) x.requiresGrad_();
      const fn = around(({ x, y }: { x: Tensor; y: Tensor }) => {
        const z = x.mul(w).exp();
        return [z.mul(y), z.sin()];
      });
      const [p, q] = fn({ x: a.mul(2), y: b });
      p.mul(q).sum().backward();
      return Promise.all([a, b, w].map(async (x) => [...(await (x.grad as Tensor).data())]));
    };
    expect(await run((fn) => checkpoint(fn as never) as typeof fn)).toEqual(await run((fn) => fn));
  });

  it("inside another is a part of it, and works in compiled functions and with createGraph", async () => {
    const plain = await trained((fn) => fn);
    near((await trained((fn) => checkpoint(checkpoint(fn)))).losses, plain.losses);
    const x = randn([3]);
    await sync(x);
    x.requiresGrad_();
    const f = compile((t: Tensor) => {
      const y = checkpoint((u: Tensor) => u.sin().mul(u))(t).sum();
      y.backward();
      return y;
    });
    f(x);
    const value = Number((await x.data())[0]);
    expect((await (x.grad as Tensor).data())[0]).toBeCloseTo(Math.sin(value) + value * Math.cos(value), 5);
  });

  it("works on a mesh", async () => {
    const plain = await trained((fn) => fn);
    use({ virtualDevices: 2 });
    const mesh = new Mesh({ data: 2 });
    const divided = await trained(checkpoint, { mesh });
    near(divided.losses, plain.losses);
  });
});

describe('remat: "auto"', () => {
  it("trains to the same bits with LayerNorm, GELU and dropout, in a smaller arena", async () => {
    const plain = await trained((fn) => fn, { layers: 6, rows: 512 });
    for (const share of [0.8, 0.6, 0.5]) {
      const memoryBudgetBytes = Math.floor(plain.arena * share);
      use({ remat: "auto", memoryBudgetBytes });
      const again = await trained((fn) => fn, { layers: 6, rows: 512 });
      expect(again.losses).toEqual(plain.losses);
      expect(again.weights).toEqual(plain.weights);
      expect(again.arena).toBeLessThanOrEqual(memoryBudgetBytes);
      expect(again.last.remat?.recomputed).toBeGreaterThan(0);
    }
  });
});
