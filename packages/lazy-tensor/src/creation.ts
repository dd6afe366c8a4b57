import { type DType, formatShape, ops, type Shape, ShapeError, sizeOf } from "@lazuli/fx-trace";
import { TensorError } from "./errors.js";
import { engine } from "./runtime.js";
import { type NestedArray, Tensor } from "./tensor.js";
import { encodeNumbers, type TypedArray } from "./typed_array.js";

export interface TensorOptions {
  /** Defaults to float32 (bool for an array of booleans; a typed array's own type). */
  readonly dtype?: DType;
  /** Asks for gradients. Float dtypes only. */
  readonly requiresGrad?: boolean;
}

export type TensorData = NestedArray<number | boolean> | TypedArray;

const typedDtypes: readonly (readonly [new (size: number) => TypedArray, DType])[] = [
  [Float32Array, "float32"],
  [Float64Array, "float64"],
  [Int32Array, "int32"],
  [BigInt64Array, "int64"],
  [Uint8Array, "uint8"],
];

function shapeOfNested(data: NestedArray<number | boolean>): number[] {
  const shape: number[] = [];
  for (let level = data; Array.isArray(level); level = level[0]) {
    shape.push(level.length);
    if (level.length === 0) break;
  }
  return shape;
}

/** Elements of nested arrays, row-major. Throws ShapeError where rows differ in length. */
function flattenNested(data: NestedArray<number | boolean>, shape: Shape): (number | boolean)[] {
  const flat: (number | boolean)[] = [];
  const visit = (level: NestedArray<number | boolean>, dim: number): void => {
    if (dim === shape.length) {
      if (Array.isArray(level))
        throw new ShapeError("tensor", `ragged data: an array at depth ${dim} where a number is expected`);
      flat.push(level);
      return;
    }
    if (!Array.isArray(level) || level.length !== shape[dim]) {
      const found = Array.isArray(level) ? `${level.length} elements` : "a number";
      throw new ShapeError(
        "tensor",
        `ragged data: ${found} at depth ${dim}, expected ${shape[dim]} elements`,
      );
    }
    for (const item of level) visit(item, dim + 1);
  };
  visit(data, 0);
  return flat;
}

/**
 * A tensor of the given data: a number, nested arrays, or a typed array with its shape (flat where none is given).
 * The data is copied to the device now. Throws ShapeError, TensorError. As torch.tensor.
 */
export function tensor(data: TensorData, options: TensorOptions & { shape?: Shape } = {}): Tensor {
  const typed = ArrayBuffer.isView(data);
  const shape = options.shape ?? (typed ? [data.length] : shapeOfNested(data));
  const flat = typed ? data : flattenNested(data, shapeOfNested(data));
  if (flat.length !== sizeOf(shape)) {
    throw new ShapeError("tensor", `${flat.length} elements do not fit the shape ${formatShape(shape)}`);
  }
  const own = typed
    ? typedDtypes.find(([type]) => data instanceof type)?.[1]
    : typeof flat[0] === "boolean"
      ? "bool"
      : "float32";
  if (!own)
    throw new TensorError(
      "tensor",
      `a ${data.constructor.name} is not taken: use a Float32Array, Int32Array, …`,
    );
  const dtype = options.dtype ?? own;
  const bytes = typed && own === dtype ? data : encodeNumbers(dtype, flat);
  return fromRaw(dtype, shape, bytes, options.requiresGrad);
}

/** A tensor of bytes already in the device's form: bfloat16 and float16 as 16-bit words, bool as bytes. */
export function fromRaw(dtype: DType, shape: Shape, bytes: ArrayBufferView, requiresGrad = false): Tensor {
  const made = new Tensor(engine().upload({ dtype, shape: [...shape] }, bytes));
  return requiresGrad ? made.requiresGrad_() : made;
}

/** Filled with `value`. As torch.full. */
export function full(shape: Shape, value: number, options: TensorOptions = {}): Tensor {
  engine();
  const made = new Tensor(
    ops.full([], { value, shape: checkShape("full", shape), dtype: options.dtype ?? "float32" }),
  );
  return options.requiresGrad ? made.requiresGrad_() : made;
}
export const zeros = (shape: Shape, options: TensorOptions = {}): Tensor => full(shape, 0, options);
export const ones = (shape: Shape, options: TensorOptions = {}): Tensor => full(shape, 1, options);
export const fullLike = (like: Tensor, value: number): Tensor =>
  full(like.shape, value, { dtype: like.dtype });
