export type { DeviceStats, ExecutableInfo, KernelInfo } from "./addon.js";
export {
  backendInfo,
  type DeviceOptions,
  type Ids,
  type KernelTime,
  type NativeDevice,
  openDevice,
  type RunResult,
} from "./device.js";
export {
  ArgumentError,
  BackendError,
  CollectiveError,
  CompileError,
  OutOfMemoryError,
  RunError,
} from "./errors.js";
