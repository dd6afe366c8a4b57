import { inspect } from "node:util";
import {
  type DType,
  formatShape,
  isFloat,
  meshSizes,
  type Node,
  ops,
  type Shape,
  sizeOf,
  withoutUses,
} from "@lazuli/fx-trace";
import { type Dims, decodeDims, type PartitionSpec, specOf, splitSizes } from "@lazuli/sharding";
import { type BackwardOptions, backward } from "./autograd.js";
import type { DeviceBuffer } from "./buffer.js";
import { watcher } from "./compile/watcher.js";
import { TensorError } from "./errors.js";
import { activeTrace } from "./fx/active.js";
import type { Holder } from "./holder.js";
import { engine } from "./runtime.js";
import { type Layout, layoutNow, presentDims } from "./sharding/layout.js";
import { type DataArray, decodeArray, rawArray } from "./typed_array.js";

/** Nested arrays of the tensor's shape; a plain value for rank 0. */
export type NestedArray<T> = T | NestedArray<T>[];

/**
 * A lazy array. Every operation is recorded and none runs until a step is taken: `await sync()`, or reading a value.
 * Follows torch.Tensor, in camelCase.
 */
export class Tensor implements Holder {
  /** Name of a parameter or buffer in its module; empty for others. */
  name = "";
  private current: Node;
  private gradient: Tensor | null = null;
  /** Stands for the value while a wrapper's forward runs: a fully sharded parameter, gathered. */
  private shown: Node | null = null;
  isState = false;
  /** For the engine: the buffer this tensor had after the last step. */
  committed: DeviceBuffer | null = null;
  private marked: Layout | null = null;
  private markedGrad: Layout | null = null;
  private markedState: Layout | null = null;

  /** Tensors are made by `tensor`, `zeros`, … and by operations; this wraps a recorded node. */
  constructor(node: Node) {
    this.current = node;
    if (node.storage === null) engine().show(node);
  }

  /** The recorded node that stands for the tensor's present value. */
  get node(): Node {
    if (watcher !== null) watcher.read(this);
    const node = this.shown ?? this.current;
    if (activeTrace !== null) activeTrace.read(this, node);
    return Tensor.reading ? Tensor.reading(node) : node;
  }

  /** For `compile`: the tensor's own node, which no wrapper's stands for. */
  static nodeOf(tensor: Tensor): Node {
    return tensor.current;
  }

  /** For `compile`: the gradient, unnoticed. */
  static gradOf(tensor: Tensor): Tensor | null {
    return tensor.gradient;
  }

  /** For `compile`: gives a tensor the value that a step computed, as the recorded assignment did. */
  static give(tensor: Tensor, node: Node): void {
    const { isLeaf, requiresGrad } = tensor.current;
    tensor.current = node;
    tensor.committed = node.storage as DeviceBuffer;
    tensor.committed.owner = tensor;
    if (!isLeaf) return;
    node.isLeaf = true;
    node.requiresGrad = requiresGrad;
    leafOwners.set(node, tensor);
  }

  /** The gradient that `backward()` accumulated; null before it and after `zeroGrad()`. As torch.Tensor.grad. */
  get grad(): Tensor | null {
    if (watcher !== null) watcher.grad(this);
    return this.gradient;
  }
  set grad(grad: Tensor | null) {
    if (watcher !== null) watcher.grad(this);
    this.gradient = grad;
  }

  /** While a function on parts is recorded: what stands for a value that is read. */
  static reading: ((node: Node) => Node) | null = null;

  /** Runs `fn` with `node` standing for each tensor's value. */
  static showing<T>(stands: ReadonlyMap<Tensor, Node>, fn: () => T): T {
    const before = new Map([...stands.keys()].map((tensor) => [tensor, tensor.shown]));
    for (const [tensor, node] of stands) tensor.shown = node;
    try {
      return fn();
    } finally {
      for (const [tensor, node] of before) tensor.shown = node;
    }
  }

  /** For the engine: how this tensor lies over its mesh, as `markSharding` asked. */
  get layout(): Dims | null {
    return presentDims(this.marked);
  }
  set layout(dims: Dims | null) {
    this.marked = layoutNow(dims);
  }
  /** How its gradient lies between steps, where not as the tensor itself (ZeRO-2). */
  get gradLayout(): Dims | null {
    return presentDims(this.markedGrad);
  }
  set gradLayout(dims: Dims | null) {
    this.markedGrad = layoutNow(dims);
  }
  /** How its optimizer state lies, where not as the tensor itself (ZeRO-1). */
  get stateLayout(): Dims | null {
    return presentDims(this.markedState);
  }
  set stateLayout(dims: Dims | null) {
    this.markedState = layoutNow(dims);
  }

