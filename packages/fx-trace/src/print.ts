import { type Graph, walkNodes } from "./graph.js";
import type { Node } from "./node.js";
import type { AttrKind, AttrValue } from "./opdef.js";
import { formatShape, formatType, type TensorType } from "./shape.js";

export interface FormatOptions {
  /** Constants of more bytes are shown by their beginning; such a text cannot be parsed back. */
  readonly maxBytes?: number;
  /** What is said of a node besides, at the end of its line. */
  readonly note?: (node: Node) => string;
}

const hex = (bytes: Uint8Array): string =>
  `0x${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;

function formatBytes(bytes: Uint8Array, maxBytes: number): string {
  return bytes.length <= maxBytes ? hex(bytes) : `${hex(bytes.subarray(0, 16))}... (${bytes.length} bytes)`;
}

const formatNumber = (value: number): string => (Object.is(value, -0) ? "-0" : String(value));

function formatAttr(kind: AttrKind, value: AttrValue, maxBytes: number): string {
  if (kind === "bytes") return formatBytes(value as Uint8Array, maxBytes);
  if (kind === "ints") return formatShape(value as readonly number[]);
  return typeof value === "number" ? formatNumber(value) : String(value);
}

/** ` {dim=0, keepdim=false}`, or nothing where the op has no attributes. */
export function formatAttrs(
  node: Node,
  { maxBytes = 64 }: FormatOptions = {},
  hidden: readonly string[] = [],
): string {
  const schema = node.op.attrSchema;
  const parts = Object.keys(schema)
    .filter((name) => !hidden.includes(name))
    .map((name) => `${name}=${formatAttr(schema[name], node.attrs[name], maxBytes)}`);
  return parts.length > 0 ? ` {${parts.join(", ")}}` : "";
}

export const formatTypes = (types: readonly TensorType[]): string =>
  types.length === 1 ? formatType(types[0]) : `(${types.map(formatType).join(", ")})`;

/**
 * One line a node, numbered by position, then the outputs:
 *
 *     %2 = sum(%1) {dims=[0], keepdim=false} : float32[16]  # blocks.0.attn
 *     outputs %2
 */
export function formatGraph(graph: Graph, options: FormatOptions = {}): string {
  walkNodes(graph.nodes);
  const name = (node: Node): string => `%${node.index}`;
  const lines = graph.nodes.map((node) => {
    const call = `${node.op.name}(${node.inputs.map(name).join(", ")})${formatAttrs(node, options)}`;
    const comment = [node.scope, options.note?.(node)].filter(Boolean).join("  ");
    return `${name(node)} = ${call} : ${formatTypes(node.types)}${comment ? `  # ${comment}` : ""}`;
  });
  return `${[...lines, `outputs ${graph.outputs.map(name).join(", ")}`.trimEnd()].join("\n")}\n`;
}

const quoted = (text: string): string => `"${text.replace(/["\\]/g, "\\$&").replace(/\n/g, "\\n")}"`;

export interface DotOptions {
  /** Stands above the picture. */
  readonly title?: string;
  /** Lines of a node's label, below its type. */
  readonly lines?: (node: Node) => readonly string[];
  /** Attributes that are not shown. */
  readonly hidden?: readonly string[];
  /** Graphviz attributes of a node. */
  readonly style?: (node: Node) => Readonly<Record<string, string>>;
}

/** The graph for Graphviz: a box a node, grouped by module path, outputs doubled. */
export function toDot(graph: Graph, { title, lines: more, hidden, style }: DotOptions = {}): string {
  walkNodes(graph.nodes);
  const outputs = new Set(graph.outputs);
  const box = (node: Node): string => {
    const call = `%${node.index} ${node.op.name}${formatAttrs(node, { maxBytes: 8 }, hidden)}`;
    const attrs = {
      label: [call, formatTypes(node.types), ...(more?.(node) ?? [])].join("\n"),
      ...(outputs.has(node) && { peripheries: "2" }),
      ...style?.(node),
    };
    const list = Object.entries(attrs).map(
      ([key, value]) => `${key}=${key === "label" || /\W/.test(value) ? quoted(value) : value}`,
    );
    return `n${node.index} [${list.join(", ")}];`;
  };
  const scopes = new Map<string, Node[]>();
  for (const node of graph.nodes) {
    const group = scopes.get(node.scope);
    if (group) group.push(node);
    else scopes.set(node.scope, [node]);
  }
  const lines = ["digraph {", "  node [shape=box, fontname=monospace];"];
  if (title) lines.push(`  label=${quoted(title)}; labelloc=t; fontname=monospace;`);
  let cluster = 0;
  for (const [scope, nodes] of scopes) {
    const indent = scope ? "    " : "  ";
    if (scope) lines.push(`  subgraph cluster_${cluster++} {`, `    label=${quoted(scope)};`);
    for (const node of nodes) lines.push(`${indent}${box(node)}`);
    if (scope) lines.push("  }");
  }
  for (const node of graph.nodes) {
    for (const operand of node.inputs) lines.push(`  n${operand.index} -> n${node.index};`);
  }
  return `${[...lines, "}"].join("\n")}\n`;
}
