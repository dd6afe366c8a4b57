import { ops, sizeOf } from "@lazuli/fx-trace";
import {
  type Dims,
  dimsIn,
  encodeDims,
  localRange,
  localShape,
  type Mesh,
  type PartitionSpec,
  parseSpec,
  replicated,
} from "@lazuli/sharding";
import { noGrad } from "../autograd.js";
import type { DeviceBuffer } from "../buffer.js";
import { engine } from "../runtime.js";
import { Tensor } from "../tensor.js";
import { copyBlock, type DataArray, decodeArray, rawArray } from "../typed_array.js";

/**
 * What is laid out: the value and its gradient (`both`), the value alone (`forward`), the gradient alone (`backward`), or the
 * value alone and anew for what backward reads of it (`regather`).
 */
export type ConstraintDirection = "both" | "forward" | "backward" | "regather";

/** x, laid out as `dims` over the mesh says. */
export function constrain(
  x: Tensor,
  mesh: Mesh,
  dims: Dims,
  direction: ConstraintDirection = "both",
): Tensor {
  const grid = engine().useMesh(mesh);
  const own = encodeDims(dimsIn(mesh, dims, grid));
  return new Tensor(ops.sharding_constraint([x.node], { mesh: grid.attr, dims: own, direction }));
}

/**
 * Lays a tensor out over a mesh, in place: by dim an axis name, several (the major first), or null. Parameters, buffers
 * and their optimizer state stay so from step to step; of other tensors the value is laid out where it is now. What is
 * computed does not change. Throws ShardingError for an unknown axis, one named twice, or a spec longer than the rank. As
 * torch_xla's mark_sharding.
 */
export function markSharding<T extends Tensor>(tensor: T, mesh: Mesh, spec: PartitionSpec): T {
  const dims = parseSpec("markSharding", mesh, spec, tensor.shape);
  return layOut(tensor, mesh, dims);
}

export function layOut<T extends Tensor>(tensor: T, mesh: Mesh, dims: Dims): T {
  if (!tensor.isState) {
    tensor.assign_(constrain(tensor, mesh, dims).node);
    return tensor;
  }
  // Its first value is laid out by the program that makes it.
  tensor.layout = dimsIn(mesh, dims, engine().useMesh(mesh));
  noGrad(() => tensor.assign_(constrain(tensor.detach(), mesh, dims).node));
  engine().markInitial(tensor);
  return tensor;
}

/** Every device has the tensor whole again. As torch_xla's clear_sharding. */
export function clearSharding<T extends Tensor>(tensor: T): T {
  const { mesh } = engine();
  return mesh ? layOut(tensor, mesh, replicated(tensor.rank)) : tensor;
}

export interface LocalShard {
  /** Number of the device. */
  readonly device: number;
  /** Where the part starts in the tensor, by dim. */
  readonly start: readonly number[];
  /** Without padding. */
  readonly shape: readonly number[];
  readonly data: DataArray;
}

/** The parts that this process's devices hold. Takes a step where the tensor is pending. As jax.Array.addressable_shards. */
export async function localShards(tensor: Tensor): Promise<LocalShard[]> {
  const current = engine();
  if (tensor.isPending) {
    current.keep(tensor.node);
    await current.step();
  }
  const { device } = current;
  const buffer = tensor.node.storage as DeviceBuffer;
  const { mesh } = buffer;
  const dims = buffer.dims ?? replicated(tensor.rank);
  const padded = mesh ? localShape(mesh, tensor.shape, dims) : tensor.shape;
  return Promise.all(
    device.localDevices.map(async (number) => {
      const raw = rawArray(tensor.dtype, sizeOf(padded));
      await device.download(buffer.id, raw, number);
      const ranges = tensor.shape.map((size, d) =>
        mesh ? localRange(mesh, size, dims[d], number) : { start: 0, count: size },
      );
      const shape = ranges.map(({ count }) => count);
      return {
        device: number,
        start: ranges.map(({ start }) => start),
        shape,
        data: cut(decodeArray(tensor.dtype, raw), padded, shape),
      };
    }),
  );
}

/** The elements of an array of shape `from` that an array of shape `to` at its origin has. */
function cut(data: DataArray, from: readonly number[], to: readonly number[]): DataArray {
  const out = data.slice(0, sizeOf(to)) as DataArray;
  copyBlock(out, to, data, from, to);
  return out;
}
