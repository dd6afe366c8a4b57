import { readFileSync } from "node:fs";
import { type PresetName, preset } from "@lazuli/examples/llama/config.js";
import { Llama } from "@lazuli/examples/llama/model.js";
import { median } from "@lazuli/examples/llama/statistics.js";
import { configure, F, manualSeed, optim, randint, sync } from "@lazuli/lazy-tensor";
import { type Result, round } from "./measure.js";

export interface TrainBenchmark {
  readonly config: PresetName;
  readonly dtype: "float32" | "bfloat16" | "float16";
  readonly steps: number;
  readonly warmup: number;
}

const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));

/** Training steps of the example's Llama on random ids: model, batches, optimizer and clipping as the peers'. */
export async function trainBenchmark({
  config: name,
  dtype,
  steps,
  warmup,
}: TrainBenchmark): Promise<Result> {
  const { config, batch, seq } = preset(name);
  configure({});
  manualSeed(0);
  const model = new Llama(config, dtype);
  const params = model.parameters();
  const optimizer = new optim.AdamW(params, { lr: 3e-4, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1 });
  const batches = Array.from({ length: 4 }, () => randint(0, config.vocab_size, [batch, seq + 1]));
  await sync(...batches);

  const step = async (i: number): Promise<{ loss: number; ms: number }> => {
    const started = performance.now();
    const ids = batches[i % batches.length];
    using loss = F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1));
    loss.backward();
    optim.clipGradNorm(params, 1);
    optimizer.step();
    optimizer.zeroGrad();
    await sync(loss);
    return { loss: await loss.item(), ms: performance.now() - started };
  };
  const reports = [];
  for (let i = 0; i < warmup + steps; i++) reports.push(await step(i));
  const ms = median(reports.slice(warmup).map((report) => report.ms));
  return {
    peer: "lazuli",
    version,
    config: name,
    dtype,
    compile: true,
    params_m: round(model.numParameters() / 1e6),
    tokens_per_s: round((batch * seq * 1000) / ms, 1),
    step_ms: round(ms),
    first_step_s: round(reports[0].ms / 1000),
    peak_mb: round(process.resourceUsage().maxRSS / 1024, 1),
    losses: reports.slice(0, 4).map(({ loss }) => round(loss, 4)),
  };
}
