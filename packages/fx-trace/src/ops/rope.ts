import { DTypeError, ShapeError } from "../errors.js";
import type { Node } from "../node.js";
import { type Cotangents, defineOp } from "../opdef.js";
import { formatShape, formatType } from "../shape.js";
import * as f from "./build.js";
import { dimFactors, ruleOf, WHOLE } from "./factors.js";
import { expectFloat, expectOrFloat32, expectShape, lastDim, sumToLast } from "./fused.js";

/** The two elements of every pair, each [..., T, K/2]: the halves of the last dim, or its even and odd elements. */
function split(x: Node, interleaved: boolean): [Node, Node] {
  const size = lastDim(x.shape);
  const dim = x.shape.length - 1;
  if (interleaved) return [f.sliceDim(x, dim, 0, size, 2), f.sliceDim(x, dim, 1, size, 2)];
  return [f.sliceDim(x, dim, 0, size / 2), f.sliceDim(x, dim, size / 2, size)];
}

/** The inverse of `split`. */
function join(a: Node, b: Node, interleaved: boolean): Node {
  if (!interleaved) return f.concat([a, b], -1);
  const pairs = f.concat([f.unsqueeze(a, -1), f.unsqueeze(b, -1)], -1);
  return f.reshape(pairs, [...a.shape.slice(0, -1), lastDim(a.shape) * 2]);
}

/**
 * Rotary position embedding (Su et al., 2021): x [..., T, K] turned pairwise by the angles of cos, sin [T, K/2].
 * A pair (a, b) becomes (a cos - b sin, b cos + a sin). The tables may be float32 beside half x.
 */
export const rope = defineOp({
  name: "rope",
  attrs: { interleaved: "bool", inverse: "bool" },
  arity: 3,
  lower: "kernel",
  type: ([x, cos, sin]) => {
    expectFloat("rope", "x", x);
    if (x.shape.length < 2)
      throw new ShapeError("rope", `x must be [..., T, K], but has shape ${formatShape(x.shape)}`);
    const [length, size] = x.shape.slice(-2);
    if (size % 2 !== 0)
      throw new ShapeError("rope", `the last dim of x must be even: ${formatShape(x.shape)}`);
    for (const [name, table] of [
      ["cos", cos],
      ["sin", sin],
    ] as const) {
      expectOrFloat32("rope", name, table, x.dtype, "x");
      expectShape("rope", name, table, [length, size / 2], `x has ${formatShape(x.shape)}`);
    }
    if (cos.dtype !== sin.dtype) {
      throw new DTypeError(
        "rope",
        `cos and sin differ in dtype: ${formatType(cos.type)} and ${formatType(sin.type)}`,
      );
    }
    return x.type;
  },
  vjp: ({ inputs: [x, cos, sin], grad, attrs: { interleaved, inverse }, needs }): Cotangents => {
    const dx = needs[0] ? rope([grad, cos, sin], { interleaved, inverse: !inverse }) : null;
    if (!needs[1] && !needs[2]) return [dx, null, null];
    const [a, b] = split(f.castUp(x), interleaved);
    const [ga, gb] = split(f.castUp(grad), interleaved);
    const table = (x: Node): Node => f.cast(sumToLast(x, 2), cos.dtype);
    const towards = f.mul(gb, a);
    const away = f.mul(ga, b);
    return [
      dx,
      needs[1] ? table(f.add(f.mul(ga, a), f.mul(gb, b))) : null,
      needs[2] ? table(inverse ? f.sub(away, towards) : f.sub(towards, away)) : null,
    ];
  },
  decompose: ([x, cos, sin], { interleaved, inverse }) => {
    const [a, b] = split(f.castUp(x), interleaved);
    const c = f.castUp(cos);
    const s = inverse ? f.neg(f.castUp(sin)) : f.castUp(sin);
    const turned = join(f.sub(f.mul(a, c), f.mul(b, s)), f.add(f.mul(b, c), f.mul(a, s)), interleaved);
    return [f.cast(turned, x.dtype)];
  },
  // K stays whole: the halves of x's last dim go together, with one element of the tables.
  sharding: ([x]) => {
    const rows = dimFactors(x.shape.length - 1);
    const table = [rows[rows.length - 1], WHOLE];
    return ruleOf([[...rows, WHOLE], table, table], [[...rows, WHOLE]]);
  },
});
