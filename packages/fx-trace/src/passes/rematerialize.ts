import { bytesOf, computeSeconds, flopsOf } from "../cost.js";
import type { Graph } from "../graph.js";
import type { Node } from "../node.js";
import { collectiveNames } from "../ops/collective.js";
import { findEpilogues, keepEpilogues } from "./epilogue.js";
import { type LiveBytes, liveBytes, type Stored } from "./live_bytes.js";
import { type Dropped, type Rewritten, rewriteDropped } from "./recompute.js";

/*
 * Which values to compute again instead of keeping them. Where the estimated memory is fullest, the values that only lie
 * there until something later reads them are given up, those first whose recomputation takes the fewest seconds for the
 * bytes and the stretch of the program that it frees, until the peak is below the budget. A value is computed again at most
 * once, from what is kept or is computed again itself, so that time grows by at most one forward.
 *
 * After XLA's rematerialization, which is greedy at the peak as well, Chen et al. 2016 and the min-cut partitioner of PyTorch;
 * Checkmate (Jain et al. 2020) solves for the optimum, which takes minutes for what is a step's compilation here.
 */

export interface RematOptions {
  /** What the device's kernel of a node of the graph takes besides, while it runs. None unless said. */
  readonly scratchBytes?: (node: Node) => number;
  /** Whether collectives may be run a second time. No, unless said: it costs all devices. */
  readonly collectives?: boolean;
}

export interface Rematerialized {
  readonly graph: Graph;
  /** An estimate: most bytes that are live at once, inputs and outputs of the program left out. */
  readonly peakBytes: number;
  /** Nodes that compute something again. */
  readonly recomputed: number;
  /** Floating-point operations of the products among them. */
  readonly flops: number;
  /** What they take by the cost model. */
  readonly seconds: number;
}

/** Inputs of the program's own, updates in place, and what stands for a place in the order. */
const keptOps = new Set([
  "input",
  "constant",
  "result",
  "barrier",
  "adamw_update",
  "linear_cross_entropy",
  "linear_cross_entropy_grad",
]);

/**
 * The peak is lowered to this share of what it is at a time: by little, so that what is given up first is what is cheapest for
 * every budget, then by more, where no single value helps but several do together.
 */
const STRIDES = [0.95, 0.8, 0.5];
/** Of a value's bytes: an operand up to this share is kept for it instead of being computed again as well. */
const SMALL_SHARE = 1 / 8;
/** Values that are given up together with one because it is made of them. */
const MOST_TOGETHER = 32;

/** A value to give up, along with those it is made of that are not there any more. */
interface Candidate {
  readonly values: readonly Node[];
  readonly cut: number;
  readonly bytes: number;
  /** Seconds for a byte, weighted by how long it is free while there is too little. */
  readonly price: number;
}

/**
 * Graphs of the same numbers with ever more values computed again and an ever lower estimated peak, from the graph itself to
 * the lowest that is reached. Each is one more step of the search, so a caller takes no more of them than it needs. Pure and
 * deterministic: all ranks of a mesh get the same.
 */
export function* rematSteps(graph: Graph, options: RematOptions = {}): Generator<Rematerialized> {
  yield* new Search(graph, options).steps();
}

/** The first of `rematSteps` whose estimated peak is at most `budgetBytes`; the last where none is. */
export function rematerialize(
  graph: Graph,
  { budgetBytes, ...options }: RematOptions & { readonly budgetBytes: number },
): Rematerialized {
  let last: Rematerialized | null = null;
  for (const step of rematSteps(graph, options)) {
    last = step;
    if (step.peakBytes <= budgetBytes) break;
  }
  return last as Rematerialized;
}

interface State {
  readonly dropped: Dropped;
  readonly rewritten: Rewritten;
  readonly lives: LiveBytes;
}

class Search {
  private readonly original: LiveBytes;
  private readonly banned = new Set<Node>();

  constructor(
    private readonly graph: Graph,
    private readonly options: RematOptions,
  ) {
    this.original = liveBytes(graph, options.scratchBytes);
  }

  *steps(): Generator<Rematerialized> {
    let state = this.stateOf(new Map());
    let lowest = state.lives.peakBytes;
    yield this.made(state);
    for (const stride of STRIDES) {
      this.banned.clear();
      for (;;) {
        const goal = state.lives.peakBytes * stride;
        const candidates = this.candidates(state, goal);
        if (candidates.length === 0) break;
        state = this.give(state, candidates, goal);
        if (state.lives.peakBytes >= lowest) continue;
        lowest = state.lives.peakBytes;
        yield this.made(state);
      }
    }
  }

