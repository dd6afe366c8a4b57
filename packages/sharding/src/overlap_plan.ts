import type { Node } from "@lazuli/fx-trace";
import { bytesOf } from "./choose.js";
import { transferSeconds } from "./cost.js";
import type { Places } from "./places.js";

/*
 * Which collectives are started apart from their end, together with which others, and where. Compute keeps its order.
 *
 * - Parameters (all_gathers of the program's inputs): those of one module that are read one after the other are a block.
 *   A block's are started when the block `prefetch` before it comes into use, and not before the one before that is out of
 *   use: at most `prefetch` + 1 blocks are there at once, in flight or in use. As FSDP's prefetching.
 * - Gradients (sums that only optimizers read): those of a module, `bucketBytes` at most together, are started where the
 *   last of them is there, and waited for when the bucket after the next `prefetch` starts, or where they are read: the
 *   addends of `prefetch` + 1 buckets live at once. As DDP's buckets.
 * - Others (activations): between where the operand is there and where the value is read, if a device computes there for
 *   longer than a hand-over to another thread takes. No longer than to hide the transfer, which the cost model may take for
 *   half of what it is: what grows is started late, what shrinks is waited for early, as it is memory meanwhile.
 *
 * Pieces of a bucket are collectives of their own in the graph; the device moves small ones as one message.
 */

export interface OverlapOptions {
  /** Most bytes of the operands that are moved as one. Default 25 MB, as DDP's bucket_cap_mb. */
  readonly bucketBytes?: number;
  /** Blocks whose parameters may be under way before they are used, and buckets of gradients beside the last. Default 1; 0: none. */
  readonly prefetch?: number;
  /** Seconds of compute that are worth starting one collective early for. */
  readonly worthSeconds?: number;
}

export const overlapDefaults = { bucketBytes: 25_000_000, prefetch: 1, worthSeconds: 1e-4 } as const;

/** How much longer than estimated a transfer may take. */
const CAUTION = 2;

/** Collectives that are started one after the other. */
export interface Bucket {
  readonly members: readonly Node[];
  /** Position before which they are started. */
  readonly start: number;
  /** By member, the position before which it is waited for. */
  readonly waits: readonly number[];
}

export function planOverlap(places: Places, options: OverlapOptions): Bucket[] {
  return new Planner(places, { ...overlapDefaults, ...options }).run();
}

/** Collectives of one bucket have it in common. */
const kindOf = ({ op, attrs }: Node): string => [op.name, attrs.mesh, attrs.axes, attrs.kind].join("/");

class Planner {
  private readonly buckets: Bucket[] = [];
  /** By collective that is planned: where its value is there. */
  private readonly doneAt = new Map<Node, number>();

  constructor(
    private readonly places: Places,
    private readonly options: Required<OverlapOptions>,
  ) {}

  run(): Bucket[] {
    const { places } = this;
    const parameters = places.transfers.filter(
      (node) => node.op.name === "all_gather" && places.movesInput(node),
    );
    const known = new Set(parameters);
    const gradients = places.transfers.filter(
      (node) =>
        !known.has(node) && places.isForUpdates(node) && /^(all_reduce|reduce_scatter)$/.test(node.op.name),
    );
    for (const node of gradients) known.add(node);
    if (this.options.prefetch > 0) this.planParameters(parameters);
    this.planGradients(gradients, new Set(parameters.map(({ scope }) => scope)));
    for (const node of places.transfers) if (!known.has(node)) this.planOther(node);
    return this.buckets;
  }

  private planParameters(gathers: readonly Node[]): void {
    const { places } = this;
    const { prefetch } = this.options;
    const needed = (node: Node): number => places.neededAt(node);
    const sorted = [...gathers].sort(
      (a, b) => needed(a) - needed(b) || places.positionOf(a) - places.positionOf(b),
    );
    const blocks: Node[][] = [];
    for (const node of sorted) {
      const block = blocks.at(-1);
      if (block?.[0].scope === node.scope) block.push(node);
      else blocks.push([node]);
    }
    const firstUse = blocks.map(([first]) => needed(first));
    const lastUse = blocks.map((block) => Math.max(...block.map((node) => places.lastReadAt(node))));
    let earliest = 0;
    blocks.forEach((block, i) => {
      let start = firstUse[i - prefetch] ?? 0;
      const ending = lastUse[i - prefetch - 1] ?? -1;
      // What is used long after is there in any case.
      if (ending < firstUse[i]) start = Math.max(start, ending + 1);
      earliest = Math.min(Math.max(start, earliest), firstUse[i]);
      for (const members of this.divided(block)) this.add(members, earliest, members.map(needed));
    });
  }

