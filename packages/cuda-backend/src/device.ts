import { type AddonDevice, addon, type DeviceStats, type ExecutableInfo } from "./addon.js";
import { fromAddon } from "./errors.js";

export interface KernelTime {
  /** Microseconds since the device was opened. */
  readonly startUs: number;
  readonly endUs: number;
}

export interface RunResult {
  readonly startUs: number;
  readonly endUs: number;
  /** By kernel of the executable's info; empty unless profiled. */
  readonly kernels: readonly KernelTime[];
}

export interface DeviceOptions {
  /** Most bytes of buffers, constants and intermediates. 0, the default: no limit. */
  readonly memoryLimitBytes?: number;
}

/**
 * A device. Requests take effect in the order they are made; `run` and `download` settle later. Buffers and executables are
 * named by numbers; the caller chooses those of buffers. A pending promise keeps the process alive, an open device does not.
 */
export interface NativeDevice {
  readonly name: string;
  /** Compiles a program (docs/ir.md). Throws CompileError, or OutOfMemoryError where its plan is over the limit. */
  compile(words: Uint32Array, withText?: boolean): { readonly id: number; readonly info: ExecutableInfo };
  /** Runs on their way still finish. */
  release(executable: number): void;
  /**
   * Donated inputs cease to exist at the call, outputs exist from it on. Rejects with RunError or OutOfMemoryError; a
   * request that is refused throws at the call, and changes nothing.
   */
  run(
    executable: number,
    inputs: readonly number[],
    outputs: readonly number[],
    profile?: boolean,
  ): Promise<RunResult>;
  /** Makes a buffer of these bytes; they are copied now. */
  upload(buffer: number, bytes: ArrayBufferView | ArrayBuffer): void;
  /** Fills `target`, which must have the buffer's size. Rejects with RunError where the run that made it failed. */
  download(buffer: number, target: ArrayBufferView | ArrayBuffer): Promise<void>;
  bufferBytes(buffer: number): number;
  /** Nothing once the device is closed. */
  free(buffers: readonly number[]): void;
  stats(): DeviceStats;
  /** Frees everything. What is pending is rejected. */
  close(): void;
}

// Ids cross as Float64Arrays, which the addon reads where they lie: an array costs it a call into V8 for each.

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
  constructor(
    readonly name: string,
    private readonly native: AddonDevice,
  ) {}

  compile(words: Uint32Array, withText = false): { id: number; info: ExecutableInfo } {
    return call(() => this.native.compile(words, withText));
  }

  release(executable: number): void {
    call(() => this.native.release(executable));
  }

  run(
    executable: number,
    inputs: readonly number[],
    outputs: readonly number[],
    profile = false,
  ): Promise<RunResult> {
    const pending = call(() =>
      this.native.run(executable, new Float64Array(inputs), new Float64Array(outputs), profile),
    );
    return settle(async () => {
      const { startUs, endUs, kernels } = await pending;
      return { startUs, endUs, kernels: kernelTimes(kernels) };
    });
  }

  upload(buffer: number, bytes: ArrayBufferView | ArrayBuffer): void {
    call(() => this.native.upload(buffer, bytes));
  }

  download(buffer: number, target: ArrayBufferView | ArrayBuffer): Promise<void> {
    return settle(() => this.native.download(buffer, target));
  }

  bufferBytes(buffer: number): number {
    return call(() => this.native.bufferBytes(buffer));
  }

  free(buffers: readonly number[]): void {
    call(() => this.native.free(new Float64Array(buffers)));
  }

  stats(): DeviceStats {
    return call(() => this.native.stats());
  }

  close(): void {
    this.native.close();
  }
}

/** Opens a device: `cpu`, or `null`, which plans as the CPU does and computes nothing. */
export function openDevice(name: "cpu" | "null", options: DeviceOptions = {}): NativeDevice {
  return call(() => new Device(name, new (addon().NativeDevice)(name, options)));
}

/** What the native backend of this build and machine can do. */
export function backendInfo(): { version: string; threads: number; isa: string; hasOneDnn: boolean } {
  const { version, threads, isa, hasOneDnn } = addon();
  return { version, threads, isa, hasOneDnn };
}
