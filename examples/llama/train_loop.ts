import { type Batches, F, noGrad, optim, type Placement, sync, type Tensor } from "@lazuli/lazy-tensor";
import { RunError } from "./cli.js";
import type { Llama } from "./model.js";

export interface LoopOptions {
  readonly steps: number;
  /** Learning rate by step, from 0. */
  readonly schedule: (step: number) => number;
  /** Largest gradient norm; 0: no limit. */
  readonly clip: number;
  /** Batches whose gradients are added up a step. */
  readonly gradAccum: number;
  /** The loss is multiplied by it and the gradients divided: float16 would lose small ones. */
  readonly lossScale: number;
  /** Steps already taken. */
  readonly start?: number;
  /** Where a batch of ids lies over the mesh. */
  readonly placement?: Placement | null;
}

export interface StepReport {
  /** From 1. */
  readonly step: number;
  readonly loss: number;
  readonly lr: number;
  readonly tokens: number;
  readonly ms: number;
}

/** Trains and reports each step. Throws RunError when the loss is no longer a number. */
export async function* train(
  model: Llama,
  optimizer: optim.AdamW,
  data: Batches,
  { steps, schedule, clip, gradAccum, lossScale, start = 0, placement = null }: LoopOptions,
): AsyncGenerator<StepReport> {
  const params = model.parameters();
  for (let step = start; step < steps; step++) {
    const started = performance.now();
    optimizer.lr = schedule(step);
    let total = 0;
    for (let part = 0; part < gradAccum; part++) {
      using ids = await data.at(step * gradAccum + part, placement);
      const logits = model.forward(ids.slice(1, 0, -1));
      using loss = F.crossEntropy(logits, ids.slice(1, 1));
      loss.mul(lossScale / gradAccum).backward();
      if (part === gradAccum - 1) {
        if (lossScale !== 1) scaleGradients(params, 1 / lossScale);
        if (clip > 0) optim.clipGradNorm(params, clip);
        optimizer.step();
        optimizer.zeroGrad();
      }
      await sync(loss);
      total += (await loss.item()) / gradAccum;
    }
    if (!Number.isFinite(total))
      throw new RunError(`the loss is ${total} at step ${step + 1}: stopped, nothing was saved`);
    const tokens = data.batch * data.seq * gradAccum;
    yield { step: step + 1, loss: total, lr: optimizer.lr, tokens, ms: performance.now() - started };
  }
}

function scaleGradients(params: readonly Tensor[], factor: number): void {
  noGrad(() => {
    for (const { grad } of params) grad?.mul_(factor);
  });
}

/** Mean loss over the first `count` batches, nothing learned. */
export async function evaluate(model: Llama, data: Batches, count: number): Promise<number> {
  let total = 0;
  for (let i = 0; i < count; i++) {
    using ids = await data.at(i);
    using loss = noGrad(() => F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1)));
    total += await loss.item();
  }
  return total / count;
}
