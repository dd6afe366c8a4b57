export { explainSharding, type ShardingExplanation } from "./explain.js";
export { type FullyShardOptions, fullyShard, type ZeroStage } from "./fsdp.js";
export {
  type ConstraintDirection,
  clearSharding,
  type LocalShard,
  localShards,
  markSharding,
} from "./mark.js";
export { type ActivationOptions, type ShardingPatterns, shardActivations, shardModule } from "./module.js";
export { type PartIndex, type Placement, placementOf, tensorFromCallback } from "./parts.js";
export { shardingSvg, visualizeSharding } from "./visualize.js";
