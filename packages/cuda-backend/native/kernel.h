#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "program.h"

namespace lazuli {

class Communicator;
struct FusedSpec;
struct MatmulSpec;
struct NormMatmulSizes;
struct NormMatmulSpec;
namespace cuda {
class Stream;
struct Fault;
}  // namespace cuda

/// Moves bytes within a device's memory, in order with its kernels.
class Mover {
 public:
  virtual ~Mover() = default;
  virtual void copy(std::byte* to, const std::byte* from, size_t bytes) const = 0;
  virtual void zero(std::byte* to, size_t bytes) const = 0;
  /// `rows` pieces of `width` bytes, that start so many bytes apart.
  virtual void copyRows(std::byte* to, size_t toPitch, const std::byte* from, size_t fromPitch, size_t width,
                        size_t rows) const = 0;
  virtual void zeroRows(std::byte* to, size_t pitch, size_t width, size_t rows) const = 0;
  virtual void setWord(std::byte* to, uint32_t word) const = 0;
};
const Mover& hostMover();

/// Buffers of one call. `reads` are base addresses: a kernel applies the Layouts it was made with.
struct KernelArgs {
  const std::byte* const* reads;
  std::byte* const* writes;
  std::byte* scratch;                    // 64-byte aligned, `scratchBytes` long, undefined content
  Communicator* communicator = nullptr;  // to the other devices; null where there are none
  cuda::Stream* stream = nullptr;        // of a kernel of CUDA: what it is launched on
  const Mover* mover = &hostMover();
};

/// A compiled piece of work with every shape known. `run` may use every thread of the device (parallel.h),
/// and several devices may be in it at once: what changes in a run lives in `args`. It throws ProgramError
/// for what only data can show (an index out of range). A kernel of CUDA (made by cuda::kernels()) has the
/// GPU's addresses in `args`, and `run` puts it on the stream and returns; what data shows it leaves in the
/// stream's Fault (cuda/stream.h).
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void run(const KernelArgs& args) const = 0;
  /// What a fault that this kernel left says to a user.
  virtual std::string faultText(const cuda::Fault&) const { return ""; }
};

/// A kernel and what the planner must know of it.
struct MadeKernel {
  std::shared_ptr<const Kernel> kernel;  // of several steps that do the same to different values
  std::string label;                     // for traces: "matmul f32 2048x288 * 288x768 + residual"
  std::string detail;                    // what it computes, where the label does not say: a fused expression
  size_t scratchBytes = 0;
  /// (write, read): this write may share its memory with this read, when both lie alike, are of the same byte
  /// size and the read is not needed afterwards.
  std::vector<std::pair<uint32_t, uint32_t>> inPlace;
  double flops = 0;
  bool communicates = false;  // with other devices: a collective that moves something
};

/// What a library kernel is made from: the node, how each operand is laid out in its buffer, the result types
/// and how the results are to lie.
struct KernelRequest {
  const Node& node;
  std::vector<Layout> operands;
  std::vector<TensorType> results;
  std::vector<Layout> targets = {};  // empty: all dense

  Layout target(size_t result) const {
    return targets.empty() ? Layout::dense(results[result]) : targets[result];
  }
};

/// A library kernel's entry: kernels/registry.cpp and cuda/registry.cpp hold the tables by Op.
struct KernelEntry {
  MadeKernel (*make)(const KernelRequest& request);
  /// Whether the kernel reads operand `index` in this layout; where not, the lowering copies it dense first.
  /// Null: dense only.
  bool (*accepts)(const Node& node, size_t index, const Layout& layout) = nullptr;
  /// Whether the kernel writes result `result` in this layout, the elements in another order. Null: dense
  /// only.
  bool (*writes)(const Node& node, size_t result, const Layout& layout) = nullptr;
  /// Whether one kernel may do what `next` asks for along with `group`, nodes of the op that come before it.
  /// Null: never.
  bool (*joins)(std::span<const KernelRequest> group, const KernelRequest& next) = nullptr;
  /// That kernel: it reads and writes what the requests do, one after the other.
  MadeKernel (*makeAll)(std::span<const KernelRequest> group) = nullptr;
  /// Whether the kernel adds a residual to its first result, rounded before and after: an operand more, the
  /// last, dense and of the result's dtype. A sum of float32 it then gives in a half type too: a result more,
  /// the last.
  bool addsResidual = false;
};

