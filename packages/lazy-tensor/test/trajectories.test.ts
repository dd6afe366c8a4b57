import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

// Training from Hugging Face checkpoints, against what PyTorch's loss was at every step (scripts/goldens/llama.py).

const root = fileURLToPath(new URL("../../../", import.meta.url));
const script = process.env.LAZULI_TRAIN_SCRIPT ?? `${root}examples/dist/llama/train.js`;
const goldens = fileURLToPath(new URL("goldens/llama/", import.meta.url));

/** PyTorch's own losses in float64 differ from those in float32 by 1e-6 at most; every mistake tried moves one by 1e-4. */
const TOLERANCE = 1e-4;
/** Of products in 16 bits, beside PyTorch's float32, from which PyTorch's own autocast differs by 6e-3 at most. */
const NARROW_TOLERANCE = 1e-2;

interface Golden {
  readonly lr: number;
  readonly weight_decay: number;
  readonly clip: number;
  readonly losses: readonly number[];
}

function train(
  name: string,
  golden: Golden,
  { env = {}, more = [] }: { env?: Record<string, string>; more?: readonly string[] } = {},
): Promise<number[]> {
  const flags = {
    "--model": `${goldens}${name}`,
    "--data": `${goldens}${name}/batches.npy`,
    "--steps": String(golden.losses.length),
    "--lr": String(golden.lr),
    "--weight-decay": String(golden.weight_decay),
    "--clip": String(golden.clip),
    "--schedule": "constant",
  };
  const args = [script, ...Object.entries(flags).flat(), ...more, "--log-json"];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd: root, env: { ...process.env, ...env } });
    let out = "";
    let err = "";
    child.stdout.on("data", (chunk) => {
      out += chunk;
    });
    child.stderr.on("data", (chunk) => {
      err += chunk;
    });
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) resolve(lossesOf(out));
      else reject(new Error(`train.js ended with ${code}:\n${err}${out}`));
    });
  });
}

/** Lines of JSON that tell a step's loss; other lines are for people. */
function lossesOf(text: string): number[] {
  const lines = text.split("\n").filter((line) => line.startsWith("{"));
  return lines.map((line) => JSON.parse(line).loss).filter((loss) => typeof loss === "number");
}

const readGolden = (name: string): Golden =>
  JSON.parse(readFileSync(`${goldens}${name}/losses.json`, "utf8"));

function expectLosses(losses: readonly number[], golden: Golden, tolerance = TOLERANCE): void {
  expect(losses.length, "steps").toBe(golden.losses.length);
  const off = losses.map((loss, step) => Math.abs(loss - golden.losses[step]) / golden.losses[step]);
  const worst = Math.max(...off);
  const step = off.indexOf(worst);
  // NaN is no number below the tolerance.
  expect(
    worst < tolerance,
    `step ${step}: loss ${losses[step]}, PyTorch ${golden.losses[step]}, off by ${worst}`,
  ).toBe(true);
}

describe("training trajectories against PyTorch", () => {
  it("the example is built", () => {
    expect(existsSync(script), `${script} is missing: run npm run build`).toBe(true);
  });

  const names = readdirSync(goldens).sort();
  it("goldens have 20 steps", () => {
    for (const name of names) expect(readGolden(name).losses).toHaveLength(20);
  });

  it.each(names)("model %s", { timeout: 120_000 }, async (name) => {
    const golden = readGolden(name);
    expectLosses(await train(name, golden), golden);
  });

  it("model b without fusion", { timeout: 120_000 }, async () => {
    const golden = readGolden("b");
    expectLosses(await train("b", golden, { env: { LAZULI_FUSE: "0" } }), golden);
  });

  it.each(["avx2", "baseline"])("model a by the kernels for %s", { timeout: 120_000 }, async (isa) => {
    const golden = readGolden("a");
    expectLosses(await train("a", golden, { env: { LAZULI_ISA: isa } }), golden);
  });

  const meshes = [
    ["data=2", "ddp"],
    ["fsdp=2", "fsdp"],
    ["tensor=2", "tp"],
  ];
  it.each(meshes)("model b over %s", { timeout: 120_000 }, async (mesh, strategy) => {
    const golden = readGolden("b");
    const more = ["--mesh", mesh, "--strategy", strategy];
    expectLosses(await train("b", golden, { more }), golden);
  });

  const narrow = names.flatMap((name) =>
    ["--autocast", "--dtype"].flatMap((flag) =>
      ["bfloat16", "float16"].map((dtype) => [name, flag, dtype] as const),
    ),
  );
  it.each(narrow)("model %s with %s %s", { timeout: 120_000 }, async (name, flag, dtype) => {
    const golden = readGolden(name);
    const losses = await train(name, golden, { more: [flag, dtype] });
    expectLosses(losses, golden, NARROW_TOLERANCE);
    // That it was computed in 16 bits at all.
    expect(() => expectLosses(losses, golden, TOLERANCE)).toThrow();
  });
});
