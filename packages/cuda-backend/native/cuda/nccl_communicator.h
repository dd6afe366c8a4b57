#pragma once

#include <map>

#include "collectives/mpi/communicator.h"
#include "cuda/communicator.h"
#include "cuda/gpu.h"
#include "cuda/handles.h"
#include "cuda/nccl.h"

namespace lazuli::cuda {

/// Collectives by NCCL, of a job whose processes each have a GPU of their own. What is started goes on a
/// second stream while the first computes; a job of several is one NCCL group. Elements are combined in
/// NCCL's order, not the members'.
class NcclCommunicator final : public DeviceCommunicator {
 public:
  /// Called by every device; `id` is the first one's. `job`: the devices' part on the host, which is told of
  /// failures and tells of them.
  NcclCommunicator(const Gpu& gpu, std::shared_ptr<Communicator> job, int devices, const ncclUniqueId& id,
                   double timeoutSeconds);
  ~NcclCommunicator() override;

  int device() const override { return job_->device(); }
  void exchange(const Meeting& meeting, const std::byte* from, std::byte* to,
                const Exchange& exchange) override;
  void reduceScatter(const Meeting& meeting, const std::byte* from, std::byte* to, const Exchange& exchange,
                     Reduction reduction) override;
  void allReduce(const Meeting& meeting, const std::byte* from, std::byte* to, size_t elements,
                 Reduction reduction) override;
  void permute(const Meeting& meeting, const std::byte* from, std::byte* to, size_t bytes, int64_t source,
               std::span<const int64_t> targets) override;
  void fail(const std::string& error) override;
  std::string notice() override { return job_->notice(); }
  void close() override { job_->close(); }

  void open(Stream& stream) override {
    computing_ = &stream;
    nextScratch_ = 0;
  }
  bool isCapturable() const override { return true; }
  void beginJob(int64_t job) override;
  void endJob(int64_t job) override;
  void waitFor(int64_t job) override;

  std::string trouble(double seconds) override;
  std::string failure() const override;

 private:
  /// Work of one collective: what is done before, in, and after the group of NCCL calls.
  struct Call {
    std::function<void(const Stream&)> before, group, after;
  };
  void add(Call call);
  void perform(std::vector<Call>& calls, const Stream& stream);
  ncclComm_t commOf(const Group& group);
  /// Memory for `bytes` of one collective; those of a job have different places.
  std::byte* scratch(size_t bytes);
  /// Gives up what is under way. `why` of the first call is what it failed with.
  void abort(const std::string& why);

  const std::shared_ptr<Communicator> job_;
  const double timeoutSeconds_;
  CpuMemory memory_;
  struct Scratch {
    Block block;
    size_t bytes = 0;
  };
  std::vector<Scratch> scratch_;  // by use in a run
  std::vector<Block> outgrown_;
  size_t nextScratch_ = 0;
  ncclComm_t world_ = nullptr;
  std::map<std::vector<int>, ncclComm_t> comms_;
  mutable std::mutex mutex_;  // of comms_ and failure_: another thread watches
  std::string failure_;       // not empty: aborted

  StreamHandle besideHandle_;
  std::unique_ptr<Stream> beside_;
  Stream* computing_ = nullptr;
  std::vector<Call> calls_;  // of the job that has begun
  bool inJob_ = false;
  EventHandle begin_;
  std::map<int64_t, EventHandle> ends_;  // by job
};

/// By NCCL where it is there and every process of the job has a GPU of its own, else through the host. Called
/// by every process.
std::shared_ptr<DeviceCommunicator> makeDeviceCommunicator(const Gpu& gpu, bool isAlone,
                                                           std::shared_ptr<MpiCommunicator> job, int devices,
                                                           double timeoutSeconds);

}  // namespace lazuli::cuda
