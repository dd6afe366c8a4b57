import { GradError, GraphError } from "./errors.js";
import { nextWalk } from "./graph.js";
import {
  apply,
  atScope,
  currentRecorder,
  type Node,
  type Region,
  withCasts,
  withGrad,
  withRecorder,
} from "./node.js";
import type { Cotangents, OpDef } from "./opdef.js";
import { add, full } from "./ops/build.js";
import { barrier } from "./ops/leaf.js";
import { formatType, sameShape, type TensorType } from "./shape.js";
import { OpenSums } from "./vjp_parts.js";

export interface GradientOptions {
  /** Records the backward nodes so that they can be differentiated again. */
  readonly createGraph?: boolean;
}

/** One reverse sweep: nodes in slots, inputs before users. */
interface Sweep {
  readonly nodes: readonly Node[];
  /** The slot of a node that a cotangent is asked for, or -1. */
  readonly slotOf: (node: Node) => number;
  /** By slot: 1 where the node's cotangent is passed on to its inputs. */
  readonly flows: Uint8Array;
  /** By slot: the sum of what its users passed so far. */
  readonly cotangents: (Node | null)[];
  /** By slot, for nodes of several results: the cotangent of each. */
  readonly byResult: Map<number, (Node | null)[]>;
  /** What backward reads in a value's stead; null where it reads every value as it is. */
  readonly again: Again | null;
  /** Of a graph with parts: cotangents that devices have addends of. */
  readonly open: OpenSums | null;
}

/** Values made for backward, by what they stand for; and by checkpoint those that came into it. */
interface Again {
  readonly values: Map<Node, Node>;
  readonly entered: Map<Region, Map<Node, Node>>;
}

const madeAgain = (nodes: readonly Node[]): Again | null =>
  nodes.some((node) => isRegathered(node) || node.region) ? { values: new Map(), entered: new Map() } : null;

const sameType = (a: TensorType, b: TensorType): boolean =>
  a.dtype === b.dtype && sameShape(a.shape, b.shape);

const isFreed = (node: Node): boolean => {
  const { arity } = node.op;
  return node.inputs.length === 0 && (typeof arity === "number" ? arity : arity[0]) > 0;
};

/**
 * Cotangents of `targets`, given those of `outputs`; null for a target nothing flows to. Backward nodes are recorded in
 * the current recorder, each in the scope of the node it belongs to.
 */
export function gradients(
  outputs: readonly Node[],
  cotangents: readonly Node[],
  targets: readonly Node[],
  options: GradientOptions = {},
): (Node | null)[] {
  checkCotangents(outputs, cotangents);
  // Each op's gradient is computed in the dtype that the op was.
  return withCasts(null, () => sweepBack(outputs, cotangents, targets, options));
}

function sweepBack(
  outputs: readonly Node[],
  cotangents: readonly Node[],
  targets: readonly Node[],
  { createGraph = false }: GradientOptions,
): (Node | null)[] {
  const nodes = gradAncestors(outputs);
  const walk = nextWalk();
  for (let i = 0; i < nodes.length; i++) {
    nodes[i].walk = walk;
    nodes[i].index = i;
  }
  const needed = new Uint8Array(nodes.length);
  for (const target of targets) if (target.walk === walk) needed[target.index] = 1;
  const slotOf = (node: Node): number => (node.walk === walk && needed[node.index] === 1 ? node.index : -1);
  const flows = markFlows(nodes, needed, slotOf);
  const sweep: Sweep = {
    nodes,
    slotOf,
    flows,
    cotangents: new Array(nodes.length).fill(null),
    byResult: new Map(),
    again: madeAgain(nodes),
    open: nodes.some(({ part }) => part) ? new OpenSums(new Set(targets)) : null,
  };
  withGrad(createGraph, () => {
    for (let i = 0; i < outputs.length; i++) accumulate(sweep, outputs[i], cotangents[i]);
    run(sweep);
  });
  return targets.map((target) => (target.walk === walk ? sweep.cotangents[target.index] : null));
}

function checkCotangents(outputs: readonly Node[], cotangents: readonly Node[]): void {
  if (outputs.length !== cotangents.length) {
    throw new GradError("gradients", `${outputs.length} outputs but ${cotangents.length} cotangents`);
  }
  outputs.forEach((output, i) => {
    if (sameType(output.type, cotangents[i].type)) return;
    throw new GradError(
      "gradients",
      `the cotangent of ${output.op.name} must be ${formatType(output.type)}, got ${formatType(cotangents[i].type)}`,
    );
  });
}

