import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

// Several processes, each with an emulated GPU of its own (native/test/simt, which has a stand-in for NCCL): ids exchanged over
// MPI, collectives on a second stream and in CUDA graphs, failures told. And the same through the host's memory.

const root = fileURLToPath(new URL("../../", import.meta.url));
const lazuli = `${root}packages/lazy-tensor/bin/lazuli.js`;
const train = `${root}examples/dist/llama/train.js`;
const golden = `${root}packages/lazy-tensor/test/goldens/llama/b`;
const script = fileURLToPath(new URL("ranks/cuda.mjs", import.meta.url));
const emulator = `${root}build/liblazuli_simt.so`;
const isThere =
  existsSync(emulator) &&
  existsSync(`${root}build/Release/liblazuli_mpi.so`) &&
  spawnSync("mpirun", ["--version"]).status === 0;

describe.skipIf(!isThere)("processes with a GPU each", { timeout: 240_000 }, () => {
  let cache: string;
  beforeAll(() => {
    cache = mkdtempSync(join(tmpdir(), "lazuli-cubin-"));
  });
  afterAll(() => rmSync(cache, { recursive: true, force: true }));

  function run(
    args: readonly string[],
    env: Record<string, string> = {},
  ): Promise<{ code: number | null; out: string; err: string; seconds: number }> {
    return new Promise((resolve, reject) => {
      const started = performance.now();
      const child = spawn(process.execPath, args, {
        cwd: root,
        env: {
          ...process.env,
          LAZULI_CUDA_PATH: emulator,
          LAZULI_CACHE_DIR: cache,
          LAZULI_SIMT_DEVICES: "2",
          ...env,
        },
      });
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
  const job = (args: readonly string[], env?: Record<string, string>) =>
    run([lazuli, "run", "--nprocs", "2", ...args], env);

  const model = [
    ...["--model", golden, "--data", `${golden}/batches.npy`],
    ...["--steps", "5", "--lr", "1e-3", "--clip", "1", "--log-json"],
  ];
  const lossesOf = (out: string): number[] =>
    out
      .split("\n")
      .filter((line) => line.startsWith('{"step"'))
      .map((line) => JSON.parse(line).loss);

  const host = "collectives go through the host's memory";
  let alone: Promise<number[]> | undefined;
  it.each([
    ["data=2", "ddp", "by NCCL", {}],
    ["fsdp=2", "fsdp", "by NCCL", {}],
    ["data=2", "ddp", "through the host", { LAZULI_NCCL: "0" }],
    ["fsdp=2", "fsdp", "through the host", { LAZULI_NCCL: "0" }],
    // Both ranks on the one GPU, which NCCL would refuse.
    ["data=2", "ddp", "through the host, on one GPU", { LAZULI_SIMT_DEVICES: "1" }],
  ] as const)("train on %s by %s as one, %s", async (mesh, strategy, way, env) => {
    alone ??= run([train, ...model]).then(({ out }) => lossesOf(out));
    const expected = await alone;
    expect(expected).toHaveLength(5);
    const flags = ["--device", "cuda", "--mesh", mesh, "--strategy", strategy];
    const { code, out, err } = await job([train, ...model, ...flags], env);
    expect(code, err).toBe(0);
    expect(err.includes(host), err).toBe(way !== "by NCCL");
    const losses = lossesOf(out);
    expect(losses).toHaveLength(5);
    losses.forEach((loss, i) => {
      expect(Math.abs(loss - expected[i]) / expected[i], `step ${i + 1}: ${loss}`).toBeLessThan(1e-5);
    });
  });

  it.each([["by NCCL"], ["through the host"]])("one that fails tells the others, %s", async (way) => {
    const env: Record<string, string> = way === "by NCCL" ? {} : { LAZULI_NCCL: "0" };
    const { code, out, seconds } = await job([script, "index"], env);
    expect(code).not.toBe(0);
    expect(out).toContain("rank 0 step 1: 32");
    for (const rank of [0, 1]) expect(out).toMatch(new RegExp(`rank ${rank}: .*Error: .*index.* 9 `));
    // Well before the five minutes that a collective may take.
    expect(seconds).toBeLessThan(100);
  });

  it("are told when one no longer comes", async () => {
    const { code, out } = await job(["--timeout", "3", script, "stall"]);
    expect(code).not.toBe(0);
    expect(out).toMatch(/rank 0: CollectiveError: .*other devices did not reach a collective within 3 s/);
  });
});
