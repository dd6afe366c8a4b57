import { withCheckpoint } from "@lazuli/fx-trace";
import { treeLeaves } from "./pytree.js";

/**
 * The function with its intermediate values given up after the forward and computed again in backward, from its arguments:
 * memory for time. Random numbers are the same again. A checkpoint inside another is a part of that one. The parameters and
 * other tensors it uses without being given them are kept. As torch.utils.checkpoint; Chen et al. 2016.
 *
 *     for (const block of blocks) x = checkpoint((h: Tensor) => block.forward(h))(x);
 */
export function checkpoint<A extends unknown[], R>(fn: (...args: A) => R): (...args: A) => R {
  return (...args) => withCheckpoint(new Set(treeLeaves(args).map(({ node }) => node)), () => fn(...args));
}
