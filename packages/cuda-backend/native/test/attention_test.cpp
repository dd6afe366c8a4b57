#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "attention_harness.h"

namespace lazuli {
namespace {

using namespace test::attention;

TEST(Attention, Windows) {
  for (int64_t window : {1, 5, 64, 70, 129, 500})
    for (int64_t offset : {-70, 0, 66})
      for (bool causal : {false, true}) {
        Case c;
        c.heads = 2, c.queries = 150, c.keys = 200, c.depth = 20, c.valueDepth = 9;
        c.causal = causal, c.window = window, c.offset = offset, c.dlse = window == 5;
        c.dtype = offset == 0 ? DType::f64 : DType::f32;
        check(c);
      }
}

TEST(Attention, Segments) {
  const std::function<int32_t(int64_t)> orders[] = {
      [](int64_t i) { return static_cast<int32_t>(i / 70); },               // runs that end inside of blocks
      [](int64_t i) { return static_cast<int32_t>(i / 64); },               // and with them
      [](int64_t i) { return static_cast<int32_t>(i * 7 % 3); },            // in no order
      [](int64_t i) { return (1 << 24) + static_cast<int32_t>(i / 100); },  // alike in float32
      [](int64_t i) { return i < 100 ? -1 : 1000 + static_cast<int32_t>(i); },
  };
  for (const auto& segment : orders)
    for (bool causal : {false, true})
      for (DType dtype : {DType::f32, DType::f64, DType::bf16}) {
        Case c;
        c.batch = 2, c.heads = 2, c.groups = 1, c.queries = 140, c.keys = 200, c.depth = 24, c.valueDepth = 8;
        c.causal = causal, c.segment = segment, c.dtype = dtype, c.dlse = causal;
        if (causal) c.window = 90, c.shift = 3;
        check(c);
      }
}

TEST(Attention, Biases) {
  for (int dims = 0; dims < 16; dims++)
    for (DType dtype : {DType::f32, DType::bf16, DType::f64})
      for (DType of : {DType::boolean, dtype, DType::f32}) {
        if (of == DType::f32 && dtype == DType::f64) continue;
        SCOPED_TRACE(testing::Message() << "dims " << dims << " " << name(of) << " beside " << name(dtype));
        Case c;
        c.batch = 2, c.heads = 4, c.groups = 2, c.queries = 75, c.keys = 150, c.depth = 20, c.valueDepth = 9;
        c.dtype = dtype;
        c.bias = Bias{(dims & 1) != 0, (dims & 2) != 0, (dims & 4) != 0, (dims & 8) != 0, of};
        c.bias->expanded = dims % 3 == 0;
        c.bias->graded = of != DType::boolean;
        check(c);
      }
}

TEST(Attention, BiasesBesideOthers) {
  for (const Bias& bias : {Bias{}, Bias{.batch = false, .query = false}, Bias{.dtype = DType::boolean},
                           Bias{.batch = false, .head = false, .graded = true},
                           Bias{.head = false, .query = false, .key = false, .graded = true},
                           Bias{.batch = false, .head = false, .dtype = DType::f16, .graded = true}})
    for (int which = 0; which < 5; which++) {
      SCOPED_TRACE(testing::Message() << name(bias.dtype) << " case " << which);
      Case c;
      c.batch = 3, c.heads = 2, c.groups = which == 1 ? 1 : 2, c.queries = 140, c.keys = 200;
      c.bias = bias;
      if (which == 1) c.causal = true, c.offset = 60, c.dlse = true;
      if (which == 2) c.causal = true, c.window = 70, c.shift = 30;
      if (which == 3) c.segment = [](int64_t i) { return static_cast<int32_t>(i / 70); };
      if (which == 4) c.dtype = DType::f16, c.order = Order::byRow;
      check(c);
    }
  // Many chunks of the sums; a short last wave; none.
  Case c;
  c.batch = 11, c.heads = 3, c.groups = 3, c.queries = 9, c.keys = 12;
  c.bias = Bias{.batch = false, .head = false, .graded = true};
  check(c);
  c.keys = 0;
  check(c);
  c.keys = 12, c.batch = 0;
  check(c);
  c.batch = 1, c.queries = 0;
  check(c);
}

/// Finite, though it is not in units of log2: keys that all have it share a row evenly.
TEST(Attention, LeastFloats) {
  std::mt19937 random(3);
  Case c;
  c.queries = 3, c.keys = 70;
  c.bias = Bias{.query = false};
  const Array q = makeArray(c.dtype, {1, 1, 3, 16}, c.order, random),
              k = makeArray(c.dtype, {1, 1, 70, 16}, c.order, random), v = k;
  Array bias = makeBias(c, random);
  for (int64_t j = 0; j < 70; j++) put(DType::f32, bias.data.data(), j, std::numeric_limits<float>::lowest());
  const auto out =
      runKernel(Op::attention, c, {&q, &k, &v, &bias}, {{c.dtype, {1, 1, 3, 16}}, {DType::f32, {1, 1, 3}}});
  double mean = 0;
  for (int64_t j = 0; j < 70; j++) mean += v(0, 0, j, 5) / 70;
  EXPECT_NEAR(get(DType::f32, out[0].data(), 5), mean, 1e-5);
  Array y{Layout::dense({c.dtype, {1, 1, 3, 16}}), out[0]},
      lse{Layout::dense({DType::f32, {1, 1, 3}}), out[1]};
  const auto grads =
      runKernel(Op::attention_grad, c, {&q, &k, &v, &y, &lse, &q, &bias},
                {{c.dtype, {1, 1, 3, 16}}, {c.dtype, {1, 1, 70, 16}}, {c.dtype, {1, 1, 70, 16}}});
  for (const auto& grad : grads)
    for (int64_t i = 0; i < 3 * 16; i++) EXPECT_TRUE(std::isfinite(get(DType::f32, grad.data(), i)));
}

TEST(Attention, Lengths) {
  for (int64_t queries : {1, 7, 16, 64, 65, 130})
    for (int64_t keys : {1, 9, 64, 100, 200})
      for (bool causal : {false, true}) {
        SCOPED_TRACE(testing::Message() << queries << " queries " << keys << " keys causal " << causal);
        check({.queries = queries, .keys = keys, .causal = causal});
      }
}

TEST(Attention, HeadSizes) {
  for (int64_t depth : {1, 3, 8, 16, 20, 48, 64, 80, 128, 200})
    for (int64_t valueDepth : {depth, int64_t{24}}) {
      SCOPED_TRACE(testing::Message() << depth << " " << valueDepth);
      check({.queries = 70,
             .keys = 90,
             .depth = depth,
             .valueDepth = valueDepth,
             .causal = true,
             .offset = 20,
             .scale = 1 / std::sqrt(depth)});
    }
}

TEST(Attention, Offsets) {
  // Below -queries nothing is seen; in between some rows see nothing.
  for (int64_t offset : {-200, -130, -70, -64, -10, -1, 1, 30, 64, 100, 300, 1 << 30}) {
    SCOPED_TRACE(testing::Message() << "offset " << offset);
    check({.queries = 130, .keys = 150, .causal = true, .offset = offset, .dlse = true});
  }
}

TEST(Attention, Shifts) {
  constexpr int32_t lowest = std::numeric_limits<int32_t>::min(), most = std::numeric_limits<int32_t>::max();
  for (int32_t shift : {lowest, -130, -65, -1, 0, 20, 64, most})
    for (int64_t offset : {int64_t{-3}, int64_t{10}})
      for (bool dlse : {false, true}) {
        SCOPED_TRACE(testing::Message() << "offset " << offset << " shift " << shift << " dlse " << dlse);
        check({.heads = 4,
               .groups = 2,
               .queries = 130,
               .keys = 150,
               .causal = true,
               .offset = offset,
               .dlse = dlse,
               .shift = shift});
        check({.queries = 5, .keys = 7, .offset = offset, .dlse = dlse, .shift = shift});
      }
  // The offset's ends and the shift's together.
  for (int64_t sign : {-1, 1})
    check({.queries = 20,
           .keys = 30,
           .causal = true,
           .offset = sign * (int64_t{1} << 62),
           .shift = sign < 0 ? lowest : most});
}

TEST(Attention, Groups) {
  for (int64_t groups : {1, 2, 6})
    for (bool dlse : {false, true})
      for (Order order : {Order::dense, Order::byRow, Order::gaps})
        check({.batch = 2,
               .heads = 6,
               .groups = groups,
               .queries = 80,
               .keys = 140,
               .depth = 24,
               .valueDepth = 40,
               .causal = true,
               .offset = 60,
               .order = order,
               .dlse = dlse});
}

TEST(Attention, ManyPairs) {
  // Enough (batch, head) pairs that a thread takes a whole one, and few with many blocks of keys.
  check({.batch = 5, .heads = 12, .groups = 12, .queries = 70, .keys = 70, .causal = true});
  check({.batch = 5, .heads = 24, .groups = 12, .queries = 70, .keys = 40});
  check({.queries = 40, .keys = 900, .causal = true, .offset = 860});
}

TEST(Attention, DTypes) {
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16})
    for (Order order : {Order::dense, Order::byRow, Order::gaps})
      for (int64_t depth : {13, 32})
        check({.batch = 2,
               .heads = 4,
               .groups = 2,
               .queries = 90,
               .keys = 70,
               .depth = depth,
               .valueDepth = depth,
               .causal = order == Order::byRow,
               .dtype = dtype,
               .order = order,
               .dlse = true});
}

