import { LazuliError } from "@lazuli/fx-trace";

/** A tensor whose value is gone: donated to an update, freed, or never computed by the step it belonged to. */
export class StaleTensorError extends LazuliError {}
/** A read or a write that does not fit the tensor (a vector read by `item()`, data of the wrong length). */
export class TensorError extends LazuliError {}
/** A file that is not what its name or header says; names the file. */
export class FileFormatError extends LazuliError {}
/** A state dict that does not fit the module. */
export class StateDictError extends LazuliError {}
/** What cannot be exported, or an exported program called with what it was not exported for. */
export class ExportError extends LazuliError {}

const megabytes = (bytes: number): string =>
  bytes < 1e6 ? `${bytes} bytes` : `${(bytes / 1e6).toFixed(1)} MB`;

/** A program whose intermediate values do not fit into `memoryBudgetBytes`, whatever is computed again. */
export class MemoryBudgetError extends LazuliError {
  constructor(
    readonly budgetBytes: number,
    /** The smallest peak of intermediate values that recomputing reaches: a budget that could be met. */
    readonly smallestBytes: number,
    /** The peak with nothing computed again; null where the device's own limit refuses that. */
    readonly withoutBytes: number | null,
  ) {
    super(
      "remat",
      `memoryBudgetBytes is ${budgetBytes} (${megabytes(budgetBytes)}), but the program's intermediate values take at least ` +
        `${smallestBytes} (${megabytes(smallestBytes)})` +
        (withoutBytes === null ? "" : `, and ${megabytes(withoutBytes)} with nothing computed again`),
    );
  }
}
