#pragma once

#include <span>
#include <utility>
#include <vector>

#include "kernel.h"

namespace lazuli::cuda {
struct Target;
}

namespace lazuli::test {

/// Whether library kernels are tested on CUDA: LAZULI_TEST_DEVICE=cuda. LAZULI_CUDA_PATH may lead to the
/// emulator of test/simt; without it they run on the machine's GPU.
bool onCuda();

/// An op's kernels, and whether they are CUDA's.
struct TestedEntry {
  const KernelEntry& entry;
  bool cuda;
};
/// Those of the device under test; of the CPU where CUDA has none yet, which is said once.
TestedEntry entryOf(Op op);

#if LAZULI_HAVE_CUDA
/// The GPU under test, and whether it is the emulator.
const cuda::Target& deviceTarget();
bool isEmulated();
#endif

/// A value whose dims lie in memory in this order, the outermost first.
Layout ordered(const TensorType& type, const std::vector<size_t>& order);
/// The bytes of a value that lies so, in a row-major order; and back.
std::vector<std::byte> toDense(std::span<const std::byte> bytes, const Layout& layout);
std::vector<std::byte> fromDense(std::span<const std::byte> bytes, const Layout& layout);

/// How a kernel is run, where the result must not depend on it.
enum class Manner { plain, other };

/// Runs it on host buffers, of their exact sizes; `cuda`: on copies of them in the GPU's memory. `inPlace`,
/// (write, read): these two share their memory. Manner::other: on CUDA as a captured graph, on the emulator
/// with threads in another order; on the CPU inside of a parallel region, so on one thread. Throws
/// ProgramError for what data showed.
void runMade(bool cuda, const MadeKernel& made, const std::vector<std::span<const std::byte>>& reads,
             const std::vector<std::span<std::byte>>& writes, std::pair<int, int> inPlace = {-1, -1},
             Manner manner = Manner::plain);

}  // namespace lazuli::test
