#include "cuda/gpu.h"

#include <map>
#include <mutex>

#include "cuda/driver.h"

namespace lazuli::cuda {
namespace {

constexpr int kOldestArch = 80;

int attributeOf(CUdevice device, CUdevice_attribute attribute) {
  int value = 0;
  LAZULI_CUDA(cuDeviceGetAttribute, &value, attribute, device);
  return value;
}

std::byte* takeGpu(size_t capacity) {
  CUdeviceptr memory = 0;
  const CUresult result = Driver::get().cuMemAlloc(&memory, capacity);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) return nullptr;
  Driver::get().check(result, "cuMemAlloc");
  return reinterpret_cast<std::byte*>(memory);
}

void giveGpu(std::byte* data, size_t) noexcept {
  Driver::get().cuMemFree(reinterpret_cast<CUdeviceptr>(data));
}

std::byte* takePinned(size_t capacity) {
  void* memory = nullptr;
  const CUresult result = Driver::get().cuMemHostAlloc(&memory, capacity, CU_MEMHOSTALLOC_PORTABLE);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) return nullptr;
  Driver::get().check(result, "cuMemHostAlloc");
  return static_cast<std::byte*>(memory);
}

void givePinned(std::byte* data, size_t) noexcept { Driver::get().cuMemFreeHost(data); }

}  // namespace

MemorySource gpuMemory() { return {takeGpu, giveGpu}; }
MemorySource pinnedMemory() { return {takePinned, givePinned}; }

int Gpu::count() {
  int count = 0;
  LAZULI_CUDA(cuDeviceGetCount, &count);
  return count;
}

const Gpu& Gpu::open(int ordinal) {
  static std::mutex mutex;
  static std::map<int, std::unique_ptr<Gpu>> opened;
  std::lock_guard lock(mutex);
  std::unique_ptr<Gpu>& gpu = opened[ordinal];
  if (gpu) return *gpu;
  auto opening = std::unique_ptr<Gpu>(new Gpu(ordinal));
  if (opening->target_.arch() < kOldestArch) {
    throw CudaError(opening->name_ + " has compute capability " + std::to_string(opening->target_.major) +
                        "." + std::to_string(opening->target_.minor) + ": 8.0 (Ampere) or newer is needed",
                    CUDA_ERROR_NO_BINARY_FOR_GPU);
  }
  CUcontext context = nullptr;
  LAZULI_CUDA(cuDevicePrimaryCtxRetain, &context, opening->device_);
  opening->context_ = context;
  gpu = std::move(opening);
  return *gpu;
}

Gpu::Gpu(int ordinal) {
  const int there = count();
  if (ordinal < 0 || ordinal >= there) {
    throw CudaError("there is no GPU " + std::to_string(ordinal) + " among " + std::to_string(there) +
                        " (LAZULI_CUDA_DEVICE, CUDA_VISIBLE_DEVICES)",
                    CUDA_ERROR_INVALID_DEVICE);
  }
  CUdevice device = 0;
  LAZULI_CUDA(cuDeviceGet, &device, ordinal);
  device_ = target_.device = device;
  char name[256] = "";
  LAZULI_CUDA(cuDeviceGetName, name, sizeof(name), device);
  name_ = name;
  LAZULI_CUDA(cuDeviceTotalMem, &totalBytes_, device);
  target_.major = attributeOf(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  target_.minor = attributeOf(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  target_.multiprocessors = attributeOf(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  target_.sharedPerBlock = attributeOf(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
}

void Gpu::makeCurrent() const { LAZULI_CUDA(cuCtxSetCurrent, static_cast<CUcontext>(context_)); }

size_t Gpu::freeBytes() const {
  makeCurrent();
  size_t free = 0, total = 0;
  LAZULI_CUDA(cuMemGetInfo, &free, &total);
  return free;
}

}  // namespace lazuli::cuda