  private made({ rewritten, lives }: State): Rematerialized {
    const { graph, again, originalOf } = rewritten;
    const whole = this.graph;
    return {
      // Made when asked for: most steps are only passed through.
      get graph() {
        return again.length === 0 ? whole : keepEpilogues(graph, findEpilogues(whole), originalOf);
      },
      peakBytes: lives.peakBytes,
      recomputed: again.length,
      flops: again.reduce((sum, node) => sum + flopsOf(node), 0),
      seconds: again.reduce((sum, node) => sum + computeSeconds(node), 0),
    };
  }

  private stateOf(dropped: Dropped): State {
    const rewritten = rewriteDropped(this.graph, dropped, this.original);
    const { scratchBytes } = this.options;
    const { graph, originalOf } = rewritten;
    const lives = liveBytes(graph, scratchBytes && ((node) => scratchBytes(originalOf(node))));
    return { dropped, rewritten, lives };
  }

  /** Byte positions above the goal: falls where the peak does not, because several places are as full. */
  private overfull({ lives }: State, goal: number): number {
    let sum = 0;
    for (const bytes of lives.live) sum += Math.max(0, bytes - goal);
    return sum;
  }

  /** Gives up the cheapest candidates that together free what is too much; fewer of them where that does not help. */
  private give(state: State, candidates: readonly Candidate[], goal: number): State {
    let count = 0;
    for (let bytes = 0; count < candidates.length && bytes < state.lives.peakBytes - goal; count++)
      bytes += candidates[count].bytes;
    const before = this.overfull(state, goal);
    for (; count > 0; count = count > 1 ? Math.ceil(count / 4) : 0) {
      const dropped = new Map(state.dropped);
      for (const { values, cut } of candidates.slice(0, count))
        for (const value of values) if (!dropped.has(value)) dropped.set(value, cut);
      const next = this.stateOf(dropped);
      if (this.overfull(next, goal) < before) return next;
    }
    this.banned.add(candidates[0].values[0]);
    return state;
  }

  /** What may be given up where the memory is fullest, the cheapest first. */
  private candidates({ dropped, rewritten, lives }: State, goal: number): Candidate[] {
    const { peakAt, live } = lives;
    const full = new Int32Array(live.length + 1);
    for (let i = 0; i < live.length; i++) full[i + 1] = full[i] + (live[i] > goal ? 1 : 0);
    const found: Candidate[] = [];
    for (const node of this.original.stored.keys()) {
      if (dropped.has(node) || this.banned.has(node) || !this.canCompute(node)) continue;
      const own = lives.stored.get(rewritten.plain.get(node) as Node);
      if (!own || own.first >= peakAt || own.last <= peakAt || own.reads.includes(peakAt)) continue;
      const next = own.reads.find((at) => at > peakAt);
      if (next === undefined) continue; // an output
      const before = own.reads.findLast((at) => at < peakAt) ?? own.first;
      const cost = this.costOf(node, own, next, dropped, rewritten, lives);
      if (!cost || cost.bytes <= 0) continue;
      const stretch = full[next] - full[before + 1];
      const price = cost.seconds / (cost.bytes * stretch);
      found.push({ values: cost.values, cut: rewritten.cutAt(peakAt), bytes: cost.bytes, price });
    }
    return found.sort((a, b) => a.price - b.price);
  }

  private canCompute(node: Node): boolean {
    const { op } = node;
    if (op.name === "result") return this.canCompute(node.inputs[0]);
    if (keptOps.has(op.name) || op.name === "collective_done") return false;
    return this.options.collectives === true || !(collectiveNames as readonly string[]).includes(op.name);
  }

  /** What it takes to compute a value again before position `next`; null where it cannot be. */
  private costOf(
    value: Node,
    { bytes }: Stored,
    next: number,
    dropped: Dropped,
    { plain, last }: Rewritten,
    lives: LiveBytes,
  ): { values: Node[]; bytes: number; seconds: number } | null {
    const values = [value];
    const seen = new Set<Node>();
    const kept = new Set<Node>();
    let seconds = 0;
    let keptBytes = 0;
    const open = [value];
    for (let node = open.pop(); node; node = open.pop()) {
      const maker = node.op.name === "result" ? node.inputs[0] : node;
      if (seen.has(maker)) continue;
      seen.add(maker);
      seconds += computeSeconds(maker);
      for (const input of maker.inputs) {
        const base = this.original.baseOf(input);
        if (dropped.has(base) || seen.has(base) || base.op.name === "input" || base.op.name === "constant")
          continue;
        if (this.original.isInside(base)) {
          if (!this.canCompute(base)) return null;
          open.push(base);
          continue;
        }
        const there = lives.stored.get(last.get(base) ?? (plain.get(base) as Node));
        if ((there && there.last >= next) || kept.has(base)) continue;
        const size = bytesOf(base.type);
        if (size > bytes * SMALL_SHARE && this.canCompute(base) && values.length < MOST_TOGETHER) {
          values.push(base);
          open.push(base);
        } else {
          kept.add(base);
          keptBytes += size;
        }
      }
    }
    return { values, bytes: bytes - keptBytes, seconds };
  }
}
