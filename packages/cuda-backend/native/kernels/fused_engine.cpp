#include "kernels/fused_engine.h"

#include <algorithm>
#include <cstring>

namespace lazuli {
namespace {

using Kind = TileStep::Kind;

/// Memory for a thread's tiles, kept from one run to the next.
std::byte* threadFrame(size_t bytes) {
  struct Frame {
    std::byte* data = nullptr;
    size_t bytes = 0;
    ~Frame() { ::operator delete (data, std::align_val_t{64}); }
  };
  thread_local Frame frame;
  if (frame.bytes < bytes) {
    ::operator delete (frame.data, std::align_val_t{64});
    frame.data = nullptr;
    frame.bytes = 0;
    frame.data = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{64}));
    frame.bytes = bytes;
  }
  return frame.data;
}

constexpr DType dtypeOf(Lane lane) {
  constexpr DType dtypes[kLanes] = {DType::f32, DType::f64, DType::i32, DType::i64, DType::u8};
  return dtypes[static_cast<int>(lane)];
}

// How far ahead lines are asked for, where strides too long defeat the processor's own prefetching.
constexpr int64_t kBlocksAhead = 2;
constexpr int64_t kRunsAhead = 16;
// The processor's own prefetching begins anew at every page.
constexpr int64_t kBytesAhead = 8192;

}  // namespace

TileEngine::TileEngine(const FusedPlan& plan, const KernelArgs& args)
    : plan_(plan),
      table_(tileTable()),
      frame_(threadFrame(plan.frameBytes)),
      values_(plan.spec.values.size(), nullptr),
      bases_(plan.accesses.size(), nullptr),
      keys_(plan.spec.values.size()),
      offsets_(plan.accesses.size(), 0) {
  auto bind = [&](const std::vector<TileStep>& steps) {
    for (const TileStep& step : steps) {
      if (step.direct >= 0) bases_[step.direct] = args.writes[plan.accesses[step.direct].buffer];
      if (step.access < 0) continue;
      const TileAccess& access = plan.accesses[step.access];
      if (step.kind == Kind::load) bases_[step.access] = const_cast<std::byte*>(args.reads[access.buffer]);
      if (step.kind == Kind::store) bases_[step.access] = args.writes[access.buffer];
      if (step.kind == Kind::uniform || step.kind == Kind::normal) {
        const FusedSpec::Value& value = plan.spec.values[step.value];
        uint64_t words[2];
        for (int i = 0; i < 2; i++)
          std::memcpy(&words[i], args.reads[value.read] + (value.keyOffset + i * value.keyStride) * 8, 8);
        for (int i = 0; i < 2; i++)
          keys_[step.value].words[i] = static_cast<uint32_t>(words[i] ^ words[i] >> 32);
        keys_[step.value].stream = value.stream;
        keys_[step.value].first = 0;
        if (value.first >= 0)
          std::memcpy(&keys_[step.value].first, args.reads[value.first] + value.firstOffset * 8, 8);
      }
    }
  };
  bind(plan.invariant);
  bind(plan.steps);
  for (size_t a = 0; a < plan.accesses.size(); a++) offsets_[a] = plan.accesses[a].offset;
  runInvariant();
}

void TileEngine::runInvariant() {
  for (const TileStep& step : plan_.invariant) {
    std::byte* out = slot(step.value);
    values_[step.value] = out;
    const FusedSpec::Value& value = plan_.spec.values[step.value];
    switch (step.kind) {
      case Kind::constant:
        table_.load[static_cast<int>(dtypeOf(value.lane))](out, &value.bits, 0, kTile);
        break;
      case Kind::load: {
        const TileAccess& access = plan_.accesses[step.access];
        table_.load[static_cast<int>(access.dtype)](
            out, bases_[step.access] + access.offset * static_cast<int64_t>(sizeBytes(access.dtype)), 0,
            kTile);
        break;
      }
      case Kind::op:
        step.fn(out, values_[step.args[0]], values_[step.args[1]], values_[step.args[2]], kTile);
        break;
      default:
        makeIndices(step, out, plan_.accesses[step.access].offset, 0, kTile);
    }
  }
}

