import { noGrad } from "../autograd.js";
import { fullLike, normal, uniform } from "../creation.js";
import type { Tensor } from "../tensor.js";
import { setInitial } from "./module.js";

const fill = (target: Tensor, make: () => Tensor): Tensor => {
  setInitial(target, noGrad(make));
  return target;
};

/** Fan-in and fan-out of a weight [out, in, ...]. */
function fans(weight: Tensor): { fanIn: number; fanOut: number } {
  const [out, fanIn = out] = weight.shape;
  const field = weight.shape.slice(2).reduce((a, b) => a * b, 1);
  return { fanIn: fanIn * field, fanOut: out * field };
}

/** As torch.nn.init.normal_. */
export const normal_ = (target: Tensor, options: { mean?: number; std?: number } = {}): Tensor =>
  fill(target, () => normal(target.shape, options.mean ?? 0, options.std ?? 1));
/** As torch.nn.init.uniform_. */
export const uniform_ = (target: Tensor, low = 0, high = 1): Tensor =>
  fill(target, () => uniform(target.shape, low, high));
/** As torch.nn.init.constant_. */
export const constant_ = (target: Tensor, value: number): Tensor =>
  fill(target, () => fullLike(target, value));
export const zeros_ = (target: Tensor): Tensor => constant_(target, 0);
export const ones_ = (target: Tensor): Tensor => constant_(target, 1);
/** Uniform within ±sqrt(6 / ((1 + a²) fan_in)). As torch.nn.init.kaiming_uniform_ for leaky ReLU. He et al. 2015. */
export const kaimingUniform_ = (target: Tensor, a = 0): Tensor => {
  const bound = Math.sqrt(6 / ((1 + a * a) * fans(target).fanIn));
  return uniform_(target, -bound, bound);
};
/** Uniform within ±sqrt(6 / (fan_in + fan_out)). As torch.nn.init.xavier_uniform_. Glorot & Bengio 2010. */
export const xavierUniform_ = (target: Tensor): Tensor => {
  const { fanIn, fanOut } = fans(target);
  const bound = Math.sqrt(6 / (fanIn + fanOut));
  return uniform_(target, -bound, bound);
};
