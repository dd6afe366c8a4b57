#include "kernels/matmul_layout.h"

#include <algorithm>
#include <numeric>

namespace lazuli {
namespace {

using Index = std::vector<int64_t>;

size_t at(int64_t i) { return static_cast<size_t>(i); }

int64_t product(const Layout& layout, const Index& dims) {
  int64_t n = 1;
  for (int64_t d : dims) n *= layout.shape[at(d)];
  return n;
}

/// Whether `dims`, in this order, are one dim of a single stride.
bool mergeable(const Layout& layout, const Index& dims, int64_t& stride) {
  stride = 1;
  int64_t above = -1;  // the dim outside, of size > 1
  int64_t inner = 1;
  for (size_t i = dims.size(); i-- > 0;) {
    const int64_t size = layout.shape[at(dims[i])], step = layout.strides[at(dims[i])];
    if (size == 1) continue;
    if (above < 0) {
      stride = step;
      inner = size;
      above = dims[i];
    } else {
      if (step != stride * inner) return false;
      inner *= size;
    }
  }
  return true;
}

Index freeDims(const Layout& layout, const Index& batch, const Index& contract) {
  Index dims;
  for (int64_t d = 0; d < static_cast<int64_t>(layout.shape.size()); d++)
    if (std::find(batch.begin(), batch.end(), d) == batch.end() &&
        std::find(contract.begin(), contract.end(), d) == contract.end())
      dims.push_back(d);
  return dims;
}

/// The contracted pairs may be taken in any order: the first that merges in both operands, else in one.
Index pairOrder(const MatmulSpec& spec) {
  Index given(spec.lhsContract.size());
  std::iota(given.begin(), given.end(), 0);
  const auto byStride = [&](const Layout& layout, const Index& dims) {
    Index order = given;
    std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) {
      return layout.strides[at(dims[at(x)])] > layout.strides[at(dims[at(y)])];
    });
    return order;
  };
  const auto merged = [&](const Index& order) {
    int64_t stride, count = 0;
    for (const auto& [layout, dims] :
         {std::pair(&spec.a, &spec.lhsContract), std::pair(&spec.b, &spec.rhsContract)}) {
      Index ordered;
      for (int64_t i : order) ordered.push_back((*dims)[at(i)]);
      count += mergeable(*layout, ordered, stride);
    }
    return count;
  };
  Index best = given;
  for (const Index& order : {byStride(spec.b, spec.rhsContract), byStride(spec.a, spec.lhsContract)})
    if (merged(order) > merged(best)) best = order;
  return best;
}

MatmulOperand operandOf(const Layout& layout, const Index& batch, const Index& lines, const Index& contract,
                        const Index& order) {
  MatmulOperand operand;
  Index depth;
  for (int64_t i : order) depth.push_back(contract[at(i)]);
  operand.offset = layout.offset;
  operand.order = batch;
  operand.order.insert(operand.order.end(), lines.begin(), lines.end());
  operand.order.insert(operand.order.end(), depth.begin(), depth.end());
  operand.collapses = mergeable(layout, lines, operand.lineStride) &&
                      mergeable(layout, depth, operand.depthStride) && operand.lineStride >= 0 &&
                      operand.depthStride >= 0;
  for (int64_t d : batch) {
    operand.batchStrides.push_back(layout.strides[at(d)]);
    if (layout.strides[at(d)] < 0 && layout.shape[at(d)] > 1) operand.collapses = false;
  }
  return operand;
}

/// Neighbouring batch dims become one where both operands step evenly through them; dims of size 1 go.
void mergeBatch(MatmulShape& shape) {
  Dims batch, a, b;
  for (size_t i = 0; i < shape.batch.size(); i++) {
    const int64_t size = shape.batch[i], aStep = shape.a.batchStrides[i], bStep = shape.b.batchStrides[i];
    if (size == 1) continue;
    if (!batch.empty() && a.back() == aStep * size && b.back() == bStep * size) {
      batch.back() *= size;
      a.back() = aStep;
      b.back() = bStep;
    } else {
      batch.push_back(size);
      a.push_back(aStep);
      b.push_back(bStep);
    }
  }
  shape.batch = std::move(batch);
  shape.a.batchStrides = std::move(a);
  shape.b.batchStrides = std::move(b);
}

}  // namespace

