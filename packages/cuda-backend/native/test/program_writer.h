#pragma once

#include <bit>
#include <span>
#include <vector>

#include "program.h"

namespace lazuli::test {

using Words = std::vector<uint32_t>;

inline TensorType f32(Dims shape) { return {DType::f32, std::move(shape)}; }
inline TensorType type(DType dtype, Dims shape) { return {dtype, std::move(shape)}; }

/// Writes programs as packages/fx-trace/src/encode.ts does. A Ref is as on the wire.
class ProgramWriter {
 public:
  using Ref = uint32_t;

  Ref input(const TensorType& type, bool donated = false) {
    push(inputs_, type);
    inputs_.push_back(donated ? 1 : 0);
    return inputCount_++ * 2 + 1;
  }

  /// Of one result; `attrs` are the words of the attributes in schema order.
  Ref node(Op op, const std::vector<Ref>& operands, const TensorType& result, const Words& attrs = {}) {
    return nodeOf(op, operands, {result}, attrs);
  }

  /// Of several results: refer to them with `result`.
  Ref nodeOf(Op op, const std::vector<Ref>& operands, const std::vector<TensorType>& results,
             const Words& attrs = {}) {
    nodes_.push_back(static_cast<uint32_t>(op));
    nodes_.push_back(static_cast<uint32_t>(operands.size()));
    nodes_.insert(nodes_.end(), operands.begin(), operands.end());
    nodes_.push_back(static_cast<uint32_t>(results.size()));
    for (const TensorType& type : results) push(nodes_, type);
    nodes_.insert(nodes_.end(), attrs.begin(), attrs.end());
    if (results.size() == 1) values_.push_back(nodeCount_ * 2);
    return nodeCount_++ * 2;
  }

  /// Of a collective that is only started: no output may be its value.
  Ref started(Op op, Ref operand, const TensorType& result, const Words& attrs) {
    const Ref ref = node(op, {operand}, result, attrs);
    values_.pop_back();
    return ref;
  }
  Ref done(Ref started, Ref operand, const TensorType& result, int64_t bucket = -1) {
    return node(Op::collective_done, {started, operand}, result, integer(bucket));
  }

  Ref result(Ref of, int64_t index, const TensorType& type) {
    return node(Op::result, {of}, type, integer(index));
  }

  void output(Ref ref) { outputs_.push_back(ref); }

  /// Makes every node an output: none is left out as unused.
  void outputEverything() { outputs_ = values_; }

  Words words() const {
    Words words = {0x4c5a4c31, 1, inputCount_, nodeCount_, static_cast<uint32_t>(outputs_.size())};
    words.insert(words.end(), inputs_.begin(), inputs_.end());
    words.insert(words.end(), nodes_.begin(), nodes_.end());
    words.insert(words.end(), outputs_.begin(), outputs_.end());
    return words;
  }

  // Attributes as words.
  static Words integer(int64_t value) {
    uint64_t bits = static_cast<uint64_t>(value);
    return {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)};
  }
  static Words real(double value) { return integer(std::bit_cast<int64_t>(value)); }
  static Words word(uint32_t value) { return {value}; }
  static Words ints(const std::vector<int64_t>& values) {
    Words words = {static_cast<uint32_t>(values.size())};
    for (int64_t value : values) words = join({words, integer(value)});
    return words;
  }
  static Words bytes(std::span<const uint8_t> bytes) {
    Words words(1 + (bytes.size() + 3) / 4);
    words[0] = static_cast<uint32_t>(bytes.size());
    for (size_t i = 0; i < bytes.size(); i++)
      words[1 + i / 4] |= static_cast<uint32_t>(bytes[i]) << (i % 4 * 8);
    return words;
  }
  static Words join(const std::vector<Words>& parts) {
    Words words;
    for (const Words& part : parts) words.insert(words.end(), part.begin(), part.end());
    return words;
  }

 private:
  static void push(Words& words, const TensorType& type) {
    words.push_back(static_cast<uint32_t>(type.dtype));
    words.push_back(static_cast<uint32_t>(type.shape.size()));
    for (int64_t dim : type.shape) words.push_back(static_cast<uint32_t>(dim));
  }

  Words inputs_, nodes_, outputs_, values_;
  uint32_t inputCount_ = 0, nodeCount_ = 0;
};

}  // namespace lazuli::test
