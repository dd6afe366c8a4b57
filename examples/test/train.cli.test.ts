import { spawn } from "node:child_process";
import { cp, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadNpy, saveNpy } from "@lazuli/lazy-tensor";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";

vi.setConfig({ testTimeout: 60_000 });

const script = fileURLToPath(new URL("../dist/llama/train.js", import.meta.url));
const golden = fileURLToPath(new URL("../../packages/lazy-tensor/test/goldens/llama/a", import.meta.url));

interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

function train(...args: readonly string[]): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script, ...args], { cwd: folder });
    let out = "";
    let err = "";
    child.stdout.on("data", (chunk) => {
      out += chunk;
    });
    child.stderr.on("data", (chunk) => {
      err += chunk;
    });
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, out, err }));
  });
}

let folder = "";
const at = (name: string): string => join(folder, name);

/** A copy of the golden model with one file changed. */
async function broken(name: string, file: string, change: (path: string) => Promise<void>): Promise<void> {
  await cp(golden, at(name), { recursive: true });
  await change(join(at(name), file));
}

/** Changes keys of a copy's config.json. */
const edit =
  (keys: Record<string, unknown>) =>
  async (path: string): Promise<void> => {
    await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, "utf8")), ...keys }));
  };

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lazuli-train-"));
  await writeFile(at("text.txt"), "to be or not to be, that is the question. ".repeat(40));
  await writeFile(at("short.txt"), "too short");
  await saveNpy(at("flat.npy"), Int32Array.of(1, 2, 3), [3]);
  await saveNpy(at("two.npy"), new Int32Array(2 * 2 * 9), [2, 2, 9]);
  await saveNpy(at("ids.npy"), new Int32Array(9).fill(4000), [1, 1, 9]);
  await broken("cut", "model.safetensors", (path) => truncate(path, 1000));
  await broken("weightless", "model.safetensors", (path) => rm(path));
  await broken("wider", "config.json", edit({ intermediate_size: 113 }));
  await broken("deeper", "config.json", edit({ num_hidden_layers: 3 }));
  await broken("headless", "config.json", edit({ num_attention_heads: "four" }));
});
afterAll(() => rm(folder, { recursive: true }));