export const zerosLike = (like: Tensor): Tensor => fullLike(like, 0);
export const onesLike = (like: Tensor): Tensor => fullLike(like, 1);

/** Numbers from `start` (0 where only one is given) to below `stop`. float32 unless `dtype` says. As torch.arange. */
export function arange(start: number, stop?: number, step = 1, options: TensorOptions = {}): Tensor {
  const [from, to] = stop === undefined ? [0, start] : [start, stop];
  const count = Math.max(0, Math.ceil((to - from) / step));
  if (!Number.isFinite(count)) throw new TensorError("arange", `no range from ${from} to ${to} by ${step}`);
  const dtype = options.dtype ?? "float32";
  engine();
  let result = new Tensor(ops.iota([], { dim: 0, shape: [count], dtype }));
  if (step !== 1) result = result.mul(step);
  if (from !== 0) result = result.add(from);
  return options.requiresGrad ? result.requiresGrad_() : result;
}

/** `count` numbers evenly from `start` to `stop`, both included. As torch.linspace. */
export function linspace(start: number, stop: number, count: number, options: TensorOptions = {}): Tensor {
  const step = count > 1 ? (stop - start) / (count - 1) : 0;
  const ramp = arange(0, count, 1, { dtype: options.dtype }).mul(step).add(start);
  return options.requiresGrad ? ramp.requiresGrad_() : ramp;
}

/** The identity matrix. As torch.eye. */
export function eye(n: number, options: TensorOptions = {}): Tensor {
  const index = (dim: number): Tensor => new Tensor(ops.iota([], { dim, shape: [n, n], dtype: "int32" }));
  engine();
  return index(0)
    .eq(index(1))
    .to(options.dtype ?? "float32");
}

/** Seeds the random generator: the same calls after it give the same numbers. As torch.manual_seed. */
export function manualSeed(seed: number): void {
  if (!Number.isSafeInteger(seed)) throw new TensorError("manualSeed", `${seed} is not a whole number`);
  engine().manualSeed(seed);
}

function random(op: "random_uniform" | "random_normal", shape: Shape, options: TensorOptions): Tensor {
  const { key, stream } = engine().nextRandom();
  const whole = checkShape(op, shape);
  return new Tensor(ops[op]([key], { stream, shape: whole, whole, dtype: options.dtype ?? "float32" }));
}

const leaf = (made: Tensor, options: TensorOptions): Tensor =>
  options.requiresGrad ? made.requiresGrad_() : made;

/** Uniform in [0, 1). As torch.rand. */
export const rand = (shape: Shape, options: TensorOptions = {}): Tensor =>
  leaf(random("random_uniform", shape, options), options);
/** Normal with mean 0 and variance 1. As torch.randn. */
export const randn = (shape: Shape, options: TensorOptions = {}): Tensor =>
  leaf(random("random_normal", shape, options), options);
/** Uniform in [low, high). */
export const uniform = (shape: Shape, low: number, high: number, options: TensorOptions = {}): Tensor =>
  leaf(
    random("random_uniform", shape, options)
      .mul(high - low)
      .add(low),
    options,
  );
/** Normal with the given mean and standard deviation. */
export const normal = (shape: Shape, mean: number, std: number, options: TensorOptions = {}): Tensor => {
  const scaled = random("random_normal", shape, options).mul(std);
  return leaf(mean === 0 ? scaled : scaled.add(mean), options);
};
/** Whole numbers in [low, high), int32 unless `dtype` says. As torch.randint. */
export const randint = (low: number, high: number, shape: Shape, options: TensorOptions = {}): Tensor =>
  random("random_uniform", shape, { dtype: "float64" })
    .mul(high - low)
    .floor()
    .add(low)
    .to(options.dtype ?? "int32");
/** True with probability `p`. */
export const bernoulli = (shape: Shape, p: number): Tensor => random("random_uniform", shape, {}).lt(p);

function checkShape(op: string, shape: Shape): number[] {
  for (const size of shape) {
    if (!Number.isInteger(size) || size < 0) throw new ShapeError(op, `${formatShape(shape)} is not a shape`);
  }
  return [...shape];
}
