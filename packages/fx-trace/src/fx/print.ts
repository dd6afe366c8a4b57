import type { AttrKind } from "../opdef.js";
import { formatTypes } from "../print.js";
import type { FxGraph } from "./graph.js";
import { FxNode, isPlainObject } from "./node.js";
import { type FxAttr, SymExpr } from "./symbolic.js";

const MAX_BYTES = 64;

/** An argument as text: nodes as `%name`, strings quoted, structures as in JavaScript. */
export function formatArgument(
  value: unknown,
  nodeText: (node: FxNode) => string = (node) => `%${node.name}`,
): string {
  const format = (item: unknown): string => formatArgument(item, nodeText);
  if (value instanceof FxNode) return nodeText(value);
  if (Array.isArray(value)) return `[${value.map(format).join(", ")}]`;
  if (isPlainObject(value)) {
    const entries = Object.entries(value).map(([key, item]) => `${formatKey(key)}: ${format(item)}`);
    return entries.length > 0 ? `{ ${entries.join(", ")} }` : "{}";
  }
  if (typeof value === "string") return JSON.stringify(value);
  if (Object.is(value, -0)) return "-0";
  return value instanceof Object && !(value instanceof SymExpr)
    ? `<${value.constructor?.name}>`
    : String(value);
}

export const formatKey = (key: string): string =>
  /^[A-Za-z_$][\w$]*$/.test(key) ? key : JSON.stringify(key);

function formatAttr(kind: AttrKind | undefined, value: FxAttr): string {
  if (value instanceof Uint8Array) {
    const shown = Array.from(value.subarray(0, MAX_BYTES), (byte) => byte.toString(16).padStart(2, "0")).join(
      "",
    );
    return value.length <= MAX_BYTES ? `0x${shown}` : `0x${shown}... (${value.length} bytes)`;
  }
  if (Array.isArray(value)) return `[${value.join(", ")}]`;
  return kind === "float" && Object.is(value, -0) ? "-0" : String(value);
}

/** ` {dim=0, keepdim=false}`, or nothing. */
export function formatFxAttrs(node: FxNode): string {
  const schema = node.opdef?.attrSchema ?? {};
  const parts = Object.keys(node.attrs).map(
    (name) => `${name}=${formatAttr(schema[name], node.attrs[name])}`,
  );
  return parts.length > 0 ? ` {${parts.join(", ")}}` : "";
}

/** The types, symbolic dims by name; "" where they are not known. */
export function formatFxTypes(node: FxNode): string {
  const { types, dims } = node;
  if (!types) return "";
  if (!dims) return formatTypes(types);
  const texts = types.map(({ dtype }, i) => `${dtype}[${dims[i].join(", ")}]`);
  return texts.length === 1 ? texts[0] : `(${texts.join(", ")})`;
}

/** What the node does, without its name: `add(%x, %y)`, `model.norm(%x)`, `get_attr model.norm.weight`. */
export function formatCall(node: FxNode): string {
  const args = node.args.map((arg) => formatArgument(arg)).join(", ");
  switch (node.op) {
    case "placeholder":
    case "get_attr":
      return `${node.op} ${node.targetName}`;
    case "set_attr":
      return `set_attr ${node.targetName} = ${args}`;
    case "call_module":
      return `call_module ${node.targetName}(${args})`;
    case "output":
      return `output ${args}`;
    default:
      return `${node.targetName}(${args})${formatFxAttrs(node)}`;
  }
}

/**
 * One line a node:
 *
 *     %x = placeholder x : float32[2, 16]
 *     %fc = call_module fc(%x) : float32[2, 4]  # fc
 *     %relu = relu(%fc) : float32[2, 4]
 *     output %relu
 */
export function formatFxGraph(graph: FxGraph): string {
  const lines = graph.nodes.map((node) => {
    const named = node.op === "output" || node.op === "set_attr" ? "" : `%${node.name} = `;
    const types = node.op === "output" || node.op === "set_attr" ? "" : formatFxTypes(node);
    const marks = [...(node.noGrad ? ["no grad"] : []), ...(node.scope ? [`# ${node.scope}`] : [])];
    return [
      `${named}${formatCall(node)}`,
      ...(types ? [`: ${types}`] : []),
      ...marks.map((mark) => ` ${mark}`),
    ].join(" ");
  });
  return `${lines.join("\n")}\n`;
}

/** Columns: opcode, name, target, args, attrs, type. */
export function formatTable(graph: FxGraph): string {
  const rows = graph.nodes.map((node) => [
    node.op,
    node.name,
    node.targetName,
    `(${node.args.map((arg) => formatArgument(arg, (input) => input.name)).join(", ")})`,
    formatFxAttrs(node).trim(),
    formatFxTypes(node),
  ]);
  const head = ["opcode", "name", "target", "args", "attrs", "type"];
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i].length)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => cell.padEnd(widths[i]))
      .join("  ")
      .trimEnd();
  return [line(head), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n");
}
