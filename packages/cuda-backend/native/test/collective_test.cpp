#include <atomic>
#include <cstring>
#include <functional>
#include <thread>

#include "collectives/local.h"
#include "device_harness.h"
#include "kernel_harness.h"
#include "parallel.h"

#if LAZULI_HAVE_CUDA
#include "cuda_nccl.h"
#endif

namespace lazuli::test {
namespace {

using std::chrono::milliseconds;

constexpr DType kDTypesAll[] = {DType::f32, DType::f64, DType::bf16, DType::f16,
                                DType::i32, DType::i64, DType::u8,   DType::boolean};

/// Calls `body(device)` for every device, each on a thread of its own.
void everywhere(int devices, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int device = 0; device < devices; device++) threads.emplace_back([&, device] { body(device); });
  for (std::thread& thread : threads) thread.join();
}

/// Whether the devices of a mesh are GPUs, and what they have goes by NCCL.
bool byNccl([[maybe_unused]] int devices) {
#if LAZULI_HAVE_CUDA
  return onCuda() && hasNccl(devices);
#else
  return false;
#endif
}

/// One collective kernel as all devices of a mesh run it, each on its own operand: by device.
struct MeshRun {
  Op op;
  Dims mesh, axes;
  std::vector<Attr> attrs;  // after mesh and axes

