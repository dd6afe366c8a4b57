export {
  applyPass,
  type Lowered,
  type LoweredInput,
  liftGraph,
  lowerGraph,
  OutputRef,
} from "./convert.js";
export { FxGraph, type FxParam, type NodeOptions } from "./graph.js";
export { type MatchOptions, matchAt, type NodeMap, returnedNodes } from "./match.js";
export {
  type Argument,
  type FxFunction,
  FxNode,
  type FxTarget,
  getItem,
  isPlainObject,
  isRandom,
  mapLeaves,
  mapNodes,
  type Opcode,
  opcodes,
  visitNodes,
} from "./node.js";
export { formatArgument, formatFxTypes, formatKey } from "./print.js";
export * from "./symbolic.js";
