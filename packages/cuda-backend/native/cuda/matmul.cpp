#include "kernels/matmul.h"

#include <algorithm>

#include "cuda/device/matmul_simple.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/matmul_lt.h"
#include "kernels/fused.h"

namespace lazuli::cuda {
namespace {

// Calls to cuBLASLt that one product is worth: it is copied dense, to be one call, beyond.
constexpr int64_t kMostCalls = 64;

bool isFloating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::bf16 || dtype == DType::f16;
}

/// a's lines are out's rows here, whatever their number.
MatmulShape shapeOf(const MatmulSpec& spec) {
  MatmulShape shape = matmulShape(spec);
  if (shape.swapped) {
    std::swap(shape.a, shape.b);
    std::swap(shape.m, shape.n);
    shape.swapped = false;
  }
  return shape;
}

int64_t outerBatches(const MatmulShape& shape) {
  return shape.batch.empty() ? 1 : shape.batches() / std::max<int64_t>(shape.batch.back(), 1);
}

const char* shortName(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::f64:
      return "f64";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
    case DType::u8:
      return "u8";
    default:
      throw ProgramError(std::string("matmul of ") + name(dtype) + ": CUDA has none");
  }
}

/// One fused step of a product: what it reads comes first in its args.
struct Stage {
  MadeKernel made;
  size_t at = 0;  // of its scratch
};

/// A copy in the order batch, lines, depth (MatmulOperand::order).
MadeKernel makeArrange(const Layout& layout, const std::vector<int64_t>& order) {
  FusedSpec spec;
  FusedSpec::Value value;
  value.kind = FusedSpec::Value::Kind::load;
  value.lane = laneOf(layout.dtype);
  value.layout = {layout.dtype, {}, {}, layout.offset};
  for (int64_t dim : order) {
    value.layout.shape.push_back(layout.shape[static_cast<size_t>(dim)]);
    value.layout.strides.push_back(layout.strides[static_cast<size_t>(dim)]);
  }
  spec.space = value.layout.shape;
  spec.stores = {{0, 0, Layout::dense({layout.dtype, spec.space})}};
  spec.values = {std::move(value)};
  std::vector<FusedSpec> parts;
  parts.push_back(std::move(spec));
  return cuda::makeFused(std::move(parts));
}

TileOp opOf(Activation activation) {
  switch (activation) {
    case Activation::gelu_tanh:
      return TileOp::gelu_tanh;
    case Activation::gelu_erf:
      return TileOp::gelu_erf;
    case Activation::silu:
      return TileOp::silu;
    default:
      return TileOp::relu;
  }
}

/// out = activation(out + bias) + residual over [rows, n]; reads out, then the bias and the residual where
/// there are such.
MadeKernel makeFinish(DType dtype, int64_t rows, int64_t n, const std::optional<Layout>& bias,
                      Activation activation, bool residual) {
  using Value = FusedSpec::Value;
  FusedSpec spec;
  spec.space = {rows, n};
  const Lane lane = laneOf(dtype);
  const auto load = [&](uint32_t read, Layout layout) {
    Value value;
    value.kind = Value::Kind::load;
    value.lane = lane;
    value.read = read;
    value.layout = std::move(layout);
    spec.values.push_back(std::move(value));
    return static_cast<int>(spec.values.size()) - 1;
  };
  const auto op = [&](TileOp what, int first, int second) {
    Value value;
    value.kind = Value::Kind::op;
    value.lane = lane;
    value.op = what;
    value.args[0] = first;
    value.args[1] = second;
    spec.values.push_back(std::move(value));
    return static_cast<int>(spec.values.size()) - 1;
  };
  const Layout dense = Layout::dense({dtype, spec.space});
  uint32_t read = 0;
  int at = load(read++, dense);
  if (bias) {
    const int64_t stride = bias->strides.empty() ? 0 : bias->strides.back();
    at = op(TileOp::add, at, load(read++, {dtype, spec.space, {0, stride}, bias->offset}));
  }
  if (activation != Activation::none) at = op(opOf(activation), at, -1);
  if (residual) at = op(TileOp::add, at, load(read++, dense));
  spec.stores = {{at, 0, dense}};
  std::vector<FusedSpec> parts;
  parts.push_back(std::move(spec));
  return cuda::makeFused(std::move(parts));
}

