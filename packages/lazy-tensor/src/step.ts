import { engine } from "./runtime.js";
import type { Tensor } from "./tensor.js";

/**
 * The step boundary: computes what has been recorded and resolves when the device is done. Kept are updated parameters,
 * buffers and optimizer state, gradients held in `.grad`, the tensors given here, and results nothing else consumed
 * (such as the loss). As torch_xla.sync.
 */
export function sync(...tensors: readonly Tensor[]): Promise<void> {
  const current = engine();
  for (const tensor of tensors) if (tensor.isPending) current.keep(tensor.node);
  return current.step();
}
