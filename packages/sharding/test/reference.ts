import type { DType, Node, Shape } from "@lazuli/fx-trace";

// fx-trace's reference: plain loops over float64. It is test code of a package, so it has no package name to be imported by.

export interface Value {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly data: Float64Array;
}

interface Reference {
  /** Values of `outputs`; `inputs` holds the elements of each `input` node, by its index. */
  evaluate(outputs: readonly Node[], inputs: readonly ArrayLike<number>[]): Value[];
  /** Results of a node whose operands have these values; not of `input` and `result`. */
  evaluateOp(node: Node, operands: readonly Value[]): readonly Value[];
}

const referencePath = "../../fx-trace/test/reference.ts";
export const { evaluate, evaluateOp }: Reference = await import(referencePath);

const elementwisePath = "../../fx-trace/test/reference_elementwise.ts";
/** A number as the dtype holds it; floats stay as they are. */
export const { stored }: { stored(dtype: DType, value: number): number } = await import(elementwisePath);
