#pragma once

#include <random>

#include "program_writer.h"

namespace lazuli::test {

/// Endless variations of a program's words: some still programs, most not.
class ProgramMutations {
 public:
  ProgramMutations(Words words, uint32_t seed) : words_(std::move(words)), random_(seed) {}

  Words next() {
    const uint32_t edges[] = {0, 1, 2, 3, 7, 8, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffffe};
    Words changed = words_;
    size_t changes = 1 + below(3);
    for (size_t i = 0; i < changes; i++) {
      uint32_t& word = changed[below(changed.size())];
      switch (below(4)) {
        case 0:
          word = edges[below(std::size(edges))];
          break;
        case 1:
          word ^= 1u << below(32);
          break;
        case 2:
          word += static_cast<uint32_t>(below(5)) - 2;
          break;
        default:
          word = words_[below(words_.size())];
      }
    }
    if (below(8) == 0) changed.resize(below(changed.size()) + 1);
    return changed;
  }

 private:
  size_t below(size_t limit) { return static_cast<size_t>(random_() % limit); }

  Words words_;
  std::mt19937 random_;
};

}  // namespace lazuli::test
