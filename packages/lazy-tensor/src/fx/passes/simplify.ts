import {
  commutative,
  evaluateAttrs,
  type FxGraph,
  FxNode,
  formatArgument,
  hintSizes,
  isRandom,
  type OpDef,
  SymExpr,
  sameShape,
} from "@lazuli/fx-trace";
import { sync } from "../../step.js";
import type { Tensor } from "../../tensor.js";
import type { GraphModule } from "../graph_module.js";
import { Interpreter } from "../interpreter.js";

/** An attribute or argument as a word that only equal ones share. */
const wordOf = (value: unknown): string => {
  if (value instanceof FxNode) return `%${value.name}`;
  if (value instanceof SymExpr) return `sym ${value}`;
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64");
  if (typeof value === "number") return Object.is(value, -0) ? "-0" : String(value);
  if (Array.isArray(value)) return `[${value.map(wordOf).join(",")}]`;
  if (value !== null && typeof value === "object")
    return `{${Object.entries(value).map(([key, item]) => `${key}:${wordOf(item)}`)}}`;
  return formatArgument(value);
};

const callOf = (node: FxNode): string => {
  const args = node.args.map(wordOf);
  if (node.op === "call_function" && commutative.has(node.targetName)) args.sort();
  return [node.op, node.targetName, node.noGrad, args, wordOf(node.attrs)].join(" ");
};

/** Whether two equal nodes give one value: ops but random draws, and what the module holds. */
const isValue = (node: FxNode): boolean =>
  (node.op === "call_function" && !isRandom(node.target)) || node.op === "get_attr";

/** Merges nodes that compute the same into the first of them. Called modules and random draws are left alone. */
export function cse(module: GraphModule): GraphModule {
  const { graph } = module;
  const seen = new Map<string, FxNode>();
  for (const node of graph.nodes) {
    if (!isValue(node)) continue;
    const key = callOf(node);
    const first = seen.get(key);
    if (!first) {
      seen.set(key, node);
      continue;
    }
    node.replaceAllUsesWith(first);
    graph.eraseNode(node);
  }
  return module;
}

export interface ConstFoldOptions {
  /** Takes parameters and buffers as constants too: for inference, as they are now. Default false. */
  readonly freeze?: boolean;
}

/**
 * Computes what does not depend on the inputs, on the engine, and holds it in the module as `_folded0`, `_folded1`, ... in
 * place of the nodes. Parameters and buffers count as inputs unless `freeze`. As torch.fx's const_fold.
 */
export async function constFold(
  module: GraphModule,
  { freeze = false }: ConstFoldOptions = {},
): Promise<GraphModule> {
  const { graph } = module;
  const fixed = new Set<FxNode>();
  const written = new Set(graph.findNodes({ op: "set_attr" }).map((node) => node.targetName));
  const state = new Set<Tensor>([...module.parameters(), ...module.buffers()]);
  const isFixed = (node: FxNode): boolean => {
    if (node.op === "get_attr")
      return !written.has(node.targetName) && (freeze || !state.has(module.getAttr(node.targetName)));
    if (node.op !== "call_function" || isRandom(node.target) || isSymbolic(node)) return false;
    return node.inputs.every((input) => fixed.has(input));
  };
  for (const node of graph) if (isFixed(node)) fixed.add(node);
  const ends = [...fixed].filter(
    (node) => node.opdef?.results === 1 && [...node.users].some((user) => !fixed.has(user)) && costs(node),
  );
  if (ends.length === 0) return module;
  const interpreter = new Folding(module);
  const values = ends.map((node) => interpreter.value(node));
  await sync(...values);
  for (const [i, node] of ends.entries()) {
    const path = module.freePath(`_folded${i}`);
    module.addTensor(path, values[i]);
    const held = graph.insertingBefore(node, () => graph.getAttr(path, node.type));
    node.replaceAllUsesWith(held);
  }
  graph.eliminateDeadCode();
  return module;
}

/** Whether it is more than a number repeated: sources are made where they are used. */
const costs = (node: FxNode): boolean => node.opdef?.lower !== "source";

const isSymbolic = (node: FxNode): boolean => node.dims !== null || wordOf(node.attrs).includes("sym ");

class Folding extends Interpreter {
  value(node: FxNode): Tensor {
    const visit = (each: FxNode): void => {
      if (this.env.has(each)) return;
      each.inputs.forEach(visit);
      this.env.set(each, this.runNode(each));
    };
    visit(node);
    return (this.env.get(node) as Tensor).detach();
  }
}

/**
 * One way to write the same: attributes are read once, at the front; operands of commutative ops are in the graph's order;
 * ops that give back what they are given (a reshape or cast to what is there, an identity transpose) are dropped, and
 * what nothing reads. Two graphs of one computation then look alike.
 */
export function normalize(module: GraphModule): GraphModule {
  const { graph } = module;
  readOnce(graph);
  for (const node of graph.nodes) if (isIdentity(node)) bypass(graph, node);
  const order = new Map(graph.nodes.map((node, i) => [node, i]));
  for (const node of graph)
    if (node.op === "call_function" && commutative.has(node.targetName)) sortOperands(node, order);
  graph.eliminateDeadCode();
  return module;
}

function readOnce(graph: FxGraph): void {
  const first = new Map<string, FxNode>();
  const front = graph.nodes.find((node) => node.op !== "placeholder" && node.op !== "get_attr");
  for (const node of graph.findNodes({ op: "get_attr" })) {
    const known = first.get(node.targetName);
    if (known) {
      node.replaceAllUsesWith(known);
      graph.eraseNode(node);
      continue;
    }
    first.set(node.targetName, node);
    if (front) graph.moveBefore(node, front);
  }
}

function sortOperands(node: FxNode, order: ReadonlyMap<FxNode, number>): void {
  const [a, b] = node.args;
  if (!(a instanceof FxNode && b instanceof FxNode)) return;
  if ((order.get(a) as number) > (order.get(b) as number)) node.args = [b, a];
}

const identities = new Set(["reshape", "broadcast_to", "cast", "transpose", "slice", "pad", "concat"]);

function isIdentity(node: FxNode): boolean {
  const [x] = node.args;
  if (node.op !== "call_function" || !identities.has(node.targetName) || !(x instanceof FxNode)) return false;
  if (!x.type || !node.type || node.args.length > 1 || node.dims || x.dims) return false;
  if (x.type.dtype !== node.type.dtype || !sameShape(x.type.shape, node.type.shape)) return false;
  // A gradient stops at an op that was recorded with none.
  if (node.noGrad && (node.opdef as OpDef).differentiable) return false;
  const { perm } = evaluateAttrs(node.attrs, hintSizes(node.graph.symbols)) as { perm?: readonly number[] };
  return node.targetName !== "transpose" || (perm as readonly number[]).every((dim, i) => dim === i);
}

function bypass(graph: FxGraph, node: FxNode): void {
  const x = node.args[0] as FxNode;
  // What is returned is a value of its own, not an input or a parameter.
  const keeps = x.op !== "call_function" && graph.outputNode && node.users.has(graph.outputNode);
  if (keeps) return;
  node.replaceAllUsesWith(x);
  graph.eraseNode(node);
}
