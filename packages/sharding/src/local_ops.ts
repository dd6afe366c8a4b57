import {
  add,
  apply,
  cast,
  eq,
  full,
  ge,
  logicalAnd,
  lt,
  mul,
  type Node,
  ops,
  reshape,
  sub,
  where,
} from "@lazuli/fx-trace";
import { bytesOf } from "./choose.js";
import type { Plan } from "./plan.js";
import type { Local, Partial, Resharder } from "./reshard.js";
import { type Dims, localShape, localSize, replicated } from "./spec.js";

/** What a handler may use. */
export interface LocalContext {
  readonly plan: Plan;
  readonly move: Resharder;
  /** The local node of a value, laid out as asked. */
  readonly operand: (value: Node, dims: Dims) => Node;
}

/** An op that needs more on a mesh than to be run on its parts; null where it does not in this layout. */
export type Handler = (node: Node, context: LocalContext) => Local | null;

const constant: Handler = (node) => ({
  node: apply(node.op, [], node.attrs),
  shape: node.shape,
  dims: replicated(node.shape.length),
  partial: null,
});

/** Random numbers follow the global index: a part needs its first element's. */
const drawn: Handler = (node, { plan, move, operand }) => {
  const dims = plan.of(node);
  const whole = node.attrs.whole as readonly number[];
  const [key, ...rest] = node.inputs.map((x) => operand(x, replicated(x.shape.length)));
  let first: Node | undefined = rest[0];
  let stride = 1;
  for (let dim = whole.length - 1; dim >= 0; stride *= whole[dim--]) {
    const { start } = move.range(node.shape[dim], dims[dim]);
    if (!start) continue;
    const skip = mul(cast(start, "int64"), stride);
    first = first ? add(first, skip) : skip;
  }
  const shape = localShape(plan.mesh, node.shape, dims);
  return {
    node: apply(node.op, first ? [key, first] : [key], { ...node.attrs, shape }),
    shape: node.shape,
    dims,
    partial: null,
  };
};

const indices: Handler = (node, { plan, move }) => {
  const dims = plan.of(node);
  const dim = node.attrs.dim as number;
  const shape = localShape(plan.mesh, node.shape, dims);
  const { start } = move.range(node.shape[dim], dims[dim]);
  // Counted exactly and rounded once, as on one device.
  const own = ops.iota([], { dim, shape, dtype: start ? "int64" : node.dtype });
  return {
    node: start ? cast(add(own, cast(start, "int64")), node.dtype) : own,
    shape: node.shape,
    dims,
    partial: null,
  };
};

const filled: Handler = (node, { plan }) => {
  const dims = plan.of(node);
  const shape = localShape(plan.mesh, node.shape, dims);
  return {
    node: full(node.attrs.value as number, shape, node.dtype),
    shape: node.shape,
    dims,
    partial: null,
  };
};

/** The index within this device's rows, and where it is one of them. */
function ownRows(
  index: Node,
  size: number,
  axes: readonly number[],
  { move, plan }: LocalContext,
): { own: Node; isOwn: Node } {
  const { start, count } = move.range(size, axes);
  const shifted = sub(index, cast(start as Node, index.dtype));
  // Padding is nobody's: where a part is short, the rows past its end are the next device's.
  const end = count ? cast(count, index.dtype) : localSize(plan.mesh, size, axes);
  const isOwn = logicalAnd(ge(shifted, 0), lt(shifted, end));
  return { own: where(isOwn, shifted, 0), isOwn };
}

/** A mask over the places, to stand where the rows of `table` looked up at them stand. */
const inPlaceOf = (mask: Node, table: Node, dim: number): Node => {
  const ones = (count: number): number[] => new Array<number>(count).fill(1);
  return reshape(mask, [...ones(dim), ...mask.shape, ...ones(table.shape.length - dim - 1)]);
};

/** Of values that one device has and the others hold zeros for; the sum of bools is their or. */
const onlyOne = (axes: readonly number[], { dtype }: Node): Partial => ({
  axes,
  kind: dtype === "bool" ? "max" : "sum",
});

