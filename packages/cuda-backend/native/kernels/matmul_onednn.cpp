#include "kernels/matmul_onednn.h"

#if LAZULI_HAVE_ONEDNN
#include <algorithm>
#include <cmath>
#include <dnnl.hpp>
#include <mutex>
#include <optional>
#include <unordered_map>

#if defined(_OPENMP)
#include <omp.h>
#endif

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

/// The project's own pool is the only one: oneDNN, which runs on OpenMP, is given one thread wherever it is
/// called. Two pools on the same processors spin against each other between kernels, and halves of a product
/// made apart are as fast as one made by both threads, or faster. OpenMP keeps the number by thread.
void useOneThread() {
#if defined(_OPENMP)
  thread_local bool isSet = false;
  if (!isSet) omp_set_num_threads(1);
  isSet = true;
#endif
}

/// A product divided into tasks: lengths along one dim of the batch, or along m.
struct Split {
  std::optional<size_t> batchDim;
  int64_t length, piece;
};

// Multiply-adds: pieces of less leave threads idle for less time than they cost.
constexpr double kWorthAThread = 2e6;

/// One piece a thread, for each packs all of b where that is not rows of float32. Columns are never divided:
/// of rows that do not follow each other oneDNN's fast kernel makes none.
Split splitProduct(const MatmulShape& s) {
  const double work = static_cast<double>(s.batches()) * static_cast<double>(s.m) * static_cast<double>(s.n) *
                      static_cast<double>(s.k);
  const auto pieces = static_cast<int64_t>(
      std::clamp(std::floor(work / kWorthAThread), 1.0, static_cast<double>(threadCount())));
  const auto longest = std::max_element(s.batch.begin(), s.batch.end());
  if (longest != s.batch.end() && *longest >= pieces)
    return {static_cast<size_t>(longest - s.batch.begin()), *longest, (*longest + pieces - 1) / pieces};
  return {std::nullopt, s.m, ((s.m + pieces - 1) / pieces + 15) / 16 * 16};
}

/// A primitive, and its memory objects, whose addresses are set at each run: a set for each run that is under
/// way, kept for the next.
class Compiled {
 public:
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
    descs_ = {{DNNL_ARG_SRC, a},
              {DNNL_ARG_WEIGHTS, b},
              {DNNL_ARG_DST, c},
              {DNNL_ARG_SCRATCHPAD, made.scratchpad_desc()}};
    if (problem.bias) descs_.emplace_back(DNNL_ARG_BIAS, bias);
    if (problem.residual && !inPlace) {
      residualArg = DNNL_ARG_ATTR_MULTIPLE_POST_OP(ops.len() - 1) | DNNL_ARG_SRC_1;
      descs_.emplace_back(residualArg, c);
    }
  }

  /// `addresses` by argument; those that the primitive does not have are passed over.
  void run(std::initializer_list<std::pair<int, const void*>> addresses) {
    std::unique_ptr<Args> args = take();
    for (const auto& [arg, data] : addresses) {
      const auto found = args->find(arg);
      if (found != args->end()) found->second.set_data_handle(const_cast<void*>(data));
    }
    primitive.execute(stream(), *args);
    std::lock_guard lock(mutex_);
    idle_.push_back(std::move(args));
  }

  std::string implementation;
  size_t scratchBytes = 0;
  int residualArg = -1;

 private:
  using Args = std::unordered_map<int, dnnl::memory>;

  std::unique_ptr<Args> take() {
    {
      std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<Args> args = std::move(idle_.back());
        idle_.pop_back();
        return args;
      }
    }
    auto args = std::make_unique<Args>();
    for (const auto& [arg, desc] : descs_) args->emplace(arg, dnnl::memory(desc, engine(), nullptr));
    return args;
  }

  dnnl::matmul primitive;
  std::vector<std::pair<int, Desc>> descs_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Args>> idle_;
};

/// A part of the product that one thread makes. Offsets in bytes.
struct Piece {
  int64_t a, b, c;
  std::vector<std::unique_ptr<Compiled>> compiled;  // the residual summed in place; apart
};

class Library final : public DnnlMatmul {
 public:
  Library(const DnnlProblem& problem, const MatmulShape& s) {
    const Split split = splitProduct(s);
    for (int64_t begin = 0; begin < split.length; begin += split.piece)
      addPiece(problem, s, split, begin, std::min(split.piece, split.length - begin));
    threads_ = static_cast<int>(std::min<size_t>(static_cast<size_t>(threadCount()), pieces_.size()));
    for (const Piece& piece : pieces_)
      for (const auto& c : piece.compiled)
        threadBytes_ = std::max(threadBytes_, (c->scratchBytes + 63) / 64 * 64);
  }

