import type { Ids, NativeDevice, RunResult } from "@lazuli/cuda-backend";
import {
  currentRecorder,
  currentScope,
  encodeNodes,
  formatType,
  hashWords,
  input as inputOp,
  type Node,
  ops,
  reachable,
  setRecorder,
  type TensorType,
  withRecorder,
} from "@lazuli/fx-trace";
import {
  type ContextParallel,
  type Dims,
  type Mesh,
  refineMesh,
  replicated,
  ShardingError,
} from "@lazuli/sharding";
import { inject, injectable } from "tsyringe";
import { checkAgreement } from "./agreement.js";
import { BufferPool, type DeviceBuffer } from "./buffer.js";
import { watchedBy, watcher } from "./compile/watcher.js";
import { ProgramCompiler } from "./compiler.js";
import { debugLevel } from "./debug.js";
import { TensorError } from "./errors.js";
import type { Events, StepEvent } from "./events.js";
import { activeTrace } from "./fx/active.js";
import type { GradHolder, Holder } from "./holder.js";
import { requireLive } from "./liveness.js";
import { keyOnMesh } from "./mesh_program.js";
import { type Communication, checkedCommunication, type EngineOptions, TOKENS } from "./options.js";
import { placeError } from "./place_error.js";
import { type CachedProgram, ProgramCache } from "./program_cache.js";
import { RandomState } from "./random_state.js";
import { Runs } from "./runs.js";
import { StepRoots } from "./step_roots.js";

type ProgramEnds = Pick<StepEvent, "inputs" | "outputs">;
/** The same by number. */
interface ProgramIds {
  readonly inputs: Ids;
  readonly outputs: Ids;
}

/** A step as it was taken, for repeating it. */
export interface TakenStep {
  /** Null where nothing had to be computed. */
  readonly program: CachedProgram | null;
  /** What the program reads, in its order, and whether it takes over the memory. */
  readonly inputs: readonly Node[];
  readonly donated: readonly boolean[];
  /** What it computes, in its order. */
  readonly outputs: readonly Node[];
  /** State and other tensors that were given a new value. */
  readonly holders: readonly Holder[];
  /** The key that random numbers were drawn with. */
  readonly randomKey: Node | null;
}

/**
 * The pending lazy graph and the step that computes it. What a step keeps is decided by rule, never by the garbage
 * collector (docs/architecture.md, "Step roots").
 */
@injectable()
export class Engine {
  private readonly pool: BufferPool;
  private readonly cache: ProgramCache;
  private readonly compiler: ProgramCompiler;
  private readonly roots = new StepRoots();
  private pendingCount = 0;
  private warnedPending = false;
  private readonly runs = new Runs();
  /** Meshes whose axes are made of those of the engine's. */
  private readonly served = new WeakSet<Mesh>();
  private random: RandomState;
  /** Takes the time of every kernel; on under LAZULI_DEBUG=2. */
  profiling = debugLevel() >= 2;
  /** How attention over a sequence that is divided is computed: of the programs compiled from now on. */
  contextParallel: ContextParallel;
  /** How collectives are placed: of the programs compiled from now on. */
  communication: Communication;

  constructor(
    @inject(TOKENS.device) readonly device: NativeDevice,
    @inject(TOKENS.events) readonly events: Events,
    @inject(TOKENS.options) private readonly options: EngineOptions,
  ) {
    this.pool = new BufferPool(device);
    this.compiler = new ProgramCompiler(device, events, options);
    this.cache = new ProgramCache(options.cacheCapacity, (program) => device.release(program.executable));
    this.random = this.seeded(options.seed);
    this.contextParallel = options.contextParallel;
    const { overlap, bucketBytes, prefetch } = options;
    this.communication = checkedCommunication("configure", { overlap, bucketBytes, prefetch });
  }

  /** Makes this engine's pending graph the one that ops are recorded in. */
  activate(): void {
    setRecorder(this);
  }

  // --- recording ---------------------------------------------------------------------------------------------------

  /** Called for every node recorded. */
  add(_node: Node): void {
    if (++this.pendingCount > this.options.pendingLimit && !this.warnedPending) {
      this.warnedPending = true;
      process.emitWarning(
        `${this.pendingCount} operations are recorded and none has run yet: call \`await sync()\` once a step so that the graph is computed and freed`,
        "LazuliWarning",
      );
    }
  }

  /** False while a transform records a function into a graph of its own. */
  get isRecording(): boolean {
    return currentRecorder() === this;
  }

  /** Throws TensorError where a function is only being recorded: `what` needs a value, or a step, of its own. */
  requireRecording(op: string, what: string): void {
    if (this.isRecording) return;
    throw new TensorError(
      op,
      `${what} inside a function that is being traced: it holds no values`,
      currentScope(),
    );
  }

