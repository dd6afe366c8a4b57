import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Node, ops } from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";
import { openDevice } from "../src/index.js";
import { done, f32, program } from "./programs.js";

const addon =
  process.env.LAZULI_ADDON || fileURLToPath(new URL("../../../build/Release/lazuli.node", import.meta.url));
const child = fileURLToPath(new URL("mpi.child.cjs", import.meta.url));

const hasMpirun = spawnSync("mpirun", ["--version"]).status === 0;
const isBuilt = existsSync(join(dirname(addon), "liblazuli_mpi.so"));
if (!hasMpirun || !isBuilt)
  console.log(
    `MPI tests are skipped: ${hasMpirun ? "the build has no liblazuli_mpi" : "there is no mpirun"}`,
  );

interface Given {
  readonly words: readonly number[];
  /** Of the float32 input. */
  readonly size: number;
  /** Bytes. */
  readonly output: number;
}

function given(shape: number[], output: number, build: (x: Node) => Node): Given {
  return {
    words: [...program([f32(...shape)], build)],
    size: shape.reduce((a, b) => a * b, 1),
    output: output * 4,
  };
}

/** Collectives of every kind, small and of several segments, over the whole and a part of the mesh. */
function collectives(ranks: number): Record<string, Given> {
  const whole = { mesh: [ranks], axes: [0] };
  const part = { mesh: [2, ranks / 2], axes: [0] };
  const big = 3_000_017;
  const ring = Array.from({ length: ranks }, (_, i) => [i, (i + 1) % ranks]).flat();
  return {
    smallSum: given([257], 257, (x) => ops.all_reduce([x], { ...whole, kind: "sum" })),
    bigSum: given([big], big, (x) => ops.all_reduce([x], { ...whole, kind: "sum" })),
    hugeMax: given([5_000_000], 5_000_000, (x) => ops.all_reduce([x], { ...part, kind: "max" })),
    prodOfHalf: given([40_000], 40_000, (x) =>
      ops.cast([ops.all_reduce([ops.cast([x], { dtype: "bfloat16" })], { ...whole, kind: "prod" })], {
        dtype: "float32",
      }),
    ),
    gatherFirst: given([1_000_003], 1_000_003 * ranks, (x) => ops.all_gather([x], { ...whole, dim: 0 })),
    gatherLast: given([700, 1001], 700 * 1001 * 2, (x) => ops.all_gather([x], { ...part, dim: 1 })),
    scatterFirst: given([8, 99_999], (8 * 99_999) / ranks, (x) =>
      ops.reduce_scatter([x], { ...whole, kind: "sum", dim: 0 }),
    ),
    scatterLast: given([999, 4096], (999 * 4096) / ranks, (x) =>
      ops.reduce_scatter([x], { ...whole, kind: "sum", dim: 1 }),
    ),
    toAll: given([40, 33, 800], 40 * 33 * 800, (x) =>
      ops.all_to_all([x], { ...whole, split_dim: 2, concat_dim: 0 }),
    ),
    toAllBack: given([40, 33, 800], 40 * 33 * 800, (x) =>
      ops.all_to_all([x], { ...whole, split_dim: 0, concat_dim: 2 }),
    ),
    ring: given([100_000], 100_000, (x) => ops.collective_permute([x], { ...whole, pairs: ring })),
    toOne: given([10], 10, (x) => ops.collective_permute([x], { ...whole, pairs: [0, 1] })),
    // Computed beside, and several as one; the result is all of them.
    started: given([40, 24], 40 * 24 * 6, (x) => {
      const squares = [ops.neg([x]), ops.tanh([x]), ops.square([x]), ops.exp([x])];
      const sums = squares.map((each) => ops.all_reduce([each], { ...whole, kind: "sum" }));
      const moved = ops.all_to_all([x], { ...whole, split_dim: 0, concat_dim: 1 });
      const flat = (each: Node): Node => ops.reshape([each], { shape: [40 * 24] });
      const meanwhile = ops.sin([ops.cos([x])]);
      const values = [...sums.map((sum, i) => done(sum, i < 3 ? 0 : -1)), done(moved), meanwhile];
      return ops.concat(values.map(flat), { dim: 0 });
    }),
    slice: given([10, 3], 30 / 5 + 3, (x) => ops.shard_slice([x], { ...part, dim: 0, size: 3 })),
  };
}

