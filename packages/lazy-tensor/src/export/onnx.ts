import {
  ONNX_OPSET,
  type Onnx,
  type OnnxAttribute,
  type OnnxGraph,
  type OnnxTensor,
  onnxTypes,
  toOnnxGraph,
} from "@lazuli/fx-trace";
import protobuf from "protobufjs";
import { ExportError } from "../errors.js";
import { writeFileAtomically } from "../io/files.js";
import { engine } from "../runtime.js";
import { rawArray } from "../typed_array.js";
import { captureProgram, type ExportTarget } from "./capture.js";
import { computeConstants } from "./constants.js";

/**
 * The part of ONNX's format that is written. Names are free, numbers are the format's; proto2 as it is, so that an attribute
 * of 0 is written, not taken for one that is missing.
 * https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
 */
const schema = `
  syntax = "proto2";
  message AttributeProto {
    optional string name = 1; optional float f = 2; optional int64 i = 3; optional bytes s = 4; repeated int64 ints = 8; optional int32 type = 20;
  }
  message DimProto { optional int64 dim_value = 1; }
  message ShapeProto { repeated DimProto dim = 1; }
  message TensorTypeProto { optional int32 elem_type = 1; optional ShapeProto shape = 2; }
  message TypeProto { optional TensorTypeProto tensor_type = 1; }
  message ValueInfoProto { optional string name = 1; optional TypeProto type = 2; }
  message NodeProto {
    repeated string input = 1; repeated string output = 2; optional string name = 3; optional string op_type = 4;
    repeated AttributeProto attribute = 5;
  }
  message TensorProto { repeated int64 dims = 1; optional int32 data_type = 2; optional string name = 8; optional bytes raw_data = 9; }
  message GraphProto {
    repeated NodeProto node = 1; optional string name = 2; repeated TensorProto initializer = 5;
    repeated ValueInfoProto input = 11; repeated ValueInfoProto output = 12;
  }
  message OperatorSetIdProto { optional string domain = 1; optional int64 version = 2; }
  message ModelProto {
    optional int64 ir_version = 1; optional string producer_name = 2; optional GraphProto graph = 7;
    repeated OperatorSetIdProto opset_import = 8;
  }
`;

/** Of the format that opset 17 came with. */
const IR_VERSION = 8;
/** No protobuf message may be larger. */
const MAX_BYTES = 2 ** 31 - 1;

const attributeTypes = { float: 1, int: 2, string: 3, ints: 7 } as const;

function attribute(name: string, value: OnnxAttribute): object {
  if (typeof value === "number") return { name, type: attributeTypes.int, i: value };
  if (typeof value === "string") return { name, type: attributeTypes.string, s: Buffer.from(value) };
  if ("float" in value) return { name, type: attributeTypes.float, f: value.float };
  return { name, type: attributeTypes.ints, ints: [...value] };
}

const valueInfo = ({ name, shape, dtype }: Onnx): object => ({
  name,
  type: {
    tensor_type: { elem_type: onnxTypes[dtype], shape: { dim: shape.map((size) => ({ dim_value: size })) } },
  },
});

const tensorProto = ({ name, shape, dtype, data }: OnnxTensor): object => ({
  name,
  dims: [...shape],
  data_type: onnxTypes[dtype],
  raw_data: data,
});

/**
 * One call of `target` on `inputs` as an ONNX model of opset 17, for inference: inputs are `arg0`, `arg1`, ... by tensor,
 * outputs `out0`, ..., parameters and buffers are initializers under their state dict names. Throws UnsupportedOpError
 * for what ONNX has no operator of, ExportError for a model of 2 GiB or more. As torch.onnx.export.
 */
export async function toOnnx(target: ExportTarget, inputs: readonly unknown[]): Promise<Uint8Array> {
  const { graph, held, inputNames } = await captureProgram(target, inputs);
  const onnx = toOnnxGraph(await computeConstants(graph), inputNames);
  const weights: OnnxTensor[] = [];
  for (const [name, { tensor }] of held) {
    const raw = rawArray(tensor.dtype, tensor.size);
    await engine().read(tensor.node, raw);
    const data = new Uint8Array(raw.buffer, raw.byteOffset, raw.byteLength);
    weights.push({ name, shape: tensor.shape, dtype: tensor.dtype, data });
  }
  return encodeOnnx(onnx, weights);
}

/** The file of a graph; `weights` are its last inputs. Throws ExportError. */
export function encodeOnnx(onnx: OnnxGraph, weights: readonly OnnxTensor[] = []): Uint8Array {
  const sizeBytes = [...weights, ...onnx.tensors].reduce((sum, { data }) => sum + data.length, 0);
  if (sizeBytes > MAX_BYTES)
    throw new ExportError(
      "toOnnx",
      `the weights are ${sizeBytes} bytes, and an ONNX file holds at most ${MAX_BYTES}`,
    );
  const model = {
    ir_version: IR_VERSION,
    producer_name: "lazuli",
    opset_import: [{ domain: "", version: ONNX_OPSET }],
    graph: {
      name: "main",
      node: onnx.nodes.map(({ input, output, name, opType, attributes }) => ({
        input,
        output,
        name,
        op_type: opType,
        attribute: Object.entries(attributes).map(([key, value]) => attribute(key, value)),
      })),
      initializer: [...weights, ...onnx.tensors].map(tensorProto),
      input: onnx.inputs.slice(0, onnx.inputs.length - weights.length).map(valueInfo),
      output: onnx.outputs.map(valueInfo),
    },
  };
  const { root } = protobuf.parse(schema, { keepCase: true });
  return root.lookupType("ModelProto").encode(model).finish();
}

/** Writes `toOnnx`'s model to a file that appears whole or not at all. */
export async function exportOnnx(
  target: ExportTarget,
  inputs: readonly unknown[],
  path: string,
): Promise<void> {
  await writeFileAtomically(path, await toOnnx(target, inputs));
}
