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
import { type MeshEnds, partitionForMesh } from "./mesh_program.js";
import type { EngineOptions } from "./options.js";
import { placeError } from "./place_error.js";
import { type CachedProgram, explainMiss, type ProgramSummary, summarize } from "./program_cache.js";

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
    const { graph, outputLayouts } = this.lower(number, closeGraph(nodes, roots, inputs), ends);
    const passed = performance.now();
    const isInput = (node: Node): boolean => node.op.code === inputOp.code;
    const compiledNodes = graph.nodes.filter((node) => !isInput(node));
    const encoded = encodeNodes(compiledNodes, graph.outputs, {
      isInput,
      inputs: graph.inputs,
      isDonated: (_, index) => isDonated(inputs[index]),
    });
    const places = compiledNodes.map((node) => ({ op: node.op.name, scope: node.scope }));
    let compiled: ReturnType<NativeDevice["compile"]>;
    try {
      compiled = this.device.compile(encoded.words, this.options.wantText);
    } catch (error) {
      throw placeError(error, places);
    }
    this.events.compile$.next({
      program: number,
      hash,
      recordedNodes: made.length,
      compiledNodes: compiledNodes.length,
      reason: explainMiss(previous, summary),
      passesMs: passed - started,
      nativeMs: performance.now() - passed,
      info: compiled.info,
      graph,
    });
    return {
      number,
      words,
      executable: compiled.id,
      info: compiled.info,
      places,
      summary,
      outputLayouts,
      graph: ends ? graph : null,
    };
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
    const whole = runPasses(recorded, standardPasses(supports), passOptions);
    // Of a device's own part: over a divided vocabulary the loss is in smaller ops.
    const last = [fuseLinearCrossEntropy(supports), dce];
    if (!ends) return { graph: runPasses(whole, last, passOptions), outputLayouts: null };
    const parts = partitionForMesh(whole, ends, last, passOptions);
    return { graph: parts.graph, outputLayouts: parts.outputs };
  }
}
