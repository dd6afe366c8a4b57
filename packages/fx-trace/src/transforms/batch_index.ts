import { apply, type Node } from "../node.js";
import * as f from "../ops/build.js";
import { type BatchRule, leading, moveDim, resultsOf, spread } from "./batch.js";

/*
 * Ops that read rows by an index. Where the index differs from example to example, all examples' rows are one table:
 * row i of example b is row b n + i. An index out of range stays one, so that the run fails as it would unbatched.
 */

/** index [B, ...] of tables of n rows → index into the B n rows of all; -1 for one out of range. */
function tableIndex(index: Node, rows: number): Node {
  const example = f.mul(f.iota(0, index.shape, index.dtype), rows);
  const known = f.logicalAnd(f.ge(index, 0), f.lt(index, rows));
  return f.where(known, f.add(index, example), -1);
}

/** x [B, ..., n at dim + 1, ...] → [B n, ...]: the rows of all examples. */
function tableOf(x: Node, dim: number): Node {
  const rows = moveDim(x, dim + 1, 1);
  const [size, count, ...rest] = rows.shape;
  return f.reshape(rows, [size * count, ...rest]);
}

/** The inverse of `tableOf`. */
function fromTable(table: Node, size: number, dim: number): Node {
  const [count, ...rest] = table.shape;
  return moveDim(f.reshape(table, [size, size === 0 ? 0 : count / size, ...rest]), 1, dim + 1);
}

/** Moves `count` dims from `from` on to `to`. */
function moveDims(x: Node, from: number, count: number, to: number): Node {
  const dims = x.shape.map((_, dim) => dim);
  const moved = dims.splice(from, count);
  dims.splice(to, 0, ...moved);
  return f.transpose(x, dims);
}

/** x [..., n at dim, ...] with the rows that index names in place of dim. */
export const indexSelect: BatchRule = (node, [x, index]) => {
  const dim = node.attrs.dim as number;
  const [own, named] = node.inputs;
  if (!index.batched) {
    return resultsOf(apply(node.op, [x.node, index.node], { dim: dim + 1 }), true);
  }
  if (!x.batched) {
    const picked = apply(node.op, [x.node, index.node], node.attrs);
    return [{ node: moveDim(picked, dim, 0), batched: true }];
  }
  const picked = f.indexSelect(tableOf(x.node, dim), tableIndex(index.node, own.shape[dim]), 0);
  // [B, index..., rest...] → [B, rest before dim..., index..., rest after...]
  return [{ node: moveDims(picked, 1, named.shape.length, dim + 1), batched: true }];
};

/** base with updates added to the rows that index names. */
export const indexAdd: BatchRule = (node, inputs, { size }) => {
  const dim = node.attrs.dim as number;
  const [own, named] = node.inputs;
  const [base, index, updates] = inputs;
  if (!index.batched) {
    const operands = [spread(base, size), index.node, spread(updates, size)];
    return resultsOf(apply(node.op, operands, { dim: dim + 1 }), true);
  }
  const table = tableOf(spread(base, size), dim);
  const rows = moveDims(spread(updates, size), dim + 1, named.shape.length, 1);
  const added = f.indexAdd(table, tableIndex(index.node, own.shape[dim]), rows, 0);
  return [{ node: fromTable(added, size, dim), batched: true }];
};

/** gather and scatter_add: an index of its own for every element, so the batch is one dim more. */
export const alongDim: BatchRule = leading(({ dim }) => ({ dim: (dim as number) + 1 }));
