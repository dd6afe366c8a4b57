import {
  type Batched,
  batchNodes,
  formatType,
  GradError,
  GraphBuilder,
  gradients,
  input,
  isFloat,
  type Node,
  normalizeDim,
  ops,
  pushForward,
  type Randomness,
  ShapeError,
  sameShape,
  spread,
  ValueError,
  valueIn,
  withGrad,
  withoutUses,
  withRecorder,
} from "@lazuli/fx-trace";
import { aliased, orZeros } from "./functional_grad.js";
import { insideTransform } from "./fx/active.js";
import { treeFill, treeLeaves, treeMap, treePrefix } from "./pytree.js";
import { engine } from "./runtime.js";
import { Tensor } from "./tensor.js";

/** Tensors of a tangent or cotangent, each of the type of the value it belongs to. Throws GradError. */
function matching(op: string, what: string, values: readonly Node[], given: unknown): Node[] {
  const leaves = treeLeaves(given).map(({ node }) => node);
  if (leaves.length !== values.length)
    throw new GradError(
      op,
      `${values.length} ${what}s are needed, one for each tensor, got ${leaves.length}`,
    );
  leaves.forEach((leaf, i) => {
    const { shape, dtype } = values[i];
    if (leaf.dtype === dtype && sameShape(leaf.shape, shape)) return;
    throw new GradError(
      op,
      `${what} ${i} must be ${formatType(values[i].type)}, got ${formatType(leaf.type)}`,
    );
  });
  return leaves;
}

/**
 * The function's result at `primals`, and the function that takes a cotangent of the result (of its structure) to the
 * cotangents of the primals, one each. The pull-back may be called again. Throws GradError. As jax.vjp.
 */
export function vjp<A extends unknown[], R>(
  fn: (...primals: A) => R,
  ...primals: A
): [value: R, pullback: (cotangent: R) => A] {
  return withGrad(true, () => {
    const { tree, aliases } = aliased(primals);
    const value = fn(...tree);
    const outputs = treeLeaves(value).map(({ node }) => node);
    const pullback = (cotangent: R): A => {
      const seeds = matching("vjp", "cotangent", outputs, cotangent);
      const flows = outputs.map((output) => output.requiresGrad);
      const found = withGrad(true, () =>
        gradients(
          outputs.filter((_, i) => flows[i]),
          seeds.filter((_, i) => flows[i]),
          aliases,
          { createGraph: true },
        ),
      );
      return treeFill(
        primals,
        aliases.map((alias, i) => orZeros(found[i], alias)),
      );
    };
    return [value, pullback];
  });
}

/**
 * The function's result at `primals` and its derivative along `tangents`, of the primals' structure: J t, in one sweep
 * whatever the number of results. Throws GradError. As jax.jvp.
 */
export function jvp<A extends unknown[], R>(
  fn: (...primals: A) => R,
  primals: readonly [...A],
  tangents: readonly [...A],
): [value: R, tangent: R] {
  return withGrad(true, () => {
    const { tree, aliases } = aliased(primals as unknown as A);
    const along = matching("jvp", "tangent", aliases, tangents);
    const value = fn(...tree);
    const outputs = treeLeaves(value).map(({ node }) => node);
    const pushed = pushForward(outputs, aliases, along);
    return [
      value,
      treeFill(
        value,
        outputs.map((output, i) => orZeros(pushed[i], output)),
      ),
    ];
  });
}

/** A dim, null for one value for all examples, or an array or object of such for a structured argument or result. */
export type Axes = number | null | readonly Axes[] | { readonly [key: string]: Axes };

export interface VmapOptions {
  /** The batch dim of each argument, null for one that all examples share; one for all where no array. Default 0. */
  readonly inAxes?: Axes;
  /** The batch dim of the results. Default 0. */
  readonly outAxes?: Axes;
  /** What random ops do: throw (the default), draw for every example, or draw once for all. As torch.func.vmap's. */
  readonly randomness?: Randomness;
}

const isAxis = (value: unknown): value is number | null => value === null || typeof value === "number";

/** By tensor of `tree`, its axis, from the front; null for none. */
function axesOf(name: "inAxes" | "outAxes", tree: unknown, axes: Axes, more: number): (number | null)[] {
  const found = treePrefix(tree, axes, isAxis);
  if (!found)
    throw new ValueError(
      "vmap",
      `${name} ${JSON.stringify(axes)} does not have the structure of the ${name === "inAxes" ? "arguments" : "results"}`,
    );
  return treeLeaves(tree).map(({ rank }, i) => {
    const axis = found[i];
    return axis === null ? null : normalizeDim("vmap", axis, rank + more);
  });
}

function batchSize(leaves: readonly Tensor[], axes: readonly (number | null)[]): number {
  const sizes = leaves.map(({ shape }, i) => (axes[i] === null ? -1 : shape[axes[i] as number]));
  const known = sizes.filter((size) => size >= 0);
  if (known.length === 0)
    throw new ValueError("vmap", "no argument is batched: inAxes is null for every tensor");
  if (known.some((size) => size !== known[0])) {
    const list = leaves.map((leaf, i) => `${formatType(leaf.node.type)} at dim ${axes[i]}`);
    throw new ShapeError(
      "vmap",
      `batched arguments differ in the size of their batch dims: ${list.join(", ")}`,
    );
  }
  return known[0];
}

