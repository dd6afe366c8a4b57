#include "cuda/nccl_communicator.h"

#include <algorithm>
#include <cstring>

#include "cuda/staged_communicator.h"

namespace lazuli::cuda {
namespace {

ncclDataType_t typeOf(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::f64:
      return ncclFloat64;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f16:
      return ncclFloat16;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    default:
      return ncclUint8;
  }
}

ncclRedOp_t opOf(ReduceKind kind) {
  switch (kind) {
    case ReduceKind::prod:
      return ncclProd;
    case ReduceKind::max:
      return ncclMax;
    case ReduceKind::min:
      return ncclMin;
    default:
      return ncclSum;
  }
}

/// `bytes` in their order from one layout to another: one of them is dense.
void copySpread(const Stream& stream, std::byte* to, Spread toSpread, const std::byte* from,
                Spread fromSpread, size_t bytes) {
  const size_t width = std::min({toSpread.block, fromSpread.block, bytes});
  stream.copyRows(to, toSpread.block > width ? width : toSpread.stride, from,
                  fromSpread.block > width ? width : fromSpread.stride, width, bytes / width);
}

bool isDense(Spread spread, size_t bytes) { return spread.block >= bytes || spread.block == spread.stride; }

}  // namespace

NcclCommunicator::NcclCommunicator(const Gpu& gpu, std::shared_ptr<Communicator> job, int devices,
                                   const ncclUniqueId& id, double timeoutSeconds)
    : job_(std::move(job)), timeoutSeconds_(timeoutSeconds), memory_(0, gpuMemory()) {
  gpu.makeCurrent();
  LAZULI_NCCL(ncclCommInitRank, &world_, devices, id, job_->device());
  besideHandle_ = makeStream();
  beside_ = std::make_unique<Stream>(besideHandle_.get(), gpu.target(), nullptr);
  begin_ = makeEvent(false);
}

NcclCommunicator::~NcclCommunicator() {
  if (!failure_.empty()) return;
  for (const auto& [devices, comm] : comms_) Nccl::get().ncclCommDestroy(comm);
  Nccl::get().ncclCommDestroy(world_);
}

std::string NcclCommunicator::failure() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

void NcclCommunicator::abort(const std::string& why) {
  std::lock_guard lock(mutex_);
  if (!failure_.empty()) return;
  failure_ = why.empty() ? "the collectives were given up" : why;
  for (const auto& [devices, comm] : comms_) Nccl::get().ncclCommAbort(comm);
  Nccl::get().ncclCommAbort(world_);
}

void NcclCommunicator::fail(const std::string& error) {
  job_->fail(error);
  abort(error);
}

std::string NcclCommunicator::trouble(double seconds) {
  std::string error;
  {
    std::lock_guard lock(mutex_);
    if (!failure_.empty()) return failure_;
    for (const auto& [devices, comm] : comms_) {
      ncclResult_t state = ncclSuccess;
      if (Nccl::get().ncclCommGetAsyncError(comm, &state) == ncclSuccess && state != ncclSuccess &&
          state != ncclInProgress)
        error = std::string("NCCL: ") + Nccl::get().ncclGetErrorString(state);
    }
  }
  if (error.empty()) {
    if (const std::string told = job_->notice(); !told.empty()) {
      abort(told);
      return told;
    }
    if (seconds < timeoutSeconds_) return "";
    char text[32];
    std::snprintf(text, sizeof(text), "%g", timeoutSeconds_);
    error = std::string("other devices did not reach a collective within ") + text + " s";
  }
  fail(error);
  return error;
}

/// Every process asks for its own group of the same axes at the same place, so all come here together.
ncclComm_t NcclCommunicator::commOf(const Group& group) {
  const auto found = comms_.find(group.devices);
  if (found != comms_.end()) return found->second;
  ncclComm_t comm = nullptr;
  LAZULI_NCCL(ncclCommSplit, world_, group.devices.front(), static_cast<int>(group.self), &comm, nullptr);
  std::lock_guard lock(mutex_);
  comms_.emplace(group.devices, comm);
  return comm;
}

