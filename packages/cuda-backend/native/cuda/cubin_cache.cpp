#include "cuda/cubin_cache.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

namespace lazuli::cuda {
namespace {

namespace fs = std::filesystem;

constexpr char kMagic[8] = {'L', 'Z', 'C', 'U', 'B', 'I', 'N', '1'};
constexpr uint64_t kLargest = uint64_t{1} << 30;  // bytes of a key or an image; more is no file of ours

/// In front of the key, which the image follows.
struct Header {
  char magic[8];
  uint64_t keyBytes, imageBytes;
  uint64_t hash;  // of key and image
};

uint64_t contentHash(const std::string& key, const std::vector<std::byte>& image) {
  return hashOf(image.data(), image.size(), hashOf(key.data(), key.size()));
}

const char* environment(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? value : nullptr;
}

}  // namespace

uint64_t hashOf(const void* data, size_t size, uint64_t start) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  uint64_t hash = start;
  for (size_t i = 0; i < size; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

CubinCache CubinCache::fromEnvironment() {
  uint64_t megabytes = 512;
  if (const char* said = environment("LAZULI_CUBIN_CACHE_MB")) megabytes = std::strtoull(said, nullptr, 10);
  fs::path folder;
  if (const char* own = environment("LAZULI_CACHE_DIR")) {
    folder = own;
  } else if (const char* shared = environment("XDG_CACHE_HOME")) {
    folder = fs::path(shared) / "lazuli";
  } else if (const char* home = environment("HOME")) {
    folder = fs::path(home) / ".cache" / "lazuli";
  } else {
    megabytes = 0;
  }
  return CubinCache(folder / "cubin", megabytes << 20);
}

fs::path CubinCache::fileOf(const std::string& key) const {
  char name[40];
  std::snprintf(name, sizeof name, "%016llx.cubin",
                static_cast<unsigned long long>(hashOf(key.data(), key.size())));
  return folder_ / name;
}

std::optional<std::vector<std::byte>> CubinCache::find(const std::string& key) const {
  if (capBytes_ == 0) return std::nullopt;
  const fs::path path = fileOf(key);
  std::ifstream file(path, std::ios::binary);
  Header header;
  if (!file.read(reinterpret_cast<char*>(&header), sizeof header)) return std::nullopt;
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0 || header.keyBytes != key.size() ||
      header.imageBytes > kLargest)
    return std::nullopt;
  std::string found(key.size(), '\0');
  std::vector<std::byte> image(header.imageBytes);
  if (!file.read(found.data(), static_cast<std::streamsize>(found.size())) ||
      !file.read(reinterpret_cast<char*>(image.data()), static_cast<std::streamsize>(image.size())))
    return std::nullopt;
  if (found != key || header.hash != contentHash(key, image)) return std::nullopt;
  std::error_code ignored;
  fs::last_write_time(path, fs::file_time_type::clock::now(), ignored);  // used now
  return image;
}

void CubinCache::put(const std::string& key, const std::vector<std::byte>& image) const {
  if (capBytes_ == 0 || key.size() > kLargest || image.size() > kLargest) return;
  std::error_code error;
  fs::create_directories(folder_, error);
  // One of this process's threads alone writes it; the rename puts it in place whole.
  static std::atomic<uint64_t> written{0};
  const fs::path path = fileOf(key);
  fs::path temporary = path;
  temporary += "." + std::to_string(getpid()) + "." + std::to_string(written++) + ".tmp";
  Header header{{}, key.size(), image.size(), contentHash(key, image)};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(&header), sizeof header);
    file.write(key.data(), static_cast<std::streamsize>(key.size()));
    file.write(reinterpret_cast<const char*>(image.data()), static_cast<std::streamsize>(image.size()));
    file.close();
    if (file) fs::rename(temporary, path, error);
    if (!file || error) {
      fs::remove(temporary, error);
      return;
    }
  }
  evict();
}

void CubinCache::evict() const {
  struct File {
    fs::path path;
    fs::file_time_type used;
    uint64_t bytes;
  };
  std::vector<File> files;
  uint64_t total = 0;
  std::error_code error;
  const auto now = fs::file_time_type::clock::now();
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;  // another process may take a file away at any time
    File file{it->path(), it->last_write_time(gone), 0};
    if (!gone) file.bytes = it->file_size(gone);
    if (gone) continue;
    if (file.path.extension() == ".tmp") {
      // Of a process that did not come to its rename.
      if (now - file.used > std::chrono::hours(1)) fs::remove(file.path, gone);
      continue;
    }
    if (file.path.extension() != ".cubin") continue;
    total += file.bytes;
    files.push_back(std::move(file));
  }
  if (total <= capBytes_) return;
  std::sort(files.begin(), files.end(), [](const File& a, const File& b) { return a.used < b.used; });
  // Somewhat below the cap, so that not every file that is put looks through the folder in vain.
  for (const File& file : files) {
    if (total <= capBytes_ / 10 * 9) return;
    fs::remove(file.path, error);
    total -= file.bytes;
  }
}

}  // namespace lazuli::cuda
