#include "cuda/device/linear_cross_entropy.h"

#include <algorithm>

#include "cuda/index_fault.h"
#include "cuda/kernels.h"
#include "cuda/library_kernels.h"
#include "cuda/row_launch.h"
#include "kernels/matmul.h"

// The logits of a chunk of rows lie in the scratch: a product, a kernel that takes each row's loss and turns
// it into its gradient, and products of that. The idea is Hsu et al., "Liger Kernel" (2024).

namespace lazuli::cuda {
namespace {

// Logits of a chunk: enough rows that products are near a GPU's best, and few enough that they take a small
// part of its memory.
constexpr int64_t kChunkBytes = 256 << 20, kLeastChunk = 256;

int64_t ceilDiv(int64_t n, int64_t d) { return (n + d - 1) / d; }

struct Sizes {
  int64_t rows, features, classes, chunk;
  DType dtype, wide;  // wide: of the logits and of sums

  Sizes(const TensorType& x, const TensorType& weight)
      : rows(elements(Dims(x.shape.begin(), x.shape.end() - 1))),
        features(x.shape.back()),
        classes(weight.shape[0]),
        dtype(x.dtype),
        wide(dtype == DType::f64 ? DType::f64 : DType::f32) {
    const int64_t fitting =
        kChunkBytes / std::max<int64_t>(1, classes * static_cast<int64_t>(sizeBytes(wide)));
    const int64_t most = std::max(kLeastChunk, fitting);
    // Equal pieces, in multiples of 128; the last may be shorter.
    const int64_t pieces = std::max<int64_t>(1, ceilDiv(rows, most));
    chunk = std::min(rows, ceilDiv(ceilDiv(rows, pieces), 128) * 128);
  }
};

/// A product of dense matrices.
struct Product {
  MadeKernel made;
  bool inPlace = false;  // of what is added

  Product() = default;
  /// out (+)= a · b, contracted over dim `aDim` of a and `bDim` of b.
  Product(DType in, DType out, const Dims& a, int64_t aDim, const Dims& b, int64_t bDim, bool adds) {
    MatmulSpec spec;
    spec.a = Layout::dense({in, a});
    spec.b = Layout::dense({in, b});
    spec.lhsContract = {aDim};
    spec.rhsContract = {bDim};
    spec.out = {out, {a[static_cast<size_t>(1 - aDim)], b[static_cast<size_t>(1 - bDim)]}};
    spec.residual = adds;
    made = cuda::makeMatmul(spec);
    inPlace = !made.inPlace.empty();
  }
  void run(const KernelArgs& args, std::byte* scratch, const std::byte* a, const std::byte* b, std::byte* out,
           const std::byte* added = nullptr) const {
    const std::byte* const reads[] = {a, b, added};
    KernelArgs own = args;
    own.reads = reads;
    own.writes = &out;
    own.scratch = scratch;
    made.kernel->run(own);
  }
};

class LinearCrossEntropy {
 public:
  LinearCrossEntropy(const KernelRequest& request, bool withGrad);
  void run(const KernelArgs& args) const;
  size_t scratchBytes() const { return scratchBytes_; }
  double flops() const {
    const double logits = static_cast<double>(s_.rows) * static_cast<double>(s_.classes);
    return logits *
           (2.0 * static_cast<double>(s_.features) * (1 + needX_ + needWeight_) + (withGrad_ ? 8 : 4));
  }

 private:
  /// Those of a chunk of some number of rows.
  struct Products {
    int64_t rows;
    Product logits, dx, dweight, addedDweight;
  };

  size_t reserve(size_t bytes) {
    const size_t at = scratchBytes_;
    scratchBytes_ += (bytes + 63) / 64 * 64;
    return at;
  }
  void addProducts(int64_t rows);
  void addWeight(const KernelArgs& args, const Products& products, const std::byte* dlogits,
                 const std::byte* x, bool isFirst) const;

