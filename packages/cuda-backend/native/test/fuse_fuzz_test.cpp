#include <algorithm>
#include <numeric>

#include "build.h"

namespace lazuli::test {
namespace {

/// Random programs of views, elementwise ops, pads, concats, sources and reductions.
class Fuzzer {
 public:
  Fuzzer(uint32_t seed, bool large) : random_(seed), large_(large) {}

  void run() {
    const int inputs = pick(1, 4);
    std::vector<ValueId> made;
    key_ = builder_.input(DType::i64, {2});
    arrays_.push_back(Array::indices(DType::i64, {2}, 1 << 30, random_()));
    for (int i = 0; i < inputs; i++) {
      const DType dtype = chance(60) ? DType::f32 : static_cast<DType>(pick(0, kDTypes - 1));
      const Dims shape = randomShape();
      values_.push_back(builder_.input(dtype, shape));
      arrays_.push_back(isFloat(dtype)
                            ? Array::random(dtype, shape, random_())
                            : Array::indices(dtype, shape, dtype == DType::boolean ? 2 : 7, random_()));
    }
    const int nodes = pick(1, 14);
    for (int i = 0; i < nodes; i++) step();
    const size_t outputs = static_cast<size_t>(pick(1, 3));
    for (size_t i = 0; i < outputs; i++)
      builder_.output(i == 0 ? values_.back()
                             : values_[static_cast<size_t>(pick(0, static_cast<int>(values_.size()) - 1))]);
    bool halves = false;
    for (const auto& value : builder_.program.values)
      halves |= value.type.dtype == DType::bf16 || value.type.dtype == DType::f16;
    expectReference(builder_.program, arrays_, halves ? 0.1 : 1e-4, 4);
  }

 private:
  int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool chance(int percent) { return pick(1, 100) <= percent; }
  ValueId any() {
    // Rather a late value, so that chains grow.
    const int last = static_cast<int>(values_.size()) - 1;
    return values_[static_cast<size_t>(chance(60) ? last : pick(0, last))];
  }
  const Dims& shape(ValueId value) const { return builder_.shape(value); }
  int rank(ValueId value) const { return static_cast<int>(shape(value).size()); }

  Dims randomShape() {
    static const std::vector<int> small = {1, 2, 3, 4, 5, 6, 8}, large = {1, 2, 3, 16, 17, 64, 130};
    Dims shape;
    int64_t count = 1;
    const int rank = pick(0, 5);
    for (int i = 0; i < rank; i++) {
      int64_t dim = (large_ ? large : small)[static_cast<size_t>(pick(0, 6))];
      if (chance(1)) dim = 0;
      if (count * dim > 20000) dim = 1;
      count *= dim;
      shape.push_back(dim);
    }
    return shape;
  }

  /// A value that broadcasts against x.
  ValueId partner(ValueId x) {
    std::vector<ValueId> fit;
    for (ValueId value : values_) {
      if (builder_.type(value).dtype != builder_.type(x).dtype) continue;
      const Dims &a = shape(value), &b = shape(x);
      bool fits = true;
      for (size_t i = 1; i <= std::min(a.size(), b.size()); i++) {
        const int64_t p = a[a.size() - i], q = b[b.size() - i];
        fits &= p == q || p == 1 || q == 1;
      }
      int64_t count = 1;
      for (size_t i = 1; i <= std::max(a.size(), b.size()); i++)
        count *= std::max(i <= a.size() ? a[a.size() - i] : 1, i <= b.size() ? b[b.size() - i] : 1);
      if (fits && count <= 40000) fit.push_back(value);
    }
    if (fit.empty() || chance(15)) return builder_.full(pick(-3, 3) * 0.5, builder_.type(x).dtype, {});
    return fit[static_cast<size_t>(pick(0, static_cast<int>(fit.size()) - 1))];
  }

