import { type DType, dtypeInfo } from "./dtype.js";
import { GraphError, LazuliError } from "./errors.js";
import { type Graph, nextWalk } from "./graph.js";
import type { Node } from "./node.js";
import type { AttrKind, AttrValue } from "./opdef.js";
import { formatType, sameShape, type TensorType } from "./shape.js";

/**
 * Checks what every pass may rely on: inputs are made before their users and once, types are what the ops' rules give,
 * ops of several results are read by `result` nodes alone, a collective under way by its collective_done alone, program
 * inputs are numbered 0, 1, ... Throws GraphError naming the first node that breaks one of them.
 */
export function verify(graph: Graph): void {
  const walk = nextWalk();
  const inputs: Node[] = [];
  for (let i = 0; i < graph.nodes.length; i++) {
    const node = graph.nodes[i];
    const fail = (what: string): never => {
      throw new GraphError(node.op.name, `node ${i} ${what}`, node.scope);
    };
    if (node.walk === walk) fail(`is in the graph twice, first as node ${node.index}`);
    checkOperands(node, walk, fail);
    checkAttrs(node, fail);
    checkTypes(node, fail);
    if (node.op.name === "input") {
      const index = node.attrs.index as number;
      if (inputs[index]) fail(`is input ${index}, and so is node ${inputs[index].index}`);
      inputs[index] = node;
    }
    node.walk = walk;
    node.index = i;
  }
  checkInputs(graph, inputs);
  checkStarted(graph);
  graph.outputs.forEach((output, i) => {
    if (output.walk !== walk)
      throw new GraphError(output.op.name, `output ${i} is not in the graph`, output.scope);
    if (output.types.length > 1) {
      throw new GraphError(
        output.op.name,
        `output ${i} is an op of ${output.types.length} results, not one of them`,
        output.scope,
      );
    }
  });
}

type Fail = (what: string) => never;

function checkOperands(node: Node, walk: number, fail: Fail): void {
  const { op, inputs } = node;
  const [least, most] = typeof op.arity === "number" ? [op.arity, op.arity] : op.arity;
  if (inputs.length < least || inputs.length > most) {
    fail(`has ${inputs.length} inputs, takes ${least === most ? least : `${least} to ${most}`}`);
  }
  for (let k = 0; k < inputs.length; k++) {
    const operand = inputs[k];
    if (operand.walk !== walk) fail(`reads ${operand.op.name} (input ${k}) before it is made`);
    if (operand.types.length > 1 && op.name !== "result") {
      fail(
        `reads ${operand.op.name} (input ${k}), an op of ${operand.types.length} results, without a result node`,
      );
    }
  }
}

function fits(kind: AttrKind, value: AttrValue | undefined): boolean {
  switch (kind) {
    case "int":
      return Number.isSafeInteger(value);
    case "float":
      return typeof value === "number";
    case "bool":
      return typeof value === "boolean";
    case "ints":
      return Array.isArray(value) && value.every(Number.isSafeInteger);
    case "dtype":
      return typeof value === "string" && (value as DType) in dtypeInfo;
    case "bytes":
      return value instanceof Uint8Array;
    default:
      return kind.includes(value as string);
  }
}

function checkAttrs(node: Node, fail: Fail): void {
  const schema = node.op.attrSchema;
  for (const name in schema) {
    const kind = schema[name];
    if (!fits(kind, node.attrs[name])) {
      fail(
        `has ${name}=${String(node.attrs[name])}, which is not ${typeof kind === "string" ? kind : kind.join("|")}`,
      );
    }
  }
  for (const name in node.attrs) if (!(name in schema)) fail(`has ${name}, which is no attribute of the op`);
}

const sameType = (a: TensorType, b: TensorType): boolean =>
  a.dtype === b.dtype && sameShape(a.shape, b.shape);

function checkTypes(node: Node, fail: Fail): void {
  const types = derivedTypes(node, fail);
  if (types.length === node.types.length && types.every((type, k) => sameType(type, node.types[k]))) return;
  fail(`has type ${node.types.map(formatType).join(", ")}, its op gives ${types.map(formatType).join(", ")}`);
}

function derivedTypes(node: Node, fail: Fail): readonly TensorType[] {
  try {
    const derived = node.op.type(node.inputs, node.attrs as never);
    return Array.isArray(derived) ? derived : [derived as TensorType];
  } catch (error) {
    if (!(error instanceof LazuliError)) throw error;
    return fail(`is refused by its op: ${error.detail}`);
  }
}

/** A collective that is only started has no value until its collective_done. */
function checkStarted({ nodes, outputs }: Graph): void {
  const dones = new Map<Node, Node>();
  for (const node of nodes) if (node.op.name === "collective_done") dones.set(node.inputs[0], node);
  if (dones.size === 0) return;
  const check = (value: Node, reader: string, isDone: boolean): void => {
    const done = dones.get(value);
    if (!done || isDone) return;
    const what = `node ${value.index} is under way until node ${done.index}, its collective_done, and ${reader} reads it`;
    throw new GraphError(value.op.name, what, value.scope);
  };
  for (const node of nodes)
    node.inputs.forEach((value, k) => {
      check(value, `node ${node.index}, ${node.op.name},`, dones.get(value) === node && k === 0);
    });
  outputs.forEach((value, i) => {
    check(value, `output ${i}`, false);
  });
}

function checkInputs(graph: Graph, inputs: readonly Node[]): void {
  for (let index = 0; index < inputs.length; index++) {
    if (!inputs[index])
      throw new GraphError("input", `there is no input ${index}, but there is an input ${inputs.length - 1}`);
  }
  if (graph.inputs.length === inputs.length && inputs.every((node, index) => graph.inputs[index] === node))
    return;
  throw new GraphError("input", "the graph's inputs are not its input nodes by index");
}
