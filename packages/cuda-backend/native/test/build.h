#pragma once

#include "kernel_harness.h"
#include "lower.h"

namespace lazuli::test {

/// Builds programs as decode() gives them. Inputs come before every node; broadcasting and result types are
/// worked out for elementwise ops, given for the rest.
class ProgramBuilder {
 public:
  Program program;

  ValueId input(DType dtype, Dims shape, bool donated = false) {
    program.inputCount++;
    program.donated.push_back(donated);
    program.values.push_back({{dtype, std::move(shape)}, -1, 0});
    return static_cast<ValueId>(program.values.size() - 1);
  }
  std::vector<ValueId> nodes(Op op, std::vector<ValueId> operands, const std::vector<TensorType>& results,
                             std::vector<Attr> attrs = {}) {
    Node node{op, std::move(operands), {}, std::move(attrs)};
    for (size_t i = 0; i < results.size(); i++) {
      node.results.push_back(static_cast<ValueId>(program.values.size()));
      program.values.push_back(
          {results[i], static_cast<int32_t>(program.nodes.size()), static_cast<int32_t>(i)});
    }
    program.nodes.push_back(node);
    return node.results;
  }
  ValueId node(Op op, std::vector<ValueId> operands, TensorType result, std::vector<Attr> attrs = {}) {
    return nodes(op, std::move(operands), {std::move(result)}, std::move(attrs))[0];
  }
  void output(ValueId value) { program.outputs.push_back(value); }

  const TensorType& type(ValueId value) const { return program.type(value); }
  const Dims& shape(ValueId value) const { return type(value).shape; }

  ValueId elementwise(Op op, const std::vector<ValueId>& operands, std::vector<Attr> attrs = {});
  ValueId cast(ValueId x, DType dtype) { return node(Op::cast, {x}, {dtype, shape(x)}, {code(dtype)}); }
  ValueId full(double value, DType dtype, Dims shape) {
    return node(Op::full, {}, {dtype, shape}, {value, shape, code(dtype)});
  }
  ValueId iota(int64_t dim, DType dtype, Dims shape) {
    return node(Op::iota, {}, {dtype, shape}, {dim, shape, code(dtype)});
  }
  ValueId random(Op op, ValueId key, int64_t stream, DType dtype, Dims shape) {
    return node(op, {key}, {dtype, shape}, {stream, shape, shape, code(dtype)});
  }
  /// The part of `whole` that begins at element `first`, an int64 scalar.
  ValueId randomPart(Op op, ValueId key, ValueId first, int64_t stream, DType dtype, Dims shape, Dims whole) {
    return node(op, {key, first}, {dtype, shape}, {stream, shape, whole, code(dtype)});
  }
  ValueId constant(const Array& array) {
    const auto* data = reinterpret_cast<const uint8_t*>(array.bytes.data());
    return node(
        Op::constant, {}, array.type,
        {array.type.shape, code(array.type.dtype), std::vector<uint8_t>(data, data + array.type.bytes())});
  }
  ValueId reduce(Op op, ValueId x, const Dims& dims, bool keepdim = false);
  ValueId reshape(ValueId x, Dims to) { return node(Op::reshape, {x}, {type(x).dtype, to}, {to}); }
  ValueId transpose(ValueId x, const Dims& perm);
  ValueId broadcast(ValueId x, Dims to) { return node(Op::broadcast_to, {x}, {type(x).dtype, to}, {to}); }
  ValueId slice(ValueId x, const Dims& starts, const Dims& limits, const Dims& steps);
  ValueId flip(ValueId x, const Dims& dims) { return node(Op::flip, {x}, type(x), {dims}); }
  ValueId pad(ValueId x, const Dims& low, const Dims& high, const Dims& interior, double value);
  ValueId concat(const std::vector<ValueId>& pieces, int64_t dim);
  ValueId matmul(ValueId a, ValueId b);  // [M, K] · [K, N]

  static Attr code(DType dtype) { return static_cast<int64_t>(dtype); }
};

/// Runs the steps in order, every value in memory of its exact size; with `share`, results take over the
/// memory of operands wherever a kernel says they may and nothing reads them later.
std::vector<Array> runLowered(const Lowered& lowered, const std::vector<Array>& inputs, bool share);

/// Node by node, element by element, each result rounded to its dtype: what every lowering must give.
std::vector<Array> reference(const Program& program, const std::vector<Array>& inputs);

/// Whether expectReference compiles what it is given, so that there had better be few.
bool onlyFewPrograms();

/// Whether element i is what is expected, within `tolerance` relative to max(|expected|, scale).
bool isNear(const Array& expected, const Array& actual, int64_t i, double tolerance, double scale);

/// Lowers fused and not, runs with and without shared memory, and compares with the reference.
/// `tolerance` is relative to max(|expected|, scale). With LAZULI_TEST_DEVICE=cuda the fused kernels are
/// CUDA's; as those of many programs are compiled together, the comparison may come later. With
/// LAZULI_TEST_DEVICE=cubin they are only compiled, by NVRTC for sm_80 and sm_90a.
void expectReference(const Program& program, const std::vector<Array>& inputs, double tolerance = 1e-5,
                     double scale = 1);

}  // namespace lazuli::test
