import { GradError, ShapeError, ValueError } from "../errors.js";
import type { Node, Part } from "../node.js";
import { type AttrSchema, defineOp, type Op, type OpSpec } from "../opdef.js";
import type { Shape, TensorType } from "../shape.js";
import { ops } from "./bound.js";
import { elementwiseSharding } from "./factors.js";
import { checkDim, checkDType } from "./rules.js";

/*
 * One program is run by every device of a mesh; these ops are where devices differ or meet. `mesh` holds the sizes of the
 * mesh's axes, device d being at the row-major coordinates of d; where devices are placed otherwise, then 0 and, point by
 * point, the device that is there. A group is the devices that differ only in the
 * coordinates along `axes` (positions in `mesh`, the major first); its members are numbered row-major over `axes`. Names
 * and meaning as in NCCL and MPI.
 */

const meshAttrs = { mesh: "ints", axes: "ints" } as const;
const reductions = ["sum", "prod", "max", "min"] as const;
export type ReductionKind = (typeof reductions)[number];

interface Group {
  readonly mesh: readonly number[];
  readonly axes: readonly number[];
}

/** Devices of a group. */
export const groupSize = ({ mesh, axes }: Group): number => axes.reduce((n, axis) => n * mesh[axis], 1);

/** The sizes of the axes: what comes first in a `mesh` attribute. */
export function meshSizes(mesh: readonly number[]): readonly number[] {
  const end = mesh.indexOf(0);
  return end < 0 ? mesh : mesh.slice(0, end);
}

export function checkGroup(op: string, { mesh, axes }: Group): void {
  const sizes = meshSizes(mesh);
  if (sizes.some((size) => !Number.isInteger(size) || size < 1))
    throw new ValueError(op, `mesh [${mesh}] has an axis of size below 1`);
  if (axes.some((axis, i) => !(axis in sizes) || axes.indexOf(axis) !== i))
    throw new ValueError(op, `axes [${axes}] are not different axes of a mesh of ${sizes.length}`);
  if (sizes === mesh) return;
  const devices = mesh.slice(sizes.length + 1);
  if (devices.length !== sizes.reduce((n, size) => n * size, 1) || new Set(devices).size !== devices.length)
    throw new ValueError(op, `mesh [${sizes}] does not have the devices [${devices}]`);
}

const scaled = (shape: Shape, dim: number, size: number): number[] =>
  shape.map((old, i) => (i === dim ? size : old));

function divided(op: string, x: Node, dim: number, parts: number): number {
  const size = x.shape[dim];
  if (size % parts !== 0)
    throw new ShapeError(op, `dim ${dim} of size ${size} is not divided by the group's ${parts} devices`);
  return size / parts;
}

/** The part with axes over which its devices now have the same value, or no longer. */
const without = (part: Part | null, { axes }: Group): Part | null =>
  part && { ...part, varying: part.varying.filter((axis) => !axes.includes(axis)) };
const within = (part: Part | null, { axes }: Group): Part | null =>
  part && { ...part, varying: [...new Set([...part.varying, ...axes])].sort((a, b) => a - b) };

/** Axes of the group over which every device has the same x: its cotangent is the sum of theirs. */
const sharedAxes = (x: Node, { axes }: Group): readonly number[] =>
  axes.filter((axis) => !x.part?.varying.includes(axis));

function requireSum(op: string, kind: ReductionKind): void {
  if (kind !== "sum") throw new GradError(op, `has a gradient for sums, not for ${kind}`);
}

type Collective<S extends AttrSchema> = Op<typeof meshAttrs & S>;

function collective<const S extends AttrSchema>(
  name: string,
  attrs: S,
  type: (x: Node, attrs: Record<string, never>, group: number) => TensorType,
  more: Partial<Pick<OpSpec<typeof meshAttrs & S>, "vjp">> & { part: typeof without },
): Collective<S> {
  return defineOp({
    name,
    attrs: { ...meshAttrs, ...attrs },
    arity: 1,
    lower: "kernel",
    unique: true,
    vjp: more.vjp as never,
    part: ([x], given) => more.part(x.part, given as unknown as Group),
    type: ([x], given) => {
      const values = given as unknown as Group & Record<string, never>;
      checkGroup(name, values);
      return type(x, values, groupSize(values));
    },
  }) as unknown as Collective<S>;
}