void TileEngine::makeIndices(const TileStep& step, std::byte* out, int64_t first, int64_t stride, int64_t n) {
  if (step.kind == Kind::index) return table_.index(out, first, stride, n);
  (step.kind == Kind::uniform ? table_.uniform : table_.normal)(out, first, stride, n, keys_[step.value]);
}

void TileEngine::seek(int64_t start) {
  const int64_t width = plan_.width();
  if (start >= rowStart_ && start < rowStart_ + width) {
    column_ = start - rowStart_;
    return;
  }
  const int last = static_cast<int>(plan_.extents.size()) - 1;
  if (start == rowStart_ + width) {
    rowStart_ = start;
    column_ = 0;
    for (int dim = last - 1; dim >= 0; dim--) {
      const bool carry = ++index_[dim] == plan_.extents[dim];
      const int64_t by = carry ? 1 - plan_.extents[dim] : 1;
      for (size_t a = 0; a < offsets_.size(); a++) offsets_[a] += by * plan_.accesses[a].strides[dim];
      if (!carry) return;
      index_[dim] = 0;
    }
    return;
  }
  int64_t row = start / width;
  rowStart_ = row * width;
  column_ = start - rowStart_;
  for (int dim = last - 1; dim >= 0; dim--) {
    index_[dim] = row % plan_.extents[dim];
    row /= plan_.extents[dim];
  }
  for (size_t a = 0; a < offsets_.size(); a++) {
    const TileAccess& access = plan_.accesses[a];
    offsets_[a] = access.offset;
    for (int dim = 0; dim < last; dim++) offsets_[a] += index_[dim] * access.strides[dim];
  }
}

/// Where the tile lies in memory, if it does so without gaps; else null.
std::byte* TileEngine::contiguous(const TileAccess& access, int number, int64_t start, int64_t n) const {
  const int64_t size = static_cast<int64_t>(sizeBytes(access.dtype));
  if (access.linear) return bases_[number] + (access.offset + start) * size;
  if (access.pad.empty() && access.strides.back() == 1 && column_ + n <= plan_.width())
    return bases_[number] + (offsets_[number] + column_) * size;
  return nullptr;
}

/// Where a step makes its value.
std::byte* TileEngine::place(const TileStep& step, int64_t start, int64_t n) const {
  std::byte* out = step.direct < 0 ? nullptr : contiguous(plan_.accesses[step.direct], step.direct, start, n);
  return out ? out : slot(step.value);
}

template <class Body>
void TileEngine::eachRun(const TileAccess& access, int number, int64_t n, Body&& body) const {
  const int64_t width = plan_.width();
  const int last = static_cast<int>(plan_.extents.size()) - 1;
  int64_t offset = offsets_[number], column = column_;
  int64_t run = std::min(n, width - column);
  body(offset + column * access.strides[last], int64_t{0}, run);
  if (run == n) return;
  int64_t index[kMaxDims];
  for (int dim = 0; dim < last; dim++) index[dim] = index_[dim];
  for (int64_t done = run; done < n; done += run) {
    for (int dim = last - 1; dim >= 0; dim--) {
      offset += access.strides[dim];
      if (++index[dim] < plan_.extents[dim]) break;
      offset -= access.strides[dim] * plan_.extents[dim];
      index[dim] = 0;
    }
    run = std::min(n - done, width);
    body(offset, done, run);
  }
}

