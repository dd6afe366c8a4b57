import { basename, join } from "node:path";
import {
  byteTokenizer,
  configure,
  manualSeed,
  optim,
  RandomBatches,
  readText,
  saveCheckpoint,
  splitHeldOut,
  TraceRecorder,
} from "@lazuli/lazy-tensor";
import { drawLosses, type LossPoint } from "./chart.js";
import { program, runProgram } from "./cli.js";
import { configSchema } from "./config.js";
import { generate } from "./generate.js";
import { Llama } from "./model.js";
import { barReporter, RunStatistics } from "./report.js";
import { bundledText, makeFolder, saveConfig } from "./setup.js";
import { evaluate, train } from "./train_loop.js";

const config = configSchema.parse({
  vocab_size: byteTokenizer.vocabSize,
  hidden_size: 192,
  intermediate_size: 512,
  num_hidden_layers: 4,
  num_attention_heads: 6,
  max_position_embeddings: 256,
  tie_word_embeddings: true,
});
const batch = 8;
const seq = 256;
const steps = 500;
const evaluateEvery = 50;
const seed = 1;

async function main(paths: readonly string[]): Promise<void> {
  const folder = join("runs", "demo");
  const { train: text, heldOut } = splitHeldOut(await readText(paths), 0.1);
  const name = paths.join(", ");
  const batches = new RandomBatches(text, { batch, seq, seed, name });
  // The same windows every time, so that evaluations compare.
  const validation = new RandomBatches(heldOut, { batch, seq, seed, name: `${name} (held out)` });
  await makeFolder(folder);

  using trace = new TraceRecorder(configure({}));
  manualSeed(seed);
  const model = new Llama(config);
  const optimizer = new optim.AdamW(model.parameters(), {
    lr: 2e-3,
    betas: [0.9, 0.95],
    eps: 1e-8,
    weightDecay: 0.1,
  });
  const schedule = optim.schedules.cosine({ lr: 2e-3, warmup: 30, steps, min: 2e-4 });

  const reporter = barReporter();
  reporter.info(
    `Llama over bytes, ${(model.numParameters() / 1e6).toFixed(2)} M parameters; ${(text.length / 1e6).toFixed(1)} MB of text from ${paths.map((path) => basename(path)).join(", ")}`,
  );
  const points: LossPoint[] = [];
  const validate = async (step: number): Promise<number> => {
    const loss = await evaluate(model, validation, 8);
    points.push({ step, loss, series: "validation" });
    return loss;
  };
  const statistics = new RunStatistics();
  reporter.start(0, steps);
  try {
    for await (const report of train(model, optimizer, batches, {
      steps,
      schedule,
      clip: 1,
      gradAccum: 1,
    })) {
      statistics.add(report);
      reporter.step(report);
      points.push({ step: report.step, loss: report.loss, series: "train" });
      if (report.step % evaluateEvery === 0 && report.step < steps) await validate(report.step);
    }
  } finally {
    reporter.stop();
  }
  const heldOutLoss = await validate(steps);
  reporter.summary(statistics.summary(model.numParameters()));
  console.log(`validation loss ${heldOutLoss.toFixed(3)} nats per byte on held-out text\n`);

  const prompt = "interface ";
  console.log(await generate(model, prompt, { tokens: 300, window: seq, temperature: 0.8, topK: 40, seed }));

  await saveConfig(folder, config);
  const training = { step: steps, seed, config };
  await saveCheckpoint(folder, { model: model.stateDict(), optimizer: optimizer.stateDict(), training });
  await drawLosses(join(folder, "loss"), points, "Llama over bytes");
  await trace.write(join(folder, "trace.json"));
  console.log(`
checkpoint  ${join(folder, "model.safetensors")} (with config.json: a Hugging Face model)
loss curve  ${join(folder, "loss.png")}, ${join(folder, "loss.svg")}
trace       ${join(folder, "trace.json")} (open in https://ui.perfetto.dev)`);
}

await runProgram("demo", async () => {
  const command = program("demo")
    .description("Trains a small Llama over bytes and shows what came of it.")
    .option("--data <paths...>", "text files, folders or globs (default: TypeScript's lib.*.d.ts)");
  const { data = bundledText() } = command.parse().opts<{ data?: string[] }>();
  await main(data);
});
