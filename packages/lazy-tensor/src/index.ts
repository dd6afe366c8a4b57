import "./methods/elementwise.js";
import "./methods/reduction.js";
import "./methods/movement.js";
import "./methods/linalg.js";

export { CollectiveError, CompileError, OutOfMemoryError, RunError } from "@lazuli/cuda-backend";
export {
  type DType,
  DTypeError,
  dtypes,
  GradError,
  type Graph,
  GraphError,
  GuardError,
  isFloat,
  LazuliError,
  type OpPlace,
  type Shape,
  ShapeError,
  type StableHloOptions,
  TraceError,
  toStableHLO,
  UnsupportedOpError,
  ValueError,
  withScope,
} from "@lazuli/fx-trace";
export {
  type ContextParallel,
  type HybridMeshOptions,
  hybridMesh,
  Mesh,
  type MeshOptions,
  type MeshShape,
  mesh1d,
  type PartitionSpec,
  ShardingError,
  type SubmeshAxes,
} from "@lazuli/sharding";
export { autocast, enableGrad, isGradEnabled, noGrad } from "./autograd.js";
export { type CompileOptions, compile } from "./compile/compile.js";
export * from "./creation.js";
export * from "./data/index.js";
export { Engine } from "./engine.js";
export * from "./errors.js";
export {
  type CompileEvent,
  Events,
  type MemoryEvent,
  type PassEvent,
  type RecordEvent,
  type StepEvent,
} from "./events.js";
export * from "./export/index.js";
export { functionalCall } from "./functional_call.js";
export { grad, gradOf, valueAndGrad } from "./functional_grad.js";
export {
  type Axes,
  hessian,
  jacfwd,
  jacrev,
  jvp,
  type VmapOptions,
  vjp,
  vmap,
} from "./functional_transforms.js";
export { cat, einsum, stack, where } from "./functions.js";
export * as fx from "./fx/index.js";
export * from "./io/index.js";
export { printError } from "./job.js";
export type { Operand } from "./methods/elementwise.js";
export type { Index, Range } from "./methods/movement.js";
export type { Dims } from "./methods/reduction.js";
export * as F from "./nn/functional.js";
export * as nn from "./nn/index.js";
export * as optim from "./optim/index.js";
export { type EngineOptions, type Remat, TOKENS } from "./options.js";
export { treeLeaves, treeMap } from "./pytree.js";
export { checkpoint } from "./remat.js";
export {
  configure,
  createContainer,
  type DeviceName,
  engine,
  isFirstProcess,
  type RuntimeOptions,
  useEngine,
} from "./runtime.js";
export * from "./sharding/index.js";
export { sync } from "./step.js";
export { type NestedArray, Tensor } from "./tensor.js";
export { TraceRecorder } from "./trace.js";
export type { DataArray, TypedArray } from "./typed_array.js";
