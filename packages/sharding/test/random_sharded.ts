import * as f from "@lazuli/fx-trace";
import {
  buildGraph,
  type DType,
  type Graph,
  gradients,
  input,
  LazuliError,
  type Node,
  ops,
  type Shape,
  sizeOf,
} from "@lazuli/fx-trace";
import * as fc from "fast-check";
import { type Dims, encodeDims, Mesh, type PartitionRequest } from "../src/index.js";

/*
 * Graphs of whole numbers, and layouts of their ends and of values inside: sums of whole numbers are exact in any order, so
 * that on a mesh nothing may differ, and comparisons are safe.
 */

/** Which op to add, and numbers that choose its operands and attributes. */
type Step = readonly [op: number, a: number, b: number, c: number];

/** What a sharded graph is made from: small, so that a counterexample can be read. */
export interface Recipe {
  readonly mesh: number;
  readonly steps: readonly Step[];
  readonly shapes: readonly (readonly number[])[];
  readonly data: readonly number[];
  /** Each axis of each layout: the dim it divides, or none. */
  readonly layouts: readonly number[];
  readonly withGradients: boolean;
}

export interface Sharded {
  readonly graph: Graph;
  readonly request: PartitionRequest;
  /** The elements of each input. */
  readonly data: readonly (readonly number[])[];
}

export const meshes: readonly Mesh[] = [
  new Mesh({ a: 2, b: 2 }),
  new Mesh({ a: 4 }),
  new Mesh({ a: 3 }),
  new Mesh({ a: 2, b: 3 }),
  new Mesh({ a: 2, b: 2, c: 2 }),
  new Mesh({ a: 1, b: 4 }),
];

type Choose = (bound: number) => number;

/** Any layout of a shape: each axis goes before or after those of a dim, or to none. */
export function layoutOf(mesh: Mesh, shape: Shape, choose: Choose): Dims {
  const dims: number[][] = shape.map(() => []);
  mesh.sizes.forEach((_, axis) => {
    const dim = choose(shape.length + 1);
    if (dim === shape.length) return;
    if (choose(2) === 0) dims[dim].push(axis);
    else dims[dim].unshift(axis);
  });
  return dims;
}

interface Context {
  readonly mesh: Mesh;
  readonly choose: Choose;
  /** int32 [3], of 0 and 1: places in any dim of at least 2. */
  readonly places: Node;
}

/** Null where the op would make nothing of these. */
type Maker = (a: Node, b: Node, c: number, context: Context) => Node | null;

const dimOf = (x: Node, c: number): number => c % x.shape.length;
const rotated = (x: Node, by: number): number[] => x.shape.map((_, dim) => (dim + by) % x.shape.length);

/** A dim of `a` against one of `b` of the same size; with `c` odd the dims before them are a batch, where they agree. */
function dot(a: Node, b: Node, c: number): Node {
  const lhs = dimOf(a, c);
  const rhs = b.shape.lastIndexOf(a.shape[lhs]);
  const batch = c % 2 === 1 && lhs > 0 && rhs > 0 && a.shape[0] === b.shape[0] ? [0] : [];
  return f.dotGeneral(a, b, [lhs], [rhs], batch, batch);
}

/** Two neighbouring dims as one, or one as two. */
function regrouped(x: Node, c: number): Node {
  const dim = dimOf(x, c);
  const { shape } = x;
  if (c % 2 === 0 && dim + 1 < shape.length)
    return f.reshape(x, [...shape.slice(0, dim), shape[dim] * shape[dim + 1], ...shape.slice(dim + 2)]);
  const outer = [2, 3, 4].find((size) => shape[dim] % size === 0) ?? 1;
  return f.reshape(x, [...shape.slice(0, dim), outer, shape[dim] / outer, ...shape.slice(dim + 1)]);
}

function sliced(x: Node, c: number): Node {
  const dim = dimOf(x, c);
  const size = x.shape[dim];
  return f.sliceDim(x, dim, Math.min(c % 3, size - 1), size, 1 + (c % 2));
}

/** Places are 0 and 1: the dim they are in must have these. */
function withPlaces(make: (a: Node, b: Node, dim: number, places: Node) => Node): Maker {
  return (a, b, c, { places }) => {
    const dim = dimOf(a, c);
    return a.shape[dim] >= 2 ? make(a, b, dim, places) : null;
  };
}

/** Whose gradients are whole numbers. */
const smooth: readonly Maker[] = [
  (a) => f.neg(a),
  f.add,
  f.sub,
  f.mul,
  (a) => f.relu(a),
  (a, _, c) => f.mul(a, (c % 3) - 1),
  (a, b) => f.where(f.gt(a, b), a, b),
  (a, _, c) => f.sum(a, dimOf(a, c), c % 2 === 0),
  (a) => f.sum(a),
  dot,
  dot,
  (a, b, c) => dot(a, f.transpose(b, rotated(b, 1)), c),
  (a, _, c) => f.transpose(a, rotated(a, c)),
  (a, _, c) => regrouped(a, c),
  (a, _, c) => regrouped(a, c),
  (a, _, c) => f.broadcastTo(a, [1 + (c % 4), ...a.shape]),
  (a, b) => f.broadcastTo(a, b.shape),
  (a, _, c) => sliced(a, c),
  (a, _, c) => f.flip(a, dimOf(a, c)),
  (a, _, c) => f.padDim(a, dimOf(a, c), c % 2, c % 3, c % 4),
  (a, b, c) => f.concat([a, b], dimOf(a, c)),
  withPlaces((a, _, dim, places) => f.indexSelect(a, places, dim)),
  (a, _, c, { mesh, choose }) =>
    ops.sharding_constraint([a], {
      mesh: mesh.sizes,
      dims: encodeDims(layoutOf(mesh, a.shape, choose)),
      direction: (["both", "forward", "regather", "backward"] as const)[c % 4],
    }),
];

