#include "cuda/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "cuda/driver.h"

namespace lazuli::cuda {
namespace {

/// Folders and files to look in before and after the loader's own places.
std::vector<std::string> split(const char* text) {
  std::vector<std::string> parts;
  std::istringstream stream(text ? text : "");
  for (std::string part; std::getline(stream, part, ':');)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

std::vector<std::string> toolkitFolders() {
  std::vector<std::string> folders;
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"})
    if (const char* home = std::getenv(variable)) folders.push_back(std::string(home) + "/lib64");
  folders.push_back("/usr/local/cuda/lib64");
  return folders;
}

}  // namespace

Library::Library(std::initializer_list<const char*> names) {
  std::vector<std::string> tried;
  const auto attempt = [&](const std::string& path) {
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_) path_ = path;
    return handle_ != nullptr;
  };
  for (const std::string& place : split(std::getenv("LAZULI_CUDA_PATH"))) {
    std::error_code ignored;
    if (!std::filesystem::is_directory(place, ignored)) {
      if (attempt(place)) return;
      continue;
    }
    for (const char* name : names)
      if (attempt(place + "/" + name)) return;
  }
  for (const char* name : names)
    if (attempt(name)) return;
  for (const std::string& folder : toolkitFolders())
    for (const char* name : names)
      if (attempt(folder + "/" + name)) return;
  throw CudaError(std::string(*names.begin()) +
                  " was not found: not by the system's loader, nor in CUDA_HOME or /usr/local/cuda, nor in "
                  "LAZULI_CUDA_PATH (folders separated by ':')");
}

void* Library::symbol(const char* name) const {
  void* found = dlsym(handle_, name);
  if (!found) throw CudaError(path_ + " has no " + name + ": it is too old");
  return found;
}

}  // namespace lazuli::cuda
