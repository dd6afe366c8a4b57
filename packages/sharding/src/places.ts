import { computeSeconds, type Graph, groupSize, isTransfer, type Node, sizeOf } from "@lazuli/fx-trace";

const views = new Set(["reshape", "transpose", "broadcast_to", "slice", "flip", "detach", "result"]);

/** A view costs nothing, and stands wherever what reads it does. */
const isView = ({ op }: Node): boolean => views.has(op.name);

/** A collective that sends something. */
const isMoving = (node: Node): boolean =>
  isTransfer(node) && groupSize(node.attrs as never) > 1 && sizeOf(node.inputs[0].shape) > 0;

const passing = new Set(["elementwise", "reduction", "view"]);
/** Ops that give an element of the result for each of the operand's, or sum it up, or put it elsewhere. */
const isPassing = ({ op }: Node): boolean => passing.has(op.lower);

/**
 * Where the values of a graph can be, by positions in its `nodes`: a value is ready before the node at its `readyAt`, and
 * needed before the node at its `neededAt`. Nodes that are `floating` have no place of their own: views, and what is made
 * of a program's input for a collective (a cast of a parameter); they stand where they are first read.
 */
export class Places {
  readonly transfers: readonly Node[];
  private readonly positions = new Map<Node, number>();
  private readonly floats = new Set<Node>();
  /** Made of inputs alone, by casts and views. */
  private readonly given = new Set<Node>();
  private readonly ready = new Map<Node, number>();
  private readonly first = new Map<Node, number>();
  private readonly last = new Map<Node, number>();
  private readonly optimizers = new Set<Node>();
  /** By position, seconds of all that computes before it. */
  private readonly before: Float64Array;

  constructor(readonly graph: Graph) {
    const { nodes } = graph;
    this.transfers = nodes.filter(isMoving);
    this.before = new Float64Array(nodes.length + 1);
    nodes.forEach((node, i) => {
      this.positions.set(node, i);
      this.place(node, i);
      const isFree = this.isFloating(node) || node.op.name === "input" || isMoving(node);
      this.before[i + 1] = this.before[i] + (isFree ? 0 : computeSeconds(node));
    });
    this.findReaders();
  }

  private place(node: Node, position: number): void {
    const { op, inputs } = node;
    const isMade = op.name === "cast" || isView(node);
    const isGiven = op.name === "input" || (isMade && inputs.every((x) => this.given.has(x)));
    if (isGiven) this.given.add(node);
    if (isView(node) || (isGiven && op.name !== "input")) this.floats.add(node);
    if (op.name === "input") this.ready.set(node, 0);
    else if (!this.floats.has(node)) this.ready.set(node, position + 1);
    else this.ready.set(node, Math.max(0, ...inputs.map((x) => this.ready.get(x) as number)));
  }

  private findReaders(): void {
    const { nodes } = this.graph;
    const others = new Set<Node>();
    for (let i = nodes.length - 1; i >= 0; i--) {
      const node = nodes[i];
      const isUpdate = node.op.name === "adamw_update";
      const passes = isPassing(node) || isView(node) || isMoving(node);
      if (!isUpdate && (!passes || others.has(node))) for (const x of node.inputs) others.add(x);
      const isFloating = this.isFloating(node);
      for (const x of node.inputs) {
        const first = isFloating ? this.neededAt(node) : i;
        const last = isFloating ? this.lastReadAt(node) : i;
        this.first.set(x, Math.min(first, this.neededAt(x)));
        this.last.set(x, Math.max(last, this.lastReadAt(x)));
      }
    }
    for (const node of this.transfers) if (!others.has(node)) this.optimizers.add(node);
  }

  isFloating(node: Node): boolean {
    return this.floats.has(node);
  }
  positionOf(node: Node): number {
    return this.positions.get(node) as number;
  }
  readyAt(node: Node): number {
    return this.ready.get(node) as number;
  }
  /** The end of the graph for what is only an output. */
  neededAt(node: Node): number {
    return this.first.get(node) ?? this.graph.nodes.length;
  }
  /** -1 for what nothing reads. */
  lastReadAt(node: Node): number {
    return this.last.get(node) ?? -1;
  }
  /** Seconds that a device computes between two positions. */
  secondsBetween(from: number, to: number): number {
    return to > from ? this.before[to] - this.before[from] : 0;
  }
  /** The last position from which a device computes for so long until `to`, and not before `from`. */
  lastBefore(to: number, seconds: number, from: number): number {
    let [low, high] = [from, to];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.secondsBetween(middle, to) >= seconds) low = middle;
      else high = middle - 1;
    }
    return low;
  }
  /** The first position until which a device computes for so long after `from`, and not behind `to`. */
  firstAfter(from: number, seconds: number, to: number): number {
    let [low, high] = [from, to];
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (this.secondsBetween(from, middle) >= seconds) high = middle;
      else low = middle + 1;
    }
    return low;
  }
  /** Whether the collective moves a part of the program's input, as it is or cast: a parameter. */
  movesInput(node: Node): boolean {
    return this.given.has(node.inputs[0]);
  }
  /** Whether the collective's value goes to optimizers and outputs alone, by elementwise ops and sums: a gradient. */
  isForUpdates(node: Node): boolean {
    return this.optimizers.has(node);
  }
  /** The collective, seen through views, whose value this one moves on. */
  sourceTransfer(node: Node): Node | null {
    let [x] = node.inputs;
    while (isView(x)) [x] = x.inputs;
    return isMoving(x) ? x : null;
  }
  /** What made the value that a collective moves. */
  originOf(node: Node): Node {
    let [x] = node.inputs;
    while ((isView(x) || x.op.name === "cast" || isMoving(x)) && x.inputs.length > 0) [x] = x.inputs;
    return x;
  }
}
