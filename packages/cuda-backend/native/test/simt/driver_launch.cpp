// libcuda over the emulator: libraries, kernels and their launches.

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "driver_state.h"
#include "image.h"
#include "tensor_map.h"

using namespace lazuli::simt;

struct CUkern_st {
  Kernel kernel;
  size_t sharedBytes = 48 * 1024;
};
struct CUlib_st {
  void* object = nullptr;
  Kernels kernels;
  std::map<std::string, CUkern_st> found;
};

namespace {

/// A shared object that needs this library's functions.
void* openObject(const char* path) {
  Dl_info self;
  // Opened for one caller alone by cuda/library.h; the object's references must find it.
  if (dladdr(reinterpret_cast<void*>(&openObject), &self))
    dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
  void* object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!object) std::fprintf(stderr, "simt: %s\n", dlerror());
  return object;
}

void* openImage(const void* image) {
  ImageHead head;
  std::memcpy(&head, image, sizeof head);
  std::string path = std::filesystem::temp_directory_path() / "lazuli-simt-XXXXXX";
  const int file = mkstemp(path.data());
  if (file < 0) return nullptr;
  const char* bytes = static_cast<const char*>(image) + sizeof head;
  uint64_t done = 0;
  for (ssize_t wrote = 1; done < head.bytes && wrote > 0;
       done += static_cast<uint64_t>(std::max<ssize_t>(wrote, 0)))
    wrote = write(file, bytes + done, head.bytes - done);
  close(file);
  void* object = done == head.bytes ? openObject(path.c_str()) : nullptr;
  unlink(path.c_str());
  return object;
}

CUresult launchNow(const Kernel& kernel, const Grid& grid, const void* args) {
  State& s = state();
  if (s.sticky != CUDA_SUCCESS) return s.sticky;
  static const char* const faulty = std::getenv("LAZULI_SIMT_FAULT");  // part of a kernel's name
  const bool faults = faulty && std::string(kernel.name).find(faulty) != std::string::npos;
  const std::string error =
      faults ? std::string(kernel.name) + ": as LAZULI_SIMT_FAULT asks for" : launch(kernel, grid, args);
  if (error.empty()) return CUDA_SUCCESS;
  s.fault = error;
  s.sticky = CUDA_ERROR_LAUNCH_FAILED;
  std::fprintf(stderr, "simt: %s\n", error.c_str());
  return CUDA_SUCCESS;  // as on a GPU, the next call tells
}

}  // namespace

extern "C" {

CUresult cuLibraryLoadData(CUlibrary* library, const void* image, CUjit_option*, void**, unsigned,
                           CUlibraryOption*, void**, unsigned) {
  LAZULI_SIMT_LOCK;
  if (!state().started) return CUDA_ERROR_NOT_INITIALIZED;
  if (!image) return CUDA_ERROR_INVALID_IMAGE;
  auto loaded = std::make_unique<CUlib_st>();
  if (std::memcmp(image, kImageMagic, sizeof kImageMagic) == 0) {
    registering = &loaded->kernels;
    loaded->object = openImage(image);
    registering = nullptr;
    if (!loaded->object) return CUDA_ERROR_INVALID_IMAGE;
  } else {
    loaded->kernels = builtinKernels();
  }
  *library = loaded.release();
  return CUDA_SUCCESS;
}
CUresult cuLibraryUnload(CUlibrary library) {
  LAZULI_SIMT_LOCK;
  if (library->object) dlclose(library->object);
  delete library;
  return CUDA_SUCCESS;
}
CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  LAZULI_SIMT_LOCK;
  const auto known = library->kernels.find(name);
  if (known == library->kernels.end()) return CUDA_ERROR_NOT_FOUND;
  *kernel = &library->found.try_emplace(name, CUkern_st{known->second}).first->second;
  return CUDA_SUCCESS;
}
CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
  if (value < 0 || static_cast<size_t>(value) > sharedLimit()) return CUDA_ERROR_INVALID_VALUE;
  kernel->sharedBytes = static_cast<size_t>(value);
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads,
                        unsigned threadsY, unsigned threadsZ, unsigned sharedBytes, CUstream stream,
                        void** parameters, void**) {
  LAZULI_SIMT_LOCK;
  LAZULI_SIMT_CHECK;
  const CUkern_st& kernel = *reinterpret_cast<CUkern_st*>(function);
  if (x == 0 || y == 0 || z == 0 || threads == 0 || x > 0x7fffffffu || y > 65535 || z > 65535 ||
      threads > 1024 || sharedBytes > kernel.sharedBytes || threadsY != 1 || threadsZ != 1)
    return CUDA_ERROR_INVALID_VALUE;
  if (threads > kernel.kernel.threads) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  // As the parameter would lie in the GPU's constant memory: aligned for every type, at its exact size.
  std::shared_ptr<char> args(
      static_cast<char*>(std::aligned_alloc(64, (kernel.kernel.argsBytes + 63) / 64 * 64)), std::free);
  std::memcpy(args.get(), parameters[0], kernel.kernel.argsBytes);
  const Grid grid{{x, y, z}, threads, sharedBytes};
  const CUresult put =
      enqueue(stream, [kernel = kernel.kernel, grid, args] { launchNow(kernel, grid, args.get()); });
  static const bool isBlocking =
      std::getenv("CUDA_LAUNCH_BLOCKING") != nullptr;  // tells a fault at its launch
  return isBlocking && put == CUDA_SUCCESS ? check() : put;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* elementStrides, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill fill) {
  TensorMap encoded{};
  encoded.address = static_cast<char*>(address);
  encoded.rank = rank;
  // What cuda.h asks for of the types that are emulated.
  if (rank < 1 || rank > 5 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
      fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE || reinterpret_cast<uintptr_t>(address) % 16)
    return CUDA_ERROR_INVALID_VALUE;
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
      encoded.elementBytes = 2;
      break;
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
      encoded.elementBytes = 4;
      break;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  switch (swizzle) {
    case CU_TENSOR_MAP_SWIZZLE_NONE:
      encoded.swizzleBytes = 16;
      break;
    case CU_TENSOR_MAP_SWIZZLE_32B:
      encoded.swizzleBytes = 32;
      break;
    case CU_TENSOR_MAP_SWIZZLE_64B:
      encoded.swizzleBytes = 64;
      break;
    case CU_TENSOR_MAP_SWIZZLE_128B:
      encoded.swizzleBytes = 128;
      break;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  for (uint32_t i = 0; i < rank; ++i) {
    if (sizes[i] == 0 || sizes[i] > uint64_t{1} << 32 || box[i] == 0 || box[i] > 256 ||
        elementStrides[i] != 1)
      return CUDA_ERROR_INVALID_VALUE;
    encoded.sizes[i] = sizes[i];
    encoded.box[i] = static_cast<uint16_t>(box[i]);
    if (i + 1 == rank) break;
    if (strides[i] % 16 || strides[i] >= uint64_t{1} << 40) return CUDA_ERROR_INVALID_VALUE;
    encoded.strides[i + 1] = strides[i];
  }
  const uint64_t inner = uint64_t{box[0]} * encoded.elementBytes;
  if (inner % 16 || (encoded.swizzleBytes > 16 && inner > encoded.swizzleBytes))
    return CUDA_ERROR_INVALID_VALUE;
  static_assert(sizeof encoded <= sizeof *map);
  std::memset(map, 0, sizeof *map);
  std::memcpy(map, &encoded, sizeof encoded);
  return CUDA_SUCCESS;
}

}  // extern "C"
