import { GradError, gradients, isFloat, type Node, ops, withGrad } from "@lazuli/fx-trace";
import { treeFill, treeLeaves } from "./pytree.js";
import { Tensor } from "./tensor.js";

/** The arguments' tensors as aliases that gradients are taken by, so that an argument used elsewhere, or grad of grad, stays right. */
export function aliased<T>(tree: T): { tree: T; aliases: Node[] } {
  const aliases = treeLeaves(tree).map(({ node }) => {
    const alias = ops.reshape([node], { shape: node.shape });
    alias.requiresGrad = isFloat(node.dtype);
    return alias;
  });
  return {
    tree: treeFill(
      tree,
      aliases.map((alias) => new Tensor(alias)),
    ),
    aliases,
  };
}

/** The gradient, or zeros of the value's type where nothing flows to it. */
export const orZeros = (node: Node | null | undefined, { shape, dtype }: Node): Tensor =>
  new Tensor(node ?? ops.full([], { value: 0, shape, dtype }));

/** By position in `argnums`, what an argument's gradient is: of the argument's own structure. */
type GradsOf<A extends unknown[]> = { value: Tensor; grads: A[number][] };

/**
 * The function's result and its gradient for the arguments in `argnums`: tensors, or objects and arrays of tensors, whose
 * gradients have the same structure. Throws GradError where the result is no scalar. As jax.value_and_grad.
 */
export function valueAndGrad<A extends unknown[]>(
  fn: (...args: A) => Tensor,
  options: { argnums?: number | readonly number[] } = {},
): (...args: A) => GradsOf<A> {
  const { argnums = 0 } = options;
  const wanted = typeof argnums === "number" ? [argnums] : [...argnums];
  return (...args: A) =>
    withGrad(true, () => {
      const targets: Node[][] = [];
      const given = [...args] as A;
      for (const i of wanted) {
        if (!(i in args)) throw new GradError("grad", `argnums names argument ${i} of ${args.length}`);
        const { tree, aliases } = aliased(args[i]);
        given[i] = tree;
        targets.push(aliases);
      }
      const value = fn(...given);
      if (value.size !== 1) throw new GradError("grad", `the function must give a scalar, not ${value}`);
      const one = ops.full([], { value: 1, shape: value.shape, dtype: value.dtype });
      const flat = targets.flat();
      const found = value.requiresGrad
        ? gradients([value.node], [one], flat, { createGraph: true })
        : flat.map(() => null);
      let next = 0;
      return {
        value,
        grads: wanted.map((i, k) =>
          treeFill(
            args[i],
            targets[k].map((target) => orZeros(found[next++], target)),
          ),
        ),
      };
    });
}

/**
 * The gradient of a scalar function for its argument `argnum`, of that argument's structure. As jax.grad.
 */
export function grad<A extends unknown[], N extends number = 0>(
  fn: (...args: A) => Tensor,
  argnum?: N,
): (...args: A) => A[N] {
  const both = valueAndGrad(fn, { argnums: argnum ?? 0 });
  return (...args: A) => both(...args).grads[0] as A[N];
}

/** Gradients of `outputs` (summed) for `inputs`; null where one does not depend on the other. As torch.autograd.grad. */
export function gradOf(
  outputs: Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  options: { gradOutputs?: readonly Tensor[]; createGraph?: boolean } = {},
): (Tensor | null)[] {
  const list = outputs instanceof Tensor ? [outputs] : outputs;
  const { gradOutputs, createGraph = false } = options;
  const seeds = list.map((out, i) => {
    if (gradOutputs?.[i]) return gradOutputs[i].node;
    if (out.size !== 1) throw new GradError("gradOf", `${out} is no scalar: give gradOutputs`);
    return ops.full([], { value: 1, shape: out.shape, dtype: out.dtype });
  });
  const targets = inputs.map((input) => input.node);
  const grads = withGrad(createGraph, () =>
    gradients(
      list.map((out) => out.node),
      seeds,
      targets,
      { createGraph },
    ),
  );
  return grads.map((node) => (node ? new Tensor(node) : null));
}
