#include "cuda/nvrtc.h"

#include <dlfcn.h>
#include <nvrtc.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <map>
#include <mutex>
#include <thread>

#include "cuda/builtin.h"
#include "cuda/cubin_cache.h"
#include "cuda/driver.h"
#include "cuda/library.h"
#include "program.h"

namespace lazuli::cuda {
namespace {

// The formatter finds no end to this macro.
// clang-format off
#define LAZULI_NVRTC_FUNCTIONS(X)                                                       \
  X(nvrtcVersion) X(nvrtcGetErrorString) X(nvrtcCreateProgram) X(nvrtcCompileProgram)   \
  X(nvrtcDestroyProgram) X(nvrtcGetProgramLogSize) X(nvrtcGetProgramLog)                \
  X(nvrtcGetCUBINSize) X(nvrtcGetCUBIN) X(nvrtcGetPTXSize) X(nvrtcGetPTX)               \
  X(nvrtcGetNumSupportedArchs) X(nvrtcGetSupportedArchs)
// clang-format on

std::string firstLines(const std::string& log, int lines) {
  size_t end = 0;
  for (int i = 0; i < lines && end != std::string::npos; i++) end = log.find('\n', end ? end + 1 : 0);
  return log.substr(0, end);
}

/// A number for the texts that every source includes.
uint64_t headersHash() {
  uint64_t hash = hashOf("", 0);
  for (const DeviceHeader& header : deviceHeaders()) {
    hash = hashOf(header.name, std::char_traits<char>::length(header.name), hash);
    hash = hashOf(header.text.data(), header.text.size(), hash);
  }
  return hash;
}

}  // namespace

struct Nvrtc::Functions {
#define LAZULI_NVRTC_MEMBER(name) decltype(&::name) name = nullptr;
  LAZULI_NVRTC_FUNCTIONS(LAZULI_NVRTC_MEMBER)
#undef LAZULI_NVRTC_MEMBER
  std::string identity;    // of the library: another one makes other code
  std::vector<int> archs;  // it makes code for

