import { formatType, type Graph, type Node, sizeOf, type TensorType, verify } from "@lazuli/fx-trace";
import {
  type Dims,
  formatDims,
  localRange,
  localShape,
  type Mesh,
  type Partitioned,
  type PartitionRequest,
  sameDims,
} from "../src/index.js";
import { evaluateOp, type Value } from "./reference.js";
import { collectives } from "./simulate_collectives.js";

/*
 * Runs a partitioned graph as the devices of its mesh would, in lockstep: node by node, every device its own value, by the
 * reference's kernels (plain loops over float64). What is past the end of a part is garbage, as on a device: a mask that
 * is missing shows.
 */

/** Types of what a whole graph takes and gives; a Graph is one. */
export interface Ends {
  readonly inputs: readonly TensorType[];
  readonly outputs: readonly TensorType[];
}

/** Values by device. Devices whose values are copies of each other may share one object. */
export type Shards = readonly Value[];

/** Padding: NaN, or numbers so large that no index and no sum survives them, of either sign for min and max. */
function garbage({ dtype }: TensorType, at: number): number {
  const isOdd = at % 2 === 1;
  switch (dtype) {
    case "bool":
      return Number(!isOdd);
    case "uint8":
      return isOdd ? 0 : 251;
    case "int32":
      return isOdd ? -1_234_567_891 : 1_234_567_891;
    case "int64":
      return isOdd ? -(2 ** 45 + 7) : 2 ** 45 + 7;
    default:
      return Number.NaN;
  }
}

const devicesOf = (mesh: Mesh): number[] => Array.from({ length: mesh.size }, (_, device) => device);

/** Names the part of a tensor that a device has: equal for devices that hold copies. */
function partKey(mesh: Mesh, dims: Dims, device: number): string {
  const at = mesh.coordinates(device);
  return dims
    .flat()
    .map((axis) => at[axis])
    .join();
}

/** Calls `fn` with the position in the whole and in the part of each element of a device's part that is not padding. */
function forEachElement(
  mesh: Mesh,
  { shape }: TensorType,
  dims: Dims,
  device: number,
  fn: (whole: number, part: number) => void,
): void {
  const local = localShape(mesh, shape, dims);
  const ranges = shape.map((size, dim) => localRange(mesh, size, dims[dim], device));
  const visit = (dim: number, whole: number, part: number): void => {
    if (dim === shape.length) {
      fn(whole, part);
      return;
    }
    const { start, count } = ranges[dim];
    for (let i = 0; i < count; i++) visit(dim + 1, whole * shape[dim] + start + i, part * local[dim] + i);
  };
  visit(0, 0, 0);
}

/** A whole tensor's parts by device. */
export function divide(mesh: Mesh, type: TensorType, dims: Dims, whole: ArrayLike<number>): Shards {
  if (whole.length !== sizeOf(type.shape))
    throw new Error(`${whole.length} elements for ${formatType(type)}`);
  const shape = localShape(mesh, type.shape, dims);
  const made = new Map<string, Value>();
  return devicesOf(mesh).map((device) => {
    const key = partKey(mesh, dims, device);
    const known = made.get(key);
    if (known) return known;
    const data = Float64Array.from({ length: sizeOf(shape) }, (_, i) => garbage(type, i));
    forEachElement(mesh, type, dims, device, (from, to) => {
      data[to] = whole[from];
    });
    const value = { dtype: type.dtype, shape, data };
    made.set(key, value);
    return value;
  });
}

const shown = (value: number): string => (Object.is(value, -0) ? "-0" : String(value));

/** The whole tensor that parts make. Throws where copies differ in any bit, NaNs being equal, or a part has another type. */
export function assemble(mesh: Mesh, type: TensorType, dims: Dims, parts: Shards): Value {
  const data = new Float64Array(sizeOf(type.shape));
  const shape = localShape(mesh, type.shape, dims);
  const first = new Map<string, { readonly device: number; readonly part: Value }>();
  parts.forEach((part, device) => {
    if (formatType(part) !== formatType({ dtype: type.dtype, shape }))
      throw new Error(
        `device ${device} gives ${formatType(part)} for its part of ${formatType(type)} laid out as ${formatDims(mesh, dims)}`,
      );
    const key = partKey(mesh, dims, device);
    const copy = first.get(key);
    if (copy?.part === part) return;
    forEachElement(mesh, type, dims, device, (to, from) => {
      if (copy && !Object.is(copy.part.data[from], part.data[from]))
        throw new Error(
          `element ${to} of ${formatType(type)} laid out as ${formatDims(mesh, dims)} is ` +
            `${shown(copy.part.data[from])} on device ${copy.device}, ${shown(part.data[from])} on its copy, device ${device}`,
        );
      data[to] = part.data[from];
    });
    if (!copy) first.set(key, { device, part });
  });
  return { dtype: type.dtype, shape: type.shape, data };
}

