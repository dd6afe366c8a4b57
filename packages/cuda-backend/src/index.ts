export type { CudaInfo, DeviceStats, ExecutableInfo, KernelInfo } from "./addon.js";
export {
  backendInfo,
  cudaInfo,
  type DeviceName,
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
  DeviceError,
  OutOfMemoryError,
  RunError,
} from "./errors.js";
