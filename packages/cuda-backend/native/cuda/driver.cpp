#include "cuda/driver.h"

#include "cuda/library.h"

namespace lazuli::cuda {
namespace {

// cuda.h gives a function's current version its plain name by a macro, which this sees through.
#define LAZULI_TEXT_OF(name) #name
#define LAZULI_SYMBOL(name) LAZULI_TEXT_OF(name)

constexpr int kOldestDriver = 12040;  // cuLibraryGetKernel, cuKernelSetAttribute and graphs as they are used

Driver open() {
  static const Library library = [] {
    try {
      return Library({"libcuda.so.1"});
    } catch (const CudaError& error) {
      throw CudaError(std::string("no NVIDIA driver: ") + error.what());
    }
  }();
  Driver driver;
#define LAZULI_DRIVER_LOAD(name) \
  driver.name = reinterpret_cast<decltype(driver.name)>(library.symbol(LAZULI_SYMBOL(name)));
  LAZULI_DRIVER_FUNCTIONS(LAZULI_DRIVER_LOAD)
#undef LAZULI_DRIVER_LOAD
  int version = 0, count = 0;
  if (driver.cuDriverGetVersion(&version) == CUDA_SUCCESS && version < kOldestDriver) {
    throw CudaError("the NVIDIA driver is too old: it knows CUDA " + std::to_string(version / 1000) + "." +
                    std::to_string(version % 1000 / 10) + ", and 12.4 is needed");
  }
  const CUresult started = driver.cuInit(0);
  if (started == CUDA_ERROR_NO_DEVICE) throw CudaError("the NVIDIA driver sees no GPU", started);
  driver.check(started, "cuInit");
  driver.check(driver.cuDeviceGetCount(&count), "cuDeviceGetCount");
  if (count == 0)
    throw CudaError("the NVIDIA driver sees no GPU (CUDA_VISIBLE_DEVICES?)", CUDA_ERROR_NO_DEVICE);
  return driver;
}

/// After which the driver answers every call of the process alike: a kernel's fault, or the GPU's own.
bool isFinal(CUresult result) {
  switch (result) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
      return true;
    default:
      return false;
  }
}

}  // namespace

const Driver& Driver::get() {
  static const Driver driver = open();
  return driver;
}

void Driver::check(CUresult result, const char* what) const {
  if (result == CUDA_SUCCESS) return;
  const char *name = nullptr, *text = nullptr;
  cuGetErrorName(result, &name);
  cuGetErrorString(result, &text);
  const std::string why = std::string(text ? text : "unknown error") + " (" +
                          (name ? name : std::to_string(static_cast<int>(result))) + ")";
  if (!isFinal(result)) throw CudaError(std::string(what) + ": " + why, result);
  throw CudaError("the GPU failed: " + why + ", seen by " + what +
                      "; this process cannot use it any more, and LAZULI_CUDA_GRAPHS=0 with "
                      "CUDA_LAUNCH_BLOCKING=1 names the kernel in a new one",
                  result);
}

}  // namespace lazuli::cuda
