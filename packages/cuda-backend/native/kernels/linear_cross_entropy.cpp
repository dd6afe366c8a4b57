#include "kernels/linear_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/convert.h"
#include "kernels/cross_entropy_table.h"
#include "kernels/indices.h"
#include "kernels/matmul.h"
#include "kernels/rows.h"
#include "parallel.h"

// The logits of a chunk of rows lie in the scratch, and in it by blocks of classes, each dense [rows,
// classes]. A block is computed, and its rows' sums taken, while it is in a core's cache; when all of a
// chunk's are known, so are its rows' lse, and block by block the logits turn into their gradient, which goes
// into that of the weight's rows and, summed by part, into that of x. The idea is Hsu et al., "Liger Kernel"
// (2024). What is summed, and in what order, depends on the sizes alone.

namespace lazuli {
namespace {

using Sums = CrossEntropyTable::Sums;

// Logits of a chunk: enough rows that the weight and its gradient, which every chunk goes through, cost less
// than the products, which are twice as fast in the half types; few enough that they take a small part of the
// memory that all logits would. docs/performance.md has what was measured.
constexpr int64_t kChunkBytes = 24 << 20, kNarrowChunkBytes = 48 << 20, kLeastChunk = 128;
// A block's weight rows, its part of the logits and of the gradient stay in L2 together.
constexpr int64_t kBlockClasses = 512, kLeastBlock = 128, kBlockBytes = 1 << 20;
constexpr int64_t kParts = 16;

int64_t ceilDiv(int64_t n, int64_t d) { return (n + d - 1) / d; }
size_t alignUp(size_t bytes) { return (bytes + 63) / 64 * 64; }

/// Equal pieces of n of at most `most`, in multiples of 16; the last may be shorter.
int64_t pieceOf(int64_t n, int64_t most) {
  const int64_t pieces = std::max<int64_t>(1, ceilDiv(n, std::max<int64_t>(most, 1)));
  return std::min(n, ceilDiv(ceilDiv(n, pieces), 16) * 16);
}

struct Sizes {
  int64_t rows, features, classes;
  DType dtype, wide;  // wide: of the logits and of sums
  int64_t chunk, block, blocks, parts;

  Sizes(const TensorType& x, const TensorType& weight)
      : features(x.shape.back()), classes(weight.shape[0]), dtype(x.dtype) {
    rows = elements(Dims(x.shape.begin(), x.shape.end() - 1));
    wide = dtype == DType::f64 ? DType::f64 : DType::f32;
    const auto wideBytes = static_cast<int64_t>(sizeBytes(wide));
    const int64_t chunkBytes = dtype == wide ? kChunkBytes : kNarrowChunkBytes;
    chunk = pieceOf(rows, std::max(kLeastChunk, chunkBytes / std::max<int64_t>(1, classes * wideBytes)));
    const int64_t fitting = kBlockBytes / std::max<int64_t>(1, features * wideBytes);
    block = pieceOf(classes, std::clamp(fitting / 16 * 16, kLeastBlock, kBlockClasses));
    blocks = classes == 0 ? 0 : ceilDiv(classes, block);
    // Sums of x's gradient by part take no more than the chunk's logits.
    parts = std::clamp<int64_t>(classes / features, 1, std::min(kParts, std::max<int64_t>(blocks, 1)));
  }
  size_t wideBytes() const { return sizeBytes(wide); }
  int64_t classesOf(int64_t b) const { return std::min(block, classes - b * block); }
};

/// A product of dense matrices, made on the thread that asks for it.
struct Product {
  MadeKernel made;

