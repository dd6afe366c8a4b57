import { type DType, dtypeInfo } from "../dtype.js";
import { type Graph, GraphBuilder } from "../graph.js";
import { atScope, type Node, withRecorder } from "../node.js";
import type { OpDef } from "../opdef.js";
import { reshape, resultOf } from "../ops/build.js";
import type { CrossEntropyAttrs } from "../ops/cross_entropy.js";
import { linear_cross_entropy, linear_cross_entropy_grad } from "../ops/linear_cross_entropy.js";
import { sizeOf } from "../shape.js";
import type { Pass } from "./pass.js";
import { withInputs } from "./rewrite.js";

/** Logits smaller than this are kept whole: they are written and read in the caches. */
const LEAST_BYTES = 8 << 20;

/** A loss over x · weightᵀ that alone reads the logits, and its gradients where there are such. */
interface Loss {
  readonly x: Node;
  readonly weight: Node;
  readonly target: Node;
  readonly attrs: CrossEntropyAttrs;
  readonly scope: string;
  /** Results 0 and 1 of the cross entropy: null where not read. */
  readonly loss: Node | null;
  readonly lse: Node | null;
  /** Of the loss; null where there is no gradient. */
  readonly g: Node | null;
  readonly dx: Node | null;
  readonly dweight: Node | null;
}

const sameInts = (value: unknown, wanted: readonly number[]): boolean => {
  const list = value as readonly number[];
  return list.length === wanted.length && list.every((each, i) => each === wanted[i]);
};

/** Whether `node` is dot_general(a, b) that contracts these dims, of no batch. */
const contracts = (node: Node, lhs: readonly number[], rhs: readonly number[]): boolean =>
  node.op.name === "dot_general" &&
  sameInts(node.attrs.lhs_batch, []) &&
  sameInts(node.attrs.lhs_contract, lhs) &&
  sameInts(node.attrs.rhs_contract, rhs);

const isHalf = (dtype: DType): boolean => dtype === "bfloat16" || dtype === "float16";

/** Whether `node` gives the same rows by other leading dims, or a half type's in float32 (or, `back`, the other way). */
function keepsRows(node: Node, back = false): boolean {
  const [from] = node.inputs;
  if (node.op.name === "reshape") return node.shape.at(-1) === from.shape.at(-1);
  if (node.op.name !== "cast") return false;
  const [half, single] = back ? [node, from] : [from, node];
  return isHalf(half.dtype) && single.dtype === "float32";
}

class Finder {
  private readonly readers = new Map<Node, Node[]>();
  private readonly outputs: ReadonlySet<Node>;

  constructor(
    private readonly graph: Graph,
    private readonly leastBytes: number,
  ) {
    this.outputs = new Set(graph.outputs);
    for (const node of graph.nodes) {
      for (const x of new Set(node.inputs)) {
        const list = this.readers.get(x);
        if (list) list.push(node);
        else this.readers.set(x, [node]);
      }
    }
  }

  /** By the op of the loss. */
  find(): Map<Node, Loss> {
    const found = new Map<Node, Loss>();
    for (const node of this.graph.nodes) {
      const { name } = node.op;
      const loss =
        name === "cross_entropy"
          ? this.lossOf(node)
          : name === "linear_cross_entropy"
            ? this.fusedAlready(node)
            : null;
      if (loss) found.set(node, loss);
    }
    return found;
  }

  /** The result of `node` at `index`; null where it is not read. */
  private resultAt(node: Node, index: number): Node | null {
    return this.readers.get(node)?.find(({ attrs }) => attrs.index === index) ?? null;
  }

