import { configSchema } from "@lazuli/examples/llama/config.js";
import { Llama } from "@lazuli/examples/llama/model.js";
import { type CompileEvent, configure, engine, F, optim, sync, tensor } from "@lazuli/lazy-tensor";
import { type Result, round } from "./measure.js";

/**
 * What compiling a training step of an N-layer Llama takes: passes in TypeScript, then lowering, kernels and memory plan.
 */
export async function compileBenchmark({ layers }: { layers: number }): Promise<Result> {
  configure({});
  const compiles: CompileEvent[] = [];
  engine().events.compile$.subscribe((event) => compiles.push(event));
  const config = configSchema.parse({
    vocab_size: 512,
    hidden_size: 256,
    intermediate_size: 688,
    num_hidden_layers: layers,
    num_attention_heads: 4,
  });
  const ids = tensor(new Int32Array(2 * 64), { shape: [2, 64] });
  const model = new Llama(config);
  const optimizer = new optim.AdamW(model.parameters(), { lr: 3e-4 });
  const loss = F.crossEntropy(model.forward(ids), ids);
  loss.backward();
  optim.clipGradNorm(model.parameters(), 1);
  optimizer.step();
  optimizer.zeroGrad();
  await sync(loss);
  // Others make the first values of parameters and state.
  const step = compiles.reduce((a, b) => (b.info.kernels.length > a.info.kernels.length ? b : a));
  const { info, passesMs, nativeMs } = step;
  return {
    layers,
    kernels: info.kernels.length,
    distinct_kernels: info.distinctKernels,
    passes_ms: round(passesMs, 1),
    native_ms: round(nativeMs, 1),
  };
}
