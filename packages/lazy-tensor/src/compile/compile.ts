import { GradError, GuardError } from "@lazuli/fx-trace";
import type { DeviceBuffer } from "../buffer.js";
import type { Engine } from "../engine.js";
import { TensorError } from "../errors.js";
import { GraphModule } from "../fx/graph_module.js";
import { Module } from "../nn/module.js";
import { treeLeaves, treeMap } from "../pytree.js";
import { engine } from "../runtime.js";
import { Tensor } from "../tensor.js";
import { type Call, takeApart } from "./call.js";
import { argGuard, surroundings } from "./guards.js";
import { Observed } from "./observed.js";
import { nodeIn, Recording, Unrepeatable } from "./recording.js";
import { watchedBy, watcher } from "./watcher.js";

export interface CompileOptions {
  /**
   * One recording must do: a call that it does not fit throws GuardError instead of being recorded anew. Sizes of a graph
   * module's symbolic dims may differ: each combination is recorded.
   */
  readonly fullgraph?: boolean;
  /** Recordings kept; the one used longest ago goes first. Default 8. */
  readonly cacheSize?: number;
  /** Stands in errors, warnings and LAZULI_DEBUG=1. Default: the function's name. */
  readonly name?: string;
}

/**
 * The function as one step that is repeated without recording it: `fn` runs at the first call, and again only where
 * something it depended on has changed (shapes, dtypes and layouts of tensors, arguments that are no tensors, fields of
 * the modules it ran, whether parameters require or have gradients). Its result is computed when it returns, on the way
 * to the device; gradients, parameters, optimizer state and random numbers go on as if `fn` had been called, and what
 * `fn` does besides tensors (counters, printing) happens only while it is recorded. Tensors that it returns have no
 * gradient history: call `backward()` inside. Host values that change belong into the arguments; `optimizer.lr` may be
 * set outside. A failure of the device is told by the read of a result or the next `sync()`.
 *
 *     const step = compile((ids: Tensor) => {
 *       const loss = F.crossEntropy(model.forward(ids), ids);
 *       loss.backward(); optimizer.step(); optimizer.zeroGrad();
 *       return loss;
 *     });
 *
 * Throws GuardError under `fullgraph`, TensorError for a function that returns a promise, GradError for an argument with a
 * gradient history. As torch.compile and jax.jit.
 */
export function compile<A extends unknown[], R>(
  fn: (...args: A) => R,
  options?: CompileOptions,
): (...args: A) => R;
export function compile<M extends Module>(module: M, options?: CompileOptions): M["forward"];
export function compile(
  target: ((...args: never[]) => unknown) | Module,
  options: CompileOptions = {},
): (...args: never[]) => unknown {
  const isModule = target instanceof Module;
  const fn = isModule ? (...args: never[]) => target.forward(...args) : target;
  const name = options.name ?? (isModule ? target.constructor.name : fn.name || "the function");
  const isDynamic = target instanceof GraphModule && target.graph.symbols.size > 0;
  const compiled = new Compiled(
    fn as (...args: unknown[]) => unknown,
    { cacheSize: 8, fullgraph: false, ...options, name },
    isDynamic,
  );
  return (...args) => compiled.call(args);
}

class Compiled {
  /** The one used last first. */
  private readonly recordings: Recording[] = [];
  private warned = false;
  private recorded = false;

  constructor(
    private readonly fn: (...args: unknown[]) => unknown,
    private readonly options: Required<CompileOptions>,
    private readonly isDynamic: boolean,
  ) {}

  call(args: unknown[]): unknown {
    const current = engine();
    // A part of what is being recorded: by another compiled function, or by a transform into a graph of its own.
    if (watcher !== null || !current.isRecording) return this.fn(...args);
    if (!current.isSettled) current.takeStep();
    const call = takeApart(args);
    let reason = "the first call";
    for (let i = 0; i < this.recordings.length; i++) {
      const recording = this.recordings[i];
      const mismatch = recording.mismatch(current, call);
      if (mismatch === null) {
        if (i > 0) this.recordings.unshift(...this.recordings.splice(i, 1));
        return recording.repeat(current, call);
      }
      if (i === 0) reason = mismatch;
    }
    const { fullgraph, name } = this.options;
    if (fullgraph && this.recorded && !this.isOtherSize(current, call))
      throw new GuardError("compile", `${name}: ${reason}`);
    return this.record(current, call, args, reason);
  }

  /** Whether the call differs from a recorded one in the sizes of symbolic dims alone: the graph checks these itself. */
  private isOtherSize(current: Engine, call: Call): boolean {
    return this.isDynamic && this.recordings.some((each) => each.mismatch(current, call, true) === null);
  }

  private record(current: Engine, call: Call, args: unknown[], reason: string): unknown {
    const { name, cacheSize, fullgraph } = this.options;
    for (const [i, tensor] of call.tensors.entries())
      if (tensor.requiresGrad && !tensor.isLeaf)
        throw new GradError(
          "compile",
          `${name}: tensor argument ${i} has a gradient history: detach() it, or compute it inside`,
        );
    const observed = new Observed();
    const before = {
      around: surroundings(current),
      guard: argGuard(call),
      argNodes: call.tensors.map(Tensor.nodeOf),
    };
    const result = watchedBy(observed, () => this.fn(...args));
    if (result instanceof Promise)
      throw new TensorError(
        "compile",
        `${name} returns a promise: a compiled function computes one step and awaits nothing`,
      );
    const results = treeLeaves(result);
    const taken = current.takeStep(results.filter(({ isPending }) => isPending).map(Tensor.nodeOf));
    this.recorded = true;
    try {
      this.recordings.unshift(new Recording({ ...before, call, observed, taken, result, results }));
      this.recordings.splice(cacheSize);
      current.events.record$.next({ name, reason, unrepeatable: null });
      if (observed.uploads > 0) this.warnOfData(observed.uploads);
    } catch (error) {
      if (!(error instanceof Unrepeatable)) throw error;
      if (fullgraph) throw new GuardError("compile", `${name} cannot be repeated: ${error.message}`);
      current.events.record$.next({ name, reason, unrepeatable: error.message });
      this.warn(`${name} is recorded anew at every call: ${error.message}`);
    }
    const computed = new Set(taken.outputs);
    return treeMap(result, (tensor) => {
      const node = Tensor.nodeOf(tensor);
      return tensor.isState || call.tensors.includes(tensor) || !computed.has(node)
        ? tensor
        : new Tensor(nodeIn(node.storage as DeviceBuffer));
    });
  }

  private warnOfData(count: number): void {
    this.warn(
      `${this.options.name} makes ${count === 1 ? "a tensor" : `${count} tensors`} of data: repetitions use the data of the recording. Pass data as arguments, or make constants outside`,
    );
  }

  private warn(text: string): void {
    if (this.warned) return;
    this.warned = true;
    process.emitWarning(text, "LazuliWarning");
  }
}
