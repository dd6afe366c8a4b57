import { median } from "@lazuli/examples/llama/statistics.js";
import { configure, engine, randn, type StepEvent, sync } from "@lazuli/lazy-tensor";
import { copyBandwidth, type Result, round, timeStep } from "./measure.js";
import { makeTrainer, type TrainBenchmark } from "./train.js";

/** What the machine does at best, with all its processors. */
interface Ceilings {
  /** Of one large product in the dtype, multiplications and additions. */
  readonly flopsPerS: number;
  /** Read and written. */
  readonly bytesPerS: number;
}

async function measureCeilings(dtype: TrainBenchmark["dtype"]): Promise<Ceilings> {
  const bytesPerS = await copyBandwidth();
  configure({});
  const size = 2048;
  const [a, b] = [1, 2].map(() => randn([size, size]).to(dtype));
  await sync(a, b);
  const { deviceMs } = await timeStep(() => [a.matmul(b)]);
  return { flopsPerS: ((2 * size ** 3) / deviceMs) * 1000, bytesPerS };
}

interface Row {
  readonly kernel: string;
  readonly calls: number;
  readonly ms: number;
  readonly bytes: number;
  readonly flops: number;
}

/** Labels without what is said twice: `fused float32 8x256x768: out0 = ...` is one kernel by its formula. */
const shortened = (label: string): string => (label.length > 72 ? `${label.slice(0, 69)}...` : label);

/** By kernel and shape, the medians over the steps, the longest first. */
function rowsOf(steps: readonly StepEvent[]): Row[] {
  const [{ info }] = steps;
  const ms = info.kernels.map((_, i) =>
    median(steps.map(({ kernels }) => (kernels[i].endUs - kernels[i].startUs) / 1000)),
  );
  const rows = new Map<string, Row>();
  for (const [i, { label, bytes, flops }] of info.kernels.entries()) {
    const row = rows.get(label) ?? { kernel: label, calls: 0, ms: 0, bytes: 0, flops: 0 };
    rows.set(label, {
      kernel: label,
      calls: row.calls + 1,
      ms: row.ms + ms[i],
      bytes: row.bytes + bytes,
      flops: row.flops + flops,
    });
  }
  return [...rows.values()].sort((a, b) => b.ms - a.ms);
}

export interface ProfileBenchmark extends TrainBenchmark {
  /** Kernels shown. */
  readonly top: number;
}

/**
 * Where the time of a training step goes: by kernel its share, what it achieves, and how near that is to the nearer of the
 * machine's two ceilings, as in a roofline (Williams et al. 2009). What is far below both is the next gap.
 */
export async function profileBenchmark({
  config,
  dtype,
  steps,
  warmup,
  top,
}: ProfileBenchmark): Promise<{ result: Result; table: string }> {
  const ceilings = await measureCeilings(dtype);
  const { step } = await makeTrainer({ config, dtype });
  const seen: StepEvent[] = [];
  const own = engine();
  own.profiling = true;
  own.events.step$.subscribe((event) => seen.push(event));
  for (let i = 0; i < warmup + steps; i++) await step(i);
  const program = Math.max(...seen.map(({ program }) => program));
  const counted = seen.filter((event) => event.program === program).slice(-steps);
  const rows = rowsOf(counted);
  const total = rows.reduce((sum, { ms }) => sum + ms, 0);
  const stepMs = median(counted.map(({ deviceMs }) => deviceMs));
  const best = (row: Row): number =>
    Math.max((row.flops / ceilings.flopsPerS) * 1000, (row.bytes / ceilings.bytesPerS) * 1000);
  const cells = rows
    .slice(0, top)
    .map((row) => [
      shortened(row.kernel),
      String(row.calls),
      row.ms.toFixed(2),
      `${((row.ms / total) * 100).toFixed(1)} %`,
      (row.flops / row.ms / 1e6).toFixed(0),
      (row.bytes / row.ms / 1e6).toFixed(1),
      `${((best(row) / row.ms) * 100).toFixed(0)} %`,
    ]);
  const header = ["kernel", "calls", "ms", "share", "GFLOP/s", "GB/s", "of the ceiling"];
  const widths = header.map((title, i) => Math.max(title.length, ...cells.map((row) => row[i].length)));
  const line = (row: readonly string[]): string =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join("  ");
  const atBest = rows.reduce((sum, row) => sum + best(row), 0);
  return {
    result: {
      config,
      dtype,
      step_ms: round(stepMs),
      kernels: counted[0].info.kernels.length,
      kernel_ms: round(total),
      at_ceiling_ms: round(atBest),
      ceiling_gflops: round(ceilings.flopsPerS / 1e9, 1),
      ceiling_gb_per_s: round(ceilings.bytesPerS / 1e9, 1),
      arena_mb: round(counted[0].info.arenaBytes / 2 ** 20, 1),
      arena_lower_bound_mb: round(counted[0].info.lowerBoundBytes / 2 ** 20, 1),
    },
    table: [header, ...cells].map(line).join("\n"),
  };
}
