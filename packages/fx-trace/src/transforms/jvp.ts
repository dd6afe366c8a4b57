import { isFloat } from "../dtype.js";
import { type Node, withGrad } from "../node.js";
import * as f from "../ops/build.js";
import { gradients } from "../vjp.js";

/**
 * Tangents of `outputs`, given those of `inputs` (null: none, so 0); null for an output that does not depend on them. The
 * outputs must have been recorded from `inputs` with gradients on. Records in the current recorder.
 *
 * Forward mode from reverse mode: the cotangents of the inputs are linear in those of the outputs, u, so their own vjp
 * in u, at the tangents, is J t. Whatever ops' vjps are exact for, this is, and no op needs a rule more. Of the cotangents
 * nothing stays to be computed: a linear function's vjp does not read its argument.
 */
export function pushForward(
  outputs: readonly Node[],
  inputs: readonly Node[],
  tangents: readonly (Node | null)[],
): (Node | null)[] {
  return withGrad(true, () => {
    const moving = outputs
      .map((output, i) => (output.requiresGrad && isFloat(output.dtype) ? i : -1))
      .filter((i) => i >= 0);
    const seeds = moving.map((i) => {
      const seed = f.full(0, outputs[i].shape, outputs[i].dtype);
      seed.requiresGrad = true;
      return seed;
    });
    const cotangents = gradients(
      moving.map((i) => outputs[i]),
      seeds,
      inputs,
      { createGraph: true },
    );
    const linear: Node[] = [];
    const along: Node[] = [];
    cotangents.forEach((cotangent, k) => {
      const tangent = tangents[k];
      if (!cotangent?.requiresGrad || !tangent) return;
      linear.push(cotangent);
      along.push(tangent);
    });
    const pushed = gradients(linear, along, seeds, { createGraph: true });
    return outputs.map((_, i) => pushed[moving.indexOf(i)] ?? null);
  });
}
