import {
  closeGraph,
  type Graph,
  GraphBuilder,
  input,
  type Node,
  reachable,
  withGrad,
  withoutUses,
  withRecorder,
} from "@lazuli/fx-trace";
import { ExportError } from "../errors.js";
import { Module } from "../nn/module.js";
import { treeFill, treeLeaves } from "../pytree.js";
import { engine } from "../runtime.js";
import { Tensor } from "../tensor.js";

/** A value that a program holds: a parameter, a buffer, or what the function read from outside. */
export interface HeldTensor {
  readonly kind: "parameter" | "buffer" | "constant";
  readonly tensor: Tensor;
  /** Of a buffer: part of the state dict. */
  readonly persistent: boolean;
}

/** A function's graph on example inputs. */
export interface CapturedProgram {
  /** Its inputs are the arguments' tensors in order, then `held` in order. */
  readonly graph: Graph;
  /** By path: what the graph reads beside its arguments. */
  readonly held: ReadonlyMap<string, HeldTensor>;
  /** The example arguments and the result, of whose tensors only structure and type count. */
  readonly args: readonly unknown[];
  readonly result: unknown;
  /** A name for each of the graph's inputs. */
  readonly inputNames: readonly string[];
}

/** What is exported: a module, or a function of tensors and structures of them. */
// biome-ignore lint/suspicious/noExplicitAny: a function of any arguments
export type ExportTarget = Module | ((...args: any[]) => unknown);

/**
 * The graph of one call on `inputs` (nested arrays and plain objects of tensors, and constants that the graph is
 * specialised to). Of a module every parameter and buffer that is read is held under its state dict name; what a function
 * reads from outside as `constant.0`, `constant.1`. Takes a step, so that what is held has its value. Throws ExportError
 * for random draws, TensorError for what needs values inside the function.
 */
export async function captureProgram(
  target: ExportTarget,
  inputs: readonly unknown[],
): Promise<CapturedProgram> {
  const run = (...args: unknown[]): unknown =>
    target instanceof Module ? target.forward(...(args as never[])) : target(...args);
  engine();
  const leaves = treeLeaves(inputs);
  const examples = leaves.map(({ node: { shape, dtype } }, index) =>
    withRecorder(null, () => input([], { index, shape, dtype })),
  );
  const builder = new GraphBuilder();
  const result = withRecorder(builder, () =>
    withoutUses(() =>
      withGrad(false, () =>
        run(
          ...treeFill(
            inputs,
            examples.map((example) => new Tensor(example)),
          ),
        ),
      ),
    ),
  );
  const outputs = treeLeaves(result).map(({ node }) => node);
  const own = new Set<Node>(builder.nodes);
  const isOutside = (node: Node): boolean => !own.has(node);
  const nodes = reachable(outputs, isOutside);
  refuseDraws(nodes.filter((node) => own.has(node)));
  const read = nodes.filter((node) => isOutside(node) && !examples.includes(node));
  const held = await nameHeld(target, read);
  const outside = [...held.keys()];
  return {
    graph: closeGraph(nodes, outputs, [...examples, ...outside.map((name) => held.get(name)?.node as Node)]),
    held: new Map(outside.map((name) => [name, held.get(name) as HeldTensor])),
    args: inputs,
    result,
    inputNames: [...examples.map((_, i) => `arg${i}`), ...outside],
  };
}

function refuseDraws(nodes: readonly Node[]): void {
  const draw = nodes.find(({ op }) => op.unique && op.lower !== "kernel");
  if (draw)
    throw new ExportError(
      "export",
      `${draw.op.name} draws random numbers, which a program without an engine's key cannot: call eval() on the module first, or pass the numbers in`,
      draw.scope,
    );
}

/** What is read from outside by name, in the order of the module's state; each with its value computed. */
async function nameHeld(
  target: ExportTarget,
  read: readonly Node[],
): Promise<Map<string, HeldTensor & { node: Node }>> {
  const left = new Set(read);
  const held = new Map<string, HeldTensor & { node: Node }>();
  const hold = (name: string, tensor: Tensor, kind: HeldTensor["kind"], persistent: boolean): void => {
    const { node } = tensor;
    if (left.delete(node)) held.set(name, { kind, tensor, persistent, node });
  };
  if (target instanceof Module) {
    const persistent = target.stateDict();
    for (const [name, tensor] of target.namedParameters()) hold(name, tensor, "parameter", true);
    for (const [name, tensor] of target.namedBuffers()) hold(name, tensor, "buffer", persistent.has(name));
  }
  let constants = 0;
  for (const node of left) {
    while (held.has(`constant.${constants}`)) constants++;
    held.set(`constant.${constants}`, {
      kind: "constant",
      tensor: new Tensor(node),
      persistent: false,
      node,
    });
  }
  for (const node of read) if (node.storage === null) engine().keep(node);
  await engine().step();
  return held;
}
