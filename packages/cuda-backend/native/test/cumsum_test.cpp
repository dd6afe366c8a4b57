#include "kernel_harness.h"

namespace lazuli::test {
namespace {

TEST(Cumsum, EveryDim) {
  struct Case {
    Dims shape;
    int64_t dim;
  };
  const Case cases[] = {{{1}, 0},         {{7}, 0},      {{5, 300}, 0},   {{5, 300}, 1},
                        {{3, 4, 700}, 1}, {{0, 3}, 0},   {{3, 0}, 1},     {{50000}, 0},
                        {{3, 40001}, 1},  {{100, 9}, 1}, {{2, 33, 1}, 1}, {{300, 5}, 0}};
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i32, DType::i64, DType::u8}) {
    for (const Case& c : cases) {
      for (bool reverse : {false, true}) {
        const Array x =
            isFloat(dtype) ? Array::random(dtype, c.shape, 1) : Array::indices(dtype, c.shape, 9, 1);
        const int64_t n = c.shape[c.dim], inner = elements(Dims(c.shape.begin() + c.dim + 1, c.shape.end()));
        std::vector<double> y = x.values();
        double largest = 1;
        for (int64_t line = 0; n > 0 && line < x.type.elements() / n; ++line) {
          double sum = 0;
          for (int64_t k = 0; k < n; ++k) {
            const int64_t at = line / inner * n * inner + (reverse ? n - 1 - k : k) * inner + line % inner;
            sum += y[at];
            if (dtype == DType::u8) sum = std::fmod(sum, 256);
            y[at] = sum;
            largest = std::max(largest, std::fabs(sum));
          }
        }
        expectClose(runKernel(Op::cumsum, {integer(c.dim), flag(reverse)}, {x}, {x.type})[0], y,
                    isFloat(dtype) ? 2 * largest : 0);
      }
    }
  }
}

}  // namespace
}  // namespace lazuli::test
