import type { LlamaConfig } from "@lazuli/examples/llama/config.js";
import { Llama } from "@lazuli/examples/llama/model.js";
import { parseMesh, parseStrategies, shardLlama } from "@lazuli/examples/llama/sharding.js";
import {
  configure,
  explainSharding,
  F,
  optim,
  type ShardingExplanation,
  sync,
  tensor,
} from "@lazuli/lazy-tensor";
import { type Result, round } from "./measure.js";

export interface PlanOptions {
  readonly config: LlamaConfig;
  /** Default: a sequence by device of the batch axes. */
  readonly batch?: number;
  readonly seq: number;
  readonly mesh: string;
  readonly strategy: string;
}

export interface PlanResult {
  readonly result: Result;
  readonly explanation: ShardingExplanation;
}

/** Partitions and plans a training step for a mesh; nothing is computed, and no such mesh need be there. */
export async function planBenchmark({
  config,
  seq,
  mesh: text,
  strategy,
  ...options
}: PlanOptions): Promise<PlanResult> {
  const mesh = parseMesh(text);
  const { data = 1, fsdp = 1 } = mesh.shape;
  const batch = options.batch ?? data * fsdp;
  const engine = configure({ device: "null", virtualDevices: mesh.size });
  const model = new Llama(config);
  const place = shardLlama(model, mesh, parseStrategies(strategy, mesh));
  const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-4 });
  await sync(); // first values
  let passesMs = 0;
  let nativeMs = 0;
  let nodes = 0;
  engine.events.compile$.subscribe((event) => {
    passesMs += event.passesMs;
    nativeMs += event.nativeMs;
    nodes += event.compiledNodes;
  });
  const spent: Record<string, number> = {};
  engine.events.pass$.subscribe(({ pass, ms }) => {
    spent[pass] = (spent[pass] ?? 0) + ms;
  });
  const started = performance.now();
  const explanation = await explainSharding(() => {
    const ids = place(tensor(new Int32Array(batch * (seq + 1)), { shape: [batch, seq + 1] }));
    F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1)).backward();
    optim.clipGradNorm(model.parameters(), 1);
    optimizer.step();
    optimizer.zeroGrad();
  });
  const result = {
    params_m: round(model.numParameters() / 1e6, 1),
    devices: mesh.size,
    nodes,
    total_ms: round(performance.now() - started, 0),
    passes_ms: round(passesMs, 0),
    partition_ms: round(spent.spmd ?? 0, 0),
    native_ms: round(nativeMs, 0),
    peak_mb_per_device: round(explanation.peakBytes / 2 ** 20, 0),
    sent_mb_per_device: round([...explanation.bytesByAxes.values()].reduce((a, b) => a + b, 0) / 2 ** 20, 0),
  };
  return { result, explanation };
}
