#include "cuda/matmul_lt.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cuda/cublaslt.h"
#include "cuda/handles.h"
#include "cuda/matmul_choice.h"
#include "storage.h"

namespace lazuli::cuda {
namespace {

// NVIDIA's advice for Hopper; what a small product can use for split sums is less.
constexpr size_t kMostWorkspace = size_t{32} << 20, kLeastWorkspace = size_t{64} << 10;

cudaDataType typeOf(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return CUDA_R_64F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    default:
      return CUDA_R_32F;
  }
}

constexpr int kMostTimed = 8;  // of what the heuristics propose
// Of the workspace's address, which the plan aligns to kAlignment alone (cuBLASLt, cublasLtMatmul).
constexpr size_t kWorkspaceAlignment = 256;

/// Off unless asked for, as in PyTorch: TF32 keeps 10 bits of the mantissa.
bool wantsTf32() {
  static const bool wanted = [] {
    const char* value = std::getenv("LAZULI_CUDA_TF32");
    return value && std::strcmp(value, "1") == 0;
  }();
  return wanted;
}

cublasComputeType_t computeOf(DType in) {
  if (in == DType::f64) return CUBLAS_COMPUTE_64F;
  return in == DType::f32 && wantsTf32() ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

cublasLtEpilogue_t epilogueOf(const LtEpilogue& epilogue) {
  switch (epilogue.activation) {
    case Activation::relu:
      return epilogue.bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    case Activation::gelu_tanh:
      return epilogue.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    default:
      return epilogue.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  }
}

/// How a matrix of `rows` x `columns`, column-major, lies in memory.
struct Matrix {
  int64_t rows, columns, leading;
  bool transposed;
};

/// The operand as the column-major matrix [lines x depth] of op(matrix).
Matrix linesByDepth(const MatmulOperand& x, int64_t lines, int64_t depth) {
  if (x.depthStride == 1 || depth == 1)
    return {depth, lines, lines == 1 ? std::max<int64_t>(depth, 1) : std::max(x.lineStride, depth), true};
  return {lines, depth, std::max(x.depthStride, lines), false};
}

/// The largest power of two up to 64 that divides every address.
uint32_t alignmentOf(const std::vector<int64_t>& offsets, int64_t stride, size_t item) {
  int64_t all = 64 | stride * static_cast<int64_t>(item);
  for (int64_t offset : offsets) all |= offset * static_cast<int64_t>(item);
  return static_cast<uint32_t>(all & -all);
}

int64_t batchStride(const MatmulOperand& x) { return x.batchStrides.empty() ? 0 : x.batchStrides.back(); }

template <class T, auto CublasLt::*destroy>
struct Owned {
  T handle = nullptr;
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (handle) (CublasLt::get().*destroy)(handle);
  }
};
using Layout_ = Owned<cublasLtMatrixLayout_t, &CublasLt::cublasLtMatrixLayoutDestroy>;

}  // namespace

struct LtMatmul::Plan {
  Owned<cublasLtMatmulDesc_t, &CublasLt::cublasLtMatmulDescDestroy> desc;
  Layout_ first, second, out;  // in cuBLAS's order: b is its first operand, because out is row-major
  cublasLtMatmulAlgo_t algorithm;

  void describe(Layout_& layout, DType dtype, Matrix matrix, int64_t count, int64_t stride) {
    LAZULI_CUBLASLT(cublasLtMatrixLayoutCreate, &layout.handle, typeOf(dtype),
                    static_cast<uint64_t>(matrix.rows), static_cast<uint64_t>(matrix.columns),
                    matrix.leading);
    if (count == 1) return;
    const auto batch = static_cast<int32_t>(count);
    LAZULI_CUBLASLT(cublasLtMatrixLayoutSetAttribute, layout.handle, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                    &batch, sizeof(batch));
    LAZULI_CUBLASLT(cublasLtMatrixLayoutSetAttribute, layout.handle,
                    CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof(stride));
  }
};

