#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

#include "cuda/stream.h"

namespace lazuli::cuda {

/// What a kernel's parameter may take, from sm_70 and CUDA 12.1 on.
inline constexpr size_t kParameterBytes = 32764;

/// Blocks, threads of a block, and dynamic shared memory of one.
struct Grid {
  uint32_t x = 1, y = 1, z = 1;
  uint32_t threads = 256;
  uint32_t sharedBytes = 0;
};

/// Compiled code (a cubin or a fatbin), given to the driver when one of its kernels is first launched.
class Module {
 public:
  /// `image` is copied.
  explicit Module(std::span<const std::byte> image);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

 private:
  friend class Function;
  struct Loaded;
  std::unique_ptr<Loaded> loaded_;
};

/// The kernels of device/<source>.cu, which nvcc compiled into the addon.
std::shared_ptr<const Module> builtinModule(const std::string& source);

/// A kernel of a module. Every kernel has one parameter, a struct given by value (LAZULI_KERNEL of
/// device/simt.h). Immutable: any thread may launch it on any stream.
class Function {
 public:
  Function(std::shared_ptr<const Module> module, std::string name);
  /// Of device/<source>.cu.
  Function(const char* source, std::string name) : Function(builtinModule(source), std::move(name)) {}
  ~Function();
  Function(Function&&) noexcept;
  Function& operator=(Function&&) noexcept;

  /// Puts the kernel on the stream. Throws CudaError where the driver refuses.
  template <class Args>
  void launch(const Stream& stream, const Grid& grid, const Args& args) const {
    static_assert(std::is_trivially_copyable_v<Args> && sizeof(Args) <= kParameterBytes);
    launchWith(stream, grid, &args);
  }

 private:
  void launchWith(const Stream& stream, const Grid& grid, const void* args) const;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lazuli::cuda
