import { configure, F, fullyShard, fx, manualSeed, mesh1d, optim, sync, tensor } from "@lazuli/lazy-tensor";
import { expect, it } from "vitest";
import { configSchema } from "../llama/config.js";
import { Llama } from "../llama/model.js";

const config = configSchema.parse({
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
});

async function train(trace: boolean): Promise<number[]> {
  configure({ device: "cpu", virtualDevices: 2 });
  manualSeed(1);
  const model = new Llama(config);
  const ids = tensor(
    Int32Array.from({ length: 48 }, (_, i) => (i * 7) % 64),
    { shape: [4, 12] },
  );
  await sync();
  fullyShard(model, mesh1d("fsdp", 2));
  const run = trace ? fx.symbolicTrace(model, { exampleInputs: [ids] }) : model;
  const optimizer = new optim.AdamW(run.parameters(), { lr: 1e-2 });
  const losses: number[] = [];
  for (let step = 0; step < 4; step++) {
    const loss = F.crossEntropy(run.forward(ids).slice(1, 0, -1), ids.slice(1, 1));
    loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
    await sync(loss);
    losses.push(await loss.item());
  }
  return losses;
}

it("a model that is divided over a mesh is traced as it is, layouts included", {
  timeout: 30_000,
}, async () => {
  expect(await train(true)).toEqual(await train(false));
});