bool MatmulOperand::isBlas(int64_t lines, int64_t depth) const {
  const auto covers = [](int64_t unit, int64_t length, int64_t leading, int64_t count) {
    return (unit == 1 || length == 1) && (leading >= length || count == 1);
  };
  return covers(depthStride, depth, lineStride, lines) || covers(lineStride, lines, depthStride, depth);
}

MatmulShape matmulShape(const MatmulSpec& spec) {
  MatmulShape shape;
  const Index order = pairOrder(spec);
  const Index rows = freeDims(spec.a, spec.lhsBatch, spec.lhsContract);
  const Index cols = freeDims(spec.b, spec.rhsBatch, spec.rhsContract);
  shape.m = product(spec.a, rows);
  shape.n = product(spec.b, cols);
  shape.k = product(spec.a, spec.lhsContract);
  for (int64_t d : spec.lhsBatch) shape.batch.push_back(spec.a.shape[at(d)]);
  shape.a = operandOf(spec.a, spec.lhsBatch, rows, spec.lhsContract, order);
  shape.b = operandOf(spec.b, spec.rhsBatch, cols, spec.rhsContract, order);
  if (!shape.a.collapses) setDense(shape.a, shape.batch, shape.m, shape.k);
  if (!shape.b.collapses) setDense(shape.b, shape.batch, shape.n, shape.k);
  mergeBatch(shape);
  if (shape.n == 1 && shape.m > 1) {
    std::swap(shape.a, shape.b);
    std::swap(shape.m, shape.n);
    shape.swapped = true;
  }
  return shape;
}

void setDense(MatmulOperand& operand, const Dims& batch, int64_t lines, int64_t depth) {
  operand.lineStride = depth;
  operand.depthStride = 1;
  operand.batchStrides = denseStrides(batch);
  for (int64_t& stride : operand.batchStrides) stride *= lines * depth;
  operand.offset = 0;
}

std::vector<int64_t> batchOffsets(const Dims& batch, const MatmulOperand& operand) {
  std::vector<int64_t> offsets{operand.offset};
  for (size_t i = 0; i < batch.size(); i++) {
    std::vector<int64_t> next;
    next.reserve(offsets.size() * at(batch[i]));
    for (int64_t base : offsets)
      for (int64_t j = 0; j < batch[i]; j++) next.push_back(base + j * operand.batchStrides[i]);
    offsets = std::move(next);
  }
  return offsets;
}

std::string epilogueLabel(const MatmulSpec& spec) {
  static constexpr const char* activations[] = {"", " relu", " gelu_tanh", " gelu_erf", " silu"};
  std::string text = spec.bias ? " + bias" : "";
  text += activations[static_cast<size_t>(spec.activation)];
  if (spec.residual) text += " + residual";
  return text;
}

std::string label(const MatmulSpec& spec, const MatmulShape& s) {
  std::string text = std::string("matmul ") + name(spec.a.dtype) + " ";
  if (s.batches() != 1) text += std::to_string(s.batches()) + " x ";
  text += std::to_string(s.m) + "x" + std::to_string(s.k) + " * " + std::to_string(s.k) + "x" +
          std::to_string(s.n);
  return text + epilogueLabel(spec);
}

bool matmulAccepts(const MatmulSpec& spec, size_t operand) {
  if (operand == 2) return spec.bias && (spec.bias->strides.empty() || spec.bias->strides.back() >= 0);
  const MatmulShape shape = matmulShape(spec);
  const bool first = (operand == 0) != shape.swapped;
  const MatmulOperand& x = first ? shape.a : shape.b;
  const int64_t lines = first ? shape.m : shape.n;
  // A stride of 0 is a broadcast: packing repeats it without reading more.
  const auto short_ = [](int64_t stride, int64_t size) { return stride <= 1 || size <= 1; };
  return x.collapses && (short_(x.lineStride, lines) || short_(x.depthStride, shape.k));
}

}  // namespace lazuli
