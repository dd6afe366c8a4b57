import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { DType } from "@lazuli/fx-trace";

export interface XlaValue {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export interface XlaJob {
  readonly text: string;
  readonly inputs: readonly XlaValue[];
  readonly outputs: readonly { readonly dtype: DType; readonly shape: readonly number[] }[];
}

/** The Python that has JAX: PEER_PYTHON, or python3; null where neither has. */
export function findJax(): string | null {
  for (const python of [process.env.PEER_PYTHON, "python3"]) {
    if (python && spawnSync(python, ["-c", "import jax"], { stdio: "ignore" }).status === 0) return python;
  }
  return null;
}

/** Compiles and runs every job with XLA, in one process. By job its outputs' bytes, or what XLA said. */
export function runXla(python: string, jobs: readonly XlaJob[]): (Uint8Array[] | Error)[] {
  const folder = mkdtempSync(join(tmpdir(), "lazuli-xla-"));
  try {
    jobs.forEach(({ text, inputs }, j) => {
      writeFileSync(join(folder, `job${j}.mlir`), text);
      inputs.forEach(({ bytes }, i) => {
        writeFileSync(join(folder, `job${j}.in${i}`), bytes);
      });
    });
    const types = (list: readonly { dtype: DType; shape: readonly number[] }[]) =>
      list.map(({ dtype, shape }) => ({ dtype, shape }));
    const listed = jobs.map(({ inputs, outputs }, j) => ({
      name: `job${j}`,
      inputs: types(inputs),
      outputs: types(outputs),
    }));
    writeFileSync(join(folder, "jobs.json"), JSON.stringify(listed));
    execFileSync(python, [join(import.meta.dirname, "xla_run.py"), folder], { stdio: "pipe" });
    return jobs.map(({ outputs }, j) => {
      const error = join(folder, `job${j}.error`);
      if (existsSync(error)) return new Error(readFileSync(error, "utf8"));
      return outputs.map((_, i) => new Uint8Array(readFileSync(join(folder, `job${j}.out${i}`))));
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
