#include "kernels/matmul.h"

#include <algorithm>
#include <cstring>

#include "kernels/gemm.h"
#include "kernels/matmul_layout.h"
#include "kernels/matmul_onednn.h"
#include "parallel.h"

namespace lazuli {
namespace {

size_t alignUp(size_t bytes) { return (bytes + 63) / 64 * 64; }

/// An operand whose dims do not collapse, made dense in another order of its dims.
struct Arrangement {
  size_t itemBytes;
  Dims shape, strides;
  int64_t offset;

  Arrangement(const Layout& layout, const std::vector<int64_t>& order)
      : itemBytes(sizeBytes(layout.dtype)), offset(layout.offset) {
    for (int64_t d : order) {
      shape.push_back(layout.shape[static_cast<size_t>(d)]);
      strides.push_back(layout.strides[static_cast<size_t>(d)]);
    }
  }

  void run(const std::byte* from, std::byte* to) const {
    const size_t rank = shape.size();
    const int64_t inner = rank ? shape[rank - 1] : 1, step = rank ? strides[rank - 1] : 0;
    const int64_t rows = elements(shape) / std::max<int64_t>(inner, 1);
    parallelFor(rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(inner, 1)),
                [&](int64_t begin, int64_t end) {
                  for (int64_t row = begin; row < end; row++) {
                    int64_t at = offset, rest = row;
                    for (size_t d = rank < 2 ? 0 : rank - 1; d-- > 0; rest /= shape[d])
                      at += rest % shape[d] * strides[d];
                    std::byte* target = to + static_cast<size_t>(row * inner) * itemBytes;
                    for (int64_t i = 0; i < inner; i++)
                      std::memcpy(target + static_cast<size_t>(i) * itemBytes,
                                  from + (at + i * step) * static_cast<int64_t>(itemBytes), itemBytes);
                  }
                });
  }
};

/// The bias of each merged column, where it is not that already.
struct BiasVector {
  size_t itemBytes;
  int64_t length, stride, offset, columns;

  bool isDense() const { return columns == length && (stride == 1 || length == 1); }
  void run(const std::byte* from, std::byte* to) const {
    for (int64_t i = 0; i < columns; i++)
      std::memcpy(to + static_cast<size_t>(i) * itemBytes,
                  from + (offset + i % length * stride) * static_cast<int64_t>(itemBytes), itemBytes);
  }
};

class Matmul final : public Kernel {
 public:
  explicit Matmul(const MatmulSpec& spec);
  size_t scratchBytes() const { return scratchBytes_; }
  const MatmulShape& shape() const { return shape_; }
  void run(const KernelArgs& args) const override;

 private:
  /// Takes room of the scratch.
  size_t reserve(size_t bytes) {
    const size_t at = scratchBytes_;
    scratchBytes_ += alignUp(bytes);
    return at;
  }

  MatmulShape shape_;
  GemmTypes types_;
  Activation activation_;
  bool residual_;
  std::optional<Arrangement> arrangeA_, arrangeB_;
  std::optional<BiasVector> bias_;
  std::unique_ptr<DnnlMatmul> library_;
  std::optional<Gemm> own_;
  size_t scratchBytes_ = 0, aAt_ = 0, bAt_ = 0, biasAt_ = 0, gemmAt_ = 0;
};

/// Where our kernels beat the library: a call of it costs about 1.5 us, and it packs b even for a few rows.
bool isOurs(const MatmulShape& s, int64_t rows) {
  const double work = static_cast<double>(rows) * static_cast<double>(s.n) * static_cast<double>(s.k);
  return work <= 32.0 * 32 * 32 || rows <= 4;
}

Matmul::Matmul(const MatmulSpec& spec)
    : shape_(matmulShape(spec)),
      types_{spec.a.dtype, spec.out.dtype},
      activation_(spec.activation),
      residual_(spec.residual) {
  const MatmulShape& s = shape_;
  const size_t item = sizeBytes(types_.in);
  if (!s.a.collapses) {
    arrangeA_.emplace(s.swapped ? spec.b : spec.a, s.a.order);
    aAt_ = reserve(static_cast<size_t>(s.batches() * s.m * s.k) * item);
  }
  if (!s.b.collapses) {
    arrangeB_.emplace(s.swapped ? spec.a : spec.b, s.b.order);
    bAt_ = reserve(static_cast<size_t>(s.batches() * s.n * s.k) * item);
  }
  if (spec.bias) {
    bias_ = BiasVector{sizeBytes(types_.out), spec.bias->elements(),
                       spec.bias->strides.empty() ? 1 : spec.bias->strides.back(), spec.bias->offset, s.n};
    if (!bias_->isDense()) biasAt_ = reserve(static_cast<size_t>(s.n) * sizeBytes(types_.out));
  }
  const int64_t rows = s.swapped ? s.m : std::max(s.m, spec.wholeRows);
  if (!isOurs(s, rows))
    library_ = DnnlMatmul::make({types_, spec.bias.has_value(), activation_, residual_}, s);
  if (library_) {
    gemmAt_ = reserve(library_->scratchBytes());
  } else {
    own_.emplace(GemmProblem{types_, s.a.lineStride, s.a.depthStride, s.b.depthStride, s.b.lineStride, s.m,
                             s.n, s.k, rows, batchOffsets(s.batch, s.a), batchOffsets(s.batch, s.b),
                             residual_ && activation_ != Activation::none});
    gemmAt_ = reserve(own_->scratchBytes());
  }
}

void Matmul::run(const KernelArgs& args) const {
  const MatmulShape& s = shape_;
  if (s.batches() * s.m * s.n == 0) return;
  const std::byte* a = args.reads[s.swapped ? 1 : 0];
  const std::byte* b = args.reads[s.swapped ? 0 : 1];
  if (arrangeA_) {
    arrangeA_->run(a, args.scratch + aAt_);
    a = args.scratch + aAt_;
  }
  if (arrangeB_) {
    arrangeB_->run(b, args.scratch + bAt_);
    b = args.scratch + bAt_;
  }
  GemmEpilogue epilogue;
  epilogue.activation = activation_;
  if (bias_) {
    if (bias_->isDense()) {
      epilogue.bias = args.reads[2] + bias_->offset * static_cast<int64_t>(bias_->itemBytes);
    } else {
      bias_->run(args.reads[2], args.scratch + biasAt_);
      epilogue.bias = args.scratch + biasAt_;
    }
  }
  if (residual_) epilogue.residual = args.reads[bias_ ? 3 : 2];
  std::byte* scratch = args.scratch + gemmAt_;
  if (library_)
    library_->run(a, b, args.writes[0], epilogue, scratch);
  else
    own_->run(a, b, args.writes[0], epilogue, scratch);
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
  if (spec.residual) made.inPlace.emplace_back(0, spec.bias ? 3 : 2);
  made.kernel = std::move(kernel);
  return made;
}

}  // namespace lazuli
