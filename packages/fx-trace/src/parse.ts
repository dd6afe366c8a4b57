import { type DType, dtypeInfo } from "./dtype.js";
import { GraphError } from "./errors.js";
import { type Graph, GraphBuilder } from "./graph.js";
import { apply, atScope, type Node, withRecorder } from "./node.js";
import type { AttrKind, Attrs, AttrValue, OpDef } from "./opdef.js";
import { opTable } from "./ops/table.js";
import { formatTypes } from "./print.js";

/** `%1 = op(%0) {attrs} : types  # scope`, of which attrs, types and scope may be missing. */
const nodeLine = /^(%\w+) = (\w+)\(([^)]*)\)(?: \{(.*)\})?(?: : (.+?))?(?:\s+# (.+))?$/;
const outputsLine = /^outputs(?: (.+))?$/;

function parseError(line: number, what: string): GraphError {
  return new GraphError("parse", `line ${line}: ${what}`);
}

const names = (list: string): string[] =>
  list
    .split(",")
    .map((name) => name.trim())
    .filter(Boolean);

const numbers: Readonly<Record<string, number>> = {
  NaN: Number.NaN,
  Infinity: Number.POSITIVE_INFINITY,
  "-Infinity": Number.NEGATIVE_INFINITY,
};

/** An attribute's value from its text; undefined where the text is none of its kind. */
function parseValue(kind: AttrKind, text: string): AttrValue | undefined {
  switch (kind) {
    case "int":
      return /^-?\d+$/.test(text) ? Number(text) : undefined;
    case "float":
      return text in numbers ? numbers[text] : /^-?[\d.]+(e[+-]?\d+)?$/.test(text) ? Number(text) : undefined;
    case "bool":
      return text === "true" ? true : text === "false" ? false : undefined;
    case "ints":
      return /^\[[-\d, ]*\]$/.test(text) ? names(text.slice(1, -1)).map(Number) : undefined;
    case "dtype":
      return text in dtypeInfo ? (text as DType) : undefined;
    case "bytes":
      return /^0x([\da-f]{2})*$/.test(text) ? parseHex(text) : undefined;
    default:
      return kind.includes(text) ? text : undefined;
  }
}

const parseHex = (text: string): Uint8Array =>
  Uint8Array.from({ length: text.length / 2 - 1 }, (_, i) =>
    Number.parseInt(text.slice(2 * i + 2, 2 * i + 4), 16),
  );

/** `a=1, b=[1, 2]`: commas inside brackets separate numbers, not attributes. */
function parseAttrs(op: OpDef, text: string, line: number): Attrs {
  const attrs: Record<string, AttrValue> = {};
  for (const part of text.split(/, (?=\w+=)/)) {
    if (!part) continue;
    const equals = part.indexOf("=");
    const name = part.slice(0, equals);
    const kind = op.attrSchema[name];
    if (!kind) throw parseError(line, `${op.name} has no attribute ${name}`);
    const value = parseValue(kind, part.slice(equals + 1));
    if (value === undefined)
      throw parseError(line, `${part} is not ${typeof kind === "string" ? kind : kind.join("|")}`);
    attrs[name] = value;
  }
  for (const name in op.attrSchema) {
    if (!(name in attrs)) throw parseError(line, `${op.name} takes ${name}`);
  }
  return attrs;
}

/**
 * Reads what `formatGraph` writes. Types may be left out; those given must be what the ops' rules give. Empty lines and
 * lines that begin with # are skipped. `table` holds the ops the text may name.
 */
export function parseGraph(text: string, table: readonly OpDef[] = opTable): Graph {
  const ops = new Map(table.map((op) => [op.name, op]));
  const values = new Map<string, Node>();
  const builder = new GraphBuilder();
  let outputs: Node[] | null = null;
  const valueAt =
    (line: number) =>
    (name: string): Node => {
      const value = values.get(name);
      if (!value) throw parseError(line, `${name} is not made before`);
      return value;
    };

  const parseNode = (content: string, line: number): void => {
    const match = nodeLine.exec(content);
    if (!match) throw parseError(line, `neither a node nor the outputs: ${content}`);
    const [, name, opName, operands, attrs = "", types, scope = ""] = match;
    const op = ops.get(opName);
    if (!op) throw parseError(line, `there is no op ${opName}`);
    if (values.has(name)) throw parseError(line, `${name} is made twice`);
    const inputs = names(operands).map(valueAt(line));
    const node = atScope(scope, () => apply(op, inputs, parseAttrs(op, attrs, line)));
    if (types !== undefined && types !== formatTypes(node.types)) {
      throw parseError(line, `${name} is ${formatTypes(node.types)}, not ${types}`);
    }
    values.set(name, node);
  };

  withRecorder(builder, () => {
    text.split("\n").forEach((raw, i) => {
      const content = raw.trim();
      if (content === "" || content.startsWith("#")) return;
      if (outputs) throw parseError(i + 1, "there are lines after the outputs");
      const match = outputsLine.exec(content);
      if (match) outputs = names(match[1] ?? "").map(valueAt(i + 1));
      else parseNode(content, i + 1);
    });
  });
  if (!outputs) throw parseError(text.split("\n").length, "the outputs are missing");
  return builder.finish(outputs);
}
