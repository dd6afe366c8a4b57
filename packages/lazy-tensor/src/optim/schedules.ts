/** Learning rate by step, from 0. Assign it: `optimizer.lr = schedule(step)`; a change never recompiles. */
export type Schedule = (step: number) => number;

export interface ScheduleOptions {
  /** Rate after warm-up. */
  readonly lr: number;
  /** Steps in all; the decay ends there. */
  readonly steps: number;
  /** Steps over which the rate rises from lr / warmup to lr. */
  readonly warmup?: number;
  /** Rate at the end of a decay. */
  readonly min?: number;
}

const withWarmup =
  ({ lr, warmup = 0 }: ScheduleOptions, after: Schedule): Schedule =>
  (step) =>
    step < warmup ? (lr * (step + 1)) / warmup : after(step);

/** Share of the decay that is done, 0 to 1. */
const progress = ({ steps, warmup = 0 }: ScheduleOptions, step: number): number =>
  Math.min(1, Math.max(0, (step - warmup) / Math.max(1, steps - warmup)));

/** The same rate throughout, after warm-up. */
export const constant = (options: ScheduleOptions): Schedule => withWarmup(options, () => options.lr);

/** A straight line from lr to min. */
export const linear = (options: ScheduleOptions): Schedule => {
  const { lr, min = 0 } = options;
  return withWarmup(options, (step) => lr + (min - lr) * progress(options, step));
};

/** Half a cosine from lr to min. Loshchilov & Hutter 2017. */
export const cosine = (options: ScheduleOptions): Schedule => {
  const { lr, min = 0 } = options;
  return withWarmup(
    options,
    (step) => min + ((lr - min) * (1 + Math.cos(Math.PI * progress(options, step)))) / 2,
  );
};
