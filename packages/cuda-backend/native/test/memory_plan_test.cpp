#include "memory_plan.h"

#include <gtest/gtest.h>

#include "lowered_writer.h"
#include "schedule.h"

namespace lazuli::test {
namespace {

using Home = Storage::Home;

MemoryPlan plan(const LoweredWriter& w) { return planMemory(w.lowered, w.donated); }

std::vector<std::string> labels(const Lowered& lowered) {
  std::vector<std::string> labels;
  for (const Step& step : lowered.steps) labels.push_back(step.made.label);
  return labels;
}

TEST(MemoryPlan, ReusesMemoryOfDeadValues) {
  LoweredWriter w;
  ValueId x = w.input(1000), last = x;
  for (int i = 0; i < 10; i++) {
    ValueId next = w.value(1000);
    w.step({last}, {next});
    last = next;
  }
  w.output(last);
  MemoryPlan made = plan(w);
  // Two of 1000 bytes, rounded up to lines of 64; the last is the output's.
  EXPECT_EQ(made.arenaBytes, 2048u);
  EXPECT_EQ(made.lowerBoundBytes, 2048u);
  EXPECT_EQ(made.outputBytes, 1000u);
  EXPECT_EQ(made.storage.storage(last).home, Home::output);
}

TEST(MemoryPlan, CountsScratchInItsOwnStepOnly) {
  LoweredWriter w;
  ValueId x = w.input(64), a = w.value(64), b = w.value(64), c = w.value(64);
  w.step({x}, {a}).made.scratchBytes = 1000;
  w.step({a}, {b}).made.scratchBytes = 500;
  w.step({b}, {c});
  w.output(c);
  MemoryPlan made = plan(w);
  EXPECT_EQ(made.lowerBoundBytes, 64u + 1024u);
  EXPECT_EQ(made.arenaBytes, 64u + 1024u);
}

TEST(MemoryPlan, WritesInPlaceWhereTheReadDies) {
  LoweredWriter w;
  ValueId x = w.input(640), a = w.value(640), b = w.value(640), c = w.value(640), d = w.value(640);
  w.step({x}, {a});
  w.step({a}, {b}, {{0, 0}});     // a is read again: not in place
  w.step({a, b}, {c}, {{0, 1}});  // b dies
  w.step({c}, {d}, {{0, 0}});     // c lives in the output's memory
  w.output(d);
  MemoryPlan made = plan(w);
  EXPECT_NE(made.storage.of[b], made.storage.of[a]);
  EXPECT_EQ(made.storage.of[c], made.storage.of[b]);
  EXPECT_EQ(made.storage.of[d], made.storage.of[b]);
  EXPECT_EQ(made.storage.storage(b).home, Home::output);
  EXPECT_EQ(made.arenaBytes, 640u);
}

TEST(MemoryPlan, NeverWritesOverWhatIsStillNeeded) {
  LoweredWriter w;
  ValueId kept = w.input(640), x = w.value(640), y = w.value(640), z = w.value(320), other = w.value(640);
  ValueId constant = w.constant(std::vector<uint8_t>(640)), out = w.value(640);
  w.step({kept}, {x}, {{0, 0}});                    // an input that is not donated
  w.step({x, x}, {y}, {{0, 0}});                    // read twice, only one of which may be overwritten
  w.step({y}, {z}, {{0, 0}});                       // of another size
  w.step({z, constant}, {other}, {{0, 1}});         // a constant
  w.step({other, other}, {out}, {{0, 0}, {0, 1}});  // both reads may be
  w.output(other);                                  // an output stays
  w.output(out);
  MemoryPlan made = plan(w);
  EXPECT_EQ(made.storage.storages.size(), 7u);  // each of its own
}

TEST(MemoryPlan, OneReadServesOneWrite) {
  LoweredWriter w;
  ValueId x = w.input(64), a = w.value(64), b = w.value(64), c = w.value(64), d = w.value(64),
          e = w.value(64);
  w.step({x}, {a, b});
  w.step({a, b}, {c, d}, {{0, 0}, {1, 0}, {1, 1}});
  w.step({c, d}, {e});
  w.output(e);
  MemoryPlan made = plan(w);
  EXPECT_EQ(made.storage.of[c], made.storage.of[a]);
  EXPECT_EQ(made.storage.of[d], made.storage.of[b]);
}

/// p, g, m, v → p, m, v as the optimizer's kernel writes them.
TEST(MemoryPlan, OptimizerUpdatesTakeOverWhatTheyUpdate) {
  LoweredWriter w;
  ValueId m = w.input(4096, true), v = w.input(4096, true), p = w.input(4096, true), x = w.input(64);
  ValueId g = w.value(4096), p2 = w.value(4096), m2 = w.value(4096), v2 = w.value(4096);
  w.step({x, p}, {g});
  w.step({p, g, m, v}, {p2, m2, v2}, {{0, 0}, {1, 2}, {2, 3}});
  for (ValueId value : {p2, m2, v2}) w.output(value);
  MemoryPlan made = plan(w);
  EXPECT_EQ(made.storage.takesOver, (std::vector<int64_t>{p, m, v}));
  EXPECT_EQ(made.outputBytes, 0u);
  EXPECT_EQ(made.arenaBytes, 4096u);
}

TEST(MemoryPlan, OutputsTakeOverDeadDonatedInputsOfTheirSize) {
  LoweredWriter w;
  ValueId x = w.input(100, true), y = w.input(200, true), z = w.input(200);
  ValueId a = w.value(64), late = w.value(200), early = w.value(100);
  w.step({x}, {a});
  w.step({y, a}, {early});  // x is dead
  w.step({y, z}, {late});   // y is read in the step that writes: without a pair it cannot be written over
  w.output(early);
  w.output(late);
  MemoryPlan made = plan(w);
  EXPECT_EQ(made.storage.takesOver, (std::vector<int64_t>{x, -1}));
  EXPECT_EQ(made.outputBytes, 200u);
}

TEST(MemoryPlan, AChainOfStepsInPlaceEndsInTheDonatedBuffer) {
  LoweredWriter w;
  ValueId p = w.input(640, true), a = w.value(640), b = w.value(640);
  w.step({p}, {a}, {{0, 0}});
  w.step({a}, {b}, {{0, 0}});
  w.output(b);
  MemoryPlan made = plan(w);
  EXPECT_EQ(made.storage.takesOver, (std::vector<int64_t>{p}));
  EXPECT_EQ(made.arenaBytes, 0u);
}

TEST(MemoryPlan, OutputsThatAreInputsOrRepeated) {
  LoweredWriter w;
  ValueId kept = w.input(64), given = w.input(64, true), a = w.value(64), constant = w.constant({1, 2, 3});
  w.step({given}, {a}, {{0, 0}});
  for (ValueId value : {kept, given, a, a, given, constant}) w.output(value);
  MemoryPlan made = plan(w);
  EXPECT_EQ(made.storage.takesOver, (std::vector<int64_t>{-1, given, -1, -1, -1, -1}));
  std::vector<uint32_t> copied;
  for (const auto& copy : made.storage.copies) copied.push_back(copy.output);
  EXPECT_EQ(copied, (std::vector<uint32_t>{0, 3, 4, 5}));
  EXPECT_EQ(made.storage.storage(a).home,
            Home::output);  // the input is an output too: not to be written over
}

TEST(MemoryPlan, NamesTheLargestValuesWhenOverTheLimit) {
  LoweredWriter w;
  ValueId x = w.input(3000), a = w.value(5000), b = w.value(4000), c = w.value(10);
  w.step({x}, {a});
  w.step({a}, {b});
  w.step({b, a}, {c});
  w.output(c);
  MemoryPlan made = plan(w);
  EXPECT_NO_THROW(checkLimit(w.lowered, made, made.totalBytes()));
  EXPECT_NO_THROW(checkLimit(w.lowered, made, 0));
  try {
    checkLimit(w.lowered, made, made.totalBytes() - 1);
    FAIL();
  } catch (const OutOfMemoryError& error) {
    EXPECT_EQ(error.node, 0);
    EXPECT_STREQ(
        error.what(),
        "the program needs 12.1 kB but the limit is 12.1 kB (inputs 3.0 kB, constants 0 B, outputs 10 B, "
        "intermediates 9.1 kB); largest:\n"
        "  5.0 kB  uint8[5000]  node 0\n"
        "  4.0 kB  uint8[4000]  node 1\n"
        "  3.0 kB  uint8[3000]  input 0\n"
        "  10 B  uint8[10]  node 2");
  }
}

TEST(MemoryPlan, DescribesItself) {
  LoweredWriter w;
  ValueId x = w.input(64), a = w.value(64), b = w.value(64);
  w.step({x}, {a}).made.scratchBytes = 100;
  w.step({a, x}, {b});
  w.output(b);
  EXPECT_EQ(describe(w.lowered, plan(w)),
            "arena 192 B (at least 192 B), inputs 64 B, constants 0 B, fresh outputs 64 B\n"
            "0  step 0  (node 0)\n"
            "    v1 uint8[64] @ arena 128\n"
            "    <- v0 uint8[64] @ input 0\n"
            "    scratch 100 B @ arena 0\n"
            "1  step 1  (node 1)\n"
            "    v2 uint8[64] @ output 0\n"
            "    <- v1 uint8[64] @ arena 128, v0 uint8[64] @ input 0\n");
}

TEST(Schedule, KeepsTheProgramsOrderWhereNothingIsWon) {
  LoweredWriter w;
  ValueId x = w.input(640), a = w.value(640), b = w.value(640), c = w.value(640);
  w.step({x}, {a});
  w.step({x}, {b});
  w.step({a, b}, {c});
  w.output(c);
  schedule(w.lowered, w.donated);
  EXPECT_EQ(labels(w.lowered), (std::vector<std::string>{"step 0", "step 1", "step 2"}));
}

TEST(Schedule, DelaysWhatIsNeededLate) {
  // Weights cast at the start, one used after the other.
  LoweredWriter w;
  ValueId x = w.input(64), last = x;
  std::vector<ValueId> casts;
  for (int i = 0; i < 4; i++) {
    casts.push_back(w.value(10000));
    w.step({x}, {casts.back()});
  }
  for (ValueId cast : casts) {
    ValueId next = w.value(64);
    w.step({last, cast}, {next});
    last = next;
  }
  w.output(last);
  schedule(w.lowered, w.donated);
  EXPECT_EQ(labels(w.lowered), (std::vector<std::string>{"step 0", "step 4", "step 1", "step 5", "step 2",
                                                         "step 6", "step 3", "step 7"}));
  EXPECT_LT(plan(w).arenaBytes, 11000u);
}

TEST(Schedule, UpdatesParametersAsSoonAsTheirGradientIsThere) {
  // Backward makes gradient i from parameter i and passes a small cotangent on; all updates come at the end.
  LoweredWriter w;
  std::vector<ValueId> parameters, gradients;
  for (int i = 0; i < 4; i++) parameters.push_back(w.input(10000, true));
  ValueId cotangent = w.input(64);
  for (ValueId p : parameters) {
    gradients.push_back(w.value(10000));
    w.step({cotangent}, {gradients.back()});
    ValueId next = w.value(64);
    w.step({cotangent, p}, {next});  // the parameter is still read here
    cotangent = next;
  }
  for (size_t i = 0; i < 4; i++) {
    ValueId updated = w.value(10000);
    w.step({parameters[i], gradients[i]}, {updated}, {{0, 0}});
    w.output(updated);
  }
  EXPECT_GT(plan(w).arenaBytes, 40000u);
  schedule(w.lowered, w.donated);
  MemoryPlan made = plan(w);
  EXPECT_LT(made.arenaBytes, 11000u);
  // No update moved before a read of what it overwrites.
  EXPECT_EQ(made.storage.takesOver, (std::vector<int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(labels(w.lowered)[2], "step 8");
}

TEST(Schedule, RefusesABrokenLowering) {
  LoweredWriter before;
  ValueId x = before.input(64), a = before.value(64), b = before.value(64);
  before.step({a}, {b});
  before.step({x}, {a});
  EXPECT_THROW(verify(before.lowered, 1), ProgramError);

  LoweredWriter twice;
  ValueId y = twice.input(64), c = twice.value(64);
  twice.step({y}, {c});
  twice.step({y}, {c});
  EXPECT_THROW(verify(twice.lowered, 1), ProgramError);

  LoweredWriter nothing;
  nothing.output(nothing.value(64));
  EXPECT_THROW(verify(nothing.lowered, 0), ProgramError);
}

}  // namespace
}  // namespace lazuli::test
