// libcuda over the emulator: the device, its memory, errors. An argument that CUDA would refuse is refused.

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "driver_state.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace lazuli::simt {

State& state() {
  static State* const state = new State;
  return *state;
}

int deviceCount() {
  const char* text = std::getenv("LAZULI_SIMT_DEVICES");
  return text ? std::clamp(std::atoi(text), 0, 16) : 1;
}

size_t memoryLimit() {
  const char* text = std::getenv("LAZULI_SIMT_MEMORY");
  return text ? std::strtoull(text, nullptr, 10) : size_t{4} << 30;
}

int computeCapability() {
  const char* text = std::getenv("LAZULI_SIMT_ARCH");
  int major = 8, minor = 0;
  if (text) std::sscanf(text, "%d.%d", &major, &minor);
  return major * 10 + minor;
}

size_t sharedLimit() { return computeCapability() >= 90 ? 227 * 1024 : 163 * 1024; }

CUresult check() {
  State& s = state();
  if (!s.started) return CUDA_ERROR_NOT_INITIALIZED;
  if (s.sticky != CUDA_SUCCESS) return s.sticky;
  const auto current = s.current.find(std::this_thread::get_id());
  return current != s.current.end() && current->second ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult checkNotCapturing() {
  for (const auto& capture : state().captures) {
    const bool mine = capture->thread == std::this_thread::get_id();
    if (capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
    if (capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && !mine) continue;
    capture->broken = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return CUDA_SUCCESS;
}

bool isDevice(CUdeviceptr at, size_t bytes) {
  auto next = state().memory.upper_bound(at);
  if (next == state().memory.begin()) return false;
  const auto& [start, allocation] = *--next;
  return at + bytes <= start + allocation.bytes;
}

namespace {

constexpr size_t kPage = 4096, kAlignment = 256;
constexpr unsigned char kRedZone = 0xa5;

int currentDevice() { return state().current[std::this_thread::get_id()]->device; }

/// Ends at an unreadable page, after less than kAlignment bytes of red zone.
CUdeviceptr allocate(size_t bytes, int device) {
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t pages = (rounded + kPage - 1) / kPage * kPage, mapped = pages + 2 * kPage;
  void* memory =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return 0;
  char* mapping = static_cast<char*>(memory);
  mprotect(mapping, kPage, PROT_NONE);
  mprotect(mapping + kPage + pages, kPage, PROT_NONE);
  char* at = mapping + kPage + pages - rounded;
  if (bytes <= size_t{64} << 20) std::memset(at, 0xff, bytes);
  std::memset(at + bytes, kRedZone, rounded - bytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(at + bytes, rounded - bytes);
#endif
  const CUdeviceptr address = reinterpret_cast<CUdeviceptr>(at);
  state().memory[address] = {bytes, device, mapping, mapped};
  state().used[device] += rounded;
  return address;
}

CUresult release(CUdeviceptr address) {
  State& s = state();
  const auto found = s.memory.find(address);
  if (found == s.memory.end()) return CUDA_ERROR_INVALID_VALUE;
  const auto [bytes, device, mapping, mapped] = found->second;
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const char* end = reinterpret_cast<const char*>(address) + bytes;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(end, rounded - bytes);
#endif
  const bool intact = std::all_of(end, end + (rounded - bytes),
                                  [](char byte) { return static_cast<unsigned char>(byte) == kRedZone; });
  s.memory.erase(found);
  s.used[device] -= rounded;
  munmap(mapping, mapped);
  if (intact) return CUDA_SUCCESS;
  s.fault = "something was written past the end of an allocation of " + std::to_string(bytes) + " bytes";
  std::fprintf(stderr, "simt: %s\n", s.fault.c_str());
  return CUDA_ERROR_ILLEGAL_ADDRESS;
}

int attributeOf(CUdevice_attribute attribute) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return computeCapability() / 10;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      return computeCapability() % 10;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return 4;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      return static_cast<int>(sharedLimit());
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
      return 48 * 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      return 2048;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      return 32;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      return 1 << 20;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
      return 1;
    default:
      return 0;
  }
}

struct ErrorText {
  CUresult code;
  const char *name, *text;
};
#define LAZULI_SIMT_ERROR(code, text) \
  { code, #code, text }
constexpr ErrorText kErrors[] = {
    LAZULI_SIMT_ERROR(CUDA_SUCCESS, "no error"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_NOT_READY, "device not ready"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                      "operation not permitted when stream is capturing"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
                      "operation failed due to a previous error during capture"),
    LAZULI_SIMT_ERROR(CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state"),
};
const ErrorText* errorText(CUresult code) {
  for (const ErrorText& error : kErrors)
    if (error.code == code) return &error;
  return nullptr;
}

}  // namespace
}  // namespace lazuli::simt

using namespace lazuli::simt;

extern "C" {

/// What the last fault was: "kernel, block, thread: what", for tests.
const char* lazuliSimtFault() { return state().fault.c_str(); }

CUresult cuInit(unsigned) {
  LAZULI_SIMT_LOCK;
  if (deviceCount() == 0) return CUDA_ERROR_NO_DEVICE;
  state().started = true;
  return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
  *version = 13000;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** name) {
  const ErrorText* text = errorText(error);
  *name = text ? text->name : nullptr;
  return text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuGetErrorString(CUresult error, const char** result) {
  const ErrorText* text = errorText(error);
  *result = text ? text->text : nullptr;
  return text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuDeviceGetCount(int* count) {
  *count = deviceCount();
  return state().started ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  if (ordinal < 0 || ordinal >= deviceCount()) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char* name, int length, CUdevice) {
  std::snprintf(name, static_cast<size_t>(length), "emulated GPU (sm_%d)", computeCapability());
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  *value = attributeOf(attribute);
  return CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem(size_t* bytes, CUdevice) {
  *bytes = memoryLimit();
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  LAZULI_SIMT_LOCK;
  if (!state().started) return CUDA_ERROR_NOT_INITIALIZED;
  if (device < 0 || device >= deviceCount()) return CUDA_ERROR_INVALID_DEVICE;
  CUctx_st& of = state().contexts[device];
  of.device = device;
  ++of.references;
  *context = &of;
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  LAZULI_SIMT_LOCK;
  if (device < 0 || device >= 16 || state().contexts[device].references == 0)
    return CUDA_ERROR_INVALID_CONTEXT;
  if (--state().contexts[device].references) return CUDA_SUCCESS;
  state().sticky = CUDA_SUCCESS;
  for (auto& [thread, context] : state().current)
    if (context == &state().contexts[device]) context = nullptr;
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxReset(CUdevice) {
  LAZULI_SIMT_LOCK;
  state().sticky = CUDA_SUCCESS;
  return CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext context) {
  LAZULI_SIMT_LOCK;
  state().current[std::this_thread::get_id()] = context;
  return CUDA_SUCCESS;
}
CUresult cuCtxSynchronize() {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  await(lock, [device = currentDevice()] { return isIdle(device); });
  return check();
}

CUresult cuMemAlloc(CUdeviceptr* address, size_t bytes) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult bad = checkNotCapturing(); bad != CUDA_SUCCESS) return bad;
  const int device = currentDevice();
  if (bytes > memoryLimit() || state().used[device] + bytes > memoryLimit()) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = allocate(bytes, device);
  return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemFree(CUdeviceptr address) {
  LAZULI_SIMT_LOCK;
  if (address == 0) return CUDA_SUCCESS;
  if (const CUresult bad = checkNotCapturing(); bad != CUDA_SUCCESS) return bad;
  // As CUDA does: the GPU has nothing under way that might use it.
  if (const auto found = state().memory.find(address); found != state().memory.end())
    await(lock, [device = found->second.device] { return isIdle(device); });
  const CUresult released = release(address);
  return state().sticky != CUDA_SUCCESS ? state().sticky : released;
}
CUresult cuMemGetInfo(size_t* free, size_t* total) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  const size_t used = state().used[currentDevice()];
  *total = memoryLimit();
  *free = *total > used ? *total - used : 0;
  return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  *memory = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  return *memory ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemFreeHost(void* memory) {
  std::free(memory);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  LAZULI_SIMT_LOCK;
  if (bytes && !isDevice(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return enqueue(stream, [=] { std::memcpy(reinterpret_cast<void*>(to), from, bytes); });
}
CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  LAZULI_SIMT_LOCK;
  if (bytes && !isDevice(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return enqueue(stream, [=] { std::memcpy(to, reinterpret_cast<const void*>(from), bytes); });
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  LAZULI_SIMT_LOCK;
  if (bytes && (!isDevice(to, bytes) || !isDevice(from, bytes))) return CUDA_ERROR_INVALID_VALUE;
  return enqueue(
      stream, [=] { std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes); });
}
CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) {
  return cuMemcpyHtoDAsync(to, from, bytes, nullptr);
}
CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) {
  return cuMemcpyDtoHAsync(to, from, bytes, nullptr);
}
CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D* copy, CUstream stream) {
  LAZULI_SIMT_LOCK;
  const auto usable = [](CUmemorytype type) {
    return type == CU_MEMORYTYPE_HOST || type == CU_MEMORYTYPE_DEVICE || type == CU_MEMORYTYPE_UNIFIED;
  };
  if (!usable(copy->srcMemoryType) || !usable(copy->dstMemoryType)) return CUDA_ERROR_INVALID_VALUE;
  return enqueue(stream, [c = *copy] {
    const char* from = c.srcMemoryType == CU_MEMORYTYPE_HOST ? static_cast<const char*>(c.srcHost)
                                                             : reinterpret_cast<const char*>(c.srcDevice);
    char* to = c.dstMemoryType == CU_MEMORYTYPE_HOST ? static_cast<char*>(c.dstHost)
                                                     : reinterpret_cast<char*>(c.dstDevice);
    for (size_t row = 0; row < c.Height; ++row)
      std::memmove(to + (c.dstY + row) * c.dstPitch + c.dstXInBytes,
                   from + (c.srcY + row) * c.srcPitch + c.srcXInBytes, c.WidthInBytes);
  });
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
  LAZULI_SIMT_LOCK;
  if (count && !isDevice(to, count)) return CUDA_ERROR_INVALID_VALUE;
  return enqueue(stream, [=] { std::memset(reinterpret_cast<void*>(to), value, count); });
}
CUresult cuMemsetD2D8Async(CUdeviceptr to, size_t pitch, unsigned char value, size_t width, size_t height,
                           CUstream stream) {
  LAZULI_SIMT_LOCK;
  if (height > 1 && pitch < width) return CUDA_ERROR_INVALID_VALUE;
  if (width && height && !isDevice(to, (height - 1) * pitch + width)) return CUDA_ERROR_INVALID_VALUE;
  return enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row)
      std::memset(reinterpret_cast<char*>(to) + row * pitch, value, width);
  });
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
  LAZULI_SIMT_LOCK;
  if (to % 4 || (count && !isDevice(to, count * 4))) return CUDA_ERROR_INVALID_VALUE;
  return enqueue(stream, [=] { std::fill_n(reinterpret_cast<unsigned*>(to), count, value); });
}

}  // extern "C"
