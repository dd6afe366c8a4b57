import { isFloat } from "../dtype.js";
import { GraphError } from "../errors.js";
import { type Graph, GraphBuilder } from "../graph.js";
import { apply, atScope, type Node, withRecorder } from "../node.js";
import type { OpDef } from "../opdef.js";
import { detach } from "../ops/build.js";
import { input } from "../ops/leaf.js";
import type { Pass } from "../passes/pass.js";
import type { TensorType } from "../shape.js";
import { FxGraph, type FxParam } from "./graph.js";
import { type Argument, type FxNode, isRandom, mapLeaves, mapNodes } from "./node.js";
import { evaluateAttrs, hintSizes } from "./symbolic.js";

/** What an input of a lowered graph is: a placeholder, what the module holds at a path, or the step's random key. */
export type LoweredInput =
  | { readonly kind: "placeholder"; readonly node: FxNode }
  | { readonly kind: "attr"; readonly path: string }
  | { readonly kind: "random_key" };

/** Stands for output `index` of a lowered graph in what it returns. */
export class OutputRef {
  constructor(readonly index: number) {}
}

/** An FxGraph as a core Graph, and how its ends are to be read. */
export interface Lowered {
  readonly graph: Graph;
  /** By index of the graph's inputs: placeholders first, then attributes, then the random key if one is read. */
  readonly inputs: readonly LoweredInput[];
  /** What is returned, with an OutputRef for each value. */
  readonly result: Argument;
  /** Values that buffers get. */
  readonly updates: readonly { readonly path: string; readonly output: OutputRef }[];
  /** The arguments, over the placeholders of the FxGraph. */
  readonly params: readonly FxParam[];
}

const keyType: TensorType = { dtype: "int64", shape: [2] };

/**
 * The graph as the passes and the engine know it, at the sizes it was traced with. Called modules must have been inlined;
 * throws GraphError for one, and for an input whose type is not known.
 */
export function lowerGraph(fx: FxGraph): Lowered {
  const inputs: LoweredInput[] = fx.placeholders.map((node) => ({ kind: "placeholder", node }));
  const types = fx.placeholders.map(typeOf);
  const attrs = new Map<string, number>();
  for (const node of fx.findNodes({ op: "get_attr" })) {
    if (attrs.has(node.targetName)) continue;
    attrs.set(node.targetName, inputs.push({ kind: "attr", path: node.targetName }) - 1);
    types.push(typeOf(node));
  }
  if (fx.nodes.some(drawsImplicitly)) {
    inputs.push({ kind: "random_key" });
    types.push(keyType);
  }
  const sizes = hintSizes(fx.symbols);
  const builder = new GraphBuilder();
  const values = new Map<FxNode, Node>();
  const outputs: Node[] = [];
  const refOf = (node: FxNode): OutputRef => new OutputRef(outputs.push(values.get(node) as Node) - 1);
  let result: Argument;
  const updates: { path: string; output: OutputRef }[] = [];
  withRecorder(builder, () => {
    const made = types.map((type, index) => apply(input as unknown as OpDef, [], { index, ...type }));
    let stream = 0;
    for (const node of fx) {
      if (node.op === "placeholder") values.set(node, made[fx.placeholders.indexOf(node)]);
      else if (node.op === "get_attr") values.set(node, made[attrs.get(node.targetName) as number]);
      else if (node.op === "set_attr")
        updates.push({ path: node.targetName, output: refOf(node.args[0] as FxNode) });
      else if (node.op === "output") result = mapNodes(node.args[0], refOf);
      else if (node.opdef) {
        const draws = drawsImplicitly(node);
        const operands = draws
          ? [made[made.length - 1]]
          : node.args.map((arg) => values.get(arg as FxNode) as Node);
        const own = evaluateAttrs(node.attrs, sizes);
        values.set(node, lowerCall(node, operands, draws ? { ...own, stream: stream++ } : own));
      } else
        throw new GraphError(
          "lower",
          `${node.name} calls ${node.targetName}: inline called modules first`,
          node.scope,
        );
    }
  });
  return { graph: builder.finish(outputs), inputs, result, updates, params: fx.params };
}

const drawsImplicitly = (node: FxNode): boolean => isRandom(node.target) && node.args.length === 0;

function lowerCall(node: FxNode, operands: readonly Node[], attrs: Parameters<typeof apply>[2]): Node {
  return atScope(node.scope, () => {
    const op = node.opdef as OpDef;
    const value = apply(op, operands, attrs);
    const ends = node.noGrad && op.differentiable && operands.length > 0 && value.types.length === 1;
    return ends && isFloat(value.dtype) ? detach(value) : value;
  });
}

function typeOf(node: FxNode): TensorType {
  if (!node.type) throw new GraphError("lower", `the type of ${node.name} is not known`, node.scope);
  return node.type;
}

/**
 * A core Graph as an editable one. Without `ends` its inputs become placeholders `input`, `input_1`, ... and it returns
 * its output, or an array of several; with them, what `lowerGraph` said of them is put back.
 */
export function liftGraph(graph: Graph, ends?: Omit<Lowered, "graph">): FxGraph {
  const fx = new FxGraph();
  const values = new Map<Node, FxNode>();
  const placeholders = new Map<FxNode, FxNode>();
  for (const [index, node] of graph.inputs.entries()) {
    const end = ends?.inputs[index];
    if (end?.kind === "attr") values.set(node, fx.getAttr(end.path, node.type));
    else if (end?.kind !== "random_key") {
      const made = fx.placeholder(end ? end.node.targetName : "input", node.type);
      if (end) placeholders.set(end.node, made);
      values.set(node, made);
    }
  }
  const key = graph.inputs.find((_, index) => ends?.inputs[index]?.kind === "random_key");
  for (const node of graph.nodes) {
    if (node.op.name === "input") continue;
    const draws = key !== undefined && node.inputs[0] === key;
    const { stream: _, ...rest } = node.attrs;
    const args = draws ? [] : node.inputs.map((operand) => values.get(operand) as FxNode);
    const options = { scope: node.scope, types: node.types };
    values.set(node, fx.callFunction(node.op, args, draws ? rest : node.attrs, options));
  }
  const outputs = graph.outputs.map((node) => values.get(node) as FxNode);
  for (const { path, output } of ends?.updates ?? []) fx.setAttr(path, outputs[output.index]);
  const put = (leaf: unknown): unknown => (leaf instanceof OutputRef ? outputs[leaf.index] : leaf);
  fx.output(ends ? mapLeaves(ends.result, put) : outputs.length === 1 ? outputs[0] : outputs);
  if (ends) {
    const params = ends.params.map((param) => ({
      ...param,
      value: mapNodes(param.value, (node) => placeholders.get(node) ?? node),
    }));
    fx.params.splice(0, fx.params.length, ...params);
  }
  return fx;
}

/** A pass over core graphs, over an editable one: a new graph, at the sizes it was traced with. */
export function applyPass(fx: FxGraph, pass: Pass): FxGraph {
  if (fx.symbols.size > 0)
    throw new GraphError(
      pass.name,
      `the graph has symbolic dims (${[...fx.symbols.keys()].join(", ")}), which the pass would fix`,
    );
  const lowered = lowerGraph(fx);
  return liftGraph(pass(lowered.graph), lowered);
}
