import type { NativeDevice } from "@lazuli/cuda-backend";
import type { TensorType } from "@lazuli/fx-trace";
import type { Dims } from "@lazuli/sharding";

/** `traced`: of a value that stood for others while a function was traced, and never had data. */
export type BufferState = "live" | "donated" | "freed" | "traced";

let nextId = 1;

/** A value on the device. The engine frees it when it is donated, disposed, or no longer reachable. */
export class DeviceBuffer {
  readonly id = nextId++;
  state: BufferState = "live";
  /** Settles when the run that fills the buffer has; null for uploads. */
  filled: Promise<unknown> | null = null;

  /** `type` is the whole value's; on a mesh each device holds the part that `layout` says, or all of it where null. */
  constructor(
    readonly type: TensorType,
    readonly layout: Dims | null = null,
  ) {}
}

/**
 * Frees buffers in batches: at once for those given up explicitly, as a backstop by FinalizationRegistry for those
 * that only became unreachable.
 */
export class BufferPool {
  private readonly dead: number[] = [];
  private scheduled = false;
  private readonly registry = new FinalizationRegistry<number>((id) => this.discard(id));

  constructor(private readonly device: NativeDevice) {}

  create(type: TensorType, layout: Dims | null = null): DeviceBuffer {
    const buffer = new DeviceBuffer(type, layout);
    this.registry.register(buffer, buffer.id, buffer);
    return buffer;
  }

  /** Gives the memory back after the work already queued. */
  free(buffer: DeviceBuffer): void {
    if (buffer.state !== "live") return;
    buffer.state = "freed";
    this.registry.unregister(buffer);
    this.discard(buffer.id);
  }

  /** The buffer now belongs to the program that was given it. */
  donate(buffer: DeviceBuffer): void {
    buffer.state = "donated";
    this.registry.unregister(buffer);
  }

  flush(): void {
    this.scheduled = false;
    if (this.dead.length > 0) this.device.free(this.dead.splice(0));
  }

  private discard(id: number): void {
    this.dead.push(id);
    if (this.scheduled) return;
    this.scheduled = true;
    setImmediate(() => this.flush()).unref();
  }
}
