import { type Graph, nextWalk } from "../graph.js";
import type { Node } from "../node.js";
import type { Pass } from "./pass.js";

/** Drops nodes no output needs. Inputs stay, needed or not: their numbers are the caller's. */
export const dce: Pass = function dce(graph: Graph): Graph {
  const walk = nextWalk();
  const stack: Node[] = [];
  const mark = (nodes: readonly Node[]): void => {
    for (let i = 0; i < nodes.length; i++) {
      if (nodes[i].walk === walk) continue;
      nodes[i].walk = walk;
      stack.push(nodes[i]);
    }
  };
  mark(graph.outputs);
  for (let node = stack.pop(); node; node = stack.pop()) mark(node.inputs);
  const nodes = graph.nodes.filter((node) => node.walk === walk || node.op.name === "input");
  return nodes.length === graph.nodes.length ? graph : { ...graph, nodes };
};
