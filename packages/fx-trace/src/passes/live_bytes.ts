import { bytesOf } from "../cost.js";
import type { Graph } from "../graph.js";
import type { Node } from "../node.js";
import { sizeOf } from "../shape.js";
import { baseOf, findEpilogues, isAlias, isFused, keepsOrder, spaceOf } from "./epilogue.js";

/** A value that lies in memory, by positions in the graph's nodes. */
export interface Stored {
  readonly node: Node;
  readonly bytes: number;
  /** Where it is made, and where it is read last. */
  readonly first: number;
  readonly last: number;
  /** Where it is read, ascending. */
  readonly reads: readonly number[];
}

/** An estimate of the memory that a device's run of a graph takes for what it computes. */
export interface LiveBytes {
  /** By position in the graph's nodes: what is live while the node is computed, inputs and outputs of the program left out. */
  readonly live: Float64Array;
  readonly peakBytes: number;
  readonly peakAt: number;
  /** By the node that makes it; of an op of several results by its `result` node. */
  readonly stored: ReadonlyMap<Node, Stored>;
  /** The node whose memory a value is a view of: itself where it is none. */
  readonly baseOf: (node: Node) => Node;
  /** Whether the value is never in memory: computed inside the kernel of what reads it, or from outside. */
  readonly isInside: (node: Node) => boolean;
  /** Whether two nodes are computed by one kernel of elementwise ops. */
  readonly isSameKernel: (a: Node, b: Node) => boolean;
}

/**
 * The memory of a graph in its order, with what devices do about it: views share memory, elementwise chains are one kernel,
 * which runs where the last of them stands, an elementwise result takes the place of what is read last there. What a device's
 * planner does besides (moving single ops, gaps) is left out: an estimate. `scratchBytes` is what an op takes while it runs.
 */
export function liveBytes(graph: Graph, scratchBytes: (node: Node) => number = () => 0): LiveBytes {
  return new Model(graph).run(scratchBytes);
}

class Model {
  private readonly nodes: readonly Node[];
  private readonly at = new Map<Node, number>();
  private readonly readers = new Map<Node, number[]>();
  private readonly outputs: ReadonlySet<Node>;
  /** By position: the group's representative; itself where it is alone. */
  private readonly parents: Int32Array;
  private readonly members = new Map<number, number[]>();
  private readonly visited: Int32Array;
  private stamp = 0;
  /** Values that a product's kernel goes on with, before it stores the last of them. */
  private readonly absorbed = new Set<Node>();
  /** Of what product's kernel an op is a part. */
  private readonly product = new Map<Node, Node>();

  constructor(graph: Graph) {
    this.nodes = graph.nodes;
    this.parents = new Int32Array(graph.nodes.length);
    this.visited = new Int32Array(graph.nodes.length);
    this.nodes.forEach((node, i) => {
      this.at.set(node, i);
      this.parents[i] = i;
      for (const x of new Set(node.inputs)) {
        const known = this.readers.get(x);
        if (known) known.push(i);
        else this.readers.set(x, [i]);
      }
    });
    this.outputs = new Set(graph.outputs.map(baseOf));
    for (const [product, chain] of findEpilogues(graph)) {
      for (const value of [product, ...chain.slice(0, -1)]) this.absorbed.add(value);
      for (const part of chain) this.product.set(part, product);
    }
  }

  run(scratchBytes: (node: Node) => number): LiveBytes {
    this.nodes.forEach((node, i) => {
      if (isFused(node) && !this.product.has(node)) for (const x of node.inputs) this.tryMerge(x, i);
    });
    const stored = this.findStored();
    const change = new Float64Array(this.nodes.length + 1);
    const dying = new Map<number, Stored[]>();
    for (const each of stored.values()) {
      if (this.outputs.has(each.node)) continue;
      const known = dying.get(each.last);
      if (known) known.push(each);
      else dying.set(each.last, [each]);
    }
    for (const { node, bytes, first, last } of stored.values()) {
      if (this.outputs.has(node)) continue;
      const place = overwrites(node) ? dying.get(first) : undefined;
      const taken = place?.findIndex((other) => other.bytes === bytes && other.first < first) ?? -1;
      if (taken >= 0) place?.splice(taken, 1);
      change[first + (taken >= 0 ? 1 : 0)] += bytes;
      change[last + 1] -= bytes;
    }
    const live = new Float64Array(this.nodes.length);
    let sum = 0;
    let peakAt = 0;
    for (let i = 0; i < live.length; i++) {
      sum += change[i];
      live[i] = sum + scratchBytes(this.nodes[i]);
      if (live[i] > live[peakAt]) peakAt = i;
    }
    return {
      live,
      peakBytes: live.length > 0 ? live[peakAt] : 0,
      peakAt,
      stored,
      baseOf,
      isInside: (node) => !stored.has(baseOf(node)),
      isSameKernel: (a, b) => this.find(this.at.get(a) as number) === this.find(this.at.get(b) as number),
    };
  }

