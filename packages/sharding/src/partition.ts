import {
  apply,
  atScope,
  eq,
  type Graph,
  GraphBuilder,
  GraphError,
  input,
  isFloat,
  type Node,
  type ReductionKind,
  result,
  where,
  withRecorder,
} from "@lazuli/fx-trace";
import { bytesOf, chooseAssignment, SMALL_BYTES } from "./choose.js";
import { contextPlan, runContext } from "./context.js";
import { handlers, localAttrs } from "./local_ops.js";
import { runManual } from "./manual.js";
import type { Mesh } from "./mesh.js";
import { isLayout, type Plan, propagate } from "./plan.js";
import { identityOf, type Local, type Partial, Resharder } from "./reshard.js";
import { type Factors, fits, joinAxes } from "./rule.js";
import { type Dims, decodeDims, isUneven, localShape, replicated, sameDims } from "./spec.js";
import type { ContextParallel, Partitioned, PartitionRequest } from "./types.js";

/**
 * The graph as one program for every device of the mesh: each op runs on the parts that its factors allow, and what an
 * op needs in another layout is moved to it by collectives. After GSPMD (Xu et al. 2021) and Shardy.
 */
export function partition(graph: Graph, request: PartitionRequest): Partitioned {
  const expanded = expand(graph, request);
  const builder = new GraphBuilder();
  const partitioner = new Partitioner(expanded.plan, request.contextParallel ?? "ulysses");
  const outputs = withRecorder(builder, () => partitioner.run(expanded.graph, request));
  return {
    graph: builder.finish(outputs.map(({ node }) => node)),
    outputs: outputs.map(({ dims }) => dims),
  };
}

/** Ops that need a dim whole which is divided, and have smaller ops to stand for them (cross entropy over a divided vocabulary). */
function expand(graph: Graph, request: PartitionRequest): { graph: Graph; plan: Plan } {
  let current = graph;
  for (;;) {
    const plan = propagate(current, request);
    const chosen = new Set(current.nodes.filter((node) => isCut(node, plan)));
    if (chosen.size === 0) return { graph: current, plan };
    current = decomposeNodes(current, chosen);
  }
}

const cutKernels = new Set([
  "cross_entropy",
  "cross_entropy_grad",
  "linear_cross_entropy",
  "linear_cross_entropy_grad",
  "softmax",
  "softmax_grad",
  "log_softmax",
  "log_softmax_grad",
]);

function isCut(node: Node, plan: Plan): boolean {
  if (!cutKernels.has(node.op.name)) return false;
  const f = plan.factorsOf(node);
  return f.operands.some((dims, i) =>
    dims.some((factors, d) => f.replicate.has(factors[0]) && plan.of(node.inputs[i])[d].length > 0),
  );
}

function decomposeNodes(graph: Graph, chosen: ReadonlySet<Node>): Graph {
  const builder = new GraphBuilder();
  const made = new Map<Node, readonly Node[]>();
  const of = (node: Node): Node => {
    if (node.op.name === "result") {
      const results = made.get(node.inputs[0]);
      if (results && results.length > 1) return results[node.attrs.index as number];
    }
    return (made.get(node) as readonly Node[])[0];
  };
  return withRecorder(builder, () => {
    for (const node of graph.nodes) {
      const inputs = node.inputs.map((x) =>
        node.op.name === "result" ? (made.get(x) as readonly Node[])[0] : of(x),
      );
      atScope(node.scope, () => {
        if (chosen.has(node) && node.op.decompose)
          made.set(node, node.op.decompose(inputs, node.attrs as never, node));
        else if (node.op.name === "result" && chosen.has(node.inputs[0])) made.set(node, [of(node)]);
        else made.set(node, [apply(node.op, inputs, node.attrs)]);
      });
    }
    return builder.finish(graph.outputs.map(of));
  });
}

const isAttention = ({ op }: Node): boolean =>
  op.name === "attention" || op.name === "attention_grad" || op.name === "attention_bias_grad";

