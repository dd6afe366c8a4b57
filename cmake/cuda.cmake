# The CUDA device: the host's part in C++, and device/*.cu compiled by nvcc into fatbins that lie in the addon. The
# driver, NVRTC, cuBLASLt and NCCL are opened at run time (cuda/library.h): only their headers are needed here.

set(LAZULI_HAVE_CUDA OFF CACHE INTERNAL "whether the CUDA device is built")
if(LAZULI_CUDA STREQUAL "OFF")
  return()
endif()

find_program(LAZULI_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
if(LAZULI_NVCC)
  # nvcc may be a script that calls the one of the toolkit: it tells where that lies.
  execute_process(COMMAND ${LAZULI_NVCC} --dryrun -c x.cu ERROR_VARIABLE dryrun OUTPUT_QUIET)
  string(REGEX MATCH "#\\$ TOP=([^\n]*)" ignored "${dryrun}")
  get_filename_component(toolkit "${CMAKE_MATCH_1}" ABSOLUTE)
endif()
set(header_places ${LAZULI_CUDA_HEADERS}/include ${toolkit}/include $ENV{CUDA_HOME}/include)
foreach(header cuda cublasLt nvrtc nccl)
  find_path(LAZULI_${header}_H ${header}.h HINTS ${header_places})
  if(NOT LAZULI_${header}_H)
    list(APPEND missing ${header}.h)
  endif()
endforeach()
if(NOT LAZULI_NVCC)
  list(PREPEND missing nvcc)
endif()
if(missing)
  list(JOIN missing ", " missing)
  if(LAZULI_CUDA STREQUAL "ON")
    message(FATAL_ERROR "CUDA: ${missing} not found (scripts/gpu/headers.sh gathers the headers)")
  endif()
  message(STATUS "no CUDA device: ${missing} not found (scripts/gpu/headers.sh gathers the headers)")
  return()
endif()

set(LAZULI_HAVE_CUDA ON CACHE INTERNAL "whether the CUDA device is built")
set(cuda_include_dirs ${LAZULI_cuda_H} ${LAZULI_cublasLt_H} ${LAZULI_nvrtc_H} ${LAZULI_nccl_H})
list(REMOVE_DUPLICATES cuda_include_dirs)
file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS ${native}/cuda/*.cpp)
file(GLOB device_sources CONFIGURE_DEPENDS ${native}/cuda/device/*.cu)
file(GLOB_RECURSE device_headers CONFIGURE_DEPENDS ${native}/cuda/device/*.h ${native}/cuda/device/*.cuh
     ${native}/kernels/scalar*.h)
list(REMOVE_ITEM device_headers ${native}/cuda/device/fused.h ${native}/cuda/device/fused_reduce.h)  # of what is compiled at run time alone

# 90a has wgmma and TMA, and runs on Hopper alone; the PTX is for every other GPU from 8.0 on.
set(nvcc_flags -std=c++20 -O3 --expt-relaxed-constexpr -diag-suppress=20012 -I${native}
    -gencode=arch=compute_90a,code=sm_90a)
set(nvcc_others -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_80,code=compute_80)
set(fatbins "")
set(image_assembly "")
set(image_table "")
foreach(source IN LISTS device_sources)
  get_filename_component(name ${source} NAME_WE)
  set(fatbin ${CMAKE_BINARY_DIR}/cuda/${name}.fatbin)
  set(archs ${nvcc_others})
  if(name MATCHES "_sm90$")
    set(archs "")
  endif()
  add_custom_command(
    OUTPUT ${fatbin}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/cuda
    COMMAND ${LAZULI_NVCC} ${nvcc_flags} ${archs} -fatbin -o ${fatbin} ${source}
    DEPENDS ${source} ${device_headers}
    COMMENT "nvcc ${name}.cu"
    VERBATIM)
  list(APPEND fatbins ${fatbin})
  string(APPEND image_assembly
         "asm(\".section .rodata\\n.balign 16\\nlazuli_fatbin_${name}:\\n.incbin \\\"${fatbin}\\\"\\n"
         "lazuli_fatbin_${name}_end:\\n.previous\");\n"
         "extern \"C\" __attribute__((visibility(\"hidden\"))) const std::byte lazuli_fatbin_${name}[], "
         "lazuli_fatbin_${name}_end[];\n")
  string(APPEND image_table
         "  if (std::strcmp(source, \"${name}\") == 0) return {lazuli_fatbin_${name}, lazuli_fatbin_${name}_end};\n")
endforeach()
# Headers of sources that NVRTC compiles at run time, by the names that they include them by.
set(runtime_headers cuda/device/fused.h cuda/device/fused_reduce.h cuda/device/simt.h cuda/device/fault.h kernels/scalar_math.h kernels/scalar_half.h
    kernels/scalar.h kernels/scalar_random.h)
set(header_files "")
set(header_table "")
foreach(header IN LISTS runtime_headers)
  string(REPLACE "cuda/device/" "" name ${header})
  string(MAKE_C_IDENTIFIER ${name} symbol)
  list(APPEND header_files ${native}/${header})
  string(APPEND image_assembly
         "asm(\".section .rodata\\nlazuli_header_${symbol}:\\n.incbin \\\"${native}/${header}\\\"\\n"
         "lazuli_header_${symbol}_end:\\n.byte 0\\n.previous\");\n"
         "extern \"C\" __attribute__((visibility(\"hidden\"))) const char lazuli_header_${symbol}[], "
         "lazuli_header_${symbol}_end[];\n")
  string(APPEND header_table
         "      {\"${name}\", {lazuli_header_${symbol}, static_cast<size_t>(lazuli_header_${symbol}_end - lazuli_header_${symbol})}},\n")
endforeach()
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/cuda/builtin.cpp CONTENT
"#include \"cuda/builtin.h\"

#include <cstring>

${image_assembly}
namespace lazuli::cuda {

std::span<const std::byte> builtinImage(const char* source) {
${image_table}  return {};
}

std::span<const DeviceHeader> deviceHeaders() {
  static const DeviceHeader headers[] = {
${header_table}  };
  return headers;
}

}  // namespace lazuli::cuda
" @ONLY)
list(APPEND cuda_sources ${CMAKE_BINARY_DIR}/cuda/builtin.cpp)
set_source_files_properties(${CMAKE_BINARY_DIR}/cuda/builtin.cpp PROPERTIES OBJECT_DEPENDS "${fatbins};${header_files}")

# The emulator (native/test/simt): the device sources compiled for the host, behind the driver's and NVRTC's functions.
# LAZULI_CUDA_PATH=<build>/liblazuli_simt.so makes CUDA run on it.
file(GLOB simt_sources CONFIGURE_DEPENDS ${native}/test/simt/*.cpp)
set(simt_flags -std=c++20 -xc++ -DLAZULI_SIMT -fPIC -ffp-contract=off -fno-math-errno -fno-trapping-math
               -Wno-unknown-pragmas -fvisibility=hidden -fstack-clash-protection)
include(CheckCXXSourceRuns)
check_cxx_source_runs("int main() { return !__builtin_cpu_supports(\"fma\"); }" LAZULI_SIMT_FMA)
if(LAZULI_SIMT_FMA)
  list(APPEND simt_flags -mfma)  # for __fmaf_rn
endif()
if(NOT LAZULI_SANITIZE)
  list(APPEND simt_flags -fsanitize=alignment,bounds)  # their errors go to engine.cpp
endif()
add_library(lazuli_simt SHARED EXCLUDE_FROM_ALL ${simt_sources} ${device_sources})
foreach(source IN LISTS device_sources)
  get_filename_component(name ${source} NAME_WE)
  # A namespace for each source: nvcc keeps them apart, so functions of one name may differ.
  set_source_files_properties(
    ${source} TARGET_DIRECTORY lazuli_simt PROPERTIES LANGUAGE CXX
    COMPILE_OPTIONS "${simt_flags};-O2;-Wno-unused-function;-Dcuda=cuda_${name}" OBJECT_DEPENDS "${device_headers}")
endforeach()
list(JOIN simt_flags " " simt_flags_text)
set_source_files_properties(
  ${native}/test/simt/nvrtc.cpp TARGET_DIRECTORY lazuli_simt PROPERTIES COMPILE_DEFINITIONS
  "LAZULI_SIMT_CXX=\"${CMAKE_CXX_COMPILER}\";LAZULI_SIMT_FLAGS=\"${simt_flags_text}\";LAZULI_SIMT_NATIVE=\"${native}\"")
target_include_directories(lazuli_simt PRIVATE ${native})
target_include_directories(lazuli_simt SYSTEM PRIVATE ${cuda_include_dirs})
target_compile_options(lazuli_simt PRIVATE -Wall -Wextra)
target_link_libraries(lazuli_simt PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
target_link_options(lazuli_simt PRIVATE -Wl,-Bsymbolic)
set_target_properties(lazuli_simt PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
                                             CXX_VISIBILITY_PRESET default)
if(LAZULI_SANITIZE)
  target_compile_definitions(lazuli_simt PRIVATE LAZULI_SANITIZE)
  target_compile_options(lazuli_simt PRIVATE -fsanitize=address,undefined -fno-sanitize-recover=all)
  target_link_options(lazuli_simt PRIVATE -fsanitize=address,undefined)
endif()
