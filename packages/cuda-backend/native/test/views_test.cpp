#include "views.h"

#include <gtest/gtest.h>

namespace lazuli {
namespace {

using Kind = ViewStep::Kind;

Layout dense(Dims shape) { return Layout::dense({DType::f32, std::move(shape)}); }
ViewStep transposed(const Dims& shape, const Dims& perm) { return {Kind::transpose, shape, perm, {}}; }

TEST(Views, TransposePermutesStrides) {
  const auto layout = viewed(transposed({4, 2, 3}, {2, 0, 1}), dense({2, 3, 4}));
  ASSERT_TRUE(layout);
  EXPECT_EQ(layout->shape, (Dims{4, 2, 3}));
  EXPECT_EQ(layout->strides, (Dims{1, 12, 4}));
}

TEST(Views, BroadcastHasStrideZero) {
  const auto layout = viewed(broadcastTo({5, 2, 3}), dense({2, 1}));
  ASSERT_TRUE(layout);
  EXPECT_EQ(layout->strides, (Dims{0, 1, 0}));
}

TEST(Views, SliceAndFlipMoveTheOffset) {
  const auto sliced = viewed({Kind::slice, {2, 2}, {1, 0}, {2, 3}}, dense({5, 6}));
  ASSERT_TRUE(sliced);
  EXPECT_EQ(sliced->offset, 6);
  EXPECT_EQ(sliced->strides, (Dims{12, 3}));
  const auto flipped = viewed({Kind::flip, {2, 2}, {0}, {}}, *sliced);
  ASSERT_TRUE(flipped);
  EXPECT_EQ(flipped->offset, 18);
  EXPECT_EQ(flipped->strides, (Dims{-12, 3}));
}

TEST(Views, ReshapeSplitsAndMergesWhereStridesAllow) {
  // [B, T, H, K] -> [B, H, T, K] keeps K and splits of it, but merges no H with T.
  const Layout heads = *viewed(transposed({2, 5, 3, 8}, {0, 2, 1, 3}), dense({2, 3, 5, 8}));
  const auto split = viewed(reshapeTo({2, 5, 3, 2, 4}), heads);
  ASSERT_TRUE(split);
  EXPECT_EQ(split->strides, (Dims{120, 8, 40, 4, 1}));
  EXPECT_FALSE(viewed(reshapeTo({2, 15, 8}), heads));
  const auto merged = viewed(reshapeTo({6, 40}), dense({2, 3, 5, 8}));
  ASSERT_TRUE(merged);
  EXPECT_TRUE(merged->isDense());
}

TEST(Views, ReshapeOfBroadcastsAndOnes) {
  const Layout row = *viewed(broadcastTo({4, 6}), dense({6}));
  const auto split = viewed(reshapeTo({2, 2, 3, 1, 2}), row);
  ASSERT_TRUE(split);
  EXPECT_EQ(split->strides[0], 0);
  EXPECT_EQ(split->strides[1], 0);
  EXPECT_EQ(split->strides[2], 2);
  EXPECT_EQ(split->strides[4], 1);
  EXPECT_FALSE(viewed(reshapeTo({24}), row));
  const auto scalar = viewed(reshapeTo({1, 1}), dense({}));
  ASSERT_TRUE(scalar);
  EXPECT_EQ(scalar->elements(), 1);
  const auto empty = viewed(reshapeTo({0, 7}), dense({3, 0}));
  ASSERT_TRUE(empty);
  EXPECT_EQ(empty->elements(), 0);
}

TEST(Views, StepsCompose) {
  const ViewSteps steps = {
      transposed({3, 2}, {1, 0}), {Kind::slice, {1, 2}, {2, 0}, {1, 1}}, broadcastTo({4, 1, 2})};
  const auto layout = viewed(steps, dense({2, 3}));
  ASSERT_TRUE(layout);
  EXPECT_EQ(layout->offset, 2);
  EXPECT_EQ(layout->strides, (Dims{0, 0, 3}));
}

}  // namespace
}  // namespace lazuli