  /** A tensor now shows this node to the user. */
  show(node: Node): void {
    if (activeTrace === null && this.isRecording) this.roots.visible.add(node);
  }

  /** The node's tensor was given another value in place: unless something else asks for the old one, it is not kept. */
  hide(node: Node): void {
    this.roots.visible.delete(node);
  }

  /** Keeps the node's value in the next step whatever consumes it. */
  keep(node: Node): void {
    activeTrace?.refuse("sync", "a step is taken in what is traced: call sync() outside");
    this.roots.kept.add(node);
  }

  /** The holder's present node is the first value of a parameter, a buffer or optimizer state. */
  markInitial(holder: Holder): void {
    activeTrace?.refuse(
      "Parameter",
      "a parameter, a buffer or optimizer state is made or loaded in what is traced",
    );
    this.requireRecording("state", "a parameter, a buffer or optimizer state is made or set");
    const node = holder.node;
    holder.isState = true;
    if (node.storage === null) this.roots.initials.set(holder, node);
    else this.commit(holder);
  }

  markAssigned(holder: Holder): void {
    this.roots.assigned.add(holder);
  }

  markGrad(holder: GradHolder): void {
    this.roots.gradHolders.add(holder);
  }

  /** A leaf that holds `bytes`, uploaded now. */
  upload(type: TensorType, bytes: ArrayBufferView): Node {
    const buffer = this.pool.create(type);
    this.device.upload(buffer.id, bytes);
    const node = this.leaf(type, buffer);
    activeTrace?.uploaded(node, type, bytes);
    return node;
  }

  /** A leaf that lies over `mesh`, the engine's of now or before: by local device the bytes of its part, padding included. */
  uploadParts(type: TensorType, layout: Dims, mesh: Mesh, parts: ReadonlyMap<number, ArrayBufferView>): Node {
    activeTrace?.refuse("upload", "data is laid out over a mesh in what is traced: give it as an argument");
    const buffer = this.pool.create(type, layout, mesh);
    for (const [device, bytes] of parts) this.device.upload(buffer.id, bytes, device);
    return this.leaf(type, buffer);
  }

  private leaf({ shape, dtype }: TensorType, buffer: DeviceBuffer): Node {
    const node = withRecorder(null, () => inputOp([], { index: 0, shape, dtype }));
    node.storage = buffer;
    watcher?.upload();
    return node;
  }

  // --- the mesh ----------------------------------------------------------------------------------------------------

  /** The mesh that programs are partitioned over; null before anything was laid out over one. */
  get mesh(): Mesh | null {
    return this.pool.mesh;
  }

  /**
   * The mesh that programs are partitioned over, with axes that those of `mesh` are made of: it becomes finer where it must.
   * Throws ShardingError for a mesh of another size than there are devices, or one that no finer mesh serves besides.
   */
  useMesh(mesh: Mesh): Mesh {
    const { root } = mesh;
    if (this.mesh && this.served.has(root)) return this.mesh;
    const { deviceCount } = this.device;
    if (root.size !== deviceCount)
      throw new ShardingError(
        "Mesh",
        `${root} has ${root.size} devices, and there ${deviceCount === 1 ? "is 1" : `are ${deviceCount}`}: ` +
          `configure({ virtualDevices: ${root.size} }), or start ${root.size} processes with \`lazuli run --nprocs ${root.size}\``,
      );
    this.pool.mesh = this.mesh ? refineMesh(this.mesh, root) : root;
    this.served.add(root);
    return this.pool.mesh;
  }

  // --- random numbers ----------------------------------------------------------------------------------------------

  manualSeed(seed: number): void {
    this.random = this.seeded(seed);
  }

  /** The step's RNG key and a stream no other call of the step has. The key is an input: new numbers never recompile. */
  nextRandom(): { key: Node; stream: number } {
    if (activeTrace !== null) return activeTrace.nextRandom();
    return this.random.next();
  }

  /** The key of another step. */
  newRandomKey(): Node {
    return this.random.newKey();
  }

  private seeded(seed: number): RandomState {
    return new RandomState(seed, (words) =>
      watchedBy(null, () => this.upload({ dtype: "int64", shape: [2] }, words)),
    );
  }

  // --- values ------------------------------------------------------------------------------------------------------

  bufferOf(node: Node): DeviceBuffer | null {
    return node.storage as DeviceBuffer | null;
  }