  std::vector<Array> operator()(const std::vector<Array>& operands, const TensorType& result,
                                bool inPlace = false) const {
    std::vector<Attr> all = {mesh, axes};
    all.insert(all.end(), attrs.begin(), attrs.end());
    const Node node{op, {}, {}, all};
    const int devices = static_cast<int>(elements(mesh));
    std::vector<Layout> layouts;
    if (op != Op::axis_index) layouts.push_back(Layout::dense(operands[0].type));
    const MadeKernel made = findKernel(op)->make({node, layouts, {result}});
    EXPECT_TRUE(!inPlace || made.inPlace.size() == 1);
    std::vector<Array> results(static_cast<size_t>(devices), Array(result.dtype, result.shape));
#if LAZULI_HAVE_CUDA
    if (byNccl(devices)) {
      std::vector<std::span<const std::byte>> reads;
      std::vector<std::span<std::byte>> writes;
      for (const Array& operand : operands) reads.emplace_back(operand.bytes);
      for (Array& each : results) writes.emplace_back(each.bytes);
      runByNccl(made, reads, writes, inPlace);
      return results;
    }
#endif
    LocalMesh local(devices, milliseconds(60000));
    everywhere(devices, [&](int device) {
      const auto d = static_cast<size_t>(device);
      const auto communicator = local.communicator(device);
      for (int round = 0; round < 3; round++) {  // what one leaves behind must not matter to the next
        std::fill(results[d].bytes.begin(), results[d].bytes.end(), std::byte{0xcd});
        if (inPlace) results[d].bytes = operands[d].bytes;
        const std::byte* read = operands.empty() ? nullptr : operands[d].bytes.data();
        if (inPlace) read = results[d].bytes.data();
        std::byte* write = results[d].bytes.data();
        made.kernel->run({&read, &write, nullptr, communicator.get()});
      }
      EXPECT_FALSE(local.endRun());
    });
    return results;
  }
};

/// Each device's operand, its values telling devices and places apart.
std::vector<Array> operandsOf(DType dtype, const Dims& shape, int64_t devices) {
  std::vector<Array> operands;
  for (int64_t d = 0; d < devices; d++) {
    const auto seed = static_cast<uint32_t>(d + 1);
    // Products of 8 must be exact in the reference's doubles; int32 and uint8 wrap there too.
    const int64_t limit = dtype == DType::boolean ? 2
                          : dtype == DType::i64   ? 90
                          : dtype == DType::u8    ? 256
                                                  : 1000;
    operands.push_back(isFloat(dtype) ? Array::random(dtype, shape, seed)
                                      : Array::indices(dtype, shape, limit, seed));
  }
  return operands;
}

/// Bytes of `x` seen as [outer, length of dim, inner].
struct Lines {
  size_t outer, length, inner;
  Lines(const TensorType& type, size_t dim)
      : outer(static_cast<size_t>(elements(Dims(type.shape.begin(), type.shape.begin() + dim)))),
        length(static_cast<size_t>(type.shape[dim])),
        inner(static_cast<size_t>(elements(Dims(type.shape.begin() + dim + 1, type.shape.end()))) *
              sizeBytes(type.dtype)) {}
};

/// x[start : start + length] along dim, as a slice one byte after the other.
Array sliced(const Array& x, size_t dim, int64_t start, int64_t length) {
  TensorType type = x.type;
  type.shape[dim] = length;
  Array out(type.dtype, type.shape);
  const Lines from(x.type, dim), to(type, dim);
  for (size_t o = 0; o < to.outer; o++) {
    for (size_t i = 0; i < to.length * to.inner; i++)
      out.bytes[o * to.length * to.inner + i] =
          x.bytes[(o * from.length + static_cast<size_t>(start)) * from.inner + i];
  }
  return out;
}

Array joined(const std::vector<Array>& parts, size_t dim) {
  TensorType type = parts[0].type;
  type.shape[dim] *= static_cast<int64_t>(parts.size());
  Array out(type.dtype, type.shape);
  const Lines part(parts[0].type, dim);
  const size_t run = part.length * part.inner;
  for (size_t o = 0; o < part.outer; o++) {
    for (size_t p = 0; p < parts.size(); p++) {
      for (size_t i = 0; i < run; i++)
        out.bytes[(o * parts.size() + p) * run + i] = parts[p].bytes[o * run + i];
    }
  }
  return out;
}

double combine(int64_t kind, DType dtype, double a, double b) {
  const auto wrap = [&](double x) -> double {
    if (dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16) return static_cast<float>(x);
    if (dtype == DType::u8) return static_cast<double>(static_cast<int64_t>(x) & 255);
    if (dtype == DType::i32) return static_cast<int32_t>(static_cast<int64_t>(x));
    return x;
  };
  switch (kind) {
    case 0:
      return wrap(a + b);
    case 1:
      return wrap(a * b);
    case 2:
      return std::max(a, b);
    default:
      return std::min(a, b);
  }
}

/// Element by element in the order of the members, in float32 for the half types.
Array reduced(int64_t kind, const std::vector<Array>& members) {
  const TensorType& type = members[0].type;
  return Array::of(type.dtype, type.shape, [&](int64_t i) {
    double value = members[0].at(i);
    for (size_t m = 1; m < members.size(); m++) value = combine(kind, type.dtype, value, members[m].at(i));
    return value;
  });
}

void expectEach(const std::vector<Array>& actual, const std::function<Array(size_t)>& expected,
                const std::string& what, bool sums = false) {
  for (size_t d = 0; d < actual.size(); d++) {
    const Array want = expected(d);
    ASSERT_EQ(want.bytes.size(), actual[d].bytes.size()) << what;
    if (sums && byNccl(static_cast<int>(actual.size())) && isFloat(want.type.dtype)) {
      // NCCL combines in an order of its own, and rounds in between.
      const double unit = want.type.dtype == DType::bf16  ? 1.0 / 128
                          : want.type.dtype == DType::f16 ? 1.0 / 1024
                                                          : 1e-6;
      for (int64_t i = 0; i < elements(want.type.shape); i++)
        ASSERT_NEAR(actual[d].at(i), want.at(i), unit * 8 * (1 + std::abs(want.at(i))))
            << what << ", device " << d;
      continue;
    }
    ASSERT_EQ(std::memcmp(want.bytes.data(), actual[d].bytes.data(), want.bytes.size()), 0)
        << what << ", device " << d;
  }
}

bool isTaken(int64_t kind, DType dtype) { return kind >= 2 || dtype != DType::boolean; }

TEST(Collective, GroupsNumberTheirMembersRowMajor) {
  const Dims mesh = {2, 3, 4};
  EXPECT_EQ(groupOf(mesh, Dims{1}, 7).devices, (std::vector<int>{3, 7, 11}));
  EXPECT_EQ(groupOf(mesh, Dims{1}, 7).self, 1u);
  EXPECT_EQ(groupOf(mesh, Dims{0, 2}, 17).devices, (std::vector<int>{4, 5, 6, 7, 16, 17, 18, 19}));
  EXPECT_EQ(groupOf(mesh, Dims{2, 0}, 17).devices, (std::vector<int>{4, 16, 5, 17, 6, 18, 7, 19}));
  EXPECT_EQ(groupOf(mesh, Dims{2, 0}, 17).self, 3u);
  EXPECT_EQ(groupOf(mesh, Dims{}, 5).devices, (std::vector<int>{5}));
}

TEST(Collective, GroupsFollowTheOrderOfDevices) {
  const Dims mesh = {2, 3, 0, 5, 0, 3, 1, 4, 2};  // rows 5 0 3 and 1 4 2
  EXPECT_EQ(groupOf(mesh, Dims{1}, 0).devices, (std::vector<int>{5, 0, 3}));
  EXPECT_EQ(groupOf(mesh, Dims{1}, 0).self, 1u);
  EXPECT_EQ(groupOf(mesh, Dims{0}, 2).devices, (std::vector<int>{3, 2}));
  EXPECT_EQ(groupOf(mesh, Dims{0}, 2).self, 1u);
  EXPECT_EQ(groupOf(mesh, Dims{1, 0}, 4).devices, (std::vector<int>{5, 1, 0, 4, 3, 2}));
  EXPECT_EQ(groupOf(mesh, Dims{1, 0}, 4).self, 3u);
  EXPECT_EQ(groupOf(mesh, Dims{}, 4).devices, (std::vector<int>{4}));
}

TEST(Collective, AllReduceOfEveryKindAndDType) {
  for (int64_t devices : {2, 3, 4, 8}) {
    for (DType dtype : kDTypesAll) {
      // Few elements; as many as one kind of them fill the small way; odd, with parts of some lines.
      for (int64_t size : {1, 17, 1024, 4097, 30011}) {
        if (size == 30011 && byNccl(static_cast<int>(devices))) continue;
        const std::vector<Array> x = operandsOf(dtype, {size}, devices);
        for (int64_t kind = 0; kind < 4; kind++) {
          if (!isTaken(kind, dtype)) continue;
          const MeshRun run{Op::all_reduce, {devices}, {0}, {kind}};
          const Array want = reduced(kind, x);
          expectEach(
              run(x, x[0].type), [&](size_t) { return want; }, name(dtype), true);
        }
      }
    }
  }
}

TEST(Collective, AllReduceInPlace) {
  const MeshRun once{Op::all_reduce, {3}, {0}, {int64_t{0}}};
  for (int64_t size : {5, 40000}) {
    const std::vector<Array> x = operandsOf(DType::f32, {size}, 3);
    // Three rounds in place, each from the operands anew.
    expectEach(
        once(x, x[0].type, true), [&](size_t) { return reduced(0, x); }, "in place", true);
  }
}

TEST(Collective, NaNWinsInMaxAndMin) {
  if (byNccl(3)) GTEST_SKIP() << "NCCL leaves NaN out (docs/cuda.md)";
  const double nan = std::nan("");
  for (int64_t devices : {2, 3}) {
    for (int64_t kind : {2, 3}) {
      std::vector<Array> x(static_cast<size_t>(devices), Array::list(DType::f32, {3}, {1, 2, 3}));
      x[0] = Array::list(DType::f32, {3}, {nan, 0, 7});
      x.back() = Array::list(DType::f32, {3}, {5, nan, 1});
      const std::vector<Array> y = MeshRun{Op::all_reduce, {devices}, {0}, {kind}}(x, x[0].type);
      for (const Array& result : y) {
        EXPECT_TRUE(std::isnan(result.at(0)) && std::isnan(result.at(1)));
        EXPECT_EQ(result.at(2), kind == 2 ? 7 : 1);
      }
    }
  }
}

TEST(Collective, ReduceScatterAlongEveryDim) {
  for (DType dtype : kDTypesAll) {
    for (int64_t kind = 0; kind < 4; kind++) {
      if (!isTaken(kind, dtype)) continue;
      for (int64_t devices : {2, 4}) {
        for (size_t dim = 0; dim < 3; dim++) {
          Dims shape = {3, 5, 7};
          shape[dim] = 3 * devices;
          const std::vector<Array> x = operandsOf(dtype, shape, devices);
          const Array whole = reduced(kind, x);
          TensorType part = x[0].type;
          part.shape[dim] = 3;
          const MeshRun run{Op::reduce_scatter, {devices}, {0}, {kind, static_cast<int64_t>(dim)}};
          expectEach(
              run(x, part), [&](size_t d) { return sliced(whole, dim, static_cast<int64_t>(d) * 3, 3); },
              name(dtype), true);
        }
      }
    }
  }
}

TEST(Collective, AllGatherAlongEveryDim) {
  for (DType dtype : {DType::f32, DType::bf16, DType::boolean}) {
    for (int64_t devices : {2, 3, 8}) {
      for (size_t dim = 0; dim < 3; dim++) {
        const std::vector<Array> x = operandsOf(dtype, {3, 5, 7}, devices);
        const Array want = joined(x, dim);
        const MeshRun run{Op::all_gather, {devices}, {0}, {static_cast<int64_t>(dim)}};
        expectEach(
            run(x, want.type), [&](size_t) { return want; }, "dim " + std::to_string(dim));
      }
    }
  }
}

TEST(Collective, AllToAllBetweenEveryTwoDims) {
  for (int64_t devices : {2, 3, 4}) {
    for (size_t split = 0; split < 3; split++) {
      for (size_t concat = 0; concat < 3; concat++) {
        Dims shape = {3, 5, 7};
        shape[split] = 2 * devices;
        const std::vector<Array> x = operandsOf(DType::f32, shape, devices);
        const auto want = [&](size_t d) {
          std::vector<Array> parts;
          for (const Array& member : x)
            parts.push_back(sliced(member, split, static_cast<int64_t>(d) * 2, 2));
          return joined(parts, concat);
        };
        const MeshRun run{
            Op::all_to_all, {devices}, {0}, {static_cast<int64_t>(split), static_cast<int64_t>(concat)}};
        expectEach(run(x, want(0).type), want,
                   "split " + std::to_string(split) + " concat " + std::to_string(concat));
      }
    }
  }
}

TEST(Collective, PermuteGivesZerosWhereThereIsNoSource) {
  const std::vector<Array> x = operandsOf(DType::i32, {11}, 4);
  const MeshRun run{Op::collective_permute, {4}, {0}, {Dims{0, 1, 1, 3, 0, 2}}};
  const int from[] = {-1, 0, 0, 1};
  expectEach(
      run(x, x[0].type),
      [&](size_t d) { return from[d] < 0 ? Array(DType::i32, {11}) : x[static_cast<size_t>(from[d])]; },
      "permute");
  const MeshRun alone{Op::collective_permute, {1}, {0}, {Dims{}}};
  expectEach(
      alone({x[1]}, x[1].type), [&](size_t) { return Array(DType::i32, {11}); }, "no target");
}

TEST(Collective, ShardSliceEndsInZeros) {
  for (size_t dim = 0; dim < 2; dim++) {
    const Array x = operandsOf(DType::f32, {10, 10}, 1)[0];
    TensorType part = x.type;
    part.shape[dim] = 4;
    const MeshRun run{Op::shard_slice, {4}, {0}, {static_cast<int64_t>(dim), int64_t{4}}};
    const auto want = [&](size_t d) {  // 4, 4, 2 and none of 10
      const Array zeros(x.type.dtype, part.shape);
      Array padded = joined({x, Array(x.type.dtype, x.type.shape)}, dim);
      return sliced(padded, dim, static_cast<int64_t>(d) * 4, 4);
    };
    expectEach(run({x, x, x, x}, part), want, "slice");
  }
}

TEST(Collective, AxisIndexIsThePlaceInTheGroup) {
  const std::vector<Array> minor = MeshRun{Op::axis_index, {2, 3}, {1}, {}}({}, {DType::i32, {}});
  const std::vector<Array> turned = MeshRun{Op::axis_index, {2, 3}, {1, 0}, {}}({}, {DType::i32, {}});
  for (int64_t d = 0; d < 6; d++) {
    EXPECT_EQ(minor[static_cast<size_t>(d)].at(0), d % 3);
    EXPECT_EQ(turned[static_cast<size_t>(d)].at(0), d % 3 * 2 + d / 3);
  }
}

TEST(Collective, SeveralGroupsOfAMeshAtOnce) {
  const std::vector<Array> x = operandsOf(DType::f32, {5000}, 8);
  for (int64_t axis : {0, 1}) {
    const MeshRun run{Op::all_reduce, {2, 4}, {axis}, {int64_t{0}}};
    expectEach(
        run(x, x[0].type),
        [&](size_t d) {
          std::vector<Array> members;
          if (axis == 0) members = {x[d % 4], x[d % 4 + 4]};
          for (size_t m = 0; axis == 1 && m < 4; m++) members.push_back(x[d / 4 * 4 + m]);
          return reduced(0, members);
        },
        "axis " + std::to_string(axis), true);
  }
}

/// One all_reduce of every device that `takesPart`; the rest fail with what is theirs. By device: the error.
std::vector<std::string> errorsOf(LocalMesh& mesh, int devices, const std::function<bool(int)>& takesPart,
                                  const std::string& failure) {
  std::vector<std::string> errors(static_cast<size_t>(devices));
  const std::string label = "all_reduce float32 [3]";
  everywhere(devices, [&](int device) {
    const auto communicator = mesh.communicator(device);
    const Group group = groupOf(Dims{devices}, Dims{0}, device);
    std::vector<float> x(3, static_cast<float>(device));
    auto* bytes = reinterpret_cast<std::byte*>(x.data());
    if (!takesPart(device)) {
      if (!failure.empty()) mesh.fail({failure, 5, RunFailure::Kind::run});
    } else {
      try {
        communicator->allReduce({group, label}, bytes, bytes, 3, {DType::f32, ReduceKind::sum});
      } catch (const CollectiveError&) {  // the outcome says why
      }
    }
    const auto outcome = mesh.endRun();
    errors[static_cast<size_t>(device)] = outcome ? outcome->error : "";
  });
  return errors;
}

TEST(Collective, AFailureEndsTheRunEverywhereAndNoLaterOne) {
  LocalMesh mesh(4, milliseconds(60000));
  for (int round = 0; round < 50; round++) {
    const int failing = round % 4;
    EXPECT_EQ(errorsOf(
                  mesh, 4, [&](int device) { return device != failing; }, "on purpose"),
              std::vector<std::string>(4, "on purpose"));
    EXPECT_EQ(errorsOf(
                  mesh, 4, [](int) { return true; }, ""),
              std::vector<std::string>(4));
  }
}

TEST(Collective, NamesWhoDoesNotCome) {
  LocalMesh mesh(4, milliseconds(50));
  EXPECT_EQ(errorsOf(
                mesh, 4, [](int device) { return device != 2; }, "")[0],
            "device 2 did not reach all_reduce float32 [3] within 0.05 s");
  EXPECT_EQ(errorsOf(
                mesh, 4, [](int device) { return device % 2 == 0; }, "")[1],
            "devices 1, 3 did not reach all_reduce float32 [3] within 0.05 s");
  EXPECT_EQ(errorsOf(
                mesh, 4, [](int) { return true; }, "")[3],
            "");
}

TEST(Collective, ClosingWakesWhoWaits) {
  LocalMesh mesh(2, milliseconds(60000));
  std::thread closer([&] {
    std::this_thread::sleep_for(milliseconds(20));
    mesh.close();
  });
  EXPECT_EQ(errorsOf(
                mesh, 2, [](int device) { return device == 0; }, "")[0],
            "the device was closed");
  closer.join();
  EXPECT_EQ(errorsOf(
                mesh, 2, [](int) { return true; }, "")[0],
            "the device was closed");
}

TEST(Parallel, AThreadMayBeGivenItsOwnCount) {
  const int all = threadCount();
  {
    ThreadCountScope one(1);
    EXPECT_EQ(threadCount(), 1);
    parallelRegion([](int, int threads) { EXPECT_EQ(threads, 1); });
  }
  EXPECT_EQ(threadCount(), all);
  std::thread([] {
    setThreadCount(3);
    std::atomic<int> calls{0};
    parallelRegion([&](int, int threads) {
      EXPECT_EQ(threads, 3);
      EXPECT_EQ(threadCount(), 3);
      calls++;
    });
    EXPECT_EQ(calls, 3);
  }).join();
}

}  // namespace
}  // namespace lazuli::test
