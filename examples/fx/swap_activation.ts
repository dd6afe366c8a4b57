import { fx, nn, type Tensor } from "@lazuli/lazy-tensor";

/** Swaps SiLU for the tanh form of GELU, called as a function or as a module. Gives how often. */
export function siluToGelu(traced: fx.GraphModule): number {
  const calls = fx.replacePattern(
    traced,
    (x: Tensor) => x.silu(),
    (x: Tensor) => x.gelu("tanh"),
  );
  const modules = traced.graph
    .findNodes({ op: "call_module" })
    .filter((node) => traced.getSubmodule(node.targetName) instanceof nn.SiLU);
  for (const node of modules) traced.addSubmodule(node.targetName, new nn.GELU("tanh"));
  return calls.length + modules.length;
}