  /// out (+)= a · b, contracted over dim `aDim` of a and `bDim` of b.
  Product(DType in, DType out, const Dims& a, int64_t aDim, const Dims& b, int64_t bDim, bool adds) {
    MatmulSpec spec;
    spec.a = Layout::dense({in, a});
    spec.b = Layout::dense({in, b});
    spec.lhsContract = {aDim};
    spec.rhsContract = {bDim};
    spec.out = {out, {a[static_cast<size_t>(1 - aDim)], b[static_cast<size_t>(1 - bDim)]}};
    spec.residual = adds;
    const ThreadCountScope alone(1);
    made = makeMatmul(spec);
  }
  void run(const std::byte* a, const std::byte* b, std::byte* out, std::byte* scratch) const {
    const std::byte* const reads[] = {a, b, out};
    made.kernel->run({reads, &out, scratch});
  }
};

/// Those of `rows` rows and `classes` classes.
struct Products {
  Product logits, dx, dweight;

  Products(const Sizes& s, int64_t rows, int64_t classes)
      : logits(s.dtype, s.wide, {rows, s.features}, 1, {classes, s.features}, 1, false),
        dx(s.dtype, s.wide, {rows, classes}, 1, {classes, s.features}, 0, true),
        dweight(s.dtype, s.wide, {rows, classes}, 0, {rows, s.features}, 0, true) {}
  size_t scratchBytes() const {
    return std::max({logits.made.scratchBytes, dx.made.scratchBytes, dweight.made.scratchBytes});
  }
};

class LinearCrossEntropy final : public Kernel {
 public:
  LinearCrossEntropy(const KernelRequest& request, bool withGrad);
  void run(const KernelArgs& args) const override;
  size_t scratchBytes() const { return scratchBytes_; }
  double flops() const;

 private:
  struct Chunk;

  size_t reserve(size_t bytes) {
    const size_t at = scratchBytes_;
    scratchBytes_ += alignUp(bytes);
    return at;
  }
  const Products& productsOf(int64_t rows, int64_t classes) const {
    return *products_[rows == s_.chunk ? 0 : 1][classes == s_.block ? 0 : 1];
  }
  std::byte* own(const KernelArgs& args, int thread) const {
    return args.scratch + threadAt_ + static_cast<size_t>(thread) * threadBytes_;
  }
  int64_t targetOf(const KernelArgs& args, int64_t row) const {
    return indexAt(args.reads[2], targetType_, row);
  }

  void checkTargets(const KernelArgs& args) const;
  void forwardBlock(const KernelArgs& args, const Chunk& chunk, int64_t b, int thread) const;
  void finishRows(const KernelArgs& args, const Chunk& chunk) const;
  void backwardBlock(const KernelArgs& args, const Chunk& chunk, int64_t b, std::byte* dx, int thread) const;
  void sumParts(const KernelArgs& args, const Chunk& chunk) const;
  void roundWeight(const KernelArgs& args) const;

