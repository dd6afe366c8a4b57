#include "kernels/sort.h"

#include <atomic>
#include <limits>
#include <type_traits>

#include "kernels/lines.h"
#include "kernels/rows.h"
#include "kernels/sort_keys.h"
#include "parallel.h"

namespace lazuli {
namespace {

/// Lines are copied into keys, so any layout will do.
bool accepts(const Node&, size_t, const Layout&) { return true; }

/// The first `k` of each line of x along `dim`, in order.
struct Order {
  Layout x;
  int64_t dim, k;
  bool descending;
};

template <class Bits>
using ItemOf = std::conditional_t<sizeof(Bits) == 8, WideItem, PackedItem>;

size_t itemBytes(DType dtype) { return sizeBytes(dtype) == 8 ? sizeof(WideItem) : sizeof(PackedItem); }

/// The first k of n items in order, in either of the two arrays.
template <class Item>
Item* firstItems(Item* items, Item* spare, int64_t n, int64_t k, int digits) {
  if (k >= n / 4) return sortItems(items, spare, n, digits);
  std::partial_sort(items, items + k, items + n);
  return items;
}

template <DType dtype>
void order(const Order& order, const KernelArgs& args) {
  using Key = SortKey<dtype>;
  using Bits = typename Key::Bits;
  using Item = ItemOf<Bits>;
  const Layout& x = order.x;
  const int64_t n = x.shape[order.dim], k = order.k, stride = x.strides[order.dim];
  Dims outShape = x.shape;
  outShape[order.dim] = k;
  const Dims outStrides = denseStrides(outShape);
  const int64_t outStride = outStrides[order.dim];
  const Dims lines = without(x.shape, order.dim);
  const Dims from = without(x.strides, order.dim), to = without(outStrides, order.dim);
  const int64_t count = elements(lines);
  const Bits* values = reinterpret_cast<const Bits*>(args.reads[0]) + x.offset;
  Bits* outValues = reinterpret_cast<Bits*>(args.writes[0]);
  int32_t* outIndices = reinterpret_cast<int32_t*>(args.writes[1]);
  // Each thread has its own room, and takes some lines at a time.
  const int64_t piece = std::max<int64_t>(1, 4096 / std::max<int64_t>(n, 1));
  std::atomic<int64_t> next{0};
  parallelRegion([&](int thread, int) {
    Item* room =
        reinterpret_cast<Item*>(args.scratch) + static_cast<size_t>(thread) * static_cast<size_t>(2 * n);
    for (int64_t begin = next.fetch_add(piece); begin < count; begin = next.fetch_add(piece)) {
      const int64_t end = std::min(count, begin + piece);
      Walk in(lines, from, begin), out(lines, to, begin);
      for (int64_t line = begin; line < end; ++line, in.next(), out.next()) {
        const Bits* element = values + in.offset();
        for (int64_t i = 0; i < n; ++i) {
          const Bits key = Key::of(element[i * stride]);
          room[i] = Item(order.descending ? static_cast<Bits>(~key) : key, static_cast<uint32_t>(i));
        }
        const Item* sorted = firstItems(room, room + n, n, k, static_cast<int>(sizeof(Bits)));
        for (int64_t i = 0; i < k; ++i) {
          const int64_t at = out.offset() + i * outStride;
          outValues[at] = element[sorted[i].index() * stride];
          outIndices[at] = static_cast<int32_t>(sorted[i].index());
        }
      }
    }
  });
}

void runOrder(const Order& what, const KernelArgs& args) {
  switch (what.x.dtype) {
    case DType::f32:
      return order<DType::f32>(what, args);
    case DType::f64:
      return order<DType::f64>(what, args);
    case DType::bf16:
      return order<DType::bf16>(what, args);
    case DType::f16:
      return order<DType::f16>(what, args);
    case DType::i32:
      return order<DType::i32>(what, args);
    case DType::i64:
      return order<DType::i64>(what, args);
    default:
      return order<DType::u8>(what, args);
  }
}

MadeKernel make(const char* op, Order what) {
  const int64_t n = what.x.shape[what.dim];
  if (n > std::numeric_limits<int32_t>::max()) {
    throw ProgramError(std::string(op) + ": dim " + std::to_string(what.dim) + " of size " +
                       std::to_string(n) + " has more elements than int32 indices can name");
  }
  MadeKernel made;
  made.label = label(op, what.x);
  made.scratchBytes =
      static_cast<size_t>(threadCount()) * static_cast<size_t>(2 * n) * itemBytes(what.x.dtype);
  const bool empty = what.x.elements() == 0 || what.k == 0;
  made.kernel = kernelOf([what = std::move(what), empty](const KernelArgs& args) {
    if (!empty) runOrder(what, args);
  });
  return made;
}

}  // namespace

const KernelEntry sortEntry = {
    [](const KernelRequest& request) {
      const Layout& x = request.operands[0];
      const int64_t dim = request.node.integer(attr::sort::dim);
      return make("sort", {x, dim, x.shape[dim], request.node.flag(attr::sort::descending)});
    },
    accepts};
const KernelEntry topkEntry = {
    [](const KernelRequest& request) {
      return make("topk", {request.operands[0], request.node.integer(attr::topk::dim),
                           request.node.integer(attr::topk::k), request.node.flag(attr::topk::largest)});
    },
    accepts};

}  // namespace lazuli
