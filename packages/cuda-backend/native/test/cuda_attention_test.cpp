// Attention's kernels of each path, beside the one that the device takes by itself (attention_test.cpp).

#include <gtest/gtest.h>

#include <cmath>

#include "attention_harness.h"
#include "cuda/attention_sm90.h"

namespace lazuli {
namespace {

using namespace test::attention;
using cuda::AttentionPath;

class CudaAttention : public testing::Test {
 protected:
  void SetUp() override {
    if (!test::onCuda()) GTEST_SKIP() << "LAZULI_TEST_DEVICE=cuda";
  }
  /// sm_90a's kernels run on Hopper alone, and on the emulator as what it may be.
  bool hasSm90() const { return test::isEmulated() || test::deviceTarget().arch() == 90; }
};

std::function<MadeKernel(Op, const KernelRequest&)> by(AttentionPath path) {
  return [path](Op op, const KernelRequest& request) {
    return op == Op::attention ? makeAttention(request, path) : makeAttentionGrad(request, path);
  };
}

Case caseOf(AttentionPath path, DType dtype, int64_t depth, int64_t queries, int64_t keys) {
  Case c;
  c.queries = queries, c.keys = keys, c.depth = c.valueDepth = depth, c.dtype = dtype;
  c.scale = 1 / std::sqrt(static_cast<double>(depth));
  c.make = by(path);
  return c;
}

TEST_F(CudaAttention, Sm90Shapes) {
  if (!hasSm90()) GTEST_SKIP() << "not a GPU of compute capability 9.0";
  for (DType dtype : {DType::bf16, DType::f16})
    for (int64_t depth : {64, 96, 128})
      for (int64_t queries : {1, 64, 129})
        for (int64_t keys : {1, 128, 300}) {
          if (dtype == DType::f16 && queries != 129) continue;
          SCOPED_TRACE(testing::Message() << name(dtype) << " " << depth << " " << queries << " x " << keys);
          Case c = caseOf(AttentionPath::sm90, dtype, depth, queries, keys);
          c.order = queries == 129 ? Order::aligned : queries == 64 ? Order::byRow : Order::dense;
          check(c);
        }
}

TEST_F(CudaAttention, Sm90Masks) {
  if (!hasSm90()) GTEST_SKIP() << "not a GPU of compute capability 9.0";
  for (DType dtype : {DType::bf16, DType::f16})
    for (int64_t depth : {64, 96, 128}) {
      SCOPED_TRACE(testing::Message() << name(dtype) << " " << depth);
      Case c = caseOf(AttentionPath::sm90, dtype, depth, 150, 200);
      c.batch = 2, c.heads = 2, c.groups = 1, c.order = Order::aligned;
      c.causal = true, c.dlse = true;
      c.offset = 50;
      check(c);
      if (dtype == DType::f16) continue;
      c.offset = -90;  // some rows see nothing
      check(c);
      c.shift = 60, c.offset = 60, c.window = 70;
      check(c);
      c.segment = [](int64_t i) { return static_cast<int32_t>(i / 100); };
      check(c);
      c.causal = false, c.window = 0, c.segment = [](int64_t i) { return static_cast<int32_t>(i * 7 % 3); };
      check(c);
    }
}

// Many tiles of both sides; the second half of a block beyond the end; more heads than one to a group.
TEST_F(CudaAttention, Sm90Tiles) {
  if (!hasSm90()) GTEST_SKIP() << "not a GPU of compute capability 9.0";
  Case c = caseOf(AttentionPath::sm90, DType::bf16, 64, 330, 700);
  check(c);
  c.causal = true, c.offset = 370;
  check(c);
  c.segment = [](int64_t i) {
    return static_cast<int32_t>(i / 64 % 3);
  };  // tiles between others that are skipped
  check(c);
  c.segment = nullptr;
  c.window = 130, c.heads = 6, c.groups = 2;
  check(c);
}

// Three paths, one answer: a call that a path does not take goes to the next.
TEST_F(CudaAttention, Paths) {
  for (AttentionPath path : {AttentionPath::sm90, AttentionPath::sm80, AttentionPath::simple}) {
    if (path == AttentionPath::sm90 && !hasSm90()) continue;
    check(caseOf(path, DType::bf16, 64, 70, 130));
    check(caseOf(path, DType::f32, 64, 70, 130));
    check(caseOf(path, DType::bf16, 72, 30, 40));
    Case gaps = caseOf(path, DType::bf16, 64, 30, 40);
    gaps.order = Order::gaps;  // rows begin anywhere
    check(gaps);
    check(caseOf(path, DType::bf16, 64, 5, 0));
  }
}

// The self-test finds the kernels of this build to agree, in both directions.
TEST_F(CudaAttention, Sm90AgreesWithSm80) {
  if (!hasSm90()) GTEST_SKIP() << "not a GPU of compute capability 9.0";
  const cuda::Target& target = test::deviceTarget();
  for (bool gradient : {false, true}) {
    EXPECT_EQ(compareAttentionPaths(target, {DType::bf16, 128, true, gradient}), "");
    EXPECT_EQ(compareAttentionPaths(target, {DType::f16, 96, false, gradient}), "");
    EXPECT_EQ(compareAttentionPaths(target, {DType::f16, 64, true, gradient}), "");
  }
}

}  // namespace
}  // namespace lazuli
