import { type CompileEvent, configure, engine, F, optim, sync, tensor } from "@lazuli/lazy-tensor";
import { expect, it } from "vitest";
import { configSchema } from "../llama/config.js";
import { Llama } from "../llama/model.js";

/** Compiles a training step. */
async function compileStep(layers: number): Promise<CompileEvent["info"]> {
  configure({});
  const compiles: CompileEvent[] = [];
  engine().events.compile$.subscribe((event) => compiles.push(event));
  const model = new Llama(
    configSchema.parse({
      vocab_size: 64,
      hidden_size: 32,
      intermediate_size: 48,
      num_hidden_layers: layers,
      num_attention_heads: 2,
    }),
  );
  const optimizer = new optim.AdamW(model.parameters());
  const ids = tensor(new Int32Array(16), { shape: [2, 8] });
  const loss = F.crossEntropy(model.forward(ids), ids);
  loss.backward();
  optim.clipGradNorm(model.parameters(), 1);
  optimizer.step();
  optimizer.zeroGrad();
  await sync(loss);
  const infos = compiles.map(({ info }) => info);
  return infos.reduce((a, b) => (b.kernels.length > a.kernels.length ? b : a));
}

it("makes the kernels of repeated layers once", async () => {
  const [few, many] = [await compileStep(3), await compileStep(9)];
  expect(many.kernels.length).toBeGreaterThan(2.5 * few.kernels.length);
  expect(many.distinctKernels).toBe(few.distinctKernels);
});