/** Results of `node` by device, from its operands'. Equal operands are computed once: ops are functions. */
function runOnAll(node: Node, operands: readonly Shards[], devices: readonly number[]): (readonly Value[])[] {
  const found: (readonly Value[])[] = [];
  for (const device of devices) {
    const same = devices.find(
      (other) => other < device && operands.every((shards) => shards[other] === shards[device]),
    );
    found.push(
      same !== undefined
        ? found[same]
        : evaluateOp(
            node,
            operands.map((shards) => shards[device]),
          ),
    );
  }
  return found;
}

/** Runs a local graph on every device; `inputs` are by input. Gives the outputs, by output and device. */
export function runLocal(graph: Graph, mesh: Mesh, inputs: readonly Shards[]): Shards[] {
  verify(graph);
  const devices = devicesOf(mesh);
  // By node and device, the results.
  const values = new Map<Node, readonly (readonly Value[])[]>();
  const shardsOf = (node: Node): Shards =>
    (values.get(node) as readonly (readonly Value[])[]).map(([value]) => value);
  const step = (node: Node): readonly (readonly Value[])[] => {
    const { op, attrs } = node;
    if (op.name === "input") return inputs[attrs.index as number].map((value) => [value]);
    if (op.name === "result") {
      const several = values.get(node.inputs[0]) as readonly (readonly Value[])[];
      return several.map((results) => [results[attrs.index as number]]);
    }
    if (op.name === "sharding_constraint") throw new Error("a sharding_constraint is left in a local graph");
    const operands = node.inputs.map(shardsOf);
    const collective = collectives[op.name];
    return collective
      ? collective(node, mesh, operands).map((value) => [value])
      : runOnAll(node, operands, devices);
  };
  for (const node of graph.nodes) {
    const results = step(node);
    for (const device of devices) checkTypes(node, results[device], device);
    values.set(node, results);
  }
  return graph.outputs.map(shardsOf);
}

function checkTypes(node: Node, results: readonly Value[], device: number): void {
  node.types.forEach((type, i) => {
    const value = results[i];
    if (formatType(value) !== formatType(type) || value.data.length !== sizeOf(type.shape))
      throw new Error(
        `${node.op.name} gives ${formatType(value)} of ${value.data.length} elements on device ${device}, its type is ${formatType(type)}`,
      );
  });
}

/**
 * Outputs of `partitioned`, put together, for whole `inputs`; `ends` is the graph that was partitioned. Throws an Error
 * where shapes, layouts or copies are not what they should be.
 */
export function simulate(
  partitioned: Partitioned,
  request: PartitionRequest,
  ends: Ends,
  inputs: readonly ArrayLike<number>[],
): Value[] {
  const { graph, outputs } = partitioned;
  const { mesh } = request;
  if (graph.inputs.length !== ends.inputs.length || graph.outputs.length !== ends.outputs.length)
    throw new Error(
      `${ends.inputs.length} inputs and ${ends.outputs.length} outputs became ${graph.inputs.length} and ${graph.outputs.length}`,
    );
  outputs.forEach((dims, i) => {
    const asked = request.outputs[i];
    if (asked && !sameDims(asked, dims))
      throw new Error(
        `output ${i} is laid out as ${formatDims(mesh, dims)}, asked for was ${formatDims(mesh, asked)}`,
      );
  });
  const parts = ends.inputs.map((type, i) => divide(mesh, type, request.inputs[i], inputs[i]));
  const found = runLocal(graph, mesh, parts);
  return found.map((shards, i) => assemble(mesh, ends.outputs[i], outputs[i], shards));
}