/**
 * Attention of queries and keys that are no one sequence in even parts (context.ts) needs them whole: axes that divide them
 * go to the heads, where they divide these evenly, so that one exchange before and one after take the place of gathering.
 */
function withHeads(
  node: Node,
  f: Factors,
  mesh: Mesh,
  operands: readonly Dims[],
  assigned: Map<string, readonly number[]>,
): Map<string, readonly number[]> {
  if (!isAttention(node)) return assigned;
  const used = new Set([...assigned.values()].flat());
  const spare = [...new Set(operands.flatMap((dims) => dims[2] ?? []))].filter((axis) => !used.has(axis));
  const head = f.operands[0][1][0];
  const axes = [...(assigned.get(head) ?? []), ...spare];
  if (spare.length === 0 || (f.sizes.get(head) ?? 0) % mesh.sizeOf(axes) !== 0) return assigned;
  const more = new Map(assigned).set(head, axes);
  return fits(f, head, more, mesh) ? more : assigned;
}

/** Ops through which a sum may be put off: f(a + b) = f(a) + f(b) in the operand named. */
const linearIn: Readonly<Record<string, readonly number[]>> = {
  neg: [0],
  detach: [0],
  reshape: [0],
  transpose: [0],
  slice: [0],
  flip: [0],
  sum: [0],
  mul: [0, 1],
  div: [0],
};

/** Operands that name places in another operand: a place that is not there fails the run. */
const placesIn: Readonly<Record<string, number>> = {
  index_select: 1,
  index_add: 1,
  gather: 1,
  scatter_add: 1,
  cross_entropy: 1,
  cross_entropy_grad: 1,
  linear_cross_entropy: 2,
  linear_cross_entropy_grad: 2,
};

const kinds: Readonly<Record<string, ReductionKind>> = { prod: "prod", max: "max", min: "min" };

class Partitioner {
  private readonly move: Resharder;
  /** By value: the layouts it has been brought to, the first as it was made. */
  private readonly locals = new Map<Node, Local[]>();
  /** Of ops of several results. */
  private readonly results = new Map<Node, readonly Local[]>();
  private readonly uses = new Map<Node, number>();
  /** Of ops that are written on parts. */
  private readonly parts = new Map<Node, Node>();

  constructor(
    private readonly plan: Plan,
    private readonly contextParallel: ContextParallel,
  ) {
    this.move = new Resharder(plan.mesh);
  }

  run(graph: Graph, request: PartitionRequest): Local[] {
    for (const node of graph.nodes)
      for (const x of node.inputs) this.uses.set(x, (this.uses.get(x) ?? 0) + 1);
    for (const value of graph.outputs) this.uses.set(value, (this.uses.get(value) ?? 0) + 1);
    for (const node of graph.nodes) atScope(node.scope, () => this.visit(node, request));
    return graph.outputs.map((value, i) => {
      const dims = request.outputs[i] ?? this.plan.of(value);
      return this.laidOut(value, dims);
    });
  }

  /** The value in a layout, from whichever of those it has is nearest. */
  private laidOut(value: Node, dims: Dims): Local {
    const list = this.locals.get(value) as Local[];
    const ready = list.find((local) => local.partial === null && sameDims(local.dims, dims));
    if (ready) return ready;
    const from = list.find(({ partial }) => partial === null) ?? list[0];
    const moved = this.move.to(from, dims);
    list.push(moved);
    return moved;
  }

  private operand = (value: Node, dims: Dims): Node => this.laidOut(value, dims).node;

  private set(value: Node, local: Local): void {
    this.locals.set(value, [local]);
  }

  /** The layout an op may count on: where sums are open, the one the value is wanted in. */
  private present(value: Node): Dims {
    const [first, ...others] = this.locals.get(value) as Local[];
    if (!first.partial) return first.dims;
    return others.find(({ partial }) => partial === null)?.dims ?? this.plan.of(value);
  }

