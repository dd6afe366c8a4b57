import { dtypeInfo } from "./dtype.js";
import type { Node } from "./node.js";
import { sizeOf, type TensorType } from "./shape.js";

/*
 * What computation takes, to tell what is worth waiting for or computing again; results never depend on it. The rates are
 * those of one CPU core (docs/performance.md); only their ratio counts, and only roughly.
 */
const FLOPS = 1e11; // a second, in products
const MEMORY_BYTES = 1e10; // a second, read or written by an elementwise kernel

export const bytesOf = ({ shape, dtype }: TensorType): number => sizeOf(shape) * dtypeInfo[dtype].sizeBytes;

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
