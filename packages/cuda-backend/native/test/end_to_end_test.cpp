// From words to bytes through every stage, with the device's real lowering and kernels.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <future>
#include <new>
#include <random>

#include "device.h"
#include "kernel.h"
#include "program_mutations.h"
#include "program_samples.h"

namespace lazuli::test {
namespace {

using W = ProgramWriter;

/// Memory of one value alone: exactly its size, so that a sanitizer sees every access outside.
class Exact {
 public:
  explicit Exact(size_t bytes)
      : bytes_(bytes), data_(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{64}))) {}
  Exact(Exact&& other) noexcept : bytes_(other.bytes_), data_(std::exchange(other.data_, nullptr)) {}
  ~Exact() { ::operator delete (data_, std::align_val_t{64}); }
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_;
  std::byte* data_;
};

/// Numbers that suit every op: floats around 1, indices mostly in range, bools.
void fillInput(const TensorType& type, std::byte* data, std::mt19937& random) {
  for (int64_t i = 0; i < type.elements(); i++) {
    int small = static_cast<int>(random() % 40);
    int index = random() % 400 == 0 ? -7 : small % 3;  // now and then out of range
    float value = 0.25f * static_cast<float>(small - 8);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    double wide = value;
    int64_t integer = index;
    uint16_t half = type.dtype == DType::bf16 ? static_cast<uint16_t>(bits >> 16) : uint16_t{0x3c00};
    uint8_t byte = type.dtype == DType::boolean ? small % 2 : static_cast<uint8_t>(small);
    size_t size = sizeBytes(type.dtype);
    const void* from = &byte;
    if (type.dtype == DType::f32) from = &value;
    if (type.dtype == DType::f64) from = &wide;
    if (size == 2) from = &half;
    if (type.dtype == DType::i32 || type.dtype == DType::i64) from = &integer;  // little-endian
    std::memcpy(data + static_cast<size_t>(i) * size, from, size);
  }
}

/// Runs the lowered steps in order, each value in memory of its own.
void runApart(const Program& program, const Lowered& lowered, std::mt19937& random) {
  std::vector<std::unique_ptr<Exact>> memory(lowered.values.size());
  auto make = [&](ValueId v) { memory[v] = std::make_unique<Exact>(lowered.values[v].bytes()); };
  for (ValueId v = 0; v < program.inputCount; v++) {
    make(v);
    fillInput(lowered.values[v], memory[v]->data(), random);
  }
  for (const auto& [v, data] : lowered.constants) {
    make(v);
    if (!data.empty()) std::memcpy(memory[v]->data(), data.data(), data.size());
  }
  for (const Step& step : lowered.steps) {
    std::vector<const std::byte*> reads;
    std::vector<std::byte*> writes;
    for (ValueId v : step.reads) {
      ASSERT_TRUE(memory[v]) << step.made.label;
      reads.push_back(memory[v]->data());
    }
    for (ValueId v : step.writes) {
      make(v);
      std::memset(memory[v]->data(), 0xff, memory[v]->bytes());  // NaN, for reads before writes
      writes.push_back(memory[v]->data());
    }
    Exact scratch(step.made.scratchBytes);
    step.made.kernel->run({reads.data(), writes.data(), scratch.data()});
  }
  for (ValueId v : lowered.outputs) ASSERT_TRUE(memory[v]);
}

size_t bytesOf(const Program& program) {
  size_t bytes = 0;
  for (const auto& value : program.values) bytes += value.type.bytes();
  return bytes;
}

/// Decodes, lowers and runs. An error of the program is an answer; anything else is not.
bool survives(const Words& words, std::mt19937& random) {
  try {
    Program program = decode(words);
    if (bytesOf(program) > (size_t{8} << 20)) return false;
    runApart(program, lowerForCpu(program), random);
    return true;
  } catch (const ProgramError&) {
    return false;
  }
}

TEST(EndToEnd, EveryOpStaysInItsMemory) {
  std::mt19937 random(1);
  int ran = 0;
  for (int round = 0; round < 40; round++) ran += survives(everyOp(true), random);
  EXPECT_GT(ran, 20);
  EXPECT_LT(ran, 40);
}

TEST(EndToEnd, ChangedProgramsStayInTheirMemory) {
  std::mt19937 random(11);
  for (bool allOutputs : {false, true}) {
    ProgramMutations mutations(everyOp(allOutputs), 3);
    int ran = 0;
    for (int round = 0; round < 2000; round++) ran += survives(mutations.next(), random);
    EXPECT_GT(ran, 50);
  }
}

/// The same program on the device twice and apart: memory that is shared must not show.
TEST(EndToEnd, TheDeviceGivesWhatTheStepsAloneGive) {
  W w;
  const TensorType x35 = f32({3, 5});
  auto p = w.input(x35, true), g = w.input(x35), s = w.input(f32({}));
  auto scaled = w.node(Op::mul, {g, s}, x35);
  auto soft = w.node(Op::softmax, {scaled}, x35);
  auto total = w.node(Op::sum, {soft}, f32({3, 1}), W::join({W::ints({1}), W::word(1)}));
  auto moved = w.node(Op::sub, {p, w.node(Op::mul, {soft, total}, x35)}, x35);
  auto product = w.node(Op::dot_general, {moved, soft}, f32({3, 3}),
                        W::join({W::ints({1}), W::ints({1}), W::ints({}), W::ints({})}));
  for (auto ref : {moved, product, soft, moved}) w.output(ref);

  auto device = makeCpuDevice({});
  ExecutableId id = device->compile(w.words(), false);
  auto upload = [&](BufferId buffer, std::vector<float> values) {
    device->upload(buffer, std::as_bytes(std::span(values)));
  };
  std::vector<float> ps(15), gs(15);
  for (size_t i = 0; i < 15; i++) ps[i] = static_cast<float>(i), gs[i] = static_cast<float>(i % 4);
  upload(1, ps);
  upload(2, gs);
  upload(3, {0.5f});
  std::promise<RunResult> done;
  device->run(id, std::vector<BufferId>{1, 2, 3}, std::vector<BufferId>{4, 5, 6, 7}, false,
              [&](RunResult result) { done.set_value(std::move(result)); });
  ASSERT_EQ(done.get_future().get().error, "");
  auto read = [&](BufferId buffer) {
    std::vector<float> values(device->bufferBytes(buffer) / 4);
    std::promise<std::string> copied;
    device->download(buffer, std::as_writable_bytes(std::span(values)),
                     [&](std::string error) { copied.set_value(std::move(error)); });
    EXPECT_EQ(copied.get_future().get(), "");
    return values;
  };
  std::vector<float> softened = read(6), updated = read(4), dots = read(5);
  EXPECT_EQ(read(7), updated);
  for (size_t row = 0; row < 3; row++) {
    float sum = 0;
    for (size_t i = 0; i < 5; i++) sum += std::exp(0.5f * gs[row * 5 + i]);
    for (size_t i = 0; i < 5; i++) {
      float expected = std::exp(0.5f * gs[row * 5 + i]) / sum;
      EXPECT_NEAR(softened[row * 5 + i], expected, 1e-6);
      EXPECT_NEAR(updated[row * 5 + i], ps[row * 5 + i] - expected, 1e-5);
    }
    for (size_t column = 0; column < 3; column++) {
      float dot = 0;
      for (size_t i = 0; i < 5; i++) dot += updated[row * 5 + i] * softened[column * 5 + i];
      EXPECT_NEAR(dots[row * 3 + column], dot, 1e-4);
    }
  }
}

}  // namespace
}  // namespace lazuli::test