  // --- what it is --------------------------------------------------------------------------------------------------

  get shape(): Shape {
    return this.current.shape;
  }
  get dtype(): DType {
    return this.current.dtype;
  }
  /** Number of dims. */
  get rank(): number {
    return this.current.shape.length;
  }
  /** Number of elements. As torch.Tensor.numel. */
  get size(): number {
    return sizeOf(this.current.shape);
  }
  /** True until a step has computed the value. */
  get isPending(): boolean {
    return this.current.storage === null;
  }
  /** Whether gradients flow to or through the tensor. */
  get requiresGrad(): boolean {
    return this.current.requiresGrad;
  }
  /** True for a tensor that no recorded operation made gradients flow through: its `.grad` is filled. */
  get isLeaf(): boolean {
    return this.current.isLeaf || !this.current.requiresGrad;
  }

  /** Asks for gradients of this leaf, or stops. Throws DTypeError for integers. As torch.Tensor.requires_grad_. */
  requiresGrad_(requires = true): this {
    activeTrace?.refuse("requiresGrad", "asks for gradients of a tensor: make leaves outside what is traced");
    if (requires && !isFloat(this.dtype)) {
      throw new TensorError("requiresGrad", `only float tensors have gradients, this one is ${this.dtype}`);
    }
    if (!this.isLeaf)
      throw new TensorError("requiresGrad", "the tensor is not a leaf: use detach() to start a new one");
    this.current.isLeaf = requires;
    this.current.requiresGrad = requires;
    if (requires) {
      leafOwners.set(this.current, this);
      engine().markInitial(this);
    }
    return this;
  }

  /**
   * How the tensor lies over the mesh: as it was marked, or as the last step left it. Null for one that every device has
   * whole, and for one that is pending and unmarked. As jax.Array.sharding.
   */
  get sharding(): PartitionSpec | null {
    const { mesh } = engine();
    const dims = this.presentLayout;
    return mesh && dims?.some((axes) => axes.length > 0) ? specOf(mesh, dims) : null;
  }

  /** For `sharding` and what draws it: the layout as positions of mesh axes; null where nothing is known of it. */
  get presentLayout(): Dims | null {
    const { op, attrs, storage } = this.current;
    if (this.layout) return this.layout;
    if (storage !== null) return (storage as DeviceBuffer).layout;
    if (op.name !== "sharding_constraint" || attrs.direction === "backward") return null;
    const { mesh } = engine();
    const axes = mesh && splitSizes(meshSizes(attrs.mesh as number[]), mesh.sizes);
    return decodeDims(attrs.dims as number[]).map((list) => list.flatMap((axis) => axes?.[axis] ?? []));
  }

  // --- gradients ---------------------------------------------------------------------------------------------------

  /**
   * Adds the gradient of this tensor to `.grad` of every leaf it came from. A tensor of several elements needs
   * `gradient`, of its shape. Throws GradError. As torch.Tensor.backward.
   */
  backward(gradient?: Tensor, options: BackwardOptions = {}): void {
    activeTrace?.refuse(
      "backward",
      "fills gradients: trace the forward alone and call backward() on what it returns, or use grad()",
    );
    engine().requireRecording("backward", "backward() is called");
    engine().keep(this.current);
    for (const [leaf, node] of backward(this.current, gradient?.node, options)) {
      const owner = leafOwners.get(leaf);
      if (!owner) continue;
      const previous = owner.grad?.node;
      const sum = previous ? ops.add([previous, node], {}) : ops.detach([node], {});
      owner.grad = new Tensor(options.createGraph && !previous ? node : sum);
      engine().markGrad(owner);
    }
  }

  /** The same value with no gradient history. As torch.Tensor.detach, but a snapshot: later updates do not show. */
  detach(): Tensor {
    return withoutUses(() => new Tensor(ops.detach([this.node], {})));
  }

  /** A copy with a buffer of its own, that later updates of this tensor leave alone. */
  clone(): Tensor {
    return new Tensor(ops.reshape([this.node], { shape: this.shape }));
  }

  // --- values ------------------------------------------------------------------------------------------------------

  /** The value of a tensor of one element, taking a step first where it is pending. Throws TensorError. */
  item(): Promise<number> {
    refuseRead("item");
    return this.readItem();
  }

