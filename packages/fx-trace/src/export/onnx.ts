import { UnsupportedOpError } from "../errors.js";
import { type Graph, walkNodes } from "../graph.js";
import type { Node } from "../node.js";
import type { OpDef } from "../opdef.js";
import { runPasses } from "../passes/pass.js";
import { standardPasses } from "../passes/standard.js";
import { type OnnxRule, onnxRules } from "./onnx_rules.js";
import { type Onnx, type OnnxNode, type OnnxTensor, OnnxWriter } from "./onnx_writer.js";

/** An ONNX graph, before it is encoded. */
export interface OnnxGraph {
  readonly nodes: readonly OnnxNode[];
  /** Constants of the graph. */
  readonly tensors: readonly OnnxTensor[];
  readonly inputs: readonly Onnx[];
  readonly outputs: readonly Onnx[];
}

export const ONNX_OPSET = 17;

const rules = onnxRules as Readonly<Record<string, OnnxRule | null>>;
const hasRule = (op: OpDef): boolean => (rules[op.name] ?? null) !== null;

/**
 * The graph in ONNX operators of opset 17: what has none of its own in smaller ones. `inputNames` are the inputs', `out0`,
 * `out1`, ... the outputs'. Throws UnsupportedOpError naming every op without a counterpart, and where it is.
 */
export function toOnnxGraph(graph: Graph, inputNames: readonly string[]): OnnxGraph {
  const lowered = runPasses(graph, standardPasses(hasRule));
  const missing = lowered.nodes.filter(({ op }) => !["input", "result"].includes(op.name) && !hasRule(op));
  walkNodes(lowered.nodes);
  const w = new OnnxWriter();
  const values: (readonly Onnx[])[] = [];
  const inputs = lowered.inputs.map(({ index, shape, dtype }, i): Onnx => {
    const value = { name: inputNames[i], shape, dtype };
    values[index] = [value];
    return value;
  });
  const written = (node: Node): readonly Onnx[] | null => {
    if (node.op.name === "result") return [values[node.inputs[0].index][node.attrs.index as number]];
    w.scope = node.scope;
    const operands = node.inputs.map(({ index }) => values[index]?.[0]);
    const made = (rules[node.op.name] as OnnxRule)(w, node, operands);
    return made === null ? null : Array.isArray(made) ? made : [made as Onnx];
  };
  for (const node of missing.length > 0 ? [] : lowered.nodes) {
    if (node.op.name === "input") continue;
    const made = written(node);
    if (made) values[node.index] = made;
    else {
      missing.push(node);
      break;
    }
  }
  if (missing.length > 0) throw new UnsupportedOpError("toOnnx", `ONNX opset ${ONNX_OPSET}`, missing);
  // An output may be an input, or be given twice: each is a value of its own.
  const outputs = lowered.outputs.map(({ index }, i) => {
    const [value] = values[index];
    const out = { ...value, name: `out${i}` };
    w.nodes.push({
      opType: "Identity",
      name: `Identity_out${i}`,
      input: [value.name],
      output: [out.name],
      attributes: {},
    });
    return out;
  });
  return { nodes: w.nodes, tensors: w.tensors, inputs, outputs };
}
