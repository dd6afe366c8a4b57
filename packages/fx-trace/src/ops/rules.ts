import { type DType, dtypeInfo } from "../dtype.js";
import { DTypeError, ShapeError, ValueError } from "../errors.js";
import type { Node } from "../node.js";
import {
  broadcastPair,
  broadcastShapes,
  formatShape,
  formatType,
  type Shape,
  sameShape,
  type TensorType,
} from "../shape.js";

/** Which dtypes an op takes: numeric is int or float, index is int32 or int64. */
export type Takes = "any" | "numeric" | "float" | "bool" | "index";

function accepts(takes: Takes, dtype: DType): boolean {
  switch (takes) {
    case "any":
      return true;
    case "numeric":
      return dtypeInfo[dtype].kind !== "bool";
    case "float":
      return dtypeInfo[dtype].kind === "float";
    case "bool":
      return dtype === "bool";
    case "index":
      return dtype === "int32" || dtype === "int64";
  }
}

const description: Record<Takes, string> = {
  any: "any dtype",
  numeric: "int and float dtypes",
  float: "float dtypes",
  bool: "bool",
  index: "int32 and int64",
};

export function checkDType(op: string, takes: Takes, dtype: DType, what = "its input"): void {
  if (!accepts(takes, dtype))
    throw new DTypeError(op, `takes ${description[takes]}, but ${what} is ${dtype}`);
}

export function checkSameDType(op: string, a: Node, b: Node): void {
  if (a.dtype !== b.dtype) {
    throw new DTypeError(op, `operands differ in dtype: ${formatType(a.type)} and ${formatType(b.type)}`);
  }
}

/** Same shape and dtype as the input. */
export function unaryType(op: string, takes: Takes, inputs: readonly Node[]): readonly TensorType[] {
  const x = inputs[0];
  checkDType(op, takes, x.dtype);
  return x.types;
}

/** The broadcast shape in the operands' one dtype. An operand that has it lends its type. */
export function binaryType(
  op: string,
  takes: Takes,
  inputs: readonly Node[],
): TensorType | readonly TensorType[] {
  const a = inputs[0];
  const b = inputs[1];
  if (a.dtype !== b.dtype) checkSameDType(op, a, b);
  checkDType(op, takes, a.dtype, "its operands' dtype");
  const sa = a.shape;
  const sb = b.shape;
  if (sa === sb || sb.length === 0) return a.types;
  if (sa.length === 0) return b.types;
  const shape = broadcastPair(sa, sb);
  if (!shape) throw new ShapeError(op, `shapes do not broadcast: ${formatShape(sa)} and ${formatShape(sb)}`);
  if (sameShape(shape, sa)) return a.types;
  if (sameShape(shape, sb)) return b.types;
  return { dtype: a.dtype, shape };
}

/** The broadcast shape, as bool. */
export function predicateType(op: string, takes: Takes, inputs: readonly Node[]): TensorType {
  const a = inputs[0];
  const b = inputs[1];
  if (a.dtype !== b.dtype) checkSameDType(op, a, b);
  checkDType(op, takes, a.dtype, "its operands' dtype");
  return { dtype: "bool", shape: broadcastShapes(op, a.shape, b.shape) };
}

export function checkShapeAttr(op: string, shape: Shape): void {
  for (let i = 0; i < shape.length; i++) {
    if (!Number.isSafeInteger(shape[i]) || shape[i] < 0) {
      throw new ShapeError(
        op,
        `dims must be integers of at least 0, but dim ${i} of ${formatShape(shape)} is ${shape[i]}`,
      );
    }
  }
}

/** Attributes hold dims normalised (0..rank-1); functions over ops take them from the end too. */
export function checkDim(op: string, dim: number, rank: number): void {
  if (!Number.isInteger(dim) || dim < 0 || dim >= rank) {
    throw new ShapeError(op, `dim ${dim} is out of range for a tensor of rank ${rank}`);
  }
}

/** Distinct dims in 0..rank-1; ascending where `sorted`. */
export function checkDims(op: string, dims: readonly number[], rank: number, sorted: boolean): void {
  for (let i = 0; i < dims.length; i++) {
    checkDim(op, dims[i], rank);
    if (dims.indexOf(dims[i]) !== i)
      throw new ShapeError(op, `dim ${dims[i]} is named twice in ${formatShape(dims)}`);
    if (sorted && i > 0 && dims[i] < dims[i - 1])
      throw new ShapeError(op, `dims must be ascending, got ${formatShape(dims)}`);
  }
}

/** One integer of at least `least` for each dim of `shape`. */
export function checkPerDim(
  op: string,
  name: string,
  values: readonly number[],
  shape: Shape,
  least: number,
): void {
  if (values.length !== shape.length) {
    throw new ShapeError(
      op,
      `${name} has ${values.length} entries ${formatShape(values)} for an input of shape ${formatShape(shape)}`,
    );
  }
  for (let i = 0; i < values.length; i++) {
    if (!Number.isSafeInteger(values[i]) || values[i] < least) {
      throw new ValueError(op, `${name} must be integers of at least ${least}, got ${formatShape(values)}`);
    }
  }
}

/** All inputs of one shape and dtype, which is the result's. */
export function sameType(op: string, takes: Takes, inputs: readonly Node[]): readonly TensorType[] {
  const x = inputs[0];
  for (let i = 1; i < inputs.length; i++) {
    checkSameDType(op, x, inputs[i]);
    if (!sameShape(x.shape, inputs[i].shape)) {
      throw new ShapeError(op, `shapes differ: ${formatShape(x.shape)} and ${formatShape(inputs[i].shape)}`);
    }
  }
  return unaryType(op, takes, inputs);
}
