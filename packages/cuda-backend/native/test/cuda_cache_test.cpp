// The cubin cache: what is kept, what goes, and what several processes and broken files do to it.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "cuda/cubin_cache.h"

namespace lazuli::cuda {
namespace {

namespace fs = std::filesystem;

class CudaCache : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "lazuli-cache-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    std::error_code ignored;
    fs::permissions(folder_, fs::perms::owner_all, ignored);
    fs::remove_all(folder_, ignored);
  }

  static std::vector<std::byte> image(size_t bytes, int seed) {
    std::vector<std::byte> made(bytes);
    for (size_t i = 0; i < bytes; i++)
      made[i] = static_cast<std::byte>(i * 31 + static_cast<size_t>(seed) * 7);
    return made;
  }
  size_t files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  fs::path folder_;
};

constexpr uint64_t kRoom = 1 << 30;

TEST_F(CudaCache, FindsWhatWasPut) {
  const CubinCache cache(folder_ / "new" / "cubin", kRoom);
  EXPECT_FALSE(cache.find("key"));
  cache.put("key", image(1000, 1));
  cache.put("other", image(0, 2));
  EXPECT_EQ(cache.find("key"), image(1000, 1));
  EXPECT_EQ(cache.find("other"), image(0, 2));
  cache.put("key", image(20, 3));
  EXPECT_EQ(cache.find("key"), image(20, 3));
}

TEST_F(CudaCache, TellsKeysOfOneHashApart) {
  const CubinCache cache(folder_, kRoom);
  cache.put("key", image(100, 1));
  // As if the two had one name.
  fs::rename(cache.fileOf("key"), cache.fileOf("yek"));
  EXPECT_FALSE(cache.find("yek"));
}

TEST_F(CudaCache, BrokenFilesAreNotThere) {
  const CubinCache cache(folder_, kRoom);
  cache.put("key", image(1000, 1));
  const fs::path file = cache.fileOf("key");
  const auto size = fs::file_size(file);
  for (uintmax_t kept : {size - 1, size / 2, uintmax_t{20}, uintmax_t{0}}) {
    cache.put("key", image(1000, 1));
    fs::resize_file(file, kept);
    EXPECT_FALSE(cache.find("key")) << kept;
  }
  for (uintmax_t at = 0; at < size; at += 13) {
    cache.put("key", image(1000, 1));
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(stream.get() ^ 0x10);
    stream.seekp(static_cast<std::streamoff>(at));
    stream.put(byte);
    stream.close();
    EXPECT_FALSE(cache.find("key")) << at;
  }
  cache.put("key", image(1000, 1));
  EXPECT_EQ(cache.find("key"), image(1000, 1));
}

TEST_F(CudaCache, TheLeastRecentlyUsedGoFirst) {
  const CubinCache cache(folder_, 10000);
  const auto age = [&](const std::string& key, int hours) {
    fs::last_write_time(cache.fileOf(key), fs::file_time_type::clock::now() - std::chrono::hours(hours));
  };
  for (int i = 0; i < 8; i++) {
    cache.put("key" + std::to_string(i), image(1000, i));
    age("key" + std::to_string(i), 100 - i);
  }
  EXPECT_TRUE(cache.find("key0"));  // used now
  for (int i = 8; i < 11; i++) cache.put("key" + std::to_string(i), image(1000, i));
  EXPECT_TRUE(cache.find("key0"));
  EXPECT_FALSE(cache.find("key1"));
  EXPECT_TRUE(cache.find("key10"));
  uint64_t total = 0;
  for (const auto& entry : fs::directory_iterator(folder_)) total += entry.file_size();
  EXPECT_LE(total, 10000u);
}

TEST_F(CudaCache, RestsOfProcessesThatEndedAreTakenAway) {
  const CubinCache cache(folder_, kRoom);
  const fs::path rest = folder_ / "0123.cubin.1.1.tmp", fresh = folder_ / "0123.cubin.1.2.tmp";
  for (const fs::path& path : {rest, fresh}) std::ofstream(path) << "half";
  fs::last_write_time(rest, fs::file_time_type::clock::now() - std::chrono::hours(2));
  cache.put("key", image(10, 1));
  EXPECT_FALSE(fs::exists(rest));
  EXPECT_TRUE(fs::exists(fresh));
}

TEST_F(CudaCache, WithoutRoomOrAFolderThereIsNone) {
  const CubinCache off(folder_, 0);
  off.put("key", image(10, 1));
  EXPECT_EQ(files(), 0u);
  EXPECT_FALSE(off.find("key"));
  // A file where the folder would be: root may write into any folder.
  std::ofstream(folder_ / "file") << "x";
  const CubinCache nowhere(folder_ / "file" / "cubin", kRoom);
  nowhere.put("key", image(10, 1));
  EXPECT_FALSE(nowhere.find("key"));
}

TEST_F(CudaCache, ProcessesAndThreadsShareIt) {
  constexpr int kKeys = 12, kRounds = 60;
  const auto work = [&](unsigned seed) {
    // So little room that files go while others read them.
    const CubinCache cache(folder_, 30000);
    int wrong = 0;
    for (int i = 0; i < kRounds; i++) {
      const int k = static_cast<int>((static_cast<unsigned>(i) * 7 + seed * 5) % kKeys);
      const std::string key = "key" + std::to_string(k);
      const auto found = cache.find(key);
      if (found && *found != image(4000, k)) wrong++;
      if (!found) cache.put(key, image(4000, k));
    }
    return wrong;
  };
  std::vector<pid_t> children;
  for (unsigned i = 0; i < 3; i++) {
    const pid_t child = fork();
    if (child == 0) _exit(work(i));
    children.push_back(child);
  }
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (unsigned i = 3; i < 5; i++) threads.emplace_back([&, i] { wrong += work(i); });
  for (std::thread& thread : threads) thread.join();
  for (pid_t child : children) {
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(wrong, 0);
  for (const auto& entry : fs::directory_iterator(folder_)) EXPECT_EQ(entry.path().extension(), ".cubin");
}

TEST_F(CudaCache, TheEnvironmentNamesItsFolder) {
  const auto folderOf = [] { return CubinCache::fromEnvironment().fileOf("key").parent_path(); };
  const auto with = [](const char* name, const fs::path& value) { setenv(name, value.c_str(), 1); };
  const char* names[] = {"LAZULI_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "LAZULI_CUBIN_CACHE_MB"};
  std::vector<std::optional<std::string>> before;
  for (const char* name : names) {
    const char* value = std::getenv(name);
    before.push_back(value ? std::optional<std::string>(value) : std::nullopt);
    unsetenv(name);
  }
  with("HOME", folder_ / "home");
  EXPECT_EQ(folderOf(), folder_ / "home/.cache/lazuli/cubin");
  with("XDG_CACHE_HOME", folder_ / "xdg");
  EXPECT_EQ(folderOf(), folder_ / "xdg/lazuli/cubin");
  with("LAZULI_CACHE_DIR", folder_ / "own");
  EXPECT_EQ(folderOf(), folder_ / "own/cubin");
  with("LAZULI_CUBIN_CACHE_MB", "0");
  CubinCache::fromEnvironment().put("key", image(10, 1));
  EXPECT_FALSE(fs::exists(folder_ / "own"));
  for (size_t i = 0; i < before.size(); i++)
    before[i] ? setenv(names[i], before[i]->c_str(), 1) : unsetenv(names[i]);
}

}  // namespace
}  // namespace lazuli::cuda
