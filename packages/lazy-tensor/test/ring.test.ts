import { afterEach, describe, expect, it } from "vitest";
import {
  type ContextParallel,
  configure,
  type Engine,
  F,
  Mesh,
  markSharding,
  nn,
  type PartitionSpec,
  sync,
  type Tensor,
  tensor,
} from "../src/index.js";

// Attention over a divided sequence, on virtual devices, against one device.

const { Parameter } = nn;
const [B, H, K] = [2, 4, 16];

/** Numbers about 0, different in every place. */
const numbers = (shape: readonly number[], seed: number): Tensor =>
  tensor(
    Float32Array.from(
      { length: shape.reduce((n, size) => n * size, 1) },
      (_, i) => Math.sin((i + 1) * (seed + 1.7)) * 1.3,
    ),
    { shape: [...shape] },
  );

interface Case {
  readonly groups: number;
  readonly length: number;
  readonly causal: boolean;
}

interface Outcome {
  /** out, dq, dk, dv. */
  readonly values: readonly Float32Array[];
  /** By op, how many of it are in the programs that were compiled. */
  readonly counts: ReadonlyMap<string, number>;
  /** Shapes of what a device computes. */
  readonly shapes: readonly (readonly number[])[];
}

let engine: Engine | null = null;
afterEach(() => engine?.device.close());

async function attend(
  { groups, length, causal }: Case,
  over: { mesh: Mesh; spec: PartitionSpec; mode: ContextParallel } | null,
): Promise<Outcome> {
  engine = configure({
    device: "cpu",
    virtualDevices: over?.mesh.size ?? 1,
    verifyPasses: true,
    ...(over && { contextParallel: over.mode }),
  });
  const counts = new Map<string, number>();
  const shapes: (readonly number[])[] = [];
  engine.events.compile$.subscribe(({ graph }) => {
    // A program of one node gathers what is read.
    if (!graph.nodes.some(({ op }) => op.name === "attention")) return;
    for (const { op, types } of graph.nodes) {
      counts.set(op.name, (counts.get(op.name) ?? 0) + 1);
      shapes.push(...types.map(({ shape }) => shape));
    }
  });
  const laid = (x: Tensor): Tensor => (over ? markSharding(x, over.mesh, over.spec) : x);
  // Parameters: their gradients are laid out as they are.
  const q = laid(new Parameter(numbers([B, H, length, K], 1)));
  const k = laid(new Parameter(numbers([B, groups, length, K], 2)));
  const v = laid(new Parameter(numbers([B, groups, length, K], 3)));
  const weight = laid(numbers([B, H, length, K], 4));
  // Laid out by a program of their own: in the next the devices have their parts.
  await sync(q, k, v, weight);
  const out = F.scaledDotProductAttention(q, k, v, { causal });
  out.mul(weight).sum().backward();
  const grads = [q, k, v].map(({ grad }) => grad as Tensor);
  await sync(out, ...grads);
  const values = [];
  for (const x of [out, ...grads]) values.push(Float32Array.from((await x.data()) as Float32Array));
  engine.device.close();
  engine = null;
  return { values, counts, shapes };
}

function expectClose(found: Outcome, wanted: Outcome): void {
  found.values.forEach((value, k) => {
    const largest = Math.max(...wanted.values[k].map(Math.abs));
    value.forEach((x, i) => {
      const want = wanted.values[k][i];
      if (!(Math.abs(x - want) <= 1e-5 * largest))
        expect.fail(`value ${k}[${i}] is ${x}, on one device ${want} (largest ${largest})`);
    });
  });
}

const sequence: PartitionSpec = [null, null, "context", null];

