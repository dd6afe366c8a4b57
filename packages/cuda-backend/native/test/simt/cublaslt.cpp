// libcublasLt over the emulator: float products with the epilogues that CUDA's matmul asks for, and the
// library's own checks of layouts. Descriptors are laid out here as this file likes; they fit into
// cuBLASLt's.

#include <cublasLt.h>
#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "driver_state.h"

namespace {

#include "kernels/scalar_half.h"

struct Desc {
  int32_t compute, scale, transposeA, transposeB, epilogue, biasType;
  const void* bias;
};
struct Matrix {
  int32_t type, batches;
  uint64_t rows, columns;
  int64_t leading, stride;
};
static_assert(sizeof(Desc) <= sizeof(cublasLtMatmulDescOpaque_t));
static_assert(sizeof(Matrix) <= sizeof(cublasLtMatrixLayoutOpaque_t));

Desc& of(cublasLtMatmulDesc_t desc) { return *reinterpret_cast<Desc*>(desc); }
Matrix& of(cublasLtMatrixLayout_t layout) { return *reinterpret_cast<Matrix*>(layout); }

size_t sizeOf(int32_t type) { return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2; }

double read(const void* base, int32_t type, int64_t at) {
  switch (type) {
    case CUDA_R_64F:
      return static_cast<const double*>(base)[at];
    case CUDA_R_32F:
      return static_cast<const float*>(base)[at];
    case CUDA_R_16BF:
      return load(static_cast<const BFloat16*>(base)[at]);
    default:
      return load(static_cast<const Float16*>(base)[at]);
  }
}

void write(void* base, int32_t type, int64_t at, double value) {
  switch (type) {
    case CUDA_R_64F:
      static_cast<double*>(base)[at] = value;
      break;
    case CUDA_R_32F:
      static_cast<float*>(base)[at] = static_cast<float>(value);
      break;
    case CUDA_R_16BF:
      store(static_cast<BFloat16*>(base) + at, static_cast<float>(value));
      break;
    default:
      store(static_cast<Float16*>(base) + at, static_cast<float>(value));
  }
}

bool isKnown(int32_t type) {
  return type == CUDA_R_64F || type == CUDA_R_32F || type == CUDA_R_16BF || type == CUDA_R_16F;
}

double activate(double x, int32_t epilogue) {
  switch (epilogue) {
    case CUBLASLT_EPILOGUE_RELU:
    case CUBLASLT_EPILOGUE_RELU_BIAS:
      return x < 0 ? 0 : x;
    case CUBLASLT_EPILOGUE_GELU:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
      return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    default:
      return x;
  }
}

bool hasBias(int32_t epilogue) {
  return epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_RELU_BIAS ||
         epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
}

struct Problem {
  Desc desc;
  Matrix a, b, c, d;
  int64_t m, n, k;
};

bool isMatrix(const Matrix& x) {
  return isKnown(x.type) && x.rows > 0 && x.columns > 0 && x.leading >= static_cast<int64_t>(x.rows) &&
         x.batches > 0;
}

cublasStatus_t pose(Problem& p) {
  const bool ta = p.desc.transposeA == CUBLAS_OP_T, tb = p.desc.transposeB == CUBLAS_OP_T;
  p.m = static_cast<int64_t>(ta ? p.a.columns : p.a.rows);
  p.k = static_cast<int64_t>(ta ? p.a.rows : p.a.columns);
  p.n = static_cast<int64_t>(tb ? p.b.rows : p.b.columns);
  const auto depth = static_cast<int64_t>(tb ? p.b.columns : p.b.rows);
  const bool fits = isMatrix(p.a) && isMatrix(p.b) && isMatrix(p.c) && isMatrix(p.d) && depth == p.k &&
                    static_cast<int64_t>(p.d.rows) == p.m && static_cast<int64_t>(p.d.columns) == p.n &&
                    p.c.rows == p.d.rows && p.c.columns == p.d.columns && p.c.type == p.d.type &&
                    p.a.batches == p.d.batches && p.b.batches == p.d.batches && p.c.batches == p.d.batches;
  if (!fits) return CUBLAS_STATUS_INVALID_VALUE;
  const bool wide = p.a.type == CUDA_R_64F;
  const bool typed = p.a.type == p.b.type && (p.d.type == p.a.type || (!wide && p.d.type == CUDA_R_32F)) &&
                     (wide ? p.desc.compute == CUBLAS_COMPUTE_64F && p.desc.scale == CUDA_R_64F
                           : p.desc.scale == CUDA_R_32F);
  return typed ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

template <class T>
void multiply(const Problem& p, T alpha, T beta, const void* a, const void* b, const void* c, void* d) {
  const bool ta = p.desc.transposeA == CUBLAS_OP_T, tb = p.desc.transposeB == CUBLAS_OP_T;
  for (int64_t batch = 0; batch < p.d.batches; batch++) {
    for (int64_t j = 0; j < p.n; j++) {
      for (int64_t i = 0; i < p.m; i++) {
        double sum = 0;
        for (int64_t l = 0; l < p.k; l++) {
          sum += read(a, p.a.type, batch * p.a.stride + (ta ? i * p.a.leading + l : l * p.a.leading + i)) *
                 read(b, p.b.type, batch * p.b.stride + (tb ? l * p.b.leading + j : j * p.b.leading + l));
        }
        double value = static_cast<double>(alpha) * sum;
        if (beta != 0)
          value += static_cast<double>(beta) * read(c, p.c.type, batch * p.c.stride + j * p.c.leading + i);
        if (hasBias(p.desc.epilogue)) value += read(p.desc.bias, p.desc.biasType, i);
        write(d, p.d.type, batch * p.d.stride + j * p.d.leading + i, activate(value, p.desc.epilogue));
      }
    }
  }
}

// What the heuristics propose: all do the same, but the first is slow where a test asks for that, and one is
// not able to.
constexpr int kAlgorithms = 3, kUnable = 1;
constexpr uint64_t kKnown = 0x1a2b3c00;
std::atomic<int> heuristicsAsked{0}, lastAlgorithm{-1};

/// LAZULI_SIMT_SLOW=N: algorithm N takes milliseconds more.
void dawdle(int algorithm) {
  const char* slow = std::getenv("LAZULI_SIMT_SLOW");
  if (slow && std::atoi(slow) == algorithm) std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

constexpr uint32_t kWorkspaceAlignment = 256;

/// What the caller says of the addresses; 256 where it says nothing.
struct Preference {
  uint64_t workspace;
  uint32_t alignments[4];  // of a, b, c and d
};

bool isAligned(const void* at, uint64_t bytes) { return reinterpret_cast<uintptr_t>(at) % bytes == 0; }

}  // namespace

extern "C" {

/// For tests: how often the heuristics were asked, and which algorithm ran last.
int lazuliSimtHeuristics() { return heuristicsAsked; }
int lazuliSimtAlgorithm() { return lastAlgorithm; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new int(0));
  return CUBLAS_STATUS_SUCCESS;
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "success";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "the functionality requested is not supported";
    default:
      return "the function failed";
  }
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  *desc = new cublasLtMatmulDescOpaque_t{};
  of(*desc) = {compute, scale, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, CUDA_R_32F, nullptr};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  const auto set = [&](auto& member) {
    if (bytes != sizeof(member)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&member, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
  };
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set(of(desc).transposeA);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set(of(desc).transposeB);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return set(of(desc).epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return set(of(desc).biasType);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return set(of(desc).bias);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
  *layout = new cublasLtMatrixLayoutOpaque_t{};
  of(*layout) = {type, 1, rows, columns, leading, 0};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t bytes) {
  const auto set = [&](auto& member) {
    if (bytes != sizeof(member)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&member, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
  };
  if (attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) return set(of(layout).batches);
  if (attribute == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET) return set(of(layout).stride);
  return CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t{};
  for (uint32_t& each : reinterpret_cast<Preference*>(*preference)->alignments) each = 256;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
    if (bytes != sizeof(uint64_t)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&reinterpret_cast<Preference*>(preference)->workspace, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
  }
  const int operand = attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
  uint32_t alignment = 0;
  if (operand < 0 || operand > 3 || bytes != sizeof(alignment)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&alignment, value, bytes);
  if (alignment == 0 || (alignment & (alignment - 1)) != 0) return CUBLAS_STATUS_INVALID_VALUE;
  reinterpret_cast<Preference*>(preference)->alignments[operand] = alignment;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t results[], int* found) {
  *found = 0;
  Problem problem{of(desc), of(a), of(b), of(c), of(d), 0, 0, 0};
  const cublasStatus_t status = pose(problem);
  if (status != CUBLAS_STATUS_SUCCESS || most < 1) return status;
  heuristicsAsked++;
  for (; *found < std::min(most, kAlgorithms); (*found)++) {
    results[*found] = {};
    results[*found].state = CUBLAS_STATUS_SUCCESS;
    results[*found].algo.data[0] = kKnown + static_cast<uint64_t>(*found);
    const Preference& preferred = *reinterpret_cast<Preference*>(preference);
    for (int i = 0; i < 4; i++) results[*found].algo.data[i + 1] = preferred.alignments[i];
  }
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t aLayout, const void* b, cublasLtMatrixLayout_t bLayout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t cLayout, void* d,
                              cublasLtMatrixLayout_t dLayout, const cublasLtMatmulAlgo_t* algorithm,
                              void* workspace, size_t, cudaStream_t stream) {
  Problem problem{of(desc), of(aLayout), of(bLayout), of(cLayout), of(dLayout), 0, 0, 0};
  const cublasStatus_t status = pose(problem);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  // Not one of those that were proposed: left uninitialised, or made for another library.
  if (algorithm->data[0] < kKnown || algorithm->data[0] >= kKnown + kAlgorithms)
    return CUBLAS_STATUS_INVALID_VALUE;
  const auto number = static_cast<int>(algorithm->data[0] - kKnown);
  if (number == kUnable) return CUBLAS_STATUS_NOT_SUPPORTED;
  const void* operands[] = {a, b, c, d};
  for (int i = 0; i < 4; i++)
    if (!isAligned(operands[i], algorithm->data[i + 1])) return CUBLAS_STATUS_INVALID_VALUE;
  if (!isAligned(workspace, kWorkspaceAlignment)) return CUBLAS_STATUS_INVALID_VALUE;
  lastAlgorithm = number;
  LAZULI_SIMT_LOCK;
  CUresult result;
  if (problem.a.type == CUDA_R_64F) {
    result = lazuli::simt::enqueue(
        stream, [=, x = *static_cast<const double*>(alpha), y = *static_cast<const double*>(beta)] {
          dawdle(number);
          multiply(problem, x, y, a, b, c, d);
        });
  } else {
    result = lazuli::simt::enqueue(
        stream, [=, x = *static_cast<const float*>(alpha), y = *static_cast<const float*>(beta)] {
          dawdle(number);
          multiply(problem, x, y, a, b, c, d);
        });
  }
  return result == CUDA_SUCCESS ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
}