/** The devices' kernels have no sum of bools: their `max` is the or, their `min` the and. */
function checkReduced(op: string, x: Node, kind: ReductionKind): void {
  if (kind === "sum" || kind === "prod") checkDType(op, "numeric", x.dtype);
}

/** The elementwise sum (product, ...) of the group's x, in every member; added in the order of the members. */
export const all_reduce: Collective<{ readonly kind: typeof reductions }> = collective(
  "all_reduce",
  { kind: reductions },
  (x, { kind }) => {
    checkReduced("all_reduce", x, kind);
    return x.type;
  },
  {
    part: without,
    vjp: ({ inputs: [x], grad, attrs }) => {
      requireSum("all_reduce", attrs.kind);
      const times = groupSize({ ...attrs, axes: sharedAxes(x, attrs) });
      if (times === 1) return [grad];
      const factor = ops.full([], { value: times, shape: x.shape, dtype: x.dtype });
      return [ops.mul([grad, factor])];
    },
  },
);

/** The group's x one after the other along `dim`, in every member. */
export const all_gather: Collective<{ readonly dim: "int" }> = collective(
  "all_gather",
  { dim: "int" },
  (x, { dim }, group) => {
    checkDim("all_gather", dim, x.shape.length);
    return { dtype: x.dtype, shape: scaled(x.shape, dim, x.shape[dim] * group) };
  },
  {
    part: without,
    // Every member has the whole cotangent. Where members have addends of it, vjp.ts scatters their sum instead.
    vjp: ({ inputs: [x], grad, attrs }) => {
      const own = ops.shard_slice([grad], { ...attrs, size: x.shape[attrs.dim] });
      const shared = sharedAxes(x, attrs);
      return [
        shared.length === 0 ? own : ops.all_reduce([own], { mesh: attrs.mesh, axes: shared, kind: "sum" }),
      ];
    },
  },
);

/** Member i gets part i, along `dim`, of the sum (...) of the group's x; `dim` must divide by the group. */
export const reduce_scatter: Collective<{ readonly kind: typeof reductions; readonly dim: "int" }> =
  collective(
    "reduce_scatter",
    { kind: reductions, dim: "int" },
    (x, { kind, dim }, group) => {
      checkDim("reduce_scatter", dim, x.shape.length);
      checkReduced("reduce_scatter", x, kind);
      return { dtype: x.dtype, shape: scaled(x.shape, dim, divided("reduce_scatter", x, dim, group)) };
    },
    {
      part: within,
      vjp: ({ grad, attrs: { kind, ...attrs } }) => {
        requireSum("reduce_scatter", kind);
        return [ops.all_gather([grad], attrs)];
      },
    },
  );

/** Each member's x is split along `split_dim`; member i gets part i of everyone, one after the other along `concat_dim`. */
export const all_to_all: Collective<{ readonly split_dim: "int"; readonly concat_dim: "int" }> = collective(
  "all_to_all",
  { split_dim: "int", concat_dim: "int" },
  (x, { split_dim, concat_dim }, group) => {
    checkDim("all_to_all", split_dim, x.shape.length);
    checkDim("all_to_all", concat_dim, x.shape.length);
    const part = scaled(x.shape, split_dim, divided("all_to_all", x, split_dim, group));
    return { dtype: x.dtype, shape: scaled(part, concat_dim, part[concat_dim] * group) };
  },
  {
    part: within,
    vjp: ({ grad, attrs }) => [
      ops.all_to_all([grad], { ...attrs, split_dim: attrs.concat_dim, concat_dim: attrs.split_dim }),
    ],
  },
);

