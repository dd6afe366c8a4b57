import {
  type Attrs,
  buildGraph,
  type DType,
  type Graph,
  gradients,
  input,
  isFloat,
  type Node,
  type OpName,
  ops,
  result,
} from "@lazuli/fx-trace";
import { makeLeaf } from "./ops.samples.data.js";
import { type Derived, isLeaf, type Leaf, normal, type Sample } from "./ops.samples.types.js";

/** A value from outside. */
export interface Data {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly bytes: Uint8Array;
}

export interface BuiltSample {
  /** Its inputs are the leaves, then the cotangents; its outputs the results, then the gradients that are not null. */
  readonly graph: Graph;
  readonly leaves: readonly Data[];
  readonly cotangents: readonly (Data & { readonly result: number })[];
  /** By output: its name in the goldens. */
  readonly names: readonly string[];
  /** Leaves that no gradient flows to, though they are of a float dtype. */
  readonly without: readonly string[];
}

type AnyOp = (inputs: readonly Node[], attrs: Attrs) => Node;

/** The op over the sample's operands, and where `withGrad` (default: where the sample has any) its gradients. */
export function buildSample(op: OpName, sample: Sample, withGrad = sample.grad): BuiltSample {
  const leaves: Data[] = [];
  const cotangents: (Data & { result: number })[] = [];
  const names: string[] = [];
  const without: string[] = [];

  const addInput = (index: number, { shape, dtype }: Data): Node => input([], { index, shape, dtype });
  const graph = buildGraph(() => {
    const leafNodes: Node[] = [];
    const values: Node[] = [];
    for (const operand of sample.operands) {
      if (isLeaf(operand)) {
        const bytes = makeLeaf(operand, `${op}/${sample.name}/${leaves.length}`);
        leaves.push({ shape: operand.shape, dtype: operand.dtype, bytes });
        const leaf = addInput(leafNodes.length, leaves[leaves.length - 1]);
        leaf.isLeaf = true;
        leaf.requiresGrad = sample.grad && isFloat(leaf.dtype);
        leafNodes.push(leaf);
        values.push(through(operand, leaf));
      } else {
        values.push(derive(operand, values, sample));
      }
    }
    const args = (sample.args ?? values.map((_, position) => position)).map((position) => values[position]);
    const node = op === "input" ? args[0] : (ops[op] as unknown as AnyOp)(args, sample.attrs);
    const results =
      node.types.length === 1 ? [node] : node.types.map((_, index) => result([node], { index }));
    results.forEach((_, index) => {
      names.push(`out${index}`);
    });
    if (!withGrad) return results;

    const floats = results.flatMap((value, index) => (isFloat(value.dtype) ? [index] : []));
    const given = (sample.cotangents ?? floats).map((index) => {
      const { shape, dtype } = results[index].type;
      const bytes = makeLeaf({ shape, dtype, fill: normal() }, `${op}/${sample.name}/cotangent${index}`);
      cotangents.push({ shape, dtype, bytes, result: index });
      return {
        value: results[index],
        cotangent: addInput(leafNodes.length + cotangents.length - 1, cotangents[cotangents.length - 1]),
      };
    });
    const wanted = leafNodes.filter((leaf) => leaf.requiresGrad);
    const found = gradients(
      given.map(({ value }) => value),
      given.map(({ cotangent }) => cotangent),
      wanted,
    );
    const outputs = [...results];
    wanted.forEach((leaf, k) => {
      const name = `grad${leafNodes.indexOf(leaf)}`;
      const gradient = found[k];
      if (!gradient) {
        without.push(name);
        return;
      }
      names.push(name);
      outputs.push(gradient);
    });
    return outputs;
  });
  return { graph, leaves, cotangents, names, without };
}

const through = ({ via }: Leaf, leaf: Node): Node =>
  via ? (ops[via.op] as unknown as AnyOp)([leaf], via.attrs) : leaf;

function derive({ op, of, attrs, result: index }: Derived, values: readonly Node[], sample: Sample): Node {
  const node = (ops[op] as unknown as AnyOp)(
    of.map((position) => values[position]),
    attrs ?? sample.attrs,
  );
  return index === undefined || node.types.length === 1 ? node : result([node], { index });
}
