import { createHash } from "node:crypto";
import { closeSync, openSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { inspect } from "node:util";

/** Whether a launcher of MPI started this process as one of several. */
export function isRank(): boolean {
  const sizes = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS"];
  return sizes.some((name) => Number(process.env[name] ?? 1) > 1);
}

/** Another rank that began to print gets so long to end. */
const PATIENCE_MS = 2000;

/** Where the ranks of one host agree on who prints the text: in the folder that the job has there, and takes along. */
function markerOf(text: string): string | null {
  const { PMIX_SERVER_TMPDIR: folder, PMIX_NAMESPACE: job } = process.env;
  if (!isRank() || !folder || !job) return null;
  // What failed on a device names it: the same failure on another is the same error.
  const same = text.replaceAll(new RegExp(`\\bdevice ${process.env.PMIX_RANK}: `, "g"), "device *: ");
  return join(folder, `lazuli-${job}-${createHash("sha256").update(same).digest("hex").slice(0, 24)}`);
}

/** Whether the rank that made the marker has printed. */
function isPrinted(marker: string): boolean {
  const sleeper = new Int32Array(new SharedArrayBuffer(4));
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end; ) {
    try {
      if (statSync(marker).size > 0) return true;
    } catch {
      return false;
    }
    Atomics.wait(sleeper, 0, 0, 10);
  }
  return false;
}

/**
 * Writes an error to standard error, of the ranks of a job that write the same one only the first on each host: as a rule all
 * meet a mistake of the user's. A rank leaves it to another only once that one has printed.
 */
export function printError(text: string): void {
  const marker = markerOf(text);
  let file: number | null = null;
  if (marker !== null) {
    try {
      file = openSync(marker, "wx");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EEXIST" && isPrinted(marker)) return;
    }
  }
  process.stderr.write(text);
  if (file === null) return;
  writeSync(file, "printed");
  closeSync(file);
}

let catches = false;

/** Of a rank, prints what nothing caught by `printError`, and ends the process as Node does. */
export function catchErrors(): void {
  if (catches || !isRank()) return;
  catches = true;
  process.on("uncaughtException", (error) => {
    // The program has a handler of its own.
    if (process.listenerCount("uncaughtException") > 1) return;
    printError(`${error instanceof Error ? inspect(error) : `Uncaught ${inspect(error)}`}\n`);
    process.exit(process.exitCode || 1);
  });
}