/** As mpi.child.cjs makes it. */
function share(size: number, seed: number): Float32Array {
  const x = new Float32Array(size);
  let state = seed * 7919 + 17;
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    x[i] = state / 2 ** 31 - 1;
  }
  return x;
}

/** The hash of every program's result, by device, of virtual devices. */
async function locally(ranks: number, programs: Record<string, Given>): Promise<Record<string, string>[]> {
  const device = openDevice("cpu", { virtualDevices: ranks });
  const results: Record<string, string>[] = device.localDevices.map(() => ({}));
  let buffer = 0;
  for (const [name, { words, size, output }] of Object.entries(programs)) {
    const { id } = device.compile(Uint32Array.from(words));
    const x = buffer++;
    const y = buffer++;
    for (const d of device.localDevices) device.upload(x, share(size, d), d);
    await device.run(id, [x], [y]);
    for (const d of device.localDevices) {
      const bytes = new Uint8Array(output);
      await device.download(y, bytes, d);
      results[d][name] = createHash("sha256").update(bytes).digest("hex");
    }
    device.free([x, y]);
  }
  device.close();
  return results;
}

interface Job {
  readonly process: ChildProcess;
  readonly out: () => string;
  readonly ended: Promise<{ code: number | null; out: string; ms: number }>;
}

function start(ranks: number, what: string, programs: Record<string, Given>, timeoutMs?: number): Job {
  const begin = performance.now();
  const job = spawn(
    "mpirun",
    ["--oversubscribe", "-np", String(ranks), process.execPath, child, addon, what],
    {
      env: {
        ...process.env,
        OMPI_ALLOW_RUN_AS_ROOT: "1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
        LAZULI_TEST_PROGRAMS: JSON.stringify(programs),
        LAZULI_COLLECTIVE_TIMEOUT_MS: timeoutMs === undefined ? "" : String(timeoutMs),
      },
    },
  );
  let out = "";
  const add = (chunk: Buffer): void => {
    out += chunk;
  };
  job.stdout.on("data", add);
  job.stderr.on("data", add);
  const ended = new Promise<{ code: number | null; out: string; ms: number }>((resolve) =>
    job.on("close", (code) => resolve({ code, out, ms: performance.now() - begin })),
  );
  return { process: job, out: () => out, ended };
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 20));
}

describe("without MPI", () => {
  it("a build says what is missing", () => {
    const folder = mkdtempSync(join(tmpdir(), "lazuli-"));
    const copy = join(folder, "lazuli.node");
    copyFileSync(addon, copy);
    const script = `new (require(${JSON.stringify(copy)}).NativeDevice)("cpu", { mpi: true })`;
    const { status, stderr } = spawnSync(process.execPath, ["-e", script], { encoding: "utf8" });
    rmSync(folder, { recursive: true });
    expect(status).toBe(1);
    expect(stderr).toContain("mpi: this build has no MPI");
    expect(stderr).toContain("apt-get install -y libopenmpi-dev openmpi-bin");
  });

  it("the null device refuses it", () => {
    expect(() => openDevice("null", { mpi: true })).toThrow("the null device has no mpi");
  });
});

const step = {
  step: given([50_000], 50_000, (x) => ops.all_reduce([x], { mesh: [2], axes: [0], kind: "max" })),
};

