// The only file that sees Node-API. JavaScript calls in on its own thread; work that is done comes back to it
// through a thread-safe function. Whatever is passed in, the process does not crash: arguments are checked
// here, requests by the device, and every C++ exception becomes a JavaScript Error with `code` and `node`.
#include <napi.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <unordered_map>

#include "device.h"
#include "isa.h"
#include "parallel.h"

namespace {

using lazuli::BufferId;
using lazuli::RunResult;

constexpr const char* kVersion = "0.1.0";
constexpr double kMostInteger = 9007199254740991;  // 2^53 - 1
// V8 is told of native memory in steps of this; telling it costs time, and more of it may start a collection.
constexpr int64_t kReportedStep = int64_t{1} << 20;

Napi::Error makeError(Napi::Env env, const char* code, const std::string& message, int64_t node = -1) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  error.Set("node", Napi::Number::New(env, static_cast<double>(node)));
  return error;
}

/// Calls `work`, and turns what it throws into a JavaScript exception. `code` is of errors in the program
/// itself.
template <class F>
auto guard(Napi::Env env, const char* code, F&& work) {
  try {
    return work();
  } catch (const Napi::Error&) {
    throw;
  } catch (const lazuli::OutOfMemoryError& error) {
    throw makeError(env, "OUT_OF_MEMORY", error.what(), error.node);
  } catch (const lazuli::CollectiveError& error) {
    throw makeError(env, "COLLECTIVE", error.what(), error.node);
  } catch (const lazuli::ProgramError& error) {
    throw makeError(env, code, error.what(), error.node);
  } catch (const std::bad_alloc&) {
    throw makeError(env, "OUT_OF_MEMORY", "out of memory");
  } catch (const std::invalid_argument& error) {
    throw makeError(env, "ARGUMENT", error.what());
  } catch (const std::exception& error) {
    throw makeError(env, code, error.what());
  }
}

[[noreturn]] void refuse(Napi::Env env, const std::string& what) { throw makeError(env, "ARGUMENT", what); }

uint64_t integerFrom(Napi::Env env, double number, const char* what, double most = kMostInteger) {
  if (number >= 0 && number <= most && std::floor(number) == number) return static_cast<uint64_t>(number);
  refuse(env, std::string(what) + " must be an integer of at least 0");
}

uint64_t integerFrom(Napi::Value value, const char* what, double most = kMostInteger) {
  return integerFrom(value.Env(), value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1, what, most);
}

/// The number of a device, or nothing where none is given.
std::optional<int> deviceFrom(Napi::Value value) {
  if (value.IsUndefined()) return std::nullopt;
  return static_cast<int>(integerFrom(value, "a device", INT32_MAX));
}

lazuli::ExecutableId executableFrom(Napi::Value value) {
  return static_cast<lazuli::ExecutableId>(integerFrom(value, "an executable id", UINT32_MAX));
}

/// Ids from a Float64Array, read where it lies, or from an array, reading which may run JavaScript (getters,
/// proxies).
std::vector<BufferId> idsFrom(Napi::Value value, const char* what) {
  Napi::Env env = value.Env();
  std::vector<BufferId> ids;
  if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_float64_array) {
    auto list = value.As<Napi::Float64Array>();
    for (size_t i = 0; i < list.ElementLength(); i++) ids.push_back(integerFrom(env, list[i], "a buffer id"));
    return ids;
  }
  if (!value.IsArray()) refuse(env, std::string(what) + " must be an array of ids");
  auto list = value.As<Napi::Array>();
  uint32_t count = list.Length();
  for (uint32_t i = 0; i < count; i++) {
    Napi::HandleScope scope(env);
    ids.push_back(integerFrom(list.Get(i), "a buffer id"));
  }
  return ids;
}

/// The bytes of a typed array, DataView or ArrayBuffer; none of a detached one. Valid until JavaScript runs
/// again.
std::span<std::byte> bytesOf(Napi::Value value, const char* what) {
  Napi::Env env = value.Env();
  void* data = nullptr;
  size_t length = 0;
  napi_status status = napi_invalid_arg;
  if (value.IsTypedArray()) {
    status = napi_get_typedarray_info(env, value, nullptr, nullptr, &data, nullptr, nullptr);
    length = value.As<Napi::TypedArray>().ByteLength();
  } else if (value.IsDataView()) {
    status = napi_get_dataview_info(env, value, &length, &data, nullptr, nullptr);
  } else if (value.IsArrayBuffer()) {
    status = napi_get_arraybuffer_info(env, value, &data, &length);
  }
  if (status != napi_ok)
    refuse(env, std::string(what) + " must be a typed array, a DataView or an ArrayBuffer");
  return {static_cast<std::byte*>(data), data ? length : 0};
}