void TileEngine::load(const TileStep& step, int64_t start, int64_t n) {
  const TileAccess& access = plan_.accesses[step.access];
  const int64_t lane = static_cast<int64_t>(laneBytes(plan_.spec.values[step.value].lane));
  std::byte* out = place(step, start, n);
  values_[step.value] = out;
  if (step.kind != Kind::load) {
    if (access.linear) return makeIndices(step, out, access.offset + start, 1, n);
    return eachRun(access, step.access, n, [&](int64_t offset, int64_t done, int64_t run) {
      makeIndices(step, out + done * lane, offset, access.strides.back(), run);
    });
  }
  if (!access.pad.empty()) return loadPadded(step, out, n);
  const auto fn = table_.load[static_cast<int>(access.dtype)];
  if (std::byte* from = contiguous(access, step.access, start, n)) {
    // In its lane's own type a value is read where it lies.
    if (access.linear && plan_.spec.stores.empty()) {
      const int64_t bytes = n * static_cast<int64_t>(sizeBytes(access.dtype));
      for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(from + kBytesAhead + line);
    }
    if (access.dtype != DType::bf16 && access.dtype != DType::f16) {
      values_[step.value] = from;
    } else {
      fn(out, from, 1, n);
    }
    return;
  }
  const std::byte* base = bases_[step.access];
  const int64_t size = static_cast<int64_t>(sizeBytes(access.dtype));
  const int64_t ahead = plan_.acrossRows && plan_.extents.size() > 1
                            ? access.strides[access.strides.size() - 2] * kRunsAhead * size
                            : 0;
  eachRun(access, step.access, n, [&](int64_t offset, int64_t done, int64_t run) {
    if (ahead != 0) {
      const uintptr_t next =
          reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(offset * size + ahead);
      for (int64_t line = 0; line < run * size; line += 64)
        __builtin_prefetch(reinterpret_cast<const void*>(next + static_cast<uintptr_t>(line)));
    }
    fn(out + done * lane, base + offset * size, access.strides.back(), run);
  });
}

void TileEngine::loadPadded(const TileStep& step, std::byte* out, int64_t n) {
  const int64_t lane = static_cast<int64_t>(laneBytes(plan_.spec.values[step.value].lane));
  const int last = static_cast<int>(plan_.extents.size()) - 1;
  int64_t index[kMaxDims];
  for (int dim = 0; dim < last; dim++) index[dim] = index_[dim];
  int64_t column = column_;
  for (int64_t done = 0; done < n;) {
    const int64_t run = std::min(n - done, plan_.width() - column);
    loadPaddedRun(step, index, column, out + done * lane, run);
    done += run;
    column = 0;
    for (int dim = last - 1; dim >= 0; dim--) {
      if (++index[dim] < plan_.extents[dim]) break;
      index[dim] = 0;
    }
  }
}

void TileEngine::loadPaddedRun(const TileStep& step, const int64_t* index, int64_t column, std::byte* out,
                               int64_t n) {
  const TileAccess& access = plan_.accesses[step.access];
  const FusedSpec::Value& value = plan_.spec.values[step.value];
  const int64_t lane = static_cast<int64_t>(laneBytes(value.lane));
  const auto fn = table_.load[static_cast<int>(access.dtype)];
  const auto fill = [&](int64_t from, int64_t to) {
    if (from < to)
      table_.load[static_cast<int>(dtypeOf(value.lane))](out + from * lane, &value.bits, 0, to - from);
  };
  const int last = static_cast<int>(plan_.extents.size()) - 1;
  int64_t offset = access.offset;
  for (int dim = 0; dim < last; dim++) {
    const PadWindow& window = access.pad[dim];
    const int64_t at = index[dim] - window.low;
    if (at < 0 || at % window.step != 0 || at / window.step >= window.count) return fill(0, n);
    offset += at / window.step * access.strides[dim];
  }
  const PadWindow& window = access.pad[last];
  const int64_t stride = access.strides[last];
  const std::byte* base = bases_[step.access];
  const int64_t size = static_cast<int64_t>(sizeBytes(access.dtype));
  if (window.step == 1) {
    const int64_t from = std::clamp<int64_t>(window.low - column, 0, n);
    const int64_t to = std::clamp<int64_t>(window.low + window.count - column, from, n);
    fill(0, from);
    if (from < to)
      fn(out + from * lane, base + (offset + (column + from - window.low) * stride) * size, stride,
         to - from);
    fill(to, n);
    return;
  }
  fill(0, n);
  const int64_t before = column - window.low;
  for (int64_t i = before <= 0 ? 0 : (before + window.step - 1) / window.step; i < window.count; i++) {
    const int64_t at = window.low + i * window.step - column;
    if (at >= n) break;
    fn(out + at * lane, base + (offset + i * stride) * size, 1, 1);
  }
}

