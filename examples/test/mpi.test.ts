import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

// Several processes under Open MPI, started as a user starts them: `lazuli run`.

const root = fileURLToPath(new URL("../../", import.meta.url));
const lazuli = `${root}packages/lazy-tensor/bin/lazuli.js`;
const train = `${root}examples/dist/llama/train.js`;
const goldens = `${root}packages/lazy-tensor/test/goldens/llama/`;
const ranks = fileURLToPath(new URL("ranks/", import.meta.url));

const missing =
  spawnSync("mpirun", ["--version"]).status !== 0
    ? "no mpirun"
    : existsSync(`${root}build/Release/liblazuli_mpi.so`)
      ? ""
      : "built without MPI";
if (missing)
  console.warn(`tests under MPI are left out: ${missing} (apt-get install openmpi-bin libopenmpi-dev)`);

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
  readonly seconds: number;
}

function run(command: string, args: readonly string[], env = process.env): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const started = performance.now();
    const child = spawn(command, args, { cwd: root, env });
    let [out, err] = ["", ""];
    child.stdout.on("data", (chunk) => {
      out += chunk;
    });
    child.stderr.on("data", (chunk) => {
      err += chunk;
    });
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, out, err, seconds: (performance.now() - started) / 1000 }));
  });
}
const job = (
  nprocs: number,
  script: string,
  args: readonly string[] = [],
  flags: readonly string[] = [],
): Promise<Ended> =>
  run(process.execPath, [lazuli, "run", "--nprocs", String(nprocs), ...flags, script, ...args]);

const model = (name: string): string[] => [
  ...["--model", `${goldens}${name}`, "--data", `${goldens}${name}/batches.npy`],
  ...["--steps", "6", "--lr", "1e-3", "--clip", "1", "--log-json"],
];
function lossesOf({ code, out, err }: Ended): number[] {
  expect(code, `${err}${out}`).toBe(0);
  const lines = out.trimEnd().split("\n");
  // Only the first process tells.
  expect(lines).toHaveLength(7);
  return lines.slice(0, 6).map((line) => JSON.parse(line).loss);
}

