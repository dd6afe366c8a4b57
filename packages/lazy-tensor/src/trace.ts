import type { Subscription } from "rxjs";
import type { Engine } from "./engine.js";
import type { CompileEvent, MemoryEvent, StepEvent } from "./events.js";
import { writeFileAtomically } from "./io/files.js";

// Chrome's trace event format, which Perfetto and chrome://tracing open: `X` is a span, `C` a counter, `M` a name; times are
// microseconds. https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU

interface TraceEvent {
  /** The clock of `ts`; the device's is set to the host's when the trace is written. */
  readonly clock: "host" | "device";
  readonly name: string;
  readonly ph: "X" | "C";
  readonly pid: number;
  readonly tid: number;
  readonly ts: number;
  readonly dur?: number;
  readonly args?: Readonly<Record<string, unknown>>;
}

const PID = 1;
const lanes = { host: 1, device: 2, kernels: 3 } as const;
const laneNames = {
  host: "host: record, look up, compile",
  device: "device: steps",
  kernels: "device: kernels",
};

const nowUs = (): number => performance.now() * 1000;

/** Records an engine's steps, compiles and memory from now on, and writes them as a Chrome trace. */
export class TraceRecorder implements Disposable {
  private readonly events: TraceEvent[] = [];
  private readonly subscriptions: Subscription[];
  private stepsWithKernels = 0;
  /** Host clock minus device clock: the least seen, as an event may only arrive late. */
  private clockOffsetUs = Number.POSITIVE_INFINITY;

  /** Kernels are timed in the first `kernelSteps` steps, so that a trace of a long run stays small. */
  constructor(
    private readonly engine: Engine,
    private readonly kernelSteps = 30,
  ) {
    const { compile$, step$, memory$ } = engine.events;
    engine.profiling = kernelSteps > 0;
    this.subscriptions = [
      compile$.subscribe((event) => this.onCompile(event)),
      step$.subscribe((event) => this.onStep(event)),
      memory$.subscribe((event) => this.onMemory(event)),
    ];
  }

  private span(
    clock: TraceEvent["clock"],
    lane: keyof typeof lanes,
    name: string,
    ts: number,
    dur: number,
    args?: TraceEvent["args"],
  ): void {
    this.events.push({ clock, name, ph: "X", pid: PID, tid: lanes[lane], ts, dur, args });
  }

  private onCompile(event: CompileEvent): void {
    const { program, passesMs, nativeMs, reason, recordedNodes, compiledNodes, info } = event;
    const dur = (passesMs + nativeMs) * 1000;
    const args = {
      reason,
      recordedNodes,
      compiledNodes,
      passesMs,
      nativeMs,
      kernels: info.kernels.length,
      arenaBytes: info.arenaBytes,
    };
    this.span("host", "host", `compile #${program}`, nowUs() - dur, dur, args);
  }

  private onStep(event: StepEvent): void {
    const { program, cached, hostMs, startUs, endUs, info, kernels } = event;
    this.clockOffsetUs = Math.min(this.clockOffsetUs, nowUs() - endUs);
    // The hand-over to the device is where the host's part ends and, on an idle device, where the device's begins.
    this.span("device", "host", `step, program #${program}`, startUs - hostMs * 1000, hostMs * 1000, {
      cached,
    });
    this.span("device", "device", `program #${program}`, startUs, endUs - startUs);
    for (const [i, { startUs: from, endUs: to }] of kernels.entries()) {
      const { label, flops, bytes } = info.kernels[i];
      this.span("device", "kernels", label, from, to - from, { flops, bytes });
    }
    if (this.stepsWithKernels < this.kernelSteps && ++this.stepsWithKernels === this.kernelSteps) {
      this.engine.profiling = false;
    }
  }

  private onMemory({ liveBytes, cachedBytes, arenaBytes }: MemoryEvent): void {
    const args = { live: liveBytes, cached: cachedBytes, arena: arenaBytes };
    this.events.push({
      clock: "host",
      name: "device memory (bytes)",
      ph: "C",
      pid: PID,
      tid: lanes.device,
      ts: nowUs(),
      args,
    });
  }

  /** Writes what was recorded so far. */
  async write(path: string): Promise<void> {
    const onHost = this.events.map(({ clock, ...event }) => ({
      ...event,
      ts: event.ts + (clock === "device" ? this.clockOffsetUs : 0),
    }));
    const start = onHost.reduce((least, event) => Math.min(least, event.ts), Number.POSITIVE_INFINITY);
    const named = (name: string, tid: number, text: string) => ({
      name,
      ph: "M",
      pid: PID,
      tid,
      ts: 0,
      args: { name: text },
    });
    const lines = [
      named("process_name", 0, "Lazuli"),
      ...Object.entries(lanes).map(([lane, tid]) =>
        named("thread_name", tid, laneNames[lane as keyof typeof lanes]),
      ),
      ...onHost.map((event) => ({ ...event, ts: event.ts - start })),
    ].map((event) => JSON.stringify(event));
    await writeFileAtomically(path, `{"displayTimeUnit":"ms","traceEvents":[\n${lines.join(",\n")}\n]}\n`);
  }

  [Symbol.dispose](): void {
    for (const subscription of this.subscriptions) subscription.unsubscribe();
    this.engine.profiling = false;
  }
}