describe.skipIf(!hasMpirun || !isBuilt)("under mpirun", { timeout: 90_000 }, () => {
  it.each([2, 4])("%i processes give the bits of as many virtual devices", async (ranks) => {
    const programs = collectives(ranks);
    const expected = await locally(ranks, programs);
    const { code, out } = await start(ranks, "collectives", programs).ended;
    expect(code, out).toBe(0);
    const lines = out.split("\n").filter((line) => line.startsWith("{"));
    expect(lines.length).toBe(ranks);
    for (const line of lines) {
      const { rank, results, exchanged, refusals } = JSON.parse(line);
      expect(refusals).toEqual([
        "mpi: this process has an MPI device already",
        "with mpi each process has one device: no virtualDevices",
      ]);
      expect(results).toEqual(expected[rank]);
      expect(exchanged).toEqual(Array.from({ length: ranks }, (_, r) => 3 * r));
    }
  });

  it("a killed process ends the others", async () => {
    const job = start(2, "steps", step);
    await until(() => /rank 1 pid \d+ is at/.test(job.out()) && /rank 0 pid \d+ is at/.test(job.out()));
    const pid = (rank: number): number => Number(new RegExp(`rank ${rank} pid (\\d+)`).exec(job.out())?.[1]);
    const killed = performance.now();
    process.kill(pid(1), "SIGKILL");
    const { code, out } = await job.ended;
    expect(performance.now() - killed).toBeLessThan(30_000);
    expect(code).not.toBe(0);
    expect(out).toMatch(/signal 9|did not answer/);
    // mpirun asks before it kills.
    await until(() => !isAlive(pid(0)));
    expect(performance.now() - killed).toBeLessThan(30_000);
  });

  it("a process that does not come is named, and the job ends", async () => {
    const { code, out, ms } = await start(2, "stuck", step, 1000).ended;
    expect(code).not.toBe(0);
    expect(out).toContain(
      "[lazuli] rank 0: all_reduce float32 [50000] over 2: rank 1 did not answer within 1 s",
    );
    expect(ms).toBeLessThan(30_000);
  });

  it("a failure in one process fails the run in all", async () => {
    const pick = {
      words: [
        ...program([f32(4), { shape: [1], dtype: "int32" }], (x, index) =>
          ops.all_reduce([ops.index_select([x, index], { dim: 0 })], { mesh: [2], axes: [0], kind: "sum" }),
        ),
      ],
      size: 4,
      output: 4,
    };
    const { code, out } = await start(2, "fails", { pick }).ended;
    expect(code).not.toBe(0);
    expect(out).toContain("[lazuli] rank 1: device 1: index_select: index 9");
    expect(out).toContain("rank 1 RUN: device 1: index_select: index 9");
    expect(out).toContain("rank 0 COLLECTIVE: device 1: index_select: index 9");
  });

  it("a failure beside a collective that is under way ends it", async () => {
    const pick = {
      words: [
        ...program([f32(4), { shape: [1], dtype: "int32" }], (x, index) => {
          const sum = ops.all_reduce([x], { mesh: [2], axes: [0], kind: "sum" });
          const picked = ops.index_select([x, index], { dim: 0 });
          // Both read, so that neither rank is done before the other has failed.
          return ops.add([ops.all_reduce([picked], { mesh: [2], axes: [0], kind: "sum" }), done(sum)]);
        }),
      ],
      size: 4,
      output: 16,
    };
    const { code, out, ms } = await start(2, "fails", { pick }).ended;
    expect(code).not.toBe(0);
    expect(out).toContain("rank 1 RUN: device 1: index_select: index 9");
    expect(out).toContain("rank 0 COLLECTIVE: device 1: index_select: index 9");
    expect(ms).toBeLessThan(30_000);
  });

  it("ranks that run different programs fail", async () => {
    const other = given([30], 30, (x) => ops.all_reduce([x], { mesh: [2], axes: [0], kind: "max" }));
    const less = given([20], 20, (x) => ops.all_reduce([x], { mesh: [2], axes: [0], kind: "max" }));
    const { code, out } = await start(2, "differs", { step: other, other: less }).ended;
    expect(code).not.toBe(0);
    expect(out).toMatch(
      /rank 0: all_reduce float32 \[30\] over 2: rank 1 sent 80 bytes, not 120|rank 1: .* rank 0 sent more than 80 bytes/,
    );
  });

  it("an error between two runs ends the job too", async () => {
    const { code, out, ms } = await start(2, "throws", step).ended;
    expect(code).not.toBe(0);
    expect(out).toContain("rank 1 throws on purpose");
    expect(ms).toBeLessThan(30_000);
  });
});