describe.skipIf(missing !== "")("processes", () => {
  const alone = new Map<string, Promise<Ended>>();
  const layouts = [
    [2, "data=2", "ddp"],
    [2, "fsdp=2", "fsdp"],
    [2, "tensor=2", "tp"],
    [2, "tensor=2", "tp+sp"],
    [2, "context=2", "ulysses"],
    [2, "context=2", "ring"],
    [4, "data=2,fsdp=2", "hsdp"],
    [4, "fsdp=2,tensor=2", "fsdp,tp"],
    [4, "tensor=4", "tp+sp"],
    [4, "context=4", "ring"],
  ] as const;
  // b: grouped queries and tied embeddings.
  it.each(layouts)("%i train on %s by %s as one", { timeout: 60_000 }, async (nprocs, mesh, strategy) => {
    if (!alone.has("b")) alone.set("b", run(process.execPath, [train, ...model("b")]));
    const expected = lossesOf(await (alone.get("b") as Promise<Ended>));
    const losses = lossesOf(
      await job(nprocs, train, [...model("b"), "--mesh", mesh, "--strategy", strategy]),
    );
    losses.forEach((loss, i) => {
      expect(
        Math.abs(loss - expected[i]) / expected[i],
        `step ${i + 1}: ${loss}, alone ${expected[i]}`,
      ).toBeLessThan(1e-5);
    });
  });

  it("save what others on another mesh go on from", { timeout: 120_000 }, async () => {
    if (!alone.has("b")) alone.set("b", run(process.execPath, [train, ...model("b")]));
    const expected = lossesOf(await (alone.get("b") as Promise<Ended>));
    const folder = await mkdtemp(join(tmpdir(), "lazuli-mpi-"));
    try {
      const flags = [...model("b"), "--save", folder, "--mesh", "fsdp=2", "--strategy", "fsdp"];
      flags[flags.indexOf("--steps") + 1] = "3";
      const first = await job(2, train, flags);
      expect(first.code, first.err).toBe(0);
      const [, , ...rest] = model("b"); // the weights are the checkpoint's
      const mesh = ["--mesh", "data=2,tensor=2", "--strategy", "ddp,tp"];
      const second = await job(4, train, [...rest, "--resume", folder, ...mesh]);
      expect(second.code, second.err).toBe(0);
      const lines = second.out.trimEnd().split("\n").slice(0, 3);
      lines.forEach((line, i) => {
        const { step, loss } = JSON.parse(line);
        expect(step).toBe(i + 4);
        expect(Math.abs(loss - expected[i + 3]) / expected[i + 3], line).toBeLessThan(1e-5);
      });
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it.each([2, 4])(
    "%i run what is written by hand, in any order of devices",
    { timeout: 60_000 },
    async (nprocs) => {
      const script = `${ranks}by_hand.mjs`;
      const env = { ...process.env, LAZULI_VIRTUAL_DEVICES: String(nprocs) };
      const threads = await run(process.execPath, [script], env);
      const processes = await job(nprocs, script);
      expect(processes.code, processes.err).toBe(0);
      // The same bits, by the same devices.
      expect(threads.out.trimEnd().split("\n").sort()).toEqual(processes.out.trimEnd().split("\n").sort());
      expect(threads.out.split("\n")).toHaveLength(nprocs + 2);
    },
  );

  it("that record different operations are told so, by op and rank", { timeout: 60_000 }, async () => {
    const { code, out, seconds } = await job(2, `${ranks}diverge.mjs`);
    expect(code).not.toBe(0);
    expect(out).toMatch(
      /rank 0: CollectiveError: .*rank 1 is to run another program than rank 0: node \d+: exp where rank 0 had tanh/,
    );
    expect(out).not.toContain("no error");
    expect(seconds).toBeLessThan(30);
  });

  it("compute the same values again within a budget, or are told so", { timeout: 60_000 }, async () => {
    const budgets = async (...budgets: number[]): Promise<{ code: number | null; lines: string[] }> => {
      const { code, out } = await job(2, `${ranks}budgets.mjs`, budgets.map(String));
      return { code, lines: [...out.matchAll(/rank \d: .*/g)].map(([line]) => line).sort() };
    };
    const whole = await budgets(1e9);
    const [, loss, arena] = /loss (\S+), again 0, arena (\d+)/.exec(whole.lines[0]) as RegExpExecArray;
    const budget = Math.floor(Number(arena) * 0.95);
    const less = await budgets(budget);
    expect(less.code, less.lines.join()).toBe(0);
    for (const [rank, line] of less.lines.entries())
      expect(line).toMatch(new RegExp(`^rank ${rank}: loss ${loss}, again [1-9]`));
    const { code, lines } = await budgets(1e9, budget);
    expect(code).not.toBe(0);
    expect(lines[0]).toMatch(
      /rank 0: CollectiveError: \[remat\] rank 1 computes \d+ values again and rank 0 0: /,
    );
  });

  it("end when one dies in the middle of a step", { timeout: 60_000 }, async () => {
    const { code, seconds } = await job(2, `${ranks}die.mjs`);
    expect(code).not.toBe(0);
    expect(seconds).toBeLessThan(30);
  });

  it("end when one no longer comes, and name it and the collective", { timeout: 60_000 }, async () => {
    const { code, err, out, seconds } = await job(2, `${ranks}die.mjs`, ["stall"], ["--timeout", "3"]);
    expect(code).not.toBe(0);
    expect(out + err).toMatch(/all_reduce float32.*rank 1 did not answer within 3 s/);
    expect(seconds).toBeLessThan(30);
  });

  it("too few for the mesh are refused, and what is missing is said", { timeout: 60_000 }, async () => {
    const { code, err } = await job(2, train, [...model("b"), "--mesh", "data=4", "--strategy", "ddp"]);
    expect(code).not.toBe(0);
    expect(err).toMatch(/Mesh\(data=4\) has 4 devices, and there are 2/);
  });
});

describe.skipIf(missing !== "")("a mistake that all ranks make is told once", { timeout: 60_000 }, () => {
  const timesIn = ({ err, out }: Ended, text: string): number => `${err}${out}`.split(text).length - 1;

  it.each([
    [["--steps", "few"], "train: --steps few: is not a number", 2],
    [["--data", "no/such/folder"], "no/such/folder", 2],
    [["--mesh", "data=8", "--strategy", "ddp"], "Mesh(data=8) has 8 devices, and there are 2", 1],
  ])("train %j", async (args, text, code) => {
    const ended = await job(2, train, args);
    expect(ended.code).toBe(code);
    expect(timesIn(ended, text), ended.err).toBe(1);
  });

  it.each([
    ["early", "Error: no such luck"],
    ["late", "ShapeError: [matmul]"],
    ["in the step", "RunError"],
    ["alone", "Error: rank 1 fails"],
  ])("%s: %s", async (when, text) => {
    const ended = await job(2, `${ranks}fail.mjs`, [when]);
    expect(ended.code).not.toBe(0);
    expect(timesIn(ended, text), ended.err).toBe(1);
    // With the place, as Node prints it.
    expect(ended.err).toMatch(/at .*fail\.mjs:\d+|RunError/);
  });

  it("and what differs by each", async () => {
    const ended = await job(3, `${ranks}fail.mjs`, ["differently"]);
    for (const text of ["all say this\n", "all say this too", "rank 0 says", "rank 1 says", "rank 2 says"])
      expect(timesIn(ended, text), ended.err).toBe(1);
  });

  it("under plain mpirun too", async () => {
    const flags = [
      "--bind-to",
      "none",
      "--oversubscribe",
      ...(process.getuid?.() === 0 ? ["--allow-run-as-root"] : []),
    ];
    const ended = await run("mpirun", ["-n", "3", ...flags, process.execPath, `${ranks}fail.mjs`, "late"]);
    expect(ended.code).not.toBe(0);
    expect(timesIn(ended, "ShapeError: [matmul]"), ended.err).toBe(1);
  });
});

describe("lazuli run", () => {
  it.each([
    [["run", "--nprocs", "2", "nothing.js"], "lazuli: nothing.js: there is no such file"],
    [["run", "x.js"], "error: required option '--nprocs <n>' not specified"],
    [["run", "--nprocs", "0", "x.js"], "It is not a whole number of at least 1."],
  ])("%j is one clear line and exit code 2", async (args, line) => {
    const { code, err } = await run(process.execPath, [lazuli, ...args]);
    expect(code).toBe(2);
    expect(err).toContain(line);
  });
});