/// {key: number}; a double holds every size in bytes that there is.
Napi::Object numbersOf(Napi::Env env, std::initializer_list<std::pair<const char*, double>> numbers) {
  auto object = Napi::Object::New(env);
  for (auto [key, number] : numbers) object.Set(key, Napi::Number::New(env, number));
  return object;
}

Napi::Object infoOf(Napi::Env env, const lazuli::ExecutableInfo& info) {
  auto kernels = Napi::Array::New(env, info.kernels.size());
  for (uint32_t i = 0; i < info.kernels.size(); i++) {
    Napi::HandleScope scope(env);
    const lazuli::KernelInfo& kernel = info.kernels[i];
    auto entry = numbersOf(env, {{"node", double(kernel.node)},
                                 {"bytes", double(kernel.bytes)},
                                 {"flops", kernel.flops},
                                 {"scratchBytes", double(kernel.scratchBytes)}});
    entry.Set("label", Napi::String::New(env, kernel.label));
    kernels.Set(i, entry);
  }
  auto object = numbersOf(env, {{"arenaBytes", double(info.arenaBytes)},
                                {"lowerBoundBytes", double(info.lowerBoundBytes)},
                                {"constantBytes", double(info.constantBytes)},
                                {"outputBytes", double(info.outputBytes)},
                                {"distinctKernels", double(info.distinctKernels)}});
  object.Set("kernels", kernels);
  object.Set("text", Napi::String::New(env, info.text));
  return object;
}

/// {startUs, endUs, launchedUs, kernels: Float64Array of start and end by kernel}
Napi::Object resultOf(Napi::Env env, const RunResult& result) {
  auto object = numbersOf(
      env, {{"startUs", result.startUs}, {"endUs", result.endUs}, {"launchedUs", result.launchedUs}});
  auto times = Napi::Float64Array::New(env, result.kernels.size() * 2);
  for (size_t i = 0; i < result.kernels.size(); i++) {
    times[2 * i] = result.kernels[i].startUs;
    times[2 * i + 1] = result.kernels[i].endUs;
  }
  object.Set("kernels", times);
  return object;
}

