#include "program.h"

#include <gtest/gtest.h>

#include "program_check.h"
#include "program_mutations.h"
#include "program_samples.h"

namespace lazuli::test {
namespace {

using W = ProgramWriter;

/// The message and node of the error that decoding gives.
struct Refusal {
  std::string message;
  int64_t node;
};

Refusal refusal(const Words& words) {
  try {
    decode(words);
  } catch (const ProgramError& error) {
    return {error.what(), error.node};
  }
  return {"nothing was refused", -2};
}

void expectRefused(const W& w, const std::string& part, int64_t node) {
  Refusal found = refusal(w.words());
  EXPECT_NE(found.message.find(part), std::string::npos) << found.message;
  EXPECT_EQ(found.node, node) << found.message;
}

TEST(Program, DecodesEveryOpOfTheDevice) {
  Program program = decode(everyOp());
  std::vector<bool> seen(kOpCount);
  for (const Node& node : program.nodes) seen[static_cast<size_t>(node.op)] = true;
  for (uint32_t code = 0; code < kOpCount; code++) {
    // Decomposed or partitioned away before a device sees them.
    bool isNone = kOps[code].lower == LowerKind::composite || isPartitioned(static_cast<Op>(code));
    EXPECT_EQ(seen[code], !isNone) << kOps[code].name;
  }
}

TEST(Program, RefusesToReadACollectiveThatIsUnderWay) {
  const Words attrs = W::join({W::ints({2}), W::ints({0}), W::integer(0)});
  const TensorType whole = f32({4}), part = f32({2});
  const auto refusal = [&](const std::function<void(W&, W::Ref, W::Ref)>& build) -> std::string {
    W w;
    const W::Ref x = w.input(part), value = w.started(Op::all_gather, x, whole, attrs);
    build(w, x, value);
    try {
      decode(w.words());
    } catch (const ProgramError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal([&](W& w, W::Ref x, W::Ref value) { w.output(w.done(value, x, whole)); }), "");
  EXPECT_EQ(refusal([&](W& w, W::Ref x, W::Ref value) {
              w.done(value, x, whole);
              w.output(value);
            }),
            "an output is a collective that is under way until node 1");
  EXPECT_EQ(refusal([&](W& w, W::Ref x, W::Ref value) {
              w.output(w.done(value, x, whole));
              w.output(w.done(value, x, whole));
            }),
            "[collective_done] reads a collective that is under way until node 2");
  EXPECT_EQ(refusal([&](W& w, W::Ref x, W::Ref value) {
              auto read = w.node(Op::neg, {value}, whole);
              w.output(w.node(Op::add, {read, w.done(value, x, whole)}, whole));
            }),
            "[neg] reads a collective that is under way until node 2");
  EXPECT_EQ(refusal([&](W& w, W::Ref, W::Ref value) { w.output(w.done(value, value, whole)); }),
            "[collective_done] names a source that the collective does not read");
  EXPECT_EQ(refusal([&](W& w, W::Ref x, W::Ref) { w.output(w.done(x, x, part)); }),
            "[collective_done] waits for no collective");
}

TEST(Program, ResolvesNames) {
  W w;
  auto x = w.input(f32({2, 3})), y = w.input(f32({2, 3}), true);
  auto named = w.node(Op::input, {}, f32({2, 3}), W::join({W::integer(1), W::ints({2, 3}), W::word(0)}));
  auto sum = w.node(Op::add, {x, named}, f32({2, 3}));
  auto detached = w.node(Op::detach, {sum}, f32({2, 3}));
  auto sorted = w.nodeOf(Op::sort, {detached}, {f32({2, 3}), type(DType::i32, {2, 3})},
                         W::join({W::integer(1), W::word(0)}));
  auto indices = w.result(sorted, 1, type(DType::i32, {2, 3}));
  w.output(indices);
  w.output(y);
  Program program = decode(w.words());

  ASSERT_EQ(program.nodes.size(), 5u);
  EXPECT_EQ(program.inputCount, 2u);
  EXPECT_EQ(program.donated, (std::vector<bool>{false, true}));
  // Values: x, y, the sum, sorted values, sorted indices.
  ASSERT_EQ(program.values.size(), 5u);
  EXPECT_EQ(program.nodes[1].operands, (std::vector<ValueId>{0, 1}));
  EXPECT_EQ(program.nodes[3].operands, (std::vector<ValueId>{2}));
  EXPECT_EQ(program.nodes[3].results, (std::vector<ValueId>{3, 4}));
  EXPECT_EQ(program.outputs, (std::vector<ValueId>{4, 1}));
  for (size_t i : {0u, 2u, 4u})
    EXPECT_TRUE(program.nodes[i].operands.empty() && program.nodes[i].results.empty());
  EXPECT_EQ(program.values[4].node, 3);
  EXPECT_EQ(program.values[4].result, 1);
  EXPECT_EQ(program.nodes[3].integer(attr::sort::dim), 1);
  EXPECT_FALSE(program.nodes[3].flag(attr::sort::descending));
}

TEST(Program, DecodesAttributes) {
  W v;
  auto y = v.input(f32({2, 3}));
  v.node(Op::pad, {y}, f32({4, 5}),
         W::join({W::ints({1, 0}), W::ints({1, 2}), W::ints({0, 0}), W::real(-1.5)}));
  std::vector<uint8_t> data = {1, 2, 3, 4, 5};
  v.node(Op::constant, {}, type(DType::u8, {5}), W::join({W::ints({5}), W::word(6), W::bytes(data)}));
  Program program = decode(v.words());
  EXPECT_EQ(program.nodes[0].ints(attr::pad::high), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(program.nodes[0].number(attr::pad::value), -1.5);
  EXPECT_EQ(program.nodes[1].bytes(attr::constant::data), data);
}

TEST(Program, RefusesBrokenHeaders) {
  EXPECT_EQ(refusal({}).message, "malformed program: it ends early");
  EXPECT_EQ(refusal({1, 1, 0, 0, 0}).message, "malformed program: it does not start with the magic word");
  EXPECT_EQ(refusal({0x4c5a4c31, 2, 0, 0, 0}).message, "malformed program: unknown version");
  EXPECT_EQ(refusal({0x4c5a4c31, 1, 0xffffffff, 0, 0}).message,
            "malformed program: a count is larger than what follows");
  EXPECT_EQ(refusal({0x4c5a4c31, 1, 0, 0, 0, 9}).message, "malformed program: words follow its end");
  EXPECT_EQ(decode(Words{0x4c5a4c31, 1, 0, 0, 0}).values.size(), 0u);
}

TEST(Program, RefusesEveryPrefix) {
  Words words = everyOp();
  for (size_t size = 0; size < words.size(); size++) {
    EXPECT_THROW(decode(std::span(words).first(size)), ProgramError) << size;
  }
}

TEST(Program, RefusesWrongReferences) {
  W w;
  auto x = w.input(f32({2}));
  w.node(Op::add, {x, 2}, f32({2}));  // itself is node 0; node 1 is not there yet
  expectRefused(w, "not before its user", 0);

  W v;
  v.input(f32({2}));
  v.node(Op::neg, {3}, f32({2}));
  expectRefused(v, "an input that there is not", 0);

  W several;
  auto sorted = several.nodeOf(Op::sort, {several.input(f32({2}))}, {f32({2}), type(DType::i32, {2})},
                               W::join({W::integer(0), W::word(0)}));
  several.node(Op::neg, {sorted}, f32({2}));
  expectRefused(several, "without saying which", 1);

  W third;
  auto top = third.nodeOf(Op::sort, {third.input(f32({2}))}, {f32({2}), type(DType::i32, {2})},
                          W::join({W::integer(0), W::word(0)}));
  third.result(top, 2, f32({2}));
  expectRefused(third, "a result that there is not", 1);
}

TEST(Program, RefusesTypesThatTheOpDoesNotGive) {
  W shape;
  auto a = shape.input(f32({2, 3})), b = shape.input(f32({3}));
  shape.node(Op::add, {a, b}, f32({2, 4}));
  expectRefused(shape, "[add] is declared float32[2, 4] but gives float32[2, 3]", 0);

  W mixed;
  auto c = mixed.input(f32({2})), d = mixed.input(type(DType::f64, {2}));
  mixed.node(Op::add, {c, d}, f32({2}));
  expectRefused(mixed, "[add] operands differ in dtype: float32[2], float64[2]", 0);

  W integers;
  integers.node(Op::exp, {integers.input(type(DType::i32, {2}))}, type(DType::i32, {2}));
  expectRefused(integers, "does not take this dtype", 0);

  W composite;
  composite.node(Op::mean, {composite.input(f32({2}))}, f32({}), W::join({W::ints({0}), W::word(0)}));
  expectRefused(composite, "must be decomposed", 0);
}

TEST(Program, RefusesSizesThatOverflow) {
  const int64_t big = 0xffffffff;
  auto input = [](const Dims& shape) {
    W w;
    w.input(f32(shape));
    return refusal(w.words()).message;
  };
  EXPECT_EQ(input({big, big}), "malformed program: a shape has too many elements");
  // Strides of the outer dims would overflow although there is no element.
  EXPECT_EQ(input({0, big, big}), "malformed program: a shape has too many elements");
  EXPECT_EQ(input(Dims(kMaxRank + 1, 1)), "malformed program: rank 17 is more than 16");
  // Attributes are 64 bits wide.
  for (int64_t wide : {INT64_MAX, INT64_MIN, int64_t{-1}, int64_t{1} << 40}) {
    W w;
    auto x = w.input(f32({4}));
    w.node(Op::pad, {x}, f32({9}), W::join({W::ints({wide}), W::ints({wide}), W::ints({wide}), W::real(0)}));
    EXPECT_EQ(refusal(w.words()).node, 0) << wide;
    W v;
    auto y = v.input(f32({4}));
    v.node(Op::slice, {y}, f32({4}), W::join({W::ints({0}), W::ints({wide}), W::ints({wide})}));
    EXPECT_EQ(refusal(v.words()).node, 0) << wide;
    W u;
    u.node(Op::reshape, {u.input(f32({4}))}, f32({4}), W::ints({wide}));
    EXPECT_EQ(refusal(u.words()).node, 0) << wide;
    W t;
    t.node(Op::transpose, {t.input(f32({4}))}, f32({4}), W::ints({wide}));
    EXPECT_EQ(refusal(t.words()).node, 0) << wide;
  }
  // Too large together, though no value is.
  W many;
  for (int i = 0; i < 1024; i++) many.input(type(DType::f64, {1 << 24, 1 << 24}));
  EXPECT_EQ(refusal(many.words()).message, "malformed program: its values are too large");
}

/// What every later stage counts on.
void checkDecoded(const Program& program) {
  for (const Node& node : program.nodes) {
    for (ValueId value : node.operands) ASSERT_LT(value, program.values.size());
    for (ValueId value : node.results) ASSERT_LT(value, program.values.size());
  }
  for (ValueId value : program.outputs) ASSERT_LT(value, program.values.size());
  for (const auto& value : program.values) ASSERT_LE(value.type.shape.size(), kMaxRank);
}

TEST(Program, SurvivesChangedWords) {
  ProgramMutations mutations(everyOp(), 7);
  int accepted = 0;
  for (int round = 0; round < 20000; round++) {
    try {
      checkDecoded(decode(mutations.next()));
      accepted++;
    } catch (const ProgramError&) {
    }
  }
  // Some changes keep the program valid (a value, an epsilon): the test must reach beyond the refusals.
  EXPECT_GT(accepted, 500);
}

}  // namespace
}  // namespace lazuli::test