/** Ancestors of `outputs` that a gradient flows to (outputs included, not beyond leaves), inputs before users. */
function gradAncestors(outputs: readonly Node[]): Node[] {
  const walk = nextWalk();
  const found: Node[] = [];
  const visit = (node: Node): void => {
    if (!node.requiresGrad || node.walk === walk) return;
    node.walk = walk;
    found.push(node);
  };
  outputs.forEach(visit);
  for (let i = 0; i < found.length; i++) {
    const node = found[i];
    if (node.isLeaf) continue;
    for (let k = 0; k < node.inputs.length; k++) visit(node.inputs[k]);
  }
  return found.sort((a, b) => a.id - b.id);
}

/**
 * Marks in `needed` (targets so far) the nodes on a path to a target, and returns where a cotangent is passed on. What
 * lies beyond a freed node is not known: it counts as on a path, and the sweep refuses it.
 */
function markFlows(nodes: readonly Node[], needed: Uint8Array, slotOf: (node: Node) => number): Uint8Array {
  const flows = new Uint8Array(nodes.length);
  for (let slot = 0; slot < nodes.length; slot++) {
    const node = nodes[slot];
    if (node.isLeaf) continue;
    let passes = needed[slot] === 0 && isFreed(node);
    for (let k = 0; k < node.inputs.length && !passes; k++) passes = slotOf(node.inputs[k]) >= 0;
    if (!passes) continue;
    flows[slot] = 1;
    needed[slot] = 1;
  }
  return flows;
}

function run(sweep: Sweep): void {
  let node: Node;
  let grads: readonly (Node | null)[];
  const step = (): void => passOn(sweep, node, grads); // one closure for all nodes
  for (let slot = sweep.nodes.length - 1; slot >= 0; slot--) {
    node = sweep.nodes[slot];
    sweep.open?.settle(node, (to, cotangent) => accumulate(sweep, to, cotangent));
    if (sweep.flows[slot] === 0) continue;
    const grad = sweep.cotangents[slot];
    const arrived = node.op.results === 1 ? grad && [grad] : sweep.byResult.get(slot);
    if (!arrived) continue;
    grads = arrived;
    atScope(node.scope, step);
  }
}

/** Hands a node's cotangents to its inputs. */
function passOn(sweep: Sweep, node: Node, grads: readonly (Node | null)[]): void {
  const { inputs, op } = node;
  if (isFreed(node)) {
    throw new GradError(
      op.name,
      `the graph behind ${formatType(node.type)} was freed by an earlier backward or sync: run backward before that sync, ` +
        "or detach() the value where its gradient should stop",
      node.scope,
    );
  }
  if (op.name === "result") {
    const of = inputs[0];
    const slot = sweep.slotOf(of);
    if (slot < 0) return;
    const parts = sweep.byResult.get(slot) ?? new Array<Node | null>(of.types.length).fill(null);
    sweep.byResult.set(slot, parts);
    const index = node.attrs.index as number;
    const sum = parts[index];
    parts[index] = sum ? add(sum, grads[0] as Node) : grads[0];
    return;
  }
  const needs = new Array<boolean>(inputs.length);
  for (let k = 0; k < inputs.length; k++) needs[k] = sweep.slotOf(inputs[k]) >= 0;
  const { again } = sweep;
  const read = again ? inputs.map((x) => readAgain(x, again, node.region)) : inputs;
  const out = again && node.region ? readAgain(node, again, node.region) : node;
  const passed = pullBack(node, out, read, grads, needs);
  for (let k = 0; k < inputs.length; k++) {
    const cotangent = passed[k];
    if (!cotangent || !needs[k]) continue;
    if (!sameType(cotangent.type, inputs[k].type)) {
      throw new GraphError(
        op.name,
        `its vjp gives ${formatType(cotangent.type)} for input ${k} of type ${formatType(inputs[k].type)}`,
        node.scope,
      );
    }
    if (!sweep.open?.take(node, inputs[k], cotangent)) accumulate(sweep, inputs[k], cotangent);
  }
}

const isRegathered = (node: Node): boolean =>
  node.op.name === "sharding_constraint" && node.attrs.direction === "regather";

/** Ops that are made again along with what they show in another form. */
const cheap = new Set(["cast", "reshape", "transpose", "detach"]);

/**
 * What backward reads in a value's stead. A value of the checkpoint that the reader is in is computed again from what came
 * into it; a regathered one, or a cast or view of such, is made anew; any other is kept.
 */
