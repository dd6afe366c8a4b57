import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { RunError, UsageError } from "@lazuli/examples/llama/cli.js";
import { median } from "@lazuli/examples/llama/statistics.js";
import { type Result, round } from "./measure.js";

export interface CompareOptions {
  readonly config: string;
  readonly dtype: string;
  readonly steps: number;
  readonly warmup: number;
  readonly rounds: number;
  readonly peers: readonly PeerName[];
  readonly peerDir: string;
  readonly onRun?: (name: string, round: number, line: Result) => void;
}

const peerScripts = {
  torch: ["torch_llama.py"],
  "torch-compile": ["torch_llama.py", "--compile"],
  jax: ["jax_llama.py"],
} as const;
export type PeerName = keyof typeof peerScripts;
export const peerNames = Object.keys(peerScripts) as PeerName[];

const measures = ["tokens_per_s", "step_ms", "first_step_s", "peak_mb"] as const;
type Measure = (typeof measures)[number];

export interface Comparison {
  readonly name: string;
  /** Medians over the rounds. */
  readonly medians: Readonly<Record<Measure, number>>;
  /** Ours divided by this one's; above 1 is faster for tokens_per_s, more for the others. */
  readonly ratios: Readonly<Record<Measure, number>>;
}

/** Runs a program that prints one line of JSON last. Throws RunError with the end of what it said otherwise. */
function runJson(command: string, args: readonly string[], cwd?: string): Promise<Result> {
  return new Promise((done, reject) => {
    const child = spawn(command, args, { cwd, stdio: ["ignore", "pipe", "pipe"] });
    let out = "";
    let err = "";
    child.stdout.on("data", (chunk) => {
      out += chunk;
    });
    child.stderr.on("data", (chunk) => {
      err += chunk;
    });
    const fail = (why: string): void => reject(new RunError(`${[command, ...args].join(" ")}: ${why}`));
    child.on("error", (error) => fail(error.message));
    child.on("close", (code) => {
      if (code !== 0) return fail(`ended with ${code}: ${err.trim().split("\n").at(-1) ?? ""}`);
      try {
        done(JSON.parse(out.trim().split("\n").at(-1) ?? ""));
      } catch {
        fail("printed no JSON");
      }
    });
  });
}

/** The Python that has torch and JAX. Throws UsageError where none is named. */
function peerPython(): string {
  const python = process.env.PEER_PYTHON;
  if (!python) throw new UsageError("PEER_PYTHON is not set: name a python that has torch and jax");
  if (python.includes("/") && !existsSync(python)) throw new UsageError(`PEER_PYTHON: there is no ${python}`);
  return python;
}

/** Trains with ours and the peers in turn, round after round, so that a busy moment of the machine meets all alike. */
export async function compare(options: CompareOptions): Promise<Comparison[]> {
  const { config, dtype, steps, warmup, rounds, peers, onRun } = options;
  const flags = ["--config", config, "--dtype", dtype, "--steps", `${steps}`, "--warmup", `${warmup}`];
  const cli = fileURLToPath(new URL("cli.js", import.meta.url));
  const runs: Record<string, () => Promise<Result>> = {
    lazuli: () => runJson(process.execPath, [cli, "train", "--json", ...flags]),
  };
  if (peers.length > 0) {
    const python = peerPython();
    const folder = resolve(options.peerDir);
    for (const name of peers) {
      const [script, ...extra] = peerScripts[name];
      if (!existsSync(join(folder, script)))
        throw new UsageError(`${folder}: has no ${script}; name its folder with --peer-dir or PEER_DIR`);
      runs[name] = () => runJson(python, [script, ...extra, ...flags], folder);
    }
  }

  const lines = new Map<string, Result[]>(Object.keys(runs).map((name) => [name, []]));
  for (let i = 0; i < rounds; i++) {
    for (const [name, run] of Object.entries(runs)) {
      const line = await run();
      lines.get(name)?.push(line);
      onRun?.(name, i + 1, line);
    }
  }
  const medians = [...lines].map(([name, results]) => {
    const entries = measures.map((key) => [key, round(median(results.map((line) => Number(line[key]))), 3)]);
    return { name, medians: Object.fromEntries(entries) as Record<Measure, number> };
  });
  const ours = medians[0].medians;
  return medians.map(({ name, medians }) => {
    const entries = measures.map((key) => [key, round(ours[key] / medians[key], 3)]);
    return { name, medians, ratios: Object.fromEntries(entries) as Record<Measure, number> };
  });
}

/** Medians and, in parentheses, ours divided by theirs, as aligned text. */
export function formatComparison(rows: readonly Comparison[]): string {
  const table = [
    ["", ...measures],
    ...rows.map(({ name, medians, ratios }, i) => [
      name,
      ...measures.map((key) => `${medians[key]}${i > 0 ? ` (${ratios[key]}x)` : ""}`),
    ]),
  ];
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  const lines = table.map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column])))
      .join("  "),
  );
  return `${lines.join("\n")}\n(x: ours divided by theirs)`;
}
