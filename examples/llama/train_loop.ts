import {
  autocast,
  type Batches,
  compile,
  F,
  noGrad,
  optim,
  type Placement,
  sync,
  type Tensor,
} from "@lazuli/lazy-tensor";
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
  /** Dtype of products, where not that of the activations. */
  readonly precision?: "bfloat16" | "float16" | null;
  /** Keeps small gradients of float16. */
  readonly scaler?: optim.GradScaler | null;
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
  {
    steps,
    schedule,
    clip,
    gradAccum,
    precision = null,
    scaler = null,
    start = 0,
    placement = null,
  }: LoopOptions,
): AsyncGenerator<StepReport> {
  const params = model.parameters();
  const forward = (ids: Tensor): Tensor =>
    F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1));
  /** A batch's gradients are added to those that are there; after the last one of a step the parameters are updated. */
  const learn = (ids: Tensor, isLast: boolean): Tensor => {
    const loss = precision ? autocast(precision, () => forward(ids)) : forward(ids);
    const part = loss.mul(1 / gradAccum);
    (scaler ? scaler.scale(part) : part).backward();
    if (!isLast) return loss;
    scaler?.unscale_(optimizer);
    if (clip > 0) optim.clipGradNorm(params, clip);
    if (scaler) scaler.step(optimizer);
    else optimizer.step();
    scaler?.update();
    optimizer.zeroGrad();
    return loss;
  };
  const compiled = compile(learn);
  for (let step = start; step < steps; step++) {
    const started = performance.now();
    optimizer.lr = schedule(step);
    let total = 0;
    for (let part = 0; part < gradAccum; part++) {
      using ids = await data.at(step * gradAccum + part, placement);
      using loss = compiled(ids, part === gradAccum - 1);
      await sync();
      total += (await loss.item()) / gradAccum;
    }
    if (!Number.isFinite(total))
      throw new RunError(`the loss is ${total} at step ${step + 1}: stopped, nothing was saved`);
    const tokens = data.batch * data.seq * gradAccum;
    yield { step: step + 1, loss: total, lr: optimizer.lr, tokens, ms: performance.now() - started };
  }
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
