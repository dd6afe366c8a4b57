// NcclCommunicator where what one device does is not what the others do: a failure, a device that does not
// come, several collectives in one job. All kernels of collectives run by NCCL in collective_test.cpp
// (LAZULI_TEST_DEVICE=cuda). On the emulator NCCL is a stand-in (test/simt/nccl.cpp).

#include "cuda_nccl.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <mutex>

#include "collectives/local.h"
#include "cuda/completions.h"
#include "cuda/gpu.h"
#include "cuda/nccl_communicator.h"
#include "device_harness.h"

namespace lazuli::test {
namespace {

using cuda::NcclCommunicator;
using cuda::Stream;

const std::string kLabel = "all_reduce float32 [64]";

struct Floats {
  CUdeviceptr at = 0;
  size_t count;
  explicit Floats(size_t count, float value) : count(count) {
    LAZULI_CUDA(cuMemAlloc, &at, count * 4);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    LAZULI_CUDA(cuMemsetD32Async, at, bits, count, nullptr);
    LAZULI_CUDA(cuStreamSynchronize, nullptr);
  }
  ~Floats() { cuda::Driver::get().cuMemFree(at); }
  std::byte* bytes() const { return reinterpret_cast<std::byte*>(at); }
  std::vector<float> read(const Stream& stream) const {
    std::vector<float> values(count);
    LAZULI_CUDA(cuMemcpyDtoHAsync, values.data(), at, count * 4, stream.handle());
    LAZULI_CUDA(cuStreamSynchronize, stream.handle());
    return values;
  }
};

class CudaNccl : public testing::Test {
 protected:
  void SetUp() override {
    if (!onCuda() || !hasNccl(4)) GTEST_SKIP() << "needs LAZULI_TEST_DEVICE=cuda, NCCL and 4 GPUs";
  }
};

TEST_F(CudaNccl, SeveralCollectivesOfOneJobAreOneGroupAndRunBesideTheStream) {
  everywhereByNccl(4, 60, [](int device, NcclCommunicator& communicator, Stream& stream) {
    const Group all = groupOf(Dims{4}, Dims{0}, device), rows = groupOf(Dims{2, 2}, Dims{1}, device),
                columns = groupOf(Dims{2, 2}, Dims{0}, device);
    const Floats x(64, static_cast<float>(device + 1)), y(64, 1), z(256, 0), w(64, 0);
    for (int round = 0; round < 5; round++) {
      communicator.open(stream);
      communicator.beginJob(7);
      communicator.allReduce({rows, kLabel}, x.bytes(), w.bytes(), 64, {DType::f32, ReduceKind::sum});
      communicator.exchange({all, kLabel}, x.bytes(), z.bytes(), {256, {256, 256}, {256, 256}, 0, 256});
      communicator.allReduce({columns, kLabel}, y.bytes(), y.bytes(), 64, {DType::f32, ReduceKind::sum});
      communicator.endJob(7);
      communicator.waitFor(7);
      EXPECT_EQ(w.read(stream)[63], device < 2 ? 3 : 7);
      const std::vector<float> gathered = z.read(stream);
      for (size_t i = 0; i < 256; i++) ASSERT_EQ(gathered[i], static_cast<float>(i / 64 + 1));
      EXPECT_EQ(y.read(stream)[0], static_cast<float>(2 << round));
    }
  });
}

/// What each device's wait for one all_reduce of all ends with, of those that take part in it.
std::vector<std::string> outcomes(double timeoutSeconds, const std::function<bool(int)>& takesPart,
                                  const std::function<void(int, NcclCommunicator&)>& other) {
  std::vector<std::string> errors(4, "took no part");
  everywhereByNccl(4, timeoutSeconds, [&](int device, NcclCommunicator& communicator, Stream& stream) {
    const Group all = groupOf(Dims{4}, Dims{0}, device);
    const Floats x(64, 1), early(64, 1);
    // So that all have their part of the group's communicator.
    communicator.allReduce({all, kLabel}, early.bytes(), early.bytes(), 64, {DType::f32, ReduceKind::sum});
    LAZULI_CUDA(cuStreamSynchronize, stream.handle());
    if (!takesPart(device)) return other(device, communicator);
    const cuda::Gpu& gpu = cuda::Gpu::open(device);
    cuda::Completions completions(gpu, stream.handle(), 3);
    completions.setCheck([&](double seconds) { return communicator.trouble(seconds); });
    communicator.allReduce({all, kLabel}, x.bytes(), x.bytes(), 64, {DType::f32, ReduceKind::sum});
    completions.add([&](const std::string& error) { errors[static_cast<size_t>(device)] = error; });
    completions.drain();
    const std::string why = errors[static_cast<size_t>(device)];
    EXPECT_EQ(communicator.failure(), why);
    if (why.empty()) return;
    // The stream goes on, and what comes later is refused with the same words.
    LAZULI_CUDA(cuStreamSynchronize, stream.handle());
    try {
      communicator.allReduce({all, kLabel}, x.bytes(), x.bytes(), 64, {DType::f32, ReduceKind::sum});
      ADD_FAILURE() << "a collective after the failure";
    } catch (const CollectiveError& error) {
      EXPECT_EQ(error.what(), why);
    }
  });
  return errors;
}

TEST_F(CudaNccl, ADeviceThatDoesNotComeIsWaitedForOnlySoLong) {
  const auto errors = outcomes(
      0.3, [](int device) { return device != 2; }, [](int, NcclCommunicator&) {});
  for (int device : {0, 1, 3})
    EXPECT_EQ(errors[static_cast<size_t>(device)], "other devices did not reach a collective within 0.3 s");
}

TEST_F(CudaNccl, AnErrorOfTheTransportEndsTheWait) {
  // The second group of calls of every communicator, which is the all_reduce that is waited for.
  setenv("LAZULI_SIMT_NCCL_FAIL", "1", 1);
  const auto errors = outcomes(
      60, [](int) { return true; }, [](int, NcclCommunicator&) {});
  unsetenv("LAZULI_SIMT_NCCL_FAIL");
  for (const std::string& error : errors)
    EXPECT_EQ(error, "NCCL: remote process exited or there was a network error");
}

}  // namespace
}  // namespace lazuli::test
