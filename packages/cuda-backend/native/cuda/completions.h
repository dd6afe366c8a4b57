#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "cuda/gpu.h"
#include "cuda/handles.h"

namespace lazuli::cuda {

/// Waits on a thread of its own for what a worker has put on its stream, in order, and tells of it. So the
/// worker goes ahead of the GPU: by `most` pieces of work.
class Completions {
 public:
  Completions(const Gpu& gpu, CUstream stream, size_t most);
  ~Completions();

  /// Asked again and again while one piece is waited for, with how long that has been, in seconds: an error
  /// that is not empty is what the piece ends with. For work that may wait for other processes.
  using Check = std::function<std::string(double seconds)>;
  void setCheck(Check check) { check_ = std::move(check); }

  /// `tell` is called on the waiting thread when all that is on the stream now is done, or has failed: then
  /// with what the driver says. Returns once there are fewer than `most` pieces.
  void add(std::function<void(const std::string& error)> tell);
  /// Returns when all has been told.
  void drain();

 private:
  struct Piece {
    EventHandle event;
    std::string error;  // no event: what it ends with
    std::function<void(const std::string& error)> tell;
  };
  void work();
  std::string await(CUevent event) const;

  Check check_;  // set before the first piece is added
  const Gpu& gpu_;
  const CUstream stream_;
  const size_t most_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;
  bool isBusy_ = false, isClosing_ = false;
  std::thread thread_;
};

}  // namespace lazuli::cuda
