#include "cuda/launch.h"

#include <atomic>
#include <map>
#include <mutex>
#include <vector>

#include "cuda/builtin.h"
#include "cuda/driver.h"

namespace lazuli::cuda {
namespace {

constexpr int kMostDevices = 32;  // of one host
constexpr uint32_t kSharedUnasked = 48 * 1024;

}  // namespace

struct Module::Loaded {
  std::vector<std::byte> image;
  std::mutex mutex;
  CUlibrary library = nullptr;

  CUkernel kernel(const char* name) {
    std::lock_guard lock(mutex);
    if (!library)
      LAZULI_CUDA(cuLibraryLoadData, &library, image.data(), nullptr, nullptr, 0, nullptr, nullptr, 0);
    CUkernel found = nullptr;
    LAZULI_CUDA(cuLibraryGetKernel, &found, library, name);
    return found;
  }
};

Module::Module(std::span<const std::byte> image) : loaded_(std::make_unique<Loaded>()) {
  loaded_->image.assign(image.begin(), image.end());
}

Module::~Module() {
  if (loaded_->library) Driver::get().cuLibraryUnload(loaded_->library);
}

std::shared_ptr<const Module> builtinModule(const std::string& source) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<const Module>> modules;
  std::lock_guard lock(mutex);
  std::shared_ptr<const Module>& module = modules[source];
  if (!module) module = std::make_shared<const Module>(builtinImage(source.c_str()));
  return module;
}

struct Function::State {
  std::shared_ptr<const Module> module;
  std::string name;
  std::atomic<CUkernel> kernel{nullptr};
  // By device: what a block may have beyond what it has unasked; more must be asked for.
  std::atomic<uint32_t> sharedBytes[kMostDevices] = {};
};

Function::Function(std::shared_ptr<const Module> module, std::string name)
    : state_(std::make_unique<State>()) {
  state_->module = std::move(module);
  state_->name = std::move(name);
}
Function::~Function() = default;
Function::Function(Function&&) noexcept = default;
Function& Function::operator=(Function&&) noexcept = default;

void Function::launchWith(const Stream& stream, const Grid& grid, const void* args) const {
  CUkernel kernel = state_->kernel.load(std::memory_order_acquire);
  if (!kernel) {
    kernel = state_->module->loaded_->kernel(state_->name.c_str());
    state_->kernel.store(kernel, std::memory_order_release);
  }
  const int device = stream.target().device;
  std::atomic<uint32_t>& allowed = state_->sharedBytes[device % kMostDevices];
  if (grid.sharedBytes > kSharedUnasked && grid.sharedBytes > allowed.load(std::memory_order_acquire)) {
    LAZULI_CUDA(cuKernelSetAttribute, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                static_cast<int>(grid.sharedBytes), kernel, device);
    allowed.store(grid.sharedBytes, std::memory_order_release);
  }
  void* parameters[] = {const_cast<void*>(args)};
  const CUresult result =
      Driver::get().cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), grid.x, grid.y, grid.z, grid.threads,
                                   1, 1, grid.sharedBytes, stream.handle(), parameters, nullptr);
  Driver::get().check(result, state_->name.c_str());
}

}  // namespace lazuli::cuda
