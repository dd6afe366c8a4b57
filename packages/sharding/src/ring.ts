import {
  add,
  apply,
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
  ops,
  resultsOf,
  scalar,
  sub,
  unsqueeze,
  where,
} from "@lazuli/fx-trace";
import type { Resharder } from "./reshard.js";

/*
 * Ring attention (Liu et al. 2023): blocks of keys and values go from device to device, and what they give a device's
 * queries is put together by log-sum-exps, as the blocks inside of FlashAttention are (Dao et al. 2022).
 *
 * Letters as in fx-trace's ops/attention.ts; T is the length of a device's part here.
 */

/**
 * n devices in a ring. At step r device i has the keys of device (i - r) mod n: at first its own, then what its left
 * neighbour had a step before.
 */
export class Ring {
  readonly size: number;
  private readonly group: { readonly mesh: readonly number[]; readonly axes: readonly number[] };
  private readonly pairs: readonly number[];
  private known: Node | null = null;

  /** `length` is T. */
  constructor(
    readonly node: Node,
    private readonly move: Resharder,
    axes: readonly number[],
    readonly length: number,
  ) {
    this.size = move.mesh.sizeOf(axes);
    this.group = { mesh: move.mesh.attr, axes };
    this.pairs = Array.from({ length: this.size }, (_, i) => [i, (i + 1) % this.size]).flat();
  }

  /** This device's number, int32. */
  get index(): Node {
    this.known ??= this.move.index(this.group.axes);
    return this.known;
  }

  /** x of other devices: `pairs` as in collective_permute. */
  sent(x: Node, pairs: readonly number[]): Node {
    return ops.collective_permute([x], { ...this.group, pairs });
  }

  /** What the left neighbour has of each. */
  passed(values: readonly Node[]): Node[] {
    return values.map((x) => this.sent(x, this.pairs));
  }

  /** The op itself on the keys of one step: its results. A shift of null is 0. */
  compute(inputs: readonly Node[], shift: Node | null, attrs = this.node.attrs): Node[] {
    return resultsOf(apply(this.node.op, shift ? [...inputs, shift] : inputs, attrs));
  }

  /** How many parts of `length` later in the sequence this device's is than that whose keys a step has: r or r - n. */
  shift(step: number, length = this.length): Node | null {
    if (!this.node.attrs.causal || step === 0) return null;
    const before = scalar((step - this.size) * length, "int32");
    return where(lt(this.index, step), before, step * length);
  }
}

/** Attention over some of the keys. */
export interface Attended {
  /** [B, H, T, Kv], in the dtype that is computed in. */
  readonly out: Node;
  /** [B, H, T] */
  readonly lse: Node;
}

/** Attention over the keys of both, none of which both have. A row that sees nothing in either has lse -inf and out 0. */
export function merged(a: Attended, b: Attended): Attended {
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
export function forward(ring: Ring, [q, k, v]: readonly Node[]): Node[] {
  if (ring.size === 1) return ring.compute([q, k, v], null);
  let keys = [k, v];
  let sum: Attended | null = null;
  for (let step = 0; step < ring.size; step++) {
    // Sent before the step computes, which does not wait for it.
    const next = step + 1 < ring.size ? ring.passed(keys) : [];
    const [out, lse] = ring.compute([q, ...keys], ring.shift(step));
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
export function backward(ring: Ring, [q, k, v, ...rows]: readonly Node[]): Node[] {
  if (ring.size === 1) return ring.compute([q, k, v, ...rows], null);
  let keys = [k, v];
  let dq: Node | null = null;
  let dKeys: readonly Node[] = [];
  for (let step = 0; step < ring.size; step++) {
    const next = step + 1 < ring.size ? ring.passed(keys) : [];
    const sums = ring.passed(dKeys);
    const [own, ...ownKeys] = ring.compute([q, ...keys, ...rows], ring.shift(step)).map(castUp);
    dq = dq ? add(dq, own) : own;
    dKeys = ownKeys.map((part, i) => (sums[i] ? add(sums[i], part) : part));
    keys = next;
  }
  return [dq as Node, ...ring.passed(dKeys)].map((sum) => cast(sum, q.dtype));
}