/** Rows divided over devices (a vocabulary-parallel embedding): each looks up its own, the rest adds zero. Megatron-LM. */
const lookUp: Handler = (node, context) => {
  const { plan, operand } = context;
  const [table, index] = node.inputs;
  const dim = node.attrs.dim as number;
  const tableDims = plan.of(table);
  const axes = tableDims[dim];
  if (axes.length === 0) return null;
  // Where the places are divided over the same axes, either those are gathered or the table is: the smaller.
  const overlaps = plan.of(index).some((list) => list.some((axis) => axes.includes(axis)));
  const onDevice = (value: Node): number => bytesOf(value.type) / plan.mesh.sizeOf(plan.of(value).flat());
  if (overlaps && onDevice(table) < onDevice(node)) return null;
  const indexDims = plan.of(index).map((list) => {
    const shared = list.findIndex((axis) => axes.includes(axis));
    return shared < 0 ? list : list.slice(0, shared);
  });
  // Columns keep their axes too, save those that the index uses.
  const used = new Set(indexDims.flat());
  const columns = tableDims.map((list, d) =>
    d === dim ? axes : list.some((axis) => used.has(axis)) ? [] : list,
  );
  const { own, isOwn } = ownRows(operand(index, indexDims), table.shape[dim], axes, context);
  const rows = ops.index_select([operand(table, columns), own], { dim });
  const dims = [...columns.slice(0, dim), ...indexDims, ...columns.slice(dim + 1)];
  return {
    node: where(inPlaceOf(isOwn, table, dim), rows, 0),
    shape: node.shape,
    dims,
    partial: onlyOne(axes, node),
  };
};

/**
 * Rows added to a table: over divided rows each device adds to its own; over divided places each adds its part, and the
 * tables are summed, the base counting once.
 */
const addRows: Handler = (node, context) => {
  const { plan, move, operand } = context;
  const [base, index, updates] = node.inputs;
  const dim = node.attrs.dim as number;
  const rank = index.shape.length;
  const updateDims = plan.of(updates);
  const places = updateDims.slice(dim, dim + rank);
  const placeAxes = places.flat();
  const target = plan.of(node);
  const shared = target[dim].findIndex((axis) => placeAxes.includes(axis));
  const rows = shared < 0 ? target[dim] : target[dim].slice(0, shared);
  if (rows.length === 0 && placeAxes.length === 0) return null;
  const used = new Set([...placeAxes, ...rows]);
  const columns = target.map((list, d) =>
    d === dim ? rows : list.some((axis) => used.has(axis)) ? [] : list,
  );
  let own = operand(index, places);
  let rowsToAdd = operand(updates, [...columns.slice(0, dim), ...places, ...columns.slice(dim + 1)]);
  // Padding of the places must add nothing.
  places.forEach((axes, i) => {
    rowsToAdd = move.masked(rowsToAdd, dim + i, index.shape[i], axes, 0);
    own = move.masked(own, i, index.shape[i], axes, 0);
  });
  if (rows.length > 0) {
    const found = ownRows(own, base.shape[dim], rows, context);
    rowsToAdd = where(inPlaceOf(found.isOwn, base, dim), rowsToAdd, 0);
    own = found.own;
  }
  let start = operand(base, columns);
  const isZero = base.op.name === "full" && base.attrs.value === 0;
  if (placeAxes.length > 0 && !isZero) start = where(eq(move.index(placeAxes), 0), start, 0);
  return {
    node: ops.index_add([start, own, rowsToAdd], { dim }),
    shape: node.shape,
    dims: columns,
    partial: placeAxes.length > 0 ? { axes: placeAxes, kind: "sum" } : null,
  };
};

/** Elements looked up along a divided dim: each device gives those it has. */
const pick: Handler = (node, context) => {
  const { plan, operand } = context;
  const [x, index] = node.inputs;
  const dim = node.attrs.dim as number;
  const axes = plan.of(x)[dim];
  if (axes.length === 0) return null;
  const f = plan.factorsOf(node);
  // Only where every other dim is shared between x, the index and the result.
  if (f.operands[0].some((factors, d) => d !== dim && factors[0] !== f.operands[1][d][0])) return null;
  const dims = plan.of(x).map((list, d) => (d === dim ? [] : list));
  const { own, isOwn } = ownRows(operand(index, dims), x.shape[dim], axes, context);
  const found = ops.gather([operand(x, plan.of(x)), own], { dim });
  return { node: where(isOwn, found, 0), shape: node.shape, dims, partial: onlyOne(axes, node) };
};

export const handlers: Readonly<Record<string, Handler>> = {
  constant,
  random_uniform: drawn,
  random_normal: drawn,
  iota: indices,
  full: filled,
  index_select: lookUp,
  index_add: addRows,
  gather: pick,
};

/** Attributes that hold a shape, made local: `shape` is that of the local result. */
export function localAttrs(node: Node, inputs: readonly Node[], shape: readonly number[]): Node["attrs"] {
  switch (node.op.name) {
    case "reshape":
    case "broadcast_to":
      return { ...node.attrs, shape };
    case "slice": {
      // A dim that is divided is kept whole by its rule: its limit is the local length.
      const limits = (node.attrs.limits as readonly number[]).map((limit, d) =>
        inputs[0].shape[d] === node.inputs[0].shape[d] ? limit : inputs[0].shape[d],
      );
      return { ...node.attrs, limits };
    }
    default:
      return node.attrs;
  }
}