  private find(i: number): number {
    let at = i;
    while (this.parents[at] !== at) {
      this.parents[at] = this.parents[this.parents[at]];
      at = this.parents[at];
    }
    return at;
  }

  private membersOf(group: number): readonly number[] {
    return this.members.get(group) ?? [group];
  }

  /** One kernel for an op and what makes its operand, where element goes to element and nothing else is in between. */
  private tryMerge(operand: Node, reader: number): void {
    let x = operand;
    while (keepsOrder(x)) [x] = x.inputs;
    if (
      !isFused(x) ||
      this.product.has(x) ||
      x.op.lower === "reduction" ||
      sizeOf(x.shape) !== spaceOf(this.nodes[reader])
    )
      return;
    const [a, b] = [this.find(this.at.get(x) as number), this.find(reader)];
    if (a === b || this.dependsThroughOthers(a, b)) return;
    this.parents[b] = a;
    this.members.set(a, [...this.membersOf(a), ...this.membersOf(b)]);
  }

  private dependsThroughOthers(a: number, b: number): boolean {
    const stamp = ++this.stamp;
    const both = [...this.membersOf(a), ...this.membersOf(b)];
    const from = Math.min(...both);
    const open: number[] = [];
    const visit = (x: Node): void => {
      const i = this.at.get(x) as number;
      if (i <= from || this.visited[i] === stamp) return;
      this.visited[i] = stamp;
      open.push(i);
    };
    const isOwn = (x: Node): boolean => {
      const group = this.find(this.at.get(x) as number);
      return group === a || group === b;
    };
    for (const i of both) {
      for (let x of this.nodes[i].inputs) {
        while (keepsOrder(x) && !isOwn(x)) [x] = x.inputs;
        if (!isOwn(x)) visit(x);
      }
    }
    for (let i = open.pop(); i !== undefined; i = open.pop()) {
      for (const x of this.nodes[i].inputs) {
        if (isOwn(x)) return true;
        visit(x);
      }
    }
    return false;
  }

  /** Where the kernel of the node at a position runs. */
  private runsAt(i: number): number {
    return Math.max(...this.membersOf(this.find(i)));
  }

  private findStored(): Map<Node, Stored> {
    const stored = new Map<Node, Stored>();
    this.nodes.forEach((node, i) => {
      const { op } = node;
      if (op.name === "input" || op.name === "constant" || isAlias(node) || node.types.length > 1) return;
      const reads = this.readsOf(node);
      const isOutput = this.outputs.has(node);
      if (this.isComputedByReaders(node, i, reads, isOutput)) return;
      const maker = op.name === "result" ? (this.at.get(node.inputs[0]) as number) : i;
      const first = this.runsAt(maker);
      const times = [...new Set(reads.map((each) => this.runsAt(each)))].sort((x, y) => x - y);
      const last = isOutput ? this.nodes.length - 1 : Math.max(first, times.at(-1) ?? first);
      stored.set(node, { node, bytes: bytesOf(node.type), first, last, reads: times });
    });
    return stored;
  }

  /** Positions of what reads the value, through views. */
  private readsOf(node: Node): number[] {
    const found: number[] = [];
    const open = [node];
    for (let x = open.pop(); x; x = open.pop()) {
      for (const reader of this.readers.get(x) ?? []) {
        if (isAlias(this.nodes[reader])) open.push(this.nodes[reader]);
        else found.push(reader);
      }
    }
    return found;
  }

  private isComputedByReaders(node: Node, i: number, reads: readonly number[], isOutput: boolean): boolean {
    if (isOutput) return false;
    const { op } = node;
    if (this.absorbed.has(node)) return true;
    if (!isFused(node)) return false;
    if (reads.length === 0) return true;
    if (op.name === "full" || op.name === "iota" || isWideningCast(node))
      return reads.every((reader) => isFused(this.nodes[reader]));
    const group = this.find(i);
    return reads.every((reader) => this.find(reader) === group);
  }
}

/** Kernels that may write over their first operand. */
const inPlace = new Set([
  "barrier",
  "index_add",
  "scatter",
  "rope",
  "rms_norm",
  "layer_norm",
  "softmax",
  "cumsum",
]);
const overwrites = (node: Node): boolean => {
  const { op } = node.op.name === "result" ? node.inputs[0] : node;
  return op.lower === "elementwise" || inPlace.has(op.name) || op.name.endsWith("norm_grad");
};

const isWideningCast = ({ op, inputs, type }: Node): boolean =>
  op.name === "cast" && bytesOf(inputs[0].type) < bytesOf(type);
