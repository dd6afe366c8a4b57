#pragma once

// The emulator of test/simt as tests use it that ask for nothing but it.

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <nvrtc.h>

#include <string>
#include <vector>

#include "cuda/driver.h"

namespace lazuli::test {

// cuda.h gives a function's current version its plain name by a macro, which this sees through.
#define TEXT_OF(name) #name
#define SYMBOL(name) TEXT_OF(name)

struct Emulator : cuda::Driver {
  void* library = dlopen(LAZULI_SIMT_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  decltype(&::cuDevicePrimaryCtxReset) reset = symbol<decltype(reset)>(SYMBOL(cuDevicePrimaryCtxReset));
  decltype(&::nvrtcCreateProgram) createProgram = symbol<decltype(createProgram)>("nvrtcCreateProgram");
  decltype(&::nvrtcCompileProgram) compileProgram = symbol<decltype(compileProgram)>("nvrtcCompileProgram");
  decltype(&::nvrtcGetCUBINSize) cubinSize = symbol<decltype(cubinSize)>("nvrtcGetCUBINSize");
  decltype(&::nvrtcGetCUBIN) cubin = symbol<decltype(cubin)>("nvrtcGetCUBIN");
  decltype(&::nvrtcGetProgramLogSize) logSize = symbol<decltype(logSize)>("nvrtcGetProgramLogSize");
  decltype(&::nvrtcGetProgramLog) log = symbol<decltype(log)>("nvrtcGetProgramLog");
  decltype(&::nvrtcDestroyProgram) destroyProgram = symbol<decltype(destroyProgram)>("nvrtcDestroyProgram");
  const char* (*fault)() = symbol<decltype(fault)>("lazuliSimtFault");
  CUcontext context = nullptr;
  CUstream stream = nullptr;

  template <class Function>
  Function symbol(const char* name) {
    void* found = library ? dlsym(library, name) : nullptr;
    if (!found) ADD_FAILURE() << name << " " << dlerror();
    return reinterpret_cast<Function>(found);
  }

  Emulator() {
#define LOAD(name) this->name = symbol<decltype(this->name)>(SYMBOL(name));
    LAZULI_DRIVER_FUNCTIONS(LOAD)
#undef LOAD
    EXPECT_EQ(cuInit(0), CUDA_SUCCESS);
    EXPECT_EQ(cuDevicePrimaryCtxRetain(&context, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  }
  ~Emulator() {
    cuStreamDestroy(stream);
    reset(0);
    cuDevicePrimaryCtxRelease(0);
  }

  /// A program of one kernel, compiled; the log where it does not compile.
  std::vector<char> compile(const std::string& source, std::string* error = nullptr) {
    const char* headers[] = {"#define THREE 3\n"};
    const char* names[] = {"three.h"};
    const std::string whole = "#include \"cuda/device/simt.h\"\n#include \"three.h\"\n" + source;
    nvrtcProgram program = nullptr;
    EXPECT_EQ(createProgram(&program, whole.c_str(), "test.cu", 1, headers, names), NVRTC_SUCCESS);
    const char* options[] = {"--gpu-architecture=sm_80", "-DFOUR=4"};
    const nvrtcResult result = compileProgram(program, 2, options);
    size_t bytes = 0;
    logSize(program, &bytes);
    std::string text(bytes, '\0');
    log(program, text.data());
    if (error) *error = text;
    if (!error) EXPECT_EQ(result, NVRTC_SUCCESS) << text;
    cubinSize(program, &bytes);
    std::vector<char> image(bytes);
    cubin(program, image.data());
    destroyProgram(&program);
    return image;
  }

  CUkernel kernel(const std::vector<char>& image, const char* name) {
    CUlibrary loaded = nullptr;
    EXPECT_EQ(cuLibraryLoadData(&loaded, image.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
              CUDA_SUCCESS);
    CUkernel found = nullptr;
    EXPECT_EQ(cuLibraryGetKernel(&found, loaded, name), CUDA_SUCCESS);
    return found;
  }

  CUresult launch(CUkernel kernel, unsigned blocks, unsigned threads, const void* args, unsigned shared = 0) {
    void* parameters[] = {const_cast<void*>(args)};
    return cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), blocks, 1, 1, threads, 1, 1, shared, stream,
                          parameters, nullptr);
  }

  template <class T>
  T* allocate(size_t count) {
    CUdeviceptr address = 0;
    EXPECT_EQ(cuMemAlloc(&address, count * sizeof(T)), CUDA_SUCCESS);
    return reinterpret_cast<T*>(address);
  }
  template <class T>
  void free(T* memory) {
    EXPECT_EQ(cuMemFree(reinterpret_cast<CUdeviceptr>(memory)), CUDA_SUCCESS);
  }
  template <class T>
  std::vector<T> read(const T* from, size_t count) {
    std::vector<T> values(count);
    EXPECT_EQ(
        cuMemcpyDtoHAsync(values.data(), reinterpret_cast<CUdeviceptr>(from), count * sizeof(T), stream),
        CUDA_SUCCESS);
    EXPECT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
    return values;
  }

  /// Runs a kernel of one int pointer over `threads` threads: what it wrote, one value a thread.
  std::vector<int> run(const std::string& body, unsigned threads, unsigned shared = 0) {
    const CUkernel compiled = kernel(
        compile("struct Args { int* out; };\nLAZULI_KERNEL(lazuli_test, Args, 1024) {\n" + body + "\n}\n"),
        "lazuli_test");
    int* out = allocate<int>(threads);
    EXPECT_EQ(launch(compiled, 1, threads, &out, shared), CUDA_SUCCESS);
    std::vector<int> values(threads);
    if (cuStreamSynchronize(stream) == CUDA_SUCCESS) values = read(out, threads);
    cuMemFree(reinterpret_cast<CUdeviceptr>(out));
    return values;
  }
};

#undef SYMBOL
#undef TEXT_OF

}  // namespace lazuli::test
