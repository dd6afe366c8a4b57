export { extract, type Part } from "./extract.js";
export { type FxPass, type FxPassReport, PassManager, type PassSpec, type RunOptions } from "./manager.js";
export {
  type Backend,
  type Disagreement,
  decomposed,
  type MinimizeOptions,
  minimize,
  native,
} from "./minimize.js";
export { type Partitioned, type PartitionOptions, partitionBySupport } from "./partition.js";
export { shapeProp } from "./shape_prop.js";
export { type ConstFoldOptions, constFold, cse, normalize } from "./simplify.js";
export { type Assign, type SplitOptions, splitModule } from "./split_module.js";
export { nodeCost, splitAt, splitBalanced } from "./split_points.js";
