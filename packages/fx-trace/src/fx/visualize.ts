import type { FxGraph } from "./graph.js";
import type { FxNode } from "./node.js";
import { formatFxTypes } from "./print.js";

/** Module paths as a tree, each with the nodes called in it. */
interface ScopeTree {
  readonly nodes: FxNode[];
  readonly children: Map<string, ScopeTree>;
}

function scopeTree(graph: FxGraph): ScopeTree {
  const root: ScopeTree = { nodes: [], children: new Map() };
  for (const node of graph) {
    let tree = root;
    // A called module's box stands in the module that calls it.
    const path = node.op === "call_module" ? node.scope.split(".").slice(0, -1).join(".") : node.scope;
    for (const part of path ? path.split(".") : []) {
      let child = tree.children.get(part);
      if (!child) {
        child = { nodes: [], children: new Map() };
        tree.children.set(part, child);
      }
      tree = child;
    }
    tree.nodes.push(node);
  }
  return root;
}

interface Syntax {
  readonly node: (node: FxNode, id: string) => string;
  readonly open: (path: string, number: number) => string[];
  readonly close: string;
}

function scopeLines(tree: ScopeTree, syntax: Syntax, ids: ReadonlyMap<FxNode, string>): string[] {
  const lines: string[] = [];
  let count = 0;
  const visit = (level: ScopeTree, path: string, indent: string): void => {
    for (const node of level.nodes) lines.push(`${indent}${syntax.node(node, ids.get(node) as string)}`);
    for (const [name, child] of level.children) {
      const inner = path ? `${path}.${name}` : name;
      // A scope that holds one scope and nothing else says nothing by itself.
      if (child.nodes.length === 0 && child.children.size === 1) {
        visit(child, inner, indent);
        continue;
      }
      for (const line of syntax.open(inner, count++)) lines.push(`${indent}${line}`);
      visit(child, inner, `${indent}  `);
      lines.push(`${indent}${syntax.close}`);
    }
  };
  visit(tree, "", "  ");
  return lines;
}

/** First line of a node's box. */
const title = (node: FxNode): string =>
  node.op === "output" || node.targetName === node.name
    ? node.targetName
    : `${node.name}: ${node.targetName}`;

const quoted = (text: string): string => `"${text.replace(/["\\]/g, "\\$&").replace(/\n/g, "\\n")}"`;

const dotShape: Partial<Record<FxNode["op"], string>> = {
  placeholder: ", shape=ellipse",
  get_attr: ", shape=cylinder",
  call_module: ", shape=component",
  output: ", peripheries=2",
};

const numbered = (graph: FxGraph): Map<FxNode, string> =>
  new Map(graph.nodes.map((node, i) => [node, `n${i}`] as const));

export function fxToDot(graph: FxGraph): string {
  const ids = numbered(graph);
  const lines = scopeLines(
    scopeTree(graph),
    {
      node: (node, id) =>
        `${id} [label=${quoted(`${title(node)}\n${formatFxTypes(node)}`.trimEnd())}${dotShape[node.op] ?? ""}];`,
      open: (path, number) => [`subgraph cluster_${number} {`, `  label=${quoted(path)};`],
      close: "}",
    },
    ids,
  );
  const edges = edgesOf(graph, ids).map(([from, to]) => `  ${from} -> ${to};`);
  return `${["digraph {", "  node [shape=box, fontname=monospace];", ...lines, ...edges, "}"].join("\n")}\n`;
}

const edgesOf = (graph: FxGraph, ids: ReadonlyMap<FxNode, string>): (readonly [string, string])[] =>
  graph.nodes.flatMap((node) =>
    node.inputs.map((input) => [ids.get(input) as string, ids.get(node) as string] as const),
  );

const escaped = (text: string): string => text.replaceAll('"', "#quot;").replaceAll("<", "#lt;");

function mermaidBox(node: FxNode): string {
  const text = `"${[title(node), formatFxTypes(node)].filter(Boolean).map(escaped).join("<br>")}"`;
  switch (node.op) {
    case "placeholder":
      return `([${text}])`;
    case "get_attr":
    case "set_attr":
      return `[(${text})]`;
    case "call_module":
      return `[[${text}]]`;
    case "output":
      return `(((${text})))`;
    default:
      return `[${text}]`;
  }
}

export function fxToMermaid(graph: FxGraph): string {
  const ids = numbered(graph);
  const lines = scopeLines(
    scopeTree(graph),
    {
      node: (node, id) => `${id}${mermaidBox(node)}`,
      open: (path, number) => [`subgraph s${number}["${escaped(path)}"]`],
      close: "end",
    },
    ids,
  );
  const edges = edgesOf(graph, ids).map(([from, to]) => `  ${from} --> ${to}`);
  return `${["flowchart TD", ...lines, ...edges].join("\n")}\n`;
}
