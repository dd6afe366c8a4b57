import * as fc from "fast-check";
import {
  buildGraph,
  constant,
  type DType,
  type Graph,
  input,
  LazuliError,
  type Node,
  ops,
  sizeOf,
} from "../src/index.js";
import * as f from "../src/ops/build.js";

/** Which op to add, and numbers that choose its operands and attributes. */
type Step = readonly [op: number, a: number, b: number, c: number];

type Maker = (a: Node, b: Node, c: number) => Node;

const sizes = [1, 2, 3];
const scalars = [0, 1, -1, 2, 0.5, 0.25, -4, 3];

const full = (like: Node, c: number): Node =>
  f.full(scalars[c % scalars.length], c % 3 === 0 ? like.shape : [], like.dtype);
const rotated = (x: Node, by: number): number[] => x.shape.map((_, dim) => (dim + by) % x.shape.length);
const each = (x: Node, value: number): number[] => x.shape.map(() => value);

/** x as `dtype`, where every device agrees on what that is. */
const castTo = (x: Node, dtype: DType): Node =>
  f.cast(x.dtype === "float64" && dtype === "int32" ? f.gt(x, 0) : x, dtype);

/** Either of a's first two dims against one of b's of the same size. */
function dot(a: Node, b: Node, c: number): Node {
  const contract = b.shape.indexOf(a.shape[c % 2]);
  return f.dotGeneral(a, b, [c % 2], [contract]);
}

/** No division by what may be a zero: x + 0 is taken for x, which forgets a zero's sign. */
const makers: readonly Maker[] = [
  f.neg,
  f.abs,
  f.square,
  f.relu,
  (a) => f.exp(f.minimum(a, 3)),
  (a) => ops.detach([a]),
  (a) => f.isfinite(a),
  (a) => f.logicalNot(a),
  (a) => castTo(a, "float64"),
  (a) => castTo(a, "int32"),
  (a) => castTo(a, "bool"),
  f.add,
  f.sub,
  f.mul,
  f.maximum,
  f.lt,
  f.eq,
  f.logicalAnd,
  (a, _, c) => f.add(a, full(a, c)),
  (a, _, c) => f.sub(full(a, c), a),
  (a, _, c) => f.mul(full(a, c), a),
  (a, _, c) => f.pow(a, c % 3),
  (a, _, c) => f.div(a, scalars[1 + (c % 7)]),
  (a, b) => f.where(f.gt(a, b), a, b),
  (a, b, c) => f.where(castTo(a, "bool"), b, full(b, c)),
  (a, b) =>
    f.where(
      castTo(a, "bool"),
      f.where(castTo(a, "bool"), b, f.neg(b)),
      f.where(castTo(a, "bool"), f.neg(b), b),
    ),
  (a, _, c) => full(a, c),
  (a) => ops.reshape([a], { shape: [sizeOf(a.shape)] }),
  (a, b) => ops.reshape([a], { shape: b.shape }),
  (a, _, c) => f.unsqueeze(a, c % (a.shape.length + 1)),
  (a, _, c) => ops.transpose([a], { perm: rotated(a, c) }),
  (a, _, c) => ops.broadcast_to([a], { shape: [sizes[c % 3], ...a.shape] }),
  (a, b) => ops.broadcast_to([a], { shape: b.shape }),
  (a, _, c) =>
    f.slice(
      a,
      a.shape.map((n) => (n > 1 && c % 3 === 1 ? 1 : 0)),
      a.shape.map((n) => n - (n > 1 ? c % 2 : 0)),
      each(a, 1 + (c % 2)),
    ),
  (a, _, c) => ops.flip([a], { dims: [c % a.shape.length] }),
  (a, _, c) => f.pad(a, each(a, c % 2), each(a, 0), each(a, (c >> 1) % 2), c % 2),
  (a, b, c) => f.concat([a, b], c % a.shape.length),
  (a, _, c) => f.concat([a], c % a.shape.length),
  (a, _, c) => f.sum(a, c % a.shape.length, c % 2 === 0),
  (a, _, c) => f.max(a, c % a.shape.length, c % 2 === 0),
  (a, _, c) => f.mean(a, c % a.shape.length),
  (a) => f.sum(a),
  dot,
  (a, b, c) =>
    dot(ops.transpose([a], { perm: rotated(a, 1) }), ops.transpose([b], { perm: rotated(b, 1) }), c),
  (a) => ops.softmax([f.minimum(a, 3)]),
  (a, b) => ops.rms_norm([a, b], { eps: 0.5 }),
  (a, _, c) => f.resultOf(ops.sort([a], { dim: c % a.shape.length, descending: c % 2 === 0 }), c % 2),
];

/** What a graph is made from: small, so that a counterexample can be read. */
export interface Recipe {
  readonly steps: readonly Step[];
  readonly shapes: readonly (readonly number[])[];
  readonly data: readonly number[];
}

export interface Sample {
  readonly graph: Graph;
  /** The elements of each input. */
  readonly data: readonly (readonly number[])[];
}

const dtypes: readonly DType[] = ["float64", "float64", "int32", "bool"];
const asDType = (dtype: DType, x: number): number => {
  if (dtype === "float64") return x;
  if (dtype === "bool") return Number(x > 0);
  return Number.isFinite(x) ? Math.trunc(x) || 0 : 5;
};

/** Steps that the ops refuse are left out. */
export function makeGraph({ steps, shapes, data }: Recipe): Sample {
  const inputs: number[][] = [];
  const graph = buildGraph(() => {
    const values: Node[] = shapes.map((shape, index) => {
      const dtype = dtypes[index % dtypes.length];
      inputs.push(
        Array.from({ length: sizeOf(shape) }, (_, i) => asDType(dtype, data[(index * 7 + i) % data.length])),
      );
      return input([], { index, shape, dtype });
    });
    values.push(
      constant([], { shape: [2], dtype: "int32", data: new Uint8Array([1, 0, 0, 0, 254, 255, 255, 255]) }),
    );
    for (const [op, a, b, c] of steps) {
      const first = values[values.length - 1 - (a % values.length)];
      const likeFirst = values.filter(({ dtype }) => dtype === first.dtype);
      try {
        const made = makers[op](first, likeFirst[b % likeFirst.length], c);
        if (sizeOf(made.shape) <= 64) values.push(made);
      } catch (error) {
        if (!(error instanceof LazuliError)) throw error;
      }
    }
    return [...values.slice(-5), values[0]];
  });
  return { graph, data: inputs };
}

const element = fc.constantFrom(0, 1, -1, 0.5, -2.75, 3, 1e6, -7, Number.POSITIVE_INFINITY, Number.NaN, 0.1);
// Small numbers for the operands: late values are likelier, so that chains grow.
const step: fc.Arbitrary<Step> = fc.tuple(fc.nat(makers.length - 1), fc.nat(6), fc.nat(30), fc.nat(30));
const shape = fc.array(fc.constantFrom(1, 2, 3), { maxLength: 3 });

export const recipe: fc.Arbitrary<Recipe> = fc.record({
  steps: fc.array(step, { minLength: 10, maxLength: 50, size: "max" }),
  shapes: fc.array(shape, { minLength: 4, maxLength: 6 }),
  data: fc.array(element, { minLength: 8, maxLength: 16 }),
});