LtMatmul::LtMatmul(const MatmulShape& shape, DType in, DType out, LtEpilogue epilogue)
    : shape_(shape), in_(in), out_(out), epilogue_(epilogue) {
  const auto elements = static_cast<size_t>(shape.batches() * shape.m * shape.n);
  workspaceBytes_ = std::clamp(elements * 32, kLeastWorkspace, kMostWorkspace);
  Dims outer = shape_.batch;
  MatmulOperand a = shape_.a, b = shape_.b;
  if (!outer.empty()) {
    count_ = outer.back();
    outer.pop_back();
    a.batchStrides.pop_back();
    b.batchStrides.pop_back();
  }
  aOffsets_ = batchOffsets(outer, a);
  bOffsets_ = batchOffsets(outer, b);
}

LtMatmul::~LtMatmul() = default;

size_t LtMatmul::workspaceBytes() const { return workspaceBytes_ + kWorkspaceAlignment - kAlignment; }

int64_t LtMatmul::itemBytes() const { return static_cast<int64_t>(sizeBytes(in_)); }

const LtMatmul::Plan& LtMatmul::plan(const Call& call) const {
  std::call_once(once_, [&] {
    auto plan = std::make_unique<Plan>();
    const Matrix a = linesByDepth(shape_.a, shape_.m, shape_.k);
    const Matrix b = linesByDepth(shape_.b, shape_.n, shape_.k);
    LAZULI_CUBLASLT(cublasLtMatmulDescCreate, &plan->desc.handle, computeOf(in_),
                    in_ == DType::f64 ? CUDA_R_64F : CUDA_R_32F);
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      LAZULI_CUBLASLT(cublasLtMatmulDescSetAttribute, plan->desc.handle, attribute, &value, sizeof(value));
    };
    // op(first) is [n x k] and op(second) [k x m].
    set(CUBLASLT_MATMUL_DESC_TRANSA, b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, a.transposed ? CUBLAS_OP_N : CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogueOf(epilogue_));
    if (epilogue_.bias) {
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(typeOf(out_)));
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, call.bias);  // the heuristics may look at it
    }
    plan->describe(plan->first, in_, b, count_, batchStride(shape_.b));
    plan->describe(plan->second, in_, a, count_, batchStride(shape_.a));
    plan->describe(plan->out, out_, {shape_.n, shape_.m, shape_.n, false}, count_, shape_.m * shape_.n);
    plan->algorithm = chosenAlgorithm(key(call.stream), [&] { return choose(*plan, call); });
    plan_ = std::move(plan);
  });
  return *plan_;
}

/// All that the choice depends on.
std::vector<int64_t> LtMatmul::key(const Stream& stream) const {
  std::vector<int64_t> key = {stream.target().device, static_cast<int64_t>(in_), static_cast<int64_t>(out_)};
  key.insert(key.end(), {static_cast<int64_t>(epilogue_.activation), epilogue_.bias, epilogue_.addend});
  key.insert(key.end(), {shape_.m, shape_.n, shape_.k, static_cast<int64_t>(shape_.batch.size())});
  key.insert(key.end(), shape_.batch.begin(), shape_.batch.end());
  for (const MatmulOperand* x : {&shape_.a, &shape_.b}) {
    key.insert(key.end(), {x->lineStride, x->depthStride});
    key.insert(key.end(), x->batchStrides.begin(), x->batchStrides.end());
  }
  return key;
}

