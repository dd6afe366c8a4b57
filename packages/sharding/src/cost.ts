import { dtypeInfo, groupSize, type Node, sizeOf, type TensorType } from "@lazuli/fx-trace";

/*
 * What communication and computation take, to tell which of them is the longer: how they are ordered depends on it, results
 * never. The rates are those of one CPU core and of memory shared by processes (docs/performance.md); only their ratio
 * counts, and only roughly.
 */
const FLOPS = 1e11; // a second, in products
const MEMORY_BYTES = 1e10; // a second, read or written by an elementwise kernel
const LINK_BYTES = 3e9; // a second, sent by one device
const MEETING = 3e-5; // seconds until the members of a collective have found each other

const bytesOf = ({ shape, dtype }: TensorType): number => sizeOf(shape) * dtypeInfo[dtype].sizeBytes;

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

/** Multiplications and additions of products and attention; 0 for ops whose time is that of memory. */
export function flopsOf(node: Node): number {
  const { op, inputs, attrs } = node;
  switch (op.name) {
    case "dot_general": {
      const contracted = (attrs.lhs_contract as readonly number[]).reduce(
        (size, dim) => size * inputs[0].shape[dim],
        1,
      );
      return 2 * sizeOf(node.shape) * contracted;
    }
    case "attention":
    case "attention_grad":
    case "attention_bias_grad": {
      const [batch, heads, queries, size] = inputs[0].shape;
      const products = batch * heads * queries * inputs[1].shape[2] * (size + inputs[2].shape[3]);
      return (attrs.causal ? 1 : 2) * products * (op.name === "attention" ? 1 : 2.5);
    }
    default:
      return 0;
  }
}

/** Seconds that an op computes on one device. */
export function computeSeconds(node: Node): number {
  const flops = flopsOf(node);
  if (flops > 0) return flops / FLOPS;
  const moved = [...node.inputs.map(({ type }) => type), ...node.types];
  return moved.reduce((sum, type) => sum + bytesOf(type), 0) / MEMORY_BYTES;
}
