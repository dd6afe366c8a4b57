#include "cuda/completions.h"

#include "clock.h"

namespace lazuli::cuda {

Completions::Completions(const Gpu& gpu, CUstream stream, size_t most)
    : gpu_(gpu), stream_(stream), most_(most), thread_([this] { work(); }) {}

Completions::~Completions() {
  {
    std::lock_guard lock(mutex_);
    isClosing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Completions::add(std::function<void(const std::string& error)> tell) {
  // A GPU that has failed makes and records none any more: what it failed with is told in its turn.
  Piece piece{{}, {}, std::move(tell)};
  try {
    piece.event = makeEvent(false);
    LAZULI_CUDA(cuEventRecord, piece.event.get(), stream_);
  } catch (const CudaError& failure) {
    piece.error = failure.what();
  }
  std::unique_lock lock(mutex_);
  pieces_.push_back(std::move(piece));
  changed_.notify_all();
  changed_.wait(lock, [this] { return pieces_.size() < most_; });
}

void Completions::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return pieces_.empty() && !isBusy_; });
}

std::string Completions::await(CUevent event) const {
  try {
    const Clock clock;
    while (check_) {
      const CUresult result = Driver::get().cuEventQuery(event);
      if (result == CUDA_SUCCESS) return "";
      if (result != CUDA_ERROR_NOT_READY) break;
      if (std::string error = check_(clock.us() / 1e6); !error.empty()) return error;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    LAZULI_CUDA(cuEventSynchronize, event);
  } catch (const CudaError& failure) {
    return failure.what();
  }
  return "";
}

void Completions::work() {
  gpu_.makeCurrent();
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return isClosing_ || !pieces_.empty(); });
    if (pieces_.empty()) return;
    Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    isBusy_ = true;
    lock.unlock();
    piece.tell(piece.error.empty() ? await(piece.event.get()) : piece.error);
    piece = {};  // what it holds goes before others are told that it is done
    lock.lock();
    isBusy_ = false;
    changed_.notify_all();
  }
}

}  // namespace lazuli::cuda
