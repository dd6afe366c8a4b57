#include "build.h"

#include "device_harness.h"
#if LAZULI_HAVE_CUDA
#include "cuda_programs.h"
#endif

#include <algorithm>
#include <cstring>

namespace lazuli::test {

ValueId ProgramBuilder::elementwise(Op op, const std::vector<ValueId>& operands, std::vector<Attr> attrs) {
  Dims to;
  for (ValueId operand : operands) {
    Dims dims = shape(operand);
    if (dims.size() > to.size()) to.insert(to.begin(), dims.size() - to.size(), 1);
    for (size_t i = 0; i < dims.size(); i++) {
      int64_t& dim = to[to.size() - dims.size() + i];
      if (dims[i] != 1) dim = dims[i];
    }
  }
  DType dtype = type(operands.back()).dtype;
  switch (op) {
    case Op::logical_not:
    case Op::isnan:
    case Op::isinf:
    case Op::isfinite:
    case Op::eq:
    case Op::ne:
    case Op::lt:
    case Op::le:
    case Op::gt:
    case Op::ge:
    case Op::logical_and:
    case Op::logical_or:
    case Op::logical_xor:
      dtype = DType::boolean;
      break;
    default:
      break;
  }
  return node(op, operands, {dtype, to}, std::move(attrs));
}

ValueId ProgramBuilder::reduce(Op op, ValueId x, const Dims& dims, bool keepdim) {
  Dims to;
  for (size_t i = 0; i < shape(x).size(); i++) {
    const bool reduced = std::find(dims.begin(), dims.end(), static_cast<int64_t>(i)) != dims.end();
    if (!reduced) to.push_back(shape(x)[i]);
    if (reduced && keepdim) to.push_back(1);
  }
  const bool arg = op == Op::argmax || op == Op::argmin;
  return node(op, {x}, {arg ? DType::i32 : type(x).dtype, to},
              {arg ? Attr(dims.at(0)) : Attr(dims), static_cast<int64_t>(keepdim)});
}

ValueId ProgramBuilder::transpose(ValueId x, const Dims& perm) {
  Dims to;
  for (int64_t dim : perm) to.push_back(shape(x)[static_cast<size_t>(dim)]);
  return node(Op::transpose, {x}, {type(x).dtype, to}, {perm});
}

ValueId ProgramBuilder::slice(ValueId x, const Dims& starts, const Dims& limits, const Dims& steps) {
  Dims to;
  for (size_t i = 0; i < starts.size(); i++) to.push_back((limits[i] - starts[i] + steps[i] - 1) / steps[i]);
  return node(Op::slice, {x}, {type(x).dtype, to}, {starts, limits, steps});
}

ValueId ProgramBuilder::pad(ValueId x, const Dims& low, const Dims& high, const Dims& interior,
                            double value) {
  Dims to = shape(x);
  for (size_t i = 0; i < to.size(); i++)
    to[i] = low[i] + to[i] + std::max<int64_t>(to[i] - 1, 0) * interior[i] + high[i];
  return node(Op::pad, {x}, {type(x).dtype, to}, {low, high, interior, value});
}

ValueId ProgramBuilder::concat(const std::vector<ValueId>& pieces, int64_t dim) {
  TensorType to = type(pieces[0]);
  for (size_t i = 1; i < pieces.size(); i++)
    to.shape[static_cast<size_t>(dim)] += shape(pieces[i])[static_cast<size_t>(dim)];
  return node(Op::concat, pieces, to, {dim});
}

ValueId ProgramBuilder::matmul(ValueId a, ValueId b) {
  return node(Op::dot_general, {a, b}, {type(a).dtype, {shape(a)[0], shape(b)[1]}},
              {Dims{1}, Dims{0}, Dims{}, Dims{}});
}

std::vector<Array> runLowered(const Lowered& lowered, const std::vector<Array>& inputs, bool share) {
  std::vector<std::vector<std::byte>> memory;
  std::vector<int> home(lowered.values.size(), -1);
  const auto give = [&](ValueId value, std::vector<std::byte> bytes) {
    home[value] = static_cast<int>(memory.size());
    memory.push_back(std::move(bytes));
  };
  for (ValueId i = 0; i < inputs.size(); i++) give(i, inputs[i].bytes);
  for (const auto& [value, bytes] : lowered.constants) {
    std::vector<std::byte> copy(bytes.size());
    std::memcpy(copy.data(), bytes.data(), bytes.size());
    give(value, std::move(copy));
  }
  const size_t fixed = memory.size();
  std::vector<size_t> lastRead(lowered.values.size(), 0);
  for (size_t s = 0; s < lowered.steps.size(); s++)
    for (ValueId read : lowered.steps[s].reads) lastRead[read] = s;
  for (ValueId output : lowered.outputs) lastRead[output] = lowered.steps.size();
  for (size_t s = 0; s < lowered.steps.size(); s++) {
    const Step& step = lowered.steps[s];
    std::vector<const std::byte*> reads;
    std::vector<std::byte*> writes;
    std::vector<bool> taken(step.reads.size(), false);
    for (uint32_t w = 0; w < step.writes.size(); w++) {
      const ValueId value = step.writes[w];
      EXPECT_EQ(home[value], -1) << "written twice";
      for (const auto& [write, read] : step.made.inPlace) {
        const ValueId from = step.reads[read];
        if (!share || write != w || taken[read] || home[value] >= 0 || lastRead[from] != s) continue;
        if (std::count(step.reads.begin(), step.reads.end(), from) > 1) continue;  // as storage.cpp has it
        if (home[from] < static_cast<int>(fixed) ||
            lowered.values[from].bytes() != lowered.values[value].bytes())
          continue;
        home[value] = home[from];
        taken[read] = true;
      }
      if (home[value] < 0)
        give(value, std::vector<std::byte>(lowered.values[value].bytes(), std::byte{0xa5}));
    }
    for (ValueId read : step.reads) {
      EXPECT_GE(home[read], 0) << "read before it is written: " << read;
      reads.push_back(memory[static_cast<size_t>(home[read])].data());
    }
    for (ValueId write : step.writes) writes.push_back(memory[static_cast<size_t>(home[write])].data());
    std::unique_ptr<std::byte, void (*)(void*)> scratch(
        static_cast<std::byte*>(std::aligned_alloc(64, (step.made.scratchBytes + 127) / 64 * 64)), std::free);
    step.made.kernel->run({reads.data(), writes.data(), scratch.get()});
  }
  std::vector<Array> outputs;
  for (ValueId output : lowered.outputs) {
    Array array(lowered.values[output].dtype, lowered.values[output].shape);
    array.bytes = memory[static_cast<size_t>(home[output])];
    outputs.push_back(std::move(array));
  }
  return outputs;
}

bool onlyFewPrograms() {
#if LAZULI_HAVE_CUDA
  return testsCubins() || onCuda();
#else
  return false;
#endif
}

bool isNear(const Array& expected, const Array& actual, int64_t i, double tolerance, double scale) {
  const double want = expected.at(i), got = actual.at(i);
  if (std::isnan(want) ? std::isnan(got) : want == got) return true;
  const double allowed = isFloat(expected.type.dtype) ? tolerance * std::max(scale, std::abs(want)) : 0;
  return std::abs(want - got) <= allowed;
}

void expectReference(const Program& program, const std::vector<Array>& inputs, double tolerance,
                     double scale) {
#if LAZULI_HAVE_CUDA
  if (testsCubins() || onCuda()) return expectReferenceOfCuda(program, inputs, tolerance, scale);
#endif
  const std::vector<Array> expected = reference(program, inputs);
  for (bool fuse : {true, false}) {
    const Lowered lowered = lower(program, fuse);
    for (bool share : {false, true}) {
      const std::vector<Array> actual = runLowered(lowered, inputs, share);
      ASSERT_EQ(actual.size(), expected.size());
      for (size_t k = 0; k < actual.size(); k++) {
        ASSERT_EQ(actual[k].bytes.size(), expected[k].bytes.size());
        for (int64_t i = 0; i < expected[k].type.elements(); i++) {
          ASSERT_TRUE(isNear(expected[k], actual[k], i, tolerance, scale))
              << "output " << k << " element " << i << ": " << actual[k].at(i) << ", not "
              << expected[k].at(i) << (fuse ? ", fused" : ", not fused") << "\n"
              << describe(lowered);
        }
      }
    }
  }
}

}  // namespace lazuli::test