  private visit(node: Node, request: PartitionRequest): void {
    const { plan } = this;
    const { mesh } = plan;
    if (plan.manual.has(node)) {
      this.parts.set(node, this.part(node));
      return;
    }
    switch (node.op.name) {
      case "shard_to_full":
        this.set(node, {
          node: this.partOf(node.inputs[0]),
          shape: node.shape,
          dims: decodeDims(node.attrs.dims as number[]),
          partial: null,
        });
        return;
      case "input": {
        const dims = request.inputs[node.attrs.index as number];
        const shape = localShape(mesh, node.shape, dims);
        const local = input([], { index: node.attrs.index as number, shape, dtype: node.dtype });
        this.set(node, { node: local, shape: node.shape, dims, partial: null });
        return;
      }
      case "result":
        this.set(node, (this.results.get(node.inputs[0]) as readonly Local[])[node.attrs.index as number]);
        return;
      case "sharding_constraint": {
        if (!isLayout(node)) {
          this.locals.set(node, this.locals.get(node.inputs[0]) as Local[]);
          return;
        }
        const dims = decodeDims(node.attrs.dims as number[]);
        // A layout asked for here and not for gradients is a copy of its own, to live from here to its last use.
        const isOwn = node.attrs.direction !== "both";
        const [first] = this.locals.get(node.inputs[0]) as Local[];
        this.set(node, isOwn ? this.move.to(first, dims) : this.laidOut(node.inputs[0], dims));
        return;
      }
    }
    const handled = handlers[node.op.name]?.(node, { plan, move: this.move, operand: this.operand });
    if (handled) {
      this.set(node, handled);
      return;
    }
    if (this.passOn(node)) return;
    this.compute(node);
  }

  private part(node: Node): Node {
    if (node.op.name === "full_to_shard")
      return this.operand(node.inputs[0], decodeDims(node.attrs.dims as number[]));
    return runManual(node, this.partOf);
  }

  /** A part; of a value of the mesh that is used among parts, all of it. */
  private partOf = (value: Node): Node =>
    this.parts.get(value) ?? this.operand(value, replicated(value.shape.length));

  /** Leaves open sums open through an op that is linear in them. */
  private passOn(node: Node): boolean {
    const { name } = node.op;
    const open = node.inputs.map((x) => {
      const list = this.locals.get(x) as Local[];
      const isLast = this.uses.get(x) === 1 && list.length === 1;
      return isLast && list[0].partial?.kind === "sum" ? list[0].partial : null;
    });
    const present = open.filter((partial) => partial !== null) as Partial[];
    if (present.length === 0) return false;
    if (name === "concat") return this.joinOpen(node, open);
    if (name === "add" || name === "sub") {
      const [a, b] = open;
      if (!a || !b || a.axes.length !== b.axes.length || a.axes.some((axis) => !b.axes.includes(axis)))
        return false;
    } else {
      const at = open.findIndex((partial) => partial !== null);
      // Sums of 16-bit floats are taken in the wider dtype they are cast to.
      const widens =
        name === "cast" && isFloat(node.inputs[0].dtype) && bytesOf(node.type) > bytesOf(node.inputs[0].type);
      if (present.length > 1 || !(widens || linearIn[name]?.includes(at)) || !isFloat(node.dtype))
        return false;
      if (!widens && bytesOf(node.type) > bytesOf(node.inputs[at].type)) return false;
    }
    return this.compute(node, open);
  }

  /** Few elements joined stay open together, so that one sum serves all: gradient norms by parameter, say. */
  private joinOpen(node: Node, open: readonly (Partial | null)[]): boolean {
    if (bytesOf(node.type) > SMALL_BYTES || !isFloat(node.dtype)) return false;
    const axes = [...new Set(open.flatMap((partial) => partial?.axes ?? []))].sort((a, b) => a - b);
    const inputs = node.inputs.map((x, i) => {
      const own = open[i]?.axes ?? [];
      const rest = axes.filter((axis) => !own.includes(axis));
      const [first] = this.locals.get(x) as Local[];
      const none = replicated(x.shape.length);
      const part = open[i] ? this.move.to({ ...first, partial: null }, none).node : this.operand(x, none);
      // Along the axes it is not open over it counts once.
      return rest.length === 0 ? part : where(eq(this.move.index(rest), 0), part, 0);
    });
    this.set(node, {
      node: apply(node.op, inputs, node.attrs),
      shape: node.shape,
      dims: replicated(node.shape.length),
      partial: { axes, kind: "sum" },
    });
    return true;
  }

