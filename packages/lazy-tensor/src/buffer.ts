import type { NativeDevice } from "@lazuli/cuda-backend";
import type { TensorType } from "@lazuli/fx-trace";
import { type Dims, dimsIn, hasSameParts, type Mesh } from "@lazuli/sharding";

/** `traced`: of a value that stood for others while a function was traced, and never had data. */
export type BufferState = "live" | "donated" | "freed" | "traced";

let nextId = 1;

/** A value on the device. The engine frees it when it is donated, disposed, or no longer reachable. */
export class DeviceBuffer {
  readonly id = nextId++;
  state: BufferState = "live";

  /** The parameter, buffer or optimizer state whose value it is. */
  owner: { readonly name: string } | null = null;

  /**
   * `type` is the whole value's; on a mesh each device holds the part that `dims` over `mesh` says, or all of
   * it where null.
   */
  constructor(
    readonly type: TensorType,
    readonly dims: Dims | null,
    private readonly pool: { readonly mesh: Mesh | null },
    readonly mesh: Mesh | null = pool.mesh,
  ) {}

  /** What stands for the value that a buffer had before it was overwritten. */
  static gone({ type, dims, pool, mesh }: DeviceBuffer): DeviceBuffer {
    const buffer = new DeviceBuffer(type, dims, pool, mesh);
    buffer.state = "donated";
    return buffer;
  }

  /** Of the owner: `layers.0.weight`; "" where there is none. */
  get name(): string {
    return this.owner?.name ?? "";
  }

  /** The layout over the engine's mesh, which may have become finer since. */
  get layout(): Dims | null {
    const { mesh } = this.pool;
    return this.dims && this.mesh && mesh ? dimsIn(this.mesh, this.dims, mesh) : this.dims;
  }

  /** Whether the parts are not those that the layout has over the engine's mesh: uneven ones, where this became finer. */
  get isOutdated(): boolean {
    const { mesh } = this.pool;
    if (this.mesh === mesh || !this.mesh || !mesh || !this.dims) return false;
    return !hasSameParts(this.mesh, this.type.shape, this.dims, mesh);
  }
}

/**
 * Frees buffers in batches: at once for those given up explicitly, as a backstop by FinalizationRegistry for those
 * that only became unreachable.
 */
export class BufferPool {
  private readonly dead: number[] = [];
  private scheduled = false;
  /** The mesh that new buffers are laid out over. */
  mesh: Mesh | null = null;
  private readonly registry = new FinalizationRegistry<number>((id) => this.discard(id));

  constructor(private readonly device: NativeDevice) {}

  create(type: TensorType, layout: Dims | null = null, mesh: Mesh | null = this.mesh): DeviceBuffer {
    const buffer = new DeviceBuffer(type, layout, this, mesh);
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

  /** The device does not have the buffer: it went to the program that was given it, or never came to be. */
  forget(buffer: DeviceBuffer, state: BufferState = "freed"): void {
    buffer.state = state;
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