  /**
   * Copies the node's value out, taking a step first where it is not computed yet. Every process must call it for a value
   * that lies over the mesh; those without a target take part in gathering it and no more.
   */
  async read(node: Node, target: ArrayBufferView | null): Promise<void> {
    if (node.storage === null) {
      this.requireRecording("read", `the value ${formatType(node.type)} is read`);
      this.keep(node);
      await this.step();
    }
    const buffer = node.storage as DeviceBuffer;
    requireLive(node);
    const download = (id: number): Promise<void> | null => target && this.device.download(id, target);
    if (!buffer.layout?.some((axes) => axes.length > 0)) return (await download(buffer.id)) ?? undefined;
    // Its parts are gathered by a program of its own, so that it works alike wherever the other parts are.
    const whole = withRecorder(null, () => ops.detach([node], {}));
    const layouts = new Map([[whole, replicated(node.shape.length)]]);
    const gathered = this.runProgram([whole], new Set(), performance.now(), layouts).done;
    this.runs.leaveOut(gathered); // told here
    const copy = whole.storage as DeviceBuffer;
    try {
      await Promise.all([gathered, download(copy.id)]);
    } finally {
      this.pool.free(copy);
    }
  }

  free(node: Node): void {
    if (activeTrace !== null) return; // what was made in it has no memory, and the rest is not its to end
    const buffer = node.storage as DeviceBuffer | null;
    if (buffer) this.pool.free(buffer);
  }

  /** Gives the node's memory back with the next step, which may still read it. */
  retire(node: Node): void {
    this.roots.retired.push(node);
  }

  // --- the step ----------------------------------------------------------------------------------------------------

  /** Computes everything recorded that the rule of step roots keeps. Resolves when the device is done. */
  step(): Promise<void> {
    this.takeStep();
    return this.runs.report();
  }

  /** Whether everything recorded has been computed or given up. */
  get isSettled(): boolean {
    return this.pendingCount === 0 && this.roots.isEmpty;
  }

  /**
   * Begins a step. With `results` it keeps these, new values of state and gradients, and nothing else that was only shown.
   * What fails is told by the next `step()`.
   */
  takeStep(results: readonly Node[] | null = null): TakenStep {
    activeTrace?.refuse("sync", "a step is taken in what is traced: call sync() outside");
    const started = performance.now();
    const initials = this.roots.waitingInitials();
    if (initials.nodes.length > 0) this.runProgram(initials.nodes, new Set(), started, initials.layouts);
    for (const [holder, node] of this.roots.initials) {
      if (holder.committed && holder.committed !== node.storage) this.pool.free(holder.committed);
      this.commit(holder, node);
    }
    this.roots.initials.clear();

    if (results) this.roots.keepOnly(results);
    const randomKey = this.random.key;
    const { nodes, holders, replaced, layouts } = this.roots.take(this.mesh !== null);
    this.pendingCount = 0;
    this.random.endStep();
    const outputs = nodes.filter((node) => node.storage === null);
    const ran =
      outputs.length > 0
        ? this.runProgram(outputs, replaced, performance.now(), layouts)
        : { program: null, inputs: [], donated: [] };
    // State that was overwritten without being read is no input of the program: its memory is given back here.
    for (const buffer of replaced) this.pool.free(buffer);
    for (const node of this.roots.retired.splice(0)) this.free(node);
    for (const holder of holders) this.commit(holder);
    return { ...ran, outputs, holders, randomKey };
  }

  /** Whether the cache has the program still; marks it as used. */
  hasProgram(program: CachedProgram): boolean {
    return this.cache.use(program);
  }

  /** Runs a program of a step once more; `made` are the outputs that are new. What fails is told by the next `step()`. */
  repeat(program: CachedProgram, ends: ProgramEnds, ids: ProgramIds, made: readonly DeviceBuffer[]): void {
    const started = performance.now();
    const done = this.start(program, ids, made);
    this.runs.add(this.watch(done, program, ends, true, performance.now() - started, null));
  }

  private start(program: CachedProgram, { inputs, outputs }: ProgramIds, made: readonly DeviceBuffer[]) {
    try {
      return this.device.run(program.executable, inputs, outputs, this.profiling);
    } catch (error) {
      // Refused: the device knows nothing of these buffers, and is not to be told of their end.
      for (const buffer of made) this.pool.forget(buffer);
      throw error;
    }
  }

  /** A value that a repeated step is about to compute. */
  createBuffer(type: TensorType, layout: Dims | null): DeviceBuffer {
    return this.pool.create(type, layout);
  }

  freeBuffer(buffer: DeviceBuffer): void {
    this.pool.free(buffer);
  }

  donateBuffer(buffer: DeviceBuffer): void {
    this.pool.forget(buffer, "donated");
  }

