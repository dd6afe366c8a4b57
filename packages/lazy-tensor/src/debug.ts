import { formatGraph, type Graph, type Node } from "@lazuli/fx-trace";
import { formatLayout, layoutsOf } from "@lazuli/sharding";
import type { CompileEvent, Events, PassEvent, StepEvent } from "./events.js";
import { meshInputs } from "./mesh_program.js";

/** LAZULI_DEBUG: 1 compiles and why, 2 kernel times, 3 the graph after each pass, 4 kernels, 5 the memory plan. */
export const debugLevel = (): number => Number(process.env.LAZULI_DEBUG ?? 0) || 0;

const print = (line: string): void => {
  process.stderr.write(`[lazuli] ${line}\n`);
};
const megabytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MB`;

function printCompile(event: CompileEvent): void {
  const { info, remat } = event;
  const again = remat
    ? ` (${remat.withoutBytes === null ? "over the limit" : megabytes(remat.withoutBytes)} before ${remat.recomputed} nodes were computed again)`
    : "";
  print(
    `compile #${event.program}: ${event.recordedNodes} nodes recorded, ${event.compiledNodes} compiled, ${info.kernels.length} kernels; ` +
      `passes ${event.passesMs.toFixed(1)} ms, native ${event.nativeMs.toFixed(1)} ms; arena ${megabytes(info.arenaBytes)}${again}. ` +
      `Why: ${event.reason}`,
  );
}

function printStep(event: StepEvent, level: number): void {
  if (event.cached) {
    print(
      `run #${event.program} (cached): host ${event.hostMs.toFixed(2)} ms, device ${event.deviceMs.toFixed(2)} ms`,
    );
  }
  if (level < 2) return;
  event.kernels.forEach((time, i) => {
    const kernel = event.info.kernels[i];
    const us = time.endUs - time.startUs;
    const rate =
      kernel.flops > 0
        ? `${(kernel.flops / us / 1e3).toFixed(1)} GFLOP/s`
        : `${(kernel.bytes / us / 1e3).toFixed(1)} GB/s`;
    print(
      `  ${us.toFixed(0).padStart(8)} us  ${megabytes(kernel.bytes).padStart(10)}  ${rate.padStart(14)}  ${kernel.label}`,
    );
  });
}

/** On a mesh, how a value lies over it: `[data, -]`. */
function layoutNotes(graph: Graph): ((node: Node) => string) | undefined {
  const ends = meshInputs(graph);
  if (!ends) return undefined;
  const layouts = layoutsOf(graph, ends.inputs);
  return (node) => (layouts.get(node) ?? []).map((layout) => formatLayout(ends.mesh, layout)).join(" ");
}

function printPass({ program, pass, ms, graph }: PassEvent): void {
  const text = formatGraph(graph, { note: layoutNotes(graph) });
  print(`program #${program} after ${pass} (${ms.toFixed(2)} ms):\n${text}`);
}

/** Prints what LAZULI_DEBUG asks for, to standard error. */
export function attachDebug(events: Events): void {
  const level = debugLevel();
  if (level < 1) return;
  events.compile$.subscribe((event) => {
    printCompile(event);
    if (level >= 4 && event.info.text) print(event.info.text);
  });
  events.record$.subscribe(({ name, reason, unrepeatable }) =>
    print(`recorded ${name}: ${reason}${unrepeatable ? `; cannot be repeated: ${unrepeatable}` : ""}`),
  );
  events.step$.subscribe((event) => printStep(event, level));
  if (level >= 3) events.pass$.subscribe(printPass);
}