function readAgain(x: Node, again: Again, region: Region | null): Node {
  const isInside = region !== null && x.region === region;
  if (region !== null && !isInside) return fromOutside(x, again, region);
  const known = again.values.get(x);
  if (known) return known;
  let made = x;
  if (isRegathered(x)) {
    const inputs = isInside ? x.inputs.map((input) => readAgain(input, again, region)) : x.inputs;
    made = atScope(x.scope, () => apply(x.op, inputs, { ...x.attrs, direction: "forward" }));
  } else if (isInside || (cheap.has(x.op.name) && x.storage === null)) {
    const inputs = x.inputs.map((input) => readAgain(input, again, region));
    // What is made of nothing is made again too: random numbers are not kept either, and are the same.
    const isSource = x.op.unique || x.op.lower === "source";
    if ((isInside && isSource) || inputs.some((input, k) => input !== x.inputs[k]))
      made = atScope(x.scope, () => apply(x.op, inputs, x.attrs));
  }
  again.values.set(x, made);
  return made;
}

/**
 * A value that came into a checkpoint, behind a barrier, so that what is computed of it again is not found to be there.
 * Parameters and other values from before the step are read as they are: a barrier may cost a copy.
 */
function fromOutside(x: Node, again: Again, region: Region): Node {
  const read = readAgain(x, again, null);
  if (x.op.results > 1 || (x.storage !== null && !region.inputs.has(x))) return read;
  const entered = again.entered.get(region) ?? new Map<Node, Node>();
  again.entered.set(region, entered);
  const made = entered.get(x) ?? atScope(x.scope, () => barrier([read]));
  entered.set(x, made);
  return made;
}

function accumulate(sweep: Sweep, node: Node, cotangent: Node): void {
  const slot = sweep.slotOf(node);
  if (slot < 0) return;
  const sum = sweep.cotangents[slot];
  sweep.cotangents[slot] = sum ? add(sum, cotangent) : cotangent;
}

/** Cotangents of a node's inputs: by the op's vjp, or else through its decomposition. */
function pullBack(
  node: Node,
  out: Node,
  inputs: readonly Node[],
  grads: readonly (Node | null)[],
  needs: readonly boolean[],
): Cotangents {
  const op: OpDef = node.op;
  if (op.vjp) {
    const first = node.types[0];
    const grad = grads[0] ?? full(0, first.shape, first.dtype);
    return op.vjp({ inputs, out, grad, grads, attrs: node.attrs as never, needs });
  }
  if (op.decompose) return pullDecomposed(node, out, inputs, op.decompose, grads, needs);
  throw new GradError(
    op.name,
    `has no gradient, but one is asked for through ${formatType(node.type)}`,
    node.scope,
  );
}

/** Records the op's decomposition and sweeps back through it. */
function pullDecomposed(
  node: Node,
  out: Node,
  inputs: readonly Node[],
  decompose: NonNullable<OpDef["decompose"]>,
  grads: readonly (Node | null)[],
  needs: readonly boolean[],
): Cotangents {
  const inner: Node[] = [];
  const outer = currentRecorder();
  const tee = {
    add(made: Node): void {
      inner.push(made);
      outer?.add(made);
    },
  };
  const results = withRecorder(tee, () => decompose(inputs, node.attrs as never, out));
  const distinct = [...new Set(inputs)];
  const nodes = [...distinct, ...inner];
  const slots = new Map(nodes.map((each, slot) => [each, slot]));
  const needed = new Uint8Array(nodes.length);
  inputs.forEach((input, k) => {
    if (needs[k]) needed[slots.get(input) as number] = 1;
  });
  const slotOf = (each: Node): number => {
    const slot = slots.get(each);
    return slot !== undefined && needed[slot] === 1 ? slot : -1;
  };
  const flows = new Uint8Array(nodes.length);
  for (let slot = distinct.length; slot < nodes.length; slot++) {
    if (nodes[slot].op.differentiable && nodes[slot].inputs.some((input) => slotOf(input) >= 0)) {
      flows[slot] = 1;
      needed[slot] = 1;
    }
  }
  const sweep: Sweep = {
    nodes,
    slotOf,
    flows,
    cotangents: new Array(nodes.length).fill(null),
    byResult: new Map(),
    again: madeAgain(nodes),
    // Addends pass through what is linear in them: they are summed at the op's operands.
    open: null,
  };
  results.forEach((value, i) => {
    const grad = grads[i];
    if (grad) accumulate(sweep, value, grad);
  });
  run(sweep);
  // An operand given twice has one slot, which holds the whole: its second place passes nothing.
  return inputs.map((input, k) =>
    inputs.indexOf(input) === k ? sweep.cotangents[slots.get(input) as number] : null,
  );
}
