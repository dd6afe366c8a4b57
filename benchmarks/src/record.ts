import { configSchema, type PresetName, preset } from "@lazuli/examples/llama/config.js";
import { Llama } from "@lazuli/examples/llama/model.js";
import {
  compile,
  configure,
  createContainer,
  type DeviceName,
  Engine,
  F,
  fx,
  optim,
  sync,
  type Tensor,
  TOKENS,
  tensor,
  useEngine,
  zeros,
} from "@lazuli/lazy-tensor";
import Benchmark from "benchmark";
import { type Result, round } from "./measure.js";

/** Runs a function until its time is known well; seconds a call: the mean, and the best sample, which load disturbs least. */
function timesOf(fn: () => void): { mean: number; best: number } {
  const bench = new Benchmark({ fn, minSamples: 10, maxTime: 1 });
  bench.run();
  // Benchmark reports what the function threw instead of throwing it.
  if (bench.error) throw bench.error;
  return { mean: bench.stats.mean, best: Math.min(...bench.stats.sample) };
}

const secondsOf = (fn: () => void): number => timesOf(fn).mean;

/** As secondsOf, for a function that ends later. */
function secondsOfAsync(fn: () => Promise<void>): Promise<number> {
  return new Promise((resolve, reject) => {
    const run = (deferred: Benchmark.Deferred): void => {
      fn().then(() => deferred.resolve(), reject);
    };
    const bench = new Benchmark({ defer: true, fn: run, minSamples: 20, maxTime: 1 });
    bench.on("complete", () => resolve(bench.stats.mean));
    bench.run({ async: true });
  });
}

/** How long an N-layer decoder takes to record, forward and with its gradients, and to trace into a graph module; nothing is run. */
export async function traceBenchmark({ layers }: { layers: number }): Promise<Result> {
  const { device } = configure({ device: "null" });
  /** A fresh pending graph on the same device. */
  const forget = (): void => {
    const container = createContainer();
    container.registerInstance(TOKENS.device, device);
    useEngine(container.resolve(Engine));
  };
  const config = configSchema.parse({
    vocab_size: 512,
    hidden_size: 128,
    intermediate_size: 344,
    num_hidden_layers: layers,
    num_attention_heads: 4,
  });
  const model = new Llama(config);
  const ids = tensor(new Int32Array(2 * 64), { shape: [2, 64] });
  await sync();

  const forward = (): Tensor => model.forward(ids).mean();
  const both = (): void => {
    forget();
    forward().backward();
    for (const param of model.parameters()) param.grad = null;
  };
  const forwardMs =
    secondsOf(() => {
      forget();
      forward();
    }) * 1000;
  const bothMs = secondsOf(both) * 1000;
  let graphNodes = 0;
  const symbolic = timesOf(() => {
    graphNodes = fx.symbolicTrace(model, { exampleInputs: [ids] }).graph.size;
  });
  // Nodes are numbered as they are made.
  const first = zeros([]).node.id;
  both();
  const nodes = zeros([]).node.id - first - 1;
  return {
    layers,
    forward_trace_ms: round(forwardMs, 1),
    forward_backward_trace_ms: round(bothMs, 1),
    symbolic_trace_ms: round(symbolic.mean * 1000, 1),
    symbolic_trace_best_ms: round(symbolic.best * 1000, 1),
    graph_nodes: graphNodes,
    nodes,
    us_per_node: round((bothMs * 1000) / nodes),
    dispatch_us: await dispatchUs(),
  };
}

/** A cached step of x + 1, recorded, looked up, run and awaited. */
export async function dispatchUs(): Promise<number> {
  configure({});
  let x = zeros([4]);
  await sync(x);
  const seconds = await secondsOfAsync(async () => {
    const next = x.add(1);
    await sync(next);
    x.dispose();
    x = next;
  });
  return round(seconds * 1e6);
}

export interface ReplayBenchmark {
  readonly config: PresetName;
  /** "null", which computes nothing, shows the host's share on every machine. */
  readonly device: DeviceName;
  readonly steps: number;
}

/**
 * Host time of a compiled training step that is repeated: from the call to its return (guards, and the hand-over to the
 * device), and on a GPU what the device's thread takes to put it on the stream (`launch_us`), which goes on beside JavaScript.
 */
export async function replayBenchmark({ config, device, steps }: ReplayBenchmark): Promise<Result> {
  const own = configure({ device });
  const model = new Llama(preset(config).config);
  const optimizer = new optim.AdamW(model.parameters());
  const step = compile(
    (ids: Tensor) => {
      const loss = F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1));
      loss.backward();
      optim.clipGradNorm(model.parameters(), 1);
      optimizer.step();
      optimizer.zeroGrad();
      return loss;
    },
    { fullgraph: true },
  );
  const ids = tensor(new Int32Array(2 * 17), { shape: [2, 17] });
  const times: number[] = [];
  const launches: number[] = [];
  own.events.step$.subscribe(({ startUs, launchedUs }) => {
    if (launchedUs > 0) launches.push(launchedUs - startUs);
  });
  // A GPU takes a few steps ahead, and lets who gives it more wait.
  const ahead = device === "cuda" ? 2 : 20;
  for (let i = 0; i < steps; i++) {
    const start = performance.now();
    using _loss = step(ids);
    times.push((performance.now() - start) * 1000);
    if (i % ahead === 0) await sync();
  }
  await sync();
  const settled = Math.floor(steps / 3);
  const [least, median, high] = quantiles(times.slice(settled), [0, 0.5, 0.9]);
  return {
    config,
    device,
    host_us: round(median),
    least_us: round(least),
    p90_us: round(high),
    ...(launches.length > 0 ? { launch_us: round(quantiles(launches.slice(-settled), [0.5])[0]) } : {}),
  };
}

function quantiles(values: readonly number[], at: readonly number[]): number[] {
  const sorted = [...values].sort((a, b) => a - b);
  return at.map((q) => sorted[Math.floor(q * (sorted.length - 1))]);
}
