#include "kernels/index_table.h"

namespace lazuli::LAZULI_ISA {

#include "kernels/vector_math.h"

namespace {

template <class T>
void add(void* sums, const void* xs, int64_t n) {
  Accumulator<T>* sum = static_cast<Accumulator<T>*>(sums);
  const T* x = static_cast<const T*>(xs);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] = static_cast<Accumulator<T>>(sum[i] + load(x[i]));
}

}  // namespace

const IndexTable& indexTable() {
  static constexpr IndexTable table = {
      {add<float>, add<double>, add<BFloat16>, add<Float16>, add<int32_t>, add<int64_t>, add<uint8_t>}};
  return table;
}

}  // namespace lazuli::LAZULI_ISA