/** `x` with dim `from` at `to`. */
function movedDim(x: Node, from: number, to: number): Node {
  if (from === to) return x;
  const perm = x.shape.map((_, dim) => dim).filter((dim) => dim !== from);
  perm.splice(to, 0, from);
  return ops.transpose([x], { perm });
}

/**
 * The function over a batch: `fn` is called once, with tensors of one example (without the batch dim), and what it records
 * is recorded for all of them at once. Tensors it reads from outside are shared. Composes with grad, vjp, jvp and itself;
 * in-place updates of state and `backward()` inside it throw TensorError. Throws ShapeError, ValueError. As jax.vmap.
 */
export function vmap<A extends unknown[], R>(
  fn: (...args: A) => R,
  options: VmapOptions = {},
): (...args: A) => R {
  const { inAxes = 0, outAxes = 0, randomness = "error" } = options;
  return (...args: A): R => {
    engine();
    const leaves = treeLeaves(args);
    const axes = axesOf("inAxes", args, inAxes, 0);
    const size = batchSize(leaves, axes);
    const values = new Map<Node, readonly Batched[]>();
    const examples = leaves.map(({ node }, i): Node => {
      const axis = axes[i];
      if (axis === null) return node;
      const { dtype } = node;
      const shape = node.shape.toSpliced(axis, 1);
      const example = withRecorder(null, () => input([], { index: i, shape, dtype }));
      example.requiresGrad = node.requiresGrad;
      values.set(example, [{ node: movedDim(node, axis, 0), batched: true }]);
      return example;
    });
    const builder = new GraphBuilder();
    const result = withRecorder(builder, () =>
      insideTransform(() =>
        withoutUses(() =>
          fn(
            ...treeFill(
              args,
              examples.map((example, i) => (axes[i] === null ? leaves[i] : new Tensor(example))),
            ),
          ),
        ),
      ),
    );
    batchNodes(builder.nodes, values, { size, randomness });
    const outputs = treeLeaves(result).map(({ node }) => valueIn(values, node));
    const entries = treePrefix(result, outAxes, isAxis);
    let next = 0;
    return treeMap(result, () => {
      const output = outputs[next];
      const axis = entries?.[next++];
      if (axis === undefined)
        throw new ValueError(
          "vmap",
          `outAxes ${JSON.stringify(outAxes)} does not have the structure of the results`,
        );
      if (axis === null) {
        if (output.batched)
          throw new ValueError("vmap", "outAxes is null for a result that differs from example to example");
        return new Tensor(output.node);
      }
      const all = spread(output, size);
      return new Tensor(movedDim(all, 0, normalizeDim("vmap", axis, all.shape.length)));
    });
  };
}

/** The n x n identity as n tensors of `shape`, stacked. */
function basis({ size, shape, dtype }: Tensor): Tensor {
  const index = (dim: number): Node => ops.iota([], { dim, shape: [size, size], dtype: "int32" });
  const same = ops.eq([index(0), index(1)]);
  return new Tensor(ops.reshape([ops.cast([same], { dtype })], { shape: [size, ...shape] }));
}

function checkFloat(op: string, x: unknown): asserts x is Tensor {
  if (!(x instanceof Tensor) || !isFloat(x.dtype))
    throw new GradError(op, `the argument must be a float tensor, got ${x}`);
}

/**
 * The Jacobian of a function of tensors for its argument `argnum`, [...result's dims, ...argument's dims], by reverse mode:
 * for few results of many numbers. Throws GradError. As jax.jacrev.
 */
export function jacrev<A extends unknown[]>(fn: (...args: A) => Tensor, argnum = 0): (...args: A) => Tensor {
  return (...args: A) => {
    const at = args[argnum];
    checkFloat("jacrev", at);
    const of = (x: Tensor): Tensor => fn(...(args.with(argnum, x) as A));
    const [value, pullback] = vjp(of, at);
    const rows = vmap((cotangent: Tensor) => pullback(cotangent)[0])(basis(value));
    return new Tensor(ops.reshape([rows.node], { shape: [...value.shape, ...at.shape] }));
  };
}

/** As jacrev, by forward mode: for many results of few numbers. As jax.jacfwd. */
export function jacfwd<A extends unknown[]>(fn: (...args: A) => Tensor, argnum = 0): (...args: A) => Tensor {
  return (...args: A) => {
    const at = args[argnum];
    checkFloat("jacfwd", at);
    const of = (x: Tensor): Tensor => fn(...(args.with(argnum, x) as A));
    const columns = vmap((tangent: Tensor) => jvp(of, [at], [tangent])[1], { outAxes: -1 })(basis(at));
    return new Tensor(ops.reshape([columns.node], { shape: [...columns.shape.slice(0, -1), ...at.shape] }));
  };
}

/** Second derivatives of a scalar function for its argument `argnum`, [...dims, ...dims]: forward over reverse. As jax.hessian. */
export const hessian = <A extends unknown[]>(
  fn: (...args: A) => Tensor,
  argnum = 0,
): ((...args: A) => Tensor) => jacfwd(jacrev(fn, argnum), argnum);
