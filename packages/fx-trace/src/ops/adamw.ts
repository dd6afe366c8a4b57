import type { Node } from "../node.js";
import { defineOp } from "../opdef.js";
import * as f from "./build.js";
import { dimFactors, ruleOf } from "./factors.js";
import { expectFloat, expectOrFloat32, expectShape, expectType } from "./fused.js";

/**
 * One step of AdamW (Loshchilov & Hutter, 2019), or with `decoupled: false` of Adam with L2 decay, for one parameter:
 * p, g, m, v, lr, step[, grad_scale[, skip]] → new p, m, v. `step` counts from 1; g is multiplied by `grad_scale` first;
 * where `skip`, a bool scalar, is true, p, m and v stay as they are. m and v are float32. g is of p's dtype or float32, or
 * of a half one beside a float32 p. As torch.optim.AdamW / Adam, `found_inf` included. Nothing flows back through it.
 */
export const adamw_update = defineOp({
  name: "adamw_update",
  attrs: { beta1: "float", beta2: "float", eps: "float", weight_decay: "float", decoupled: "bool" },
  arity: [6, 8],
  results: 3,
  lower: "kernel",
  differentiable: false,
  type: ([p, g, m, v, lr, step, gradScale, skip]) => {
    const op = "adamw_update";
    expectFloat(op, "p", p);
    if (f.computeDType(g.dtype) !== p.dtype) expectOrFloat32(op, "g", g, p.dtype, "p");
    expectShape(op, "g", g, p.shape, "p");
    expectType(op, "m", m, "float32", p.shape, "a moment of p");
    expectType(op, "v", v, "float32", p.shape, "a moment of p");
    expectType(op, "lr", lr, "float32", [], "a scalar");
    expectType(op, "step", step, "float32", [], "a scalar");
    if (gradScale) expectType(op, "grad_scale", gradScale, "float32", [], "a scalar");
    if (skip) expectType(op, "skip", skip, "bool", [], "a scalar");
    return [p.type, m.type, v.type];
  },
  decompose: ([p, g, m, v, lr, step, gradScale, skip], { beta1, beta2, eps, weight_decay, decoupled }) => {
    const dtype = f.computeDType(p.dtype);
    const up = (x: Node): Node => f.cast(x, dtype);
    // 1 - beta^step as -expm1(step ln beta): 1 - 0.999^step in float32 would keep only four digits of it.
    const correction = (beta: number): Node => f.neg(f.expm1(f.mul(up(step), Math.log(beta))));
    let grad = gradScale ? f.mul(up(g), up(gradScale)) : up(g);
    let weights = up(p);
    if (weight_decay !== 0) {
      if (decoupled) weights = f.mul(weights, f.sub(1, f.mul(up(lr), weight_decay)));
      else grad = f.add(grad, f.mul(weights, weight_decay));
    }
    const m1 = f.add(f.mul(up(m), beta1), f.mul(grad, 1 - beta1));
    const v1 = f.add(f.mul(up(v), beta2), f.mul(f.square(grad), 1 - beta2));
    const root = f.sqrt(f.div(v1, correction(beta2)));
    const direction = f.div(f.div(m1, correction(beta1)), f.add(root, eps));
    const stepped = f.sub(weights, f.mul(direction, up(lr)));
    const kept = (old: Node, next: Node): Node => (skip ? f.where(skip, old, next) : next);
    return [
      kept(p, f.cast(stepped, p.dtype)),
      kept(m, f.cast(m1, "float32")),
      kept(v, f.cast(v1, "float32")),
    ];
  },
  sharding: (inputs) => {
    const dims = dimFactors(inputs[0].shape.length);
    return ruleOf(
      inputs.map((_, i) => (i < 4 ? dims : [])),
      [dims, dims, dims],
    );
  },
});
