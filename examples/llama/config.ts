import { readFile } from "node:fs/promises";
import { z } from "zod";
import { firstIssue, UsageError } from "./cli.js";

const size = z.int().positive();

/** A Hugging Face Llama `config.json`; keys that do not change the model are left aside. */
const fileSchema = z.object({
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: size,
  num_attention_heads: size,
  num_key_value_heads: size.nullish(),
  head_dim: size.nullish(),
  max_position_embeddings: size.default(2048),
  rms_norm_eps: z.number().positive().default(1e-6),
  rope_theta: z.number().positive().nullish(),
  /** Where transformers 5 keeps rope_theta. */
  rope_parameters: z
    .object({ rope_theta: z.number().positive().nullish(), rope_type: z.literal("default").nullish() })
    .nullish(),
  rope_scaling: z.null({ error: "scaled rotary positions are not supported" }).optional(),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  hidden_act: z.literal("silu").default("silu"),
  initializer_range: z.number().positive().default(0.02),
  model_type: z.literal("llama").default("llama"),
});

/** The configuration with Hugging Face's names, defaults filled in, checked to make a model. */
export const configSchema = fileSchema
  .transform(({ rope_parameters, rope_scaling: _, ...config }) => ({
    ...config,
    num_key_value_heads: config.num_key_value_heads ?? config.num_attention_heads,
    head_dim: config.head_dim ?? config.hidden_size / config.num_attention_heads,
    rope_theta: rope_parameters?.rope_theta ?? config.rope_theta ?? 10000,
  }))
  .superRefine(({ num_attention_heads: heads, num_key_value_heads: groups, head_dim }, context) => {
    const fail = (key: string, message: string): void =>
      context.addIssue({ code: "custom", path: [key], message });
    if (heads % groups !== 0)
      fail("num_key_value_heads", `${groups} does not divide num_attention_heads ${heads}`);
    if (head_dim % 2 !== 0) fail("head_dim", `${head_dim} is no even number, which rotary positions need`);
  });

export type LlamaConfig = z.output<typeof configSchema>;

// dim, layers, heads, kv_heads, hidden, vocab, batch, seq: the shapes that the benchmarks compare on.
const shapes = {
  tiny: [128, 4, 4, 4, 344, 512, 8, 128],
  "15m": [288, 6, 6, 6, 768, 32000, 8, 256],
  "42m": [512, 8, 8, 8, 1376, 32000, 4, 512],
  "110m": [768, 12, 12, 12, 2048, 32000, 1, 1024],
  "1b": [2048, 16, 32, 8, 8192, 32000, 4, 2048],
  "7b": [4096, 32, 32, 32, 11008, 32000, 8, 4096],
  "70b": [8192, 80, 64, 8, 28672, 32000, 8, 4096],
} as const;

export type PresetName = keyof typeof shapes;
export const presetNames = Object.keys(shapes) as PresetName[];
export const isPreset = (name: string): name is PresetName => Object.hasOwn(shapes, name);

export interface Preset {
  readonly config: LlamaConfig;
  readonly batch: number;
  readonly seq: number;
}

export function preset(name: PresetName): Preset {
  const [dim, layers, heads, kvHeads, hidden, vocab, batch, seq] = shapes[name];
  const config = configSchema.parse({
    vocab_size: vocab,
    hidden_size: dim,
    intermediate_size: hidden,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    max_position_embeddings: seq,
    rms_norm_eps: 1e-5,
  });
  return { config, batch, seq };
}

/** Reads a Hugging Face `config.json`. Throws UsageError that names the file and the key. */
export async function readConfig(path: string): Promise<LlamaConfig> {
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    const reason = error instanceof SyntaxError ? `not valid JSON: ${error.message}` : "cannot be read";
    throw new UsageError(`${path}: ${reason}`, { cause: error });
  }
  const result = configSchema.safeParse(json);
  if (!result.success) throw new UsageError(`${path}: ${firstIssue(result.error)}`);
  return result.data;
}
