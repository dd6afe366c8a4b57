import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { LazuliError } from "@lazuli/fx-trace";

/** What a program compiled to, known before it runs. */
export interface ExecutableInfo {
  /** Planned intermediates, in the arena that all executables of a device share. */
  readonly arenaBytes: number;
  /** Most bytes of intermediates that are live at once in this order; the arena holds at least that. */
  readonly lowerBoundBytes: number;
  readonly constantBytes: number;
  /** Fresh memory a run takes for outputs that take over no donated input. */
  readonly outputBytes: number;
  /** In the order they run. */
  readonly kernels: readonly KernelInfo[];
  /** Kernels that were made for them: one for all that do the same to different values, as in repeated layers. */
  readonly distinctKernels: number;
  /** Steps and memory plan; empty unless asked for. */
  readonly text: string;
}

export interface KernelInfo {
  readonly label: string;
  /** Position of the program's node it computes, or -1. */
  readonly node: number;
  /** Read and written. */
  readonly bytes: number;
  readonly flops: number;
  /** Of the arena, while it runs. */
  readonly scratchBytes: number;
}

export interface DeviceStats {
  /** Buffers that have an id. */
  readonly liveBytes: number;
  /** Freed blocks kept for reuse. */
  readonly cachedBytes: number;
  readonly arenaBytes: number;
  /** Most of live, arena and cached together so far. */
  readonly peakBytes: number;
}

/** The addon's own class. Every method throws an Error with `code` and `node`. */
export interface AddonDevice {
  compile(words: Uint32Array, withText: boolean): { id: number; info: ExecutableInfo };
  release(executable: number): void;
  run(
    executable: number,
    inputs: Float64Array | readonly number[],
    outputs: Float64Array | readonly number[],
    profile: boolean,
  ): Promise<{ startUs: number; endUs: number; launchedUs: number; kernels: Float64Array }>;
  upload(buffer: number, bytes: ArrayBufferView | ArrayBuffer, device?: number): void;
  download(buffer: number, target: ArrayBufferView | ArrayBuffer, device?: number): Promise<void>;
  bufferBytes(buffer: number): number;
  free(buffers: Float64Array | readonly number[]): void;
  stats(device?: number): DeviceStats;
  exchange(bytes: Uint8Array, mustAgree: boolean): Promise<Uint8Array[]>;
  close(): void;
  readonly deviceCount: number;
  readonly localDevices: number[];
}

export interface AddonOptions {
  readonly memoryLimitBytes?: number;
  readonly virtualDevices?: number;
  readonly mpi?: boolean;
  readonly collectiveTimeoutMs?: number;
}

export interface Addon {
  readonly NativeDevice: new (name: string, options: AddonOptions) => AddonDevice;
  readonly version: string;
  /** Threads that kernels use: LAZULI_THREADS, else the processors this process may run on. */
  readonly threads: number;
  /** The vector instructions that kernels use. */
  readonly isa: "baseline" | "avx2" | "avx512";
  readonly hasOneDnn: boolean;
  cuda(): CudaInfo;
}

/** What this build and machine have of CUDA. */
export interface CudaInfo {
  /** Whether the addon was built with it. */
  readonly isBuilt: boolean;
  readonly gpus: readonly {
    readonly name: string;
    readonly computeCapability: string;
    readonly memoryBytes: number;
  }[];
  /** Why there are none. */
  readonly reason: string;
}

let loaded: Addon | null = null;

/** The native addon: LAZULI_ADDON, else the one built in this checkout. */
export function addon(): Addon {
  loaded ??= load();
  return loaded;
}

function load(): Addon {
  const path =
    process.env.LAZULI_ADDON || fileURLToPath(new URL("../../../build/Release/lazuli.node", import.meta.url));
  const advice = "run `npm run build`";
  if (!existsSync(path))
    throw new LazuliError("backend", `the native addon is not built (no ${path}): ${advice}`);
  try {
    return createRequire(import.meta.url)(path) as Addon;
  } catch (error) {
    const [reason] = (error as Error).message.split("\n");
    throw new LazuliError("backend", `the native addon does not load: ${reason}; ${advice}`, "", {
      cause: error,
    });
  }
}
