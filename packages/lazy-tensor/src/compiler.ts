import type { NativeDevice } from "@lazuli/cuda-backend";
import {
  closeGraph,
  dce,
  encodeNodes,
  fuseLinearCrossEntropy,
  type Graph,
  input as inputOp,
  type Node,
  type RunPassesOptions,
  runPasses,
  standardPasses,
} from "@lazuli/fx-trace";
import type { Dims } from "@lazuli/sharding";
import type { Events } from "./events.js";
import { keepMeshInputs, type MeshEnds, partitionForMesh } from "./mesh_program.js";
import type { EngineOptions } from "./options.js";
import { type Place, placeError } from "./place_error.js";
import { type CachedProgram, explainMiss, type ProgramSummary, summarize } from "./program_cache.js";
import { type Planned, planWithin } from "./remat_budget.js";

/** A recorded program that no compiled one answers. */
export interface RecordedProgram {
  /** Its key, and that key's hash. */
  readonly words: Uint32Array;
  readonly hash: number;
  /** Inputs before users; computed ones are among them where they are read. */
  readonly nodes: readonly Node[];
  readonly roots: readonly Node[];
  readonly inputs: readonly Node[];
  readonly isDonated: (input: Node) => boolean;
  /** Null on one device. */
  readonly ends: MeshEnds | null;
  /** The program run last, for saying why this one is compiled. */
  readonly previous: ProgramSummary | null;
}

interface PlannedProgram extends Planned {
  readonly places: readonly Place[];
  readonly compiled: ReturnType<NativeDevice["compile"]>;
}

/** From recorded nodes to an executable: passes, the partition for a mesh, encoding, the device's own compiler. */
export class ProgramCompiler {
  private programs = 0;

  constructor(
    private readonly device: NativeDevice,
    private readonly events: Events,
    private readonly options: EngineOptions,
  ) {}

  /** Throws CompileError and OutOfMemoryError, placed at the op they are about. */
  compile(recorded: RecordedProgram): CachedProgram {
    const { nodes, roots, inputs, isDonated, hash, words, ends, previous } = recorded;
    const number = ++this.programs;
    const made = nodes.filter((node) => node.storage === null);
    const summary = summarize(made, roots, inputs, isDonated);
    const started = performance.now();
    const lowered = this.lower(number, closeGraph(nodes, roots, inputs), ends);
    const { outputLayouts } = lowered;
    const passed = performance.now();
    const donated = (index: number): boolean => isDonated(inputs[index]);
    const plan = (each: Graph): PlannedProgram => this.plan(each, donated);
    const { remat, memoryBudgetBytes } = this.options;
    const {
      graph,
      planned,
      remat: again,
    } = remat === "none"
      ? { graph: lowered.graph, planned: plan(lowered.graph), remat: null }
      : planWithin(lowered.graph, memoryBudgetBytes, plan);
    const { places, compiled } = planned;
    if (again) {
      keepMeshInputs(lowered.graph, graph);
      const ms = performance.now() - passed;
      this.events.pass$.next({ program: number, pass: "rematerialize", ms, graph });
    }
    this.events.compile$.next({
      program: number,
      hash,
      recordedNodes: made.length,
      compiledNodes: places.length,
      reason: explainMiss(previous, summary),
      passesMs: passed - started,
      nativeMs: performance.now() - passed,
      info: compiled.info,
      graph,
      remat: again,
    });
    return {
      number,
      words,
      executable: compiled.id,
      info: compiled.info,
      places,
      summary,
      recomputed: again?.recomputed ?? 0,
      outputLayouts,
      graph: ends ? graph : null,
    };
  }

  /** Encodes the graph and has the device compile it. */
  private plan(graph: Graph, isDonated: (index: number) => boolean): PlannedProgram {
    const isInput = (node: Node): boolean => node.op.code === inputOp.code;
    const nodes = graph.nodes.filter((node) => !isInput(node));
    const encoded = encodeNodes(nodes, graph.outputs, {
      isInput,
      inputs: graph.inputs,
      isDonated: (_, index) => isDonated(index),
    });
    const places = nodes.map((node) => ({ op: node.op.name, scope: node.scope }));
    try {
      const compiled = this.device.compile(encoded.words, this.options.wantText);
      const release = (): void => this.device.release(compiled.id);
      const { arenaBytes, kernels } = compiled.info;
      const scratch = new Map(kernels.map((kernel) => [nodes[kernel.node], kernel.scratchBytes]));
      return { places, compiled, arenaBytes, scratchBytes: (node) => scratch.get(node) ?? 0, release };
    } catch (error) {
      throw placeError(error, places);
    }
  }

  private lower(
    number: number,
    recorded: Graph,
    ends: MeshEnds | null,
  ): { graph: Graph; outputLayouts: readonly Dims[] | null } {
    const { supports, verifyPasses } = this.options;
    const passOptions: RunPassesOptions = {
      verify: verifyPasses,
      onPass: ({ name, graph, wallMs }) =>
        this.events.pass$.next({ program: number, pass: name, ms: wallMs, graph }),
    };
    const whole = runPasses(recorded, standardPasses(supports, ends !== null), passOptions);
    // Of a device's own part: over a divided vocabulary the loss is in smaller ops.
    const last = [fuseLinearCrossEntropy(supports), dce];
    if (!ends) return { graph: runPasses(whole, last, passOptions), outputLayouts: null };
    const parts = partitionForMesh(whole, ends, last, passOptions);
    return { graph: parts.graph, outputLayouts: parts.outputs };
  }
}