class NativeDevice : public Napi::ObjectWrap<NativeDevice> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativeDevice",
                       {
                           InstanceMethod<&NativeDevice::compile>("compile"),
                           InstanceMethod<&NativeDevice::release>("release"),
                           InstanceMethod<&NativeDevice::run>("run"),
                           InstanceMethod<&NativeDevice::upload>("upload"),
                           InstanceMethod<&NativeDevice::download>("download"),
                           InstanceMethod<&NativeDevice::bufferBytes>("bufferBytes"),
                           InstanceMethod<&NativeDevice::free>("free"),
                           InstanceMethod<&NativeDevice::stats>("stats"),
                           InstanceMethod<&NativeDevice::exchange>("exchange"),
                           InstanceMethod<&NativeDevice::close>("close"),
                           InstanceAccessor<&NativeDevice::deviceCount>("deviceCount"),
                           InstanceAccessor<&NativeDevice::localDevices>("localDevices"),
                       });
  }

  /// (name, {memoryLimitBytes, virtualDevices, mpi, collectiveTimeoutMs})
  explicit NativeDevice(const Napi::CallbackInfo& info) : ObjectWrap(info), env_(info.Env()) {
    std::string kind = info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "";
    const lazuli::DeviceOptions options = optionsFrom(info[1]);
    device_ = guard(env_, "DEVICE", [&] { return open(kind, options); });
    completions_ = Completions::New(env_, "lazuli", 0, 1, this);
    completions_.Unref(env_);  // an idle device keeps no process alive
    // Hooks run last in, first out: this one before the environment closes the thread-safe function made
    // above.
    napi_add_env_cleanup_hook(env_, onExit, this);
  }

  ~NativeDevice() override {
    if (exiting_) return;
    napi_remove_env_cleanup_hook(env_, onExit, this);
    shutDown();
  }

 private:
  static std::unique_ptr<lazuli::Device> open(const std::string& kind, const lazuli::DeviceOptions& options) {
    if (kind == "cpu") return lazuli::makeCpuDevice(options);
    if (kind == "null") return lazuli::makeNullDevice(options);
    if (kind == "cuda") return openCuda(options);
    throw std::invalid_argument("there is no device \"" + kind + "\": cpu, cuda or null");
  }

  static std::unique_ptr<lazuli::Device> openCuda([[maybe_unused]] const lazuli::DeviceOptions& options) {
#if LAZULI_HAVE_CUDA
    return lazuli::makeCudaDevice(options);
#else
    throw std::runtime_error(
        "this build has no CUDA: install the CUDA toolkit's nvcc, run scripts/gpu/headers.sh, then npm run "
        "build");
#endif
  }

  static lazuli::DeviceOptions optionsFrom(Napi::Value value) {
    lazuli::DeviceOptions options;
    if (!value.IsObject()) return options;
    auto object = value.As<Napi::Object>();
    const auto given = [&](const char* name, auto&& take) {
      Napi::Value option = object.Get(name);
      if (!option.IsUndefined()) take(option);
    };
    given("memoryLimitBytes",
          [&](Napi::Value limit) { options.memoryLimitBytes = integerFrom(limit, "memoryLimitBytes"); });
    given("virtualDevices", [&](Napi::Value count) {
      options.virtualDevices = static_cast<int>(integerFrom(count, "virtualDevices", INT32_MAX));
    });
    given("mpi", [&](Napi::Value mpi) { options.mpi = mpi.ToBoolean(); });
    given("collectiveTimeoutMs", [&](Napi::Value timeout) {
      options.collectiveTimeoutMs = static_cast<double>(integerFrom(timeout, "collectiveTimeoutMs"));
    });
    return options;
  }

  /// What a promise waits for. Its JavaScript handles are touched by JavaScript's thread only.
  struct Task {
    Napi::Promise::Deferred promise;
    Napi::ObjectReference target;  // of a download
    std::unique_ptr<std::byte[]>
        staged;  // its bytes: the target itself may be detached while the device works
    size_t bytes = 0;
  };
  using Exchanged = std::vector<std::vector<std::byte>>;
  /// What the device's thread says of a task.
  struct Message {
    uint64_t task;
    RunResult result;
    std::optional<Exchanged> exchanged = std::nullopt;
  };
  static void deliver(Napi::Env env, Napi::Function, NativeDevice* self, Message* message) {
    std::unique_ptr<Message> owned(message);
    if (env != nullptr) self->complete(env, *message);
  }
  using Completions = Napi::TypedThreadSafeFunction<NativeDevice, Message, deliver>;

  lazuli::Device& device() {
    if (!device_) refuse(env_, "the device is closed");
    return *device_;
  }

  Napi::Value compile(const Napi::CallbackInfo& info) {
    bool isWords =
        info[0].IsTypedArray() && info[0].As<Napi::TypedArray>().TypedArrayType() == napi_uint32_array;
    if (!isWords) refuse(env_, "a program must be a Uint32Array");
    bool withText = info[1].IsBoolean() && info[1].As<Napi::Boolean>().Value();
    std::span<std::byte> bytes = bytesOf(info[0], "a program");
    std::span words(reinterpret_cast<const uint32_t*>(bytes.data()), bytes.size() / sizeof(uint32_t));
    return guard(env_, "COMPILE", [&]() -> Napi::Value {
      lazuli::ExecutableId id = device().compile(words, withText);
      auto object = Napi::Object::New(env_);
      object.Set("id", Napi::Number::New(env_, id));
      object.Set("info", infoOf(env_, device().info(id)));
      return object;
    });
  }

  void release(const Napi::CallbackInfo& info) {
    lazuli::ExecutableId id = executableFrom(info[0]);
    guard(env_, "RUN", [&] {
      if (device_) device_->release(id);
    });
  }

  /// (executable, inputs, outputs, profile) → promise of the result
  Napi::Value run(const Napi::CallbackInfo& info) {
    lazuli::ExecutableId executable = executableFrom(info[0]);
    std::vector<BufferId> inputs = idsFrom(info[1], "inputs"), outputs = idsFrom(info[2], "outputs");
    bool profile = info[3].IsBoolean() && info[3].As<Napi::Boolean>().Value();
    return start({Napi::Promise::Deferred::New(env_), {}, nullptr, 0}, [&](uint64_t task, Task&) {
      device().run(executable, inputs, outputs, profile,
                   [this, task](RunResult result) { post(task, std::move(result)); });
    });
  }

  /// (buffer, bytes, device?)
  void upload(const Napi::CallbackInfo& info) {
    BufferId id = integerFrom(info[0], "a buffer id");
    std::span<std::byte> bytes = bytesOf(info[1], "an upload");
    std::optional<int> where = deviceFrom(info[2]);
    guard(env_, "RUN", [&] { device().upload(id, bytes, where); });
    reportMemory();
  }

  /// (buffer, target, device?) → promise
  Napi::Value download(const Napi::CallbackInfo& info) {
    BufferId id = integerFrom(info[0], "a buffer id");
    size_t bytes = bytesOf(info[1], "a target").size();
    std::optional<int> where = deviceFrom(info[2]);
    Task made{Napi::Promise::Deferred::New(env_), Napi::Persistent(info[1].As<Napi::Object>()), nullptr,
              bytes};
    return start(std::move(made), [&](uint64_t task, Task& kept) {
      kept.staged = std::make_unique_for_overwrite<std::byte[]>(bytes);
      const auto done = [this, task](std::string error) {
        RunResult result;
        result.error = std::move(error);
        post(task, std::move(result));
      };
      device().download(id, {kept.staged.get(), bytes}, done, where);
    });
  }

  /// (bytes, mustAgree) → promise of every process's
  Napi::Value exchange(const Napi::CallbackInfo& info) {
    std::span<std::byte> bytes = bytesOf(info[0], "what is exchanged");
    const bool mustAgree = info[1].IsBoolean() && info[1].As<Napi::Boolean>().Value();
    return start({Napi::Promise::Deferred::New(env_), {}, nullptr, 0}, [&](uint64_t task, Task&) {
      device().exchange(bytes, mustAgree, [this, task](RunResult result, Exchanged all) {
        post(task, std::move(result), std::move(all));
      });
    });
  }

  Napi::Value deviceCount(const Napi::CallbackInfo&) {
    return Napi::Number::New(env_, device().deviceCount());
  }

  Napi::Value localDevices(const Napi::CallbackInfo&) {
    auto list = Napi::Array::New(env_);
    for (int i = 0; i < device().localDeviceCount(); i++)
      list.Set(static_cast<uint32_t>(i), Napi::Number::New(env_, device().firstLocalDevice() + i));
    return list;
  }

  Napi::Value bufferBytes(const Napi::CallbackInfo& info) {
    BufferId id = integerFrom(info[0], "a buffer id");
    return guard(env_, "RUN", [&]() -> Napi::Value {
      return Napi::Number::New(env_, static_cast<double>(device().bufferBytes(id)));
    });
  }

  /// Does nothing once the device is closed: what frees may be the garbage collector, later than that.
  void free(const Napi::CallbackInfo& info) {
    std::vector<BufferId> ids = idsFrom(info[0], "buffers");
    guard(env_, "RUN", [&] {
      if (device_) device_->free(ids);
    });
    reportMemory();
  }

  /// (device?)
  Napi::Value stats(const Napi::CallbackInfo& info) {
    std::optional<int> where = deviceFrom(info[0]);
    return guard(env_, "RUN", [&]() -> Napi::Value {
      lazuli::DeviceStats stats = device().stats(where);
      return numbersOf(env_, {{"liveBytes", double(stats.liveBytes)},
                              {"cachedBytes", double(stats.cachedBytes)},
                              {"arenaBytes", double(stats.arenaBytes)},
                              {"peakBytes", double(stats.peakBytes)}});
    });
  }

  void close(const Napi::CallbackInfo&) {
    shutDown();
    reportMemory();
  }

  // --- work in flight ---

  /// Keeps a task while `request` hands it to the device, and until its message comes back.
  template <class F>
  Napi::Value start(Task made, F&& request) {
    uint64_t id = nextTask_++;
    Napi::Promise promise = made.promise.Promise();
    Task& task = tasks_.emplace(id, std::move(made)).first->second;
    try {
      guard(env_, "RUN", [&] { request(id, task); });
    } catch (...) {
      tasks_.erase(id);
      throw;
    }
    if (tasks_.size() == 1) {
      // Neither the process nor this object ends while a promise waits.
      completions_.Ref(env_);
      Ref();
    }
    reportMemory();
    return promise;
  }

  /// On the device's thread, or on JavaScript's.
  void post(uint64_t task, RunResult result, std::optional<Exchanged> exchanged = std::nullopt) {
    auto message = std::make_unique<Message>(Message{task, std::move(result), std::move(exchanged)});
    if (completions_.NonBlockingCall(message.get()) == napi_ok) message.release();
  }

  void complete(Napi::Env env, const Message& message) {
    auto found = tasks_.find(message.task);
    if (found == tasks_.end()) return;
    Task task = std::move(found->second);
    tasks_.erase(found);
    if (tasks_.empty()) {
      if (device_) completions_.Unref(env);
      Unref();
    }
    const RunResult& result = message.result;
    if (!result.error.empty()) {
      const char* code = result.outOfMemory ? "OUT_OF_MEMORY" : result.collective ? "COLLECTIVE" : "RUN";
      task.promise.Reject(makeError(env, code, result.error, result.errorNode).Value());
    } else if (message.exchanged) {
      task.promise.Resolve(bytesOfAll(env, *message.exchanged));
    } else if (task.target.IsEmpty()) {
      task.promise.Resolve(resultOf(env, result));
    } else {
      deliverBytes(env, task);
    }
  }

  static Napi::Array bytesOfAll(Napi::Env env, const Exchanged& all) {
    auto list = Napi::Array::New(env, all.size());
    for (uint32_t i = 0; i < all.size(); i++) {
      auto bytes = Napi::Uint8Array::New(env, all[i].size());
      if (!all[i].empty()) std::memcpy(bytes.Data(), all[i].data(), all[i].size());
      list.Set(i, bytes);
    }
    return list;
  }

  static void deliverBytes(Napi::Env env, Task& task) {
    std::span<std::byte> target = bytesOf(task.target.Value(), "a target");
    if (target.size() != task.bytes) {
      task.promise.Reject(makeError(env, "ARGUMENT", "the target was detached or resized").Value());
      return;
    }
    if (task.bytes > 0) std::memcpy(target.data(), task.staged.get(), task.bytes);
    task.promise.Resolve(env.Undefined());
  }

  /// So that V8 collects handles when what they hold grows, not only when they themselves are many. What
  /// comes and goes with every step is not reported: growing starts a collection.
  void reportMemory() {
    int64_t live = device_ ? static_cast<int64_t>(device_->stats().liveBytes) : 0;
    if (live < reported_ + kReportedStep && 2 * live > reported_) return;
    Napi::MemoryManagement::AdjustExternalMemory(env_, live - reported_);
    reported_ = live;
  }

  /// Ends the device's thread. Tasks in flight come back as errors, by messages that are still delivered.
  void shutDown() {
    if (!device_) return;
    device_ = nullptr;
    completions_.Release();
  }

  /// The environment goes: at the end of the process or of a worker. No JavaScript runs any more.
  static void onExit(void* data) {
    auto* self = static_cast<NativeDevice*>(data);
    self->exiting_ = true;
    self->shutDown();
    for (auto& [id, task] : self->tasks_) task.target.SuppressDestruct();
  }

  Napi::Env env_;
  std::unique_ptr<lazuli::Device> device_;
  Completions completions_;
  std::unordered_map<uint64_t, Task> tasks_;
  uint64_t nextTask_ = 1;
  int64_t reported_ = 0;
  bool exiting_ = false;
};

