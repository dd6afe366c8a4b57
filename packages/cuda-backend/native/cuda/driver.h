#pragma once

#include <cuda.h>

#include <stdexcept>
#include <string>

namespace lazuli::cuda {

/// What the driver, or a library beside it, said no to. `code` is the driver's number (cuda.h), 0 where there
/// is none.
class CudaError : public std::runtime_error {
 public:
  explicit CudaError(const std::string& message, int code = 0) : std::runtime_error(message), code(code) {}
  const int code;
};

// The driver's functions that are used, with the versions that cuda.h gives these names.
// It lays lists like this one out anew each time.
// clang-format off
#define LAZULI_DRIVER_FUNCTIONS(X) \
  X(cuInit) X(cuDriverGetVersion) X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetName) \
  X(cuDeviceGetAttribute) X(cuDeviceTotalMem) X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease) \
  X(cuCtxSetCurrent) X(cuGetErrorName) X(cuGetErrorString) X(cuMemAlloc) X(cuMemFree) X(cuMemGetInfo) \
  X(cuMemHostAlloc) X(cuMemFreeHost) X(cuMemcpyHtoDAsync) X(cuMemcpyDtoHAsync) X(cuMemcpyDtoDAsync) \
  X(cuMemcpy2DAsync) X(cuMemsetD8Async) X(cuMemsetD32Async) X(cuMemsetD2D8Async) X(cuStreamCreate) \
  X(cuStreamDestroy) X(cuStreamSynchronize) X(cuStreamWaitEvent) X(cuStreamBeginCapture) \
  X(cuStreamEndCapture) X(cuStreamIsCapturing) X(cuEventCreate) X(cuEventDestroy) X(cuEventRecord) X(cuEventSynchronize) \
  X(cuEventElapsedTime) X(cuEventQuery) X(cuGraphInstantiateWithFlags) X(cuGraphLaunch) \
  X(cuGraphExecDestroy) X(cuGraphDestroy) X(cuLibraryLoadData) X(cuLibraryUnload) X(cuLibraryGetKernel) \
  X(cuKernelSetAttribute) X(cuLaunchKernel) X(cuTensorMapEncodeTiled)
// clang-format on

/// libcuda, opened when it is first asked for.
struct Driver {
#define LAZULI_DRIVER_MEMBER(name) decltype(&::name) name = nullptr;
  LAZULI_DRIVER_FUNCTIONS(LAZULI_DRIVER_MEMBER)
#undef LAZULI_DRIVER_MEMBER

  /// Throws CudaError, saying what is missing: no libcuda, one that is too old, no GPU.
  static const Driver& get();
  /// Throws CudaError where `result` is none of success: "cuMemAlloc: out of memory
  /// (CUDA_ERROR_OUT_OF_MEMORY)"; "the GPU failed: …" where no further call will do better.
  void check(CUresult result, const char* what) const;
};

/// Driver::get().name(...), checked.
#define LAZULI_CUDA(name, ...) \
  ::lazuli::cuda::Driver::get().check(::lazuli::cuda::Driver::get().name(__VA_ARGS__), #name)

}  // namespace lazuli::cuda
