export { type CapturedProgram, captureProgram, type ExportTarget, type HeldTensor } from "./capture.js";
export { exportOnnx, toOnnx } from "./onnx.js";
export { exportProgram, loadProgram, PROGRAM_VERSION, Program } from "./program.js";