  Sizes s_;
  const char* op_;
  bool withGrad_, needX_ = false, needWeight_ = false;
  DType targetType_;
  int64_t targetDim_, ignored_;
  double smoothing_;
  int threads_;
  std::unique_ptr<Products> products_[2][2];
  size_t scratchBytes_ = 0, logitsAt_ = 0, sumsAt_ = 0, pickedAt_ = 0, lseAt_ = 0, dxAt_ = 0, dweightAt_ = 0,
         threadAt_ = 0, threadBytes_ = 0, narrowAt_ = 0;
};

/// Rows first .. first + rows.
struct LinearCrossEntropy::Chunk {
  int64_t first, rows;
  std::byte* logits;  // withGrad: by block; else null, and a thread's own memory holds a block
  Sums* sums;         // by block, then row
  double* picked;     // the target's logit, by row
  double* lse;
};

LinearCrossEntropy::LinearCrossEntropy(const KernelRequest& request, bool withGrad)
    : s_({request.operands[0].dtype, request.operands[0].shape},
         {request.operands[1].dtype, request.operands[1].shape}),
      op_(withGrad ? "linear_cross_entropy_grad" : "linear_cross_entropy"),
      withGrad_(withGrad),
      targetType_(request.operands[2].dtype),
      targetDim_(static_cast<int64_t>(request.operands[0].shape.size()) - 1),
      ignored_(request.node.integer(attr::linear_cross_entropy::ignore_index)),
      smoothing_(request.node.number(attr::linear_cross_entropy::label_smoothing)),
      threads_(threadCount()) {
  if (withGrad_) {
    needX_ = request.node.flag(attr::linear_cross_entropy_grad::need_x);
    needWeight_ = request.node.flag(attr::linear_cross_entropy_grad::need_weight);
  }
  if (s_.rows == 0 || s_.classes == 0) return;
  const int64_t rows[] = {s_.chunk, s_.rows % s_.chunk}, classes[] = {s_.block, s_.classes % s_.block};
  size_t productBytes = 0;
  for (int i : {0, 1})
    for (int j : {0, 1})
      if (rows[i] > 0 && classes[j] > 0) {
        products_[i][j] = std::make_unique<Products>(s_, rows[i], classes[j]);
        productBytes = std::max(productBytes, alignUp(products_[i][j]->scratchBytes()));
      }
  const auto chunk = static_cast<size_t>(s_.chunk), blocks = static_cast<size_t>(s_.blocks);
  const size_t features = static_cast<size_t>(s_.features), classCount = static_cast<size_t>(s_.classes);
  const size_t blockBytes = chunk * static_cast<size_t>(s_.block) * s_.wideBytes();
  if (withGrad_) logitsAt_ = reserve(chunk * classCount * s_.wideBytes());
  sumsAt_ = reserve(blocks * chunk * sizeof(Sums));
  pickedAt_ = reserve(chunk * sizeof(double));
  lseAt_ = reserve(chunk * sizeof(double));
  const bool isNarrow = s_.dtype != s_.wide;
  if (needX_) dxAt_ = reserve(static_cast<size_t>(s_.parts) * chunk * features * s_.wideBytes());
  if (needWeight_ && isNarrow) dweightAt_ = reserve(classCount * features * s_.wideBytes());
  narrowAt_ = productBytes;  // after it: a block of logits, or of their gradient in the narrow type
  threadBytes_ = alignUp(productBytes + (!withGrad_ ? blockBytes
                                         : isNarrow ? blockBytes / s_.wideBytes() * sizeBytes(s_.dtype)
                                                    : 0));
  threadAt_ = reserve(static_cast<size_t>(threads_) * threadBytes_);
}

double LinearCrossEntropy::flops() const {
  const double logits = static_cast<double>(s_.rows) * static_cast<double>(s_.classes);
  return logits * (2.0 * static_cast<double>(s_.features) * (1 + needX_ + needWeight_) + (withGrad_ ? 8 : 4));
}

void LinearCrossEntropy::checkTargets(const KernelArgs& args) const {
  for (int64_t row = 0; row < s_.rows; row++) {
    const int64_t target = targetOf(args, row);
    if (target != ignored_ && (target < 0 || target >= s_.classes))
      failIndex(op_, "target", target, row, targetDim_, s_.classes);
  }
}

void LinearCrossEntropy::run(const KernelArgs& args) const {
  checkTargets(args);
  if (needWeight_ && s_.rows == 0)
    std::memset(args.writes[3], 0, static_cast<size_t>(s_.classes * s_.features) * sizeBytes(s_.dtype));
  if (s_.rows == 0) return;
  for (int64_t first = 0; first < s_.rows; first += s_.chunk) {
    const Chunk chunk{first,
                      std::min(s_.chunk, s_.rows - first),
                      withGrad_ ? args.scratch + logitsAt_ : nullptr,
                      reinterpret_cast<Sums*>(args.scratch + sumsAt_),
                      reinterpret_cast<double*>(args.scratch + pickedAt_),
                      reinterpret_cast<double*>(args.scratch + lseAt_)};
    parallelTasks(s_.blocks, threads_, [&](int64_t b, int thread) { forwardBlock(args, chunk, b, thread); });
    finishRows(args, chunk);
    if (!needX_ && !needWeight_) continue;
    const size_t partBytes = static_cast<size_t>(s_.chunk * s_.features) * s_.wideBytes();
    // Backwards: what was computed last is in the cache still.
    parallelTasks(s_.parts, threads_, [&](int64_t task, int thread) {
      const int64_t part = s_.parts - 1 - task;
      std::byte* dx = args.scratch + dxAt_ + static_cast<size_t>(part) * partBytes;
      if (needX_) std::memset(dx, 0, partBytes);
      const int64_t begin = part * s_.blocks / s_.parts;
      for (int64_t b = (part + 1) * s_.blocks / s_.parts; b-- > begin;)
        backwardBlock(args, chunk, b, dx, thread);
    });
    if (needX_) sumParts(args, chunk);
  }
  if (needWeight_ && s_.dtype != s_.wide) roundWeight(args);
}

void LinearCrossEntropy::forwardBlock(const KernelArgs& args, const Chunk& chunk, int64_t b,
                                      int thread) const {
  const int64_t first = b * s_.block, classes = s_.classesOf(b);
  std::byte* scratch = own(args, thread);
  std::byte* logits = chunk.logits ? at(chunk.logits, s_.wide, first * chunk.rows) : scratch + narrowAt_;
  productsOf(chunk.rows, classes)
      .logits.run(at(args.reads[0], s_.dtype, chunk.first * s_.features),
                  at(args.reads[1], s_.dtype, first * s_.features), logits, scratch);
  const auto reduce = crossEntropyTable().reduce[static_cast<size_t>(s_.wide)];
  Sums* sums = chunk.sums + b * s_.chunk;
  for (int64_t row = 0; row < chunk.rows; row++) {
    const std::byte* line = at(logits, s_.wide, row * classes);
    sums[row] = reduce(line, classes, smoothing_ != 0);
    const int64_t target = targetOf(args, chunk.first + row) - first;
    if (target < 0 || target >= classes) continue;
    convertTable().toDouble[static_cast<size_t>(s_.wide)](at(line, s_.wide, target), chunk.picked + row, 1);
  }
}

void LinearCrossEntropy::finishRows(const KernelArgs& args, const Chunk& chunk) const {
  float* loss = reinterpret_cast<float*>(args.writes[0]) + chunk.first;
  float* lse = reinterpret_cast<float*>(args.writes[1]) + chunk.first;
  parallelFor(chunk.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      double top = -HUGE_VAL, sum = 0, total = 0;
      for (int64_t b = 0; b < s_.blocks; b++) top = std::max(top, chunk.sums[b * s_.chunk + row].lse);
      for (int64_t b = 0; b < s_.blocks; b++) {
        const Sums& part = chunk.sums[b * s_.chunk + row];
        sum += std::exp(part.lse - (top == -HUGE_VAL ? 0 : top));
        total += part.total;
      }
      const double all = top == -HUGE_VAL ? std::log(sum) : top + std::log(sum);
      chunk.lse[row] = all;
      lse[row] = static_cast<float>(all);
      loss[row] = 0;
      if (targetOf(args, chunk.first + row) == ignored_) continue;
      double value = all - chunk.picked[row];
      if (smoothing_ != 0) {
        const double mean = all - total / static_cast<double>(s_.classes);
        value = (1 - smoothing_) * value + smoothing_ * mean;
      }
      loss[row] = static_cast<float>(value);
    }
  });
}

