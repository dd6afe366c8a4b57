import { type AddonDevice, addon, type CudaInfo, type DeviceStats, type ExecutableInfo } from "./addon.js";
import { fromAddon } from "./errors.js";

export interface KernelTime {
  /** Microseconds since the device was opened. */
  readonly startUs: number;
  readonly endUs: number;
}

/** Numbers of buffers. Those of a Float64Array are read where they lie, at the call. */
export type Ids = readonly number[] | Float64Array;

export interface RunResult {
  readonly startUs: number;
  readonly endUs: number;
  /** When a GPU had been given all of the run: from startUs on the host's share of it. 0 on other devices. */
  readonly launchedUs: number;
  /** By kernel of the executable's info; empty unless profiled. */
  readonly kernels: readonly KernelTime[];
}

export interface DeviceOptions {
  /** Most bytes of buffers, constants and intermediates, of each device. 0, the default: no limit. */
  readonly memoryLimitBytes?: number;
  /** Devices of this process, which work side by side and share its processors. 1 unless said. */
  readonly virtualDevices?: number;
  /** One device of each process of an MPI job, numbered by rank (mpirun, srun, Kubernetes' MPI operator). */
  readonly mpi?: boolean;
  /**
   * How long a device waits in a collective for the others; 300,000 unless said. LAZULI_COLLECTIVE_TIMEOUT_MS comes before
   * it.
   */
  readonly collectiveTimeoutMs?: number;
}

/**
 * A device, or those of a mesh that this process drives. A buffer then means one on each of them, of one size and with a
 * content of its own; what is asked is asked of all, where no device is named. Requests take effect in the order they are made; `run` and `download` settle later. Buffers and executables are
 * named by numbers; the caller chooses those of buffers. A pending promise keeps the process alive, an open device does not.
 */
export interface NativeDevice {
  readonly name: string;
  /** Over all processes. The mesh of a program's collectives has so many. */
  readonly deviceCount: number;
  /** The devices of this process, by number. */
  readonly localDevices: readonly number[];
  /** Compiles a program (docs/ir.md). Throws CompileError, or OutOfMemoryError where its plan is over the limit. */
  compile(words: Uint32Array, withText?: boolean): { readonly id: number; readonly info: ExecutableInfo };
  /** Runs on their way still finish. */
  release(executable: number): void;
  /**
   * Donated inputs cease to exist at the call, outputs exist from it on; an output may take the number of a donated input. Rejects with RunError, OutOfMemoryError or
   * CollectiveError; a run that fails on one device fails on all, with that device's error. A request that is refused throws
   * at the call, and changes nothing. The times are those of the first local device.
   */
  run(executable: number, inputs: Ids, outputs: Ids, profile?: boolean): Promise<RunResult>;
  /**
   * Makes a buffer of these bytes; they are copied now. With a device it gets them alone: the buffer can be used once every
   * local device has got its own.
   */
  upload(buffer: number, bytes: ArrayBufferView | ArrayBuffer, device?: number): void;
  /**
   * Fills `target`, which must have the buffer's size, with what a device has: the first local one unless said. Rejects with
   * RunError where the run that made it failed.
   */
  download(buffer: number, target: ArrayBufferView | ArrayBuffer, device?: number): Promise<void>;
  bufferBytes(buffer: number): number;
  /** Nothing once the device is closed. */
  free(buffers: readonly number[]): void;
  /** Of a local device; unless said, of the one whose peak is the highest. */
  stats(device?: number): DeviceStats;
  /**
   * Every process's bytes, by rank, once all have called it. In order with the runs. With `mustAgree`, where they differ
   * every later run fails with CollectiveError before its first collective, on all.
   */
  exchange(bytes: Uint8Array, mustAgree?: boolean): Promise<Uint8Array[]>;
  /** Frees everything. What is pending is rejected. */
  close(): void;
}

// Ids cross as Float64Arrays, which the addon reads where they lie: an array costs it a call into V8 for each.
const idsOf = (ids: Ids): Float64Array => (ids instanceof Float64Array ? ids : new Float64Array(ids));

function call<T>(request: () => T): T {
  try {
    return request();
  } catch (error) {
    throw fromAddon(error);
  }
}

async function settle<T>(request: () => Promise<T>): Promise<T> {
  try {
    return await request();
  } catch (error) {
    throw fromAddon(error);
  }
}

function kernelTimes(pairs: Float64Array): KernelTime[] {
  const times = new Array<KernelTime>(pairs.length / 2);
  for (let i = 0; i < times.length; i++) times[i] = { startUs: pairs[2 * i], endUs: pairs[2 * i + 1] };
  return times;
}

class Device implements NativeDevice {
  readonly deviceCount: number;
  readonly localDevices: readonly number[];

  constructor(
    readonly name: string,
    private readonly native: AddonDevice,
  ) {
    this.deviceCount = native.deviceCount;
    this.localDevices = native.localDevices;
  }

  compile(words: Uint32Array, withText = false): { id: number; info: ExecutableInfo } {
    return call(() => this.native.compile(words, withText));
  }

  release(executable: number): void {
    call(() => this.native.release(executable));
  }

  run(executable: number, inputs: Ids, outputs: Ids, profile = false): Promise<RunResult> {
    const pending = call(() => this.native.run(executable, idsOf(inputs), idsOf(outputs), profile));
    return settle(async () => {
      const { startUs, endUs, launchedUs, kernels } = await pending;
      return { startUs, endUs, launchedUs, kernels: kernelTimes(kernels) };
    });
  }

  upload(buffer: number, bytes: ArrayBufferView | ArrayBuffer, device?: number): void {
    call(() => this.native.upload(buffer, bytes, device));
  }

  download(buffer: number, target: ArrayBufferView | ArrayBuffer, device?: number): Promise<void> {
    return settle(() => this.native.download(buffer, target, device));
  }

  bufferBytes(buffer: number): number {
    return call(() => this.native.bufferBytes(buffer));
  }

  free(buffers: readonly number[]): void {
    call(() => this.native.free(new Float64Array(buffers)));
  }

  stats(device?: number): DeviceStats {
    return call(() => this.native.stats(device));
  }

  exchange(bytes: Uint8Array, mustAgree = false): Promise<Uint8Array[]> {
    return settle(() => this.native.exchange(bytes, mustAgree));
  }

  close(): void {
    this.native.close();
  }
}

export type DeviceName = "cpu" | "cuda" | "null";

/**
 * Opens a device: `cpu`, `cuda` (an NVIDIA GPU; LAZULI_CUDA_DEVICE says which), or `null`, which plans as the CPU does and
 * computes nothing, and of many virtual devices is the first. Throws DeviceError where there is none.
 */
export function openDevice(name: DeviceName, options: DeviceOptions = {}): NativeDevice {
  return call(() => new Device(name, new (addon().NativeDevice)(name, options)));
}

/** What the native backend of this build and machine can do. */
export function backendInfo(): {
  version: string;
  threads: number;
  isa: string;
  hasOneDnn: boolean;
} {
  const { version, threads, isa, hasOneDnn } = addon();
  return { version, threads, isa, hasOneDnn };
}

/** The NVIDIA GPUs that `cuda` devices can be on, or why there are none. */
export function cudaInfo(): CudaInfo {
  return addon().cuda();
}
