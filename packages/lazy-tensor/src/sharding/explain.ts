import { dtypeInfo, type Graph, sizeOf } from "@lazuli/fx-trace";
import {
  type CollectiveRow,
  explainSharding as explainGraph,
  formatExplanation,
  type Mesh,
  ShardingError,
  shardingDot,
} from "@lazuli/sharding";
import type { StepEvent } from "../events.js";
import { meshInputs } from "../mesh_program.js";
import { engine } from "../runtime.js";

export interface ShardingExplanation {
  readonly mesh: Mesh;
  /** Collectives of the step, those that are alike in one row. */
  readonly rows: readonly CollectiveRow[];
  /** What one device sends a step, by the axes it goes over (`data`, `data tensor`). */
  readonly bytesByAxes: ReadonlyMap<string, number>;
  /** Most bytes one device holds at once: what the step reads and writes, and its planned intermediates. */
  readonly peakBytes: number;
  /**
   * One device's program for Graphviz, the largest of the step's: every value with its layout, collectives coloured by the axes
   * they go over. `dot -Tsvg` draws it.
   */
  toDot(): string;
  /** A table for people. */
  toString(): string;
}

/** `1.5 MiB`; powers of two, as memory is. */
function formatMemory(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const unit = bytes < 1 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), units.length - 1);
  return `${(bytes / 2 ** (10 * unit)).toFixed(unit === 0 ? 0 : 1)} ${units[unit]}`;
}

/** What a program holds on one device at its peak. */
function peakOf({ info, graph }: StepEvent): number {
  const inputs = (graph as Graph).inputs.reduce(
    (sum, { shape, dtype }) => sum + sizeOf(shape) * dtypeInfo[dtype].sizeBytes,
    0,
  );
  return inputs + info.outputBytes + info.arenaBytes + info.constantBytes;
}

const namesOf = ({ inputs, outputs }: StepEvent): { inputs: string[]; outputs: string[] } => ({
  inputs: inputs.map(({ name }) => name),
  outputs: outputs.map(({ name }) => name),
});

function dotOf(programs: readonly StepEvent[], mesh: Mesh): string {
  const size = ({ graph }: StepEvent): number => (graph as Graph).nodes.length;
  const [largest] = [...programs].sort((a, b) => size(b) - size(a));
  if (!largest) throw new ShardingError("toDot", "the step ran no program");
  const graph = largest.graph as Graph;
  const ends = meshInputs(graph) ?? { mesh, inputs: [] };
  return shardingDot(graph, ends.mesh, { inputs: ends.inputs, names: namesOf(largest).inputs });
}

/**
 * Runs a step, takes what it records, and tells every collective in it: op, mesh axes, bytes, times, where in the model,
 * and why. Bytes are what one device sends, by the usual ring algorithms. Throws ShardingError where nothing lies over a
 * mesh. On the `null` device nothing is computed: for planning runs on machines that are not there.
 */
export async function explainSharding(step: () => unknown): Promise<ShardingExplanation> {
  const current = engine();
  const programs: StepEvent[] = [];
  const subscription = current.events.step$.subscribe((event) => programs.push(event));
  try {
    await step();
    await current.step();
  } finally {
    subscription.unsubscribe();
  }
  const { mesh } = current;
  if (!mesh) throw new ShardingError("explainSharding", "no tensor lies over a mesh: markSharding first");
  const meshed = programs.filter(({ graph }) => graph !== null);
  const rows = meshed.flatMap((event) => explainGraph(event.graph as Graph, mesh, namesOf(event)));
  const bytesByAxes = new Map<string, number>();
  for (const { axes, bytes } of rows) {
    const key = axes.join(" ");
    bytesByAxes.set(key, (bytesByAxes.get(key) ?? 0) + bytes);
  }
  const peakBytes = Math.max(0, ...meshed.map(peakOf));
  return {
    mesh,
    rows,
    bytesByAxes,
    peakBytes,
    toDot: () => dotOf(meshed, mesh),
    toString: () => `${formatExplanation(rows, mesh)}peak on one device: ${formatMemory(peakBytes)}\n`,
  };
}