  void check(nvrtcResult result, const char* what) const {
    if (result != NVRTC_SUCCESS)
      throw CudaError(std::string(what) + ": " + nvrtcGetErrorString(result), result);
  }
};

struct Nvrtc::Program {
  const Functions& functions;
  nvrtcProgram handle = nullptr;
  ~Program() {
    if (handle) functions.nvrtcDestroyProgram(&handle);
  }
};

const Nvrtc& Nvrtc::get() {
  static const Nvrtc nvrtc({"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"});
  return nvrtc;
}

Nvrtc::Nvrtc(std::initializer_list<const char*> names) : functions_(std::make_unique<Functions>()) {
  const Library library(names);
  Functions& f = *functions_;
#define LAZULI_NVRTC_LOAD(name) f.name = reinterpret_cast<decltype(f.name)>(library.symbol(#name));
  LAZULI_NVRTC_FUNCTIONS(LAZULI_NVRTC_LOAD)
#undef LAZULI_NVRTC_LOAD
  int major = 0, minor = 0, count = 0;
  f.check(f.nvrtcVersion(&major, &minor), "nvrtcVersion");
  f.check(f.nvrtcGetNumSupportedArchs(&count), "nvrtcGetNumSupportedArchs");
  f.archs.resize(static_cast<size_t>(count));
  if (count > 0) f.check(f.nvrtcGetSupportedArchs(f.archs.data()), "nvrtcGetSupportedArchs");
  Dl_info found{};
  dladdr(reinterpret_cast<void*>(f.nvrtcVersion), &found);
  const std::filesystem::path path = found.dli_fname ? found.dli_fname : library.path();
  const std::string version = std::to_string(major) + "." + std::to_string(minor);
  // NVRTC opens its other half by name, which the loader knows then: it would not look beside NVRTC.
  dlopen((path.parent_path() / ("libnvrtc-builtins.so." + version)).c_str(), RTLD_NOW | RTLD_LOCAL);
  // One version may come from several builds (of the emulator, certainly).
  std::error_code ignored;
  f.identity = path.filename().string() + " " + version + " " +
               std::to_string(std::filesystem::file_size(path, ignored)) + " " +
               std::to_string(std::filesystem::last_write_time(path, ignored).time_since_epoch().count());
}
Nvrtc::~Nvrtc() = default;

/// "-arch=..." of a GPU, and whether that is machine code.
std::pair<std::string, bool> Nvrtc::archOption(int arch) const {
  const std::vector<int>& archs = functions_->archs;
  if (std::find(archs.begin(), archs.end(), arch) != archs.end())
    return {"-arch=sm_" + std::to_string(arch) + (arch == 90 ? "a" : ""), true};
  int below = 80;
  for (int other : archs)
    if (other < arch) below = std::max(below, other);
  return {"-arch=compute_" + std::to_string(below), false};
}

std::vector<std::string> Nvrtc::optionsFor(int arch) const {
  return {archOption(arch).first, "-std=c++20", "-default-device"};
}

std::string Nvrtc::keyOf(const std::string& text, int arch) const {
  static const std::string headers = std::to_string(headersHash());
  std::string key = functions_->identity + "\nheaders " + headers + "\n";
  for (const std::string& option : optionsFor(arch)) key += option + " ";
  return key + "\n" + text;
}

std::vector<std::byte> Nvrtc::compile(const std::string& text, int arch) const {
  const Functions& f = *functions_;
  std::vector<const char*> names, texts, options;
  for (const DeviceHeader& header : deviceHeaders()) {
    names.push_back(header.name);
    texts.push_back(header.text.data());
  }
  const std::vector<std::string> said = optionsFor(arch);
  for (const std::string& option : said) options.push_back(option.c_str());
  const std::string whole = "#include \"fused_reduce.h\"\n" + text;
  Program program{f};
  f.check(f.nvrtcCreateProgram(&program.handle, whole.c_str(), "fused.cu", static_cast<int>(names.size()),
                               texts.data(), names.data()),
          "nvrtcCreateProgram");
  const nvrtcResult result =
      f.nvrtcCompileProgram(program.handle, static_cast<int>(options.size()), options.data());
  size_t size = 0;
  if (result != NVRTC_SUCCESS) {
    f.check(f.nvrtcGetProgramLogSize(program.handle, &size), "nvrtcGetProgramLogSize");
    std::string log(size, '\0');
    if (size > 0) f.check(f.nvrtcGetProgramLog(program.handle, log.data()), "nvrtcGetProgramLog");
    throw ProgramError("NVRTC: " + std::string(f.nvrtcGetErrorString(result)) + "\n" +
                       firstLines(log.c_str(), 12));
  }
  const bool machine = archOption(arch).second;
  f.check(machine ? f.nvrtcGetCUBINSize(program.handle, &size) : f.nvrtcGetPTXSize(program.handle, &size),
          "nvrtcGetCUBINSize");
  std::vector<std::byte> image(size);
  char* to = reinterpret_cast<char*>(image.data());
  f.check(machine ? f.nvrtcGetCUBIN(program.handle, to) : f.nvrtcGetPTX(program.handle, to), "nvrtcGetCUBIN");
  return image;
}

struct Source::State {
  std::string text, detail;
  std::mutex mutex;
  std::map<int, std::shared_ptr<const Module>> modules;  // by architecture
};

Source::Source(std::unique_ptr<State> state) : state_(std::move(state)) {}
Source::~Source() = default;
const std::string& Source::text() const { return state_->text; }

std::shared_ptr<const Source> Source::of(const std::string& text, const std::string& detail) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<const Source>> sources;
  std::lock_guard lock(mutex);
  if (auto known = sources[text].lock()) return known;
  auto state = std::make_unique<State>();
  state->text = text;
  state->detail = detail;
  std::shared_ptr<const Source> made(new Source(std::move(state)));
  std::erase_if(sources, [](const auto& entry) { return entry.second.expired(); });
  sources[text] = made;
  return made;
}

std::shared_ptr<const Module> Source::module(const Target& target) const {
  std::lock_guard lock(state_->mutex);
  std::shared_ptr<const Module>& module = state_->modules[target.arch()];
  if (module) return module;
  static const CubinCache cache = CubinCache::fromEnvironment();
  const std::string key = Nvrtc::get().keyOf(state_->text, target.arch());
  std::optional<std::vector<std::byte>> image = cache.find(key);
  if (!image) {
    try {
      image = Nvrtc::get().compile(state_->text, target.arch());
    } catch (const ProgramError& error) {
      throw ProgramError(std::string(error.what()) + "\nof the fused kernel " + state_->detail);
    }
    cache.put(key, *image);
  }
  return module = std::make_shared<const Module>(*image);
}

bool Source::isCompiled(const Target& target) const {
  std::lock_guard lock(state_->mutex);
  return state_->modules[target.arch()] != nullptr;
}

void compileTogether(const std::vector<std::shared_ptr<const Source>>& sources, const Target& target) {
  std::string text;
  for (const auto& source : sources) text += source->text();
  const auto module = std::make_shared<const Module>(Nvrtc::get().compile(text, target.arch()));
  for (const auto& source : sources) {
    std::lock_guard lock(source->state_->mutex);
    source->state_->modules[target.arch()] = module;
  }
}

void compileAll(const std::vector<std::shared_ptr<const Source>>& sources, const Target& target) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failed;
  const auto work = [&] {
    for (size_t i; (i = next++) < sources.size();) {
      try {
        sources[i]->module(target);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!failed) failed = std::current_exception();
        next = sources.size();
      }
    }
  };
  const size_t most = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 8);
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(most, sources.size()); i++) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  if (failed) std::rethrow_exception(failed);
}

}  // namespace lazuli::cuda
