import type { Graph } from "../graph.js";
import { withCasts } from "../node.js";
import { verify as verifyGraph } from "../verify.js";

/** A pure function of graphs. Its name stands in dumps and timings. */
export type Pass = (graph: Graph) => Graph;

export interface PassReport {
  readonly name: string;
  /** The graph the pass made. */
  readonly graph: Graph;
  readonly before: Graph;
  readonly wallMs: number;
}

export interface RunPassesOptions {
  /** Checks the graph's invariants after each pass. */
  readonly verify?: boolean;
  /** Called after each pass: timings and dumps hang here. */
  readonly onPass?: (report: PassReport) => void;
}

export function runPasses(
  graph: Graph,
  passes: readonly Pass[],
  { verify, onPass }: RunPassesOptions = {},
): Graph {
  let current = graph;
  for (const pass of passes) {
    const start = performance.now();
    // Whatever the user records in meanwhile: a pass means the ops that it makes.
    const next = withCasts(null, () => pass(current));
    const wallMs = performance.now() - start;
    if (verify) verifyGraph(next);
    onPass?.({ name: pass.name, graph: next, before: current, wallMs });
    current = next;
  }
  return current;
}