describe("what cannot be used ends with one line and code 2", () => {
  it.each<[string, RegExp]>([
    ["--nothing", /unknown option '--nothing'/],
    ["extra", /too many arguments/],
    ["--steps", /option '--steps <n>' argument missing/],
    ["--steps ten", /--steps ten: is not a number/],
    ["--steps 0", /--steps 0: must be at least 1/],
    ["--batch 1.5", /--batch 1.5: is not a whole number/],
    ["--lr=-1", /--lr -1: must be above 0/],
    ["--lr 0", /--lr 0: must be above 0/],
    ["--weight-decay x", /--weight-decay x: is not a number/],
    ["--grad-accum 0", /--grad-accum 0: must be at least 1/],
    ["--schedule step", /--schedule step: is not one of constant, linear, cosine/],
    ["--dtype int8", /--dtype int8: is not one of float32, bfloat16, float16/],
    ["--device tpu", /--device tpu: is not one of cpu, cuda, null/],
    ["--remat full", /--remat full: is not one of none, auto/],
    ["--remat auto", /--remat auto: needs --memory-budget: 300MB, say/],
    ["--memory-budget lots", /--memory-budget lots: is no number of bytes, such as 300MB or 1.5GiB/],
    ["--memory-budget 0", /--memory-budget 0: must be at least 1 byte/],
    ["--config huge", /huge: cannot be read/],
    ["--config text.txt", /text.txt: not valid JSON/],
    ["--config tiny --model cut", /one of --config, --model and --resume/],
    ["--config headless/config.json", /headless\/config.json: num_attention_heads: .*number/],
    ["--data none.txt", /none.txt: cannot be read: no such file/],
    ["--data *.rs", /\*.rs: matches no file/],
    ["--data short.txt", /short.txt: 9 tokens are too few for windows of 129/],
    ["--data none.npy", /none.npy: cannot be read/],
    ["--data text.txt two.npy", /an .npy file is taken alone/],
    ["--data flat.npy", /flat.npy: holds int32 \[3\], not int32 \[steps, batch, seq \+ 1\]/],
    ["--data two.npy --steps 3", /--steps 3: the .npy file has batches for 2/],
    ["--data two.npy --batch 5", /--batch 5: the .npy file has 2/],
    ["--data two.npy --seq 5", /--seq 5: the .npy file has 8/],
    ["--data ids.npy", /ids.npy: token 4000 in batch 0 is not among the model's 512/],
    ["--model none", /none\/config.json: cannot be read/],
    ["--model weightless --data two.npy", /weightless: the folder has no model.safetensors/],
    ["--model cut --data two.npy", /cut\/model.safetensors: /],
    [
      "--model wider --data two.npy",
      /wrong shape: model.layers.0.mlp.gate_proj.weight is \[112, ?48\] and should be \[113, ?48\]/,
    ],
    ["--model deeper --data two.npy", /missing: model.layers.2/],
    ["--model cut --data text.txt", /a model of vocab_size 128 has no token for every one of 256/],
    ["--resume cut --data two.npy", /training.json: cannot be read/],
    ["--data two.npy --save text.txt", /text.txt: cannot be made a folder/],
  ])("%s", async (flags, message) => {
    const { code, out, err } = await train(...flags.split(" "));
    expect(err).toMatch(message);
    expect(err.trimEnd().split("\n"), err).toHaveLength(1);
    expect(err).not.toMatch(/\n\s+at /);
    expect({ code, out }).toEqual({ code: 2, out: "" });
  });
});

const small = ["--data", "text.txt", "--batch", "2", "--seq", "16"];
const jsonLines = (out: string): Record<string, never>[] =>
  out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

describe("a run", () => {
  it("prints one object a step and a summary, nothing else, and the same again", async () => {
    const flags = [...small, "--steps", "3", "--log-json", "--schedule", "cosine", "--warmup", "2"];
    const { code, out } = await train(...flags);
    expect(code).toBe(0);
    const lines = jsonLines(out);
    expect(lines).toHaveLength(4);
    for (const [i, line] of lines.slice(0, 3).entries()) {
      expect(line).toMatchObject({ step: i + 1, loss: expect.any(Number), tokens_per_s: expect.any(Number) });
      expect(line).toMatchObject({ lr: expect.any(Number), step_ms: expect.any(Number) });
    }
    const { summary } = lines[3];
    expect(summary).toMatchObject({ steps: 3, final_loss: lines[2].loss, compiles: expect.any(Number) });
    for (const key of ["step_ms", "tokens_per_s", "first_step_s", "peak_mb", "params_m"]) {
      expect(summary).toHaveProperty(key, expect.any(Number));
    }
    const again = jsonLines((await train(...flags)).out);
    expect(again.slice(0, 3).map(({ loss }) => loss)).toEqual(lines.slice(0, 3).map(({ loss }) => loss));
  });

  it("goes on from a checkpoint as if it had not stopped", async () => {
    const flags = [...small, "--log-json", "--lr", "1e-3"];
    const whole = jsonLines((await train(...flags, "--steps", "5")).out);
    expect((await train(...flags, "--steps", "3", "--save", "saved")).code).toBe(0);
    const files = ["config.json", "model.safetensors", "optimizer.safetensors", "training.json"];
    expect((await readdir(at("saved"))).sort()).toEqual(files);
    const rest = jsonLines((await train(...flags, "--steps", "5", "--resume", "saved")).out);
    expect(rest.map(({ loss }) => loss).slice(0, 2)).toEqual(whole.map(({ loss }) => loss).slice(3, 5));
    const { code, err } = await train(...flags, "--steps", "3", "--resume", "saved");
    expect([code, err.includes("--steps 3: the checkpoint has 3 behind it")]).toEqual([2, true]);
  });

  it("adds up gradients to those of the larger batch", async () => {
    const { data } = await loadNpy(join(golden, "batches.npy"));
    await saveNpy(at("whole.npy"), data.slice(0, 2 * 4 * 17) as Int32Array, [2, 4, 17]);
    await saveNpy(at("parts.npy"), data.slice(0, 2 * 4 * 17) as Int32Array, [4, 2, 17]);
    const losses = async (...flags: string[]): Promise<number[]> =>
      jsonLines((await train("--model", golden, "--log-json", ...flags)).out).flatMap(
        ({ loss = [] }) => loss,
      );
    const whole = await losses("--data", "whole.npy");
    const parts = await losses("--data", "parts.npy", "--grad-accum", "2");
    expect(parts).toHaveLength(2);
    for (const [i, loss] of whole.entries()) expect(parts[i]).toBeCloseTo(loss, 4);
  });

  it.each(["bfloat16", "float16"])("in %s stays near float32", async (dtype) => {
    const flags = ["--model", golden, "--data", join(golden, "batches.npy"), "--log-json", "--lr", "1e-3"];
    const [exact, half] = [
      jsonLines((await train(...flags)).out),
      jsonLines((await train(...flags, "--dtype", dtype)).out),
    ];
    for (const [i, { loss, summary }] of exact.entries()) {
      if (summary === undefined) expect(Math.abs(half[i].loss - loss)).toBeLessThan(0.1);
    }
    expect(half.map(({ loss }) => loss)).not.toEqual(exact.map(({ loss }) => loss));
  });

  it("stops at a loss that is no number, with the step, and saves nothing", async () => {
    const { code, out, err } = await train(
      ...small,
      "--lr",
      "1e30",
      "--clip",
      "0",
      "--steps",
      "50",
      "--save",
      "diverged",
      "--log-json",
    );
    expect(code).toBe(1);
    expect(err).toMatch(/the loss is (NaN|-?Infinity) at step \d+: stopped/);
    expect(out).not.toContain("summary");
    expect(await readdir(at("diverged"))).toEqual([]);
  });

  it("writes a trace that Chrome reads", async () => {
    const { code } = await train(...small, "--steps", "3", "--trace", "trace.json", "--log-json");
    expect(code).toBe(0);
    const { traceEvents } = JSON.parse(await readFile(at("trace.json"), "utf8"));
    const spans = traceEvents.filter(({ ph }: { ph: string }) => ph === "X");
    for (const { ts, dur } of spans) expect([ts >= 0, dur >= 0]).toEqual([true, true]);
    const names = spans.map(({ name }: { name: string }) => name).join("\n");
    expect(names).toMatch(/compile #1/);
    expect(names).toMatch(/step, program #/);
    expect(spans.filter(({ tid }: { tid: number }) => tid === 3).length).toBeGreaterThan(10);
  });

  it("without --log-json keeps standard output empty", async () => {
    const { code, out, err } = await train(...small, "--steps", "2");
    expect({ code, out }).toEqual({ code: 0, out: "" });
    expect(err).toMatch(/2\/2 \| loss \d/);
  });
});