const others: readonly Maker[] = [
  (a, _, c) => f.max(a, dimOf(a, c), c % 2 === 0),
  (a, _, c) => f.min(a, dimOf(a, c), c % 2 === 1),
  (a, _, c) => f.prod(f.minimum(f.maximum(a, -2), 2), dimOf(a, c)),
  (a, _, c) => f.cast(f.argmax(a, dimOf(a, c)), "float64"),
  (a, _, c) => f.cumsum(a, dimOf(a, c), c % 2 === 0),
  (a, _, c) => f.sort(a, dimOf(a, c), c % 2 === 0)[0],
  (a, _, c) => f.topk(a, Math.min(2, a.shape[dimOf(a, c)]), dimOf(a, c))[0],
  (a, _, c) => f.add(a, f.iota(dimOf(a, c), a.shape, "float64")),
  (a, b) => f.cast(f.lt(a, b), "float64"),
  (a) => f.cast(f.cast(a, "int32"), "float64"),
  withPlaces((a, _, dim, places) => f.indexAdd(a, places, f.indexSelect(f.flip(a, dim), places, dim), dim)),
  withPlaces((a, b, dim) => f.gather(a, f.cast(f.gt(b, 0), "int32"), dim)),
  withPlaces((a, b, dim) => f.scatterAdd(a, f.cast(f.gt(b, 0), "int32"), b, dim)),
];

/** Steps that the ops refuse are left out. */
export function makeSharded(recipe: Recipe): Sharded {
  const mesh = meshes[recipe.mesh];
  let next = 0;
  const choose: Choose = (bound) => recipe.layouts[next++ % recipe.layouts.length] % bound;
  const makers = recipe.withGradients ? smooth : [...smooth, ...others];
  const data: number[][] = [];
  const made = (shape: Shape, dtype: DType, element: (x: number) => number): Node => {
    const index = data.length;
    data.push(
      Array.from({ length: sizeOf(shape) }, (_, i) =>
        element(recipe.data[(index * 7 + i * 3 + (i >> 3)) % recipe.data.length]),
      ),
    );
    return input([], { index, shape, dtype });
  };
  const graph = buildGraph(() => {
    const leaves = recipe.shapes.map((shape) => made(shape, "float64", (x) => x));
    const places = made([3], "int32", (x) => Math.abs(x) % 2);
    for (const leaf of leaves) leaf.requiresGrad = leaf.isLeaf = true;
    const values = [...leaves];
    for (const [op, a, b, c] of recipe.steps) {
      const first = values[values.length - 1 - (a % values.length)];
      const second = values[values.length - 1 - (b % values.length)];
      try {
        const value = makers[op % makers.length](first, second, c, { mesh, choose, places });
        if (value && sizeOf(value.shape) <= 200 && value.shape.length <= 4) values.push(value);
      } catch (error) {
        // A dim of a scalar, or shapes that do not fit.
        if (!(error instanceof LazuliError || error instanceof RangeError)) throw error;
      }
    }
    const results = values.slice(-3);
    if (!recipe.withGradients) return results;
    const last = results[results.length - 1];
    const cotangent = made(last.shape, "float64", (x) => x);
    const found = gradients([last], [cotangent], leaves);
    return [...results, ...found.filter((gradient) => gradient !== null)];
  });
  return {
    graph,
    request: {
      mesh,
      inputs: graph.inputs.map(({ shape }) => layoutOf(mesh, shape, choose)),
      outputs: graph.outputs.map(({ shape }) => (choose(2) === 0 ? null : layoutOf(mesh, shape, choose))),
    },
    data,
  };
}

// Small numbers for the operands: late values are likelier, so that chains grow.
const step: fc.Arbitrary<Step> = fc.tuple(fc.nat(1000), fc.nat(4), fc.nat(6), fc.nat(30));
const shape = fc.array(fc.constantFrom(1, 2, 3, 4, 5, 6, 8), { maxLength: 3 });

export const recipe: fc.Arbitrary<Recipe> = fc.record({
  mesh: fc.nat(meshes.length - 1),
  steps: fc.array(step, { minLength: 3, maxLength: 24, size: "max" }),
  shapes: fc.array(shape, { minLength: 2, maxLength: 4 }),
  data: fc.array(fc.integer({ min: -3, max: 3 }), { minLength: 8, maxLength: 16 }),
  layouts: fc.array(fc.nat(23), { minLength: 12, maxLength: 60, size: "max" }),
  withGradients: fc.boolean(),
});
