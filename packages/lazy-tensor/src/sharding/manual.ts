import { currentRecorder, type Node, ops, withRecorder, withScope } from "@lazuli/fx-trace";
import {
  axesIn,
  dimsIn,
  encodeDims,
  formatSpec,
  type Mesh,
  type PartitionSpec,
  parseSpec,
  replicated,
  ShardingError,
} from "@lazuli/sharding";
import { engine } from "../runtime.js";
import { Tensor } from "../tensor.js";
import { constrain } from "./mark.js";

export interface ManualShardingOptions<R> {
  /** By argument how it lies over the mesh: the function gets one device's part. */
  readonly inSpecs: readonly PartitionSpec[];
  /** How the parts that the function returns make up the result: a spec, or one for each of an array of results. */
  readonly outSpecs: R extends readonly Tensor[] ? readonly PartitionSpec[] : PartitionSpec;
}

/** A function on parts that is being recorded. */
export interface ManualRegion {
  readonly mesh: Mesh;
  /** The engine's mesh, and by axis of `mesh` the axes of it. */
  readonly grid: Mesh;
  readonly axes: readonly (readonly number[])[];
}

let region: ManualRegion | null = null;

/** The function on parts that is being recorded. Throws ShardingError outside. */
export function currentRegion(op: string): ManualRegion {
  if (!region)
    throw new ShardingError(op, "is called outside manualSharding: only there a tensor is one device's part");
  return region;
}

/** x as the part that one device has of it. */
function enter(x: Tensor, what: string, spec: PartitionSpec, { mesh, grid }: ManualRegion): Tensor {
  const own = parseSpec("manualSharding", mesh, spec, x.shape);
  own.forEach((axes, d) => {
    if (x.shape[d] % mesh.sizeOf(axes) !== 0)
      throw new ShardingError(
        "manualSharding",
        `${what}: dim ${d} of size ${x.shape[d]} is not divided evenly over ${mesh.sizeOf(axes)} devices, as ${formatSpec(spec)} over ${mesh} asks`,
      );
  });
  const dims = dimsIn(mesh, own, grid);
  const laid = constrain(x, grid, dims);
  return new Tensor(ops.full_to_shard([laid.node], { mesh: grid.attr, dims: encodeDims(dims) }));
}

/** The tensor that the parts make up. */
function leave(x: Tensor, what: string, spec: PartitionSpec, { mesh, grid, axes }: ManualRegion): Tensor {
  const dims = dimsIn(mesh, parseSpec("manualSharding", mesh, spec, x.shape), grid);
  const named = dims.flat();
  const lost = (x.node.part?.varying ?? []).filter((axis) => !named.includes(axis));
  const names = mesh.axisNames.filter((_, i) => axes[i].some((axis) => lost.includes(axis)));
  if (lost.length > 0)
    throw new ShardingError(
      "manualSharding",
      `${what} differs along ${names.map((name) => `"${name}"`).join(" and ")}, which its spec ${formatSpec(spec)} does not name: name the axis, or take allReduce or allGather over it`,
    );
  return new Tensor(ops.shard_to_full([x.node], { mesh: grid.attr, dims: encodeDims(dims) }));
}

/** Records what `enter` gives parts for, `fn` on these, and what `leave` makes of its results. */
function record<P, R>(
  current: ManualRegion,
  enterAll: () => P,
  fn: (parts: P) => R,
  leaveAll: (result: R) => R,
): R {
  const outer = currentRecorder();
  const mine = new Set<Node>();
  const recorder = {
    add(node: Node): void {
      mine.add(node);
      outer?.add(node);
    },
  };
  // What the function uses without being given it is brought in whole.
  const whole = new Map<Node, Node>();
  const read = (node: Node): Node => {
    if (mine.has(node)) return node;
    if (node.part)
      throw new ShardingError(
        "manualSharding",
        "a part of another call of manualSharding is used: return it from there",
      );
    let part = whole.get(node);
    if (!part) {
      const dims = encodeDims(replicated(node.shape.length));
      part = ops.full_to_shard([node], { mesh: current.grid.attr, dims });
      whole.set(node, part);
    }
    return part;
  };
  try {
    return withRecorder(recorder, () =>
      withScope("manualSharding", () => {
        const parts = enterAll();
        region = current;
        Tensor.reading = read;
        const made = leaveAll(fn(parts));
        for (const x of [made].flat()) mine.delete((x as Tensor).node);
        return made;
      }),
    );
  } finally {
    region = null;
    Tensor.reading = null;
    // Parts are no values to keep: none is a root of the step.
    for (const node of mine) engine().hide(node);
  }
}

/**
 * `fn` with the communication written by hand: it gets one device's parts of its arguments, as `inSpecs` lay them out over
 * the mesh, calls `allReduce`, `allGather` and their like to meet the other devices, and returns parts, which make up the
 * results as `outSpecs` say. What surrounds the call is partitioned as ever. As jax.shard_map:
 *
 * - Dims must divide evenly. Along axes that a spec does not name every device has the same.
 * - Tensors that `fn` uses without being given them, a module's parameters say, are whole on every device. Random numbers drawn
 *   inside are the same on all.
 * - A result may not differ along an axis that its spec does not name.
 * - Gradients are those of the tensors as a whole (jax's check_vma): what all devices share gets the sum of their cotangents,
 *   `allReduce` passes its own on as it is, `allGather` and `reduceScatter` are each other's, as are `allToAll` and
 *   `collectivePermute` with their inverses.
 *
 * Throws ShardingError for specs that do not fit, at the call.
 */
export function manualSharding<A extends readonly Tensor[], R extends Tensor | readonly Tensor[]>(
  fn: (...parts: A) => R,
  mesh: Mesh,
  { inSpecs, outSpecs }: ManualShardingOptions<R>,
): (...args: A) => R {
  return (...args: A): R => {
    if (region) throw new ShardingError("manualSharding", "is called inside manualSharding");
    if (args.length !== inSpecs.length)
      throw new ShardingError(
        "manualSharding",
        `there are ${args.length} arguments and inSpecs has ${inSpecs.length}`,
      );
    const grid = engine().useMesh(mesh);
    const current = { mesh, grid, axes: axesIn(mesh, grid) };
    const results = record<Tensor[], R>(
      current,
      () => args.map((arg, i) => enter(arg, `argument ${i}`, inSpecs[i], current)),
      (parts) => fn(...(parts as unknown as A)),
      (made) => {
        if (made instanceof Tensor) return leave(made, "the result", outSpecs as PartitionSpec, current) as R;
        const specs = outSpecs as readonly PartitionSpec[];
        if (made.length !== specs.length)
          throw new ShardingError(
            "manualSharding",
            `the function returns ${made.length} results and outSpecs has ${specs.length}`,
          );
        return made.map((x, i) => leave(x, `result ${i}`, specs[i], current)) as unknown as R;
      },
    );
    for (const x of [results].flat() as Tensor[]) engine().show(x.node);
    return results;
  };
}
