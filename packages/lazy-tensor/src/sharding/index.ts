export { type FullyShardOptions, fullyShard } from "./fsdp.js";
export { clearSharding, type LocalShard, localShards, markSharding } from "./mark.js";
export { type ShardingPatterns, shardActivations, shardModule } from "./module.js";
