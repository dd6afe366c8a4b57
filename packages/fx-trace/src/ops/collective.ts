import { ShapeError, ValueError } from "../errors.js";
import type { Node } from "../node.js";
import { type AttrSchema, defineOp, type Op } from "../opdef.js";
import type { Shape, TensorType } from "../shape.js";
import { ops } from "./bound.js";
import { elementwiseSharding } from "./factors.js";
import { checkDim, checkDType } from "./rules.js";

/*
 * One program is run by every device of a mesh; these ops are where devices differ or meet. `mesh` holds the sizes of the
 * mesh's axes, device d being at the row-major coordinates of d. A group is the devices that differ only in the
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

function checkGroup(op: string, { mesh, axes }: Group): void {
  if (mesh.some((size) => !Number.isInteger(size) || size < 1))
    throw new ValueError(op, `mesh [${mesh}] has an axis of size below 1`);
  if (axes.some((axis, i) => !(axis in mesh) || axes.indexOf(axis) !== i))
    throw new ValueError(op, `axes [${axes}] are not different axes of a mesh of ${mesh.length}`);
}

const scaled = (shape: Shape, dim: number, size: number): number[] =>
  shape.map((old, i) => (i === dim ? size : old));

function divided(op: string, x: Node, dim: number, parts: number): number {
  const size = x.shape[dim];
  if (size % parts !== 0)
    throw new ShapeError(op, `dim ${dim} of size ${size} is not divided by the group's ${parts} devices`);
  return size / parts;
}

function collective<const S extends AttrSchema>(
  name: string,
  attrs: S,
  type: (x: Node, attrs: Record<string, never>, group: number) => TensorType,
): Op<typeof meshAttrs & S> {
  return defineOp({
    name,
    attrs: { ...meshAttrs, ...attrs },
    arity: 1,
    lower: "kernel",
    differentiable: false,
    unique: true,
    type: ([x], given) => {
      const values = given as unknown as Group & Record<string, never>;
      checkGroup(name, values);
      return type(x, values, groupSize(values));
    },
  }) as unknown as Op<typeof meshAttrs & S>;
}

/** The devices' kernels have no sum of bools: their `max` is the or, their `min` the and. */
function checkReduced(op: string, x: Node, kind: ReductionKind): void {
  if (kind === "sum" || kind === "prod") checkDType(op, "numeric", x.dtype);
}

/** The elementwise sum (product, ...) of the group's x, in every member; added in the order of the members. */
export const all_reduce = collective("all_reduce", { kind: reductions }, (x, { kind }) => {
  checkReduced("all_reduce", x, kind);
  return x.type;
});

/** The group's x one after the other along `dim`, in every member. */
export const all_gather = collective("all_gather", { dim: "int" }, (x, { dim }, group) => {
  checkDim("all_gather", dim, x.shape.length);
  return { dtype: x.dtype, shape: scaled(x.shape, dim, x.shape[dim] * group) };
});

/** Member i gets part i, along `dim`, of the sum (...) of the group's x; `dim` must divide by the group. */
export const reduce_scatter = collective(
  "reduce_scatter",
  { kind: reductions, dim: "int" },
  (x, { kind, dim }, group) => {
    checkDim("reduce_scatter", dim, x.shape.length);
    checkReduced("reduce_scatter", x, kind);
    return { dtype: x.dtype, shape: scaled(x.shape, dim, divided("reduce_scatter", x, dim, group)) };
  },
);

/** Each member's x is split along `split_dim`; member i gets part i of everyone, one after the other along `concat_dim`. */
export const all_to_all = collective(
  "all_to_all",
  { split_dim: "int", concat_dim: "int" },
  (x, { split_dim, concat_dim }, group) => {
    checkDim("all_to_all", split_dim, x.shape.length);
    checkDim("all_to_all", concat_dim, x.shape.length);
    const part = scaled(x.shape, split_dim, divided("all_to_all", x, split_dim, group));
    return { dtype: x.dtype, shape: scaled(part, concat_dim, part[concat_dim] * group) };
  },
);

/**
 * x of another member of the group: `pairs` lists source, target, source, target ... by number in the group; no member is
 * a target twice. A member that is no target gets zeros.
 */
export const collective_permute = collective(
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
);

/** This device's part of x, which every member has whole: from index * size on, `size` long along `dim`, zeros past its end. */
export const shard_slice = collective("shard_slice", { dim: "int", size: "int" }, (x, { dim, size }) => {
  checkDim("shard_slice", dim, x.shape.length);
  return { dtype: x.dtype, shape: scaled(x.shape, dim, size) };
});

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
    const listed: number[] = [];
    let at = 0;
    for (let d = 0; d < x.shape.length; d++) {
      const count = dims[at++];
      for (let i = 0; i < count; i++) listed.push(dims[at++]);
    }
    if (at !== dims.length)
      throw new ShapeError("sharding_constraint", `dims [${dims}] do not describe rank ${x.shape.length}`);
    checkGroup("sharding_constraint", { mesh, axes: listed });
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
] as const;
export type CollectiveName = (typeof collectiveNames)[number];
