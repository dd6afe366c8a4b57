import { bytesOf, groupSize, type Node } from "@lazuli/fx-trace";

/*
 * What communication takes beside computation (fx-trace's cost.ts), to tell which of them is the longer: how they are ordered
 * depends on it, results never. The rates are those of memory shared by processes (docs/performance.md); only their ratio
 * counts, and only roughly.
 */
const LINK_BYTES = 3e9; // a second, sent by one device
const MEETING = 3e-5; // seconds until the members of a collective have found each other

/** Bytes that one of `n` devices sends, by the bytes of its operand (Thakur et al. 2005; as NCCL's ring algorithms). */
const sent: Readonly<Record<string, (bytes: number, n: number, node: Node) => number>> = {
  all_reduce: (bytes, n) => (2 * (n - 1) * bytes) / n,
  all_gather: (bytes, n) => (n - 1) * bytes,
  reduce_scatter: (bytes, n) => ((n - 1) * bytes) / n,
  all_to_all: (bytes, n) => ((n - 1) * bytes) / n,
  collective_permute: (bytes, _, { attrs }) => {
    const pairs = attrs.pairs as readonly number[];
    return pairs.some((member, i) => i % 2 === 1 && member !== pairs[i - 1]) ? bytes : 0;
  },
};

/** Bytes that one device sends in a collective; 0 where the op sends nothing. */
export function sentBytes(node: Node): number {
  const formula = sent[node.op.name];
  return formula ? formula(bytesOf(node.inputs[0].type), groupSize(node.attrs as never), node) : 0;
}

/** Seconds that a collective takes by itself. */
export const transferSeconds = (node: Node): number => MEETING + sentBytes(node) / LINK_BYTES;
