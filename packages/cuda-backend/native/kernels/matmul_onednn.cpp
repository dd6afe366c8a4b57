#include "kernels/matmul_onednn.h"

#if LAZULI_HAVE_ONEDNN
#include <algorithm>
#include <dnnl.hpp>
#include <unordered_map>

#include "parallel.h"
#endif

namespace lazuli {

#if LAZULI_HAVE_ONEDNN
namespace {

using Desc = dnnl::memory::desc;
using Type = dnnl::memory::data_type;

const dnnl::engine& engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

const dnnl::stream& stream() {
  static const dnnl::stream stream(engine());
  return stream;
}

bool isSupported(const GemmTypes& types) {
  if (types.in == DType::f32) return types.out == DType::f32;
  return types.in == DType::bf16 && (types.out == DType::bf16 || types.out == DType::f32);
}

Type typeOf(DType dtype) { return dtype == DType::bf16 ? Type::bf16 : Type::f32; }

/// [batch..., rows, cols] with the strides that oneDNN expects of a plain format: a dim of size 1 must not
/// have one that would pass for the unit stride.
Desc descOf(DType dtype, const Dims& batch, Dims strides, int64_t rows, int64_t cols, int64_t rowStride,
            int64_t colStride) {
  if (rows == 1) rowStride = colStride == 1 ? cols : 1;
  if (cols == 1) colStride = rowStride == 1 && rows > 1 ? rows : 1;
  Dims dims = batch;
  dims.insert(dims.end(), {rows, cols});
  strides.insert(strides.end(), {rowStride, colStride});
  return Desc(dims, typeOf(dtype), strides);
}

dnnl::post_ops postOps(const DnnlProblem& problem, bool inPlace, const Desc& c) {
  using Algorithm = dnnl::algorithm;
  dnnl::post_ops ops;
  switch (problem.activation) {
    case Activation::none:
      break;
    case Activation::relu:
      ops.append_eltwise(1.0f, Algorithm::eltwise_relu, 0.0f, 0.0f);
      break;
    case Activation::gelu_tanh:
      ops.append_eltwise(1.0f, Algorithm::eltwise_gelu_tanh, 0.0f, 0.0f);
      break;
    case Activation::gelu_erf:
      ops.append_eltwise(1.0f, Algorithm::eltwise_gelu_erf, 0.0f, 0.0f);
      break;
    case Activation::silu:
      ops.append_eltwise(1.0f, Algorithm::eltwise_swish, 1.0f, 0.0f);
      break;
  }
  if (problem.residual && inPlace) ops.append_sum();
  if (problem.residual && !inPlace) ops.append_binary(Algorithm::binary_add, c);
  return ops;
}

/// A primitive and its memory objects, whose addresses are set at each run.
struct Compiled {
  dnnl::matmul primitive;
  std::unordered_map<int, dnnl::memory> args;
  int residualArg = -1;

  Compiled(const DnnlProblem& problem, const Desc& a, const Desc& b, const Desc& c, const Desc& bias,
           bool inPlace) {
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::post_ops ops = postOps(problem, inPlace, c);
    attr.set_post_ops(ops);
    const auto desc = problem.bias ? dnnl::matmul::desc(a, b, bias, c) : dnnl::matmul::desc(a, b, c);
    const dnnl::matmul::primitive_desc made(desc, attr, engine());
    implementation = made.impl_info_str();
    scratchBytes = made.scratchpad_desc().get_size();
    primitive = dnnl::matmul(made);
    const auto add = [&](int arg, const Desc& desc) {
      args.emplace(arg, dnnl::memory(desc, engine(), nullptr));
    };
    add(DNNL_ARG_SRC, a);
    add(DNNL_ARG_WEIGHTS, b);
    add(DNNL_ARG_DST, c);
    add(DNNL_ARG_SCRATCHPAD, made.scratchpad_desc());
    if (problem.bias) add(DNNL_ARG_BIAS, bias);
    if (problem.residual && !inPlace) {
      residualArg = DNNL_ARG_ATTR_MULTIPLE_POST_OP(ops.len() - 1) | DNNL_ARG_SRC_1;
      add(residualArg, c);
    }
  }

