import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { median } from "@lazuli/examples/llama/statistics.js";
import { engine, sync, type Tensor } from "@lazuli/lazy-tensor";

/** One line of results. */
export type Result = Record<string, string | number | boolean | null | readonly number[]>;

export const round = (value: number, digits = 2): number => Number(value.toFixed(digits));

/** The runs' medians in milliseconds: of the step as its caller sees it, of the device, and of the kernels alone. */
export interface Timing {
  readonly wallMs: number;
  readonly deviceMs: number;
  /** What the device's own clock says: on a GPU events around each kernel, without launches and waits. */
  readonly kernelMs: number;
}

/** Times a step that computes what `record` gives; the first `warmup` runs, one of which compiles, do not count. */
export async function timeStep(record: () => Tensor[], runs = 15, warmup = 3): Promise<Timing> {
  const wall: number[] = [];
  const device: number[] = [];
  const kernel: number[] = [];
  const own = engine();
  const steps = own.events.step$.subscribe(({ deviceMs, kernels }) => {
    device.push(deviceMs);
    kernel.push(kernels.reduce((sum, { startUs, endUs }) => sum + endUs - startUs, 0) / 1000);
  });
  const wasProfiling = own.profiling;
  own.profiling = true;
  for (let i = 0; i < warmup + runs; i++) {
    const started = performance.now();
    const results = record();
    await sync(...results);
    wall.push(performance.now() - started);
    for (const result of results) result.dispose();
  }
  steps.unsubscribe();
  own.profiling = wasProfiling;
  return {
    wallMs: median(wall.slice(warmup)),
    deviceMs: median(device.slice(-runs)),
    kernelMs: median(kernel.slice(-runs)),
  };
}

/** Bytes moved (read and written) a second by every core copying at once, from arrays far beyond the caches. */
export async function copyBandwidth(): Promise<number> {
  const count = availableParallelism();
  const rates = Array.from({ length: count }, async () => {
    const worker = new Worker(new URL("copy_worker.js", import.meta.url));
    try {
      return await new Promise<number>((resolve, reject) => {
        worker.once("message", resolve);
        worker.once("error", reject);
        worker.postMessage({ bytes: 2 ** 26, seconds: 0.6 });
      });
    } finally {
      await worker.terminate();
    }
  });
  return (await Promise.all(rates)).reduce((sum, rate) => sum + rate, 0);
}
