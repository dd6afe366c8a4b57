import type { Node } from "@lazuli/fx-trace";
import { chooseAssignment } from "./choose.js";
import type { Mesh } from "./mesh.js";
import type { Local, Resharder } from "./reshard.js";
import { backward, forward, Ring } from "./ring.js";
import { type Assignment, type Factors, factorsOf, fits, joinAxes, WHOLE } from "./rule.js";
import { type Dims, isUneven } from "./spec.js";
import type { ContextParallel } from "./types.js";
import { backwardZigzag, forwardZigzag, isZigzag } from "./zigzag.js";

/*
 * Attention over a sequence that is divided. Ulysses (Jacobs et al. 2023) gives the axes to the heads and the sequence
 * back whole: one exchange before and one after. The ring (ring.ts) leaves the queries where they are and passes keys and
 * values on: what a device holds grows with its part of the sequence alone.
 */

/** How one attention is divided: its factors are assigned mesh axes, and those of `t` are the ring's. */
export interface ContextPlan {
  readonly mode: ContextParallel;
  readonly factors: Factors;
  readonly assigned: Assignment;
  /** The ring's axes, the major first; none where the heads took them all. */
  readonly axes: readonly number[];
}

const SEQUENCE = "t";

/**
 * Factors of an attention of which queries and keys are one sequence, `t`, that may be divided; null for another op, for
 * lengths that differ, for a window, a bias or segments, which a ring's steps do not follow, and for an attention that is a
 * step of a ring already.
 */
export function sequenceFactors(node: Node): Factors | null {
  const { name } = node.op;
  if (name !== "attention" && name !== "attention_grad") return null;
  const [q, k] = node.inputs;
  if (q.shape[2] !== k.shape[2] || q.shape[2] === 0) return null;
  const more = node.inputs.slice(name === "attention" ? 3 : 6);
  if (more.some(({ shape }) => shape.length !== q.shape.length - 1)) return null; // anything but dlse
  if ((node.attrs.window as number) > 0) return null;
  const f = factorsOf(node);
  const joined = (tensors: Factors["operands"]): Factors["operands"] =>
    tensors.map((dims) =>
      dims.map((factors) => factors.map((factor) => (factor === "s" ? SEQUENCE : factor))),
    );
  const others = (set: ReadonlySet<string>): Set<string> =>
    new Set([...set].filter((factor) => factor !== SEQUENCE && factor !== "s"));
  return {
    operands: joined(f.operands),
    results: joined(f.results),
    sizes: f.sizes,
    reduce: others(f.reduce),
    replicate: others(f.replicate),
  };
}

/** Of the axes that divide the sequence, how many at the end are for the heads. */
const axesForHeads: Readonly<Record<ContextParallel, (count: number) => number>> = {
  ring: () => 0,
  zigzag: () => 0,
  ulysses: (count) => count,
  "ulysses+ring": () => 1,
};

/**
 * How an attention over a divided sequence runs; null where it is none, parts are uneven, or queries alone are divided and
 * no mask counts them. Axes that do not divide the heads evenly are the ring's, whatever the mode.
 */
export function contextPlan(
  node: Node,
  mesh: Mesh,
  mode: ContextParallel,
  operands: readonly Dims[],
  wanted: readonly Dims[],
): ContextPlan | null {
  const factors = sequenceFactors(node);
  if (!factors) return null;
  const assigned = chooseAssignment(node, factors, mesh, operands, wanted);
  const axes = assigned.get(SEQUENCE) ?? [];
  const parts = mesh.sizeOf(axes);
  if (parts === 1 || node.inputs[0].shape[2] % parts !== 0) return null;
  const isKeyed = [1, 2].some((i) => operands[i][2].some((axis) => axes.includes(axis)));
  if (!node.attrs.causal && !isKeyed) return null;

  const head = factors.operands[0][1][0];
  const count = axesForHeads[mode](axes.length);
  const rest = axes.slice(0, axes.length - count);
  const heads = [...(assigned.get(head) ?? []), ...axes.slice(rest.length)];
  if (count > 0 && head !== WHOLE && (factors.sizes.get(head) ?? 1) % mesh.sizeOf(heads) === 0) {
    const more = new Map(assigned).set(head, heads).set(SEQUENCE, rest);
    if (fits(factors, head, more, mesh)) return { mode, factors, assigned: more, axes: rest };
  }
  return { mode, factors, assigned, axes };
}

/** The results of an attention as its plan has it. `operand` gives a value's part in a layout. */
export function runContext(
  node: Node,
  { mode, factors: f, assigned, axes }: ContextPlan,
  move: Resharder,
  operand: (value: Node, dims: Dims) => Node,
): Local[] {
  const { mesh } = move;
  const layout = (dims: readonly (readonly string[])[]): Dims =>
    dims.map((each) => joinAxes(each, assigned, f.sizes, mesh));
  const inputs = node.inputs.map((x, i) => {
    const dims = layout(f.operands[i]);
    let part = operand(x, dims);
    // Padding must not enter a sum over heads.
    f.operands[i].forEach((each, d) => {
      if (each.some((factor) => f.reduce.has(factor)) && isUneven(mesh, x.shape[d], dims[d]))
        part = move.masked(part, d, x.shape[d], dims[d], 0);
    });
    return part;
  });
  const ring = new Ring(node, move, axes, inputs[1].shape[2]);
  const [there, back] =
    mode === "zigzag" && isZigzag(ring) ? [forwardZigzag, backwardZigzag] : [forward, backward];
  const results = node.op.name === "attention" ? there(ring, inputs) : back(ring, inputs);
  return f.results.map((dims, i): Local => {
    const own = layout(dims);
    const open = [...f.reduce]
      .flatMap((factor) => assigned.get(factor) ?? [])
      .filter((axis) => !own.flat().includes(axis));
    return {
      node: results[i],
      shape: node.types[i].shape,
      dims: own,
      partial: open.length > 0 ? { axes: open, kind: "sum" } : null,
    };
  });
}
