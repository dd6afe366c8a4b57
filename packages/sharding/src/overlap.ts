import { apply, atScope, type Graph, GraphBuilder, type Node, ops, withRecorder } from "@lazuli/fx-trace";
import { type Bucket, type OverlapOptions, planOverlap } from "./overlap_plan.js";
import { Places } from "./places.js";

/**
 * The graph with collectives that are started early and waited for late (collective_done), so that a device computes while
 * they are under way; what is computed, and every bit of it, is the same. See overlap_plan.ts for what goes where. After
 * XLA's latency-hiding scheduler, and the buckets of PyTorch's DDP and FSDP.
 */
export function overlapCollectives(graph: Graph, options: OverlapOptions = {}): Graph {
  const places = new Places(graph);
  const buckets = planOverlap(places, options);
  return buckets.length === 0 ? graph : new Placer(places, buckets).run();
}

/** Makes the graph anew, in its order, but for the collectives in buckets and what floats. */
class Placer {
  private readonly made = new Map<Node, Node>();
  private readonly numbers = new Map<Node, number>();
  /** By position: what is started, and waited for, before the node there. */
  private readonly starts = new Map<number, Node[]>();
  private readonly waits = new Map<number, Node[]>();
  private readonly underWay = new Map<Node, Node>();

  constructor(
    private readonly places: Places,
    buckets: readonly Bucket[],
  ) {
    const note = (at: Map<number, Node[]>, position: number, node: Node): void => {
      const known = at.get(position);
      if (known) known.push(node);
      else at.set(position, [node]);
    };
    buckets.forEach(({ members, start, waits }, i) => {
      members.forEach((node, k) => {
        this.numbers.set(node, members.length > 1 ? i : -1);
        note(this.starts, start, node);
        note(this.waits, waits[k], node);
      });
    });
  }

  run(): Graph {
    const { graph } = this.places;
    const builder = new GraphBuilder();
    return withRecorder(builder, () => {
      graph.nodes.forEach((node, i) => {
        this.meet(i);
        if (!this.places.isFloating(node) && !this.numbers.has(node)) this.make(node);
      });
      this.meet(graph.nodes.length);
      return builder.finish(graph.outputs.map(this.of));
    });
  }

  /** What gives memory back comes first. */
  private meet(position: number): void {
    const waits = this.waits.get(position) ?? [];
    for (const node of waits) if (this.underWay.has(node) && !this.places.movesInput(node)) this.wait(node);
    for (const node of this.starts.get(position) ?? []) this.start(node);
    for (const node of waits) this.of(node);
  }

  private of = (node: Node): Node => {
    if (!this.numbers.has(node)) return this.make(node);
    this.start(node);
    return this.wait(node);
  };

  private make(node: Node): Node {
    const known = this.made.get(node);
    if (known) return known;
    const inputs = node.inputs.map(this.of);
    const next = atScope(node.scope, () => apply(node.op, inputs, node.attrs));
    this.made.set(node, next);
    return next;
  }

  private start(node: Node): void {
    if (this.underWay.has(node)) return;
    const inputs = node.inputs.map(this.of);
    this.underWay.set(
      node,
      atScope(node.scope, () => apply(node.op, inputs, node.attrs)),
    );
  }

  private wait(node: Node): Node {
    const known = this.made.get(node);
    if (known) return known;
    const value = this.underWay.get(node) as Node;
    const bucket = this.numbers.get(node) as number;
    const done = atScope(node.scope, () => ops.collective_done([value, value.inputs[0]], { bucket }));
    this.made.set(node, done);
    return done;
  }
}
