export { autocastPass, withAutocast } from "./autocast.js";
export * from "./close.js";
export { bytesOf, computeSeconds, flopsOf } from "./cost.js";
export * from "./dtype.js";
export * from "./encode.js";
export * from "./errors.js";
export { ONNX_OPSET, type OnnxGraph, toOnnxGraph } from "./export/onnx.js";
export { type Onnx, type OnnxAttribute, type OnnxTensor, onnxTypes } from "./export/onnx_writer.js";
export { type StableHloOptions, toStableHLO } from "./export/stablehlo.js";
export * from "./fx/index.js";
export * from "./graph.js";
export * from "./node.js";
export * from "./opdef.js";
export * from "./ops/build.js";
export {
  type CollectiveName,
  collectiveNames,
  groupSize,
  isTransfer,
  meshSizes,
  type ReductionKind,
} from "./ops/collective.js";
export * from "./ops/composite.js";
export { einsum } from "./ops/einsum.js";
export { constant, input, result } from "./ops/leaf.js";
export { type OpName, type OpTable, ops, opTable } from "./ops/table.js";
export { parseGraph } from "./parse.js";
export { commutative, cse } from "./passes/cse.js";
export { dce } from "./passes/dce.js";
export { decompose } from "./passes/decompose.js";
export { foldConstants } from "./passes/fold.js";
export { foldGradScale, foldGradScaleOnly } from "./passes/fold_grad_scale.js";
export { fuseLinearCrossEntropy } from "./passes/fuse_linear_cross_entropy.js";
export { type LiveBytes, liveBytes } from "./passes/live_bytes.js";
export { type Pass, type PassReport, type RunPassesOptions, runPasses } from "./passes/pass.js";
export {
  type Rematerialized,
  type RematOptions,
  rematerialize,
  rematSteps,
} from "./passes/rematerialize.js";
export { type Rule, type Rules, rewrite } from "./passes/rewrite.js";
export { simplify } from "./passes/simplify.js";
export { standardPasses } from "./passes/standard.js";
export * from "./print.js";
export * from "./shape.js";
export {
  type Batched,
  type Batching,
  batchNodes,
  type Randomness,
  spread,
  valueIn,
} from "./transforms/batch.js";
export { batchRules } from "./transforms/batch_rules.js";
export { pushForward } from "./transforms/jvp.js";
export { verify } from "./verify.js";
export { type GradientOptions, gradients } from "./vjp.js";