// CUDA's tensor cores take these head sizes, 128 queries or keys at a time.
TEST(Attention, HalfTypes) {
  for (DType dtype : {DType::bf16, DType::f16})
    for (int64_t depth : {64, 96, 128})
      for (int64_t queries : {1, 64, 129})
        for (int64_t keys : {63, 130}) {
          if (dtype == DType::f16 && queries != 129) continue;
          SCOPED_TRACE(testing::Message() << depth << " " << queries << " queries " << keys << " keys");
          Case c;
          c.queries = queries, c.keys = keys, c.depth = c.valueDepth = depth, c.dtype = dtype;
          c.scale = 1 / std::sqrt(depth);
          c.causal = keys == 130, c.offset = 1;
          c.order = queries == 64 ? Order::aligned : Order::dense;
          check(c);
        }
}

TEST(Attention, HalfTypesMasked) {
  for (DType dtype : {DType::bf16, DType::f16})
    for (int64_t depth : {64, 96, 128}) {
      if (dtype == DType::f16 && depth != 64) continue;
      Case c;
      c.batch = 2, c.heads = 2, c.groups = 1, c.queries = 150, c.keys = 200;
      c.depth = c.valueDepth = depth, c.dtype = dtype, c.scale = 1 / std::sqrt(depth),
      c.order = Order::aligned;
      c.causal = true, c.shift = 60, c.offset = 60, c.dlse = true;
      check(c);
      c.offset = -90;  // some rows see nothing
      check(c);
      c.offset = 0, c.window = 70;
      check(c);
      c.segment = [](int64_t i) { return static_cast<int32_t>(i / 100); };
      check(c);
      c.causal = false, c.window = 0, c.segment = [](int64_t i) { return static_cast<int32_t>(i * 7 % 3); };
      check(c);
    }
}

