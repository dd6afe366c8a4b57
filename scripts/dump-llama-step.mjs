// Writes the programs of Llama training steps, as they cross into the native backend (docs/ir.md), to
// packages/cuda-backend/native/test/fixtures/llama_step_<dtype>.bin, or to the folder named: native tests compile their
// kernels. Opcodes are those of the op table as built, so that these files are made anew and not kept.
import { mkdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { configSchema } from "../examples/dist/llama/config.js";
import { Llama } from "../examples/dist/llama/model.js";
import { configure, F, manualSeed, optim, sync, tensor } from "../packages/lazy-tensor/dist/index.js";

const folder = fileURLToPath(new URL("../packages/cuda-backend/native/test/fixtures/", import.meta.url));
const target = process.argv[2] ?? folder;
const config = configSchema.parse({
  vocab_size: 32000,
  hidden_size: 288,
  intermediate_size: 768,
  num_hidden_layers: 2,
  num_attention_heads: 6,
  num_key_value_heads: 3,
});

for (const dtype of ["float32", "bfloat16"]) {
  const engine = configure({ device: "null" });
  const programs = [];
  const compile = engine.device.compile.bind(engine.device);
  engine.device.compile = (words, withText) => {
    programs.push(words.slice());
    return compile(words, withText);
  };
  manualSeed(5);
  const model = new Llama(config, dtype);
  const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-3 });
  const ids = tensor(new Int32Array(8 * 257), { shape: [8, 257] });
  const loss = F.crossEntropy(model.forward(ids.slice(1, 0, -1)), ids.slice(1, 1));
  loss.backward();
  optim.clipGradNorm(model.parameters(), 1);
  optimizer.step();
  await sync(loss);
  engine.device.close();
  const step = programs.reduce((largest, words) => (words.length > largest.length ? words : largest));
  mkdirSync(target, { recursive: true });
  writeFileSync(`${target}/llama_step_${dtype}.bin`, step);
  console.log(
    dtype,
    programs.map((words) => words.length),
  );
}
