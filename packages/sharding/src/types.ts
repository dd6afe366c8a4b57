import type { Graph } from "@lazuli/fx-trace";
import type { Mesh } from "./mesh.js";
import type { Dims } from "./spec.js";

/**
 * Who gets the mesh axes that divide the sequence of an attention: the heads (DeepSpeed Ulysses), a ring that keys and
 * values go around (ring attention), such a ring with the work under a causal mask shared evenly (for an exchange before and
 * after), or of several axes the heads the last and the ring the others.
 */
export const contextParallels = ["ulysses", "ring", "zigzag", "ulysses+ring"] as const;
export type ContextParallel = (typeof contextParallels)[number];

/** How the ends of a graph lie over the mesh, and what the partitioner may not choose itself. */
export interface PartitionRequest {
  readonly mesh: Mesh;
  /** Defaults to "ulysses". A ring serves in any mode where the heads do not divide evenly. */
  readonly contextParallel?: ContextParallel;
  /** By input of the graph. */
  readonly inputs: readonly Dims[];
  /** By output; null where the partitioner may choose. */
  readonly outputs: readonly (Dims | null)[];
}

/** One program for every device: shapes are local, collectives are ops (fx-trace, ops/collective.ts). */
export interface Partitioned {
  readonly graph: Graph;
  /** By output, how it lies. */
  readonly outputs: readonly Dims[];
}
