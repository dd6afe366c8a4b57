import type { Node } from "@lazuli/fx-trace";
import type { Dims } from "@lazuli/sharding";
import type { DeviceBuffer } from "./buffer.js";

/** What holds a node: the engine keeps values of those assigned to until the step is taken. */
export interface Holder {
  node: Node;
  readonly name: string;
  /** Parameters, buffers and optimizer state: every new value is kept, and takes over the old one's memory. */
  isState: boolean;
  /** The buffer the holder had when it was last computed; donated when the holder's new value is. */
  committed: DeviceBuffer | null;
  /** How the value lies over the engine's mesh after every step; null where nothing was asked. */
  layout: Dims | null;
}

/** A holder of a gradient: kept if it still has one when the step is taken. */
export interface GradHolder {
  readonly grad: { readonly node: Node } | null;
  readonly presentLayout: Dims | null;
  /** Where not as the value itself. */
  readonly gradLayout: Dims | null;
}
