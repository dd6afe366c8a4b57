import { type NativeDevice, openDevice } from "@lazuli/cuda-backend";
import { ops, runPasses, standardPasses } from "@lazuli/fx-trace";
import { contextParallels, type Mesh, partition } from "@lazuli/sharding";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { everyKernel } from "./conformance.harness.js";
import { decodeNumbers } from "./ops.samples.data.js";
import { buildSample } from "./ops.samples.graph.js";
import { type SampledOp, samples } from "./ops.samples.js";
import type { Sample } from "./ops.samples.types.js";
import { type Case, runWhole, tryCases } from "./sharding.native.js";
import { layoutsOf, meshes } from "./sharding.sweep.js";

// The layouts of sharding_sweep.test.ts on the devices themselves: what 2 x 2 and 8 virtual devices compute is what one
// does, forward and with gradients. One layout in LAYOUTS_A_TRY is tried, at least one of every sample; all of them by
//   LAZULI_SWEEP=all npx vitest run packages/lazy-tensor/test/sharding_native.test.ts

const isWhole = process.env.LAZULI_SWEEP === "all";
/** Shares no factor with the periods in which layoutsOf and the ways of context parallelism turn. */
const LAYOUTS_A_TRY = isWhole ? 1 : 5;
/** Of one program. */
const MOST_NODES = 1500;

/** Ops that ran. */
const seen = new Set<string>();
/** Kinds of factors that all layouts divide, and those tried. */
const kinds = { all: new Set<string>(), tried: new Set<string>() };
let tried = 0;

class Batch {
  private cases: Case[] = [];
  private nodes = 0;
  private turn = 0;
  readonly problems: string[] = [];

  constructor(
    private readonly device: NativeDevice,
    private readonly mesh: Mesh,
  ) {}

  async add(one: Case): Promise<void> {
    this.cases.push(one);
    this.nodes += one.partitioned.graph.nodes.length;
    if (this.nodes >= MOST_NODES) await this.flush();
  }

  async flush(): Promise<void> {
    const { cases, device, mesh } = this;
    this.cases = [];
    this.nodes = 0;
    if (cases.length > 0)
      this.problems.push(...(await tryCases(device, mesh, cases, this.turn++ % 2 === 0, seen)));
  }
}

describe("virtual devices as one device", () => {
  let alone: NativeDevice;
  let square: NativeDevice;
  let line: NativeDevice;
  beforeAll(() => {
    alone = openDevice("cpu");
    square = openDevice("cpu", { virtualDevices: 4 });
    line = openDevice("cpu", { virtualDevices: 8 });
  });
  afterAll(() => {
    for (const device of [alone, square, line]) device.close();
  });

  it.each(Object.keys(samples) as SampledOp[])(
    "%s",
    async (op) => {
      const batches = new Map([
        [meshes.square, new Batch(square, meshes.square)],
        [meshes.line, new Batch(line, meshes.line)],
      ]);
      const problems: string[] = [];
      let count = 0;
      for (const sample of samples[op] as readonly Sample[]) {
        for (const withGrad of sample.grad ? [false, true] : [false]) {
          const built = buildSample(op, sample, withGrad);
          const graph = runPasses(built.graph, standardPasses(everyKernel));
          const inputs = [...built.leaves, ...built.cotangents].map(({ bytes, dtype, shape }) => ({
            dtype,
            shape,
            data: decodeNumbers(bytes, dtype),
          }));
          const expected = await runWhole(alone, graph, inputs);
          const isGradient = built.names.map((name) => name.startsWith("grad"));
          const name = `${sample.name}${withGrad ? ", with gradients" : ""}`;
          const all = layoutsOf(op, sample, built);
          for (const { divided } of all) for (const kind of divided) kinds.all.add(kind);
          const first = tried % Math.min(LAYOUTS_A_TRY, all.length);
          for (let i = first; i < all.length; i += LAYOUTS_A_TRY) {
            const layouts = all[i];
            const contextParallel = contextParallels[tried++ % contextParallels.length];
            count++;
            try {
              const partitioned = partition(graph, { ...layouts, contextParallel });
              for (const kind of layouts.divided) kinds.tried.add(kind);
              const one = { name, sample, layouts, partitioned, inputs, expected, isGradient };
              await batches.get(layouts.mesh)?.add(one);
            } catch (error) {
              problems.push(`${name}: ${error}`);
            }
          }
        }
      }
      for (const batch of batches.values()) {
        await batch.flush();
        problems.push(...batch.problems);
      }
      expect(count).toBeGreaterThan(0);
      expect(problems, `${problems.length} of ${count} layouts fail`).toEqual([]);
    },
    isWhole ? 300_000 : 60_000,
  );

  it("ran every op, those of communication too, and divided every kind of factor", () => {
    const isRun = ({ name, lower }: { name: string; lower: string }): boolean =>
      lower !== "composite" && lower !== "leaf" && name !== "detach";
    const expected = Object.values(ops).filter(isRun);
    expect(expected.map(({ name }) => name).filter((name) => !seen.has(name))).toEqual([]);
    expect([...seen]).toEqual(
      expect.arrayContaining(["all_reduce", "collective_permute", "collective_done"]),
    );
    expect([...kinds.tried].sort()).toEqual([...kinds.all].sort());
    expect(tried).toBeGreaterThan(isWhole ? 40_000 : 5_000);
  });
});
