export { Adam, type AdamOptions, AdamW } from "./adam.js";
export { clipGradNorm } from "./clip.js";
export { GradScaler, type GradScalerOptions } from "./grad_scaler.js";
export { Optimizer, type ParamGroup, type Params } from "./optimizer.js";
export * as schedules from "./schedules.js";
export { SGD, type SgdOptions } from "./sgd.js";