  private async readItem(): Promise<number> {
    if (this.size !== 1)
      throw new TensorError("item", `the tensor has ${this.size} elements, shape ${formatShape(this.shape)}`);
    return Number((await this.data())[0]);
  }

  /** The elements in row-major order; half types as float32, bool as bytes 0 and 1. Takes a step where pending. */
  data(): Promise<DataArray> {
    refuseRead("data");
    return this.readData();
  }

  private async readData(): Promise<DataArray> {
    const raw = rawArray(this.dtype, this.size);
    await engine().read(this.current, raw);
    return decodeArray(this.dtype, raw);
  }

  /** The elements as nested arrays, of booleans for bool. Takes a step where pending. As torch.Tensor.tolist. */
  array(): Promise<NestedArray<number | boolean>> {
    refuseRead("array");
    return this.readArray();
  }

  private async readArray(): Promise<NestedArray<number | boolean>> {
    const flat = await this.data();
    const { dtype, shape } = this;
    let next = 0;
    const build = (dim: number): NestedArray<number | boolean> => {
      if (dim < shape.length) return Array.from({ length: shape[dim] }, () => build(dim + 1));
      const value = Number(flat[next++]);
      return dtype === "bool" ? value !== 0 : value;
    };
    return build(0);
  }

  /** Gives the memory back now. Reading the tensor afterwards throws StaleTensorError. */
  dispose(): void {
    engine().free(this.current);
  }
  [Symbol.dispose](): void {
    this.dispose();
  }

  // --- in-place ----------------------------------------------------------------------------------------------------

  /**
   * Makes `node` the tensor's value: what every in-place method ends in. Throws for a leaf that requires gradients,
   * outside `noGrad`, as PyTorch does.
   */
  assign_(node: Node): this {
    const leaf = this.current.isLeaf;
    if (leaf && node.requiresGrad) {
      throw new TensorError(
        "assign",
        `${this.name || "a leaf"} requires gradients and is updated in place: wrap the update in noGrad(() => ...)`,
      );
    }
    if (activeTrace !== null) {
      const before = this.current;
      this.current = node;
      activeTrace.assigned(this, before, () => {
        this.current = before;
      });
      return this;
    }
    const keeps = this.isState || this.current.storage !== null;
    if (keeps) engine().requireRecording("assign", `${this.name || "a computed tensor"} is updated in place`);
    this.committed ??= this.current.storage as DeviceBuffer | null;
    engine().hide(this.current);
    this.current = node;
    if (leaf) {
      node.isLeaf = true;
      node.requiresGrad = true;
      leafOwners.set(node, this);
    }
    if (keeps) engine().markAssigned(this);
    else engine().show(node);
    return this;
  }

  // --- printing ----------------------------------------------------------------------------------------------------

  /** Shape, dtype and whether it is pending; runs nothing. */
  toString(): string {
    const buffer = this.current.storage as DeviceBuffer | null;
    const state = buffer === null ? ", pending" : buffer.state === "live" ? "" : `, ${buffer.state}`;
    const gradient = this.requiresGrad ? ", requiresGrad" : "";
    return `Tensor(${this.name ? `${this.name}: ` : ""}${this.dtype}${formatShape(this.shape)}${state}${gradient})`;
  }
  [inspect.custom](): string {
    return this.toString();
  }

  /** A tensor has no truth value or number before it is computed: read it with `await t.item()`. */
  [Symbol.toPrimitive](hint: string): string {
    if (hint === "string") return this.toString();
    return this.valueOf();
  }
  valueOf(): never {
    activeTrace?.refuse(
      "valueOf",
      `${this} is compared or used as a number, which it has no value for: ${instead}`,
    );
    throw new TensorError("valueOf", `${this} is not a number: read it with \`await t.item()\``);
  }
}

const instead = "compare with t.gt(…), choose with where(…)";

const refuseRead = (method: string): void => {
  activeTrace?.refuse(method, `reads a traced value, which has none: ${instead}, or read it outside`);
};

// Outside a trace a tensor is no iterable, and none by its type: TypeScript refuses `for (const row of tensor)`.
Object.defineProperty(Tensor.prototype, Symbol.iterator, {
  get(this: Tensor): (() => never) | undefined {
    const trace = activeTrace;
    if (trace === null) return undefined;
    return () => trace.refuse("iterator", `${this} is iterated: use split(), chunk() or at() for its parts`);
  },
});

const leafOwners = new WeakMap<Node, Tensor>();
