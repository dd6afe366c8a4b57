import { z } from "zod";
import { program, UsageError } from "./cli.js";
import { presetNames } from "./config.js";
import { strategies } from "./sharding.js";

/** A flag's text as a number. */
const number = (limits: z.ZodNumber) =>
  z
    .string()
    .regex(/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i, "is not a number")
    .transform(Number)
    .pipe(limits);
const count = number(z.int("is not a whole number").min(1, "must be at least 1"));
const natural = number(z.int("is not a whole number").min(0, "must be at least 0"));
const positive = number(z.number().positive("must be above 0"));
const notNegative = number(z.number().min(0, "must be at least 0"));
const sizePattern = /^(\d+\.?\d*|\.\d+) ?([kmg]?)(i?)b?$/i;
/** "300MB", "1.5 GiB" or a number of bytes, as bytes. */
const size = z
  .string()
  .regex(sizePattern, "is no number of bytes, such as 300MB or 1.5GiB")
  .transform((text) => {
    const [, digits, prefix, binary] = sizePattern.exec(text) as RegExpExecArray;
    return Math.floor(
      Number(digits) * (binary ? 1024 : 1000) ** ["", "k", "m", "g"].indexOf(prefix.toLowerCase()),
    );
  })
  .pipe(z.int().min(1, "must be at least 1 byte"));
const oneOf = <const T extends readonly string[]>(names: T) =>
  z.enum(names, { error: `is not one of ${names.join(", ")}` });

const schema = z
  .object({
    config: z.string().optional(),
    model: z.string().optional(),
    resume: z.string().optional(),
    data: z.array(z.string()).optional(),
    steps: count.optional(),
    batch: count.optional(),
    seq: count.optional(),
    lr: positive,
    weightDecay: notNegative,
    clip: notNegative,
    gradAccum: count,
    schedule: oneOf(["constant", "linear", "cosine"]),
    warmup: natural,
    seed: natural,
    dtype: oneOf(["float32", "bfloat16", "float16"]),
    autocast: oneOf(["bfloat16", "float16"]).optional(),
    device: oneOf(["cpu", "cuda", "null"]).optional(),
    save: z.string().optional(),
    logJson: z.boolean().default(false),
    trace: z.string().optional(),
    mesh: z.string().optional(),
    strategy: z.string().default("none"),
    virtualDevices: count.optional(),
    remat: oneOf(["none", "auto"]).optional(),
    memoryBudget: size.optional(),
  })
  .refine(({ remat, memoryBudget }) => remat !== "auto" || memoryBudget !== undefined, {
    path: ["remat"],
    error: "needs --memory-budget: 300MB, say",
  })
  .refine(({ config, model, resume }) => [config, model, resume].filter(Boolean).length <= 1, {
    path: ["config"],
    error: "give one of --config, --model and --resume",
  });

export type TrainOptions = z.output<typeof schema>;

const kebab = (key: string): string => key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

export function readTrainOptions(): TrainOptions {
  const command = program("train")
    .description("Trains a Llama on text, or on batches of token ids.")
    .option(
      "--config <name|file>",
      `${presetNames.join(", ")}, or a Hugging Face config.json (default: tiny)`,
    )
    .option("--model <folder>", "Hugging Face model to start from (config.json and model.safetensors)")
    .option("--resume <folder>", "checkpoint to go on from, up to --steps in all")
    .option("--data <paths...>", "text files, folders or globs; or one .npy of int32 [steps, batch, seq + 1]")
    .option("--steps <n>", "training steps (default: 100; of an .npy: all it has)")
    .option("--batch <n>", "sequences a step (default: the configuration's)")
    .option("--seq <n>", "tokens a sequence (default: the configuration's)")
    .option("--lr <x>", "learning rate", "3e-4")
    .option("--weight-decay <x>", "AdamW's weight decay", "0.1")
    .option("--clip <x>", "largest gradient norm; 0: no limit", "1")
    .option("--grad-accum <n>", "batches whose gradients are added up a step", "1")
    .option("--schedule <name>", "learning rate after warm-up: constant, linear or cosine", "constant")
    .option("--warmup <n>", "steps over which the learning rate rises", "0")
    .option("--seed <n>", "seed of the weights and of the batches", "0")
    .option("--dtype <name>", "dtype of the activations: float32, bfloat16 or float16", "float32")
    .option("--autocast <name>", "dtype of the products, bfloat16 or float16, where the rest is float32")
    .option("--device <name>", "cpu, cuda (an NVIDIA GPU) or null (records and compiles, computes nothing)")
    .option("--save <folder>", "where the checkpoint is written at the end")
    .option("--log-json", "one JSON object a step on standard output, and a summary")
    .option("--trace <file>", "writes a Chrome trace of the run")
    .option("--mesh <axes>", "devices by axis, as data=2,tensor=2: axes data, fsdp, tensor, context")
    .option(
      "--strategy <names>",
      `how the model lies over the mesh, joined by commas: ${strategies.join(", ")}`,
      "none",
    )
    .option("--virtual-devices <n>", "devices of this process, as threads (default: as many as the mesh has)")
    .option(
      "--remat <name>",
      "auto: compute values again in backward to stay within the budget; none (default)",
    )
    .option(
      "--memory-budget <size>",
      "most bytes of intermediate values on a device: 300MB, 1.5GiB; implies --remat auto",
    );
  const flags = command.parse().opts<Record<string, unknown>>();
  const result = schema.safeParse(flags);
  if (result.success) return result.data;
  const [{ path, message }] = result.error.issues;
  const key = String(path[0]);
  if (message.startsWith("give ")) throw new UsageError(message);
  throw new UsageError(`--${kebab(key)} ${flags[key]}: ${message}`);
}
