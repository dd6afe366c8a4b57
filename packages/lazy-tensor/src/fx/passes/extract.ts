import { FxGraph, type FxNode, getItem } from "@lazuli/fx-trace";
import type { Module } from "../../nn/module.js";
import type { Tensor } from "../../tensor.js";
import { GraphModule } from "../graph_module.js";

/** What a node can only stand beside: what it reads a part of, or what it gives to a buffer. */
export function besides(node: FxNode): FxNode | null {
  const isPart = node.target === getItem || node.calls("result") || node.op === "set_attr";
  const [source] = node.inputs;
  return isPart && source && source.op !== "placeholder" && source.op !== "get_attr" ? source : null;
}

/** A part of a graph as a module. */
export interface Part {
  readonly module: GraphModule;
  /** What it is given, and which of its values are read outside (where none is, the last one): of the graph around. */
  readonly given: readonly FxNode[];
  readonly returned: readonly FxNode[];
}

/**
 * A module of `part`, nodes of the module's graph in order, and of the items and results of them that are read. It shares
 * what they read of the module.
 */
export function extract(module: GraphModule, part: readonly FxNode[], name = "part"): Part {
  const own = new Set(part);
  const nodes: FxNode[] = [];
  for (const node of module.graph) {
    const beside = besides(node);
    if (beside && own.has(beside)) own.add(node);
    if (own.has(node)) nodes.push(node);
  }
  const { graph: whole } = module;
  const graph = new FxGraph();
  for (const [symbol, info] of whole.symbols) graph.symbols.set(symbol, info);
  const given: FxNode[] = [];
  const values = new Map<FxNode, FxNode>();
  // Placeholders come first, whatever reads them.
  for (const node of nodes)
    for (const input of node.inputs) {
      if (own.has(input) || input.op === "get_attr" || values.has(input)) continue;
      const made = graph.placeholder(input.name, input.type);
      made.types = input.types;
      made.dims = input.dims;
      values.set(input, made);
      given.push(input);
    }
  const lookup = (node: FxNode): FxNode => {
    const known = values.get(node);
    if (known) return known;
    const copy = graph.nodeCopy(node, lookup);
    values.set(node, copy);
    return copy;
  };
  const held: Record<string, Module | Tensor> = {};
  for (const node of nodes) {
    if (node.op === "call_module") held[node.targetName] = module.getSubmodule(node.targetName);
    if (node.op === "set_attr") held[node.targetName] = module.getAttr(node.targetName);
    for (const input of node.inputs)
      if (input.op === "get_attr") held[input.targetName] = module.getAttr(input.targetName);
    values.set(node, graph.nodeCopy(node, lookup));
  }
  const isRead = (node: FxNode): boolean => [...node.users].some((user) => !own.has(user));
  const isEnd = (node: FxNode): boolean => node.users.size === 0 && node.op !== "set_attr";
  const hasValue = (node: FxNode): boolean => (node.opdef?.results ?? 1) === 1;
  const returned = nodes.filter((node) => (isRead(node) || isEnd(node)) && hasValue(node));
  const outputs = returned.map(lookup);
  graph.output(outputs.length === 1 ? outputs[0] : outputs);
  const stage = new GraphModule(held, graph, name);
  stage.training = module.training;
  return { module: stage, given, returned };
}
