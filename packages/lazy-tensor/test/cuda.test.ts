import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { cudaInfo } from "@lazuli/cuda-backend";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

// The CUDA device as a program sees it, on the emulated GPU (native/test/simt): streams, graphs, kernels printed and compiled
// at run time, products, errors. Each case is a process of its own, which opens the emulator as its driver.

const root = fileURLToPath(new URL("../../../", import.meta.url));
const emulator = `${root}build/liblazuli_simt.so`;
const golden = fileURLToPath(new URL("goldens/llama/a", import.meta.url));
const index = `${root}packages/lazy-tensor/dist/index.js`;

/** What a module prints; `env` beside the emulator's. */
function runModule(body: string, env: Record<string, string> = {}): { out: string; err: string } {
  const text = `import * as lazuli from ${JSON.stringify(index)};\n${body}`;
  const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", text], {
    encoding: "utf8",
    env: { ...process.env, LAZULI_CUDA_PATH: emulator, ...env },
  });
  return { out: stdout.trim(), err: stderr };
}

describe("cuda without a driver", () => {
  it.skipIf(cudaInfo().gpus.length > 0)("says what is missing", () => {
    const body = `try { lazuli.configure({ device: "cuda" }); } catch (e) { console.log(e.constructor.name, e.message); }`;
    const { out } = runModule(body, { LAZULI_CUDA_PATH: "" });
    expect(out).toMatch(
      /^DeviceError \[device\] (no NVIDIA driver: libcuda\.so\.1 was not found|this build has no CUDA)/,
    );
  });
});

