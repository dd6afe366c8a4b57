import { ShardingError } from "./errors.js";

/** Sizes of a mesh by axis name, the major axis first. */
export type MeshShape = Readonly<Record<string, number>>;

export interface MeshOptions {
  /** The device at each point of the grid, row by row: every number from 0 once. Default: in order. */
  readonly devices?: readonly number[];
}

/** Axes of a submesh: names of the mesh's, or a new name for one of them or several joined, the major first. */
export type SubmeshAxes = Readonly<Record<string, string | readonly string[]>>;

/**
 * Devices at the points of a grid whose axes have names. Unless told otherwise device d is at the row-major coordinates of
 * d over the axes, the first the slowest: on several hosts give the axis that crosses them first. As jax.sharding.Mesh.
 */
export class Mesh {
  readonly axisNames: readonly string[];
  readonly sizes: readonly number[];
  /** The device at each point, row by row. */
  readonly devices: readonly number[];
  /** By device its point. */
  private readonly points: readonly number[];

  /** Throws ShardingError for sizes that are not whole numbers of at least 1, and devices that are not 0 to n-1. */
  constructor(
    readonly shape: MeshShape,
    { devices }: MeshOptions = {},
  ) {
    this.axisNames = Object.keys(shape);
    this.sizes = Object.values(shape);
    for (const [name, size] of Object.entries(shape)) {
      if (!Number.isInteger(size) || size < 1)
        throw new ShardingError(
          "Mesh",
          `axis "${name}" has size ${size}, which is no whole number of at least 1`,
        );
      if (!/^[A-Za-z_]\w*$/.test(name))
        throw new ShardingError("Mesh", `"${name}" is no name for an axis: letters, digits and _`);
    }
    this.devices = devices ? [...devices] : Array.from({ length: this.size }, (_, device) => device);
    this.points = this.checkDevices();
  }

  private checkDevices(): number[] {
    const { devices, size } = this;
    if (devices.length !== size)
      throw new ShardingError(
        "Mesh",
        `${this.grid} has ${size} points, and there are ${devices.length} devices`,
      );
    const points = new Array<number>(size).fill(-1);
    devices.forEach((device, point) => {
      if (!Number.isInteger(device) || device < 0 || device >= size)
        throw new ShardingError("Mesh", `devices are numbered 0 to ${size - 1}, there is no ${device}`);
      if (points[device] >= 0)
        throw new ShardingError("Mesh", `device ${device} is at points ${points[device]} and ${point}`);
      points[device] = point;
    });
    return points;
  }

  /** The mesh that values lie over: of a submesh the one it was taken of. */
  get root(): Mesh {
    return this;
  }

  /** By axis the axes (positions) of the root that it is made of, the major first. */
  get rootAxes(): readonly (readonly number[])[] {
    return this.sizes.map((_, axis) => [axis]);
  }

  /** Devices. */
  get size(): number {
    return this.sizes.reduce((product, size) => product * size, 1);
  }

  /** Whether device d is at the row-major coordinates of d. */
  get isInOrder(): boolean {
    return this.devices.every((device, point) => device === point);
  }

  /** The `mesh` attribute of ops (docs/ir.md): the sizes, then 0 and the devices where these are not in order. */
  get attr(): readonly number[] {
    this.knownAttr ??= this.isInOrder ? this.sizes : [...this.sizes, 0, ...this.devices];
    return this.knownAttr;
  }
  private knownAttr: readonly number[] | null = null;

  /** Position of an axis. Throws ShardingError naming those there are. */
  axis(name: string, op = "Mesh"): number {
    const index = this.axisNames.indexOf(name);
    if (index < 0) throw new ShardingError(op, `no axis "${name}" in ${this}`);
    return index;
  }

  /** Devices along one axis or several together. */
  sizeOf(axes: readonly number[]): number {
    return axes.reduce((product, axis) => product * this.sizes[axis], 1);
  }

  /** Coordinates of a device, by axis. */
  coordinates(device: number): number[] {
    const out = new Array<number>(this.sizes.length);
    let rest = this.points[device];
    for (let i = this.sizes.length - 1; i >= 0; i--) {
      out[i] = rest % this.sizes[i];
      rest = Math.floor(rest / this.sizes[i]);
    }
    return out;
  }

  /** Number of a device in its group over `axes`, the major first. */
  indexAlong(device: number, axes: readonly number[]): number {
    const at = this.coordinates(device);
    return axes.reduce((index, axis) => index * this.sizes[axis] + at[axis], 0);
  }

  /**
   * The mesh with some of its axes: by name, `submesh("data", "tensor")`, or under other names and joined,
   * `submesh({ batch: ["data", "fsdp"] })`. A spec over it names these alone; along the others devices hold copies. Throws
   * ShardingError for an unknown axis, or one used twice. As slicing a torch DeviceMesh, and its _flatten.
   */
  submesh(...axes: readonly string[] | readonly [SubmeshAxes]): Mesh {
    const wanted =
      typeof axes[0] === "object"
        ? Object.entries(axes[0])
        : (axes as readonly string[]).map((name) => [name, name] as const);
    const used = new Set<number>();
    const lists = wanted.map(([name, from]): [string, number[]] => {
      const own = [from].flat().map((each) => this.axis(each, "submesh"));
      for (const axis of own) {
        if (used.has(axis))
          throw new ShardingError("submesh", `axis "${this.axisNames[axis]}" of ${this} is used twice`);
        used.add(axis);
      }
      return [name, own.flatMap((axis) => this.rootAxes[axis])];
    });
    return new Submesh(this.root, lists);
  }

  equals(other: Mesh): boolean {
    return this === other || this.key === other.key;
  }

  /** Equal for equal meshes. */
  get key(): string {
    return `${this.axisNames}|${this.attr}`;
  }

  private get grid(): string {
    return `Mesh(${this.axisNames.map((name, i) => `${name}=${this.sizes[i]}`).join(", ")})`;
  }

  /** `Mesh(data=2, tensor=4)`; `Mesh(data=2; devices 1 0)` where they are not in order. */
  toString(): string {
    if (this.isInOrder) return this.grid;
    const shown = this.devices.length > 16 ? [...this.devices.slice(0, 16), "..."] : this.devices;
    return `${this.grid.slice(0, -1)}; devices ${shown.join(" ")})`;
  }
}

/** Some axes of a mesh, and all of its devices. */
class Submesh extends Mesh {
  constructor(
    private readonly of: Mesh,
    private readonly lists: readonly (readonly [string, readonly number[]])[],
  ) {
    super(Object.fromEntries(lists.map(([name, axes]) => [name, of.sizeOf(axes)])));
  }

  override get root(): Mesh {
    return this.of;
  }

  override get rootAxes(): readonly (readonly number[])[] {
    return this.lists.map(([, axes]) => axes);
  }

  override coordinates(device: number): number[] {
    return this.rootAxes.map((axes) => this.of.indexAlong(device, axes));
  }

  override get key(): string {
    return `${this.of.key}|${this.lists.map(([name, axes]) => `${name}=${axes}`)}`;
  }

  override toString(): string {
    return `submesh(${this.axisNames.map((name, i) => `${name}=${this.sizes[i]}`).join(", ")}) of ${this.of}`;
  }
}

/** A mesh of one axis. */
export const mesh1d = (name: string, size: number): Mesh => new Mesh({ [name]: size });