TEST(Attention, Scales) {
  for (double scale : {0.0, -0.5, 1.0, 3.0})
    for (DType dtype : {DType::f32, DType::f64})
      check({.queries = 70, .keys = 70, .scale = scale, .dtype = dtype});
}

TEST(Attention, ResultsInOtherOrders) {
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16})
    for (const std::vector<size_t>& order : {std::vector<size_t>{0, 2, 1, 3}, {2, 0, 1, 3}, {1, 0, 2, 3}}) {
      Case c;
      c.batch = 2, c.heads = 4, c.groups = 2, c.queries = 131, c.keys = 75, c.depth = 20, c.valueDepth = 9;
      c.causal = true, c.offset = -50, c.dlse = true, c.dtype = dtype, c.written = order;
      check(c);
      c.bias = Bias{};
      c.bias->dtype = dtype, c.bias->graded = true;
      check(c);
    }
}

TEST(Attention, Empty) {
  check({.queries = 5, .keys = 0});
  check({.queries = 0, .keys = 5});
  check({.batch = 0, .queries = 5, .keys = 5});
}

TEST(Attention, NaNStaysInItsRow) {
  std::mt19937 random(3);
  const Case c{.queries = 40, .keys = 40};
  const Dims shape{1, 1, 40, 16};
  Array q = makeArray(c.dtype, shape, c.order, random);
  const Array k = makeArray(c.dtype, shape, c.order, random), v = makeArray(c.dtype, shape, c.order, random);
  put(c.dtype, q.data.data(), 20 * 16 + 3, NAN);
  const auto out = runKernel(Op::attention, c, {&q, &k, &v}, {{c.dtype, shape}, {DType::f32, {1, 1, 40}}});
  for (int64_t i = 0; i < 40; i++) {
    EXPECT_EQ(std::isnan(get(DType::f32, out[0].data(), i * 16)), i == 20);
    EXPECT_EQ(std::isnan(get(DType::f32, out[1].data(), i)), i == 20);
  }
}

TEST(Attention, Accepts) {
  const Node node{Op::attention, {}, {}, {}};
  EXPECT_TRUE(attentionEntry.accepts(node, 0, {DType::f32, {2, 3, 4, 5}, {60, 5, 15, 1}, 7}));
  EXPECT_FALSE(attentionEntry.accepts(node, 0, {DType::f32, {2, 3, 4, 5}, {60, 20, 1, 4}, 0}));
  EXPECT_TRUE(attentionEntry.accepts(node, 0, {DType::f32, {2, 3, 4, 1}, {12, 4, 1, 4}, 0}));
  EXPECT_TRUE(attentionEntry.accepts(node, 3, {DType::f32, {2, 3, 4, 5}, {0, 20, 0, 1}, 7}));
  EXPECT_TRUE(attentionEntry.accepts(node, 3, {DType::boolean, {2, 3, 4, 5}, {0, 3, 1, 0}, 0}));
  EXPECT_FALSE(attentionEntry.accepts(node, 3, {DType::f32, {2, 3, 4, 5}, {60, 20, 1, 4}, 0}));
  EXPECT_FALSE(attentionEntry.accepts(node, 3, {DType::i32, {2, 4}, {1, 2}, 0}));
  EXPECT_FALSE(attentionGradEntry.accepts(node, 4, {DType::f32, {2, 3, 4}, {12, 1, 3}, 0}));
}

}  // namespace
}  // namespace lazuli