void TileEngine::store(const TileStep& step, int64_t start, int64_t n) {
  const TileAccess& access = plan_.accesses[step.access];
  const std::byte* from = values_[step.value];
  const auto fn = table_.store[static_cast<int>(access.dtype)];
  if (std::byte* to = contiguous(access, step.access, start, n)) {
    if (to != from) fn(to, 1, from, n);
    return;
  }
  const int64_t lane = static_cast<int64_t>(laneBytes(plan_.spec.values[step.value].lane));
  const int64_t size = static_cast<int64_t>(sizeBytes(access.dtype));
  std::byte* base = bases_[step.access];
  eachRun(access, step.access, n, [&](int64_t offset, int64_t done, int64_t run) {
    fn(base + offset * size, access.strides.back(), from + done * lane, run);
  });
}

int64_t TileEngine::tile(int64_t start, int64_t end) {
  seek(start);
  const int64_t left = plan_.acrossRows ? end - start : std::min(end - start, plan_.width() - column_);
  const int64_t n = std::min(plan_.chunk, left);
  for (const TileStep& step : plan_.steps) {
    if (step.kind == Kind::op) {
      std::byte* out = place(step, start, n);
      values_[step.value] = out;
      step.fn(out, values_[step.args[0]], values_[step.args[1]], values_[step.args[2]], n);
    } else if (step.kind == Kind::store) {
      store(step, start, n);
    } else {
      load(step, start, n);
    }
  }
  return n;
}

/// Asks for the lines of a block further on along the innermost dim.
void TileEngine::prefetchBlock(const TileAccess& access, const std::byte* place, int64_t rows,
                               int64_t columns) const {
  const int64_t size = static_cast<int64_t>(sizeBytes(access.dtype));
  const int64_t rowStride = access.strides[static_cast<size_t>(plan_.blockDim)] * size;
  const int64_t columnStride = access.strides.back() * size;
  const bool byColumn = std::abs(columnStride) > std::abs(rowStride);
  const int64_t lines = byColumn ? columns : rows, stride = byColumn ? columnStride : rowStride;
  const uintptr_t ahead =
      reinterpret_cast<uintptr_t>(place) + static_cast<uintptr_t>(kBlocksAhead * columns * columnStride);
  for (int64_t i = 0; i < lines; i++)
    __builtin_prefetch(reinterpret_cast<const void*>(ahead + static_cast<uintptr_t>(i * stride)));
}

void TileEngine::block(const int64_t* index, int64_t rows, int64_t columns) {
  const int rowDim = plan_.blockDim, last = static_cast<int>(plan_.extents.size()) - 1;
  const auto offsetOf = [&](const TileAccess& access) {
    int64_t offset = access.offset;
    for (int dim = 0; dim <= last; dim++) offset += index[dim] * access.strides[dim];
    return offset;
  };
  for (const TileStep& step : plan_.steps) {
    std::byte* out = slot(step.value);
    if (step.kind == Kind::op) {
      values_[step.value] = out;
      step.fn(out, values_[step.args[0]], values_[step.args[1]], values_[step.args[2]], rows * columns);
      continue;
    }
    const TileAccess& access = plan_.accesses[step.access];
    const int64_t offset = offsetOf(access);
    const int64_t rowStride = access.strides[rowDim], columnStride = access.strides[last];
    if (step.kind != Kind::store) values_[step.value] = out;
    if (step.kind == Kind::load || step.kind == Kind::store) {
      std::byte* place = bases_[step.access] + offset * static_cast<int64_t>(sizeBytes(access.dtype));
      prefetchBlock(access, place, rows, columns);
      const int dtype = static_cast<int>(access.dtype);
      if (step.kind == Kind::load) {
        table_.loadBlock[dtype](out, place, rowStride, columnStride, rows, columns);
      } else {
        table_.storeBlock[dtype](place, rowStride, columnStride, values_[step.value], rows, columns);
      }
      continue;
    }
    const int64_t lane = static_cast<int64_t>(laneBytes(plan_.spec.values[step.value].lane));
    for (int64_t row = 0; row < rows; row++)
      makeIndices(step, out + row * columns * lane, offset + row * rowStride, columnStride, columns);
  }
}

}  // namespace lazuli