std::byte* NcclCommunicator::scratch(size_t bytes) {
  if (nextScratch_ == scratch_.size()) scratch_.emplace_back();
  Scratch& place = scratch_[nextScratch_++];
  if (place.bytes < bytes) {
    // Kept for good: graphs that were captured have its address.
    if (place.bytes > 0) outgrown_.push_back(std::move(place.block));
    place = {memory_.take(bytes), bytes};
  }
  return place.block.data();
}

void NcclCommunicator::beginJob(int64_t) { inJob_ = true; }

void NcclCommunicator::endJob(int64_t job) {
  inJob_ = false;
  // Beside the computing stream, from where that is now.
  LAZULI_CUDA(cuEventRecord, begin_.get(), computing_->handle());
  LAZULI_CUDA(cuStreamWaitEvent, beside_->handle(), begin_.get(), 0);
  std::vector<Call> calls = std::move(calls_);
  calls_.clear();
  perform(calls, *beside_);
  EventHandle& end = ends_[job];
  if (!end) end = makeEvent(false);
  LAZULI_CUDA(cuEventRecord, end.get(), beside_->handle());
}

void NcclCommunicator::waitFor(int64_t job) {
  LAZULI_CUDA(cuStreamWaitEvent, computing_->handle(), ends_.at(job).get(), 0);
}

void NcclCommunicator::add(Call call) {
  if (const std::string why = failure(); !why.empty()) throw CollectiveError(why);
  calls_.push_back(std::move(call));
  if (inJob_) return;
  std::vector<Call> calls = std::move(calls_);
  calls_.clear();
  perform(calls, *computing_);
}

void NcclCommunicator::perform(std::vector<Call>& calls, const Stream& stream) {
  for (Call& call : calls)
    if (call.before) call.before(stream);
  LAZULI_NCCL(ncclGroupStart);
  for (Call& call : calls) call.group(stream);
  LAZULI_NCCL(ncclGroupEnd);
  for (Call& call : calls)
    if (call.after) call.after(stream);
}

void NcclCommunicator::allReduce(const Meeting& meeting, const std::byte* from, std::byte* to,
                                 size_t elements, Reduction reduction) {
  ncclComm_t comm = commOf(meeting.group);
  add({nullptr,
       [=](const Stream& stream) {
         LAZULI_NCCL(ncclAllReduce, from, to, elements, typeOf(reduction.dtype), opOf(reduction.kind), comm,
                     stream.handle());
       },
       nullptr});
}

void NcclCommunicator::exchange(const Meeting& meeting, const std::byte* from, std::byte* to,
                                const Exchange& exchange) {
  ncclComm_t comm = commOf(meeting.group);
  const Exchange x = exchange;
  const size_t members = meeting.group.size(), total = x.bytes * members;
  // What arrives lies dense by member, in place where that is the result's own order.
  const bool lands = isDense(x.to, x.bytes) && (x.toStep == x.bytes || members == 1);
  std::byte* arrived = lands ? to : scratch(total);
  const auto unpack = [=](const Stream& stream) {
    for (size_t m = 0; m < members; m++) {
      copySpread(stream, to + m * x.toStep, x.to, arrived + m * x.bytes, {x.bytes, x.bytes}, x.bytes);
    }
  };
  Call call;
  if (!lands) call.after = unpack;
  if (x.fromStep == 0 && isDense(x.from, x.bytes)) {
    call.group = [=](const Stream& stream) {
      LAZULI_NCCL(ncclAllGather, from, arrived, x.bytes, ncclUint8, comm, stream.handle());
    };
    return add(std::move(call));
  }
  const bool isPacked = isDense(x.from, x.bytes);
  std::byte* packed = isPacked ? nullptr : scratch(total);
  if (!isPacked) {
    call.before = [=](const Stream& stream) {
      for (size_t m = 0; m < members; m++) {
        copySpread(stream, packed + m * x.bytes, {x.bytes, x.bytes}, from + m * x.fromStep, x.from, x.bytes);
      }
    };
  }
  call.group = [=](const Stream& stream) {
    for (size_t m = 0; m < members; m++) {
      const std::byte* part = isPacked ? from + m * x.fromStep : packed + m * x.bytes;
      LAZULI_NCCL(ncclSend, part, x.bytes, ncclUint8, static_cast<int>(m), comm, stream.handle());
      LAZULI_NCCL(ncclRecv, arrived + m * x.bytes, x.bytes, ncclUint8, static_cast<int>(m), comm,
                  stream.handle());
    }
  };
  add(std::move(call));
}

