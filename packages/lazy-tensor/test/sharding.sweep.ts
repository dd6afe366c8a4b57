import { type Graph, type Node, type OpName, ops, type Shape } from "@lazuli/fx-trace";
import { type Dims, Mesh, replicated } from "@lazuli/sharding";
import { seedOf } from "./ops.samples.data.js";
import type { BuiltSample } from "./ops.samples.graph.js";
import { isLeaf, type Leaf, type Sample } from "./ops.samples.types.js";
import {
  anyLayout,
  assignments,
  isLocal,
  kindOf,
  type Layouts,
  layoutOf,
  oneDim,
  pick,
  type Random,
  type Rule,
  randomOf,
  ruleOf,
  some,
} from "./sharding.layouts.js";

export const meshes = { square: new Mesh({ a: 2, b: 2 }), line: new Mesh({ a: 8 }) };

/** What a sample's graph takes and gives, and how these hang on the op's operands and results. */
interface Ends {
  readonly inputs: readonly Shape[];
  readonly outputs: readonly Shape[];
  readonly rule: Rule | null;
  /** By leaf: the operand that it is, and the leaf's dims as dims of that operand. */
  readonly operandOf: readonly (number | null)[];
  readonly leaves: readonly Leaf[];
  /** By output: the result it is, or the leaf whose gradient it is. */
  readonly outputOf: readonly { readonly result?: number; readonly leaf?: number }[];
  /** By cotangent: the result it is of. */
  readonly cotangentOf: readonly number[];
  /** Whether the graph is the op alone, its operands the inputs. */
  readonly isPlain: boolean;
}

/** The node of the op that the sample is of. */
const sampledNode = (graph: Graph, op: OpName): Node => {
  const [out] = graph.outputs;
  return out.op.name === "result" && op !== "result" ? out.inputs[0] : out;
};

function endsOf(op: OpName, sample: Sample, { graph, names, cotangents }: BuiltSample): Ends {
  const node = sampledNode(graph, op);
  const leaves = sample.operands.filter(isLeaf);
  const args = sample.args ?? sample.operands.map((_, i) => i);
  const operandOf = leaves.map((leaf) => {
    const at = args.indexOf(sample.operands.indexOf(leaf));
    return at < 0 ? null : at;
  });
  return {
    inputs: graph.inputs.map(({ shape }) => shape),
    outputs: graph.outputs.map(({ shape }) => shape),
    rule: op === "input" ? null : ruleOf(node),
    operandOf,
    leaves,
    outputOf: names.map((name) =>
      name.startsWith("out") ? { result: Number(name.slice(3)) } : { leaf: Number(name.slice(4)) },
    ),
    cotangentOf: cotangents.map(({ result }) => result),
    isPlain:
      cotangents.length === 0 &&
      ops[op].lower !== "composite" &&
      sample.operands.every((operand) => isLeaf(operand) && !operand.via) &&
      new Set(args).size === sample.operands.length,
  };
}

/** A layout of what a leaf's view gives, as one of the leaf: dims that the view makes have nothing to be carried to. */
function beforeView(leaf: Leaf, dims: Dims): Dims {
  if (!leaf.via) return dims;
  const { shape } = leaf;
  if (leaf.via.op === "transpose") {
    const perm = leaf.via.attrs.perm as readonly number[];
    return shape.map((_, dim) => dims[perm.indexOf(dim)]);
  }
  if (leaf.via.op === "broadcast_to") {
    const added = dims.length - shape.length;
    return shape.map((size, dim) => (size === 1 ? [] : dims[dim + added]));
  }
  return dims;
}

type OutputMode = "chosen" | "replicated" | "divided";
const modes: readonly OutputMode[] = ["chosen", "divided", "replicated"];

