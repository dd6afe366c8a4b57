import type { Graph } from "@lazuli/fx-trace";
import type { Mesh } from "./mesh.js";
import type { Dims } from "./spec.js";

/** How the ends of a graph lie over the mesh. */
export interface PartitionRequest {
  readonly mesh: Mesh;
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
