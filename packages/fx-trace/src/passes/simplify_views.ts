import type { Node } from "../node.js";
import { dot_general } from "../ops/contraction.js";
import { broadcast_to, flip, reshape, slice, transpose } from "../ops/view.js";
import { sameShape } from "../shape.js";
import type { Rule, Rules } from "./rewrite.js";

const ints = (node: Node, name: string): readonly number[] => node.attrs[name] as readonly number[];
const reshaped = (x: Node, like: Node): Node =>
  sameShape(x.shape, like.shape) ? x : reshape([x], { shape: like.shape });

const simplifyReshape: Rule = (node, [x]) => {
  if (sameShape(x.shape, node.shape)) return x;
  return x.op.name === "reshape" ? reshaped(x.inputs[0], node) : null;
};

/** Whether `perm` leaves dims larger than 1 in their order: then it moves no data. */
function keepsOrder(perm: readonly number[], x: Node): boolean {
  const moved = perm.filter((dim) => x.shape[dim] !== 1);
  return moved.every((dim, i) => i === 0 || moved[i - 1] < dim);
}

const simplifyTranspose: Rule = (node, [x]) => {
  const perm = ints(node, "perm");
  if (keepsOrder(perm, x)) return reshaped(x, node);
  if (x.op.name !== "transpose") return null;
  const inner = ints(x, "perm");
  return transpose([x.inputs[0]], { perm: perm.map((dim) => inner[dim]) });
};

const simplifyBroadcast: Rule = (node, [x]) => {
  if (sameShape(x.shape, node.shape)) return x;
  if (x.op.name === "broadcast_to") return broadcast_to([x.inputs[0]], { shape: node.shape });
  const added = node.shape.length - x.shape.length;
  return node.shape.every((size, dim) => size === (dim < added ? 1 : x.shape[dim - added]))
    ? reshaped(x, node)
    : null;
};

const simplifySlice: Rule = (node, [x]) => {
  if (sameShape(x.shape, node.shape)) return x;
  if (x.op.name !== "slice") return null;
  const [starts, steps] = [ints(node, "starts"), ints(node, "steps")];
  const [innerStarts, innerSteps] = [ints(x, "starts"), ints(x, "steps")];
  const start = starts.map((at, dim) => innerStarts[dim] + at * innerSteps[dim]);
  const step = steps.map((by, dim) => by * innerSteps[dim]);
  // One past the last element read; an empty dim reads none.
  const limit = node.shape.map((size, dim) =>
    size === 0 ? start[dim] : start[dim] + (size - 1) * step[dim] + 1,
  );
  return slice([x.inputs[0]], { starts: start, limits: limit, steps: step });
};

const simplifyFlip: Rule = (node, [x]) => {
  const dims = ints(node, "dims").filter((dim) => x.shape[dim] !== 1);
  if (dims.length === 0) return x;
  if (x.op.name === "flip") {
    const inner = ints(x, "dims");
    const odd = [...dims, ...inner].filter((dim) => dims.includes(dim) !== inner.includes(dim));
    return flip([x.inputs[0]], { dims: odd.sort((a, b) => a - b) });
  }
  return dims.length < ints(node, "dims").length ? flip([x], { dims }) : null;
};

const simplifyPad: Rule = (node, [x]) => (sameShape(x.shape, node.shape) ? x : null);

const simplifyConcat: Rule = (node, inputs) => {
  const [only] = inputs;
  return inputs.length === 1 || sameShape(only.shape, node.shape) ? only : null;
};

/** Over dims of size 1 there is nothing to reduce. */
const simplifyReduction: Rule = (node, [x]) =>
  ints(node, "dims").every((dim) => x.shape[dim] === 1) ? reshaped(x, node) : null;

/** dot_general names its operands' dims, so a transposed operand is read in place, while its free dims keep their order. */
function untransposed(
  x: Node,
  contract: readonly number[],
  batch: readonly number[],
): readonly number[] | null {
  if (x.op.name !== "transpose") return null;
  const perm = ints(x, "perm");
  const free = perm.filter((_, dim) => !contract.includes(dim) && !batch.includes(dim));
  return free.every((dim, i) => i === 0 || free[i - 1] < dim) ? perm : null;
}

const simplifyDot: Rule = (node, [a, b]) => {
  const [lhs_contract, rhs_contract] = [ints(node, "lhs_contract"), ints(node, "rhs_contract")];
  const [lhs_batch, rhs_batch] = [ints(node, "lhs_batch"), ints(node, "rhs_batch")];
  const lhs = untransposed(a, lhs_contract, lhs_batch);
  const rhs = untransposed(b, rhs_contract, rhs_batch);
  if (!lhs && !rhs) return null;
  const through = (dims: readonly number[], perm: readonly number[] | null): readonly number[] =>
    perm ? dims.map((dim) => perm[dim]) : dims;
  return dot_general([lhs ? a.inputs[0] : a, rhs ? b.inputs[0] : b], {
    lhs_contract: through(lhs_contract, lhs),
    rhs_contract: through(rhs_contract, rhs),
    lhs_batch: through(lhs_batch, lhs),
    rhs_batch: through(rhs_batch, rhs),
  });
};

export const viewRules: Rules = {
  reshape: simplifyReshape,
  transpose: simplifyTranspose,
  broadcast_to: simplifyBroadcast,
  slice: simplifySlice,
  flip: simplifyFlip,
  pad: simplifyPad,
  concat: simplifyConcat,
  sum: simplifyReduction,
  prod: simplifyReduction,
  max: simplifyReduction,
  min: simplifyReduction,
  dot_general: simplifyDot,
};