  Sizes s_;
  bool withGrad_, wideTargets_, needX_ = false, needWeight_ = false;
  int64_t ignored_;
  double smoothing_;
  std::vector<Products> products_;  // of a chunk, and of the last where it is shorter
  Function rows_, round_;
  size_t scratchBytes_ = 0, logitsAt_ = 0, dlogitsAt_ = 0, dweightAt_ = 0, spareAt_ = 0, productAt_ = 0;
};

LinearCrossEntropy::LinearCrossEntropy(const KernelRequest& request, bool withGrad)
    : s_({request.operands[0].dtype, request.operands[0].shape},
         {request.operands[1].dtype, request.operands[1].shape}),
      withGrad_(withGrad),
      wideTargets_(request.operands[2].dtype == DType::i64),
      ignored_(request.node.integer(attr::linear_cross_entropy::ignore_index)),
      smoothing_(request.node.number(attr::linear_cross_entropy::label_smoothing)),
      rows_("linear_cross_entropy", std::string("lazuli_linear_cross_entropy_") + suffix(s_.dtype)),
      round_("linear_cross_entropy", std::string("lazuli_round_") + suffix(s_.dtype)) {
  if (withGrad_) {
    needX_ = request.node.flag(attr::linear_cross_entropy_grad::need_x);
    needWeight_ = request.node.flag(attr::linear_cross_entropy_grad::need_weight);
  }
  if (s_.rows == 0 || s_.classes == 0) return;
  const auto logits = static_cast<size_t>(s_.chunk * s_.classes);
  const size_t wideBytes = sizeBytes(s_.wide), weights = static_cast<size_t>(s_.classes * s_.features);
  logitsAt_ = dlogitsAt_ = reserve(logits * wideBytes);
  const bool narrow = s_.dtype != s_.wide, several = s_.rows > s_.chunk;
  if ((needX_ || needWeight_) && narrow) dlogitsAt_ = reserve(logits * sizeBytes(s_.dtype));
  if (needWeight_ && narrow && several) dweightAt_ = reserve(weights * wideBytes);
  addProducts(s_.chunk);
  if (s_.rows % s_.chunk != 0) addProducts(s_.rows % s_.chunk);
  size_t productBytes = 0;
  bool inPlace = true;
  for (const Products& products : products_) {
    for (const Product* product : {&products.logits, &products.dx, &products.dweight, &products.addedDweight})
      productBytes = std::max(productBytes, product->made.scratchBytes);
    if (products.addedDweight.made.kernel) inPlace = inPlace && products.addedDweight.inPlace;
  }
  productAt_ = reserve(productBytes);
  if (!inPlace) spareAt_ = reserve(weights * wideBytes);
}

void LinearCrossEntropy::addProducts(int64_t rows) {
  const Dims x{rows, s_.features}, weight{s_.classes, s_.features}, logits{rows, s_.classes};
  const bool several = s_.rows > s_.chunk;
  Products products;
  products.rows = rows;
  products.logits = Product(s_.dtype, s_.wide, x, 1, weight, 1, false);
  if (needX_) products.dx = Product(s_.dtype, s_.dtype, logits, 1, weight, 0, false);
  if (needWeight_) {
    // Summed over several chunks it is wide; a single one's is rounded as it is made.
    products.dweight = Product(s_.dtype, several ? s_.wide : s_.dtype, logits, 0, x, 0, false);
    if (several) products.addedDweight = Product(s_.dtype, s_.wide, logits, 0, x, 0, true);
  }
  products_.push_back(std::move(products));
}

void LinearCrossEntropy::addWeight(const KernelArgs& args, const Products& products, const std::byte* dlogits,
                                   const std::byte* x, bool isFirst) const {
  std::byte* scratch = args.scratch + productAt_;
  std::byte* sums = s_.dtype != s_.wide && s_.rows > s_.chunk ? args.scratch + dweightAt_ : args.writes[3];
  if (isFirst) return products.dweight.run(args, scratch, dlogits, x, sums);
  if (products.addedDweight.inPlace) return products.addedDweight.run(args, scratch, dlogits, x, sums, sums);
  std::byte* spare = args.scratch + spareAt_;
  products.addedDweight.run(args, scratch, dlogits, x, spare, sums);
  args.stream->copy(sums, spare, static_cast<size_t>(s_.classes * s_.features) * sizeBytes(s_.wide));
}

void LinearCrossEntropy::run(const KernelArgs& args) const {
  const int64_t weights = s_.classes * s_.features;
  if (needWeight_ && s_.rows == 0 && weights > 0)
    args.stream->zero(args.writes[3], static_cast<size_t>(weights) * sizeBytes(s_.dtype));
  if (s_.rows == 0) return;
  std::byte *logits = args.scratch + logitsAt_, *dlogits = args.scratch + dlogitsAt_;
  std::byte* product = args.scratch + productAt_;
  const Targets targets{args.reads[2], wideTargets_, ignored_, args.stream->fault(), args.stream->step};
  for (int64_t first = 0; first < s_.rows; first += s_.chunk) {
    const int64_t rows = std::min(s_.chunk, s_.rows - first);
    const Products& products = products_[rows == s_.chunk ? 0 : 1];
    const std::byte* x = at(args.reads[0], s_.dtype, first * s_.features);
    products.logits.run(args, product, x, args.reads[1], logits);
    const Rows dense{rows, s_.classes, s_.classes, 0};
    const RowLaunch launch(rows, s_.classes, s_.wide, kRowPacks);
    LinearCrossEntropyArgs work{launch.shape,
                                rowsIn(logits, s_.wide, dense),
                                {},
                                targets,
                                first,
                                smoothing_,
                                reinterpret_cast<float*>(args.writes[0]),
                                reinterpret_cast<float*>(args.writes[1]),
                                withGrad_ ? reinterpret_cast<const float*>(args.reads[3]) : nullptr};
    if (needX_ || needWeight_) {
      work.dlogits = rowsOut(dlogits, s_.dtype, dense);
      // Its packs hold as many elements as those of the logits, so in a half type they are half as long.
      work.dlogits.aligned =
          isAligned(dlogits) && s_.classes % (16 / static_cast<int64_t>(sizeBytes(s_.wide))) == 0;
    }
    rows_.launch(*args.stream, launch.grid, work);
    if (needWeight_) addWeight(args, products, dlogits, x, first == 0);
    if (needX_)
      products.dx.run(args, product, dlogits, args.reads[1],
                      at(args.writes[2], s_.dtype, first * s_.features));
  }
  if (needWeight_ && s_.dtype != s_.wide && s_.rows > s_.chunk) {
    round_.launch(
        *args.stream, Grid{static_cast<uint32_t>(ceilDiv(weights, 256 * 8))},
        RoundArgs{reinterpret_cast<const float*>(args.scratch + dweightAt_), args.writes[3], weights});
  }
}

MadeKernel make(const KernelRequest& request, bool withGrad) {
  const char* op = withGrad ? "linear_cross_entropy_grad" : "linear_cross_entropy";
  LinearCrossEntropy kernel(request, withGrad);
  MadeKernel made;
  made.label = std::string(op) + " " + name(request.operands[0].dtype) + " " +
               format(request.operands[0].shape) + " * " + format(request.operands[1].shape);
  made.scratchBytes = kernel.scratchBytes();
  made.flops = kernel.flops();
  const int64_t dim = static_cast<int64_t>(request.operands[0].shape.size()) - 1;
  made.kernel = indexingKernelOf({op, "target", dim, request.operands[1].shape[0]},
                                 [kernel = std::move(kernel)](const KernelArgs& args) { kernel.run(args); });
  return made;
}

}  // namespace

const KernelEntry linearCrossEntropyEntry = {
    [](const KernelRequest& request) { return make(request, false); }};
const KernelEntry linearCrossEntropyGradEntry = {
    [](const KernelRequest& request) { return make(request, true); }};

}  // namespace lazuli::cuda
