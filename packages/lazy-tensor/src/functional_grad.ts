import { GradError, gradients, ops, withGrad } from "@lazuli/fx-trace";
import { Tensor } from "./tensor.js";

type TensorFn<A extends Tensor[], R> = (...args: A) => R;

/** The function's result and its gradient for the arguments in `argnums`. As jax.value_and_grad. */
export function valueAndGrad<A extends Tensor[]>(
  fn: TensorFn<A, Tensor>,
  options: { argnums?: number | readonly number[] } = {},
): (...args: A) => { value: Tensor; grads: Tensor[] } {
  const { argnums = 0 } = options;
  const wanted = typeof argnums === "number" ? [argnums] : [...argnums];
  return (...args: A) =>
    withGrad(true, () => {
      // An alias of each argument to differentiate by, so that an argument used elsewhere, or grad of grad, stays right.
      const aliases = args.map((arg, i) => {
        if (!wanted.includes(i)) return arg;
        const alias = ops.reshape([arg.node], { shape: arg.shape });
        alias.requiresGrad = true;
        return new Tensor(alias);
      }) as A;
      const value = fn(...aliases);
      if (value.size !== 1) throw new GradError("grad", `the function must give a scalar, not ${value}`);
      const targets = wanted.map((i) => {
        if (!args[i]) throw new GradError("grad", `argnums names argument ${i} of ${args.length}`);
        return aliases[i].node;
      });
      const one = ops.full([], { value: 1, shape: value.shape, dtype: value.dtype });
      const grads = value.requiresGrad
        ? gradients([value.node], [one], targets, { createGraph: true })
        : targets.map(() => null);
      return {
        value,
        grads: grads.map((node, i) => {
          const { shape, dtype } = targets[i];
          return new Tensor(node ?? ops.full([], { value: 0, shape, dtype }));
        }),
      };
    });
}

/** The gradient of a scalar function for its argument `argnum`. As jax.grad. */
export function grad<A extends Tensor[]>(fn: TensorFn<A, Tensor>, argnum = 0): (...args: A) => Tensor {
  const both = valueAndGrad(fn, { argnums: argnum });
  return (...args: A) => both(...args).grads[0];
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
