export { type AttentionConfig, SelfAttention } from "./attention.js";
export * as init from "./init.js";
export * from "./layers.js";
export { Module, ModuleList, Sequential, type StateDict } from "./module.js";
export { Buffer, Parameter } from "./parameter.js";
