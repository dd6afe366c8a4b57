#include "cuda/attention_sm90.h"

#include <cstdio>
#include <map>
#include <mutex>
#include <utility>

#include "cuda/driver.h"

namespace lazuli::cuda {
namespace {

constexpr uint32_t kRows = 128, kThreads = 384;  // of a block, but dk and dv's rows are keys

/// Boxes of kAttentionBox rows of a [batch, heads, rows, depth] operand. Whether the driver takes it.
bool encodeMap(TensorMap& map, const AttentionTensor& tensor, DType dtype, int batch, int heads, int rows,
               int depth) {
  const auto size = [](int n) { return static_cast<cuuint64_t>(n); };
  // The stride of a dim of 1 says nothing, but has to be one.
  const auto bytes = [&](long long stride, int n) {
    return static_cast<cuuint64_t>(n == 1 ? depth : stride) * 2;
  };
  const cuuint64_t sizes[] = {size(depth), size(rows), size(heads), size(batch)};
  const cuuint64_t strides[] = {bytes(tensor.row, rows), bytes(tensor.head, heads),
                                bytes(tensor.batch, batch)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(attentionBoxColumns(depth)), kAttentionBox, 1, 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
  const CUresult encoded = Driver::get().cuTensorMapEncodeTiled(
      reinterpret_cast<CUtensorMap*>(&map),
      dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4,
      const_cast<void*>(tensor.data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      box[0] * 2 == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return encoded == CUDA_SUCCESS;
}

std::string describe(const AttentionVariant& variant) {
  return std::string(variant.gradient ? "the gradient of " : "") + (variant.causal ? "causal " : "") +
         "attention in " + name(variant.dtype) + " with heads of " + std::to_string(variant.depth);
}

/// Whether the variant agrees with sm_80's kernels on this GPU; found out the first time.
bool agrees(const Stream& stream, const AttentionVariant& variant) {
  static std::mutex mutex;
  static std::map<std::pair<int, AttentionVariant>, bool> known;
  std::lock_guard lock(mutex);
  const auto key = std::pair(stream.target().device, variant);
  if (const auto found = known.find(key); found != known.end()) return found->second;
  CUstreamCaptureStatus capturing = CU_STREAM_CAPTURE_STATUS_NONE;
  LAZULI_CUDA(cuStreamIsCapturing, stream.handle(), &capturing);
  if (capturing != CU_STREAM_CAPTURE_STATUS_NONE) return false;
  const std::string wrong = compareAttentionPaths(stream.target(), variant);
  static bool said = false;
  if (!wrong.empty() && !std::exchange(said, true)) {
    std::fprintf(stderr,
                 "[lazuli] %s: sm_90a's kernels do not agree with sm_80's on this GPU (%s), which are used "
                 "instead, here and where others do not agree (LAZULI_CUDA_ATTENTION=sm80 leaves the test "
                 "out). Please report it.\n",
                 describe(variant).c_str(), wrong.c_str());
  }
  return known[key] = wrong.empty();
}

}  // namespace

AttentionSm90::AttentionSm90(const AttentionCall& call, int depth, AttentionPath path, bool gradient)
    : call_(call), depth_(depth), path_(path), gradient_(gradient) {
  if (depth == 0 || path == AttentionPath::sm80 || path == AttentionPath::simple) return;
  const std::string size = std::to_string(depth) + call.suffix();
  if (gradient) {
    kernels_.emplace_back("attention_backward_sm90", "lazuli_attention_sm90_dq_" + size);
    kernels_.emplace_back("attention_backward_sm90", "lazuli_attention_sm90_dkv_" + size);
  } else {
    kernels_.emplace_back("attention_forward_sm90", "lazuli_attention_sm90_" + size);
  }
}

bool AttentionSm90::isTaken(const Stream& stream) const {
  if (kernels_.empty() || !call_.hasKeys() || !call_.hasQueries()) return false;
  if (path_ == AttentionPath::sm90) return true;
  // The code is for 9.0a, which no other GPU runs.
  return stream.target().arch() == 90 &&
         agrees(stream, {call_.shape.dtype, call_.shape.depth, call_.shape.causal, gradient_});
}

bool AttentionSm90::encode(AttentionBulkArgs& args) const {
  const AttentionArgs& call = args.call;
  const auto map = [&](TensorMap& to, const AttentionTensor& tensor, int heads, int rows) {
    return encodeMap(to, tensor, call_.shape.dtype, call.batch, heads, rows, depth_);
  };
  return map(args.q, call.q, call.heads, call.queries) && map(args.k, call.k, call.groups, call.keys) &&
         map(args.v, call.v, call.groups, call.keys) &&
         (!gradient_ || map(args.dout, call.dout, call.heads, call.queries));
}

bool AttentionSm90::forward(const Stream& stream, const AttentionArgs& call) const {
  AttentionBulkArgs args{};
  args.call = call;
  if (!isTaken(stream) || !encode(args)) return false;
  Grid grid{call_.queryTiles(kRows)};
  grid.threads = kThreads;
  grid.sharedBytes = static_cast<uint32_t>(attentionBulkForwardBytes(depth_));
  kernels_[0].launch(stream, grid, args);
  return true;
}

bool AttentionSm90::backward(const Stream& stream, const AttentionArgs& call) const {
  AttentionBulkArgs args{};
  args.call = call;
  if (!isTaken(stream) || !encode(args)) return false;
  Grid grid{call_.queryTiles(kRows)};
  grid.threads = kThreads;
  grid.sharedBytes = static_cast<uint32_t>(attentionBulkBackwardBytes(depth_));
  kernels_[0].launch(stream, grid, args);
  grid.x = call_.keyTiles(kRows);
  kernels_[1].launch(stream, grid, args);
  return true;
}

}  // namespace lazuli::cuda