/**
 * x of another member of the group: `pairs` lists source, target, source, target ... by number in the group; no member is
 * a target twice. A member that is no target gets zeros.
 */
export const collective_permute: Collective<{ readonly pairs: "ints" }> = collective(
  "collective_permute",
  { pairs: "ints" },
  (x, { pairs }, group) => {
    const list = pairs as unknown as readonly number[];
    if (
      list.length % 2 !== 0 ||
      list.some((member) => !Number.isInteger(member) || member < 0 || member >= group)
    )
      throw new ValueError("collective_permute", `pairs [${list}] are not pairs of members 0..${group - 1}`);
    const targets = list.filter((_, i) => i % 2 === 1);
    if (new Set(targets).size !== targets.length)
      throw new ValueError("collective_permute", `pairs [${list}] name a target twice`);
    return x.type;
  },
  {
    part: within,
    vjp: ({ grad, attrs }) => {
      const pairs = attrs.pairs.map((_, i) => attrs.pairs[i ^ 1]);
      return [ops.collective_permute([grad], { ...attrs, pairs })];
    },
  },
);

/** This device's part of x, which every member has whole: from index * size on, `size` long along `dim`, zeros past its end. */
export const shard_slice: Collective<{ readonly dim: "int"; readonly size: "int" }> = collective(
  "shard_slice",
  { dim: "int", size: "int" },
  (x, { dim, size }) => {
    checkDim("shard_slice", dim, x.shape.length);
    return { dtype: x.dtype, shape: scaled(x.shape, dim, size) };
  },
  {
    part: within,
    // Of x that every member has: its cotangent is theirs put together.
    vjp: ({ inputs: [x], grad, attrs: { size, ...attrs } }) => {
      if (sharedAxes(x, attrs).length < attrs.axes.length || size * groupSize(attrs) !== x.shape[attrs.dim])
        throw new GradError("shard_slice", "has a gradient for even parts of a value that all devices share");
      return [ops.all_gather([grad], attrs)];
    },
  },
);

/** This device's number in its group, int32. */
export const axis_index = defineOp({
  name: "axis_index",
  attrs: meshAttrs,
  arity: 0,
  lower: "kernel",
  type: (_, attrs) => {
    checkGroup("axis_index", attrs);
    return { dtype: "int32", shape: [] };
  },
  part: (_, attrs) => within({ mesh: attrs.mesh, varying: [] }, attrs),
});

/** Collectives that move data, and so can be started and waited for apart. */
const transfers: ReadonlySet<string> = new Set([
  "all_reduce",
  "all_gather",
  "reduce_scatter",
  "all_to_all",
  "collective_permute",
]);
export const isTransfer = ({ op }: Node): boolean => transfers.has(op.name);

/**
 * The value of a collective, `value`, once it is there: the collective is only started where it stands, and this waits for
 * it. Nothing else reads `value`, once or at all. `source` is what the collective reads, named so that its memory stays
 * until here. The result is `value` itself, not a copy. Collectives that are started one after the other and have one
 * `bucket` are moved together; -1: by itself. As XLA's all-gather-start and all-gather-done.
 */
export const collective_done = defineOp({
  name: "collective_done",
  attrs: { bucket: "int" },
  arity: 2,
  lower: "kernel",
  differentiable: false,
  unique: true,
  type: ([value, source]) => {
    if (!isTransfer(value))
      throw new ValueError("collective_done", `waits for ${value.op.name}, no collective`);
    if (value.inputs[0] !== source)
      throw new ValueError(
        "collective_done",
        `names ${source.op.name}, which ${value.op.name} does not read`,
      );
    return value.type;
  },
});

interface Laid {
  readonly mesh: readonly number[];
  readonly dims: readonly number[];
}