  /** A loss that was recorded as one op, with its gradient, to become one with that; null where it has none. */
  private fusedAlready(forward: Node): Loss | null {
    const [x, weight, target] = forward.inputs;
    const { ignore_index, label_smoothing } = forward.attrs as unknown as CrossEntropyAttrs;
    const grads = (this.readers.get(x) ?? []).filter(
      ({ op, inputs, attrs }) =>
        op.name === "linear_cross_entropy_grad" &&
        inputs[0] === x &&
        inputs[1] === weight &&
        inputs[2] === target &&
        attrs.ignore_index === ignore_index &&
        attrs.label_smoothing === label_smoothing,
    );
    const [grad] = grads;
    if (grads.length !== 1 || this.resultAt(grad, 0) || this.resultAt(grad, 1)) return null;
    return {
      x,
      weight,
      target,
      attrs: { ignore_index, label_smoothing },
      scope: forward.scope,
      loss: this.resultAt(forward, 0),
      lse: this.resultAt(forward, 1),
      g: grad.inputs[3],
      dx: this.resultAt(grad, 2),
      dweight: this.resultAt(grad, 3),
    };
  }

  /** Who reads `node`; null where it is an output too. */
  private readersOf(node: Node): readonly Node[] | null {
    return this.outputs.has(node) ? null : (this.readers.get(node) ?? []);
  }

  private lossOf(entropy: Node): Loss | null {
    const [logits, target] = entropy.inputs;
    if (sizeOf(logits.shape) * dtypeInfo[logits.dtype].sizeBytes < this.leastBytes) return null;
    let product = logits;
    // On the way to the product nothing else may read, but at the end, where the gradient does.
    while (keepsRows(product)) {
      product = product.inputs[0];
      if (this.readersOf(product)?.length !== 1) return null;
    }
    const [x, weight] = product.inputs;
    if (!x || !weight || weight.shape.length !== 2 || !contracts(product, [x.shape.length - 1], [1]))
      return null;

    const readers = this.readersOf(logits);
    const grads = readers?.filter((reader) => reader !== entropy);
    if (!grads || grads.length > 1) return null;
    const common = {
      x,
      weight,
      target,
      attrs: entropy.attrs as unknown as CrossEntropyAttrs,
      scope: product.scope,
      loss: this.resultAt(entropy, 0),
    };
    const lse = this.resultAt(entropy, 1);
    const [grad] = grads;
    if (!grad) return { ...common, lse, g: null, dx: null, dweight: null };
    if (grad.op.name !== "cross_entropy_grad" || grad.inputs[0] !== logits || grad.inputs[1] !== target)
      return null;
    if (
      grad.inputs[2] !== lse ||
      Object.entries(grad.attrs).some(([key, value]) => entropy.attrs[key] !== value)
    )
      return null;
    const back = this.backward(grad, x, weight);
    // lse may be read by others than the gradient.
    return back && { ...common, lse, g: grad.inputs[3], ...back };
  }

  /** The products that the gradient of the logits goes into; null where anything else reads it. */
  private backward(grad: Node, x: Node, weight: Node): { dx: Node | null; dweight: Node | null } | null {
    let d = grad;
    let readers = this.readersOf(d);
    while (readers?.length === 1 && keepsRows(readers[0], true)) {
      [d] = readers;
      readers = this.readersOf(d);
    }
    if (!readers || d.dtype !== x.dtype || d.shape.length !== x.shape.length) return null;
    const last = x.shape.length - 1;
    const rows = Array.from({ length: last }, (_, dim) => dim);
    let dx: Node | null = null;
    let dweight: Node | null = null;
    for (const reader of readers) {
      const [a, b] = reader.inputs;
      if (!dx && a === d && b === weight && contracts(reader, [last], [0])) dx = reader;
      else if (!dweight && a === d && b === x && contracts(reader, rows, rows)) dweight = reader;
      else return null;
    }
    return { dx, dweight };
  }
}

/**
 * cross_entropy of dot_general(x, weight), and its gradients, without the logits between: linear_cross_entropy, or, where
 * there are gradients whose cotangent does not come from the loss itself (a mean's is known before it), one
 * linear_cross_entropy_grad that gives all of them from logits computed once. Else the gradients compute them again. Only
 * of large logits that nothing else reads, on devices that have the kernels.
 * A loss recorded as linear_cross_entropy joins its gradient by the same rule, whatever its size.
 */