void LinearCrossEntropy::backwardBlock(const KernelArgs& args, const Chunk& chunk, int64_t b, std::byte* dx,
                                       int thread) const {
  const int64_t first = b * s_.block, classes = s_.classesOf(b);
  const bool isNarrow = s_.dtype != s_.wide;
  std::byte* scratch = own(args, thread);
  std::byte* logits = at(chunk.logits, s_.wide, first * chunk.rows);
  std::byte* dlogits = isNarrow ? scratch + narrowAt_ : logits;
  const float* g = reinterpret_cast<const float*>(args.reads[3]) + chunk.first;
  const auto gradient = crossEntropyTable().gradientOfWide[static_cast<size_t>(s_.dtype)];
  const double uniform = smoothing_ / static_cast<double>(s_.classes);
  for (int64_t row = 0; row < chunk.rows; row++) {
    const int64_t target = targetOf(args, chunk.first + row);
    std::byte* to = at(dlogits, s_.dtype, row * classes);
    if (target == ignored_) {
      std::memset(to, 0, static_cast<size_t>(classes) * sizeBytes(s_.dtype));
      continue;
    }
    const int64_t here = target >= first && target < first + classes ? target - first : -1;
    gradient(at(logits, s_.wide, row * classes), to, classes, here, chunk.lse[row], g[row], uniform,
             1 - smoothing_);
  }
  const Products& products = productsOf(chunk.rows, classes);
  if (needWeight_) {
    std::byte* sums = isNarrow ? args.scratch + dweightAt_ : args.writes[3];
    std::byte* dweight = at(sums, s_.wide, first * s_.features);
    // While it comes to the cache: the first chunk's sum begins here.
    if (chunk.first == 0)
      std::memset(dweight, 0, static_cast<size_t>(classes * s_.features) * s_.wideBytes());
    products.dweight.run(dlogits, at(args.reads[0], s_.dtype, chunk.first * s_.features), dweight, scratch);
  }
  if (needX_) products.dx.run(dlogits, at(args.reads[1], s_.dtype, first * s_.features), dx, scratch);
}