  /** The op on parts. Sums that are `opened`, by operand, stay open, and nothing is divided over their axes. */
  private compute(node: Node, opened: readonly (Partial | null)[] = []): boolean {
    const open = opened.find((partial) => partial) ?? null;
    const { plan, move } = this;
    const { mesh } = plan;
    const f = plan.factorsOf(node);
    const operandDims = node.inputs.map((x, i) =>
      opened[i] ? (this.locals.get(x) as Local[])[0].dims : this.present(x),
    );
    const wanted = node.types.map((_, i) => plan.ofResult(node, i));
    const context = contextPlan(node, mesh, this.contextParallel, operandDims, wanted);
    if (context) {
      this.results.set(node, runContext(node, context, move, this.operand));
      return true;
    }
    const assigned = withHeads(
      node,
      f,
      mesh,
      operandDims,
      chooseAssignment(node, f, mesh, operandDims, wanted),
    );
    if (open) {
      // What is divided over the axes already would have to be gathered: the sum is better taken first.
      if (operandDims.some((dims) => dims.flat().some((axis) => open.axes.includes(axis)))) return false;
      for (const [factor, axes] of assigned) {
        const taken = axes.findIndex((axis) => open.axes.includes(axis));
        if (taken >= 0) assigned.set(factor, axes.slice(0, taken));
      }
    }

    const kind = kinds[node.op.name] ?? "sum";
    const inputs = node.inputs.map((x, i) => {
      const dims = f.operands[i].map((factors) => joinAxes(factors, assigned, f.sizes, mesh));
      const [first] = this.locals.get(x) as Local[];
      let local = opened[i] ? this.move.to({ ...first, partial: null }, dims).node : this.operand(x, dims);
      // Padding must not enter a reduction, nor name a place that is not there.
      const isPlaces = placesIn[node.op.name] === i;
      f.operands[i].forEach((factors, d) => {
        const isReduced = factors.some((factor) => f.reduce.has(factor));
        if (!(isReduced || isPlaces) || !isUneven(mesh, x.shape[d], dims[d])) return;
        local = move.masked(local, d, x.shape[d], dims[d], isPlaces ? 0 : identityOf(kind, local));
      });
      return local;
    });
    const resultDims = f.results.map((dims) =>
      dims.map((factors) => joinAxes(factors, assigned, f.sizes, mesh)),
    );
    const expected = resultDims.map((dims, i) => localShape(mesh, node.types[i].shape, dims));
    const local = apply(node.op, inputs, localAttrs(node, inputs, expected[0]));
    local.types.forEach(({ shape }, i) => {
      if (shape.some((size, d) => size !== expected[i][d]))
        throw new GraphError(
          node.op.name,
          `the partitioned op has shape [${shape}] where [${expected[i]}] is its part of [${node.types[i].shape}]`,
          node.scope,
        );
    });
    const values = f.results.map((dims, i): Local => {
      const mine = new Set(dims.flat());
      const axes = [...f.reduce]
        .filter((factor) => !mine.has(factor))
        .flatMap((factor) => assigned.get(factor) ?? []);
      const all = [...axes, ...(open?.axes ?? [])];
      return {
        node: node.types.length > 1 ? result([local], { index: i }) : local,
        shape: node.types[i].shape,
        dims: resultDims[i],
        partial: all.length > 0 ? { axes: all, kind } : null,
      };
    });
    if (node.types.length === 1) this.set(node, values[0]);
    else this.results.set(node, values);
    return true;
  }
}