describe.skipIf(!existsSync(emulator))("cuda on an emulated GPU", { timeout: 180_000 }, () => {
  let cache: string;
  beforeAll(() => {
    cache = mkdtempSync(join(tmpdir(), "lazuli-cubin-"));
  });
  afterAll(() => rmSync(cache, { recursive: true, force: true }));
  const run = (body: string, env: Record<string, string> = {}) =>
    runModule(body, { LAZULI_CACHE_DIR: cache, ...env });

  it("trains on PyTorch's trajectory, kernel by kernel and then as a graph", () => {
    const { losses } = JSON.parse(readFileSync(`${golden}/losses.json`, "utf8"));
    const steps = 5;
    const args = [
      "--model",
      golden,
      "--data",
      `${golden}/batches.npy`,
      "--steps",
      String(steps),
      "--lr",
      "1e-3",
    ];
    args.push(
      "--weight-decay",
      "0.1",
      "--clip",
      "1",
      "--schedule",
      "constant",
      "--log-json",
      "--device",
      "cuda",
    );
    const { stdout, stderr } = spawnSync(process.execPath, [`${root}examples/dist/llama/train.js`, ...args], {
      encoding: "utf8",
      env: { ...process.env, LAZULI_CUDA_PATH: emulator, LAZULI_CACHE_DIR: cache },
    });
    const lines = stdout.split("\n").filter((line) => line.startsWith('{"step"'));
    expect(lines.length, stderr).toBe(steps);
    lines.forEach((line, step) => {
      expect(Math.abs(JSON.parse(line).loss / losses[step] - 1), `step ${step}`).toBeLessThan(1e-4);
    });
  });

  it("gives the same numbers over several virtual devices", () => {
    const body = `
      lazuli.configure({ device: "cuda", virtualDevices: 2 });
      const mesh = new lazuli.Mesh({ data: 2 });
      const x = lazuli.markSharding(lazuli.arange(0, 24).reshape([6, 4]), mesh, ["data", null]);
      console.log(JSON.stringify(await x.mul(2).sum(0).array()));`;
    const { out, err } = run(body);
    expect(out, err).toBe("[120,132,144,156]");
  });

  it("refuses a program that does not fit, before it runs, and goes on", () => {
    const body = `
      lazuli.configure({ device: "cuda" });
      try { await lazuli.sync(lazuli.ones([64, 1024, 1024]).mul(2)); } catch (e) {
        console.log(e.constructor.name, /MB|GB/.test(e.message));
      }
      console.log(await lazuli.ones([3]).sum().item());`;
    const { out, err } = run(body, { LAZULI_SIMT_MEMORY: String(64 << 20) });
    expect(out, err).toBe("OutOfMemoryError true\n3");
  });

  it("computes attention by Hopper's kernels, deterministic or not, as by the others", () => {
    const body = (deterministic: boolean) => `
      lazuli.configure({ device: "cuda", deterministic: ${deterministic} });
      const [q, k, v] = [1, 2, 3].map((i) => lazuli.arange(0, 2 * 70 * 64).mul(i / 7).sin().reshape([1, 2, 70, 64]).to("bfloat16"));
      for (let run = 0; run < 3; run++) {
        const leaves = [q, k, v].map((x) => x.detach().requiresGrad_());
        const out = lazuli.F.scaledDotProductAttention(...leaves, { causal: true });
        out.to("float32").square().sum().backward();
        const sums = [out, ...leaves.map((x) => x.grad)].map((x) => x.to("float32").abs().sum());
        console.log(JSON.stringify(await Promise.all(sums.map((x) => x.item()))));
      }`;
    const numbers = ({ out, err }: { out: string; err: string }): number[][] => {
      expect(err).toBe("");
      return out.split("\n").map((line) => JSON.parse(line));
    };
    const simple = numbers(run(body(true), { LAZULI_CUDA_ATTENTION: "simple" }))[0];
    for (const deterministic of [true, false])
      for (const LAZULI_SIMT_ARCH of ["8.0", "9.0"]) {
        const runs = numbers(run(body(deterministic), { LAZULI_SIMT_ARCH }));
        expect(runs.length).toBe(3);
        for (const sums of runs)
          sums.forEach((sum, i) => {
            expect(Math.abs(sum / simple[i] - 1)).toBeLessThan(0.01);
          });
      }
    expect(run(body(true), { LAZULI_CUDA_ATTENTION: "sm70" }).err).toContain("auto, sm90, sm80 or simple");
  });

  it("names an index out of range, at the call, and goes on", () => {
    const body = `
      lazuli.configure({ device: "cuda" });
      const table = lazuli.ones([5, 2]);
      const rows = lazuli.tensor([1, 9], { dtype: "int32" });
      try { await table.indexSelect(0, rows).array(); } catch (e) { console.log(e.constructor.name, /9/.test(e.message)); }
      console.log(await table.sum().item());`;
    const { out, err } = run(body);
    expect(out, err).toBe("RunError true\n10");
  });

  it("tells what a kernel's fault leaves unusable, and the process goes on", () => {
    const body = `
      lazuli.configure({ device: "cuda" });
      const rows = lazuli.ones([5, 64]);
      console.log(await rows.sum().item());
      for (const wanted of [() => rows.softmax(-1), () => rows.add(1), () => lazuli.tensor([1, 2]).mul(2)])
        try { console.log(await wanted().array()); } catch (e) { console.log(e.constructor.name, /the GPU failed: .*LAUNCH_FAILED.*this process cannot use it any more/.test(e.message)); }
      lazuli.configure({ device: "cpu" });
      console.log(await lazuli.ones([3]).sum().item());`;
    const { out, err } = run(body, { LAZULI_SIMT_FAULT: "softmax" });
    expect(out, err).toBe("320\nRunError true\nRunError true\nRunError true\n3");
    const named = run(
      `lazuli.configure({ device: "cuda" });
      try { await lazuli.ones([5, 64]).softmax(-1).array(); } catch (e) { console.log(e.message); }`,
      { LAZULI_SIMT_FAULT: "softmax", LAZULI_CUDA_GRAPHS: "0", CUDA_LAUNCH_BLOCKING: "1" },
    );
    expect(named.out, named.err).toMatch(
      /^\[softmax\] softmax float32 \[5, 64\]: .* seen by lazuli_softmax_whole_f32;/,
    );
  });
});
