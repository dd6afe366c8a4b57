#include <cmath>
#include <cstring>

#include "build.h"

namespace lazuli::test {
namespace {

double wrapped(double value, DType dtype) {
  switch (dtype) {
    case DType::i32:
      return static_cast<double>(static_cast<int32_t>(static_cast<uint32_t>(static_cast<int64_t>(value))));
    case DType::u8:
      return static_cast<double>(static_cast<uint8_t>(static_cast<int64_t>(value)));
    case DType::boolean:
      return value != 0;
    default:
      return value;
  }
}

double unary(Op op, double x, bool floating, bool approximate) {
  switch (op) {
    case Op::neg:
      return -x;
    case Op::abs:
      return std::abs(x);
    case Op::sign:
      return (x > 0) - (x < 0);
    case Op::exp:
      return std::exp(x);
    case Op::exp2:
      return std::exp2(x);
    case Op::expm1:
      return std::expm1(x);
    case Op::log:
      return std::log(x);
    case Op::log1p:
      return std::log1p(x);
    case Op::log2:
      return std::log2(x);
    case Op::sqrt:
      return std::sqrt(x);
    case Op::rsqrt:
      return 1 / std::sqrt(x);
    case Op::sin:
      return std::sin(x);
    case Op::cos:
      return std::cos(x);
    case Op::tan:
      return std::tan(x);
    case Op::asin:
      return std::asin(x);
    case Op::acos:
      return std::acos(x);
    case Op::atan:
      return std::atan(x);
    case Op::sinh:
      return std::sinh(x);
    case Op::cosh:
      return std::cosh(x);
    case Op::tanh:
      return std::tanh(x);
    case Op::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Op::erf:
      return std::erf(x);
    case Op::reciprocal:
      return 1 / x;
    case Op::square:
      return x * x;
    case Op::floor:
      return std::floor(x);
    case Op::ceil:
      return std::ceil(x);
    case Op::round:
      return std::nearbyint(x);
    case Op::trunc:
      return std::trunc(x);
    case Op::relu:
      return x < 0 ? 0 : x;
    case Op::silu:
      return x / (1 + std::exp(-x));
    case Op::softplus:
      return std::log1p(std::exp(-std::abs(x))) + std::max(x, 0.0);
    case Op::gelu:
      return approximate ? x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)))
                         : x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
    case Op::logical_not:
      return x == 0;
    case Op::isnan:
      return std::isnan(x);
    case Op::isinf:
      return std::isinf(x);
    case Op::isfinite:
      return std::isfinite(x);
    case Op::cast:
      return floating ? x : std::trunc(x);
    default:
      throw ProgramError(std::string("no reference for ") + info(op).name);
  }
}

double binary(Op op, double a, double b, bool floating, bool approximate) {
  switch (op) {
    case Op::add:
      return a + b;
    case Op::sub:
      return a - b;
    case Op::mul:
      return a * b;
    case Op::div:
      return floating ? a / b : b == 0 ? 0 : std::trunc(a / b);
    case Op::pow:
      return std::pow(a, b);
    case Op::maximum:
      return std::isnan(a) || a > b ? a : b;
    case Op::minimum:
      return std::isnan(a) || a < b ? a : b;
    case Op::remainder: {
      if (!floating && b == 0) return 0;
      const double r = std::fmod(a, b);
      return r != 0 && (r < 0) != (b < 0) ? r + b : r;
    }
    case Op::floor_divide:
      return !floating && b == 0 ? 0 : std::floor(a / b);
    case Op::atan2:
      return std::atan2(a, b);
    case Op::eq:
      return a == b;
    case Op::ne:
      return a != b;
    case Op::lt:
      return a < b;
    case Op::le:
      return a <= b;
    case Op::gt:
      return a > b;
    case Op::ge:
      return a >= b;
    case Op::logical_and:
      return a != 0 && b != 0;
    case Op::logical_or:
      return a != 0 || b != 0;
    case Op::logical_xor:
      return (a != 0) != (b != 0);
    case Op::silu_grad: {
      const double s = 1 / (1 + std::exp(-a));
      return b * s * (1 + a * (1 - s));
    }
    case Op::gelu_grad: {
      if (!approximate)
        return b * ((1 + std::erf(a / std::sqrt(2.0))) / 2 + a * std::exp(-a * a / 2) / std::sqrt(2 * M_PI));
      const double c = std::sqrt(2 / M_PI), t = std::tanh(c * (a + 0.044715 * a * a * a));
      return b * ((1 + t) / 2 + a / 2 * (1 - t * t) * c * (1 + 3 * 0.044715 * a * a));
    }
    default:
      throw ProgramError(std::string("no reference for ") + info(op).name);
  }
}

/// Row-major positions, and what lies there.
struct Tensor {
  TensorType type;
  std::vector<double> data;
};

