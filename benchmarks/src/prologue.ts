import { preset } from "@lazuli/examples/llama/config.js";
import { Llama } from "@lazuli/examples/llama/model.js";
import { median } from "@lazuli/examples/llama/statistics.js";
import {
  autocast,
  compile,
  configure,
  engine,
  manualSeed,
  noGrad,
  randint,
  type StepEvent,
  sync,
  useEngine,
} from "@lazuli/lazy-tensor";
import { type Result, round } from "./measure.js";
import { makeTrainer, type TrainBenchmark } from "./train.js";

type Model = Pick<TrainBenchmark, "config" | "dtype">;

/** A step of one engine, and what that engine ran. */
interface Side {
  readonly step: () => Promise<void>;
  readonly steps: StepEvent[];
  /** Processor time by call of `step`, of all threads, in microseconds: other processes disturb it least. */
  readonly cpuUs: number[];
}

/** Makes a step in an engine of its own, whose programs are all compiled with LAZULI_FUSE_NORM as `fuses` says. */
async function makeSide(fuses: boolean, make: () => Promise<() => Promise<unknown>>): Promise<Side> {
  const switched = async (run: () => Promise<unknown>): Promise<void> => {
    useEngine(own);
    process.env.LAZULI_FUSE_NORM = fuses ? "1" : "0";
    const before = process.cpuUsage();
    await run();
    const { user, system } = process.cpuUsage(before);
    cpuUs.push(user + system);
  };
  const run = await make();
  const own = engine();
  const steps: StepEvent[] = [];
  const cpuUs: number[] = [];
  own.events.step$.subscribe((event) => steps.push(event));
  return { step: () => switched(run), steps, cpuUs };
}

/** Logits of a batch, without gradients. */
async function makeForward({ config: name, dtype }: Model): Promise<() => Promise<void>> {
  const { config, batch, seq } = preset(name);
  configure({});
  manualSeed(0);
  const model = new Llama(config);
  const ids = randint(0, config.vocab_size, [batch, seq]);
  await sync(ids, ...model.parameters());
  const logits = () => noGrad(() => model.forward(ids));
  const infer = compile(() => (dtype === "float32" ? logits() : autocast(dtype, logits)));
  return async () => {
    using out = infer();
    await sync(out);
  };
}

async function makeTraining(model: Model): Promise<() => Promise<unknown>> {
  const { step } = await makeTrainer(model);
  let i = 0;
  return () => step(i++);
}

/** A step with norms made for their products and one with norms apart, in turn: medians, and those of each pair's ratio. */
async function compareSides(
  make: () => Promise<() => Promise<unknown>>,
  { steps, warmup }: Pick<TrainBenchmark, "steps" | "warmup">,
): Promise<{ fused: number; apart: number; ratio: number; cpuRatio: number; arenas: [number, number] }> {
  const fused = await makeSide(true, make);
  const apart = await makeSide(false, make);
  for (let i = 0; i < warmup + steps; i++)
    for (const side of i % 2 === 0 ? [fused, apart] : [apart, fused]) await side.step();
  /** Of the program itself: others make the first values of its state. */
  const main = ({ steps }: Side): StepEvent[] => {
    const largest = steps.reduce((x, y) => (y.info.kernels.length > x.info.kernels.length ? y : x));
    return steps.filter(({ program }) => program === largest.program);
  };
  const ms = (side: Side): number[] =>
    main(side)
      .slice(-steps)
      .map(({ deviceMs }) => deviceMs);
  const arena = (side: Side): number => main(side)[0].info.arenaBytes / 2 ** 20;
  const [a, b] = [ms(fused), ms(apart)];
  return {
    fused: median(a),
    apart: median(b),
    ratio: median(a.map((value, i) => value / b[i])),
    cpuRatio: median(fused.cpuUs.slice(-steps).map((value, i) => value / apart.cpuUs.slice(-steps)[i])),
    arenas: [round(arena(fused), 2), round(arena(apart), 2)],
  };
}

/** What products that normalise their operand change, in a forward pass alone and in a training step. */
export async function prologueBenchmark({ steps, warmup, ...model }: TrainBenchmark): Promise<Result> {
  const forward = await compareSides(() => makeForward(model), { steps: 3 * steps, warmup });
  const training = await compareSides(() => makeTraining(model), { steps, warmup });
  return {
    ...model,
    forward_ms: round(forward.fused),
    forward_apart_ms: round(forward.apart),
    forward_ratio: round(forward.ratio, 3),
    forward_cpu_ratio: round(forward.cpuRatio, 3),
    forward_arena_mb: forward.arenas,
    step_ms: round(training.fused),
    step_apart_ms: round(training.apart),
    step_ratio: round(training.ratio, 3),
    step_cpu_ratio: round(training.cpuRatio, 3),
    step_arena_mb: training.arenas,
  };
}
