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