Dims indexOf(int64_t element, const Dims& shape) {
  Dims index(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    index[i] = element % shape[i];
    element /= shape[i];
  }
  return index;
}
int64_t elementOf(const Dims& index, const Dims& shape) {
  int64_t element = 0;
  for (size_t i = 0; i < shape.size(); i++) element = element * shape[i] + index[i];
  return element;
}
double broadcastAt(const Tensor& x, const Dims& index) {
  const size_t added = index.size() - x.type.shape.size();
  Dims own;
  for (size_t i = 0; i < x.type.shape.size(); i++) own.push_back(x.type.shape[i] == 1 ? 0 : index[added + i]);
  return x.data[static_cast<size_t>(elementOf(own, x.type.shape))];
}

void philox(uint64_t counter, uint64_t stream, const int64_t* keys, uint32_t words[4]) {
  uint32_t key[2];
  for (int i = 0; i < 2; i++)
    key[i] = static_cast<uint32_t>(static_cast<uint64_t>(keys[i]) ^ static_cast<uint64_t>(keys[i]) >> 32);
  uint32_t c[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                   static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
  for (int round = 0; round < 10; round++) {
    const uint64_t a = 0xD2511F53ull * c[0], b = 0xCD9E8D57ull * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(a)};
    std::memcpy(c, next, sizeof c);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  std::memcpy(words, c, sizeof c);
}

double randomValue(Op op, int64_t i, uint64_t stream, const int64_t* keys) {
  uint32_t w[4];
  philox(static_cast<uint64_t>(i / 4), stream, keys, w);
  if (op == Op::random_uniform) return (w[i % 4] >> 8) * 0x1p-24;
  const int64_t pair = i % 4 / 2 * 2;
  const double u1 = ((w[pair] >> 8) + 1.0) * 0x1p-24, u2 = (w[pair + 1] >> 8) * 0x1p-24;
  const double radius = std::sqrt(-2 * std::log(u1));
  return i % 2 == 0 ? radius * std::cos(2 * M_PI * u2) : radius * std::sin(2 * M_PI * u2);
}

double reduced(Op op, const Node&, const std::vector<double>& values, DType dtype) {
  const bool floating = isFloat(dtype);
  double sum = 0, product = 1;
  size_t best = 0;
  for (size_t i = 0; i < values.size(); i++) {
    sum += values[i];
    product *= values[i];
    const bool more = op == Op::max || op == Op::argmax;
    if (std::isnan(values[best])) continue;
    if (std::isnan(values[i]) || (more ? values[i] > values[best] : values[i] < values[best])) best = i;
  }
  switch (op) {
    case Op::sum:
      return sum;
    case Op::prod:
      return product;
    case Op::argmax:
    case Op::argmin:
      return static_cast<double>(best);
    default:
      if (!values.empty()) return values[best];
      return floating ? (op == Op::max ? -INFINITY : INFINITY) : 0;
  }
}

class Evaluator {
 public:
  Evaluator(const Program& program, const std::vector<Array>& inputs) : program_(program) {
    values_.resize(program.values.size());
    for (size_t i = 0; i < inputs.size(); i++) values_[i] = {inputs[i].type, inputs[i].values()};
    for (size_t i = 0; i < inputs.size(); i++)
      if (inputs[i].type.dtype == DType::i64 && inputs[i].type.elements() == 2)
        std::memcpy(keys_, inputs[i].bytes.data(), sizeof keys_);
  }

  std::vector<Array> run() {
    for (const Node& node : program_.nodes) {
      if (node.results.empty()) continue;
      Tensor& out = values_[node.results[0]];
      out.type = program_.type(node.results[0]);
      out.data.resize(static_cast<size_t>(out.type.elements()));
      compute(node, out);
      const Array rounded = Array::of(out.type.dtype, out.type.shape, [&](int64_t i) {
        return wrapped(out.data[static_cast<size_t>(i)], out.type.dtype);
      });
      out.data = rounded.values();
    }
    std::vector<Array> outputs;
    for (ValueId output : program_.outputs)
      outputs.push_back(Array::of(values_[output].type.dtype, values_[output].type.shape,
                                  [&](int64_t i) { return values_[output].data[static_cast<size_t>(i)]; }));
    return outputs;
  }

 private:
  const Tensor& operand(const Node& node, size_t k) const { return values_[node.operands[k]]; }

  template <class Body>
  void each(Tensor& out, Body&& body) {
    for (int64_t i = 0; i < out.type.elements(); i++)
      out.data[static_cast<size_t>(i)] = body(indexOf(i, out.type.shape), i);
  }

  void compute(const Node& node, Tensor& out) {
    const LowerKind lower = info(node.op).lower;
    if (lower == LowerKind::elementwise) return computeElementwise(node, out);
    if (lower == LowerKind::reduction) return computeReduction(node, out);
    if (node.op == Op::dot_general) return computeMatmul(node, out);
    const auto at = [&](size_t k, const Dims& index) {
      const Tensor& x = operand(node, k);
      return x.data[static_cast<size_t>(elementOf(index, x.type.shape))];
    };
    switch (node.op) {
      case Op::full:
        return each(out, [&](const Dims&, int64_t) { return node.number(0); });
      case Op::iota:
        return each(out, [&](const Dims& index, int64_t) {
          return static_cast<double>(index[static_cast<size_t>(node.integer(0))]);
        });
      case Op::random_uniform:
      case Op::random_normal:
        return each(out, [&](const Dims& index, int64_t) {
          int64_t number = node.operands.size() > 1 ? static_cast<int64_t>(operand(node, 1).data[0]) : 0;
          number += elementOf(index, node.ints(2));
          return randomValue(node.op, number, static_cast<uint64_t>(node.integer(0)), keys_);
        });
      case Op::constant: {
        Array array(out.type.dtype, out.type.shape);
        std::memcpy(array.bytes.data(), node.bytes(2).data(), node.bytes(2).size());
        out.data = array.values();
        return;
      }
      case Op::detach:
      case Op::reshape:
        out.data = operand(node, 0).data;
        return;
      case Op::broadcast_to:
        return each(out, [&](const Dims& index, int64_t) { return broadcastAt(operand(node, 0), index); });
      case Op::transpose:
        return each(out, [&](const Dims& index, int64_t) {
          Dims from(index.size());
          for (size_t i = 0; i < index.size(); i++) from[static_cast<size_t>(node.ints(0)[i])] = index[i];
          return at(0, from);
        });
      case Op::slice:
        return each(out, [&](Dims index, int64_t) {
          for (size_t i = 0; i < index.size(); i++) index[i] = node.ints(0)[i] + index[i] * node.ints(2)[i];
          return at(0, index);
        });
      case Op::flip:
        return each(out, [&](Dims index, int64_t) {
          for (int64_t dim : node.ints(0)) {
            int64_t& i = index[static_cast<size_t>(dim)];
            i = out.type.shape[static_cast<size_t>(dim)] - 1 - i;
          }
          return at(0, index);
        });
      case Op::pad:
        return each(out, [&](Dims index, int64_t) {
          for (size_t i = 0; i < index.size(); i++) {
            const int64_t step = node.ints(2)[i] + 1, from = index[i] - node.ints(0)[i];
            if (from < 0 || from % step != 0 || from / step >= operand(node, 0).type.shape[i])
              return node.number(3);
            index[i] = from / step;
          }
          return at(0, index);
        });
      case Op::concat:
        return each(out, [&](Dims index, int64_t) {
          int64_t& i = index[static_cast<size_t>(node.integer(0))];
          size_t k = 0;
          for (; i >= operand(node, k).type.shape[static_cast<size_t>(node.integer(0))]; k++)
            i -= operand(node, k).type.shape[static_cast<size_t>(node.integer(0))];
          return at(k, index);
        });
      default:
        throw ProgramError(std::string("no reference for ") + info(node.op).name);
    }
  }

  void computeElementwise(const Node& node, Tensor& out) {
    const DType from = operand(node, node.operands.size() - 1).type.dtype;
    const bool approximate = (node.op == Op::gelu || node.op == Op::gelu_grad) && node.integer(0) != 0;
    each(out, [&](const Dims& index, int64_t) {
      double x[3] = {};
      for (size_t k = 0; k < node.operands.size(); k++) x[k] = broadcastAt(operand(node, k), index);
      if (node.op == Op::where) return x[0] != 0 ? x[1] : x[2];
      if (node.op == Op::cast && out.type.dtype == DType::boolean) return double(x[0] != 0);
      return node.operands.size() == 1 ? unary(node.op, x[0], isFloat(out.type.dtype), approximate)
                                       : binary(node.op, x[0], x[1], isFloat(from), approximate);
    });
  }

  void computeReduction(const Node& node, Tensor& out) {
    const Tensor& x = operand(node, 0);
    const bool arg = node.op == Op::argmax || node.op == Op::argmin;
    const Dims dims = arg ? Dims{node.integer(0)} : node.ints(0);
    std::vector<std::vector<double>> taken(out.data.size());
    for (int64_t i = 0; i < x.type.elements(); i++) {
      Dims index = indexOf(i, x.type.shape), kept;
      for (size_t d = 0; d < index.size(); d++) {
        const bool is = std::find(dims.begin(), dims.end(), static_cast<int64_t>(d)) != dims.end();
        if (!is) kept.push_back(index[d]);
        if (is && node.flag(1)) kept.push_back(0);
      }
      taken[static_cast<size_t>(elementOf(kept, out.type.shape))].push_back(x.data[static_cast<size_t>(i)]);
    }
    for (size_t i = 0; i < taken.size(); i++) out.data[i] = reduced(node.op, node, taken[i], x.type.dtype);
  }

  void computeMatmul(const Node& node, Tensor& out) {
    const Tensor& a = operand(node, 0);
    const Tensor& b = operand(node, 1);
    const int64_t depth = a.type.shape[1], columns = b.type.shape[1];
    each(out, [&](const Dims& index, int64_t) {
      double sum = 0;
      for (int64_t k = 0; k < depth; k++)
        sum += a.data[static_cast<size_t>(index[0] * depth + k)] *
               b.data[static_cast<size_t>(k * columns + index[1])];
      return sum;
    });
  }

  const Program& program_;
  std::vector<Tensor> values_;
  int64_t keys_[2] = {};
};

}  // namespace

std::vector<Array> reference(const Program& program, const std::vector<Array>& inputs) {
  return Evaluator(program, inputs).run();
}

}  // namespace lazuli::test
