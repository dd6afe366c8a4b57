#include "kernels/norm_matmul.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/convert.h"
#include "kernels/matmul_layout.h"
#include "kernels/matmul_onednn.h"
#include "kernels/norm.h"
#include "parallel.h"

// A thread normalises a block of rows into memory of its own, or where the result is kept, and multiplies it
// by every weight while it is in the core's cache. A block is a product like any other to the kernel that
// multiplies it, made for one thread, as in linear_cross_entropy.cpp.

namespace lazuli {
namespace {

// Multiply-adds of a thread that is worth waking, by whether the library makes the product: ours take longer.
constexpr double kWorthAThread = 2e6, kWorthAThreadOfOurs = 5e5;
// Rows of a block, about, which begins at a multiple of kRowUnit. Of fewer, packing the weights for each
// takes longer than is saved; of more, the blocks that threads have at a time are as large as all rows would
// be.
constexpr int64_t kGoodRows = 256, kLeastRows = 32, kRowUnit = 16;
// Our own products divide their columns too: they need as many rows for each thread.
constexpr int64_t kLeastRowsOfOurs = 128;
// What is saved is a share of the product's time that falls with its columns, and no more than its noise of
// these: of a vocabulary, say. Up to so many times the width it costs nothing, and memory is saved.
constexpr int64_t kMostColumns = 4096, kMostWidths = 8;
// Normalised rows that wait for their cast, in the first-level cache.
constexpr int64_t kWideBytes = 16 << 10;

size_t alignUp(size_t bytes) { return (bytes + 63) / 64 * 64; }
int64_t ceilDiv(int64_t n, int64_t d) { return (n + d - 1) / d; }

/// The product of `rows` rows of a.
MatmulSpec blockOf(const MatmulSpec& product, int64_t rows) {
  MatmulSpec block = product;
  const size_t outer = product.a.shape.size() - 1;
  block.wholeRows = product.a.elements() / std::max<int64_t>(1, product.a.shape.back());
  block.a = Layout::dense({product.a.dtype, {rows, product.a.shape.back()}});
  block.lhsContract = {1};
  block.out.shape.erase(block.out.shape.begin(), block.out.shape.begin() + static_cast<ptrdiff_t>(outer));
  block.out.shape.insert(block.out.shape.begin(), rows);
  return block;
}

int64_t columnsOf(const MatmulSpec& product) {
  return product.out.elements() /
         std::max<int64_t>(1, elements(product.a.shape) / std::max<int64_t>(1, product.a.shape.back()));
}

/// "rms_norm + matmul float32 as bfloat16 2048x288 * 288x768 silu, 288x768"
std::string label(const NormMatmulSpec& spec, const NormRows& norm) {
  const std::string as = spec.casts() ? std::string(" as ") + name(spec.dtype) : "";
  if (spec.products.empty()) return label(norm.op(), spec.norm.operands[0]) + as;
  const std::string width = std::to_string(norm.x().width);
  std::string text = std::string(norm.op()) + " + matmul " + name(norm.dtype()) + as + " " +
                     std::to_string(norm.x().count) + "x" + width;
  for (const MatmulSpec& product : spec.products) {
    text += &product == spec.products.data() ? " * " : ", ";
    text += width + "x" + std::to_string(columnsOf(product)) + epilogueLabel(product);
  }
  return text;
}

class NormMatmul final : public Kernel {
 public:
  explicit NormMatmul(const NormMatmulSpec& spec);
  void run(const KernelArgs& args) const override;
  size_t scratchBytes() const { return threadAt_ + static_cast<size_t>(threads_) * threadBytes_; }
  const NormRows& norm() const { return norm_; }

 private:
  struct Product {
    size_t read, residual, write;  // positions: of b, of the residual (0: none), of the result
    size_t reads;                  // b and what follows it
    int64_t columns;
    DType out;
    std::vector<std::pair<int64_t, std::shared_ptr<const Kernel>>> kernels;  // by rows of a block
  };

