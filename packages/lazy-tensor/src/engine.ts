import type { Ids, NativeDevice, RunResult } from "@lazuli/cuda-backend";
import {
  closeGraph,
  currentRecorder,
  currentScope,
  dce,
  encodeNodes,
  formatType,
  fuseLinearCrossEntropy,
  hashWords,
  input as inputOp,
  type Node,
  ops,
  type RunPassesOptions,
  reachable,
  runPasses,
  setRecorder,
  standardPasses,
  type TensorType,
  TraceError,
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
import { debugLevel } from "./debug.js";
import { StaleTensorError, TensorError } from "./errors.js";
import type { Events, StepEvent } from "./events.js";
import { activeTrace } from "./fx/active.js";
import { keyOnMesh, partitionForMesh, stateLayout } from "./mesh_program.js";
import { type Communication, checkedCommunication, type EngineOptions, TOKENS } from "./options.js";
import { placeError } from "./place_error.js";
import { type CachedProgram, explainMiss, ProgramCache, summarize } from "./program_cache.js";

/** What holds a node: the engine keeps values of those assigned to until the step is taken. */
export interface Holder {
  node: Node;
  readonly name: string;
  /** Parameters, buffers and optimizer state: every new value is kept, and takes over the old one's memory. */
  isState: boolean;
  /** The buffer the holder had when it was last computed; donated when the holder's new value is. */
  committed: DeviceBuffer | null;
  /** How the value lies over the engine's mesh after every step; null where nothing was asked. */
  layout: Dims | null;
}

/** A holder of a gradient: kept if it still has one when the step is taken. */
export interface GradHolder {
  readonly grad: { readonly node: Node } | null;
  readonly presentLayout: Dims | null;
  /** Where not as the value itself. */
  readonly gradLayout: Dims | null;
}

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
  /** Those whose gradients were filled. */
  readonly gradHolders: readonly GradHolder[];
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
  /** Nodes given to tensors since the last step: those nothing consumed are kept. */
  private visible = new Set<Node>();
  private pendingCount = 0;
  private assigned = new Set<Holder>();
  private gradHolders = new Set<GradHolder>();
  private kept = new Set<Node>();
  /** First values of parameters and other state: computed by a program of their own, so that step 1 equals step 2. */
  private initials = new Map<Holder, Node>();
  private retired: Node[] = [];
  private warnedPending = false;
  private programs = 0;
  private inFlight: Promise<unknown> = Promise.resolve();
  /** Runs of repeated steps that nobody waits for yet: the next step tells of their failures. */
  private readonly unreported = new Set<Promise<void>>();
  /** Meshes whose axes are made of those of the engine's. */
  private readonly served = new WeakSet<Mesh>();
  private randomState = { seed: 0, steps: 0, stream: 0, key: null as Node | null };
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
    this.cache = new ProgramCache(options.cacheCapacity, (program) => device.release(program.executable));
    this.randomState.seed = options.seed;
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
    if (activeTrace === null && this.isRecording) this.visible.add(node);
  }

  /** The node's tensor was given another value in place: unless something else asks for the old one, it is not kept. */
  hide(node: Node): void {
    this.visible.delete(node);
  }

  /** Keeps the node's value in the next step whatever consumes it. */
  keep(node: Node): void {
    activeTrace?.refuse("sync", "a step is taken in what is traced: call sync() outside");
    this.kept.add(node);
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
    if (node.storage === null) this.initials.set(holder, node);
    else this.commit(holder);
  }

  markAssigned(holder: Holder): void {
    this.assigned.add(holder);
  }

  markGrad(holder: GradHolder): void {
    this.gradHolders.add(holder);
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
    this.randomState = { seed, steps: 0, stream: 0, key: null };
  }

  /** The step's RNG key and a stream no other call of the step has. The key is an input: new numbers never recompile. */
  nextRandom(): { key: Node; stream: number } {
    if (activeTrace !== null) return activeTrace.nextRandom();
    const state = this.randomState;
    if (!state.key || (state.key.storage as DeviceBuffer).state !== "live") state.key = this.newRandomKey();
    return { key: state.key, stream: state.stream++ };
  }

  /** The key of a step. */
  newRandomKey(): Node {
    const { seed, steps } = this.randomState;
    this.randomState.steps++;
    return watchedBy(null, () =>
      this.upload({ dtype: "int64", shape: [2] }, new BigInt64Array([BigInt(seed), BigInt(steps)])),
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
    this.requireLive(node, buffer);
    const download = (id: number): Promise<void> | null => target && this.device.download(id, target);
    if (!buffer.layout?.some((axes) => axes.length > 0)) return (await download(buffer.id)) ?? undefined;
    // Its parts are gathered by a program of its own, so that it works alike wherever the other parts are.
    const whole = withRecorder(null, () => ops.detach([node], {}));
    const layouts = new Map([[whole, replicated(node.shape.length)]]);
    const gathered = this.runProgram([whole], new Set(), performance.now(), layouts).done;
    this.unreported.delete(gathered); // told here
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
    this.retired.push(node);
  }

  private requireLive(node: Node, buffer: DeviceBuffer): void {
    if (buffer.state === "live") return;
    if (buffer.state === "traced")
      throw new TraceError(
        node.op.name,
        `the value ${formatType(node.type)} was traced and has no data: what the traced function computed was kept (in a cache?) and used after it`,
        node.scope,
      );
    const what =
      buffer.state === "donated"
        ? "was overwritten by the update of the parameter or state it came from"
        : "was disposed (by dispose(), `using`, or zeroGrad())";
    throw new StaleTensorError(
      node.op.name,
      `the value ${formatType(node.type)} is gone: it ${what}. Pass the tensor to sync(tensor), or clone() it, before the step that ends it`,
      node.scope,
    );
  }

  // --- the step ----------------------------------------------------------------------------------------------------

  /** Computes everything recorded that the rule of step roots keeps. Resolves when the device is done. */
  step(): Promise<void> {
    this.takeStep();
    const runs = [...this.unreported];
    this.unreported.clear();
    return Promise.all([this.inFlight, ...runs]).then(() => undefined);
  }

  /** Whether everything recorded has been computed or given up. */
  get isSettled(): boolean {
    const { assigned, gradHolders, kept, retired } = this;
    return this.pendingCount + assigned.size + gradHolders.size + kept.size + retired.length === 0;
  }

  /**
   * Begins a step. With `results` it keeps these, new values of state and gradients, and nothing else that was only shown.
   * What fails is told by the next `step()`.
   */
  takeStep(results: readonly Node[] | null = null): TakenStep {
    activeTrace?.refuse("sync", "a step is taken in what is traced: call sync() outside");
    const started = performance.now();
    const initials = new Set([...this.initials.values()].filter((node) => node.storage === null));
    if (initials.size > 0) {
      const layouts = new Map<Node, Dims>();
      for (const [holder, node] of this.initials) layouts.set(node, stateLayout(holder, node));
      this.runProgram([...initials], new Set(), started, layouts);
    }
    for (const [holder, node] of this.initials) {
      if (holder.committed && holder.committed !== node.storage) this.pool.free(holder.committed);
      this.commit(holder, node);
    }
    this.initials.clear();

    if (results) {
      this.visible.clear();
      this.kept = new Set(results);
    }
    const gradHolders = [...this.gradHolders];
    const randomKey = this.randomState.key;
    const { roots, holders, replaced, layouts } = this.takeRoots();
    const outputs = roots.filter((node) => node.storage === null);
    const ran =
      outputs.length > 0
        ? this.runProgram(outputs, replaced, performance.now(), layouts)
        : { program: null, inputs: [], donated: [] };
    // State that was overwritten without being read is no input of the program: its memory is given back here.
    for (const buffer of replaced) this.pool.free(buffer);
    for (const node of this.retired.splice(0)) this.free(node);
    for (const holder of holders) this.commit(holder);
    return { ...ran, outputs, holders, gradHolders, randomKey };
  }

  /** Whether the cache has the program still; marks it as used. */
  hasProgram(program: CachedProgram): boolean {
    return this.cache.use(program);
  }

  /** Runs a program of a step once more; `made` are the outputs that are new. What fails is told by the next `step()`. */
  repeat(program: CachedProgram, ends: ProgramEnds, ids: ProgramIds, made: readonly DeviceBuffer[]): void {
    const started = performance.now();
    const done = this.start(program, ids, made);
    this.follow(this.watch(done, program, ends, true, performance.now() - started, null));
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

  private follow(done: Promise<void>): void {
    this.unreported.add(done);
    this.inFlight = done.then(
      () => this.unreported.delete(done),
      () => undefined,
    );
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
  async idle(): Promise<void> {
    await this.inFlight;
  }

  /** The values this step keeps, and the buffers their updates replace. */
  private takeRoots(): {
    roots: Node[];
    holders: Holder[];
    replaced: Set<DeviceBuffer>;
    layouts: Map<Node, Dims>;
  } {
    const roots = new Set<Node>();
    const layouts = new Map<Node, Dims>();
    const onMesh = this.mesh !== null;
    const replaced = new Set<DeviceBuffer>();
    const holders = [...this.assigned];
    for (const holder of holders) {
      roots.add(holder.node);
      if (onMesh && (holder.layout || holder.isState))
        layouts.set(holder.node, stateLayout(holder, holder.node));
      const old = holder.committed;
      if (old && old !== holder.node.storage && old.state === "live") replaced.add(old);
    }
    for (const { grad, presentLayout, gradLayout } of this.gradHolders) {
      if (!grad) continue;
      roots.add(grad.node);
      if (onMesh) layouts.set(grad.node, gradLayout ?? presentLayout ?? replicated(grad.node.shape.length));
    }
    for (const node of this.kept) roots.add(node);
    for (const node of this.visible) if (node.useCount === 0) roots.add(node);
    this.assigned = new Set();
    this.gradHolders = new Set();
    this.kept = new Set();
    this.visible = new Set();
    this.pendingCount = 0;
    this.randomState.key = null;
    this.randomState.stream = 0;
    // In the order of recording: a step that assigns the same values in another order is the same program.
    return { roots: [...roots].sort((a, b) => a.id - b.id), holders, replaced, layouts };
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
      this.requireLive(node, node.storage as DeviceBuffer);
      if ((node.storage as DeviceBuffer).isOutdated) this.layOutAnew(node);
    }
    const encoded = encodeNodes(nodes, roots, { isInput, isDonated });
    const mesh = this.mesh;
    const key = mesh
      ? keyOnMesh(encoded.words, {
          mesh,
          contextParallel: this.contextParallel,
          communication: this.communication,
          inputs: encoded.inputs,
          roots,
          layouts,
        })
      : encoded.words;
    const hash = hashWords(key);
    let program = this.cache.find(hash, key);
    const cached = program !== null;
    if (!program) {
      program = this.compile(hash, key.slice(), nodes, roots, encoded.inputs, isDonated, layouts);
      this.cache.add(hash, program);
    }

    const inputBuffers = encoded.inputs.map((node) => node.storage as DeviceBuffer);
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
    this.follow(settled);
    const taken = inputBuffers.map((buffer) => donated.has(buffer));
    return { program, inputs: encoded.inputs, donated: taken, done: settled };
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
      this.unreported.delete(done); // what reads it fails too
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

  // --- compiling ---------------------------------------------------------------------------------------------------

  private compile(
    hash: number,
    words: Uint32Array,
    nodes: readonly Node[],
    roots: readonly Node[],
    inputs: readonly Node[],
    isDonated: (input: Node) => boolean,
    layouts: ReadonlyMap<Node, Dims>,
  ): CachedProgram {
    const number = ++this.programs;
    const recorded = nodes.filter((node) => node.storage === null);
    const summary = summarize(recorded, roots, inputs, isDonated);
    const reason = explainMiss(this.cache.last?.summary ?? null, summary);
    const started = performance.now();
    const passOptions: RunPassesOptions = {
      verify: this.options.verifyPasses,
      onPass: ({ name, graph: after, wallMs }) =>
        this.events.pass$.next({ program: number, pass: name, ms: wallMs, graph: after }),
    };
    const { supports } = this.options;
    let graph = runPasses(closeGraph(nodes, roots, inputs), standardPasses(supports), passOptions);
    // Of a device's own part: over a divided vocabulary the loss is in smaller ops.
    const last = [fuseLinearCrossEntropy(supports), dce];
    let outputLayouts: readonly Dims[] | null = null;
    const mesh = this.mesh;
    if (mesh) {
      const { contextParallel, communication } = this;
      const ends = { mesh, contextParallel, communication, inputs, roots, layouts };
      const parts = partitionForMesh(graph, ends, last, passOptions);
      graph = parts.graph;
      outputLayouts = parts.outputs;
    } else {
      graph = runPasses(graph, last, passOptions);
    }
    const passed = performance.now();
    const isInput = (node: Node): boolean => node.op.code === inputOp.code;
    const compiledNodes = graph.nodes.filter((node) => !isInput(node));
    const program = encodeNodes(compiledNodes, graph.outputs, {
      isInput,
      inputs: graph.inputs,
      isDonated: (_, index) => isDonated(inputs[index]),
    });
    const places = compiledNodes.map((node) => ({ op: node.op.name, scope: node.scope }));
    let compiled: ReturnType<NativeDevice["compile"]>;
    try {
      compiled = this.device.compile(program.words, this.options.wantText);
    } catch (error) {
      throw placeError(error, places);
    }
    this.events.compile$.next({
      program: number,
      hash,
      recordedNodes: recorded.length,
      compiledNodes: compiledNodes.length,
      reason,
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
      graph: mesh ? graph : null,
    };
  }
}
