import { GraphError } from "../errors.js";
import type { FxGraph } from "./graph.js";
import { type FxNode, getItem, isRandom, visitNodes } from "./node.js";

/**
 * Checks that nodes come before their users and are of this graph, that users and names are what they should be, that
 * ops have the inputs and attributes they take, that arguments lead to placeholders, and that the output is the last node.
 */
export function lintGraph(graph: FxGraph): void {
  const seen = new Set<FxNode>();
  const names = new Set<string>();
  for (const node of graph) {
    const fail = (what: string): never => {
      throw new GraphError("lint", `${node.name} ${what}`, node.scope);
    };
    if (names.has(node.name)) fail("names two nodes");
    names.add(node.name);
    for (const input of node.inputs) {
      if (input.erased) fail(`reads ${input.name}, which was erased`);
      if (input.graph !== graph) fail(`reads ${input.name}, a node of another graph`);
      if (!seen.has(input)) fail(`reads ${input.name} before it is made`);
      if (!input.users.has(node)) fail(`reads ${input.name}, which does not know of it`);
    }
    for (const user of node.users)
      if (!user.inputs.includes(node)) fail(`lists the user ${user.name}, which does not read it`);
    checkCall(node, fail);
    if (node.op === "output" && node.next)
      fail(`is followed by ${node.next.name}: the output is the last node`);
    seen.add(node);
  }
  if (!graph.outputNode) throw new GraphError("lint", "the graph has no output");
  checkParams(graph, seen);
}

type Fail = (what: string) => never;

function checkCall(node: FxNode, fail: Fail): void {
  if (node.op !== "call_function") {
    if (typeof node.target !== "string") fail(`is a ${node.op} of something that is no path`);
    if (node.op === "set_attr" && node.args.length !== 1) fail(`sets ${node.args.length} values, not 1`);
    return;
  }
  if (node.target === getItem) {
    if (node.args.length !== 2) fail(`has ${node.args.length} arguments, takes 2: of what, and which`);
    return;
  }
  const { opdef } = node;
  if (!opdef) {
    fail("calls no op");
    return;
  }
  const random = isRandom(opdef) && node.args.length === 0;
  const [least, most] = typeof opdef.arity === "number" ? [opdef.arity, opdef.arity] : opdef.arity;
  const count = node.args.length;
  if (!random && (count < least || count > most))
    fail(`has ${count} inputs, ${opdef.name} takes ${least === most ? least : `${least} to ${most}`}`);
  for (const name in opdef.attrSchema)
    if (!(name in node.attrs) && !(random && name === "stream"))
      fail(`lacks ${name}, which ${opdef.name} takes`);
  for (const name in node.attrs)
    if (!(name in opdef.attrSchema)) fail(`has ${name}, which is no attribute of ${opdef.name}`);
}

function checkParams(graph: FxGraph, seen: ReadonlySet<FxNode>): void {
  const reached = new Set<FxNode>();
  for (const { name, value } of graph.params)
    visitNodes(value, (node) => {
      if (!seen.has(node) || node.op !== "placeholder")
        throw new GraphError(
          "lint",
          `argument ${name} gives ${node.name}, which is no placeholder of the graph`,
        );
      reached.add(node);
    });
  for (const node of graph.placeholders)
    if (!reached.has(node)) throw new GraphError("lint", `no argument gives the placeholder ${node.name}`);
}
