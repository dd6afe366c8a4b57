#pragma once

#include <initializer_list>
#include <vector>

#include "cuda/launch.h"

namespace lazuli::cuda {

/// CUDA C that is compiled when it is first run on a GPU of some architecture. Equal texts are one Source,
/// compiled once.
class Source {
 public:
  /// `text` follows `#include "fused_reduce.h"` (device/fused.h); `detail` is what it computes, for errors.
  static std::shared_ptr<const Source> of(const std::string& text, const std::string& detail);
  ~Source();

  const std::string& text() const;
  bool isCompiled(const Target& target) const;
  /// The compiled code: this process's, the disk's (cubin_cache.h), or made now. Throws ProgramError with
  /// NVRTC's words where it does not compile, CudaError where there is no NVRTC.
  std::shared_ptr<const Module> module(const Target& target) const;

 private:
  friend void compileTogether(const std::vector<std::shared_ptr<const Source>>& sources,
                              const Target& target);
  struct State;
  explicit Source(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Compiles those that are not compiled yet, several at a time.
void compileAll(const std::vector<std::shared_ptr<const Source>>& sources, const Target& target);

/// As one text, without the disk: quicker where many are small and none will be met again.
void compileTogether(const std::vector<std::shared_ptr<const Source>>& sources, const Target& target);

/// NVRTC's library.
class Nvrtc {
 public:
  /// That of the machine, opened when it is first asked for. Throws CudaError where there is none.
  static const Nvrtc& get();
  /// The first of `names` that Library finds.
  explicit Nvrtc(std::initializer_list<const char*> names);
  ~Nvrtc();

  /// The code of a text that follows `#include "fused_reduce.h"`, for an architecture (80: sm_80, 90:
  /// sm_90a): for the machine, or PTX where the architecture is newer than NVRTC. Throws ProgramError with
  /// the first lines of what it says of the text.
  std::vector<std::byte> compile(const std::string& text, int arch) const;
  /// All that its code depends on: the text, what it includes, how it is compiled and by what.
  std::string keyOf(const std::string& text, int arch) const;

 private:
  struct Functions;
  struct Program;
  std::pair<std::string, bool> archOption(int arch) const;
  std::vector<std::string> optionsFor(int arch) const;
  std::unique_ptr<Functions> functions_;
};

}  // namespace lazuli::cuda
