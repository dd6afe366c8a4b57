#include "collectives/mpi/job.h"

#include <dlfcn.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>

namespace lazuli {
namespace {

MpiJob job;

/// Beside the addon.
std::string libraryPath() {
  Dl_info info{};
  const auto here = reinterpret_cast<void*>(&libraryPath);
  const std::string self = dladdr(here, &info) != 0 && info.dli_fname ? info.dli_fname : "";
  return self.substr(0, self.rfind('/') + 1) + "liblazuli_mpi.so";
}

}  // namespace

MpiJob& MpiJob::open(double timeoutMs) {
  if (job.isOpen_) throw std::invalid_argument("mpi: this process has an MPI device already");
  if (!job.api_) job.begin();
  job.timeoutMs_ = timeoutMs;
  job.isOpen_ = true;
  return job;
}

void MpiJob::begin() {
  const std::string path = libraryPath();
  if (access(path.c_str(), F_OK) != 0) {
    throw std::invalid_argument("mpi: this build has no MPI (no " + path +
                                "): apt-get install -y libopenmpi-dev openmpi-bin, then npm run build");
  }
  // Global, because MPI's own plugins look for its symbols.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (!library) {
    const char* reason = dlerror();
    throw std::invalid_argument(std::string("mpi: ") + (reason ? reason : path));
  }
  const auto get = reinterpret_cast<LazuliMpiGet>(dlsym(library, "lazuli_mpi_api"));
  const LazuliMpiApi* api = get ? get() : nullptr;
  if (!api || api->version != kLazuliMpiVersion)
    throw std::invalid_argument("mpi: " + path + " is of another build: npm run build");
  if (api->init(&rank_, &size_, &ranksOfThisHost_, &rankOnThisHost_) < 0)
    throw std::invalid_argument(std::string("mpi: ") + api->error());
  api_ = api;
  // What runs at exit must still be there, also where the worker thread that loaded the addon has ended.
  Dl_info self{};
  if (dladdr(reinterpret_cast<void*>(&libraryPath), &self) != 0)
    dlopen(self.dli_fname, RTLD_NOW | RTLD_NODELETE);
#if defined(__GLIBC__)
  on_exit([](int status, void*) { end(status); }, nullptr);
#else
  std::atexit([] { end(0); });
#endif
}

void MpiJob::fail(const std::string& error, bool isOwn) {
  if (!failure_.empty()) return;
  failure_ = error;
  if (!isOwn || size_ == 1) return;
  std::fprintf(stderr, "[lazuli] rank %d: %s\n", rank_, error.c_str());
  api_->notify(error.c_str());
}

void MpiJob::end(int status) {
  if (job.size_ > 1 && (status != 0 || !job.failure_.empty())) {
    std::fflush(nullptr);
    job.api_->abort(status != 0 ? status : 1);
    _exit(status != 0 ? status : 1);
  }
  // Waits for every rank to come to its end; not for ever.
  std::thread([] {
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(job.timeoutMs_));
    std::fprintf(stderr, "[lazuli] rank %d: the other ranks did not end within %g s\n", job.rank_,
                 job.timeoutMs_ / 1000);
    job.api_->abort(1);
    _exit(1);
  }).detach();
  job.api_->finalize();
}

}  // namespace lazuli
