import { type Graph, GraphBuilder } from "../graph.js";
import { Node } from "../node.js";
import { barrier } from "../ops/leaf.js";
import { sizeOf } from "../shape.js";
import { dce } from "./dce.js";
import { baseOf, isAlias, isFused, spaceOf } from "./epilogue.js";
import type { LiveBytes } from "./live_bytes.js";

/** By value that is given up: the position in the graph's nodes from which on its readers read a copy computed again. */
export type Dropped = ReadonlyMap<Node, number>;

export interface Rewritten {
  readonly graph: Graph;
  /** What stands for a node of the graph given, where it is not computed again. */
  readonly plain: ReadonlyMap<Node, Node>;
  /** By value that went through a barrier: what stands for it behind the last one. */
  readonly last: ReadonlyMap<Node, Node>;
  /** The nodes that compute something again, views and barriers left out. */
  readonly again: readonly Node[];
  /** The node of the graph given that a node computes; itself where it is new. */
  readonly originalOf: (node: Node) => Node;
  /** The position in the graph given from which on readers come after a position of this graph. */
  readonly cutAt: (position: number) => number;
}

/**
 * The graph with the values given up computed again, each once, before the first node that reads it behind its cut. What a
 * copy is computed from goes through a barrier, which all later readers read as well, so that it is free, and so that neither
 * cse nor the fusion of kernels finds the copy to be what was computed before.
 */
export function rewriteDropped(graph: Graph, dropped: Dropped, lives: LiveBytes): Rewritten {
  return new Rewriter(graph, dropped, lives).run();
}

class Rewriter {
  private readonly builder = new GraphBuilder();
  private readonly plain = new Map<Node, Node>();
  /** What readers of a value read from here on: itself, a view of what is read in its operand's stead, or a barrier. */
  private readonly current = new Map<Node, Node>();
  private readonly copies = new Map<Node, Node>();
  private readonly last = new Map<Node, Node>();
  private readonly again: Node[] = [];
  /** By node of the new graph: the position of the node it was made for, less one half where it is not that node's own. */
  private readonly origin = new Map<Node, number>();
  private readonly originals = new Map<Node, Node>();
  private readonly outputs: ReadonlySet<Node>;
  private at = 0;

  constructor(
    private readonly graph: Graph,
    private readonly dropped: Dropped,
    private readonly lives: LiveBytes,
  ) {
    this.outputs = new Set(graph.outputs.map(lives.baseOf));
  }

  run(): Rewritten {
    const { nodes, outputs } = this.graph;
    nodes.forEach((node, i) => {
      this.at = i;
      // The wait for a collective names what it was started on.
      const inputs =
        node.op.name === "collective_done"
          ? node.inputs.map((x) => this.plain.get(x) as Node)
          : node.inputs.map((x) => this.read(x));
      const made = inputs.some((x, k) => x !== node.inputs[k])
        ? new Node(node.op, inputs, node.attrs, node.types, node.scope)
        : node;
      this.add(made, i);
      this.plain.set(node, made);
      this.current.set(node, made);
    });
    const found = dce(this.builder.finish(outputs.map((x) => this.plain.get(x) as Node)));
    const again = new Set(this.again);
    for (const [original, made] of this.plain) this.originals.set(made, original);
    return {
      graph: found,
      plain: this.plain,
      last: this.last,
      again: found.nodes.filter((node) => again.has(node)),
      originalOf: (node) => this.originals.get(node) ?? node,
      cutAt: (position) => Math.floor(this.origin.get(found.nodes[position]) as number),
    };
  }

  private add(node: Node, origin: number): Node {
    this.builder.add(node);
    this.origin.set(node, origin);
    return node;
  }

  private extra(node: Node): Node {
    return this.add(node, this.at - 0.5);
  }

  private isDropped(x: Node): boolean {
    const cut = this.dropped.get(x);
    return cut !== undefined && this.at > cut;
  }

  /** What the node at hand reads for an operand. */
  private read(x: Node): Node {
    if (this.isDropped(x)) return this.copy(x);
    if (!isAlias(x)) return this.current.get(x) as Node;
    return this.view(x, this.read(x.inputs[0]), this.current);
  }

  /** A view of what is read in its operand's stead, made once. */
  private view(x: Node, input: Node, known: Map<Node, Node>): Node {
    const before = known.get(x);
    if (before?.inputs[0] === input) return before;
    const made = this.extra(new Node(x.op, [input], x.attrs, x.types, x.scope));
    known.set(x, made);
    return made;
  }

