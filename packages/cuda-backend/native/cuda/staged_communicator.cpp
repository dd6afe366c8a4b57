#include "cuda/staged_communicator.h"

#include "cuda/driver.h"

namespace lazuli::cuda {
namespace {

/// Bytes of a member's memory that an exchange reads: one part that goes to all, or one for each.
size_t sentBytes(const Meeting& meeting, const Exchange& exchange) {
  return exchange.fromStep == 0 ? exchange.bytes : exchange.bytes * meeting.group.size();
}

}  // namespace

Block StagedCommunicator::bring(const std::byte* from, size_t bytes) {
  Block block = memory_.take(bytes);
  LAZULI_CUDA(cuMemcpyDtoHAsync, block.data(), reinterpret_cast<CUdeviceptr>(from), bytes, stream_->handle());
  LAZULI_CUDA(cuStreamSynchronize, stream_->handle());
  return block;
}

void StagedCommunicator::take(std::byte* to, const Block& block, size_t bytes) {
  LAZULI_CUDA(cuMemcpyHtoDAsync, reinterpret_cast<CUdeviceptr>(to), block.data(), bytes, stream_->handle());
  LAZULI_CUDA(cuStreamSynchronize, stream_->handle());
}

void StagedCommunicator::exchange(const Meeting& meeting, const std::byte* from, std::byte* to,
                                  const Exchange& exchange) {
  const size_t taken = exchange.bytes * meeting.group.size();
  const Block source = bring(from, sentBytes(meeting, exchange)), target = memory_.take(taken);
  host_->exchange(meeting, source.data(), target.data(), exchange);
  take(to, target, taken);
}

void StagedCommunicator::reduceScatter(const Meeting& meeting, const std::byte* from, std::byte* to,
                                       const Exchange& exchange, Reduction reduction) {
  const Block source = bring(from, sentBytes(meeting, exchange)), target = memory_.take(exchange.bytes);
  host_->reduceScatter(meeting, source.data(), target.data(), exchange, reduction);
  take(to, target, exchange.bytes);
}

void StagedCommunicator::allReduce(const Meeting& meeting, const std::byte* from, std::byte* to,
                                   size_t elements, Reduction reduction) {
  const size_t bytes = elements * sizeBytes(reduction.dtype);
  const Block block = bring(from, bytes);
  host_->allReduce(meeting, block.data(), block.data(), elements, reduction);
  take(to, block, bytes);
}

void StagedCommunicator::permute(const Meeting& meeting, const std::byte* from, std::byte* to, size_t bytes,
                                 int64_t source, std::span<const int64_t> targets) {
  const Block sent = bring(from, bytes), got = memory_.take(bytes);
  host_->permute(meeting, sent.data(), got.data(), bytes, source, targets);
  if (source >= 0) take(to, got, bytes);
}

}  // namespace lazuli::cuda
