import {
  engine,
  fullyShard,
  Mesh,
  markSharding,
  type PartitionSpec,
  type Placement,
  shardActivations,
  shardModule,
  type Tensor,
} from "@lazuli/lazy-tensor";
import { UsageError } from "./cli.js";
import type { Llama } from "./model.js";

// How a Llama is laid out over a mesh: annotations only, the model's own code does not change. Axes: `data` and `fsdp`
// divide the batch, `tensor` the weights, `context` the sequence.

export const strategies = [
  "none",
  "ddp",
  "fsdp",
  "hsdp",
  "tp",
  "tp+sp",
  "ulysses",
  "ring",
  "zigzag",
] as const;
export type Strategy = (typeof strategies)[number];

/** The mesh axes a strategy needs. */
const axesOf: Readonly<Record<Strategy, readonly string[]>> = {
  none: [],
  ddp: ["data"],
  fsdp: ["fsdp"],
  hsdp: ["data", "fsdp"],
  tp: ["tensor"],
  "tp+sp": ["tensor"],
  ulysses: ["context"],
  ring: ["context"],
  zigzag: ["context"],
};

/** `data=2,tensor=2` as a mesh. Throws UsageError. */
export function parseMesh(text: string): Mesh {
  const shape: Record<string, number> = {};
  for (const part of text.split(",")) {
    const [, name, size] = /^\s*([A-Za-z]\w*)=(\d+)\s*$/.exec(part) ?? [];
    if (name === undefined) throw new UsageError(`--mesh ${text}: "${part}" is not name=size`);
    if (name in shape) throw new UsageError(`--mesh ${text}: axis ${name} is given twice`);
    shape[name] = Number(size);
  }
  return new Mesh(shape);
}

/** Strategies joined by commas. Throws UsageError for one that is unknown or lacks an axis of the mesh. */
export function parseStrategies(text: string, mesh: Mesh): Strategy[] {
  return text.split(",").map((name) => {
    const known = strategies.find((strategy) => strategy === name.trim());
    if (!known) throw new UsageError(`--strategy ${text}: ${name} is not one of ${strategies.join(", ")}`);
    for (const axis of axesOf[known])
      if (!mesh.axisNames.includes(axis))
        throw new UsageError(`--strategy ${known} needs the axis ${axis}: --mesh ${axis}=N, not ${mesh}`);
    return known;
  });
}

/** Megatron's columns and rows: one sum after attention, one after the feed-forward; the vocabulary divided at both ends. */
const tensorParallel: Readonly<Record<string, PartitionSpec>> = {
  "model.embed_tokens.weight": ["tensor", null],
  "model.layers.*.self_attn.q_proj.weight": ["tensor", null],
  "model.layers.*.self_attn.k_proj.weight": ["tensor", null],
  "model.layers.*.self_attn.v_proj.weight": ["tensor", null],
  "model.layers.*.self_attn.o_proj.weight": [null, "tensor"],
  "model.layers.*.mlp.gate_proj.weight": ["tensor", null],
  "model.layers.*.mlp.up_proj.weight": ["tensor", null],
  "model.layers.*.mlp.down_proj.weight": [null, "tensor"],
};

const batchAxes = (mesh: Mesh): string[] => ["data", "fsdp"].filter((axis) => mesh.axisNames.includes(axis));

/** Where a batch of ids [B, T] lies: what shardLlama's function lays out, for a loader that reads by parts. */
export const placementOfBatch = (mesh: Mesh, chosen: readonly Strategy[]): Placement | null =>
  chosen.every((name) => name === "none") ? null : { mesh, spec: [batchAxes(mesh), null] };

/**
 * Annotates the model, and tells the engine who gets the axes of the sequence in attention; gives back what lays out a
 * batch of ids [B, T]. Call it before the optimizer is made.
 */
export function shardLlama(model: Llama, mesh: Mesh, chosen: readonly Strategy[]): (ids: Tensor) => Tensor {
  const placement = placementOfBatch(mesh, chosen);
  if (!placement) return (ids) => ids;
  const has = (...names: Strategy[]): boolean => names.some((name) => chosen.includes(name));
  const batch = batchAxes(mesh);
  const sequence = [
    ...(has("ulysses", "ring", "zigzag") ? ["context"] : []),
    ...(has("tp+sp") ? ["tensor"] : []),
  ];
  if (has("tp", "tp+sp"))
    shardModule(model, mesh, {
      ...tensorParallel,
      ...(model.lm_head ? { "lm_head.weight": ["tensor", null] } : {}),
    });
  engine().contextParallel = has("zigzag") ? "zigzag" : has("ring") ? "ring" : "ulysses";
  const stream: PartitionSpec = [batch, sequence, null];
  shardActivations(model, mesh, { "model.embed_tokens": stream, "model.layers.*": stream });
  if (has("tp+sp")) {
    // Gathered along the sequence for the products that are divided by columns, and again for their gradients.
    const whole: PartitionSpec = [batch, sequence.filter((axis) => axis !== "tensor"), null];
    const norms = ["model.layers.*.input_layernorm", "model.layers.*.post_attention_layernorm", "model.norm"];
    const patterns = Object.fromEntries(norms.map((path) => [path, whole]));
    shardActivations(model, mesh, patterns, { direction: "regather" });
    // Backward the other way about: gradients are gathered before the products by rows.
    const branches = { "model.layers.*.self_attn": whole, "model.layers.*.mlp": whole };
    shardActivations(model, mesh, branches, { direction: "backward" });
  }
  if (has("fsdp", "hsdp")) fullyShard(model, mesh);
  return (ids) => markSharding(ids, mesh, placement.spec);
}