/** By dim of x its mesh axes, from their flat form: for each dim the number of its axes, then these. */
function readDims(op: string, x: Node, { mesh, dims }: Laid): number[][] {
  let at = 0;
  const lists = x.shape.map(() => {
    const start = at + 1;
    at = start + dims[at];
    return dims.slice(start, at);
  });
  if (at !== dims.length) throw new ShapeError(op, `dims [${dims}] do not describe rank ${x.shape.length}`);
  checkGroup(op, { mesh, axes: lists.flat() });
  return lists;
}

const directions = ["both", "forward", "regather", "backward"] as const;
const constraintAttrs = { mesh: "ints", dims: "ints", direction: directions } as const;

/**
 * x, to be laid out over the mesh as `dims` says: for each dim of x the number of its mesh axes, then these, the major
 * first. `direction` says what of: x and its cotangent (`both`), x alone (`forward`), the cotangent alone (`backward`), or
 * x alone and for what backward reads of it once more (`regather`), so that the first copy need not live until then. The
 * partitioner replaces it.
 */
export const sharding_constraint: Op<typeof constraintAttrs> = defineOp({
  name: "sharding_constraint",
  attrs: constraintAttrs,
  arity: 1,
  lower: "leaf",
  type: ([x], { mesh, dims }) => {
    readDims("sharding_constraint", x, { mesh, dims });
    return x.types;
  },
  vjp: ({ grad, attrs }) => {
    if (attrs.direction === "both") return [ops.sharding_constraint([grad], attrs)];
    if (attrs.direction === "backward")
      return [ops.sharding_constraint([grad], { ...attrs, direction: "forward" })];
    return [grad];
  },
  sharding: elementwiseSharding,
});

const boundaryAttrs = { mesh: "ints", dims: "ints" } as const;

/**
 * From here on x is what one device has of it, laid out as `dims` says (as in sharding_constraint; every dim divides evenly):
 * ops run on these parts as they are, until shard_to_full. The partitioner replaces both. As XLA's SPMDFullToShardShape.
 */
export const full_to_shard: Op<typeof boundaryAttrs> = defineOp({
  name: "full_to_shard",
  attrs: boundaryAttrs,
  arity: 1,
  lower: "leaf",
  type: ([x], attrs) => {
    const dims = readDims("full_to_shard", x, attrs);
    const shape = x.shape.map((_, d) =>
      divided("full_to_shard", x, d, groupSize({ ...attrs, axes: dims[d] })),
    );
    return { dtype: x.dtype, shape };
  },
  vjp: ({ grad, attrs }) => [ops.shard_to_full([grad], attrs)],
  part: ([x], { mesh, dims }) => ({ mesh, varying: readDims("full_to_shard", x, { mesh, dims }).flat() }),
});

/** The whole value that the devices' parts make up, laid out as `dims` says. As XLA's SPMDShardToFullShape. */
export const shard_to_full: Op<typeof boundaryAttrs> = defineOp({
  name: "shard_to_full",
  attrs: boundaryAttrs,
  arity: 1,
  lower: "leaf",
  type: ([x], attrs) => {
    const dims = readDims("shard_to_full", x, attrs);
    return {
      dtype: x.dtype,
      shape: x.shape.map((size, d) => size * groupSize({ ...attrs, axes: dims[d] })),
    };
  },
  vjp: ({ inputs: [x], grad, attrs }) => {
    const laid = ops.sharding_constraint([grad], { ...attrs, direction: "forward" });
    const part = ops.full_to_shard([laid], attrs);
    // What the devices along an axis share, and each puts in a place of its own.
    const shared = sharedAxes(x, { ...attrs, axes: part.part?.varying ?? [] });
    return [
      shared.length === 0 ? part : ops.all_reduce([part], { mesh: attrs.mesh, axes: shared, kind: "sum" }),
    ];
  },
  part: () => null,
});

export const collectiveNames = [
  "all_reduce",
  "all_gather",
  "reduce_scatter",
  "all_to_all",
  "collective_permute",
  "shard_slice",
  "axis_index",
  "sharding_constraint",
  "collective_done",
  "full_to_shard",
  "shard_to_full",
] as const;
export type CollectiveName = (typeof collectiveNames)[number];