  void set(int arg, const void* data) {
    const auto found = args.find(arg);
    if (found != args.end()) found->second.set_data_handle(const_cast<void*>(data));
  }

  std::string implementation;
  size_t scratchBytes = 0;
};

class Library final : public DnnlMatmul {
 public:
  Library(const DnnlProblem& problem, const MatmulShape& s) : types_(problem.types) {
    const DType in = types_.in, out = types_.out;
    Dims cStrides = denseStrides(s.batch), one(s.batch.size() + 2, 1);
    for (int64_t& stride : cStrides) stride *= s.m * s.n;
    one.back() = s.n;
    aOffset_ = s.a.offset * static_cast<int64_t>(sizeBytes(in));
    bOffset_ = s.b.offset * static_cast<int64_t>(sizeBytes(in));
    const Desc a = descOf(in, s.batch, s.a.batchStrides, s.m, s.k, s.a.lineStride, s.a.depthStride);
    const Desc b = descOf(in, s.batch, s.b.batchStrides, s.k, s.n, s.b.depthStride, s.b.lineStride);
    const Desc c = descOf(out, s.batch, cStrides, s.m, s.n, s.n, 1);
    const Desc bias(one, typeOf(out), denseStrides(one));
    for (bool inPlace : {true, false})
      if (inPlace || problem.residual) compiled_.emplace_back(problem, a, b, c, bias, inPlace);
  }

  /// The reference loops are slower than ours.
  bool isFast() const {
    return std::none_of(compiled_.begin(), compiled_.end(),
                        [](const Compiled& c) { return c.implementation.find("ref") != std::string::npos; });
  }

  size_t scratchBytes() const override {
    size_t bytes = 0;
    for (const Compiled& c : compiled_) bytes = std::max(bytes, c.scratchBytes);
    return bytes;
  }

  void run(const void* a, const void* b, void* c, const GemmEpilogue& epilogue, std::byte* scratch) override {
    const bool apart = epilogue.residual && epilogue.residual != c;
    Compiled& use = compiled_[apart ? 1 : 0];
    use.set(DNNL_ARG_SRC, static_cast<const std::byte*>(a) + aOffset_);
    use.set(DNNL_ARG_WEIGHTS, static_cast<const std::byte*>(b) + bOffset_);
    use.set(DNNL_ARG_DST, c);
    use.set(DNNL_ARG_SCRATCHPAD, scratch);
    use.set(DNNL_ARG_BIAS, epilogue.bias);
    if (apart) use.set(use.residualArg, epilogue.residual);
    use.primitive.execute(stream(), use.args);
  }

 private:
  GemmTypes types_;
  int64_t aOffset_, bOffset_;
  std::vector<Compiled> compiled_;  // the residual summed in place; apart
};

}  // namespace

std::unique_ptr<DnnlMatmul> DnnlMatmul::make(const DnnlProblem& problem, const MatmulShape& shape) {
  if (!isSupported(problem.types) || shape.batches() * shape.m * shape.n * shape.k == 0) return nullptr;
  if (!shape.a.isBlas(shape.m, shape.k) || !shape.b.isBlas(shape.n, shape.k)) return nullptr;
  if (shape.batch.size() + 2 > DNNL_MAX_NDIMS) return nullptr;
  const auto repeats = [](int64_t stride) { return stride == 0; };
  for (const MatmulOperand* operand : {&shape.a, &shape.b})
    if (std::any_of(operand->batchStrides.begin(), operand->batchStrides.end(), repeats)) return nullptr;
  adoptThreadPool();  // a primitive is planned for as many threads as the thread that makes it may use
  try {
    auto library = std::make_unique<Library>(problem, shape);
    if (library->isFast()) return library;
  } catch (const dnnl::error&) {  // not implemented for these types on this processor
  }
  return nullptr;
}

#else

std::unique_ptr<DnnlMatmul> DnnlMatmul::make(const DnnlProblem&, const MatmulShape&) { return nullptr; }

#endif

}  // namespace lazuli
