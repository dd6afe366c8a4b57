import { OutOfMemoryError } from "@lazuli/cuda-backend";
import { type Graph, type Node, type Rematerialized, rematSteps } from "@lazuli/fx-trace";
import { MemoryBudgetError } from "./errors.js";

/** What was recomputed so that a program's planned memory stays within the budget. */
export interface RematSummary {
  readonly budgetBytes: number;
  /** The arena with nothing computed again; null where the device's own limit refuses that program. */
  readonly withoutBytes: number | null;
  /** Nodes of the program that compute something again, and the floating-point operations of products among them. */
  readonly recomputed: number;
  readonly flops: number;
}

/** A compiled program, of which the search needs what its plan takes and a way to give it back. */
export interface Planned {
  readonly arenaBytes: number;
  /** What a node of the graph takes besides its values while it is computed. */
  scratchBytes(node: Node): number;
  release(): void;
}

/**
 * The program as it is where its planned arena is within the budget, else one that computes values again: the first of
 * `rematSteps`, which estimate, that the device plans within the budget. Throws MemoryBudgetError with the smallest arena of
 * all steps.
 */
export function planWithin<P extends Planned>(
  graph: Graph,
  budgetBytes: number,
  plan: (graph: Graph) => P,
): { graph: Graph; planned: P; remat: RematSummary | null } {
  const search = new BudgetSearch(budgetBytes, plan);
  const whole = search.planned(graph);
  if (whole && whole.arenaBytes <= budgetBytes) return { graph, planned: whole, remat: null };
  whole?.release();
  const { made, planned } = search.run(graph, whole);
  const { recomputed, flops } = made;
  const remat = { budgetBytes, withoutBytes: whole?.arenaBytes ?? null, recomputed, flops };
  return { graph: made.graph, planned, remat };
}

class BudgetSearch<P extends Planned> {
  private readonly steps: { made: Rematerialized; arenaBytes: number | null }[] = [];
  private refused: unknown = null;

  constructor(
    private readonly budgetBytes: number,
    private readonly plan: (graph: Graph) => P,
  ) {}

  /** Null where the program is over the device's own limit. */
  planned(graph: Graph): P | null {
    try {
      return this.plan(graph);
    } catch (error) {
      if (!(error instanceof OutOfMemoryError)) throw error;
      this.refused = error;
      return null;
    }
  }

  run(graph: Graph, whole: P | null): { made: Rematerialized; planned: P } {
    const { budgetBytes, steps } = this;
    const scratchBytes = (node: Node): number => whole?.scratchBytes(node) ?? 0;
    // What the estimate leaves out, by the last plan that was made.
    let missed = 0;
    let over = 0; // the last step that was planned and is over the budget
    for (const made of rematSteps(graph, { scratchBytes })) {
      steps.push({ made, arenaBytes: null });
      if (steps.length === 1) {
        steps[0].arenaBytes = whole?.arenaBytes ?? Number.POSITIVE_INFINITY;
        missed = whole ? whole.arenaBytes - made.peakBytes : 0;
        continue;
      }
      if (made.peakBytes + missed > budgetBytes) continue;
      const at = steps.length - 1;
      const found = this.within(at);
      if (found) return this.leastBetween(over, at, found);
      const { arenaBytes } = steps[at];
      if (arenaBytes !== null && arenaBytes < Number.POSITIVE_INFINITY) missed = arenaBytes - made.peakBytes;
      over = at;
    }
    // The estimate may have been too high: every step is looked at before the budget is refused.
    for (let at = steps.length - 1; at > 0; at--) {
      const found = steps[at].arenaBytes === null ? this.within(at) : null;
      if (found) return { made: steps[at].made, planned: found };
    }
    const reached = steps.map(({ arenaBytes }) => arenaBytes as number);
    const smallest = Math.min(...reached);
    if (smallest === Number.POSITIVE_INFINITY) throw this.refused;
    throw new MemoryBudgetError(budgetBytes, smallest, whole?.arenaBytes ?? null);
  }

  /** The step's program where it is within the budget. */
  private within(at: number): P | null {
    const step = this.steps[at];
    const planned = this.planned(step.made.graph);
    step.arenaBytes = planned?.arenaBytes ?? Number.POSITIVE_INFINITY;
    if (planned && planned.arenaBytes <= this.budgetBytes) return planned;
    planned?.release();
    return null;
  }

  /** Of the steps behind `over`, up to `at`, which is within the budget, one that recomputes least, by bisection. */
  private leastBetween(over: number, at: number, found: P): { made: Rematerialized; planned: P } {
    let [low, high, planned] = [over, at, found];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      const other = this.within(middle);
      if (other) {
        planned.release();
        [high, planned] = [middle, other];
      } else low = middle;
    }
    return { made: this.steps[high].made, planned };
  }
}
