#include "build.h"

namespace lazuli::test {
namespace {

/// Causal attention over turned queries and keys that lie as [B, T, H, K], with its gradients turned back.
struct Attended {
  int64_t batch = 1, heads = 2, groups = 2, queries = 70, keys = 70;
  DType dtype = DType::f32, tables = DType::f32;
  bool turnsQ = true, turnsK = true, interleaved = false;
  bool hasGrads = true, turnsBack = true, isRead = false, backByOther = false, hasBias = false;

  static constexpr int64_t kDepth = 20;
  ProgramBuilder b;
  std::vector<Array> inputs;

  ValueId value(DType type, Dims shape) {
    inputs.push_back(Array::random(type, shape, static_cast<uint32_t>(inputs.size() + 1)));
    return b.input(type, std::move(shape));
  }
  ValueId turned(ValueId x, const std::pair<ValueId, ValueId>& by, bool inverse) {
    return b.node(Op::rope, {x, by.first, by.second}, b.type(x), {int64_t{interleaved}, int64_t{inverse}});
  }

  void build() {
    const ValueId x = value(dtype, {batch, queries, heads, kDepth}),
                  y = value(dtype, {batch, keys, groups, kDepth}), v = value(dtype, {batch, groups, keys, 9}),
                  dout = value(dtype, {batch, heads, queries, 9});
    const auto tablesOf = [&](int64_t length) {
      const ValueId cos = value(tables, {length, kDepth / 2});
      return std::pair{cos, value(tables, {length, kDepth / 2})};
    };
    const auto ofQueries = tablesOf(queries), ofKeys = tablesOf(keys), other = tablesOf(queries);
    const ValueId mask = value(dtype, {1, 1, 1, keys});
    const ValueId q0 = b.transpose(x, {0, 2, 1, 3}), k0 = b.transpose(y, {0, 2, 1, 3});
    const ValueId q = turnsQ ? turned(q0, ofQueries, false) : q0, k = turnsK ? turned(k0, ofKeys, false) : k0;
    const std::vector<Attr> attrs = {int64_t{1}, keys - queries, 0.3, int64_t{0}};
    const TensorType out{dtype, {batch, heads, queries, 9}}, lse{DType::f32, {batch, heads, queries}};
    std::vector<ValueId> operands = {q, k, v};
    if (hasBias) operands.push_back(mask);
    const auto results = b.nodes(Op::attention, operands, {out, lse}, attrs);
    b.output(results[0]);
    b.output(results[1]);
    if (isRead) b.output(b.elementwise(Op::neg, {q}));
    if (!hasGrads) return;
    operands = {q, k, v, results[0], results[1], dout};
    if (hasBias) operands.push_back(mask);
    const auto grads = b.nodes(Op::attention_grad, operands, {b.type(q), b.type(k), b.type(v)}, attrs);
    b.output(turnsQ && turnsBack ? turned(grads[0], backByOther ? other : ofQueries, true) : grads[0]);
    b.output(turnsK && turnsBack ? turned(grads[1], ofKeys, true) : grads[1]);
    b.output(grads[2]);
  }

  /// Ropes that are left; the bits are those of an op after the other.
  int64_t check() {
    build();
    const Lowered fused = lower(b.program, true);
    const auto wanted = runLowered(lower(b.program, false), inputs, false);
    for (bool share : {false, true}) {
      const auto found = runLowered(fused, inputs, share);
      for (size_t i = 0; i < wanted.size(); i++) EXPECT_TRUE(found[i].bytes == wanted[i].bytes) << i;
    }
    int64_t ropes = 0;
    for (const Step& step : fused.steps) ropes += step.made.label.starts_with("rope");
    return ropes;
  }
};

TEST(FuseRope, IsDoneByAttention) {
  for (DType dtype : {DType::f32, DType::f64})
    for (bool interleaved : {false, true})
      for (int64_t batch : {1, 40}) {  // few pairs, whose keys are divided; one a task
        Attended a;
        a.dtype = dtype, a.interleaved = interleaved, a.batch = batch;
        a.heads = 4, a.keys = 150;
        EXPECT_EQ(a.check(), 0) << name(dtype) << " " << interleaved << " " << batch;
      }
}

TEST(FuseRope, EitherAlone) {
  for (bool q : {false, true}) {
    Attended a;
    a.turnsQ = q, a.turnsK = !q, a.hasBias = q, a.tables = a.dtype = DType::f64;
    EXPECT_EQ(a.check(), 0);
  }
}

TEST(FuseRope, HalvesOnlyWithoutGradients) {
  for (DType dtype : {DType::bf16, DType::f16})
    for (DType tables : {DType::f32, dtype})
      for (bool hasGrads : {false, true}) {
        Attended a;
        a.dtype = dtype, a.tables = tables, a.hasGrads = hasGrads;
        EXPECT_EQ(a.check(), hasGrads ? 4 : 0);
      }
}

TEST(FuseRope, StaysWhereItIsReadOrTurnedOtherwise) {
  Attended read;
  read.isRead = true;
  EXPECT_EQ(read.check(), 2);  // q's, there and back
  Attended other;
  other.backByOther = true;
  EXPECT_EQ(other.check(), 1);
  Attended none;
  none.turnsBack = false;
  EXPECT_EQ(none.check(), 0);
}

}  // namespace
}  // namespace lazuli::test
