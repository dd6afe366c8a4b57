// The self-test of attention's kernels for sm_90a: sm_80's and they compute the same small problem.

#include <algorithm>
#include <cmath>

#include "cuda/attention_sm90.h"
#include "cuda/driver.h"
#include "cuda/handles.h"
#include "kernels/convert.h"

namespace lazuli::cuda {
namespace {

// Tails, several tiles of each, and a group of heads.
constexpr int64_t kHeads = 2, kGroups = 1, kQueries = 200, kKeys = 328;

class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes) { LAZULI_CUDA(cuMemAlloc, &address_, bytes); }
  Buffer(Buffer&& other) noexcept : address_(std::exchange(other.address_, 0)), bytes_(other.bytes_) {}
  ~Buffer() {
    if (address_) Driver::get().cuMemFree(address_);
  }

  std::byte* data() const { return reinterpret_cast<std::byte*>(address_); }
  CUdeviceptr address() const { return address_; }
  size_t bytes() const { return bytes_; }

 private:
  CUdeviceptr address_ = 0;
  size_t bytes_;
};

/// Even in [-2, 2), the same in every process.
std::vector<std::byte> numbers(const TensorType& type, uint32_t seed) {
  std::vector<float> values(static_cast<size_t>(type.elements()));
  for (float& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(seed >> 8) * 0x1p-22f - 2;
  }
  std::vector<std::byte> data(type.bytes());
  convertTable().fromFloat[static_cast<int>(type.dtype)](values.data(), data.data(), type.elements());
  return data;
}

/// The operands and results of one call, and how results of two paths may differ.
class Comparison {
 public:
  Comparison(const Target& target, const AttentionVariant& variant)
      : stream_(makeStream()), on_(stream_.get(), target, nullptr), variant_(variant) {}

  using Made = MadeKernel (*)(const KernelRequest& request, AttentionPath path);
  using Results = std::vector<std::vector<float>>;

  Buffer upload(const TensorType& type, uint32_t seed) {
    Buffer buffer(type.bytes());
    const std::vector<std::byte> data = numbers(type, seed);
    LAZULI_CUDA(cuMemcpyHtoDAsync, buffer.address(), data.data(), data.size(), stream_.get());
    LAZULI_CUDA(cuStreamSynchronize, stream_.get());
    return buffer;
  }

  std::vector<Buffer> run(Made make, AttentionPath path, Op op, const std::vector<const Buffer*>& operands,
                          const std::vector<TensorType>& types, const std::vector<TensorType>& results) {
    const Node node{op,
                    {},
                    {},
                    {int64_t{variant_.causal}, kKeys - kQueries,
                     1 / std::sqrt(static_cast<double>(variant_.depth)), int64_t{0}}};
    KernelRequest request{node, {}, results};
    for (const TensorType& type : types) request.operands.push_back(Layout::dense(type));
    const MadeKernel made = make(request, path);
    std::vector<Buffer> written;
    std::vector<const std::byte*> reads;
    std::vector<std::byte*> writes;
    for (const Buffer* operand : operands) reads.push_back(operand->data());
    for (const TensorType& type : results) writes.push_back(written.emplace_back(type.bytes()).data());
    const Buffer scratch(made.scratchBytes + 64);
    KernelArgs args{reads.data(), writes.data(), scratch.data()};
    args.stream = &on_;
    made.kernel->run(args);
    LAZULI_CUDA(cuStreamSynchronize, stream_.get());
    return written;
  }

  /// What differs, by more than both paths' roundings of weights and results in the half type: "" for
  /// nothing.
  std::string differing(const std::vector<Buffer>& one, const std::vector<Buffer>& other,
                        const std::vector<TensorType>& types, const std::vector<std::string>& names) {
    for (size_t i = 0; i < types.size(); ++i) {
      const std::vector<float> a = values(one[i], types[i]), b = values(other[i], types[i]);
      float most = 0, apart = 0;
      for (size_t j = 0; j < a.size(); ++j) {
        if (!std::isfinite(a[j])) return names[i] + " is not finite";
        most = std::max(most, std::fabs(b[j]));
        apart = std::max(apart, std::fabs(a[j] - b[j]));
      }
      const float unit = types[i].dtype == DType::f32    ? 0x1p-16f
                         : types[i].dtype == DType::bf16 ? 0x1p-8f
                                                         : 0x1p-11f;
      if (apart > 3 * unit * most)
        return names[i] + " differs by " + std::to_string(apart) + " at " + std::to_string(most);
    }
    return "";
  }

 private:
  std::vector<float> values(const Buffer& buffer, const TensorType& type) {
    std::vector<std::byte> data(buffer.bytes());
    LAZULI_CUDA(cuMemcpyDtoHAsync, data.data(), buffer.address(), data.size(), stream_.get());
    LAZULI_CUDA(cuStreamSynchronize, stream_.get());
    std::vector<float> values(static_cast<size_t>(type.elements()));
    convertTable().toFloat[static_cast<int>(type.dtype)](data.data(), values.data(), type.elements());
    return values;
  }

  StreamHandle stream_;
  Stream on_;
  AttentionVariant variant_;
};

}  // namespace

std::string compareAttentionPaths(const Target& target, const AttentionVariant& variant) {
  Comparison compare(target, variant);
  const TensorType q{variant.dtype, {1, kHeads, kQueries, variant.depth}};
  const TensorType k{variant.dtype, {1, kGroups, kKeys, variant.depth}},
      lse{DType::f32, {1, kHeads, kQueries}};
  const Buffer queries = compare.upload(q, 1), keys = compare.upload(k, 2), values = compare.upload(k, 3);
  const auto forward = [&](AttentionPath path) {
    return compare.run(makeAttention, path, Op::attention, {&queries, &keys, &values}, {q, k, k}, {q, lse});
  };
  const std::vector<Buffer> out = forward(AttentionPath::sm80);
  if (!variant.gradient)
    return compare.differing(forward(AttentionPath::sm90), out, {q, lse}, {"the output", "the log-sum-exp"});
  const Buffer dout = compare.upload(q, 4);
  const auto backward = [&](AttentionPath path) {
    return compare.run(makeAttentionGrad, path, Op::attention_grad,
                       {&queries, &keys, &values, &out[0], &out[1], &dout}, {q, k, k, q, lse, q}, {q, k, k});
  };
  return compare.differing(backward(AttentionPath::sm90), backward(AttentionPath::sm80), {q, k, k},
                           {"dq", "dk", "dv"});
}

}  // namespace lazuli::cuda
