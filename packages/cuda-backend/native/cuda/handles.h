#pragma once

#include <memory>
#include <utility>

#include "cuda/driver.h"

namespace lazuli::cuda {

/// Owns a handle of the driver.
template <class T, auto Driver::*destroy>
class Handle {
 public:
  Handle() = default;
  explicit Handle(T handle) : handle_(handle) {}
  Handle(Handle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Handle() {
    if (handle_) (Driver::get().*destroy)(handle_);
  }
  T get() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  T handle_ = nullptr;
};

using StreamHandle = Handle<CUstream, &Driver::cuStreamDestroy>;
using EventHandle = Handle<CUevent, &Driver::cuEventDestroy>;
using GraphHandle = Handle<CUgraphExec, &Driver::cuGraphExecDestroy>;

inline StreamHandle makeStream() {
  CUstream stream = nullptr;
  LAZULI_CUDA(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
  return StreamHandle(stream);
}

inline EventHandle makeEvent(bool timed) {
  CUevent event = nullptr;
  LAZULI_CUDA(cuEventCreate, &event, timed ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING);
  return EventHandle(event);
}

}  // namespace lazuli::cuda
