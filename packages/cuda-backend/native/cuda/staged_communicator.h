#pragma once

#include <memory>

#include "cuda/communicator.h"
#include "cuda/gpu.h"

namespace lazuli::cuda {

/// Collectives through the host's memory, by a communicator of the host: for devices that share a GPU, and
/// where there is no NCCL. Every one waits for the stream.
class StagedCommunicator final : public DeviceCommunicator {
 public:
  explicit StagedCommunicator(std::shared_ptr<Communicator> host)
      : host_(std::move(host)), memory_(0, pinnedMemory()) {}

  int device() const override { return host_->device(); }
  void exchange(const Meeting& meeting, const std::byte* from, std::byte* to,
                const Exchange& exchange) override;
  void reduceScatter(const Meeting& meeting, const std::byte* from, std::byte* to, const Exchange& exchange,
                     Reduction reduction) override;
  void allReduce(const Meeting& meeting, const std::byte* from, std::byte* to, size_t elements,
                 Reduction reduction) override;
  void permute(const Meeting& meeting, const std::byte* from, std::byte* to, size_t bytes, int64_t source,
               std::span<const int64_t> targets) override;
  void fail(const std::string& error) override { host_->fail(error); }
  void close() override { host_->close(); }
  void interrupt() override { host_->interrupt(); }

  void open(Stream& stream) override { stream_ = &stream; }
  bool isCapturable() const override { return false; }
  void beginJob(int64_t) override {}
  void endJob(int64_t) override {}
  void waitFor(int64_t) override {}

 private:
  Block bring(const std::byte* from, size_t bytes);
  void take(std::byte* to, const Block& block, size_t bytes);

  std::shared_ptr<Communicator> host_;
  CpuMemory memory_;
  Stream* stream_ = nullptr;
};

}  // namespace lazuli::cuda