  /** The holder's value is computed, or on its way: its buffer is the holder's until the next. */
  private commit(holder: Holder, node = holder.node): void {
    holder.committed = this.bufferOf(node);
    if (holder.committed) holder.committed.owner = holder;
  }

  /** Resolves when every step handed to the device is done. */
  idle(): Promise<void> {
    return this.runs.idle();
  }

  private runProgram(
    roots: readonly Node[],
    donated: ReadonlySet<DeviceBuffer>,
    started: number,
    layouts: ReadonlyMap<Node, Dims>,
  ): { program: CachedProgram; inputs: readonly Node[]; donated: readonly boolean[]; done: Promise<void> } {
    const isInput = (node: Node): boolean => node.storage !== null;
    const isDonated = (node: Node): boolean => donated.has(node.storage as DeviceBuffer);
    const nodes = reachable(roots, isInput);
    for (const node of nodes) {
      if (node.storage === null) continue;
      requireLive(node);
      if ((node.storage as DeviceBuffer).isOutdated) this.layOutAnew(node);
    }
    const encoded = encodeNodes(nodes, roots, { isInput, isDonated });
    const { mesh, contextParallel, communication } = this;
    const { inputs } = encoded;
    const laid = mesh && { mesh, contextParallel, communication, inputs, roots, layouts };
    const key = laid ? keyOnMesh(encoded.words, laid) : encoded.words;
    const hash = hashWords(key);
    let program = this.cache.find(hash, key);
    const cached = program !== null;
    if (!program) {
      const previous = this.cache.last?.summary ?? null;
      const recorded = { hash, words: key.slice(), nodes, roots, inputs, isDonated, ends: laid, previous };
      program = this.compiler.compile(recorded);
      this.cache.add(hash, program);
    }

    const inputBuffers = inputs.map((node) => node.storage as DeviceBuffer);
    const { outputLayouts } = program;
    const outputBuffers = roots.map((node, i) => this.pool.create(node.type, outputLayouts?.[i]));
    const agreed = cached ? null : this.agree(program);
    agreed?.catch(() => {}); // awaited by watch, after the run
    const idOf = ({ id }: DeviceBuffer): number => id;
    const ids = { inputs: inputBuffers.map(idOf), outputs: outputBuffers.map(idOf) };
    const done = this.start(program, ids, outputBuffers);
    for (const buffer of inputBuffers) if (donated.has(buffer)) this.pool.forget(buffer, "donated");
    roots.forEach((node, i) => {
      node.storage = outputBuffers[i];
      if (node.isLeaf || !node.requiresGrad) node.inputs = [];
    });
    const ends = { inputs: inputBuffers, outputs: outputBuffers };
    const settled = this.watch(done, program, ends, cached, performance.now() - started, agreed);
    this.runs.add(settled);
    const taken = inputBuffers.map((buffer) => donated.has(buffer));
    return { program, inputs, donated: taken, done: settled };
  }

  private async watch(
    done: Promise<RunResult>,
    program: CachedProgram,
    ends: ProgramEnds,
    cached: boolean,
    hostMs: number,
    agreed: Promise<void> | null,
  ): Promise<void> {
    let result: RunResult;
    try {
      // Where ranks differ the run fails too; what differs says more.
      if (agreed) await Promise.allSettled([done]).then(() => agreed);
      result = await done;
    } catch (error) {
      throw placeError(error, program.places);
    }
    this.events.step$.next({
      program: program.number,
      cached,
      hostMs,
      deviceMs: (result.endUs - result.startUs) / 1000,
      startUs: result.startUs,
      endUs: result.endUs,
      launchedUs: result.launchedUs,
      info: program.info,
      graph: program.graph,
      ...ends,
      kernels: result.kernels,
    });
    if (this.events.memory$.observed) this.events.memory$.next(this.device.stats());
  }

  /** Gathers a value by the mesh that it was laid out over, before this became finer. */
  private layOutAnew(node: Node): void {
    const buffer = node.storage as DeviceBuffer;
    const finer = this.pool.mesh;
    this.pool.mesh = buffer.mesh;
    try {
      const whole = withRecorder(null, () => ops.detach([node], {}));
      const layouts = new Map([[whole, replicated(node.shape.length)]]);
      const { done } = this.runProgram([whole], new Set(), performance.now(), layouts);
      this.runs.leaveOut(done); // what reads it fails too
      node.storage = whole.storage;
    } finally {
      this.pool.mesh = finer;
    }
    this.pool.free(buffer);
  }

  /** Before the first run of a program: that every process is to run the same. Throws CollectiveError. */
  private agree(program: CachedProgram): Promise<void> | null {
    const { device } = this;
    if (device.deviceCount === device.localDevices.length) return null;
    return checkAgreement(device, program);
  }
}
