import { type OpDef, ValueError } from "@lazuli/fx-trace";
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
  /** Whether devices of a mesh compute while collectives are under way; `Engine.communication` changes it. */
  readonly overlap: boolean;
  /** Most bytes of gradients, or of a module's parameters, that go over the mesh as one; `fullyShard` may change it. */
  readonly bucketBytes: number;
  /** Blocks whose parameters are gathered ahead of their use; `fullyShard` may change it. */
  readonly prefetch: number;
  /** Whether values are computed again in backward instead of being kept: "auto" where a program needs it to meet the budget. */
  readonly remat: Remat;
  /** With `remat: "auto"`: most bytes of a program's intermediate values, its planned arena, on each device. */
  readonly memoryBudgetBytes: number;
}

export type Remat = "none" | "auto";

/** Throws ValueError for another `remat`, or for "auto" without a budget of whole bytes above 0. */
export function checkRemat({ remat, memoryBudgetBytes }: EngineOptions): void {
  if (remat !== "none" && remat !== "auto")
    throw new ValueError("configure", `remat must be "none" or "auto", got ${JSON.stringify(remat)}`);
  if (remat === "auto" && !(Number.isSafeInteger(memoryBudgetBytes) && memoryBudgetBytes > 0))
    throw new ValueError(
      "configure",
      `remat: "auto" needs memoryBudgetBytes, a whole number above 0, got ${memoryBudgetBytes}`,
    );
}

/** How collectives are placed: of the programs compiled from now on. */
export type Communication = Pick<EngineOptions, "overlap" | "bucketBytes" | "prefetch">;

/** Throws ValueError for a bucket of no bytes, or a number of blocks that is none. */
export function checkedCommunication(op: string, communication: Communication): Communication {
  const { bucketBytes, prefetch } = communication;
  if (!(Number.isSafeInteger(bucketBytes) && bucketBytes > 0))
    throw new ValueError(op, `bucketBytes must be a whole number above 0, got ${bucketBytes}`);
  if (!(Number.isInteger(prefetch) && prefetch >= 0 && prefetch < 2 ** 32))
    throw new ValueError(op, `prefetch must be a whole number of blocks, 0 or more, got ${prefetch}`);
  return communication;
}

/** What the container composes; tests register their own. */
export const TOKENS = {
  device: Symbol("lazuli.device"),
  events: Symbol("lazuli.events"),
  options: Symbol("lazuli.options"),
} as const;
