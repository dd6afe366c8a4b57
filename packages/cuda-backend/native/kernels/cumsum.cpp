#include "kernels/cumsum.h"

#include <algorithm>
#include <array>

#include "kernels/cumsum_table.h"
#include "kernels/rows.h"
#include "parallel.h"

namespace lazuli {
namespace {

// Few lines are cut into blocks, whose totals are found first. A matter of the shape alone, so that the
// threads do not show.
constexpr int64_t kBlock = 16384, kManyLines = 64;

/// Room for an accumulator of any dtype; all zero bits are its zero.
using Carry = std::array<std::byte, 8>;

/// x as [outer, length, inner].
struct Scan {
  DType dtype;
  int64_t outer, length, inner;
  bool reverse;
};

void scanColumns(const Scan& s, const KernelArgs& args) {
  const auto columns = cumsumTable().columns[static_cast<size_t>(s.dtype)];
  constexpr int64_t kColumns = 256;
  const int64_t blocks = (s.inner + kColumns - 1) / kColumns;
  const int64_t grain =
      std::max<int64_t>(1, 16384 / std::max<int64_t>(1, s.length * std::min(kColumns, s.inner)));
  parallelFor(s.outer * blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % blocks * kColumns, start = i / blocks * s.length * s.inner + first;
      columns(at(args.reads[0], s.dtype, start), at(args.writes[0], s.dtype, start), s.length, s.inner,
              std::min(kColumns, s.inner - first), s.reverse);
    }
  });
}

void scanLines(const Scan& s, const KernelArgs& args) {
  const auto line = cumsumTable().line[static_cast<size_t>(s.dtype)];
  parallelFor(s.outer, std::max<int64_t>(1, kBlock / s.length), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Carry carry{};
      line(at(args.reads[0], s.dtype, i * s.length), at(args.writes[0], s.dtype, i * s.length), s.length,
           s.reverse, carry.data());
    }
  });
}

/// Blocks in the order they are summed in.
struct Blocks {
  int64_t count, length;
  bool reverse;

  int64_t start(int64_t k) const { return (reverse ? count - 1 - k : k) * kBlock; }
  int64_t size(int64_t k) const { return std::min(kBlock, length - start(k)); }
};

void scanBlocks(const Scan& s, const KernelArgs& args) {
  const size_t code = static_cast<size_t>(s.dtype);
  const Blocks blocks{(s.length + kBlock - 1) / kBlock, s.length, s.reverse};
  Carry* carries = reinterpret_cast<Carry*>(args.scratch);
  const auto element = [&](int64_t i) {
    return i / blocks.count * s.length + blocks.start(i % blocks.count);
  };
  const auto forEach = [&](auto&& body) {
    parallelFor(s.outer * blocks.count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i, blocks.size(i % blocks.count));
    });
  };
  // Each block's total goes to the next; adding them up in order then makes them what each block starts from.
  forEach([&](int64_t i, int64_t n) {
    if (i % blocks.count == 0) carries[i] = Carry{};
    if ((i + 1) % blocks.count == 0) return;
    carries[i + 1] = Carry{};
    cumsumTable().total[code](at(args.reads[0], s.dtype, element(i)), n, carries[i + 1].data());
  });
  // As vectors of one element of what the totals are in.
  const DType sums = s.dtype == DType::bf16 || s.dtype == DType::f16 ? DType::f32 : s.dtype;
  for (int64_t i = 1; i < s.outer * blocks.count; ++i) {
    if (i % blocks.count == 0) continue;
    cumsumTable().total[static_cast<size_t>(sums)](carries[i - 1].data(), 1, carries[i].data());
  }
  forEach([&](int64_t i, int64_t n) {
    Carry carry = carries[i];
    cumsumTable().line[code](at(args.reads[0], s.dtype, element(i)), at(args.writes[0], s.dtype, element(i)),
                             n, s.reverse, carry.data());
  });
}

MadeKernel make(const KernelRequest& request) {
  const Layout& x = request.operands[0];
  const int64_t dim = request.node.integer(attr::cumsum::dim);
  const Scan s{x.dtype, elements(Dims(x.shape.begin(), x.shape.begin() + dim)), x.shape[dim],
               elements(Dims(x.shape.begin() + dim + 1, x.shape.end())),
               request.node.flag(attr::cumsum::reverse)};
  const bool inBlocks = s.inner == 1 && s.outer < kManyLines && s.length >= 2 * kBlock;
  MadeKernel made;
  made.kernel = kernelOf([=](const KernelArgs& args) {
    if (s.outer * s.length * s.inner == 0) return;
    if (inBlocks) return scanBlocks(s, args);
    if (s.inner == 1) return scanLines(s, args);
    scanColumns(s, args);
  });
  made.label = label("cumsum", x);
  made.scratchBytes =
      inBlocks ? static_cast<size_t>(s.outer * ((s.length + kBlock - 1) / kBlock)) * sizeof(Carry) : 0;
  made.inPlace = {{0, 0}};
  made.flops = static_cast<double>(s.outer * s.length * s.inner);
  return made;
}

}  // namespace

const KernelEntry cumsumEntry = {make};

}  // namespace lazuli
