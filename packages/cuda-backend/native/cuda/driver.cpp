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
  throw CudaError(std::string(what) + ": " + (text ? text : "unknown error") + " (" +
                      (name ? name : std::to_string(static_cast<int>(result))) + ")",
                  result);
}

}  // namespace lazuli::cuda
