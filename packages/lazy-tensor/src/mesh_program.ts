import {
  apply,
  atScope,
  collectiveNames,
  cse,
  dce,
  type Graph,
  meshSizes,
  type Node,
  type Pass,
  type RunPassesOptions,
  rewriteGraph,
  runPasses,
  simplify,
} from "@lazuli/fx-trace";
import {
  type ContextParallel,
  combineSmallSums,
  contextParallels,
  type Dims,
  decodeDims,
  encodeDims,
  type Mesh,
  overlapCollectives,
  type Partitioned,
  partition,
  replicated,
  splitSizes,
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

const onMesh: ReadonlySet<string> = new Set(collectiveNames);

/** Ops recorded over a mesh that has become finer since, over the finer one. */
function refined(graph: Graph, mesh: Mesh): Graph {
  const isCoarse = ({ op, attrs }: Node): boolean =>
    onMesh.has(op.name) && String(attrs.mesh) !== String(mesh.attr);
  if (!graph.nodes.some(isCoarse)) return graph;
  return rewriteGraph(graph, (node, inputs) =>
    atScope(node.scope, () => {
      if (!isCoarse(node)) return apply(node.op, inputs, node.attrs);
      const axes = splitSizes(meshSizes(node.attrs.mesh as number[]), mesh.sizes);
      const split = (list: readonly number[]): number[] => list.flatMap((axis) => axes[axis]);
      const { attrs } = node;
      return apply(node.op, inputs, {
        ...attrs,
        mesh: mesh.attr,
        ...(attrs.axes && { axes: split(attrs.axes as number[]) }),
        ...(attrs.dims && { dims: encodeDims(decodeDims(attrs.dims as number[]).map(split)) }),
      });
    }),
  );
}

/** Of programs of one device, and what they were on the way there. */
const inputsOf = new WeakMap<Graph, { readonly mesh: Mesh; readonly inputs: readonly Dims[] }>();

/** `to` is another form of the partitioned program `from`: its inputs lie as they did. */
export function keepMeshInputs(from: Graph, to: Graph): void {
  const laid = inputsOf.get(from);
  if (laid) inputsOf.set(to, laid);
}

/** How the inputs of a partitioned program lie; null for any other graph. */
export const meshInputs = (graph: Graph): { mesh: Mesh; inputs: readonly Dims[] } | null =>
  inputsOf.get(graph) ?? null;

/** The program of one device, `last` passes run over it at the end, and how its outputs lie. */
export function partitionForMesh(
  graph: Graph,
  { mesh, contextParallel, communication, inputs, roots, layouts }: MeshEnds,
  last: readonly Pass[],
  options: RunPassesOptions,
): Partitioned {
  let outputs: readonly Dims[] = [];
  const laid = { mesh, inputs: inputs.map(layoutOf) };
  const onPass: RunPassesOptions["onPass"] = (report) => {
    inputsOf.set(report.graph, laid);
    options.onPass?.(report);
  };
  const spmd = (whole: Graph): Graph => {
    const parts = partition(refined(whole, mesh), {
      mesh,
      contextParallel,
      inputs: laid.inputs,
      outputs: roots.map((root) => layouts.get(root) ?? null),
    });
    outputs = parts.outputs;
    return parts.graph;
  };
  const overlap = (local: Graph): Graph => overlapCollectives(local, communication);
  const passes = [
    spmd,
    cse,
    simplify,
    dce,
    combineSmallSums,
    ...(communication.overlap ? [overlap] : []),
    ...last,
  ];
  return { graph: runPasses(graph, passes, { ...options, onPass }), outputs };
}

/** The recorded program and where its ends lie: what a program compiled for a mesh depends on. */
export function keyOnMesh(
  words: Uint32Array,
  { mesh, contextParallel, communication, inputs, roots, layouts }: MeshEnds,
): Uint32Array {
  const { overlap, bucketBytes, prefetch } = communication;
  const more = [...mesh.attr, contextParallels.indexOf(contextParallel)];
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