export const fuseLinearCrossEntropy = (
  supports: (op: OpDef) => boolean,
  leastBytes: number = LEAST_BYTES,
): Pass =>
  function fuseLinearCrossEntropy(graph: Graph): Graph {
    if (![linear_cross_entropy, linear_cross_entropy_grad].every((op) => supports(op as unknown as OpDef)))
      return graph;
    if (!graph.nodes.some(({ op }) => op.name === "cross_entropy" || op.name === "linear_cross_entropy"))
      return graph;
    const losses = new Finder(graph, leastBytes).find();
    return losses.size === 0 ? graph : new Fuser(graph, losses).run();
  };

/** A fused op to be made once the values it reads are, and which of the graph's values its results stand for. */
interface Fused {
  readonly inputs: readonly Node[];
  readonly make: (inputs: readonly Node[]) => Node;
  readonly scope: string;
  /** By result; null where not read. */
  readonly results: readonly (Node | null)[];
}

function fusedOf(loss: Loss, isKnownBefore: boolean): Fused[] {
  const { x, weight, target, g, attrs, scope, dx, dweight } = loss;
  const rows = (inputs: readonly Node[]): Node[] => {
    const [given, ...rest] = inputs;
    return [reshape(given, [...target.shape, given.shape[given.shape.length - 1]]), ...rest];
  };
  const operands = [x, weight, target];
  const make = (inputs: readonly Node[]): Node => linear_cross_entropy(rows(inputs), attrs);
  const forward = { inputs: operands, make, scope, results: [loss.loss, loss.lse] };
  if (!g) return [forward];
  const gradAttrs = { ...attrs, need_x: dx !== null, need_weight: dweight !== null };
  const backward = {
    inputs: [...operands, g],
    make: (inputs: readonly Node[]): Node => linear_cross_entropy_grad(rows(inputs), gradAttrs),
    scope,
    results: [null, null, dx, dweight],
  };
  return isKnownBefore ? [{ ...backward, results: [loss.loss, loss.lse, dx, dweight] }] : [forward, backward];
}

class Fuser {
  private readonly builder = new GraphBuilder();
  private readonly made = new Map<Node, Node>();
  /** By a value that a fused op gives. */
  private readonly given = new Map<Node, Fused>();

  constructor(
    private readonly graph: Graph,
    losses: ReadonlyMap<Node, Loss>,
  ) {
    const late = dependents(graph, losses);
    for (const loss of losses.values()) {
      for (const fused of fusedOf(loss, loss.g !== null && !late.has(loss.g)))
        for (const value of fused.results) if (value) this.given.set(value, fused);
    }
  }

  run(): Graph {
    withRecorder(this.builder, () => {
      for (const node of this.graph.nodes) this.visit(node);
    });
    return this.builder.finish(this.graph.outputs.map((value) => this.made.get(value) as Node));
  }

  /** Makes what stands for `node`, and before it what that reads: a cotangent may be asked for before its place. */
  private visit(node: Node): void {
    const stack = [node];
    while (stack.length > 0) {
      const top = stack[stack.length - 1];
      const fused = this.given.get(top);
      const missing = this.made.has(top)
        ? []
        : (fused ?? top).inputs.filter((input) => !this.made.has(input));
      if (missing.length > 0) {
        stack.push(...missing);
        continue;
      }
      stack.pop();
      if (this.made.has(top)) continue;
      if (fused) this.fuse(fused);
      else this.keep(top);
    }
  }

  private keep(node: Node): void {
    const kept = withInputs(node, (input) => this.made.get(input) as Node);
    this.builder.add(kept);
    this.made.set(node, kept);
  }

  private fuse({ inputs, make, scope, results }: Fused): void {
    atScope(scope, () => {
      const node = make(inputs.map((input) => this.made.get(input) as Node));
      results.forEach((value, index) => {
        if (value) this.made.set(value, reshape(resultOf(node, index), value.shape));
      });
    });
  }
}

/** What is computed from one of the losses. */
function dependents(graph: Graph, losses: ReadonlyMap<Node, Loss>): ReadonlySet<Node> {
  const found = new Set<Node>();
  for (const node of graph.nodes)
    if (losses.has(node) || node.inputs.some((input) => found.has(input))) found.add(node);
  return found;
}