void NcclCommunicator::reduceScatter(const Meeting& meeting, const std::byte* from, std::byte* to,
                                     const Exchange& exchange, Reduction reduction) {
  ncclComm_t comm = commOf(meeting.group);
  const Exchange x = exchange;
  const size_t members = meeting.group.size();
  const bool isPacked = isDense(x.from, x.bytes) && x.fromStep == x.bytes;
  const std::byte* source = from;
  Call call;
  if (!isPacked) {
    std::byte* packed = scratch(x.bytes * members);
    call.before = [=](const Stream& stream) {
      for (size_t m = 0; m < members; m++) {
        copySpread(stream, packed + m * x.bytes, {x.bytes, x.bytes}, from + m * x.fromStep, x.from, x.bytes);
      }
    };
    source = packed;
  }
  const size_t count = x.bytes / sizeBytes(reduction.dtype);
  call.group = [=](const Stream& stream) {
    LAZULI_NCCL(ncclReduceScatter, source, to, count, typeOf(reduction.dtype), opOf(reduction.kind), comm,
                stream.handle());
  };
  add(std::move(call));
}

void NcclCommunicator::permute(const Meeting& meeting, const std::byte* from, std::byte* to, size_t bytes,
                               int64_t source, std::span<const int64_t> targets) {
  ncclComm_t comm = commOf(meeting.group);
  add({nullptr,
       [=, targets = std::vector(targets.begin(), targets.end())](const Stream& stream) {
         for (int64_t target : targets)
           LAZULI_NCCL(ncclSend, from, bytes, ncclUint8, static_cast<int>(target), comm, stream.handle());
         if (source >= 0)
           LAZULI_NCCL(ncclRecv, to, bytes, ncclUint8, static_cast<int>(source), comm, stream.handle());
       },
       nullptr});
}

std::shared_ptr<DeviceCommunicator> makeDeviceCommunicator(const Gpu& gpu, bool isAlone,
                                                           std::shared_ptr<MpiCommunicator> job, int devices,
                                                           double timeoutSeconds) {
  // By rank: whether it can use NCCL, and the first one's id.
  struct Offer {
    bool isReady = false;
    ncclUniqueId id{};
  } offer;
  const char* wanted = std::getenv("LAZULI_NCCL");
  std::string why = isAlone ? "" : "several processes share a GPU";
  if (wanted && std::strcmp(wanted, "0") == 0) why = "LAZULI_NCCL=0";
  try {
    if (why.empty()) {
      const Nccl& nccl = Nccl::get();
      if (job->device() == 0) nccl.check(nccl.ncclGetUniqueId(&offer.id), "ncclGetUniqueId");
      offer.isReady = true;
    }
  } catch (const CudaError& error) {
    why = error.what();
  }
  const auto all = job->gather(std::as_bytes(std::span(&offer, 1)));
  for (const auto& bytes : all) {
    Offer other;
    std::memcpy(&other, bytes.data(), sizeof(other));
    if (!other.isReady) {
      if (job->device() == 0) {
        std::fprintf(stderr, "[lazuli] collectives go through the host's memory: %s\n",
                     why.empty() ? "another process has no NCCL" : why.c_str());
      }
      return std::make_shared<StagedCommunicator>(std::move(job));
    }
  }
  std::memcpy(&offer, all[0].data(), sizeof(offer));
  return std::make_shared<NcclCommunicator>(gpu, std::move(job), devices, offer.id, timeoutSeconds);
}

}  // namespace lazuli::cuda
