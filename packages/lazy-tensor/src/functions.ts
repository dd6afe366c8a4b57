import { type DType, einsum as einsumNodes, normalizeDim, ops, promote, ShapeError } from "@lazuli/fx-trace";
import { castNode, type Operand, operands } from "./methods/elementwise.js";
import { Tensor } from "./tensor.js";

const commonDtype = (tensors: readonly Tensor[]): DType => tensors.map((t) => t.dtype).reduce(promote);

/** Tensors joined along a dim. As torch.cat. */
export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  if (tensors.length === 0) throw new ShapeError("cat", "no tensors to join");
  const dtype = commonDtype(tensors);
  return new Tensor(
    ops.concat(
      tensors.map((t) => castNode(t.node, dtype)),
      { dim: normalizeDim("cat", dim, tensors[0].rank) },
    ),
  );
}

/** Tensors of one shape joined along a new dim. As torch.stack. */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  return cat(
    tensors.map((t) => t.unsqueeze(dim)),
    dim,
  );
}

/** `a` where `condition` holds, else `b`. As torch.where. */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  if (a instanceof Tensor) return a.where(condition, b);
  const mask = castNode(condition.node, "bool");
  if (b instanceof Tensor) {
    const [other, value] = operands(b, a);
    return new Tensor(ops.where([mask, value, other], {}));
  }
  const value = new Tensor(ops.full([], { value: Number(a), shape: [], dtype: "float32" }));
  return value.where(condition, b);
}

/** Sums of products by Einstein's notation, `"bik,bkj->bij"`; `...` stands for leading dims. As torch.einsum. */
export function einsum(equation: string, ...tensors: readonly Tensor[]): Tensor {
  const dtype = commonDtype(tensors);
  return new Tensor(einsumNodes(equation, ...tensors.map((t) => castNode(t.node, dtype))));
}
