#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>

#include "collectives/communicator.h"
#include "collectives/mpi/job.h"

namespace lazuli {

/// The device of one process of an MPI job, whose rank is its number. Messages between pairs of ranks carry
/// everything: they need no communicator of MPI for each group, and can be given up when a rank does not
/// answer. What one device fails with fails the job.
class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MpiJob& job, std::chrono::milliseconds timeout) : job_(job), timeout_(timeout) {}
  ~MpiCommunicator() override { job_.close(); }

  int device() const override { return job_.rank(); }
  void exchange(const Meeting& meeting, const std::byte* from, std::byte* to,
                const Exchange& exchange) override;
  void reduceScatter(const Meeting& meeting, const std::byte* from, std::byte* to, const Exchange& exchange,
                     Reduction reduction) override;
  void allReduce(const Meeting& meeting, const std::byte* from, std::byte* to, size_t elements,
                 Reduction reduction) override;
  void permute(const Meeting& meeting, const std::byte* from, std::byte* to, size_t bytes, int64_t source,
               std::span<const int64_t> targets) override;
  void fail(const std::string& error) override;
  std::string notice() override;
  void close() override { closed_ = true; }
  void interrupt() override { isInterrupted_ = true; }

  /// Every rank's bytes, of any length.
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> bytes);
  /// Later collectives throw this: the ranks would wait for each other in different places.
  void refuse(const std::string& why) { refusal_ = why; }

 private:
  void send(const std::byte* data, size_t bytes, int rank);
  void receive(std::byte* data, size_t bytes, int rank);
  /// Returns when all that was sent and received is done.
  void finish(const std::string& label);
  void checkPeers(const std::string& label, std::chrono::steady_clock::time_point start);
  template <class Function>
  int call(const std::string& label, Function function);
  [[noreturn]] void breakDown(const std::string& error, bool isOwn = true);
  void reducePart(const Meeting& meeting, const std::byte* from, std::byte* to, size_t elements,
                  Reduction reduction);
  void reduceWhole(const Meeting& meeting, const std::byte* from, std::byte* to, size_t bytes,
                   Reduction reduction);
  std::byte* staging(size_t bytes);

  MpiJob& job_;
  std::mutex mutex_;  // of MPI: what watches a GPU asks for notices beside the device's own thread
  const std::chrono::milliseconds timeout_;
  std::atomic<bool> closed_{false}, isInterrupted_{false};
  std::string refusal_;             // of the device's own thread
  std::vector<std::byte> staging_;  // of a limited size: what is longer goes in segments
};

}  // namespace lazuli
