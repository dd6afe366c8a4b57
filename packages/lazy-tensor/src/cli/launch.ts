import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

/** A request that cannot be met, in one line. */
export class LaunchError extends Error {}

export interface LaunchOptions {
  readonly script: string;
  readonly args: readonly string[];
  readonly nprocs: number;
  readonly hosts?: readonly string[];
  /** Seconds that a device waits for another. */
  readonly timeout?: number;
}

/** mpirun's arguments before the program's. */
export function mpirunArguments({ nprocs, hosts = [], timeout }: LaunchOptions): string[] {
  const each = Math.ceil(nprocs / Math.max(hosts.length, 1));
  const env = Object.keys(process.env).filter((name) => name.startsWith("LAZULI_"));
  if (timeout !== undefined) env.push(`LAZULI_COLLECTIVE_TIMEOUT_MS=${timeout * 1000}`);
  return [
    ...["-n", String(nprocs)],
    // Threads are shared out by the program; bound ones would wait for each other on one core.
    ...["--bind-to", "none", "--oversubscribe"],
    ...(hosts.length > 0
      ? ["--host", hosts.map((host) => (host.includes(":") ? host : `${host}:${each}`)).join(",")]
      : []),
    ...env.flatMap((name) => ["-x", name]),
    ...(process.getuid?.() === 0 ? ["--allow-run-as-root"] : []),
  ];
}

/** What Node needs ahead of a TypeScript program. Throws LaunchError where it cannot run one. */
function nodeArguments(script: string): string[] {
  if (!/\.[cm]?tsx?$/.test(script)) return [];
  if ((process.features as { typescript?: unknown }).typescript) return [];
  try {
    const tsx = createRequire(join(process.cwd(), "package.json")).resolve("tsx");
    return ["--import", pathToFileURL(tsx).href];
  } catch {
    throw new LaunchError(
      `${script}: Node ${process.versions.node} does not run TypeScript: install tsx (npm install tsx), or give the compiled file`,
    );
  }
}

/** Starts the processes and gives mpirun's exit code. Throws LaunchError. */
export async function launch(options: LaunchOptions): Promise<number> {
  const script = resolve(options.script);
  if (!existsSync(script)) throw new LaunchError(`${options.script}: there is no such file`);
  const isThere = (process.env.PATH ?? "")
    .split(delimiter)
    .some((folder) => existsSync(join(folder, "mpirun")));
  if (!isThere)
    throw new LaunchError(
      "no mpirun: install Open MPI (apt-get install openmpi-bin libopenmpi-dev), then npm run build",
    );
  const rank = ["--import", new URL("rank.js", import.meta.url).href];
  const node = [process.execPath, ...nodeArguments(script), ...rank, script, ...options.args];
  const child = spawn("mpirun", [...mpirunArguments(options), ...node], { stdio: "inherit" });
  const stop = (signal: NodeJS.Signals): void => {
    child.kill(signal);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, stop);
  return new Promise((done, fail) => {
    child.on("error", (error) => fail(new LaunchError(`mpirun cannot be started: ${error.message}`)));
    child.on("close", (code) => done(code ?? 1));
  });
}
