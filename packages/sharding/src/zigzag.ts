import { add, cast, castUp, concat, eq, type Node, neg, remainder, sliceDim, where } from "@lazuli/fx-trace";
import { type Attended, merged, type Ring } from "./ring.js";

/*
 * In a ring under a causal mask the first device's queries see its own keys alone, the last one's all, and who is last is
 * waited for in every step. So the sequence is cut into 2 n chunks, and device i computes for chunks i and 2 n - 1 - i,
 * which together see as many keys on every device (zig-zag; the chunks of Grattafiori et al., "The Llama 3 Herd of
 * Models", 2024). Chunks are exchanged before and after: layouts outside know nothing of it.
 *
 * Of the queries of chunks i and 2 n - 1 - i against keys of chunks j and 2 n - 1 - j: low sees low by i - j chunks, high
 * sees high by j - i, high sees all of low, and low sees nothing of high.
 */

/** Whether a ring's parts have two chunks, and a mask whose every query sees itself and what is before. */
export const isZigzag = ({ node, size, length }: Ring): boolean =>
  size > 1 && length % 2 === 0 && node.attrs.causal === true && node.attrs.offset === 0;

/** Chunks of the sequence, dim 2, that a device computes for. */
interface Halves {
  readonly low: Node;
  readonly high: Node;
}

const half = (x: Node, which: 0 | 1): Node => {
  const size = x.shape[2] / 2;
  return sliceDim(x, 2, which * size, (which + 1) * size);
};

/** The device that computes for chunk c. */
const owner = (chunk: number, n: number): number => (chunk < n ? chunk : 2 * n - 1 - chunk);

/** From each device to the one that computes for its first (0) or second (1) chunk: every device gets one of each. */
const pairsOf = ({ size }: Ring, which: 0 | 1): number[] =>
  Array.from({ length: size }, (_, i) => [i, owner(2 * i + which, size)]).flat();
const reversed = (pairs: readonly number[]): number[] => pairs.map((_, i) => pairs[i ^ 1]);

/** Whether this device's low chunk is the first of the one it comes from: chunk i is first in its part where i is even. */
const isFirstLow = (ring: Ring): Node => eq(remainder(ring.index, 2), 0);

/** A device's part of the sequence → its chunks. */
function spread(ring: Ring, x: Node): Halves {
  const first = ring.sent(half(x, 0), pairsOf(ring, 0));
  const second = ring.sent(half(x, 1), pairsOf(ring, 1));
  const isFirst = isFirstLow(ring);
  return { low: where(isFirst, first, second), high: where(isFirst, second, first) };
}

/** A device's chunks → its part of the sequence. */
function gathered(ring: Ring, { low, high }: Halves): Node {
  const isFirst = isFirstLow(ring);
  const first = ring.sent(where(isFirst, low, high), reversed(pairsOf(ring, 0)));
  const second = ring.sent(where(isFirst, high, low), reversed(pairsOf(ring, 1)));
  return concat([first, second], 2);
}

/** Chunks of queries against chunks of keys, in one step of the ring. */
interface Block {
  readonly queries: keyof Halves;
  readonly keys: keyof Halves;
  readonly shift: Node | null;
  readonly attrs: Node["attrs"];
}

function blocksOf(ring: Ring, step: number): Block[] {
  const { attrs } = ring.node;
  const shift = ring.shift(step, ring.length / 2);
  return [
    { queries: "low", keys: "low", shift, attrs },
    { queries: "high", keys: "high", shift: shift && neg(shift), attrs },
    { queries: "high", keys: "low", shift: null, attrs: { ...attrs, causal: false } },
  ];
}

const passed = (ring: Ring, values: readonly Halves[]): Halves[] =>
  values.map(({ low, high }) => {
    const [a, b] = ring.passed([low, high]);
    return { low: a, high: b };
  });

/** q, k, v → out, lse. */
export function forwardZigzag(ring: Ring, inputs: readonly Node[]): Node[] {
  const [q, ...own] = inputs.map((x) => spread(ring, x));
  let keys = own;
  const sums: { low: Attended | null; high: Attended | null } = { low: null, high: null };
  for (let step = 0; step < ring.size; step++) {
    const next = step + 1 < ring.size ? passed(ring, keys) : [];
    for (const { queries, keys: which, shift, attrs } of blocksOf(ring, step)) {
      const [out, lse] = ring.compute([q[queries], ...keys.map((x) => x[which])], shift, attrs);
      const part = { out: castUp(out), lse };
      const sum = sums[queries];
      sums[queries] = sum ? merged(sum, part) : part;
    }
    keys = next;
  }
  const { low, high } = sums as { low: Attended; high: Attended };
  const { dtype } = inputs[0];
  return [
    gathered(ring, { low: cast(low.out, dtype), high: cast(high.out, dtype) }),
    gathered(ring, { low: low.lse, high: high.lse }),
  ];
}

/** q, k, v, out, lse, dout, and dlse where there is one → dq, dk, dv; as the ring's backward. */
export function backwardZigzag(ring: Ring, inputs: readonly Node[]): Node[] {
  const [q, k, v, ...rows] = inputs.map((x) => spread(ring, x));
  let keys = [k, v];
  const dq: Partial<Record<keyof Halves, Node>> = {};
  let dKeys: Halves[] = [];
  for (let step = 0; step < ring.size; step++) {
    const next = step + 1 < ring.size ? passed(ring, keys) : [];
    const sums: Partial<Record<keyof Halves, Node>>[] = dKeys.length > 0 ? passed(ring, dKeys) : [{}, {}];
    for (const { queries, keys: which, shift, attrs } of blocksOf(ring, step)) {
      const operands = [q[queries], ...keys.map((x) => x[which]), ...rows.map((x) => x[queries])];
      const [own, ...ownKeys] = ring.compute(operands, shift, attrs).map(castUp);
      const before = dq[queries];
      dq[queries] = before ? add(before, own) : own;
      ownKeys.forEach((part, i) => {
        const sum = sums[i][which];
        sums[i] = { ...sums[i], [which]: sum ? add(sum, part) : part };
      });
    }
    dKeys = sums as Halves[];
    keys = next;
  }
  const { dtype } = inputs[0];
  return [dq as Halves, ...passed(ring, dKeys)].map(({ low, high }) =>
    gathered(ring, { low: cast(low, dtype), high: cast(high, dtype) }),
  );
}
