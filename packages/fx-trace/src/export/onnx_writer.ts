import type { DType } from "../dtype.js";
import { roundTo, writeValues } from "../passes/scalar.js";
import { type Shape, sameShape, type TensorType } from "../shape.js";

/** A value of the graph that is written. */
export interface Onnx extends TensorType {
  readonly name: string;
}

export type OnnxAttribute = number | string | readonly number[] | { readonly float: number };

export interface OnnxNode {
  readonly opType: string;
  readonly name: string;
  readonly input: readonly string[];
  readonly output: readonly string[];
  readonly attributes: Readonly<Record<string, OnnxAttribute>>;
}

export interface OnnxTensor extends TensorType {
  readonly name: string;
  /** Little-endian, row-major. */
  readonly data: Uint8Array;
}

/** Writes the nodes of an ONNX graph, and the tensors that are part of it. */
export class OnnxWriter {
  readonly nodes: OnnxNode[] = [];
  readonly tensors: OnnxTensor[] = [];
  private count = 0;
  private readonly known = new Map<string, Onnx>();
  /** Set by the caller: begins the nodes' names. */
  scope = "";

  /** A node of several results. */
  several(
    opType: string,
    input: readonly Onnx[],
    types: readonly TensorType[],
    attributes: Readonly<Record<string, OnnxAttribute>> = {},
  ): Onnx[] {
    const number = this.count++;
    const outs = types.map(({ shape, dtype }, i) => ({
      name: `/v${number}${i > 0 ? `_${i}` : ""}`,
      shape,
      dtype,
    }));
    this.nodes.push({
      opType,
      name: `${this.scope ? `${this.scope}/` : ""}${opType}_${number}`,
      input: input.map(({ name }) => name),
      output: outs.map(({ name }) => name),
      attributes,
    });
    return outs;
  }

  one(
    opType: string,
    input: readonly Onnx[],
    type: TensorType,
    attributes: Readonly<Record<string, OnnxAttribute>> = {},
  ): Onnx {
    return this.several(opType, input, [type], attributes)[0];
  }

  /** An op of operands and a result of one type. */
  same(opType: string, ...input: Onnx[]): Onnx {
    return this.one(opType, input, input[0]);
  }

  test(opType: string, ...input: Onnx[]): Onnx {
    return this.one(opType, input, { shape: input[0].shape, dtype: "bool" });
  }

  /** A tensor that is part of the graph; equal ones are one. */
  data(type: TensorType, data: Uint8Array): Onnx {
    const key = `${type.dtype} ${type.shape} ${Buffer.from(data).toString("base64")}`;
    const known = data.length <= 64 ? this.known.get(key) : undefined;
    if (known) return known;
    const name = `/c${this.tensors.length}`;
    const { shape, dtype } = type;
    this.tensors.push({ name, shape, dtype, data });
    const value = { name, shape, dtype };
    this.known.set(key, value);
    return value;
  }

  scalar(value: number, dtype: DType): Onnx {
    return this.data({ shape: [], dtype }, writeValues(dtype, [roundTo(dtype, value) ?? value]));
  }

  /** A list of integers, as shapes and axes are given. */
  ints(values: readonly number[]): Onnx {
    return this.data({ shape: [values.length], dtype: "int64" }, writeValues("int64", values));
  }

  range(size: number, dtype: DType): Onnx {
    return this.data(
      { shape: [size], dtype },
      writeValues(
        dtype,
        Array.from({ length: size }, (_, i) => i),
      ),
    );
  }

  cast(x: Onnx, dtype: DType): Onnx {
    return x.dtype === dtype ? x : this.one("Cast", [x], { shape: x.shape, dtype }, { to: onnxTypes[dtype] });
  }

  reshape(x: Onnx, shape: Shape): Onnx {
    if (sameShape(x.shape, shape)) return x;
    return this.one("Reshape", [x, this.ints(shape)], { shape, dtype: x.dtype }, { allowzero: 1 });
  }

  transpose(x: Onnx, perm: readonly number[]): Onnx {
    if (perm.every((dim, i) => dim === i)) return x;
    return this.one("Transpose", [x], { shape: perm.map((dim) => x.shape[dim]), dtype: x.dtype }, { perm });
  }

  expand(x: Onnx, shape: Shape): Onnx {
    return sameShape(x.shape, shape)
      ? x
      : this.one("Expand", [x, this.ints(shape)], { shape, dtype: x.dtype });
  }
}

/** TensorProto.DataType. */
export const onnxTypes: Readonly<Record<DType, number>> = {
  float32: 1,
  uint8: 2,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  bfloat16: 16,
};