describe("ring attention on virtual devices", () => {
  for (const devices of [2, 4])
    for (const causal of [true, false])
      for (const groups of [4, 2])
        it(`n = ${devices}, causal ${causal}, ${groups} key heads`, async () => {
          // Parts of 70 and 35: more than a block of the kernel, and less.
          const of = { groups, causal, length: 140 };
          const mesh = new Mesh({ context: devices });
          const wanted = await attend(of, null);
          const found = await attend(of, { mesh, spec: sequence, mode: "ring" });
          expectClose(found, wanted);
          expect(found.counts.get("attention")).toBe(devices);
          expect(found.counts.get("attention_grad")).toBe(devices);
          expect(found.counts.get("collective_permute")).toBe(6 * devices - 4);
          for (const gathers of ["all_gather", "all_to_all"]) expect(found.counts.has(gathers)).toBe(false);
          const part = of.length / devices;
          for (const shape of found.shapes) {
            expect(shape).not.toContain(of.length);
            expect(shape.filter((size) => size === part).length).toBeLessThan(2);
          }
        });

  for (const groups of [4, 2])
    it(`zig-zag over 2 and 4 devices, ${groups} key heads`, async () => {
      const of = { groups, causal: true, length: 280 };
      const wanted = await attend(of, null);
      for (const devices of [2, 4]) {
        const mesh = new Mesh({ context: devices });
        const found = await attend(of, { mesh, spec: sequence, mode: "zigzag" });
        expectClose(found, wanted);
        expect(found.counts.get("attention")).toBe(3 * devices);
        for (const shape of found.shapes) expect(shape).not.toContain(of.length);
      }
    });

  it("beside divided batch and heads, and with Ulysses over a second axis", async () => {
    const of = { groups: 4, causal: true, length: 64 };
    const wanted = await attend(of, null);
    const mesh = new Mesh({ data: 2, context: 2, tensor: 2 });
    const spec: PartitionSpec = ["data", "tensor", "context", null];
    const beside = await attend(of, { mesh, spec, mode: "ring" });
    expectClose(beside, wanted);
    expect(beside.counts.has("all_gather")).toBe(false);
    const grid = new Mesh({ ring: 2, heads: 2 });
    const both = await attend(of, {
      mesh: grid,
      spec: [null, null, ["ring", "heads"], null],
      mode: "ulysses+ring",
    });
    expectClose(both, wanted);
    expect(both.counts.get("attention")).toBe(2);
    expect(both.counts.has("collective_permute")).toBe(true);
    expect(both.counts.has("all_to_all")).toBe(true);
    expect(both.counts.has("all_gather")).toBe(false);
  });

  it.each(["ring", "zigzag"] as const)(
    "%s holds as much whatever the number of devices, for parts of one length",
    async (mode) => {
      const length = 512;
      const arenaBytes = async (devices: number): Promise<number> => {
        engine = configure({ device: "null", virtualDevices: devices, contextParallel: mode });
        const mesh = new Mesh({ context: devices });
        const [q, k, v] = [1, 2, 3].map(() => {
          const shape = [1, H, length * devices, K];
          const x = tensor(new Float32Array(shape.reduce((n, size) => n * size)), { shape });
          return markSharding(new Parameter(x), mesh, sequence);
        });
        await sync(q, k, v);
        let most = 0;
        engine.events.compile$.subscribe(({ info }) => {
          most = Math.max(most, info.arenaBytes);
        });
        F.scaledDotProductAttention(q, k, v, { causal: true }).sum().backward();
        await sync();
        engine.device.close();
        engine = null;
        return most;
      };
      const few = await arenaBytes(4);
      expect(few).toBeGreaterThan(length * H * K * 4);
      expect((await arenaBytes(16)) / few).toBeLessThan(1.2);
    },
  );

  it("a program of one mode is not taken for the other's", async () => {
    const mesh = new Mesh({ context: 2 });
    engine = configure({ device: "cpu", virtualDevices: 2 });
    const seen: string[][] = [];
    engine.events.compile$.subscribe(({ graph }) => seen.push(graph.nodes.map(({ op }) => op.name)));
    const [q, k, v] = [1, 2, 3].map((seed) => markSharding(numbers([B, H, 8, K], seed), mesh, sequence));
    await sync(q, k, v);
    for (const mode of ["ulysses", "ring", "ulysses"] as const) {
      engine.contextParallel = mode;
      await sync(F.scaledDotProductAttention(q, k, v, { causal: true }));
    }
    const made = seen.filter((names) => names.includes("attention"));
    expect(made.map((names) => names.includes("collective_permute"))).toEqual([false, true]);
  });
});
