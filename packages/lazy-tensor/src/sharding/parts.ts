import { type DType, formatShape, type Shape, ShapeError, sizeOf } from "@lazuli/fx-trace";
import { dimsIn, localRange, localShape, type Mesh, type PartitionSpec, parseSpec } from "@lazuli/sharding";
import { engine } from "../runtime.js";
import { Tensor } from "../tensor.js";
import { copyBlock, encodeNumbers, rawArray, type TypedArray } from "../typed_array.js";

/** Where a tensor is to lie. */
export interface Placement {
  readonly mesh: Mesh;
  readonly spec: PartitionSpec;
}

/** A part of a tensor, by dim. */
export interface PartIndex {
  readonly start: readonly number[];
  readonly shape: readonly number[];
}

/** Where the tensor lies, or is to lie when it is computed; null where every device has it whole. */
export function placementOf(tensor: Tensor): Placement | null {
  const { mesh } = engine();
  const spec = tensor.sharding;
  return mesh && spec ? { mesh, spec } : null;
}

/**
 * A tensor over a mesh, made of parts: `part` is called for those that this process's devices hold, once for devices that
 * hold copies, and gives their elements row-major. A typed array of another type than the dtype's is converted; bfloat16
 * and float16 are taken as bits from a Uint16Array. So a process reads and holds its parts alone. Throws ShapeError for a
 * part of another size, and ShardingError as markSharding does. As jax.make_array_from_callback.
 */
export async function tensorFromCallback(
  shape: Shape,
  dtype: DType,
  mesh: Mesh,
  spec: PartitionSpec,
  part: (index: PartIndex) => TypedArray | Promise<TypedArray>,
): Promise<Tensor> {
  const op = "tensorFromCallback";
  const asked = parseSpec(op, mesh, spec, shape);
  const current = engine();
  const grid = current.useMesh(mesh);
  const dims = dimsIn(mesh, asked, grid);
  const padded = localShape(grid, shape, dims);
  const made = new Map<string, TypedArray>();
  const parts = new Map<number, TypedArray>();
  for (const device of current.device.localDevices) {
    const ranges = shape.map((size, d) => localRange(grid, size, dims[d], device));
    const index = { start: ranges.map(({ start }) => start), shape: ranges.map(({ count }) => count) };
    const key = `${index.start} ${index.shape}`;
    let raw = made.get(key);
    if (!raw) {
      // A device past the end of a dim has padding only.
      const given = sizeOf(index.shape) === 0 ? rawArray(dtype, 0) : await part(index);
      if (given.length !== sizeOf(index.shape))
        throw new ShapeError(
          op,
          `the part ${formatShape(index.shape)} at ${formatShape(index.start)} of ${formatShape(shape)} has ` +
            `${sizeOf(index.shape)} elements, the callback gave ${given.length}`,
        );
      raw = withPadding(toRaw(dtype, given), dtype, index.shape, padded);
      made.set(key, raw);
    }
    parts.set(device, raw);
  }
  return new Tensor(current.uploadParts({ dtype, shape: [...shape] }, dims, grid, parts));
}

function toRaw(dtype: DType, given: TypedArray): TypedArray {
  const isRaw = dtype !== "bool" && given.constructor === rawArray(dtype, 0).constructor;
  return isRaw ? given : encodeNumbers(dtype, given);
}

function withPadding(raw: TypedArray, dtype: DType, shape: Shape, padded: Shape): TypedArray {
  if (raw.length === sizeOf(padded)) return raw;
  const out = rawArray(dtype, sizeOf(padded));
  copyBlock(out, padded, raw, shape, shape);
  return out;
}
