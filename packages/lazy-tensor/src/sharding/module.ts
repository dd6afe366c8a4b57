import { type Mesh, type PartitionSpec, parseSpec } from "@lazuli/sharding";
import type { Module } from "../nn/module.js";
import { engine } from "../runtime.js";
import { Tensor } from "../tensor.js";
import { type ConstraintDirection, constrain, markSharding } from "./mark.js";
import { matchPaths } from "./patterns.js";

/** Partition specs by path pattern: `*` stands for one name in a path, `**` for any number. The last match counts. */
export type ShardingPatterns = Readonly<Record<string, PartitionSpec>>;

/**
 * Marks a module's parameters and buffers by their paths, `{ "layers.*.mlp.up.weight": ["tensor", null] }`. Throws
 * ShardingError for a pattern that matches nothing, before anything is marked.
 */
export function shardModule<M extends Module>(module: M, mesh: Mesh, patterns: ShardingPatterns): M {
  const entries = [...module.namedParameters(), ...module.namedBuffers()] as [string, Tensor][];
  const found = matchPaths("shardModule", Object.keys(patterns), entries);
  const specs = new Map<Tensor, PartitionSpec>();
  for (const [pattern, matches] of found)
    for (const [, tensor] of matches) {
      parseSpec("shardModule", mesh, patterns[pattern], tensor.shape);
      specs.set(tensor, patterns[pattern]);
    }
  for (const [tensor, spec] of specs) markSharding(tensor, mesh, spec);
  return module;
}

export interface ActivationOptions {
  /** Default `both`: results and their gradients. */
  readonly direction?: ConstraintDirection;
}

/**
 * Lays out the results of the modules whose paths match ("" is the module itself): the activations between blocks, say,
 * divided along the sequence. Throws ShardingError for a pattern that matches nothing.
 */
export function shardActivations<M extends Module>(
  module: M,
  mesh: Mesh,
  patterns: ShardingPatterns,
  { direction = "both" }: ActivationOptions = {},
): M {
  engine().useMesh(mesh);
  const found = matchPaths("shardActivations", Object.keys(patterns), [...module.namedModules()]);
  for (const [pattern, matches] of found)
    for (const [, inner] of matches)
      inner.registerForwardHook((_, __, result) => {
        if (!(result instanceof Tensor)) return undefined;
        const dims = parseSpec("shardActivations", mesh, patterns[pattern], result.shape);
        return constrain(result, mesh, dims, direction);
      });
  return module;
}