class Matmul final : public Kernel {
 public:
  explicit Matmul(const MatmulSpec& spec);
  void run(const KernelArgs& args) const override;
  const MatmulShape& shape() const { return shape_; }
  size_t scratchBytes() const { return scratchBytes_; }
  bool addsInside() const { return inside_.addend; }

 private:
  size_t reserve(size_t bytes) {
    const size_t at = scratchBytes_;
    scratchBytes_ += (bytes + 63) / 64 * 64;
    return at;
  }
  const std::byte* arranged(const std::optional<Stage>& stage, const std::byte* from, const KernelArgs& args,
                            size_t at) const;
  void runSimple(const std::byte* a, const std::byte* b, std::byte* out, const Stream& stream) const;

  MatmulShape shape_;
  DType in_, out_;
  int64_t biasOffset_ = 0;
  bool bias_, residual_;
  size_t scratchBytes_ = 0;
  std::optional<Stage> arrangeA_, arrangeB_, finish_;
  size_t aAt_ = 0, bAt_ = 0, workspaceAt_ = 0;
  LtEpilogue inside_;  // what cuBLASLt does of the epilogue; `finish_` does the rest
  std::unique_ptr<LtMatmul> library_;
  std::optional<Function> simple_;
};

Matmul::Matmul(const MatmulSpec& spec)
    : shape_(shapeOf(spec)),
      in_(spec.a.dtype),
      out_(spec.out.dtype),
      bias_(spec.bias.has_value()),
      residual_(spec.residual) {
  MatmulShape& s = shape_;
  const auto item = sizeBytes(in_);
  if (!s.a.collapses) {
    aAt_ = reserve(static_cast<size_t>(s.batches() * s.m * s.k) * item);
    arrangeA_ = Stage{makeArrange(spec.a, s.a.order)};
    arrangeA_->at = reserve(arrangeA_->made.scratchBytes);
  }
  if (!s.b.collapses) {
    bAt_ = reserve(static_cast<size_t>(s.batches() * s.n * s.k) * item);
    arrangeB_ = Stage{makeArrange(spec.b, s.b.order)};
    arrangeB_->at = reserve(arrangeB_->made.scratchBytes);
  }
  const bool isLibrarys = isFloating(in_) && s.a.isBlas(s.m, s.k) && s.b.isBlas(s.n, s.k) && s.k > 0 &&
                          outerBatches(s) <= kMostCalls;
  const Activation activation = spec.activation;
  if (isLibrarys) {
    const bool denseBias =
        bias_ && (spec.bias->strides.empty() || spec.bias->strides.back() == 1 || spec.bias->elements() == 1);
    const bool onlyAdds = activation == Activation::none;
    const bool inOne =
        (onlyAdds || ((activation == Activation::relu || activation == Activation::gelu_tanh) && !residual_ &&
                      in_ != DType::f64)) &&
        (!bias_ || (denseBias && spec.bias->offset == 0 && in_ != DType::f64));
    if (inOne) inside_ = {bias_, activation, residual_};
    library_ = std::make_unique<LtMatmul>(s, in_, out_, inside_);
    workspaceAt_ = reserve(library_->workspaceBytes());
  } else {
    if (s.batch.size() > MatmulSimpleArgs::kMostBatchDims)
      throw ProgramError("matmul: CUDA takes at most " + std::to_string(MatmulSimpleArgs::kMostBatchDims) +
                         " batch dims that do not merge");
    simple_.emplace("matmul_simple",
                    std::string("lazuli_matmul_simple_") + shortName(in_) + "_" + shortName(out_));
  }
  const bool isDone =
      (!bias_ || inside_.bias) && (activation == inside_.activation) && (!residual_ || inside_.addend);
  if (!isDone) {
    finish_ = Stage{makeFinish(out_, s.batches() * s.m, s.n, spec.bias, activation, residual_)};
    finish_->at = reserve(finish_->made.scratchBytes);
  }
  if (bias_ && inside_.bias) biasOffset_ = spec.bias->offset;
}

const std::byte* Matmul::arranged(const std::optional<Stage>& stage, const std::byte* from,
                                  const KernelArgs& args, size_t at) const {
  if (!stage) return from;
  std::byte* to = args.scratch + at;
  KernelArgs own = args;
  own.reads = &from;
  own.writes = &to;
  own.scratch = args.scratch + stage->at;
  stage->made.kernel->run(own);
  return to;
}

