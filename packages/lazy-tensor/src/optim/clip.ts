import { noGrad } from "../autograd.js";
import { zeros } from "../creation.js";
import { stack } from "../functions.js";
import type { Tensor } from "../tensor.js";

/**
 * Scales the gradients in place so that their joint Euclidean norm is at most `maxNorm`; gives the norm before.
 * As torch.nn.utils.clip_grad_norm_.
 */
export function clipGradNorm(params: Iterable<Tensor>, maxNorm: number): Tensor {
  return noGrad(() => {
    const grads = [...params].flatMap((param) => (param.grad ? [param.grad] : []));
    if (grads.length === 0) return zeros([]);
    const norm = stack(grads.map((grad) => grad.to("float32").square().sum()))
      .sum()
      .sqrt();
    const scale = norm.add(1e-6).reciprocal().mul(maxNorm).minimum(1);
    for (const grad of grads) grad.mul_(scale);
    return norm;
  });
}
