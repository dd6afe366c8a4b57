import { LazuliError } from "@lazuli/fx-trace";

/** An error of the native backend. `node` is the position of the program's node it is about, or -1. */
export class BackendError extends LazuliError {
  node = -1;
}

/** A program the device cannot take. */
export class CompileError extends BackendError {}
/** More memory than the device has, or is allowed. */
export class OutOfMemoryError extends BackendError {}
/** What a program met while it ran: an index out of range, a closed device, a buffer whose own run failed. */
export class RunError extends BackendError {}
/** A collective that another device did not come to in time, or that another process failed before. */
export class CollectiveError extends BackendError {}
/** A device that cannot be opened: no driver, no GPU, or a build without it. */
export class DeviceError extends BackendError {}
/** A request that makes no sense: a buffer that is not there, or of another size. */
export class ArgumentError extends BackendError {}

const classes = {
  COMPILE: CompileError,
  OUT_OF_MEMORY: OutOfMemoryError,
  RUN: RunError,
  ARGUMENT: ArgumentError,
  COLLECTIVE: CollectiveError,
  DEVICE: DeviceError,
} as const;

interface AddonError extends Error {
  readonly code: keyof typeof classes;
  readonly node: number;
}

const isAddonError = (error: unknown): error is AddonError =>
  error instanceof Error && ((error as AddonError).code ?? "") in classes;

/** What the addon threw, as one of the classes above. Its messages may start with the op, `[op] what`. */
export function fromAddon(error: unknown): unknown {
  if (!isAddonError(error)) return error;
  const [, op, detail] = /^\[([a-z0-9_]+)\] (.*)$/s.exec(error.message) ?? [null, "device", error.message];
  const made = new classes[error.code](op as string, detail as string);
  made.node = error.node;
  return made;
}
