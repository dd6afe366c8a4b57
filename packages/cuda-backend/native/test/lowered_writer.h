#pragma once

#include <functional>

#include "kernel.h"

namespace lazuli::test {

/// A kernel that is a function: what the planner and the executor are tested with.
class TestKernel final : public Kernel {
 public:
  using Body = std::function<void(const KernelArgs&)>;
  explicit TestKernel(Body body) : body_(std::move(body)) {}
  void run(const KernelArgs& args) const override {
    if (body_) body_(args);
  }

 private:
  Body body_;
};

/// Builds what a lowering gives, step by step. Values are numbered in the order they are made.
class LoweredWriter {
 public:
  using InPlace = std::vector<std::pair<uint32_t, uint32_t>>;

  ValueId value(size_t bytes) {
    lowered.values.push_back({DType::u8, {static_cast<int64_t>(bytes)}});
    return static_cast<ValueId>(lowered.values.size() - 1);
  }
  /// Inputs come before every other value.
  ValueId input(size_t bytes, bool isDonated = false) {
    donated.push_back(isDonated);
    return value(bytes);
  }
  ValueId constant(std::vector<uint8_t> data) {
    ValueId made = value(data.size());
    lowered.constants.emplace_back(made, std::move(data));
    return made;
  }
  Step& step(std::vector<ValueId> reads, std::vector<ValueId> writes, InPlace inPlace = {},
             TestKernel::Body body = nullptr) {
    Step step;
    step.made.kernel = std::make_unique<TestKernel>(std::move(body));
    step.made.label = "step " + std::to_string(lowered.steps.size());
    step.made.inPlace = std::move(inPlace);
    step.reads = std::move(reads);
    step.writes = std::move(writes);
    step.node = static_cast<int64_t>(lowered.steps.size());
    lowered.steps.push_back(std::move(step));
    return lowered.steps.back();
  }
  void output(ValueId value) { lowered.outputs.push_back(value); }

  Lowered lowered;
  std::vector<bool> donated;
};

}  // namespace lazuli::test
