import {
  dtypeInfo,
  isFloat,
  type Node,
  normalizeDim,
  normalizeDims,
  ops,
  type Shape,
} from "@lazuli/fx-trace";
import { Tensor } from "../tensor.js";
import { castNode } from "./elementwise.js";

/** One dim, several, or every dim where left out. Negative dims count from the end. */
export type Dims = number | readonly number[];
type WithIndices = { values: Tensor; indices: Tensor };

/** bool and half-of-nothing inputs as a number: what a sum can be taken of. */
const summable = (tensor: Tensor): Node =>
  tensor.dtype === "bool" ? castNode(tensor.node, "int32") : tensor.node;
const floating = (tensor: Tensor): Node =>
  isFloat(tensor.dtype) ? tensor.node : castNode(tensor.node, "float32");

function reduce(
  op: "sum" | "prod" | "max" | "min" | "mean" | "logsumexp",
  node: Node,
  dims: Dims | undefined,
  keepdim: boolean,
): Tensor {
  return new Tensor(ops[op]([node], { dims: normalizeDims(op, dims, node.shape.length), keepdim }));
}

/** The last dim moved to where `dim` is, so that an op over the last dim serves any. */
function overDim(tensor: Tensor, op: string, dim: number, fn: (last: Node) => Node): Tensor {
  const d = normalizeDim(op, dim, tensor.rank);
  if (d === tensor.rank - 1) return new Tensor(fn(tensor.node));
  const perm = swapped(tensor.shape, d, tensor.rank - 1);
  return new Tensor(ops.transpose([fn(ops.transpose([tensor.node], { perm }))], { perm }));
}

const swapped = (shape: Shape, a: number, b: number): number[] =>
  shape.map((_, i) => (i === a ? b : i === b ? a : i));

function argReduce(
  op: "argmax" | "argmin",
  tensor: Tensor,
  dim: number | undefined,
  keepdim: boolean,
): Tensor {
  if (dim === undefined) {
    const flat = ops.reshape([tensor.node], { shape: [tensor.size] });
    return new Tensor(ops[op]([flat], { dim: 0, keepdim: false }));
  }
  return new Tensor(ops[op]([tensor.node], { dim: normalizeDim(op, dim, tensor.rank), keepdim }));
}

function pair(node: Node): WithIndices {
  return {
    values: new Tensor(ops.result([node], { index: 0 })),
    indices: new Tensor(ops.result([node], { index: 1 })),
  };
}

function variance(tensor: Tensor, dims: Dims | undefined, correction: number, keepdim: boolean): Tensor {
  const list = normalizeDims("var", dims, tensor.rank);
  const count = list.reduce((product, d) => product * tensor.shape[d], 1);
  const centred = tensor.sub(tensor.mean(list, true));
  return centred
    .square()
    .sum(list, keepdim)
    .div(Math.max(count - correction, 0));
}

const methods = {
  sum(this: Tensor, dims?: Dims, keepdim = false): Tensor {
    return reduce("sum", summable(this), dims, keepdim);
  },
  /** Integers become float32. */
  mean(this: Tensor, dims?: Dims, keepdim = false): Tensor {
    return reduce("mean", floating(this), dims, keepdim);
  },
  prod(this: Tensor, dims?: Dims, keepdim = false): Tensor {
    return reduce("prod", summable(this), dims, keepdim);
  },
  /** Largest value; the gradient is shared among ties. As torch.amax. */
  max(this: Tensor, dims?: Dims, keepdim = false): Tensor {
    return reduce("max", this.node, dims, keepdim);
  },
  /** Smallest value; the gradient is shared among ties. As torch.amin. */
  min(this: Tensor, dims?: Dims, keepdim = false): Tensor {
    return reduce("min", this.node, dims, keepdim);
  },
  logsumexp(this: Tensor, dims?: Dims, keepdim = false): Tensor {
    return reduce("logsumexp", floating(this), dims, keepdim);
  },
  /** Index of the largest value as int32, the first on ties; over the flattened tensor where `dim` is left out. */
  argmax(this: Tensor, dim?: number, keepdim = false): Tensor {
    return argReduce("argmax", this, dim, keepdim);
  },
  argmin(this: Tensor, dim?: number, keepdim = false): Tensor {
    return argReduce("argmin", this, dim, keepdim);
  },
  any(this: Tensor, dims?: Dims, keepdim = false): Tensor {
    return reduce("max", castNode(castNode(this.node, "bool"), "uint8"), dims, keepdim).to("bool");
  },
  all(this: Tensor, dims?: Dims, keepdim = false): Tensor {
    return reduce("min", castNode(castNode(this.node, "bool"), "uint8"), dims, keepdim).to("bool");
  },
  /** Variance with Bessel's correction unless `correction` says otherwise. As torch.var. */
  var(this: Tensor, dims?: Dims, correction = 1, keepdim = false): Tensor {
    return variance(this, dims, correction, keepdim);
  },
  std(this: Tensor, dims?: Dims, correction = 1, keepdim = false): Tensor {
    return variance(this, dims, correction, keepdim).sqrt();
  },
  /** Euclidean norm. As torch.linalg.vector_norm with ord 2. */
  norm(this: Tensor, dims?: Dims, keepdim = false): Tensor {
    return this.square().sum(dims, keepdim).sqrt();
  },
  cumsum(this: Tensor, dim: number): Tensor {
    return new Tensor(
      ops.cumsum([summable(this)], { dim: normalizeDim("cumsum", dim, this.rank), reverse: false }),
    );
  },
  softmax(this: Tensor, dim = -1): Tensor {
    return overDim(this, "softmax", dim, (x) =>
      ops.softmax([dtypeInfo[x.dtype].kind === "float" ? x : castNode(x, "float32")], {}),
    );
  },
  logSoftmax(this: Tensor, dim = -1): Tensor {
    return overDim(this, "log_softmax", dim, (x) =>
      ops.log_softmax([dtypeInfo[x.dtype].kind === "float" ? x : castNode(x, "float32")], {}),
    );
  },
  /** Values in order and their int32 indices; stable, NaN last. As torch.sort. */
  sort(this: Tensor, dim = -1, descending = false): WithIndices {
    return pair(ops.sort([this.node], { dim: normalizeDim("sort", dim, this.rank), descending }));
  },
  argsort(this: Tensor, dim = -1, descending = false): Tensor {
    return this.sort(dim, descending).indices;
  },
  /** The `k` largest (or smallest) values in order and their int32 indices. As torch.topk. */
  topk(this: Tensor, k: number, dim = -1, largest = true): WithIndices {
    return pair(ops.topk([this.node], { k, dim: normalizeDim("topk", dim, this.rank), largest }));
  },
};

export type ReductionMethods = typeof methods;
Object.assign(Tensor.prototype, methods);

declare module "../tensor.js" {
  interface Tensor extends ReductionMethods {}
}