function allowed(ends: Ends, rule: Rule, mesh: Mesh, index: number, mode: OutputMode): Layouts {
  const assignment = assignments(mesh, rule.free)[index];
  const operands = rule.operands.map((factors) => layoutOf(factors, assignment, rule, mesh));
  const results = rule.results.map((factors) => layoutOf(factors, assignment, rule, mesh));
  const leaves = ends.leaves.map((leaf, i) => {
    const operand = ends.operandOf[i];
    return operand === null ? replicated(leaf.shape.length) : beforeView(leaf, operands[operand]);
  });
  const divided = ends.outputOf.map(({ result, leaf }) =>
    result !== undefined ? results[result] : leaves[leaf as number],
  );
  return {
    mesh,
    inputs: [...leaves, ...ends.cotangentOf.map((result) => results[result])],
    outputs: divided.map((dims, i) =>
      mode === "chosen" ? null : mode === "replicated" ? replicated(ends.outputs[i].length) : dims,
    ),
    kind: "allowed",
    isLocal: ends.isPlain && mode !== "replicated" && isLocal(assignment, rule, mesh),
    divided: [...assignment.keys()].map((factor) => kindOf(factor, rule)),
  };
}

const outputsFor = (
  ends: Ends,
  mode: OutputMode,
  divided: (shape: Shape, i: number) => Dims,
): (Dims | null)[] =>
  ends.outputs.map((shape, i) =>
    mode === "chosen" ? null : mode === "replicated" ? replicated(shape.length) : divided(shape, i),
  );

/** One dim of one input (or, after these, output) divided, everything else whole or chosen. */
function oneDimLayouts(ends: Ends, mesh: Mesh, axes: readonly number[]): Layouts[] {
  const inputs = ends.inputs.map((shape) => replicated(shape.length));
  const layouts: Layouts[] = [];
  ends.inputs.forEach((shape, i) => {
    shape.forEach((_, dim) => {
      layouts.push({
        mesh,
        inputs: inputs.with(i, oneDim(shape, dim, axes)),
        outputs: ends.outputs.map(() => null),
        kind: "one dim",
        isLocal: false,
        divided: [],
      });
    });
  });
  ends.outputs.forEach((shape, i) => {
    shape.forEach((_, dim) => {
      const outputs = ends.outputs.map((): Dims | null => null);
      layouts.push({
        mesh,
        inputs,
        outputs: outputs.with(i, oneDim(shape, dim, axes)),
        kind: "one dim",
        isLocal: false,
        divided: [],
      });
    });
  });
  return layouts;
}

function anyLayouts(ends: Ends, random: Random, mesh: Mesh): Layouts {
  const any = (shape: Shape): Dims => anyLayout(random, mesh, shape);
  return {
    mesh,
    inputs: ends.inputs.map(any),
    outputs: outputsFor(ends, pick(random, modes), any),
    kind: "any",
    isLocal: false,
    divided: [],
  };
}

export interface Effort {
  /** Layouts that the rule allows with both axes of the square mesh in use. */
  readonly twoAxes: number;
  /** Layouts of one divided dim, by mesh. */
  readonly oneDim: number;
  /** Layouts drawn at random, by mesh. */
  readonly any: number;
}

const thorough: Effort = { twoAxes: 6, oneDim: 4, any: 4 };
/** Ops that differ in their scalar body only share a rule: each needs fewer layouts, all of them together see many. */
const brief: Effort = { twoAxes: 2, oneDim: 1, any: 1 };

export const effortOf = (op: OpName): Effort => (ops[op].lower === "elementwise" ? brief : thorough);

/** The layouts a sample is tried in; the same in every run. */
export function layoutsOf(op: OpName, sample: Sample, built: BuiltSample): Layouts[] {
  const ends = endsOf(op, sample, built);
  const random = randomOf(seedOf(`${op}/${sample.name}`));
  const { square, line } = meshes;
  const effort = effortOf(op);
  const { rule } = ends;
  const layouts: Layouts[] = [];
  let turn = Math.floor(random() * modes.length);
  if (rule) {
    const add = (mesh: Mesh, index: number): void => {
      layouts.push(allowed(ends, rule, mesh, index, modes[turn++ % modes.length]));
    };
    // All with one axis; index 0 divides nothing.
    assignments(line, rule.free).forEach((_, index) => {
      add(line, index);
    });
    const two = assignments(square, rule.free).map((_, index) => index);
    for (const index of some(random, two.slice(1), effort.twoAxes)) add(square, index);
  }
  layouts.push(...some(random, oneDimLayouts(ends, line, [0]), effort.oneDim));
  layouts.push(...some(random, oneDimLayouts(ends, square, pick(random, [[0], [1]])), effort.oneDim));
  for (let i = 0; i < effort.any; i++)
    layouts.push(anyLayouts(ends, random, line), anyLayouts(ends, random, square));
  return layouts;
}