  void divide(double work, size_t products);
  const std::byte* makeRows(const KernelArgs& args, const NormRows::Operands& operands, int64_t begin,
                            int64_t end, std::byte* own) const;
  void multiply(const KernelArgs& args, const Product& product, const std::byte* rows, int64_t begin,
                int64_t end, std::byte* scratch) const;

  NormRows norm_;
  DType dtype_;
  bool casts_, keepsNorm_, keepsCast_;
  std::vector<int64_t> blocks_;  // where each begins, and the end
  std::vector<Product> products_;
  int threads_ = 1;
  size_t threadAt_, threadBytes_ = 0, wideAt_ = 0, rowsAt_ = 0;  // in a thread's: products' scratch first
};

void NormMatmul::divide(double work, size_t products) {
  const int64_t rows = norm_.x().count, units = ceilDiv(rows, kRowUnit);
  const double worth = DnnlMatmul::has(dtype_) ? kWorthAThread : kWorthAThreadOfOurs;
  const double used = std::clamp(std::floor(work / worth), 1.0, static_cast<double>(threadCount()));
  // As many for each thread.
  const double each = std::max(1.0, std::round(static_cast<double>(rows) / (used * kGoodRows)));
  int64_t count =
      std::clamp<int64_t>(static_cast<int64_t>(used * each), 1, std::max<int64_t>(1, rows / kLeastRows));
  if (products == 0) count = ceilDiv(rows, norm_.x().grain());
  blocks_ = {0};
  for (int64_t i = 1; i <= count; i++) {
    const int64_t end = i == count ? rows : i * units / count * kRowUnit;
    if (end > blocks_.back()) blocks_.push_back(end);
  }
  threads_ = static_cast<int>(std::min<int64_t>(threadCount(), static_cast<int64_t>(blocks_.size()) - 1));
}

NormMatmul::NormMatmul(const NormMatmulSpec& spec)
    : norm_(spec.norm),
      dtype_(spec.dtype),
      casts_(spec.casts()),
      keepsNorm_(spec.keepsNorm),
      keepsCast_(spec.keepsCast),
      threadAt_(alignUp(norm_.scratchBytes())) {
  const Rows& x = norm_.x();
  int64_t columns = 0;
  for (const MatmulSpec& product : spec.products) columns += columnsOf(product);
  divide(static_cast<double>(x.count * x.width) * static_cast<double>(columns), spec.products.size());

  int64_t mostRows = 0;
  std::vector<int64_t> sizes;
  for (size_t i = 1; i < blocks_.size(); i++) sizes.push_back(blocks_[i] - blocks_[i - 1]);
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  if (!sizes.empty()) mostRows = sizes.back();

  const ThreadCountScope alone(1);
  size_t read = norm_.operands(), write = static_cast<size_t>(keepsNorm_) + static_cast<size_t>(keepsCast_);
  for (const MatmulSpec& spec : spec.products) {
    Product product{read, 0, write++, 1, 0, spec.out.dtype, {}};
    product.columns = columnsOf(spec);
    if (spec.bias) product.reads++;
    if (spec.residual) product.residual = read + product.reads++;
    read += product.reads;
    for (int64_t rows : sizes) {
      MadeKernel made = makeMatmul(blockOf(spec, rows));
      wideAt_ = std::max(wideAt_, alignUp(made.scratchBytes));
      product.kernels.emplace_back(rows, std::move(made.kernel));
    }
    products_.push_back(std::move(product));
  }
  rowsAt_ = threadBytes_ = wideAt_;
  if (casts_ && !keepsNorm_) {
    const int64_t most = std::max(x.width * 4, std::min(mostRows * x.width * 4, kWideBytes));
    rowsAt_ = threadBytes_ += alignUp(static_cast<size_t>(most));
  }
  if (!(casts_ ? keepsCast_ : keepsNorm_))
    threadBytes_ += alignUp(static_cast<size_t>(mostRows * x.width) * sizeBytes(dtype_));
}

void NormMatmul::run(const KernelArgs& args) const {
  if (norm_.x().count == 0) return;
  const NormRows::Operands operands = norm_.prepare(args.reads, args.scratch);
  parallelTasks(static_cast<int64_t>(blocks_.size()) - 1, threads_, [&](int64_t task, int thread) {
    const int64_t begin = blocks_[static_cast<size_t>(task)], end = blocks_[static_cast<size_t>(task) + 1];
    std::byte* own = args.scratch + threadAt_ + static_cast<size_t>(thread) * threadBytes_;
    const std::byte* rows = makeRows(args, operands, begin, end, own);
    for (const Product& product : products_) multiply(args, product, rows, begin, end, own);
  });
}

const std::byte* NormMatmul::makeRows(const KernelArgs& args, const NormRows::Operands& operands,
                                      int64_t begin, int64_t end, std::byte* own) const {
  const int64_t width = norm_.x().width;
  std::byte* normed = keepsNorm_ ? at(args.writes[0], norm_.dtype(), begin * width)
                      : casts_   ? own + wideAt_
                                 : own + rowsAt_;
  if (!casts_) {
    norm_.run(operands, begin, end, normed);
    return normed;
  }
  std::byte* rows = keepsCast_ ? at(args.writes[keepsNorm_ ? 1 : 0], dtype_, begin * width) : own + rowsAt_;
  const int64_t step = std::max<int64_t>(1, kWideBytes / 4 / std::max<int64_t>(width, 1));
  for (int64_t row = begin; row < end; row += step) {
    const int64_t count = std::min(step, end - row), first = (row - begin) * width;
    std::byte* wide = keepsNorm_ ? at(normed, norm_.dtype(), first) : normed;
    norm_.run(operands, row, row + count, wide);
    convertTable().fromFloat[static_cast<size_t>(dtype_)](reinterpret_cast<const float*>(wide),
                                                          at(rows, dtype_, first), count * width);
  }
  return rows;
}

void NormMatmul::multiply(const KernelArgs& args, const Product& product, const std::byte* rows,
                          int64_t begin, int64_t end, std::byte* scratch) const {
  const std::byte* reads[4] = {rows};
  for (size_t i = 0; i < product.reads; i++) reads[1 + i] = args.reads[product.read + i];
  const int64_t first = begin * product.columns;
  if (product.residual) reads[product.reads] = at(args.reads[product.residual], product.out, first);
  std::byte* out = at(args.writes[product.write], product.out, first);
  const auto kernel = std::find_if(product.kernels.begin(), product.kernels.end(),
                                   [&](const auto& each) { return each.first == end - begin; });
  kernel->second->run({reads, &out, scratch});
}

}  // namespace

bool normMatmulPays(const NormMatmulSizes& sizes) {
  if (sizes.columns.empty()) return true;
  const int64_t least = DnnlMatmul::has(sizes.dtype) ? kLeastRows : kLeastRowsOfOurs * threadCount();
  const int64_t columns = std::accumulate(sizes.columns.begin(), sizes.columns.end(), int64_t{0});
  return sizes.rows >= least && columns <= std::max(kMostColumns, kMostWidths * sizes.width);
}

MadeKernel makeNormMatmul(const NormMatmulSpec& spec) {
  auto kernel = std::make_unique<NormMatmul>(spec);
  const NormRows& norm = kernel->norm();
  MadeKernel made;
  made.scratchBytes = kernel->scratchBytes();
  made.flops = norm.flops();
  made.label = label(spec, norm);
  size_t read = norm.operands(), write = spec.keepsNorm + spec.keepsCast;
  if (spec.keepsNorm && spec.norm.operands[0].isDense()) made.inPlace.emplace_back(0, 0);
  for (const MatmulSpec& product : spec.products) {
    made.flops +=
        2.0 * static_cast<double>(norm.x().count * norm.x().width) * static_cast<double>(columnsOf(product));
    read += 1 + product.bias.has_value();
    if (product.residual) made.inPlace.emplace_back(write, read++);
    write++;
  }
  made.kernel = std::move(kernel);
  return made;
}

}  // namespace lazuli