template <class A>
void sumInto(A* sum, const A* part, int64_t n) {
  for (int64_t i = 0; i < n; i++) sum[i] += part[i];
}

void LinearCrossEntropy::sumParts(const KernelArgs& args, const Chunk& chunk) const {
  const auto code = static_cast<size_t>(s_.dtype);
  parallelFor(chunk.rows, 16, [&](int64_t begin, int64_t end) {
    const int64_t n = (end - begin) * s_.features, part = s_.chunk * s_.features;
    std::byte* to = at(args.writes[2], s_.dtype, (chunk.first + begin) * s_.features);
    const auto sum = [&](auto* sums) {
      sums += begin * s_.features;
      for (int64_t p = 1; p < s_.parts; p++) sumInto(sums, sums + p * part, n);
      return sums;
    };
    if (s_.wide == DType::f64)
      convertTable().fromDouble[code](sum(reinterpret_cast<double*>(args.scratch + dxAt_)), to, n);
    else
      convertTable().fromFloat[code](sum(reinterpret_cast<float*>(args.scratch + dxAt_)), to, n);
  });
}

void LinearCrossEntropy::roundWeight(const KernelArgs& args) const {
  const float* sums = reinterpret_cast<const float*>(args.scratch + dweightAt_);
  parallelFor(s_.classes * s_.features, 1 << 14, [&](int64_t begin, int64_t end) {
    convertTable().fromFloat[static_cast<size_t>(s_.dtype)](sums + begin, at(args.writes[3], s_.dtype, begin),
                                                            end - begin);
  });
}

MadeKernel make(const KernelRequest& request, bool withGrad) {
  auto kernel = std::make_unique<LinearCrossEntropy>(request, withGrad);
  MadeKernel made;
  made.label = std::string(withGrad ? "linear_cross_entropy_grad " : "linear_cross_entropy ") +
               name(request.operands[0].dtype) + " " + format(request.operands[0].shape) + " * " +
               format(request.operands[1].shape);
  made.scratchBytes = kernel->scratchBytes();
  made.flops = kernel->flops();
  made.kernel = std::move(kernel);
  return made;
}

}  // namespace

const KernelEntry linearCrossEntropyEntry = {
    [](const KernelRequest& request) { return make(request, false); }};
const KernelEntry linearCrossEntropyGradEntry = {
    [](const KernelRequest& request) { return make(request, true); }};

}  // namespace lazuli