  void step() {
    const ValueId x = any();
    const int kind = pick(0, 15);
    const DType dtype = builder_.type(x).dtype;
    if (kind <= 3) return keep(arithmetic(x, dtype));
    if (kind == 4) return keep(view(x));
    if (kind == 5) return keep(view(x));
    if (kind == 6) return keep(reshaped(x));
    if (kind == 7) return keep(reduction(x, dtype));
    if (kind == 8 && elements(shape(x)) < 4000) return keep(padded(x));
    if (kind == 9) return keep(joined(x));
    if (kind == 10) return keep(selected(x));
    if (kind == 11) return keep(builder_.cast(x, static_cast<DType>(pick(0, kDTypes - 1))));
    if (kind == 12) return keep(source(dtype));
    return keep(arithmetic(x, dtype));
  }
  void keep(ValueId value) { values_.push_back(value); }

  ValueId arithmetic(ValueId x, DType dtype) {
    if (dtype == DType::boolean)
      return builder_.elementwise(chance(50) ? Op::logical_xor : Op::logical_and, {x, partner(x)});
    if (!isFloat(dtype)) {
      static const Op ops[] = {Op::add, Op::sub, Op::maximum, Op::minimum};
      return builder_.elementwise(ops[pick(0, 3)], {x, partner(x)});
    }
    if (chance(50)) {
      static const Op ops[] = {Op::add, Op::sub, Op::maximum, Op::minimum};
      return builder_.elementwise(ops[pick(0, 3)], {x, partner(x)});
    }
    if (chance(30)) {
      // Kept in range.
      const ValueId bounded = builder_.elementwise(Op::sigmoid, {x});
      return builder_.elementwise(Op::mul, {bounded, partner(x)});
    }
    static const Op ops[] = {Op::neg, Op::abs, Op::sigmoid, Op::tanh, Op::silu, Op::relu, Op::sin};
    return builder_.elementwise(ops[pick(0, 6)], {x});
  }

  ValueId view(ValueId x) {
    const int n = rank(x);
    switch (pick(0, 4)) {
      case 0: {
        Dims perm(static_cast<size_t>(n));
        std::iota(perm.begin(), perm.end(), 0);
        std::shuffle(perm.begin(), perm.end(), random_);
        return builder_.transpose(x, perm);
      }
      case 1: {
        Dims starts, limits, steps;
        for (int64_t dim : shape(x)) {
          const int64_t start = dim > 1 ? pick(0, static_cast<int>(dim) / 2) : 0;
          starts.push_back(start);
          limits.push_back(dim > 1 ? pick(static_cast<int>(start) + 1, static_cast<int>(dim)) : dim);
          steps.push_back(pick(1, 2));
        }
        return builder_.slice(x, starts, limits, steps);
      }
      case 2: {
        Dims dims;
        for (int i = 0; i < n; i++)
          if (chance(40)) dims.push_back(i);
        return builder_.flip(x, dims);
      }
      case 3: {
        Dims to = shape(x);
        for (int64_t& dim : to)
          if (dim == 1 && elements(shape(x)) < 5000) dim = pick(1, 3);
        if (chance(30) && elements(to) < 5000) to.insert(to.begin(), pick(1, 3));
        return builder_.broadcast(x, to);
      }
      default:
        return builder_.node(Op::detach, {x}, builder_.type(x));
    }
  }

  ValueId reshaped(ValueId x) {
    int64_t left = elements(shape(x));
    if (left == 0) return x;
    Dims to;
    while (left > 1) {
      int64_t factor = 1;
      for (int tries = 0; tries < 8; tries++) {
        const int64_t candidate = pick(1, static_cast<int>(std::min<int64_t>(left, 300)));
        if (left % candidate == 0) factor = candidate;
      }
      if (to.size() >= 4) factor = left;
      to.push_back(factor);
      left /= factor;
    }
    return builder_.reshape(x, to);
  }

