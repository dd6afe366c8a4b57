import type { ExecutableInfo, KernelTime } from "@lazuli/cuda-backend";
import type { Graph } from "@lazuli/fx-trace";
import { Subject } from "rxjs";
import type { RematSummary } from "./remat_budget.js";

export interface CompileEvent {
  /** Rises by one a compile. */
  readonly program: number;
  readonly hash: number;
  readonly recordedNodes: number;
  readonly compiledNodes: number;
  /** Why no cached program fitted: the first node that differs from the program run last. */
  readonly reason: string;
  readonly passesMs: number;
  readonly nativeMs: number;
  readonly info: ExecutableInfo;
  /** The graph that was compiled. */
  readonly graph: Graph;
  /** What is computed again to stay within `memoryBudgetBytes`; null where nothing is. */
  readonly remat: RematSummary | null;
}

export interface StepEvent {
  readonly program: number;
  readonly cached: boolean;
  /** From the call of `sync` to the hand-over to the device, in milliseconds: encode, look-up, compile. */
  readonly hostMs: number;
  /** On the device, in milliseconds. */
  readonly deviceMs: number;
  /** Start on the device, microseconds since it was opened. */
  readonly startUs: number;
  readonly endUs: number;
  /** When a GPU had been given all of the step; 0 on other devices. */
  readonly launchedUs: number;
  readonly info: ExecutableInfo;
  /** On a mesh, the program of one device, with its collectives; null elsewhere. */
  readonly graph: Graph | null;
  /** By input of the program and by output its name: that of a parameter, buffer or optimizer state, else "". */
  readonly inputs: readonly { readonly name: string }[];
  readonly outputs: readonly { readonly name: string }[];
  /** By kernel of `info.kernels`, when profiling is on. */
  readonly kernels: readonly KernelTime[];
}

/** A function given to `compile` was recorded. */
export interface RecordEvent {
  readonly name: string;
  /** Why no recording fitted. */
  readonly reason: string;
  /** Why it cannot be repeated; null where it can. */
  readonly unrepeatable: string | null;
}

export interface MemoryEvent {
  readonly liveBytes: number;
  readonly cachedBytes: number;
  readonly arenaBytes: number;
  readonly peakBytes: number;
}

export interface PassEvent {
  readonly program: number;
  readonly pass: string;
  readonly ms: number;
  readonly graph: Graph;
}

/** What happens inside, as observables: progress bars, metrics and traces subscribe. */
export class Events {
  readonly compile$ = new Subject<CompileEvent>();
  readonly step$ = new Subject<StepEvent>();
  readonly record$ = new Subject<RecordEvent>();
  readonly memory$ = new Subject<MemoryEvent>();
  readonly pass$ = new Subject<PassEvent>();
}