/// {isBuilt, gpus: [{name, computeCapability, memoryBytes}], reason: why there are none}
Napi::Value cudaInfo(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto result = Napi::Object::New(env);
  auto gpus = Napi::Array::New(env);
  std::string reason;
#if LAZULI_HAVE_CUDA
  result.Set("isBuilt", Napi::Boolean::New(env, true));
  for (const lazuli::GpuInfo& gpu : lazuli::listGpus(reason)) {
    auto entry = numbersOf(env, {{"memoryBytes", double(gpu.memoryBytes)}});
    entry.Set("name", Napi::String::New(env, gpu.name));
    entry.Set("computeCapability", Napi::String::New(env, gpu.computeCapability));
    gpus.Set(gpus.Length(), entry);
  }
#else
  result.Set("isBuilt", Napi::Boolean::New(env, false));
  reason = "this build has no CUDA";
#endif
  result.Set("gpus", gpus);
  result.Set("reason", Napi::String::New(env, reason));
  return result;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("NativeDevice", NativeDevice::define(env));
  exports.Set("version", Napi::String::New(env, kVersion));
  exports.Set("cuda", Napi::Function::New(env, cudaInfo));
  exports.Set("threads", Napi::Number::New(env, lazuli::threadCount()));
  exports.Set("isa", Napi::String::New(env, lazuli::name(lazuli::isa())));
#if defined(LAZULI_HAVE_ONEDNN)
  exports.Set("hasOneDnn", Napi::Boolean::New(env, true));
#else
  exports.Set("hasOneDnn", Napi::Boolean::New(env, false));
#endif
  return exports;
}

}  // namespace

NODE_API_MODULE(lazuli, init)
