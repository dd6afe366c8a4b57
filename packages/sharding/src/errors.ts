import { LazuliError } from "@lazuli/fx-trace";

/** A mesh, a partition spec or a layout that cannot be. */
export class ShardingError extends LazuliError {}