  /// The reference loops are slower than ours.
  bool isFast() const {
    const auto slow = [](const auto& c) { return c->implementation.find("ref") != std::string::npos; };
    return std::none_of(pieces_.begin(), pieces_.end(), [&](const Piece& piece) {
      return std::any_of(piece.compiled.begin(), piece.compiled.end(), slow);
    });
  }

  size_t scratchBytes() const override { return static_cast<size_t>(threads_) * threadBytes_; }

  void run(const void* a, const void* b, void* c, const GemmEpilogue& epilogue,
           std::byte* scratch) const override {
    const bool apart = epilogue.residual && epilogue.residual != c;
    parallelTasks(static_cast<int64_t>(pieces_.size()), threads_, [&](int64_t task, int thread) {
      const Piece& piece = pieces_[static_cast<size_t>(task)];
      Compiled& use = *piece.compiled[apart ? 1 : 0];
      const auto at = [](const void* base, int64_t bytes) {
        return base ? static_cast<const std::byte*>(base) + bytes : nullptr;
      };
      useOneThread();
      // `residualArg` is -1, which no argument is, where the residual is not one.
      use.run({{DNNL_ARG_SRC, at(a, piece.a)},
               {DNNL_ARG_WEIGHTS, at(b, piece.b)},
               {DNNL_ARG_DST, at(c, piece.c)},
               {DNNL_ARG_SCRATCHPAD, scratch + static_cast<size_t>(thread) * threadBytes_},
               {DNNL_ARG_BIAS, epilogue.bias},
               {use.residualArg, apart ? at(epilogue.residual, piece.c) : nullptr}});
    });
  }

 private:
  void addPiece(const DnnlProblem& problem, const MatmulShape& s, const Split& split, int64_t begin,
                int64_t length) {
    const DType in = problem.types.in, out = problem.types.out;
    Dims batch = s.batch, cStrides = denseStrides(s.batch), one(s.batch.size() + 2, 1);
    for (int64_t& stride : cStrides) stride *= s.m * s.n;
    one.back() = s.n;
    int64_t m = s.m, aStep = s.a.lineStride, bStep = 0, cStep = s.n;
    if (split.batchDim) {
      batch[*split.batchDim] = length;
      aStep = s.a.batchStrides[*split.batchDim];
      bStep = s.b.batchStrides[*split.batchDim];
      cStep = cStrides[*split.batchDim];
    } else {
      m = length;
    }
    const Desc a = descOf(in, batch, s.a.batchStrides, m, s.k, s.a.lineStride, s.a.depthStride);
    const Desc b = descOf(in, batch, s.b.batchStrides, s.k, s.n, s.b.depthStride, s.b.lineStride);
    const Desc c = descOf(out, batch, cStrides, m, s.n, s.n, 1);
    const Desc bias(one, typeOf(out), denseStrides(one));
    const auto inBytes = static_cast<int64_t>(sizeBytes(in)), outBytes = static_cast<int64_t>(sizeBytes(out));
    Piece piece{(s.a.offset + begin * aStep) * inBytes,
                (s.b.offset + begin * bStep) * inBytes,
                begin * cStep * outBytes,
                {}};
    for (bool inPlace : {true, false})
      if (inPlace || problem.residual)
        piece.compiled.push_back(std::make_unique<Compiled>(problem, a, b, c, bias, inPlace));
    pieces_.push_back(std::move(piece));
  }

  std::vector<Piece> pieces_;
  int threads_ = 1;
  size_t threadBytes_ = 0;
};

}  // namespace

bool DnnlMatmul::has(DType in) { return isSupported({in, in}); }

std::unique_ptr<DnnlMatmul> DnnlMatmul::make(const DnnlProblem& problem, const MatmulShape& shape) {
  if (!isSupported(problem.types) || shape.batches() * shape.m * shape.n * shape.k == 0) return nullptr;
  if (!shape.a.isBlas(shape.m, shape.k) || !shape.b.isBlas(shape.n, shape.k)) return nullptr;
  if (shape.batch.size() + 2 > DNNL_MAX_NDIMS) return nullptr;
  const auto repeats = [](int64_t stride) { return stride == 0; };
  for (const MatmulOperand* operand : {&shape.a, &shape.b})
    if (std::any_of(operand->batchStrides.begin(), operand->batchStrides.end(), repeats)) return nullptr;
  useOneThread();  // a primitive is planned for as many threads as the thread that makes it may use
  try {
    auto library = std::make_unique<Library>(problem, shape);
    if (library->isFast()) return library;
  } catch (const dnnl::error&) {  // not implemented for these types on this processor
  }
  return nullptr;
}

#else

bool DnnlMatmul::has(DType) { return false; }

std::unique_ptr<DnnlMatmul> DnnlMatmul::make(const DnnlProblem&, const MatmulShape&) { return nullptr; }

#endif

}  // namespace lazuli
