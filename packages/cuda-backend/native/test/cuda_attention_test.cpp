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

// dq added up in the GPU's memory: the same sums, in another order.
TEST_F(CudaAttention, AddedGradients) {
  for (AttentionPath path : {AttentionPath::sm90, AttentionPath::sm80})
    for (DType dtype : {DType::bf16, DType::f16})
      for (int64_t depth : {64, 96, 128}) {
        if (path == AttentionPath::sm90 && !hasSm90()) continue;
        SCOPED_TRACE(testing::Message() << name(dtype) << " " << depth);
        Case c = caseOf(path, dtype, depth, 80, 150);
        c.repeats = false;
        c.make = [path](Op op, const KernelRequest& request) {
          return op == Op::attention ? makeAttention(request, path) : makeAttentionGrad(request, path, false);
        };
        c.causal = true, c.offset = 30, c.dlse = true, c.heads = 2;
        check(c);
        if (dtype == DType::f16 || (path == AttentionPath::sm80 && depth == 96)) continue;
        c.groups = 1, c.order = Order::byRow;
        c.offset = -60;  // some rows see nothing
        c.segment = [](int64_t i) { return static_cast<int32_t>(i / 60); };
        check(c);
        c.segment = nullptr, c.causal = false, c.queries = 1;
        check(c);
        c.keys = 0;  // left to the simple kernels
        check(c);
      }
}

// Results written where their readers look for them: B > 1, grouped heads, tails of tiles.
TEST_F(CudaAttention, ResultsInOtherOrders) {
  for (AttentionPath path : {AttentionPath::sm90, AttentionPath::sm80, AttentionPath::simple})
    for (int64_t depth : {64, 96, 128})
      for (bool adds : {false, true}) {
        if (path == AttentionPath::sm90 && !hasSm90()) continue;
        if (path == AttentionPath::simple && (adds || depth == 96)) continue;
        SCOPED_TRACE(testing::Message() << static_cast<int>(path) << " " << depth << " adds " << adds);
        Case c = caseOf(path, depth == 96 ? DType::f16 : DType::bf16, depth, 131, 75);
        c.batch = 2, c.heads = 4, c.groups = 2, c.causal = true, c.offset = -50;
        c.order = Order::byRow, c.written = {0, 2, 1, 3};
        c.repeats = !adds;
        c.make = [=](Op op, const KernelRequest& request) {
          return op == Op::attention ? makeAttention(request, path) : makeAttentionGrad(request, path, !adds);
        };
        check(c);
        if (depth != 64) continue;
        c.order = Order::dense, c.written = {2, 0, 1, 3};
        check(c);
      }
}

// The self-test finds the kernels of this build to agree, in both directions.
TEST_F(CudaAttention, Sm90AgreesWithSm80) {
  if (!hasSm90()) GTEST_SKIP() << "not a GPU of compute capability 9.0";
  const cuda::Target& target = test::deviceTarget();
  using cuda::AttentionPass;
  for (AttentionPass pass : {AttentionPass::forward, AttentionPass::gradient, AttentionPass::addedGradient}) {
    EXPECT_EQ(compareAttentionPaths(target, {DType::bf16, 128, true, pass}), "");
    EXPECT_EQ(compareAttentionPaths(target, {DType::f16, 96, false, pass}), "");
    EXPECT_EQ(compareAttentionPaths(target, {DType::f16, 64, true, pass}), "");
  }
}

}  // namespace
}  // namespace lazuli
