import { formatShape, type Node, sameShape } from "@lazuli/fx-trace";
import { StateDictError } from "./errors.js";
import type { Module } from "./nn/module.js";
import { Tensor } from "./tensor.js";

/**
 * The module's forward with `state` in place of the parameters and buffers it names, for this call: what grad, vmap and
 * jvp take derivatives by. Those it does not name keep their values. Throws StateDictError for a name that the module
 * lacks, or a value of another shape or dtype. As torch.func.functional_call.
 */
export function functionalCall<M extends Module>(
  module: M,
  state: Readonly<Record<string, Tensor>>,
  ...args: Parameters<M["forward"]>
): ReturnType<M["forward"]> {
  const own = new Map<string, Tensor>([...module.namedParameters(), ...module.namedBuffers()]);
  const stands = new Map<Tensor, Node>();
  for (const [name, value] of Object.entries(state)) {
    const tensor = own.get(name);
    if (!tensor) throw new StateDictError("functionalCall", `the module has no parameter or buffer ${name}`);
    if (!sameShape(tensor.shape, value.shape))
      throw new StateDictError(
        "functionalCall",
        `${name} is ${formatShape(value.shape)} and should be ${formatShape(tensor.shape)}`,
      );
    if (tensor.dtype !== value.dtype)
      throw new StateDictError("functionalCall", `${name} is ${value.dtype} and should be ${tensor.dtype}`);
    stands.set(tensor, value.node);
  }
  return Tensor.showing(stands, () => module.forward(...(args as never[]))) as ReturnType<M["forward"]>;
}
