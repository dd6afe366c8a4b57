import { readFileSync } from "node:fs";
import { type PresetName, preset } from "@lazuli/examples/llama/config.js";
import { Llama } from "@lazuli/examples/llama/model.js";
import { median } from "@lazuli/examples/llama/statistics.js";
import {
  autocast,
  compile,
  configure,
  F,
  manualSeed,
  optim,
  randint,
  sync,
  type Tensor,
} from "@lazuli/lazy-tensor";
import { type Result, round } from "./measure.js";

export interface TrainBenchmark {
  readonly config: PresetName;
  /** Of the products; parameters and the rest are float32, as under the peers' autocast. */
  readonly dtype: "float32" | "bfloat16" | "float16";
  readonly steps: number;
  readonly warmup: number;
}

const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));

export interface Trainer {
  readonly model: Llama;
  /** Tokens a step. */
  readonly tokens: number;
  /** Takes step `i` and gives its loss and time. */
  readonly step: (i: number) => Promise<{ readonly loss: number; readonly ms: number }>;
}

/** The example's Llama on random ids: model, batches, optimizer and clipping as the peers'. */
export async function makeTrainer({
  config: name,
  dtype,
}: Pick<TrainBenchmark, "config" | "dtype">): Promise<Trainer> {
  const { config, batch, seq } = preset(name);
  configure({});
  manualSeed(0);
  const model = new Llama(config);
  const params = model.parameters();
  const optimizer = new optim.AdamW(params, { lr: 3e-4, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1 });
  const batches = Array.from({ length: 4 }, () => randint(0, config.vocab_size, [batch, seq + 1]));
  await sync(...batches);
  const scaler = dtype === "float16" ? new optim.GradScaler() : null;
  const forward = (ids: Tensor): Tensor =>
    F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1));
  const learn = compile(
    (ids: Tensor) => {
      const loss = dtype === "float32" ? forward(ids) : autocast(dtype, () => forward(ids));
      (scaler ? scaler.scale(loss) : loss).backward();
      scaler?.unscale_(optimizer);
      optim.clipGradNorm(params, 1);
      if (scaler) scaler.step(optimizer);
      else optimizer.step();
      scaler?.update();
      optimizer.zeroGrad();
      return loss;
    },
    { fullgraph: true },
  );
  const step: Trainer["step"] = async (i) => {
    const started = performance.now();
    using loss = learn(batches[i % batches.length]);
    await sync();
    return { loss: await loss.item(), ms: performance.now() - started };
  };
  return { model, tokens: batch * seq, step };
}

/** Training steps of the example's Llama. */
export async function trainBenchmark({ config, dtype, steps, warmup }: TrainBenchmark): Promise<Result> {
  const { model, tokens, step } = await makeTrainer({ config, dtype });
  const reports = [];
  for (let i = 0; i < warmup + steps; i++) reports.push(await step(i));
  const ms = median(reports.slice(warmup).map((report) => report.ms));
  return {
    peer: "lazuli",
    version,
    config,
    dtype,
    compile: true,
    params_m: round(model.numParameters() / 1e6),
    tokens_per_s: round((tokens * 1000) / ms, 1),
    step_ms: round(ms),
    first_step_s: round(reports[0].ms / 1000),
    peak_mb: round(process.resourceUsage().maxRSS / 1024, 1),
    losses: reports.slice(0, 4).map(({ loss }) => round(loss, 4)),
  };
}
