export * from "./errors.js";
export * from "./mesh.js";
export * from "./spec.js";
export * from "./types.js";