  /** What a copy reads: what lies inside of kernels is computed again with it. */
  private operand(x: Node): Node {
    if (this.isDropped(x)) return this.copy(x);
    if (isAlias(x)) {
      const input = this.operand(x.inputs[0]);
      return this.view(x, input, input === this.read(x.inputs[0]) ? this.current : this.copies);
    }
    const { name } = x.op;
    if (name === "input" || name === "constant" || !this.lives.isInside(x))
      return this.current.get(x) as Node;
    return this.copy(x);
  }

  private copy(x: Node): Node {
    const known = this.copies.get(x);
    if (known) return known;
    const made = this.compute(x);
    // Read from memory it was rounded, which half types are not inside of a kernel.
    const isRounded = isFused(x) && isHalf(x) && !this.lives.isInside(x);
    const value = isRounded ? this.barrier(made) : made;
    this.copies.set(x, value);
    return value;
  }

  private compute(x: Node): Node {
    if (x.op.name === "result")
      return this.extra(new Node(x.op, [this.copy(x.inputs[0])], x.attrs, x.types, x.scope));
    const fenced = this.fence(x);
    // A product last: its kernel adds what is there before it.
    const isProduct = (input: Node): boolean => baseOf(input).op.name === "dot_general";
    const operands = new Map<Node, Node>();
    for (const isLast of [false, true])
      for (const input of x.inputs)
        if (isProduct(input) === isLast) operands.set(input, this.operandOf(x, input, fenced));
    const inputs = x.inputs.map((input) => operands.get(input) as Node);
    const made = this.extra(new Node(x.op, inputs, x.attrs, x.types, x.scope));
    this.originals.set(made, x);
    this.again.push(made);
    return made;
  }

  private barrier(x: Node): Node {
    return this.extra(new Node(barrier, [x], {}, x.types, x.scope));
  }

  /** Whether a node's kernel has the operand before it is rounded to the half type that others read it in. */
  private isUnrounded(x: Node, base: Node): boolean {
    return isFused(x) && isFused(base) && isHalf(base) && this.lives.isSameKernel(x, base);
  }

  /** Puts operands that were there before behind barriers; gives those that only this copy is to read so. */
  private fence(x: Node): ReadonlyMap<Node, Node> {
    const own = new Map<Node, Node>();
    const bases = [...new Set(x.inputs.map(baseOf))];
    const kept = bases.filter((base) => !this.isCopied(base) && !this.isUnrounded(x, base));
    // A kernel of elementwise ops joins another that reads as many elements of the same value.
    let wanted: (Node | undefined)[] = isFused(x)
      ? kept.filter((base) => sizeOf(base.shape) === spaceOf(x))
      : [];
    if (wanted.length === 0 && kept.length === bases.length && !x.op.unique)
      wanted = [kept.find((base) => this.isOwn(base)) ?? smallest(kept)];
    for (const base of wanted) {
      if (!base) continue;
      const current = this.current.get(base) as Node;
      if (current.op.name === "barrier") continue;
      const fenced = this.barrier(current);
      if (!this.isOwn(base)) own.set(base, fenced);
      else {
        this.current.set(base, fenced);
        this.last.set(base, fenced);
      }
    }
    return own;
  }

  private isCopied(base: Node): boolean {
    return this.isDropped(base) || (!this.isGiven(base) && this.lives.isInside(base));
  }

  private isGiven({ op }: Node): boolean {
    return op.name === "input" || op.name === "constant";
  }

  /** Whether the value lies in the device's own memory: a barrier copies one of the program's inputs or outputs. */
  private isOwn(base: Node): boolean {
    return !this.isGiven(base) && !this.outputs.has(base);
  }

  /** What the copy of `x` reads for an operand, which may be a view of one that only it reads. */
  private operandOf(x: Node, input: Node, fenced: ReadonlyMap<Node, Node>): Node {
    const base = baseOf(input);
    const isAgain = this.isUnrounded(x, base);
    if (!isAgain && !fenced.has(base)) return this.operand(input);
    if (!isAlias(input)) return isAgain ? this.compute(input) : (fenced.get(input) as Node);
    const seen = this.operandOf(x, input.inputs[0], fenced);
    return this.extra(new Node(input.op, [seen], input.attrs, input.types, input.scope));
  }
}

const isHalf = ({ dtype }: Node): boolean => dtype === "bfloat16" || dtype === "float16";

const smallest = (nodes: readonly Node[]): Node | undefined =>
  nodes.reduce<Node | undefined>(
    (least, node) => (least && sizeOf(least.shape) <= sizeOf(node.shape) ? least : node),
    undefined,
  );
