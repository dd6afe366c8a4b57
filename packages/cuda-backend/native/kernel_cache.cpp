#include "kernel_cache.h"

#include <bit>
#include <mutex>

#include "kernels/fused.h"
#include "kernels/norm_matmul.h"
#include "parallel.h"

namespace lazuli {
namespace {

using Key = std::vector<int64_t>;

/// Writes what a kernel is made from as numbers; every list after its length, so that keys differ where lists
/// do.
class KeyWriter {
 public:
  template <class... T>
  explicit KeyWriter(T... numbers) {
    put(numbers...);
  }

  template <class... T>
  void put(T... numbers) {
    (key.push_back(static_cast<int64_t>(numbers)), ...);
  }
  template <class List>
  void list(const List& numbers) {
    put(numbers.size());
    for (const auto& number : numbers) put(number);
  }
  void type(const TensorType& type) {
    put(type.dtype);
    list(type.shape);
  }
  void layout(const Layout& layout) {
    put(layout.dtype, layout.offset);
    list(layout.shape);
    list(layout.strides);
  }
  void attr(const Attr& attr) {
    put(attr.index());
    if (const auto* integer = std::get_if<int64_t>(&attr)) put(*integer);
    if (const auto* number = std::get_if<double>(&attr)) put(std::bit_cast<int64_t>(*number));
    if (const auto* ints = std::get_if<std::vector<int64_t>>(&attr)) list(*ints);
    if (const auto* bytes = std::get_if<std::vector<uint8_t>>(&attr)) list(*bytes);
  }
  void value(const FusedSpec::Value& value) {
    put(value.kind, value.lane, value.op, value.args[0], value.args[1], value.args[2], value.bits, value.read,
        value.keyOffset, value.keyStride, value.first, value.firstOffset, value.stream, value.pad.size());
    for (const PadWindow& window : value.pad) put(window.low, window.step, window.count);
    layout(value.layout);
  }
  void spec(const FusedSpec& spec) {
    list(spec.space);
    list(spec.reduced);
    put(spec.values.size(), spec.stores.size(), spec.reduces.size());
    for (const FusedSpec::Value& each : spec.values) value(each);
    for (const FusedSpec::Store& store : spec.stores) {
      put(store.value, store.write);
      layout(store.layout);
    }
    for (const FusedSpec::Reduce& reduce : spec.reduces)
      put(reduce.value, reduce.write, reduce.kind, reduce.dtype);
  }

  void spec(const MatmulSpec& spec) {
    put(spec.bias.has_value(), spec.activation, spec.residual, spec.wholeRows);
    layout(spec.a);
    layout(spec.b);
    for (const auto* dims : {&spec.lhsContract, &spec.rhsContract, &spec.lhsBatch, &spec.rhsBatch})
      list(*dims);
    type(spec.out);
    if (spec.bias) layout(*spec.bias);
  }
  void attrs(const Node& node) {
    put(node.op, node.attrs.size());
    for (const Attr& each : node.attrs) attr(each);
  }
  void request(const KernelRequest& request) {
    put(request.operands.size(), request.results.size(), request.targets.size());
    for (const Layout& each : request.operands) layout(each);
    for (const TensorType& each : request.results) type(each);
    for (const Layout& each : request.targets) layout(each);
  }

  Key key;
};

enum class Family : uint8_t { fused, matmul, library, normMatmul };

/// The kernels of all programs that there are, by maker, threads and key. Kernels are their programs': what
/// is held here lets them go.
class Shared {
 public:
  MadeKernel find(const Key& key) {
    std::lock_guard lock(mutex_);
    const auto entry = entries_.find(key);
    if (entry == entries_.end()) return {};
    MadeKernel made = entry->second.made;
    made.kernel = entry->second.kernel.lock();
    return made;
  }

  void keep(const Key& key, const MadeKernel& made) {
    std::lock_guard lock(mutex_);
    if (entries_.size() >= limit_) {
      std::erase_if(entries_, [](const auto& entry) { return entry.second.kernel.expired(); });
      limit_ = std::max(kLeast, 2 * entries_.size());
    }
    Entry& entry = entries_[key];
    entry = {made.kernel, made};
    entry.made.kernel = nullptr;
  }

 private:
  struct Entry {
    std::weak_ptr<const Kernel> kernel;
    MadeKernel made;  // all but the kernel
  };
  static constexpr size_t kLeast = 256;

  std::mutex mutex_;
  std::map<Key, Entry> entries_;
  size_t limit_ = kLeast;  // entries at which those of programs that are gone are let go
};

Shared& shared() {
  static Shared kernels;
  return kernels;
}

}  // namespace

MadeKernel KernelMaker::normMatmul(const NormMatmulSpec&) const {
  throw ProgramError(std::string("internal error: ") + device() + " has no norms with products");
}

template <class Make>
MadeKernel KernelCache::find(Key key, Make make) {
  const auto [own, fresh] = own_.try_emplace(std::move(key));
  if (!fresh) return own->second;
  try {
    Key whole = {static_cast<int64_t>(reinterpret_cast<intptr_t>(&maker_)), threadCount()};
    whole.insert(whole.end(), own->first.begin(), own->first.end());
    MadeKernel made = shared().find(whole);
    if (!made.kernel) {
      made = make();
      shared().keep(whole, made);
    }
    own->second = std::move(made);
  } catch (...) {
    own_.erase(own);
    throw;
  }
  return own->second;
}

MadeKernel KernelCache::fused(std::vector<FusedSpec> parts) {
  KeyWriter writer(Family::fused, parts.size());
  for (const FusedSpec& part : parts) writer.spec(part);
  return find(std::move(writer.key), [&] {
    std::string detail;
    for (const FusedSpec& part : parts) {
      if (!detail.empty()) detail += "; ";
      detail += describe(part);
    }
    MadeKernel made = maker_.fused(std::move(parts));
    made.detail = std::move(detail);
    return made;
  });
}

MadeKernel KernelCache::matmul(const MatmulSpec& spec) {
  KeyWriter writer(Family::matmul);
  writer.spec(spec);
  return find(std::move(writer.key), [&] { return maker_.matmul(spec); });
}

MadeKernel KernelCache::normMatmul(const NormMatmulSpec& spec) {
  KeyWriter writer(Family::normMatmul, spec.dtype, spec.keepsNorm, spec.keepsCast, spec.products.size());
  writer.attrs(spec.norm.node);
  writer.request(spec.norm);
  for (const MatmulSpec& product : spec.products) writer.spec(product);
  return find(std::move(writer.key), [&] { return maker_.normMatmul(spec); });
}

MadeKernel KernelCache::library(const KernelEntry& entry, std::span<const KernelRequest> requests) {
  KeyWriter writer(Family::library, requests.size());
  writer.attrs(requests[0].node);
  for (const KernelRequest& request : requests) writer.request(request);
  return find(std::move(writer.key),
              [&] { return requests.size() == 1 ? entry.make(requests[0]) : entry.makeAll(requests); });
}

}  // namespace lazuli
