import type { Graph, Node } from "@lazuli/fx-trace";
import { chooseAssignment } from "./choose.js";
import { sequenceFactors } from "./context.js";
import { type ManualNodes, manualNodes } from "./manual.js";
import type { Mesh } from "./mesh.js";
import { type Factors, factorsOf, joinAxes } from "./rule.js";
import { type Dims, decodeDims, replicated } from "./spec.js";
import type { PartitionRequest } from "./types.js";

/** The layout every value is wanted in, by node and result. `result` nodes have that of what they name. */
export class Plan {
  private readonly dims = new Map<Node, Dims[]>();
  private readonly fixed = new Set<Node>();
  private readonly factors = new Map<Node, Factors>();

  constructor(
    readonly mesh: Mesh,
    /** Ops on parts, which stay as they are. */
    readonly manual: ManualNodes,
  ) {}

  of(value: Node): Dims {
    return value.op.name === "result"
      ? this.ofResult(value.inputs[0], value.attrs.index as number)
      : this.ofResult(value, 0);
  }

  ofResult(node: Node, index: number): Dims {
    return this.dims.get(node)?.[index] ?? replicated(node.types[index].shape.length);
  }

  set(node: Node, index: number, dims: Dims): void {
    let list = this.dims.get(node);
    if (!list) {
      list = node.types.map(({ shape }) => replicated(shape.length));
      this.dims.set(node, list);
    }
    list[index] = dims;
  }

  fix(node: Node, dims: Dims): void {
    this.set(node, 0, dims);
    this.fixed.add(node);
  }

  isFixed(node: Node): boolean {
    return this.fixed.has(node);
  }

  factorsOf(node: Node): Factors {
    let f = this.factors.get(node);
    if (!f) {
      f = factorsOf(node);
      this.factors.set(node, f);
    }
    return f;
  }
}

/** `current` with axes that `wanted` adds at the end of a dim, where they are free; null where nothing is added. */
function extended(current: Dims, wanted: Dims): Dims | null {
  const used = new Set(current.flat());
  let changed = false;
  const next = current.map((axes, d) => {
    const target = wanted[d];
    if (target.length <= axes.length || axes.some((axis, i) => axis !== target[i])) return axes;
    const more: number[] = [];
    for (const axis of target.slice(axes.length)) {
      if (used.has(axis)) break;
      used.add(axis);
      more.push(axis);
    }
    if (more.length === 0) return axes;
    changed = true;
    return [...axes, ...more];
  });
  return changed ? next : null;
}

/** Whether the node lays its operand out: one for the cotangent alone does not. */
export const isLayout = (node: Node): boolean =>
  node.op.name === "sharding_constraint" && node.attrs.direction !== "backward";

/** Values that stand for whatever they are asked to be: they take a layout, and give none. */
const isSource = (node: Node): boolean => node.inputs.length === 0 && node.op.name !== "input";

const passesThrough = (node: Node): boolean =>
  node.op.lower === "elementwise" ||
  node.op.lower === "view" ||
  node.op.name === "detach" ||
  node.op.name === "sharding_constraint";

/**
 * Layouts for every value: annotations, inputs and demanded outputs are given, and spread over the ops' factors to a
 * fixpoint, forward and backward; through ops that only pass elements on first, so that what is near decides before
 * what is behind a contraction. Deterministic. After Shardy's propagation and GSPMD (Xu et al. 2021).
 */
export function propagate(graph: Graph, request: PartitionRequest): Plan {
  const { mesh } = request;
  const manual = manualNodes(graph);
  const plan = new Plan(mesh, manual);
  graph.inputs.forEach((node, i) => {
    plan.fix(node, request.inputs[i]);
  });
  for (const node of graph.nodes)
    if ((isLayout(node) && !manual.has(node)) || node.op.name === "shard_to_full")
      plan.fix(node, decodeDims(node.attrs.dims as number[]));
  graph.outputs.forEach((value, i) => {
    const dims = request.outputs[i];
    const made = value.op.name === "result" ? value.inputs[0] : value;
    const index = value.op.name === "result" ? (value.attrs.index as number) : 0;
    if (dims && !plan.isFixed(made)) plan.set(made, index, dims);
  });
  const nodes = graph.nodes.filter(
    (node) =>
      node.op.name !== "result" && node.op.name !== "shard_to_full" && !isSource(node) && !manual.has(node),
  );
  const readers = readersOf(nodes);
  for (const takes of [passesThrough, () => true]) {
    const mine = nodes.filter((node) => node.op.name !== "input" && takes(node));
    // Only nodes beside a layout that changed are looked at again.
    const waiting = new Set(mine);
    const visit = (node: Node): void => {
      if (!waiting.delete(node)) return;
      for (const made of spread(plan, node)) {
        if (takes(made)) waiting.add(made);
        for (const reader of readers.get(made) ?? []) if (takes(reader)) waiting.add(reader);
      }
    };
    for (let round = 0; waiting.size > 0 && round < 32; round++) {
      mine.forEach(visit);
      for (let i = mine.length - 1; i >= 0; i--) visit(mine[i]);
    }
  }
  return plan;
}

/** Who reads a node, by way of `result` nodes too. */
function readersOf(nodes: readonly Node[]): Map<Node, Node[]> {
  const readers = new Map<Node, Node[]>();
  for (const node of nodes) {
    for (const x of node.inputs) {
      const made = x.op.name === "result" ? x.inputs[0] : x;
      const list = readers.get(made);
      if (list) list.push(node);
      else readers.set(made, [node]);
    }
  }
  return readers;
}

const isWhole = (dims: Dims): boolean => dims.every((axes) => axes.length === 0);

/** Carries layouts between the operands and results of one op. Gives the nodes whose layout it changed. */
function spread(plan: Plan, node: Node): readonly Node[] {
  const { mesh } = plan;
  const operands = node.inputs.map((x) => plan.of(x));
  const results = node.types.map((_, i) => plan.ofResult(node, i));
  if (operands.every(isWhole) && results.every(isWhole)) return [];
  // What an attention gives lies along the sequence as its operands do, however it gets there (context.ts).
  const f = sequenceFactors(node) ?? plan.factorsOf(node);
  const assigned = chooseAssignment(node, f, mesh, operands, results);
  if (assigned.size === 0) return [];
  const changed: Node[] = [];
  const give = (made: Node, index: number, dims: readonly (readonly string[])[]): void => {
    if (plan.isFixed(made)) return;
    const wanted = dims.map((factors) => joinAxes(factors, assigned, f.sizes, mesh));
    const next = extended(plan.ofResult(made, index), wanted);
    if (!next) return;
    plan.set(made, index, next);
    changed.push(made);
  };
  f.operands.forEach((dims, i) => {
    const x = node.inputs[i];
    if (x.op.name === "result") give(x.inputs[0], x.attrs.index as number, dims);
    else give(x, 0, dims);
  });
  f.results.forEach((dims, i) => {
    give(node, i, dims);
  });
  return changed;
}
