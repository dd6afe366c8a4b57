import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { UsageError } from "../llama/cli.js";
import { configSchema, preset, presetNames, readConfig } from "../llama/config.js";

const minimal = {
  vocab_size: 256,
  hidden_size: 48,
  intermediate_size: 112,
  num_hidden_layers: 2,
  num_attention_heads: 4,
};

describe("a configuration", () => {
  it("has Hugging Face's defaults", () => {
    expect(configSchema.parse(minimal)).toMatchObject({
      num_key_value_heads: 4,
      head_dim: 12,
      rms_norm_eps: 1e-6,
      rope_theta: 10000,
      tie_word_embeddings: false,
      initializer_range: 0.02,
    });
  });

  it.each([
    [{ rope_theta: 5e5 }, 5e5],
    [{ rope_parameters: { rope_theta: 1000, rope_type: "default" } }, 1000],
    [{ rope_theta: null, rope_parameters: null }, 10000],
  ])("finds rope_theta in %j", (more, theta) => {
    expect(configSchema.parse({ ...minimal, ...more }).rope_theta).toBe(theta);
  });

  it("keeps a head_dim of its own, and leaves other keys aside", () => {
    const config = configSchema.parse({ ...minimal, head_dim: 8, bos_token_id: 1 });
    expect(config.head_dim).toBe(8);
    expect(config).not.toHaveProperty("bos_token_id");
  });

  it.each(presetNames)("preset %s is whole", (name) => {
    const { config, batch, seq } = preset(name);
    expect(config.head_dim * config.num_attention_heads).toBe(config.hidden_size);
    expect(batch * seq).toBeGreaterThan(0);
  });
});

describe("a configuration file", () => {
  let folder = "";
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "lazuli-config-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it.each<[string, unknown, RegExp]>([
    ["no JSON", "{", /config.json: not valid JSON/],
    ["no object", "[]", /config.json: /],
    ["no vocab_size", { ...minimal, vocab_size: undefined }, /config.json: vocab_size: .*number/],
    ["a text for a number", { ...minimal, hidden_size: "48" }, /config.json: hidden_size: .*number/],
    ["no layers", { ...minimal, num_hidden_layers: 0 }, /config.json: num_hidden_layers: /],
    [
      "groups that do not divide",
      { ...minimal, num_key_value_heads: 3 },
      /num_key_value_heads: 3 does not divide num_attention_heads 4/,
    ],
    ["an odd head", { ...minimal, head_dim: 7 }, /head_dim: 7 is no even number/],
    ["heads that do not divide", { ...minimal, num_attention_heads: 5 }, /head_dim: 9.6 is no even number/],
    ["another model", { ...minimal, model_type: "gpt2" }, /config.json: model_type: .*llama/],
    ["another activation", { ...minimal, hidden_act: "gelu" }, /config.json: hidden_act: /],
    [
      "scaled rotary positions",
      { ...minimal, rope_scaling: { rope_type: "llama3", factor: 8 } },
      /rope_scaling: scaled rotary positions are not supported/,
    ],
    [
      "scaled rotary positions of transformers 5",
      { ...minimal, rope_parameters: { rope_type: "yarn" } },
      /rope_parameters.rope_type: /,
    ],
  ])("with %s", async (_, content, message) => {
    const path = join(folder, "config.json");
    await writeFile(path, typeof content === "string" ? content : JSON.stringify(content));
    const error = await readConfig(path).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(UsageError);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).not.toContain("\n");
  });

  it("that is missing", async () => {
    await expect(readConfig(join(folder, "none.json"))).rejects.toThrow(/none.json: cannot be read/);
  });
});
