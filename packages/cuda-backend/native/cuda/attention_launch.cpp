#include "cuda/attention_launch.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "cuda/driver.h"
#include "cuda/row_launch.h"

namespace lazuli::cuda {
namespace {

/// Far beyond every position, and far from the ends of 64 bits.
int64_t withinReach(int64_t x) { return std::clamp<int64_t>(x, -(int64_t{1} << 60), int64_t{1} << 60); }

int fits(int64_t size) {
  if (size > std::numeric_limits<int>::max() / 2)
    throw ProgramError("[attention] a dim of " + std::to_string(size) +
                       " is longer than CUDA's kernels take");
  return static_cast<int>(size);
}

AttentionBiasArg biasOf(const std::vector<Layout>& operands, int index) {
  if (index < 0) return {};
  const Layout& layout = operands[static_cast<size_t>(index)];
  const auto stride = [&](size_t dim) { return layout.shape[dim] == 1 ? 0 : layout.strides[dim]; };
  const auto kind = [&] {
    switch (layout.dtype) {
      case DType::f32:
        return AttentionBiasArg::f32;
      case DType::f64:
        return AttentionBiasArg::f64;
      case DType::bf16:
        return AttentionBiasArg::bf16;
      case DType::f16:
        return AttentionBiasArg::f16;
      default:
        return AttentionBiasArg::boolean;
    }
  }();
  // The offset, in bytes, stands where the address will be.
  const int64_t offset = layout.offset * static_cast<int64_t>(sizeBytes(layout.dtype));
  return {reinterpret_cast<const void*>(offset), stride(0), stride(1), stride(2), stride(3), kind};
}

}  // namespace

AttentionPath chosenAttentionPath() {
  static const AttentionPath chosen = [] {
    const char* value = std::getenv("LAZULI_CUDA_ATTENTION");
    const std::string name = value ? value : "auto";
    if (name == "auto") return AttentionPath::automatic;
    if (name == "sm90") return AttentionPath::sm90;
    if (name == "sm80") return AttentionPath::sm80;
    if (name == "simple") return AttentionPath::simple;
    throw CudaError("LAZULI_CUDA_ATTENTION is " + name + ": auto, sm90, sm80 or simple are known");
  }();
  return chosen;
}

// Before the address is known its place holds the offset.
AttentionTensor attentionTensor(const KernelRequest& request, size_t operand) {
  const AttentionOperand lies(request.operands[operand]);
  return {reinterpret_cast<const void*>(lies.offset), lies.batchStride, lies.headStride, lies.rowStride};
}

AttentionResult attentionResult(const KernelRequest& request, size_t result) {
  const AttentionOperand lies(request.target(result));
  return {reinterpret_cast<void*>(lies.offset), lies.batchStride, lies.headStride, lies.rowStride};
}

AttentionTensor atAddress(const AttentionTensor& tensor, const std::byte* base, DType dtype) {
  AttentionTensor placed = tensor;
  placed.data = lazuli::at(base, dtype, reinterpret_cast<int64_t>(tensor.data));
  return placed;
}

AttentionResult atAddress(const AttentionResult& result, std::byte* base, DType dtype) {
  AttentionResult placed = result;
  placed.data = lazuli::at(base, dtype, reinterpret_cast<int64_t>(result.data));
  return placed;
}

uint32_t simpleColumnBlocks(int64_t width) {
  return static_cast<uint32_t>((width + kSimpleColumns - 1) / kSimpleColumns);
}

AttentionCall::AttentionCall(const KernelRequest& request, size_t fixed)
    : shape(attentionShape(request)),
      extras(attentionExtras(request.operands, fixed)),
      wide(shape.dtype == DType::f64) {
  args.q = attentionTensor(request, 0);
  args.k = attentionTensor(request, 1);
  args.v = attentionTensor(request, 2);
  args.bias = biasOf(request.operands, extras.bias);
  args.batch = fits(shape.batch);
  args.heads = fits(shape.heads);
  args.groups = fits(shape.groups);
  args.queries = fits(shape.queries);
  args.keys = fits(shape.keys);
  args.depth = fits(shape.depth);
  args.valueDepth = fits(shape.valueDepth);
  args.causal = shape.causal;
  args.offset = withinReach(shape.offset);
  args.window = withinReach(shape.window);
  args.scale = shape.scale;
}

std::string AttentionCall::suffix() const { return std::string("_") + cuda::suffix(shape.dtype); }

size_t AttentionCall::deltaBytes() const {
  return alignedBytes(static_cast<size_t>(std::max<int64_t>(1, shape.batch * shape.heads * shape.queries)) *
                      (wide ? 8 : 4));
}

uint32_t AttentionCall::tiles(int64_t rows, int64_t perTile, int64_t heads) const {
  const int64_t count = (rows + perTile - 1) / perTile * heads * shape.batch;
  if (count > std::numeric_limits<int>::max())
    throw ProgramError("[attention] more blocks than a launch may have: " + std::to_string(count));
  return static_cast<uint32_t>(count);
}

int AttentionCall::tensorCoreDepth(std::initializer_list<AttentionTensor> others,
                                   std::initializer_list<AttentionResult> results) const {
  const int64_t depth = shape.depth;
  const bool half = shape.dtype == DType::bf16 || shape.dtype == DType::f16;
  if (!half || depth != shape.valueDepth || (depth != 64 && depth != 96 && depth != 128)) return 0;
  // The highest score is found before it is scaled.
  if (extras.bias >= 0 || !(shape.scale > 0) || shape.scale > 1e10) return 0;
  std::vector<AttentionTensor> tensors(others);
  tensors.insert(tensors.end(), {args.q, args.k, args.v});
  for (const auto& [data, batch, head, row] : results) tensors.push_back({data, batch, head, row});
  for (const AttentionTensor& tensor : tensors) {  // rows are read and written 16 bytes at a time
    const int64_t places = reinterpret_cast<int64_t>(tensor.data) | tensor.batch | tensor.head | tensor.row;
    if (places % 8 != 0) return 0;
  }
  return static_cast<int>(depth);
}

namespace {
int64_t rangesOf(int64_t rows) { return (rows + kAttentionRange - 1) / kAttentionRange; }
}  // namespace

size_t AttentionCall::rangeBytes() const {
  if (extras.segments < 0) return 0;
  return alignedBytes(static_cast<size_t>(shape.batch * (rangesOf(shape.queries) + rangesOf(shape.keys))) *
                      8);
}

void AttentionCall::findRanges(const Stream& stream, AttentionArgs& placed, std::byte* scratch) const {
  if (extras.segments < 0) return;
  placed.queryRanges = reinterpret_cast<int*>(scratch);
  placed.keyRanges = placed.queryRanges + shape.batch * rangesOf(shape.queries) * 2;
  const int64_t most = shape.batch * std::max(rangesOf(shape.queries), rangesOf(shape.keys));
  Grid grid{static_cast<uint32_t>((most + 3) / 4), 2};
  grid.threads = 128;
  if (most > 0) ranges_.launch(stream, grid, placed);
}

AttentionArgs AttentionCall::at(const KernelArgs& run) const {
  AttentionArgs placed = args;
  placed.q = atAddress(args.q, run.reads[0], shape.dtype);
  placed.k = atAddress(args.k, run.reads[1], shape.dtype);
  placed.v = atAddress(args.v, run.reads[2], shape.dtype);
  if (extras.segments >= 0) {
    placed.querySegments = reinterpret_cast<const int*>(run.reads[extras.segments]);
    placed.keySegments = reinterpret_cast<const int*>(run.reads[extras.segments + 1]);
  }
  if (extras.bias >= 0) placed.bias.data = run.reads[extras.bias] + reinterpret_cast<int64_t>(args.bias.data);
  if (extras.shift >= 0) placed.shift = reinterpret_cast<const int*>(run.reads[extras.shift]);
  return placed;
}

}  // namespace lazuli::cuda
