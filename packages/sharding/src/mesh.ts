import { ShardingError } from "./errors.js";

/** Sizes of a mesh by axis name, the major axis first. */
export type MeshShape = Readonly<Record<string, number>>;

/**
 * Devices at the points of a grid whose axes have names. Device d is at the row-major coordinates of d over the axes, the
 * first the slowest: on several hosts give the axis that crosses them first. As jax.sharding.Mesh.
 */
export class Mesh {
  readonly axisNames: readonly string[];
  readonly sizes: readonly number[];

  /** Throws ShardingError for sizes that are not whole numbers of at least 1. */
  constructor(readonly shape: MeshShape) {
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
  }

  /** Devices. */
  get size(): number {
    return this.sizes.reduce((product, size) => product * size, 1);
  }

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
    let rest = device;
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

  equals(other: Mesh): boolean {
    return this.toString() === other.toString();
  }

  /** `Mesh(data=2, tensor=4)` */
  toString(): string {
    return `Mesh(${this.axisNames.map((name, i) => `${name}=${this.sizes[i]}`).join(", ")})`;
  }
}

/** A mesh of one axis. */
export const mesh1d = (name: string, size: number): Mesh => new Mesh({ [name]: size });
