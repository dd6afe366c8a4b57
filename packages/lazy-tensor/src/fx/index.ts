export {
  applyPass,
  autocastPass,
  type Dim,
  FxGraph,
  FxNode,
  type FxParam,
  getItem,
  liftGraph,
  lowerGraph,
  type Opcode,
  SymExpr,
} from "@lazuli/fx-trace";
export { type Dynamic, type DynamicDim, exampleSpecs } from "./arguments.js";
export { GraphModule, type GraphRoot } from "./graph_module.js";
export { Interpreter, type OpOverride, type OpValue, type RunStep } from "./interpreter.js";
export { op, scopes } from "./op.js";
export * from "./passes/index.js";
export { type Match, type ReplaceOptions, replacePattern } from "./replace_pattern.js";
export { inlineModules, isLayer, symbolicTrace, type TraceOptions } from "./symbolic_trace.js";
export { type LeafTest, spec, TensorSpec } from "./tracer.js";
export { Transformer } from "./transformer.js";
