export * from "./errors.js";
export { type CollectiveRow, explainSharding, formatExplanation } from "./explain.js";
export * from "./mesh.js";
export { partition } from "./partition.js";
export { propagate } from "./plan.js";
export * from "./spec.js";
export * from "./types.js";
export { type VisualizeOptions, visualizeSharding } from "./visualize.js";
export { shardingSvg } from "./visualize_svg.js";