  private planGradients(sums: readonly Node[], modules: ReadonlySet<string>): void {
    // One collective after the other on the same value: the first is planned first.
    for (let rest = new Set(sums); rest.size > 0; ) {
      const later = new Set<Node>();
      for (const node of rest) {
        const source = this.places.sourceTransfer(node);
        if (source !== null && rest.has(source)) later.add(node);
      }
      this.planReady(
        [...rest].filter((node) => !later.has(node)),
        modules,
      );
      rest = later;
    }
  }

  private readyAt(node: Node): number {
    const source = this.places.sourceTransfer(node);
    if (source === null) return this.places.readyAt(node.inputs[0]);
    return this.doneAt.get(source) ?? this.places.positionOf(node);
  }

  private planReady(sums: readonly Node[], modules: ReadonlySet<string>): void {
    const { places } = this;
    const groups = new Map<string, Node[]>();
    for (const node of sums) {
      const kind = kindOf(node);
      const group = groups.get(kind);
      if (group) group.push(node);
      else groups.set(kind, [node]);
    }
    for (const group of groups.values()) {
      const sorted = group.sort(
        (a, b) => this.readyAt(a) - this.readyAt(b) || places.positionOf(a) - places.positionOf(b),
      );
      const runs: Node[][] = [];
      let module: string | null = null;
      let needed = 0;
      for (const node of sorted) {
        const own = moduleOf(places.originOf(node).scope, modules);
        // A member must not be read before the last one is there.
        const isLate = this.readyAt(node) > needed;
        if (runs.length === 0 || own !== module || isLate) {
          runs.push([]);
          needed = Number.POSITIVE_INFINITY;
        }
        module = own;
        needed = Math.min(needed, places.neededAt(node));
        runs.at(-1)?.push(node);
      }
      const buckets = runs.flatMap((run) => this.divided(run));
      const starts = buckets.map((members) => Math.max(...members.map((node) => this.readyAt(node))));
      buckets.forEach((members, i) => {
        const full = starts[i + this.options.prefetch + 1] ?? places.graph.nodes.length;
        this.add(
          members,
          starts[i],
          members.map((node) => Math.max(starts[i], Math.min(places.neededAt(node), full))),
        );
      });
    }
  }

  private planOther(node: Node): void {
    const { places } = this;
    const ready = this.readyAt(node);
    const needed = places.neededAt(node);
    const seconds = transferSeconds(node);
    if (Math.min(places.secondsBetween(ready, needed), seconds) < this.options.worthSeconds) return;
    const grows = bytesOf(node.type) > bytesOf(node.inputs[0].type);
    if (grows) this.add([node], places.lastBefore(needed, CAUTION * seconds, ready), [needed]);
    else this.add([node], ready, [places.firstAfter(ready, CAUTION * seconds, needed)]);
  }

  /** In their order, as many at a time as fit into a bucket, and one at least. */
  private divided(members: readonly Node[]): Node[][] {
    const buckets: Node[][] = [];
    let bytes = Number.POSITIVE_INFINITY;
    let kind = "";
    for (const node of members) {
      const own = bytesOf(node.inputs[0].type);
      if (bytes + own > this.options.bucketBytes || kindOf(node) !== kind) {
        buckets.push([]);
        bytes = 0;
        kind = kindOf(node);
      }
      buckets.at(-1)?.push(node);
      bytes += own;
    }
    return buckets;
  }

  /** One that hides behind nothing is left where it was; several are at least moved together. */
  private add(members: readonly Node[], start: number, waits: readonly number[]): void {
    if (members.length === 1 && this.places.secondsBetween(start, waits[0]) === 0) return;
    members.forEach((node, k) => {
      this.doneAt.set(node, waits[k]);
    });
    this.buckets.push({ members, start, waits });
  }
}

/** The innermost of the modules that a scope is in; else the scope's own. */
function moduleOf(scope: string, modules: ReadonlySet<string>): string | null {
  let best: string | null = null;
  for (const module of modules) {
    const isInside = scope === module || scope.startsWith(`${module}.`) || module === "";
    if (isInside && module.length >= (best?.length ?? 0)) best = module;
  }
  return best;
}
