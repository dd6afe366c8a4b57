import { FileFormatError, LazuliError, printError, StateDictError } from "@lazuli/lazy-tensor";
import { Command, CommanderError } from "commander";
import type { z } from "zod";

/** Something the user wrote that cannot be used; the message is all they need. */
export class UsageError extends Error {}

/** A run that had to stop, with what the user needs to know. */
export class RunError extends Error {}

/** The first complaint about a value, with its key. */
export function firstIssue(error: z.ZodError): string {
  const [{ path, message }] = error.issues;
  return path.length > 0 ? `${path.join(".")}: ${message}` : message;
}

/** A command that throws CommanderError, for `runProgram`, where it would print and end the process. */
export const program = (name: string): Command =>
  new Command(name)
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .allowExcessArguments(false);

const isUsage = (error: unknown): boolean =>
  error instanceof UsageError ||
  error instanceof CommanderError ||
  error instanceof FileFormatError ||
  error instanceof StateDictError;

const isExpected = (error: unknown): error is Error =>
  isUsage(error) ||
  error instanceof LazuliError ||
  error instanceof RunError ||
  // A failed system call, such as writing to a full disk.
  (error instanceof Error && "syscall" in error);

/** Runs a program: expected failures end it with one line and exit code 2 (what the user gave) or 1 (the run). */
export async function runProgram(name: string, body: () => Promise<void>): Promise<void> {
  // A reader that has seen enough, as in `| head`.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));
  try {
    await body();
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return; // --help
    if (!isExpected(error)) throw error;
    const line = error.message.replace(/^error: /, "").replaceAll(/\s*\n\s*/g, " ");
    printError(`${name}: ${line.length > 500 ? `${line.slice(0, 500)}…` : line}\n`);
    process.exitCode = isUsage(error) ? 2 : 1;
  }
}
