import {
  add,
  cast,
  castUp,
  div,
  eq,
  exp,
  log,
  lt,
  maximum,
  mul,
  type Node,
  type OpDef,
  ops,
  resultsOf,
  scalar,
  sub,
  unsqueeze,
  where,
} from "@lazuli/fx-trace";
import { chooseAssignment } from "./choose.js";
import type { Mesh } from "./mesh.js";
import type { Local, Resharder } from "./reshard.js";
import { type Assignment, type Factors, factorsOf, fits, joinAxes, WHOLE } from "./rule.js";
import { type Dims, isUneven } from "./spec.js";
import type { ContextParallel } from "./types.js";

/*
 * Attention over a sequence that is divided. Ulysses (Jacobs et al. 2023) gives the axes to the heads and the sequence
 * back whole: one exchange before and one after. The ring (Liu et al. 2023) leaves the queries where they are and passes
 * blocks of keys and values from device to device: what a device holds grows with its part of the sequence alone. What
 * the blocks give is put together by their log-sum-exps, as the blocks inside of FlashAttention are (Dao et al. 2022).
 *
 * Letters as in fx-trace's ops/attention.ts; T is the length of a device's part here.
 */

/** How one attention is divided: its factors are assigned mesh axes, and those of `t` are the ring's. */
export interface ContextPlan {
  readonly factors: Factors;
  readonly assigned: Assignment;
  /** The ring's axes, the major first; none where the heads took them all. */
  readonly axes: readonly number[];
}

const SEQUENCE = "t";

/**
 * Factors of an attention of which queries and keys are one sequence, `t`, that may be divided; null for another op, for
 * lengths that differ, and for an attention that is a step of a ring already.
 */
export function sequenceFactors(node: Node): Factors | null {
  const { name } = node.op;
  if (name !== "attention" && name !== "attention_grad") return null;
  const [q, k] = node.inputs;
  if (q.shape[2] !== k.shape[2] || q.shape[2] === 0) return null;
  if (node.inputs[node.inputs.length - 1].dtype === "int32") return null;
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
    if (fits(factors, head, more, mesh)) return { factors, assigned: more, axes: rest };
  }
  return { factors, assigned, axes };
}

/** The results of an attention as its plan has it. `operand` gives a value's part in a layout. */
export function runContext(
  node: Node,
  { factors: f, assigned, axes }: ContextPlan,
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
  const results = node.op.name === "attention" ? forward(ring, inputs) : backward(ring, inputs);
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

/**
 * n devices in a ring. At step r device i has the keys of device (i - r) mod n: at first its own, then what its left
 * neighbour had a step before.
 */
class Ring {
  readonly size: number;
  private readonly group: { readonly mesh: readonly number[]; readonly axes: readonly number[] };
  private readonly pairs: readonly number[];
  private readonly index: Node | null;

  /** `length` is T. */
  constructor(
    private readonly node: Node,
    move: Resharder,
    axes: readonly number[],
    private readonly length: number,
  ) {
    this.size = move.mesh.sizeOf(axes);
    this.group = { mesh: move.mesh.sizes, axes };
    this.pairs = Array.from({ length: this.size }, (_, i) => [i, (i + 1) % this.size]).flat();
    this.index = node.attrs.causal && this.size > 1 ? move.index(axes) : null;
  }

  /** What the left neighbour has of each. */
  passed(values: readonly Node[]): Node[] {
    return values.map((x) => ops.collective_permute([x], { ...this.group, pairs: this.pairs }));
  }

  /** The op itself on the keys of one step: its results. */
  compute(inputs: readonly Node[], step: number): Node[] {
    const { op, attrs } = this.node;
    const call = op as OpDef & ((inputs: readonly Node[], attrs: Node["attrs"]) => Node);
    const shift = this.shift(step);
    return resultsOf(call(shift ? [...inputs, shift] : inputs, attrs));
  }

  /** How much later in the sequence the queries start than the keys of one step: r or r - n parts. Null where they do not. */
  private shift(step: number): Node | null {
    if (!this.index || step === 0) return null;
    const before = scalar((step - this.size) * this.length, "int32");
    return where(lt(this.index, step), before, step * this.length);
  }
}

/** Attention over some of the keys. */
interface Attended {
  /** [B, H, T, Kv], in the dtype that is computed in. */
  readonly out: Node;
  /** [B, H, T] */
  readonly lse: Node;
}

/** Attention over the keys of both, none of which both have. A row that sees nothing in either has lse -inf and out 0. */
function merged(a: Attended, b: Attended): Attended {
  const top = maximum(a.lse, b.lse);
  const base = where(eq(top, -Infinity), 0, top);
  const [ea, eb] = [exp(sub(a.lse, base)), exp(sub(b.lse, base))];
  const total = add(ea, eb);
  const divisor = where(eq(total, 0), 1, total);
  const weighed = (e: Node, { out }: Attended): Node =>
    mul(out, unsqueeze(cast(div(e, divisor), out.dtype), -1));
  return { out: add(weighed(ea, a), weighed(eb, b)), lse: add(base, log(total)) };
}

/** q, k, v → out, lse. */
function forward(ring: Ring, [q, k, v]: readonly Node[]): Node[] {
  if (ring.size === 1) return ring.compute([q, k, v], 0);
  let keys = [k, v];
  let sum: Attended | null = null;
  for (let step = 0; step < ring.size; step++) {
    // Sent before the step computes, which does not wait for it.
    const next = step + 1 < ring.size ? ring.passed(keys) : [];
    const [out, lse] = ring.compute([q, ...keys], step);
    const part = { out: castUp(out), lse };
    sum = sum ? merged(sum, part) : part;
    keys = next;
  }
  const { out, lse } = sum as Attended;
  return [cast(out, q.dtype), lse];
}

/**
 * q, k, v, out, lse, dout, and dlse where there is one → dq, dk, dv. The weights of a step's keys follow from the lse over
 * all keys. dk and dv travel with their keys, one step behind, and after the last step come home.
 */
function backward(ring: Ring, [q, k, v, ...rows]: readonly Node[]): Node[] {
  if (ring.size === 1) return ring.compute([q, k, v, ...rows], 0);
  let keys = [k, v];
  let dq: Node | null = null;
  let dKeys: readonly Node[] = [];
  for (let step = 0; step < ring.size; step++) {
    const next = step + 1 < ring.size ? ring.passed(keys) : [];
    const sums = ring.passed(dKeys);
    const [own, ...ownKeys] = ring.compute([q, ...keys, ...rows], step).map(castUp);
    dq = dq ? add(dq, own) : own;
    dKeys = ownKeys.map((part, i) => (sums[i] ? add(sums[i], part) : part));
    keys = next;
  }
  return [dq as Node, ...ring.passed(dKeys)].map((sum) => cast(sum, q.dtype));
}