cublasLtMatmulAlgo_t LtMatmul::choose(const Plan& plan, const Call& call) const {
  const CublasLt& lt = CublasLt::get();
  Owned<cublasLtMatmulPreference_t, &CublasLt::cublasLtMatmulPreferenceDestroy> preference;
  LAZULI_CUBLASLT(cublasLtMatmulPreferenceCreate, &preference.handle);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    LAZULI_CUBLASLT(cublasLtMatmulPreferenceSetAttribute, preference.handle, attribute, &value,
                    sizeof(value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspaceBytes_));
  const uint32_t outAlignment = alignmentOf({shape_.batch.size() > 1 ? count_ * shape_.m * shape_.n : 0},
                                            shape_.m * shape_.n, sizeBytes(out_));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
         alignmentOf(bOffsets_, batchStride(shape_.b), sizeBytes(in_)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
         alignmentOf(aOffsets_, batchStride(shape_.a), sizeBytes(in_)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, outAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, outAlignment);
  cublasLtMatmulHeuristicResult_t found[kMostTimed] = {};
  int count = 0;
  lt.check(lt.cublasLtMatmulAlgoGetHeuristic(
               lt.handle, plan.desc.handle, plan.first.handle, plan.second.handle, plan.out.handle,
               plan.out.handle, preference.handle, choosesByTime() ? kMostTimed : 1, found, &count),
           "cublasLtMatmulAlgoGetHeuristic");
  if (count == 0) throw CudaError("cuBLASLt has no algorithm for this product");
  if (count == 1) return found[0].algo;
  // Into memory of its own: what `out` has may be the addend.
  const size_t bytes = static_cast<size_t>(count_ * shape_.m * shape_.n) * sizeBytes(out_);
  CUdeviceptr memory = 0;
  if (Driver::get().cuMemAlloc(&memory, bytes) != CUDA_SUCCESS) return found[0].algo;
  auto* out = reinterpret_cast<std::byte*>(memory);
  const std::byte* a = call.a + aOffsets_[0] * itemBytes();
  const std::byte* b = call.b + bOffsets_[0] * itemBytes();
  const cublasLtMatmulAlgo_t best = fastest(
      std::span(found, static_cast<size_t>(count)), call.stream, [&](const cublasLtMatmulAlgo_t& algorithm) {
        return multiply(plan, algorithm, plan.desc.handle, call, a, b, call.addend ? out : nullptr, out) ==
               CUBLAS_STATUS_SUCCESS;
      });
  LAZULI_CUDA(cuMemFree, memory);
  return best;
}

/// One call: the innermost batch dim.
cublasStatus_t LtMatmul::multiply(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm,
                                  cublasLtMatmulDesc_t desc, const Call& call, const std::byte* a,
                                  const std::byte* b, const std::byte* addend, std::byte* out) const {
  const CublasLt& lt = CublasLt::get();
  const float one = 1, beta = addend ? 1 : 0;
  const double wideOne = 1, wideBeta = beta;
  const bool wide = in_ == DType::f64;
  return lt.cublasLtMatmul(lt.handle, desc, wide ? static_cast<const void*>(&wideOne) : &one, b,
                           plan.first.handle, a, plan.second.handle,
                           wide ? static_cast<const void*>(&wideBeta) : &beta, addend ? addend : out,
                           plan.out.handle, out, plan.out.handle, &algorithm, call.workspace, workspaceBytes_,
                           call.stream.handle());
}

void LtMatmul::run(const std::byte* a, const std::byte* b, const std::byte* bias, const std::byte* addend,
                   std::byte* out, std::byte* workspace, const Stream& stream) const {
  const size_t past = reinterpret_cast<uintptr_t>(workspace) % kWorkspaceAlignment;
  const Call call{a, b, bias, addend, workspace + (past ? kWorkspaceAlignment - past : 0), stream};
  const Plan& plan = this->plan(call);
  const int64_t outStep = count_ * shape_.m * shape_.n * static_cast<int64_t>(sizeBytes(out_));
  // The bias's address is the descriptor's, which runs on other streams share: each has its own copy.
  Owned<cublasLtMatmulDesc_t, &CublasLt::cublasLtMatmulDescDestroy> own;
  cublasLtMatmulDesc_t desc = plan.desc.handle;
  if (epilogue_.bias) {
    LAZULI_CUBLASLT(cublasLtMatmulDescCreate, &own.handle, computeOf(in_),
                    in_ == DType::f64 ? CUDA_R_64F : CUDA_R_32F);
    std::memcpy(own.handle, plan.desc.handle, sizeof(*own.handle));
    desc = own.handle;
    LAZULI_CUBLASLT(cublasLtMatmulDescSetAttribute, desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                    sizeof(bias));
  }
  for (size_t i = 0; i < aOffsets_.size(); i++) {
    const int64_t at = static_cast<int64_t>(i) * outStep;
    CublasLt::get().check(multiply(plan, plan.algorithm, desc, call, a + aOffsets_[i] * itemBytes(),
                                   b + bOffsets_[i] * itemBytes(), addend ? addend + at : nullptr, out + at),
                          "cublasLtMatmul");
  }
}

}  // namespace lazuli::cuda