  ValueId reduction(ValueId x, DType dtype) {
    Dims dims;
    for (int i = 0; i < rank(x); i++)
      if (chance(50)) dims.push_back(i);
    if (rank(x) > 0 && shape(x)[0] > 0 && elements(shape(x)) > 0 && chance(30))
      return builder_.reduce(chance(50) ? Op::argmax : Op::argmin, x, {pick(0, rank(x) - 1)}, chance(50));
    const bool extremum = dtype == DType::boolean || dtype == DType::u8 || chance(50);
    if (extremum && elements(shape(x)) == 0) return x;
    if (extremum) return builder_.reduce(chance(50) ? Op::max : Op::min, x, dims, chance(50));
    // A mean, so that values stay small.
    const ValueId sum = builder_.reduce(Op::sum, x, dims, chance(50));
    if (!isFloat(dtype)) return sum;
    const double count = static_cast<double>(
        std::max<int64_t>(1, elements(shape(x)) / std::max<int64_t>(1, elements(shape(sum)))));
    return builder_.elementwise(Op::mul, {sum, builder_.full(1 / count, dtype, {})});
  }

  ValueId padded(ValueId x) {
    Dims low, high, interior;
    for (int i = 0; i < rank(x); i++) {
      low.push_back(pick(0, 2));
      high.push_back(pick(0, 2));
      interior.push_back(chance(20) ? pick(0, 2) : 0);
    }
    return builder_.pad(x, low, high, interior, builder_.type(x).dtype == DType::boolean ? 0 : pick(0, 2));
  }

  ValueId joined(ValueId x) {
    if (rank(x) == 0 || elements(shape(x)) > 10000) return x;
    std::vector<ValueId> pieces = {x};
    for (int i = pick(0, 2); i > 0; i--) pieces.push_back(chance(50) ? x : flipped(x));
    return builder_.concat(pieces, pick(0, rank(x) - 1));
  }
  ValueId flipped(ValueId x) {
    return builder_.type(x).dtype == DType::boolean ? builder_.flip(x, {0})
                                                    : builder_.elementwise(Op::abs, {builder_.flip(x, {0})});
  }

  ValueId selected(ValueId x) {
    const ValueId other = partner(x);
    const Dims to = shape(builder_.elementwise(
        builder_.type(x).dtype == DType::boolean ? Op::logical_or : Op::maximum, {x, other}));
    if (to.empty()) return x;
    const ValueId where = builder_.iota(pick(0, static_cast<int>(to.size()) - 1), DType::i32, to);
    const ValueId condition =
        builder_.elementwise(Op::lt, {where, builder_.full(pick(0, 6), DType::i32, {})});
    return builder_.elementwise(Op::where, {condition, x, other});
  }

  ValueId source(DType dtype) {
    const Dims shape = randomShape();
    if (isFloat(dtype) && chance(60)) {
      const Op op = chance(50) ? Op::random_uniform : Op::random_normal;
      if (chance(50)) return builder_.random(op, key_, pick(0, 3), dtype, shape);
      Dims whole = shape;
      for (int64_t& dim : whole) dim += pick(0, 3);
      return builder_.randomPart(op, key_, builder_.full(pick(0, 100000), DType::i64, {}), pick(0, 3), dtype,
                                 shape, whole);
    }
    if (shape.empty() || dtype == DType::boolean) return builder_.full(chance(50), dtype, shape);
    return chance(50) ? builder_.iota(pick(0, static_cast<int>(shape.size()) - 1),
                                      isFloat(dtype) ? DType::f32 : DType::i64, shape)
                      : builder_.full(pick(-2, 2), isFloat(dtype) ? dtype : DType::i32, shape);
  }

  std::mt19937 random_;
  bool large_;
  ProgramBuilder builder_;
  ValueId key_ = 0;
  std::vector<ValueId> values_;
  std::vector<Array> arrays_;
};

/// Of the CPU; what is compiled for another device takes far longer.
uint32_t seeds(uint32_t many) { return onlyFewPrograms() ? many / 20 : many; }

TEST(FuseFuzz, SmallShapes) {
  for (uint32_t seed = 0; seed < seeds(2000); seed++) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    ASSERT_NO_THROW(Fuzzer(seed, false).run());
    if (HasFatalFailure()) return;
  }
}

TEST(FuseFuzz, LargeShapes) {
  for (uint32_t seed = 0; seed < seeds(300); seed++) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    ASSERT_NO_THROW(Fuzzer(seed, true).run());
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace lazuli::test