/// The entry of a library op; null where the CPU has no kernel for it.
const KernelEntry* findKernel(Op op);

/// Makes the kernels of one kind of device. What it is asked for decides what it makes, so that equal
/// requests may share one kernel (kernel_cache.h): of a node nothing but its op and its attributes.
class KernelMaker {
 public:
  virtual ~KernelMaker() = default;
  virtual const char* device() const = 0;  // "the CPU", for messages
  virtual MadeKernel fused(std::vector<FusedSpec> parts) const = 0;
  virtual MadeKernel matmul(const MatmulSpec& spec) const = 0;
  /// Whether the matmul reads this operand as it lies (kernels/matmul.h); else it is copied dense first.
  virtual bool matmulAccepts(const MatmulSpec& spec, size_t operand) const = 0;
  /// Null where the device has no kernel for this op.
  virtual const KernelEntry* library(Op op) const = 0;
  /// Whether parts of a fused kernel run side by side, so that reductions to one element each that do not
  /// need each other are best made together: a gradient's norm is one such for every parameter.
  virtual bool runsPartsTogether() const { return false; }
  /// Whether attention's kernels do ropes (kernels/attention.h).
  virtual bool attentionTurns() const { return false; }
  /// Whether a norm makes its rows for products of these sizes, block by block, and its cast with them
  /// (kernels/norm_matmul.h). Where it never does, normMatmul is not called.
  virtual bool takesNorm(const NormMatmulSizes&) const { return false; }
  virtual MadeKernel normMatmul(const NormMatmulSpec& spec) const;
};
const KernelMaker& cpuKernels();

/// Part of a step in a collective that is started and waited for apart (docs/ir.md).
enum class Transfer : uint8_t { none, start, done };

/// One scheduled call. A `start` returns before its writes are there; its reads and writes belong to it until
/// the `done` that reads its write first, and what it read second.
struct Step {
  MadeKernel made;
  std::vector<ValueId> reads;  // program values or temporaries of the lowering
  std::vector<ValueId> writes;
  int64_t node = -1;  // for errors and traces
  Transfer transfer = Transfer::none;
  int64_t bucket = -1;  // starts that follow each other with one bucket are moved together; -1: alone

  /// Whether this waits for what `start` began.
  bool isDoneOf(const Step& start) const {
    return transfer == Transfer::done && start.transfer == Transfer::start && reads[0] == start.writes[0];
  }
  /// Whether it has its place in the one order that collectives have on every device.
  bool isOrdered() const { return transfer != Transfer::none || made.communicates; }
};

/// The program as kernel calls, in an order that respects every dependency. `values` extends the program's
/// with the lowering's own temporaries. Outputs that are views of something are materialised by a step.
struct Lowered {
  std::vector<TensorType> values;
  std::vector<Step> steps;
  /// By program output: the value that holds it. May be an input's id where the output is that input
  /// unchanged.
  std::vector<ValueId> outputs;
  /// Values known at compile time (constants), uploaded once with the executable.
  std::vector<std::pair<ValueId, std::vector<uint8_t>>> constants;
};

/// Views folded, elementwise chains and reductions fused, matmul epilogues chosen, library kernels made.
/// LAZULI_FUSE=0 makes a kernel per node, to compare against; LAZULI_FUSE_NORM=0 keeps norms apart from the
/// products of their rows and their gradients from what is added to them, LAZULI_FUSE_LAYOUT=0 all results
/// dense.
Lowered lower(const Program& program, const KernelMaker& maker);
inline Lowered lowerForCpu(const Program& program) { return lower(program, cpuKernels()); }

}  // namespace lazuli
