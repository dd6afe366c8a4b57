#pragma once

#include <initializer_list>
#include <string>
#include <vector>

namespace lazuli::cuda {

/// A shared library that is opened at run time, so that one addon serves machines with and without it.
/// LAZULI_CUDA_PATH (folders or files, separated by ':') comes before the loader's own places, then come
/// those of the toolkit (CUDA_HOME, CUDA_PATH, /usr/local/cuda) and of the pip packages in a folder beside
/// the addon.
class Library {
 public:
  /// Opens the first of `names` that is found. Throws CudaError that tells where it was looked for.
  explicit Library(std::initializer_list<const char*> names);
  /// Throws CudaError where the library has no such function: it is too old.
  void* symbol(const char* name) const;
  const std::string& path() const { return path_; }

 private:
  void* handle_ = nullptr;
  std::string path_;
};

}  // namespace lazuli::cuda
