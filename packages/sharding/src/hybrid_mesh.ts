import { ShardingError } from "./errors.js";
import { Mesh, type MeshShape } from "./mesh.js";

export interface HybridMeshOptions {
  /** By device the host it is on. Default: hosts have equal runs of devices, one after the other, as Open MPI fills them. */
  readonly hosts?: readonly (string | number)[];
}

/** Devices by host, the hosts in the order of their first devices. */
function devicesByHost(hosts: readonly (string | number)[]): Map<string | number, number[]> {
  const found = new Map<string | number, number[]>();
  hosts.forEach((host, device) => {
    const list = found.get(host);
    if (list) list.push(device);
    else found.set(host, [device]);
  });
  return found;
}

/** Row-major number of the point. */
const numberOf = (sizes: readonly number[], at: readonly number[]): number =>
  sizes.reduce((number, size, i) => number * size + at[i], 0);

/**
 * A mesh over several hosts: `inner` are the axes within a host, `outer` those across hosts, which come first. An axis of both
 * is as long as both together, hosts the major. Throws ShardingError where there are not as many hosts as `outer` has
 * points, or a host has not as many devices as `inner`. As jax's mesh_utils.create_hybrid_device_mesh.
 */
export function hybridMesh(inner: MeshShape, outer: MeshShape, { hosts }: HybridMeshOptions = {}): Mesh {
  const [within, across] = [new Mesh(inner), new Mesh(outer)];
  const byHost = devicesByHost(
    hosts ??
      Array.from({ length: within.size * across.size }, (_, device) => Math.floor(device / within.size)),
  );
  if (byHost.size !== across.size)
    throw new ShardingError(
      "hybridMesh",
      `the outer ${across} is over ${across.size} hosts, and there ${byHost.size === 1 ? "is 1" : `are ${byHost.size}`}: ${[...byHost.keys()].slice(0, 8).join(", ")}`,
    );
  for (const [host, devices] of byHost)
    if (devices.length !== within.size)
      throw new ShardingError(
        "hybridMesh",
        `the inner ${within} has ${within.size} devices, and host ${host} has ${devices.length}`,
      );
  const names = [...across.axisNames, ...within.axisNames.filter((name) => !(name in outer))];
  const shape = Object.fromEntries(names.map((name) => [name, (outer[name] ?? 1) * (inner[name] ?? 1)]));
  const grid = new Mesh(shape);
  const groups = [...byHost.values()];
  const devices = grid.devices.map((point) => {
    const at = new Map(grid.coordinates(point).map((coordinate, i) => [names[i], coordinate]));
    const coordinate = (name: string): number => at.get(name) as number;
    const host = numberOf(
      across.sizes,
      across.axisNames.map((name) => Math.floor(coordinate(name) / (inner[name] ?? 1))),
    );
    const place = numberOf(
      within.sizes,
      within.axisNames.map((name) => coordinate(name) % inner[name]),
    );
    return groups[host][place];
  });
  return new Mesh(shape, { devices });
}
