import {
  configure,
  isFirstProcess,
  loadCheckpoint,
  manualSeed,
  optim,
  saveCheckpoint,
  TraceRecorder,
} from "@lazuli/lazy-tensor";
import { runProgram, UsageError } from "./cli.js";
import { Llama } from "./model.js";
import { readTrainOptions, type TrainOptions } from "./options.js";
import { barReporter, jsonReporter, RunStatistics, silentReporter } from "./report.js";
import { chooseModel, loadWeights, makeFolder, makeSchedule, openData, saveConfig } from "./setup.js";
import { parseMesh, parseStrategies, placementOfBatch, shardLlama } from "./sharding.js";
import { train } from "./train_loop.js";

async function main(options: TrainOptions): Promise<void> {
  const choice = await chooseModel(options);
  await using data = await openData(options, choice);
  const steps =
    options.steps ??
    (data.steps === Number.POSITIVE_INFINITY ? 100 : Math.floor(data.steps / options.gradAccum));
  if (options.save !== undefined) await makeFolder(options.save);

  const mesh = options.mesh === undefined ? null : parseMesh(options.mesh);
  if (!mesh && options.strategy !== "none")
    throw new UsageError(`--strategy ${options.strategy} needs a mesh: --mesh data=2, say`);
  const chosen = mesh ? parseStrategies(options.strategy, mesh) : [];
  const engine = configure({
    device: options.device,
    virtualDevices: options.virtualDevices ?? mesh?.size,
    // A budget alone asks for it.
    remat: options.remat ?? (options.memoryBudget === undefined ? "none" : "auto"),
    memoryBudgetBytes: options.memoryBudget,
  });
  using trace = options.trace === undefined ? null : new TraceRecorder(engine);
  manualSeed(options.seed);
  const model = new Llama(choice.config, options.dtype);
  if (mesh) shardLlama(model, mesh, chosen);
  if (options.model !== undefined) await loadWeights(model, options.model);
  const { lr, weightDecay, seed } = options;
  const optimizer = new optim.AdamW(model.parameters(), { lr, betas: [0.9, 0.95], eps: 1e-8, weightDecay });
  let start = 0;
  if (options.resume !== undefined) {
    const saved = await loadCheckpoint(options.resume, { model, optimizer });
    model.loadStateDict(saved.model);
    optimizer.loadStateDict(saved.optimizer);
    start = saved.training.step;
    if (start >= steps) throw new UsageError(`--steps ${steps}: the checkpoint has ${start} behind it`);
  }

  const reporter = !isFirstProcess() ? silentReporter() : options.logJson ? jsonReporter() : barReporter();
  const statistics = new RunStatistics();
  const facts = { parameters: model.numParameters(), batch: data.batch, seq: data.seq, dtype: options.dtype };
  reporter.info(
    `training ${(facts.parameters / 1e6).toFixed(2)} M parameters on batches of ${data.batch} x ${data.seq}, ${options.dtype}${options.autocast ? ` with products in ${options.autocast}` : ""}`,
    facts,
  );
  reporter.start(start, steps);
  try {
    const { clip, gradAccum } = options;
    const { autocast: precision } = options;
    const isHalf = options.dtype === "float16" || precision === "float16";
    const schedule = makeSchedule(options, steps);
    for await (const report of train(model, optimizer, data, {
      steps,
      schedule,
      clip,
      gradAccum,
      precision,
      scaler: isHalf ? new optim.GradScaler() : null,
      start,
      placement: mesh && placementOfBatch(mesh, chosen),
    })) {
      statistics.add(report);
      reporter.step(report);
    }
  } finally {
    reporter.stop();
  }
  if (options.save !== undefined) {
    const training = { step: steps, seed, config: choice.config };
    if (isFirstProcess()) await saveConfig(options.save, choice.config);
    await saveCheckpoint(options.save, {
      model: model.stateDict(),
      optimizer: optimizer.stateDict(),
      training,
    });
    reporter.info(`checkpoint: ${options.save}`);
  }
  if (trace && options.trace !== undefined && isFirstProcess()) {
    await trace.write(options.trace);
    reporter.info(`trace: ${options.trace}`);
  }
  reporter.summary(statistics.summary(facts.parameters));
}

await runProgram("train", () => main(readTrainOptions()));
