#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace lazuli::cuda {

/// Compiled code on disk, in files named by a hash of what it was made from; the whole of that is in the file
/// and is compared, so that two keys of one hash are told apart. Processes may share a folder: a file appears
/// whole, under its name, or not at all. What cannot be read is not there; what cannot be written is not
/// kept. Neither is an error.
class CubinCache {
 public:
  /// Holds at most `capBytes`: the files used least recently go first.
  CubinCache(std::filesystem::path folder, uint64_t capBytes)
      : folder_(std::move(folder)), capBytes_(capBytes) {}

  /// $LAZULI_CACHE_DIR/cubin, or lazuli/cubin in $XDG_CACHE_HOME (~/.cache); LAZULI_CUBIN_CACHE_MB (512) is
  /// its cap, 0 turns it off.
  static CubinCache fromEnvironment();

  std::optional<std::vector<std::byte>> find(const std::string& key) const;
  void put(const std::string& key, const std::vector<std::byte>& image) const;

  /// Where the code of a key lies.
  std::filesystem::path fileOf(const std::string& key) const;

 private:
  void evict() const;

  std::filesystem::path folder_;
  uint64_t capBytes_;
};

/// FNV-1a, 64 bits.
uint64_t hashOf(const void* data, size_t size, uint64_t start = 0xcbf29ce484222325u);

}  // namespace lazuli::cuda
