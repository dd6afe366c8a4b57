import { type fx, nn, noGrad, type Tensor } from "@lazuli/lazy-tensor";

/** Folds what a linear layer's result is multiplied by, or what is added to it, into the layer's weights. Gives how often. */
export function foldIntoLinear(traced: fx.GraphModule): number {
  const { graph } = traced;
  let folded = 0;
  for (const node of graph.findNodes({ op: "call_module" })) {
    for (let next = follower(traced, node); next; next = follower(traced, node)) {
      const linear = traced.getSubmodule(node.targetName) as nn.Linear;
      const path = traced.freePath(`${node.targetName}_folded`);
      traced.addSubmodule(path, foldedLayer(linear, next.op, next.by));
      node.target = path;
      next.node.replaceAllUsesWith(node);
      graph.eraseNode(next.node);
      folded++;
    }
  }
  graph.eliminateDeadCode();
  traced.deleteUnused();
  return folded;
}

interface Follower {
  readonly node: fx.FxNode;
  readonly op: "mul" | "add";
  readonly by: Tensor;
}

/** The one node that reads a linear layer's result, where it adds or multiplies a vector that the module holds. */
function follower(traced: fx.GraphModule, node: fx.FxNode): Follower | null {
  const [user, ...others] = node.users;
  if (!(traced.getSubmodule(node.targetName) instanceof nn.Linear) || !user || others.length > 0) return null;
  const op = user.calls("mul") ? "mul" : user.calls("add") ? "add" : null;
  const by = user.inputs.find((input) => input.op === "get_attr");
  return op && by?.type?.shape.length === 1 ? { node: user, op, by: traced.getAttr(by.targetName) } : null;
}

/** (x · Wᵀ + b) · s = x · (sW)ᵀ + sb, and (x · Wᵀ + b) + t = x · Wᵀ + (b + t); s and t [out]. */
function foldedLayer(
  { inFeatures, outFeatures, weight, bias }: nn.Linear,
  op: "mul" | "add",
  by: Tensor,
): nn.Linear {
  const layer = new nn.Linear(inFeatures, outFeatures);
  noGrad(() => {
    const scaled = op === "mul" ? weight.mul(by.unsqueeze(1)) : weight;
    const shifted = op === "mul" ? bias?.mul(by) : (bias?.add(by) ?? by);
    const state = new Map([["weight", scaled.to("float32")]]);
    if (shifted) state.set("bias", shifted);
    else nn.init.zeros_(layer.bias as Tensor);
    layer.loadStateDict(state, { strict: false });
  });
  return layer;
}
