import { matmul, normalizeDim, ops, promote } from "@lazuli/fx-trace";
import { Tensor } from "../tensor.js";
import { castNode } from "./elementwise.js";

/** Row index minus column index of the last two dims, as int32. */
function diagonalOffset(tensor: Tensor): Tensor {
  const { shape, rank } = tensor;
  const plane = shape.slice(-2);
  const index = (dim: number): Tensor => new Tensor(ops.iota([], { dim, shape: plane, dtype: "int32" }));
  normalizeDim("triu", -2, rank);
  return index(1).sub(index(0));
}

const methods = {
  /** Matrix product over the last two dims, leading dims broadcast. Throws ShapeError. As torch.matmul. */
  matmul(this: Tensor, other: Tensor): Tensor {
    const dtype = promote(this.dtype, other.dtype);
    return new Tensor(matmul(castNode(this.node, dtype), castNode(other.node, dtype)));
  },
  /** The upper triangle, from diagonal `k` on; zeros elsewhere. As torch.triu. */
  triu(this: Tensor, k = 0): Tensor {
    return this.maskedFill(diagonalOffset(this).lt(k), 0);
  },
  /** The lower triangle, up to diagonal `k`; zeros elsewhere. As torch.tril. */
  tril(this: Tensor, k = 0): Tensor {
    return this.maskedFill(diagonalOffset(this).gt(k), 0);
  },
  /** A new last dim of size `classes`: 1 at the tensor's value, else 0, as int32. As torch.nn.functional.one_hot. */
  oneHot(this: Tensor, classes: number): Tensor {
    const index = new Tensor(ops.iota([], { dim: 0, shape: [classes], dtype: this.dtype }));
    return this.unsqueeze(-1).eq(index).to("int32");
  },
};

export type LinalgMethods = typeof methods;
Object.assign(Tensor.prototype, methods);

declare module "../tensor.js" {
  interface Tensor extends LinalgMethods {}
}