void Matmul::runSimple(const std::byte* a, const std::byte* b, std::byte* out, const Stream& stream) const {
  const MatmulShape& s = shape_;
  MatmulSimpleArgs args{};
  args.a = a + s.a.offset * static_cast<int64_t>(sizeBytes(in_));
  args.b = b + s.b.offset * static_cast<int64_t>(sizeBytes(in_));
  args.m = s.m;
  args.n = s.n;
  args.k = s.k;
  args.aLine = s.a.lineStride;
  args.aDepth = s.a.depthStride;
  args.bLine = s.b.lineStride;
  args.bDepth = s.b.depthStride;
  args.batchDims = static_cast<int>(s.batch.size());
  for (size_t d = 0; d < s.batch.size(); d++) {
    args.batch[d] = s.batch[d];
    args.aBatch[d] = s.a.batchStrides[d];
    args.bBatch[d] = s.b.batchStrides[d];
  }
  const auto tiles = [](int64_t n) {
    return static_cast<uint32_t>((n + kMatmulSimpleTile - 1) / kMatmulSimpleTile);
  };
  args.c = out;
  // A grid has at most 65535 blocks along y and z.
  constexpr int64_t most = 65535;
  if (tiles(s.m) > most || s.batches() > most)
    throw ProgramError(
        "matmul: CUDA's kernel for these layouts takes at most 65535 batches and a million rows");
  simple_->launch(stream, {tiles(s.n), tiles(s.m), static_cast<uint32_t>(s.batches())}, args);
}

void Matmul::run(const KernelArgs& args) const {
  const MatmulShape& s = shape_;
  if (s.batches() * s.m * s.n == 0) return;
  const Stream& stream = *args.stream;
  const std::byte* a = arranged(arrangeA_, args.reads[0], args, aAt_);
  const std::byte* b = arranged(arrangeB_, args.reads[1], args, bAt_);
  const std::byte* bias = bias_ ? args.reads[2] : nullptr;
  const std::byte* residual = residual_ ? args.reads[bias_ ? 3 : 2] : nullptr;
  std::byte* out = args.writes[0];
  // What is added after an activation must not be overwritten before: such an output is not in place.
  if (library_) {
    library_->run(a, b, inside_.bias ? bias + biasOffset_ * static_cast<int64_t>(sizeBytes(out_)) : nullptr,
                  inside_.addend ? residual : nullptr, out, args.scratch + workspaceAt_, stream);
  } else {
    runSimple(a, b, out, stream);
  }
  if (!finish_) return;
  std::vector<const std::byte*> reads{out};
  if (bias_) reads.push_back(bias);
  if (residual_) reads.push_back(residual);
  KernelArgs own = args;
  own.reads = reads.data();
  own.writes = &out;
  own.scratch = args.scratch + finish_->at;
  finish_->made.kernel->run(own);
}

}  // namespace

MadeKernel makeMatmul(const MatmulSpec& spec) {
  auto kernel = std::make_unique<Matmul>(spec);
  const MatmulShape& s = kernel->shape();
  MadeKernel made;
  made.label = label(spec, s);
  made.scratchBytes = kernel->scratchBytes();
  made.flops = 2.0 * static_cast<double>(s.batches()) * static_cast<double>(s.m) * static_cast<double>(s.n) *
               static_cast<double>(s.k);
  if (spec.residual && spec.activation == Activation::none && kernel->addsInside())
    made.inPlace.emplace_back(0, spec.bias ? 3 : 2);
  made.kernel = std::move(kernel);
  return made;
}

bool matmulAccepts(const MatmulSpec& spec, size_t operand) {
  if (operand == 2) return true;
  const MatmulShape shape = shapeOf(spec);
  const MatmulOperand& x = operand == 0 ? shape.a : shape.b;
  if (!x.collapses) return false;
  if (!isFloating(spec.a.dtype)) return shape.batch.size() <= MatmulSimpleArgs::kMostBatchDims;
  return x.isBlas(operand == 0 ? shape.m : shape.n, shape.k) && outerBatches(shape) <= kMostCalls;
}

}  // namespace lazuli::cuda
