import { isPlainObject, mapLeaves } from "@lazuli/fx-trace";
import { Tensor } from "./tensor.js";

/*
 * Nested arrays and plain objects with tensors at their leaves, as jax's pytrees. What is neither (numbers, strings, null,
 * instances of classes) is part of the structure and stays as it is.
 */

/** A structure of the same form with what `fn` gives for each tensor. As jax.tree.map. */
export const treeMap = <T>(tree: T, fn: (leaf: Tensor) => unknown): T =>
  mapLeaves(tree, (leaf) => (leaf instanceof Tensor ? fn(leaf) : leaf)) as T;

/** Tensors in the order of the structure. As jax.tree.leaves. */
export function treeLeaves(tree: unknown): Tensor[] {
  const leaves: Tensor[] = [];
  treeMap(tree, (leaf) => leaves.push(leaf));
  return leaves;
}

/** The structure with `leaves` in place of its tensors, in order. */
export function treeFill<T>(tree: T, leaves: readonly unknown[]): T {
  let next = 0;
  return treeMap(tree, () => leaves[next++]);
}

/**
 * By tensor of `tree`, the entry of `prefix` that stands for it: an entry that is no array or object of the same place
 * stands for every tensor below. As jax's axis specifications.
 */
export function treePrefix<P>(
  tree: unknown,
  prefix: unknown,
  isEntry: (value: unknown) => value is P,
): P[] | null {
  if (isEntry(prefix)) return treeLeaves(tree).map(() => prefix);
  if (tree instanceof Tensor) return null;
  const all: P[] = [];
  const entries: [unknown, unknown][] = Array.isArray(tree)
    ? tree.map((item, i) => [item, Array.isArray(prefix) ? prefix[i] : undefined])
    : isPlainObject(tree)
      ? Object.entries(tree).map(([key, item]) => [item, isPlainObject(prefix) ? prefix[key] : undefined])
      : [];
  for (const [item, below] of entries) {
    const found = treePrefix(item, below, isEntry);
    if (found) all.push(...found);
    else return null;
  }
  return all;
}
