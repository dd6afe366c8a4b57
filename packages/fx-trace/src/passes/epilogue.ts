import { isFloat } from "../dtype.js";
import type { Graph } from "../graph.js";
import { Node } from "../node.js";
import { barrier } from "../ops/leaf.js";
import { sizeOf } from "../shape.js";
import { withInputs } from "./rewrite.js";

/*
 * What a device's kernel of a product does to its result before storing it (native/fuse_matmul.cpp): a residual that a product
 * starts from, or an activation of the library's, gives other last bits than the same op in a kernel of its own. Which of them
 * it is depends on who else reads the values, so it would change where values are computed again.
 */

const aliases = new Set(["reshape", "transpose", "broadcast_to", "slice", "flip", "detach"]);
/** An op that shows its operand's memory in another shape. */
export const isAlias = ({ op }: Node): boolean => aliases.has(op.name);
/** A view of the same elements in the same order. */
export const keepsOrder = ({ op }: Node): boolean => op.name === "reshape" || op.name === "detach";
/** An op of the kind that devices join with others in one kernel. */
export const isFused = ({ op }: Node): boolean =>
  op.lower === "elementwise" || op.lower === "source" || op.lower === "reduction";

/** The number of elements that a fused op goes through. */
export const spaceOf = (node: Node): number =>
  sizeOf(node.op.lower === "reduction" ? node.inputs[0].shape : node.shape);

const activations = new Set(["relu", "silu", "gelu"]);

/** By product: the ops that its kernel does besides, in order. */
export type Epilogues = ReadonlyMap<Node, readonly Node[]>;

interface Use {
  /** Null: the program's output. */
  readonly node: Node | null;
  readonly at: number;
  /** What it reads of the value: itself, or a view. */
  readonly seen: Node | null;
}

export function findEpilogues({ nodes, outputs }: Graph): Epilogues {
  return new Finder(nodes, outputs).run();
}

class Finder {
  private readonly uses = new Map<Node, Use[]>();
  /** By value of a product: where it is there; others where they are made. */
  private readonly ready = new Map<Node, number>();
  private readonly taken = new Set<Node>();

  constructor(
    private readonly nodes: readonly Node[],
    outputs: readonly Node[],
  ) {
    nodes.forEach((node, at) => {
      this.ready.set(node, at);
      if (isAlias(node)) return;
      for (const seen of node.inputs) this.note(seen, { node, at, seen });
    });
    for (const output of outputs) this.note(output, { node: null, at: nodes.length, seen: null });
  }

  private note(value: Node, use: Use): void {
    const base = baseOf(value);
    const known = this.uses.get(base);
    if (known) known.push(use);
    else this.uses.set(base, [use]);
  }

  run(): Epilogues {
    const found = new Map<Node, Node[]>();
    this.nodes.forEach((node, at) => {
      if (node.op.name !== "dot_general" || !isFloat(node.dtype)) return;
      const chain: Node[] = [];
      const has = { bias: false, activation: false, residual: false, cast: false };
      for (let value = node; ; ) {
        const uses = this.uses.get(value) ?? [];
        const user = uses.length === 1 ? uses[0].node : null;
        if (user?.op.lower !== "elementwise" || !isInOrder(uses[0].seen as Node, value, user)) break;
        if (!this.takes(user, value, node, at, has)) break;
        this.taken.add(user);
        chain.push(user);
        value = user;
      }
      this.ready.set(chain.at(-1) ?? node, at);
      if (chain.length > 0) found.set(node, chain);
    });
    return found;
  }

