import { mkdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import {
  type Batches,
  byteTokenizer,
  loadSafetensors,
  NpyBatches,
  openText,
  optim,
  placedAs,
  RandomBatches,
  writeFileAtomically,
} from "@lazuli/lazy-tensor";
import { UsageError } from "./cli.js";
import { isPreset, type LlamaConfig, preset, readConfig } from "./config.js";
import type { Llama } from "./model.js";
import type { TrainOptions } from "./options.js";

/** Text that is there after every installation: TypeScript's own declaration files. */
export function bundledText(): string[] {
  const typescript = createRequire(import.meta.url).resolve("typescript");
  return [join(dirname(typescript), "lib.*.d.ts")];
}

export interface ModelChoice {
  readonly config: LlamaConfig;
  readonly batch: number;
  readonly seq: number;
}

/** The configuration that the flags ask for, and the batch it is trained on unless they say otherwise. */
export async function chooseModel({ config = "tiny", model, resume }: TrainOptions): Promise<ModelChoice> {
  const folder = model ?? resume;
  if (folder === undefined && isPreset(config)) return preset(config);
  const read = await readConfig(folder === undefined ? config : join(folder, "config.json"));
  return { config: read, batch: 8, seq: Math.min(read.max_position_embeddings, 256) };
}

/** Gives the model a folder's weights, of which each process reads what its devices are to hold. */
export async function loadWeights(model: Llama, folder: string): Promise<void> {
  const weights = await loadSafetensors(folder, placedAs(model.stateDict()));
  for (const name of weights.keys()) {
    // Older files hold the rotary frequencies, and tied weights twice.
    if (name.endsWith(".rotary_emb.inv_freq")) weights.delete(name);
    if (name === "lm_head.weight" && model.config.tie_word_embeddings) weights.delete(name);
  }
  model.loadStateDict(weights);
}

/** The batches of the flags' data. */
export async function openData(options: TrainOptions, { config, batch, seq }: ModelChoice): Promise<Batches> {
  const paths = options.data ?? bundledText();
  if (paths.some((path) => path.endsWith(".npy"))) {
    if (paths.length > 1) throw new UsageError("--data: an .npy file is taken alone");
    return checkShape(options, await NpyBatches.open(paths[0], config.vocab_size));
  }
  checkBytes(config);
  const stream = await openText(paths);
  const shape = { batch: options.batch ?? batch, seq: options.seq ?? seq };
  return new RandomBatches(stream, { ...shape, seed: options.seed, name: paths.join(", ") });
}

export function checkBytes({ vocab_size }: LlamaConfig): void {
  if (vocab_size >= byteTokenizer.vocabSize) return;
  throw new UsageError(
    `text is read as bytes: a model of vocab_size ${vocab_size} has no token for every one of 256`,
  );
}

function checkShape(options: TrainOptions, data: NpyBatches): NpyBatches {
  for (const key of ["batch", "seq"] as const) {
    if (options[key] !== undefined && options[key] !== data[key]) {
      throw new UsageError(`--${key} ${options[key]}: the .npy file has ${data[key]}`);
    }
  }
  const has = Math.floor(data.steps / options.gradAccum);
  if (has < (options.steps ?? 1)) {
    throw new UsageError(`--steps ${options.steps ?? 1}: the .npy file has batches for ${has}`);
  }
  return data;
}

export function makeSchedule(options: TrainOptions, steps: number): (step: number) => number {
  const { lr, warmup, schedule } = options;
  // Decays end at a tenth, which language models are commonly trained to.
  return optim.schedules[schedule]({ lr, warmup, steps, min: lr / 10 });
}

export async function makeFolder(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true }).catch((error: NodeJS.ErrnoException) => {
    throw new UsageError(`${folder}: cannot be made a folder: ${error.code}`, { cause: error });
  });
}

/** `config.json` beside the weights, so that the folder is a Hugging Face model. */
export function saveConfig(folder: string, config: LlamaConfig): Promise<void> {
  const json = { architectures: ["LlamaForCausalLM"], ...config, dtype: "float32" };
  return writeFileAtomically(join(folder, "config.json"), `${JSON.stringify(json, null, 2)}\n`);
}
