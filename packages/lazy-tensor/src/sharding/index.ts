export {
  allGather,
  allReduce,
  allToAll,
  axisIndex,
  axisSize,
  collectivePermute,
  type MeshAxes,
  reduceScatter,
} from "./collectives.js";
export { explainSharding, type ShardingExplanation } from "./explain.js";
export { type FullyShardOptions, fullyShard, type ZeroStage } from "./fsdp.js";
export { deviceHosts } from "./hosts.js";
export { type ManualShardingOptions, manualSharding } from "./manual.js";
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