  private takes(
    user: Node,
    value: Node,
    product: Node,
    at: number,
    has: { bias: boolean; activation: boolean; residual: boolean; cast: boolean },
  ): boolean {
    const { name } = user.op;
    if (has.residual) return false;
    if (name === "cast") {
      const isHalf = value.dtype === "bfloat16" || value.dtype === "float16";
      if (has.bias || has.activation || has.cast || !isHalf || user.dtype !== "float32") return false;
      has.cast = true;
      return true;
    }
    if (activations.has(name)) {
      if (has.activation) return false;
      has.activation = true;
      return true;
    }
    if (name !== "add") return false;
    const other = user.inputs[baseOf(user.inputs[0]) === value ? 1 : 0];
    const base = baseOf(other);
    if ((this.ready.get(base) as number) >= at) return false;
    const last = user.shape.at(-1);
    const isRow = sizeOf(other.shape) === last && other.shape.at(-1) === last && last !== 1;
    if (isRow && sizeOf(user.shape) !== last) {
      if (has.bias || has.activation || product.shape.at(-1) !== last) return false;
      has.bias = true;
      return true;
    }
    if (!isInOrder(other, base, user) || !this.isWorthStoring(user)) return false;
    has.residual = true;
    return true;
  }

  /** A sum that only one kernel of elementwise ops reads is as well added there. */
  private isWorthStoring(sum: Node): boolean {
    const uses = this.uses.get(sum) ?? [];
    if (uses.length > 1) return true;
    return uses.some(({ node, seen }) => {
      if (!node || !(isFused(node) || node.op.name === "pad") || this.taken.has(node)) return true;
      if (node.op.name !== "add") return false;
      const other = baseOf(node.inputs[node.inputs[0] === seen ? 1 : 0]);
      return other.op.name === "dot_general";
    });
  }
}

/** The node whose memory a value is a view of: itself where it is none. */
export function baseOf(node: Node): Node {
  let base = node;
  while (isAlias(base)) [base] = base.inputs;
  return base;
}

/** Whether a reader sees the value element by element, in order. */
function isInOrder(seen: Node, value: Node, reader: Node): boolean {
  let x = seen;
  while (x !== value && keepsOrder(x)) [x] = x.inputs;
  return x === value && sizeOf(value.shape) === sizeOf(reader.shape);
}

/**
 * The graph with barriers, which cost nothing there, so that each product's kernel does what `wanted` says of the node that it
 * is a copy of, and not what it would do because values have fewer readers than they had.
 */
export function keepEpilogues(graph: Graph, wanted: Epilogues, originalOf: (node: Node) => Node): Graph {
  let current = graph;
  let origin = originalOf;
  // A barrier settles one product; others may read what it changed.
  for (let round = 0; round < 4; round++) {
    const found = findEpilogues(current);
    const behind = new Set<Node>();
    for (const node of current.nodes) {
      if (node.op.name !== "dot_general") continue;
      const chain = found.get(node) ?? [];
      const names = (wanted.get(origin(node)) ?? []).map(({ op }) => op.name);
      if (chain.length > names.length) behind.add(names.length === 0 ? node : chain[names.length - 1]);
      else if (chain.length < names.length) {
        const next = readerOf(current, chain.at(-1) ?? node);
        if (next?.op.name === "add") behind.add(next);
      }
    }
    if (behind.size === 0) break;
    const made = withBarriers(current, behind);
    const before = origin;
    origin = (node) => before(made.from.get(node) ?? node);
    current = made.graph;
  }
  return current;
}

const readerOf = ({ nodes }: Graph, value: Node): Node | undefined =>
  nodes.find((node) => !isAlias(node) && node.inputs.some((x) => baseOf(x) === value));

function withBarriers(graph: Graph, behind: ReadonlySet<Node>): { graph: Graph; from: Map<Node, Node> } {
  const nodes: Node[] = [];
  const from = new Map<Node, Node>();
  const made = new Map<Node, Node>();
  for (const node of graph.nodes) {
    const kept = withInputs(node, (x) => made.get(x) as Node);
    nodes.push(kept);
    from.set(kept, node);
    made.set(node, kept);
    if (!behind.has(node)) continue;
    const fenced = new Node(barrier, [kept], {}, kept.types, kept.scope);
    nodes.push(fenced);
    made.set(node, fenced);
  }
  return {
    graph: { nodes, inputs: graph.inputs, outputs: graph.outputs.map((x) => made.get(x) as Node) },
    from,
  };
}
