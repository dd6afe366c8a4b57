import {
  type FxNode,
  input as inputOp,
  mapLeaves,
  Node,
  type TensorType,
  withGrad,
  withoutUses,
  withRecorder,
} from "@lazuli/fx-trace";
import { Tensor } from "../../tensor.js";
import { insideTransform } from "../active.js";
import type { GraphModule } from "../graph_module.js";
import { Interpreter } from "../interpreter.js";
import { TensorSpec } from "../tracer.js";

/** Notes the type of everything that is run. */
class Shapes extends Interpreter {
  override runFrom(values: ReadonlyMap<FxNode, unknown>): unknown {
    for (const [node, value] of values) node.types = typesOf(value);
    return super.runFrom(values);
  }

  override runNode(node: FxNode): unknown {
    const value = super.runNode(node);
    node.types = typesOf(value);
    return value;
  }

  /** Buffers keep their values: nothing is computed. */
  override setAttr(_path: string, value: Tensor): unknown {
    return value;
  }
}

function typesOf(value: unknown): readonly TensorType[] | null {
  if (value instanceof Tensor) return value.node.types;
  return value instanceof Node ? value.types : null;
}

/** Takes nodes and forgets them: they are looked at, and never computed. */
const discard = { add: (): void => {} };

/**
 * Writes the type of each value into `node.types`, for arguments (tensors or `fx.spec`s) of these types, and gives the
 * module back: after edits that changed shapes, or for a graph that was traced without examples. The arguments' types
 * become the placeholders'. Nothing is computed. Throws what an op that does not take its operands throws, naming the
 * node; the types are then those of before. As torch.fx's ShapeProp.
 */
export function shapeProp(module: GraphModule, ...inputs: readonly unknown[]): GraphModule {
  const { graph } = module;
  const before = new Map(graph.nodes.map((node) => [node, node.types]));
  for (const node of graph.placeholders) if (!node.dims) node.types = null;
  try {
    withRecorder(discard, () => {
      const given = mapLeaves(inputs, (leaf) => (leaf instanceof TensorSpec ? standIn(leaf) : leaf));
      insideTransform(() =>
        withGrad(false, () => withoutUses(() => new Shapes(module).run(...(given as unknown[])))),
      );
    });
  } catch (error) {
    for (const [node, types] of before) node.types = types;
    throw error;
  }
  return module;
}

const standIn = ({ shape, dtype }: TensorSpec): Tensor =>
  new Tensor(inputOp([], { index: 0, shape: [...shape], dtype }));
