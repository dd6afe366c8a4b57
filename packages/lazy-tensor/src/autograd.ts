import {
  type DType,
  DTypeError,
  formatShape,
  GradError,
  gradients,
  isGradEnabled,
  type Node,
  nextWalk,
  ops,
  sizeOf,
  withAutocast,
  withGrad,
  withoutUses,
} from "@lazuli/fx-trace";

export interface BackwardOptions {
  /** Records the gradient so that it can be differentiated again. As torch's create_graph. */
  readonly createGraph?: boolean;
}

/**
 * Leaves that `root` depends on through differentiable nodes. Their order follows the graph's shape alone, not the ages of
 * the leaves, so that every step of a loop records its gradients in the same order.
 */
function leavesOf(root: Node): Node[] {
  const walk = nextWalk();
  const leaves: Node[] = [];
  const stack = [root];
  while (stack.length > 0) {
    const node = stack.pop() as Node;
    if (node.walk === walk || !node.requiresGrad) continue;
    node.walk = walk;
    if (node.isLeaf) leaves.push(node);
    else for (let i = 0; i < node.inputs.length; i++) stack.push(node.inputs[i]);
  }
  return leaves;
}

/** The cotangent backward starts from: ones for a scalar. Throws GradError. */
function seed(root: Node, gradient: Node | undefined): Node {
  if (gradient) {
    if (formatShape(gradient.shape) !== formatShape(root.shape)) {
      throw new GradError(
        "backward",
        `gradient has shape ${formatShape(gradient.shape)}, the tensor ${formatShape(root.shape)}`,
        root.scope,
      );
    }
    return gradient;
  }
  if (sizeOf(root.shape) !== 1) {
    throw new GradError(
      "backward",
      `a tensor of shape ${formatShape(root.shape)} needs backward(gradient): only a scalar has an implied one`,
      root.scope,
    );
  }
  return ops.full([], { value: 1, shape: root.shape, dtype: root.dtype });
}

/** Gradients of `root` by leaf. */
export function backward(root: Node, gradient: Node | undefined, options: BackwardOptions): [Node, Node][] {
  if (!root.requiresGrad) {
    throw new GradError(
      "backward",
      "the tensor does not depend on anything that requires gradients",
      root.scope,
    );
  }
  const leaves = leavesOf(root);
  const createGraph = options.createGraph ?? false;
  const grads = withoutUses(() =>
    withGrad(createGraph, () => gradients([root], [seed(root, gradient)], leaves, { createGraph })),
  );
  return leaves.flatMap((leaf, i) => (grads[i] ? [[leaf, grads[i]] as [Node, Node]] : []));
}

/** Runs `fn` without recording for gradients. As torch.no_grad. */
export const noGrad = <T>(fn: () => T): T => withGrad(false, fn);
/** Runs `fn` with recording for gradients, inside a `noGrad`. As torch.enable_grad. */
export const enableGrad = <T>(fn: () => T): T => withGrad(true, fn);
export { isGradEnabled };

/**
 * Runs `fn` with products (matmul, linear, einsum, attention) in `dtype` and what is sensitive (norms, softmax, exp, log, sums)
 * in float32; float64 is left alone. Parameters stay as they are, and `backward()` computes each gradient in the dtype of
 * what it is the gradient of, parameters' in theirs. With float16, `optim.GradScaler` keeps small gradients. Throws DTypeError
 * for another dtype than bfloat16 and float16. As torch.autocast; Micikevicius et al. 2018.
 */
export function autocast<T>(dtype: DType, fn: () => T): T {
  if (dtype !== "bfloat16" && dtype !== "float16")
    throw new DTypeError("autocast", `products are recorded in bfloat16 or float16, not ${dtype}`);
  return withAutocast(dtype, fn);
}
