import {
  cse,
  dce,
  type Graph,
  type Node,
  type RunPassesOptions,
  runPasses,
  simplify,
} from "@lazuli/fx-trace";
import {
  type ContextParallel,
  combineSmallSums,
  contextParallels,
  type Dims,
  encodeDims,
  type Mesh,
  overlapCollectives,
  type Partitioned,
  partition,
  replicated,
} from "@lazuli/sharding";
import type { DeviceBuffer } from "./buffer.js";
import type { Communication } from "./options.js";

/** The ends of a recorded program and how they lie over the mesh. */
export interface MeshEnds {
  readonly mesh: Mesh;
  readonly contextParallel: ContextParallel;
  readonly communication: Communication;
  /** Computed values that the program reads, each with its buffer. */
  readonly inputs: readonly Node[];
  readonly roots: readonly Node[];
  /** By root; where there is none the partitioner chooses. */
  readonly layouts: ReadonlyMap<Node, Dims>;
}

/** State stays where it is: it would else take whatever layout a step leaves it in, and the next step differ. */
export const stateLayout = (
  { layout, committed }: { readonly layout: Dims | null; readonly committed: DeviceBuffer | null },
  node: Node,
): Dims => layout ?? committed?.layout ?? replicated(node.shape.length);

/** How a computed value lies over the mesh. */
const layoutOf = (node: Node): Dims => (node.storage as DeviceBuffer).layout ?? replicated(node.shape.length);

/** The program of one device, and how its outputs lie. */
export function partitionForMesh(
  graph: Graph,
  { mesh, contextParallel, communication, inputs, roots, layouts }: MeshEnds,
  options: RunPassesOptions,
): Partitioned {
  let outputs: readonly Dims[] = [];
  const spmd = (whole: Graph): Graph => {
    const parts = partition(whole, {
      mesh,
      contextParallel,
      inputs: inputs.map(layoutOf),
      outputs: roots.map((root) => layouts.get(root) ?? null),
    });
    outputs = parts.outputs;
    return parts.graph;
  };
  const overlap = (local: Graph): Graph => overlapCollectives(local, communication);
  const passes = [spmd, cse, simplify, dce, combineSmallSums, ...(communication.overlap ? [overlap] : [])];
  return { graph: runPasses(graph, passes, options), outputs };
}

/** The recorded program and where its ends lie: what a program compiled for a mesh depends on. */
export function keyOnMesh(
  words: Uint32Array,
  { mesh, contextParallel, communication, inputs, roots, layouts }: MeshEnds,
): Uint32Array {
  const { overlap, bucketBytes, prefetch } = communication;
  const more = [...mesh.sizes, contextParallels.indexOf(contextParallel)];
  if (overlap) more.push(1, bucketBytes >>> 0, Math.floor(bucketBytes / 2 ** 32) >>> 0, prefetch);
  else more.push(0);
  for (const node of inputs) more.push(...encodeDims(layoutOf(node)));
  for (const root of roots) {
    const layout = layouts.get(root);
    if (layout) more.push(1, ...encodeDims(layout));
    else more.push(0);
  }
  const key = new Uint32Array(words.length + more.length);
  key.set(words);
  key.set(more, words.length);
  return key;
}
