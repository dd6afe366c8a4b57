import type { OpDef } from "@lazuli/fx-trace";
import type { ContextParallel } from "@lazuli/sharding";

export interface EngineOptions {
  /** Compiled programs kept; the one used longest ago goes first. */
  readonly cacheCapacity: number;
  /** Recorded nodes above which a loop that never syncs is warned about, once. */
  readonly pendingLimit: number;
  /** Seed of the random generator until `manualSeed` is called. */
  readonly seed: number;
  /** Checks the graph after every pass. */
  readonly verifyPasses: boolean;
  /** Asks the device for the text of its kernels and plan. */
  readonly wantText: boolean;
  /** Whether the device has a kernel for the op; the others are decomposed. */
  readonly supports: (op: OpDef) => boolean;
  /** How attention over a divided sequence is computed; `Engine.contextParallel` changes it. */
  readonly contextParallel: ContextParallel;
}

/** What the container composes; tests register their own. */
export const TOKENS = {
  device: Symbol("lazuli.device"),
  events: Symbol("lazuli.events"),
  options: Symbol("lazuli.options"),
} as const;
