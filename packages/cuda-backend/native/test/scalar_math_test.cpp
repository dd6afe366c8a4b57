#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

namespace lazuli::test {
namespace {

#include "kernels/scalar_math.h"

/// |actual - exact| in units of exact's last place as a float32.
double unitsOff(float actual, double exact) {
  const float nearest = static_cast<float>(exact);
  if (std::isnan(exact) || std::isinf(nearest) || std::isnan(actual) || std::isinf(actual)) {
    // Either side of the largest float32 is near enough to it.
    const bool atTheTop = std::fabs(exact) > 3.4028233e38 && std::fabs(actual) > 3.4028233e38f;
    const bool same = std::isnan(exact) ? std::isnan(actual) : nearest == actual || atTheTop;
    return same ? 0 : HUGE_VAL;
  }
  const int exponent = exact == 0 ? -149 : std::max(std::ilogb(exact) - 23, -149);
  return std::fabs(static_cast<double>(actual) - exact) / std::ldexp(1, exponent);
}

/// Over every exponent and sign, NaN and infinities among them.
void expectWithin(const char* name, float (*function)(float), double (*exact)(double), double units) {
  const auto check = [&](float x) {
    const double off = unitsOff(function(x), exact(x));
    EXPECT_LE(off, units) << name << "(" << x << ") = " << function(x) << ", exactly " << exact(x);
    return off <= units;
  };
  int bad = 0;
  for (uint64_t bits = 0; bits < 1ull << 32 && bad < 5; bits += 9973)
    bad += !check(floatOf(static_cast<uint32_t>(bits)));
  const float inf = std::numeric_limits<float>::infinity();
  for (float x :
       {0.0f, 1.0f, 88.72283f, 88.7229f, 103.9f, 104.5f, 1e-45f, 1.1754942e-38f, 3.4028235e38f, inf}) {
    check(x);
    check(-x);
  }
  const double zero = exact(-0.0);
  if (zero == 0) {
    EXPECT_EQ(std::signbit(function(-0.0f)), std::signbit(zero)) << name << "(-0)";
  }
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST(ScalarMath, WithinAFewUnits) {
  expectWithin("exp", exp_, std::exp, 1.1);
  expectWithin("exp2", exp2_, std::exp2, 1.1);
  expectWithin("expm1", expm1_, std::expm1, 1.6);
  expectWithin("log", log_, std::log, 1);
  expectWithin("log2", log2_, std::log2, 2);
  expectWithin("log1p", log1p_, std::log1p, 1.6);
  expectWithin("tanh", tanh_, std::tanh, 2.5);
  expectWithin("sigmoid", sigmoid_, sigmoid, 2.5);
  expectWithin("erf", erf_, std::erf, 1.5);
  expectWithin("sin", sin_, std::sin, 1.7);
  expectWithin("cos", cos_, std::cos, 1.7);
}

}  // namespace
}  // namespace lazuli::test
