// libnccl over the emulator: ranks are processes of one host, or threads of one, which meet in a file that
// all of them map. As NCCL's, a collective is put on a stream and waits there for the other ranks; those of
// one communicator are done in the order in which they were asked for. Unlike NCCL it says so where ranks ask
// for different ones.
//
//   LAZULI_SIMT_NCCL_FAIL=N   the Nth group of calls of a communicator fails, as when another host goes away

#include <fcntl.h>
#include <nccl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>

#include "driver_state.h"

namespace {

#include "kernels/scalar_half.h"

using lazuli::simt::state;

constexpr int kMostRanks = 16;
constexpr size_t kPlaceBytes = size_t{1} << 26;  // of one rank's data; the file is sparse

struct Post {
  std::atomic<uint64_t> posted, finished;  // groups of calls
  std::atomic<uint64_t> splits;
  int32_t color, key;
};
struct Meeting {
  std::atomic<int32_t> joined;
  Post posts[kMostRanks];
};
constexpr size_t kHeadBytes = (sizeof(Meeting) + 4095) / 4096 * 4096;
static_assert(std::atomic<uint64_t>::is_always_lock_free);

enum class Kind : int32_t { allReduce, allGather, reduceScatter, send, recv };

/// What a rank lays into its place for each call, before the bytes that it gives.
struct Record {
  Kind kind;
  int32_t type, op, peer;
  uint64_t count, bytes;
};

}  // namespace

struct ncclComm {
  std::string name;
  int rank = 0, ranks = 0;
  char* mapping = nullptr;
  std::atomic<bool> isAborted{false};
  std::atomic<ncclResult_t> error{ncclSuccess};
  uint64_t issued = 0, splits = 0;  // of this rank

  Meeting& meeting() const { return *reinterpret_cast<Meeting*>(mapping); }
  char* place(int r) const { return mapping + kHeadBytes + static_cast<size_t>(r) * kPlaceBytes; }
  size_t mapped() const { return kHeadBytes + static_cast<size_t>(ranks) * kPlaceBytes; }
  ~ncclComm() {
    if (mapping) munmap(mapping, mapped());
  }
};

namespace {

ncclResult_t refuse(ncclResult_t result, const std::string& why) {
  std::fprintf(stderr, "simt nccl: %s\n", why.c_str());
  return result;
}

/// Handles that are in use: what is under way keeps a communicator alive.
std::map<ncclComm*, std::shared_ptr<ncclComm>>& comms() {
  static auto* const all = new std::map<ncclComm*, std::shared_ptr<ncclComm>>;
  return *all;
}
std::shared_ptr<ncclComm> find(ncclComm_t comm) {
  const auto found = comms().find(comm);
  return found == comms().end() ? nullptr : found->second;
}

size_t sizeOf(int32_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    default:
      return 4;
  }
}

template <class T>
T combined(int32_t op, T a, T b) {
  switch (op) {
    case ncclProd:
      return static_cast<T>(a * b);
    case ncclMax:  // as NCCL's, NaN loses
      if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
      return std::max(a, b);
    case ncclMin:
      if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);
      return std::min(a, b);
    default:
      return static_cast<T>(a + b);
  }
}

/// a = a op b, rounded to their type each time: as from rank to rank.
template <class T>
void reduceAs(int32_t op, char* a, const char* b, size_t count) {
  auto* to = reinterpret_cast<T*>(a);
  const auto* from = reinterpret_cast<const T*>(b);
  for (size_t i = 0; i < count; i++) {
    if constexpr (std::is_arithmetic_v<T>)
      to[i] = combined(op, to[i], from[i]);
    else
      store(to + i, combined(op, load(to[i]), load(from[i])));
  }
}

bool reduce(int32_t type, int32_t op, char* a, const char* b, size_t count) {
  switch (type) {
    case ncclUint8:
      return reduceAs<uint8_t>(op, a, b, count), true;
    case ncclInt32:
      return reduceAs<int32_t>(op, a, b, count), true;
    case ncclInt64:
      return reduceAs<int64_t>(op, a, b, count), true;
    case ncclFloat16:
      return reduceAs<Float16>(op, a, b, count), true;
    case ncclBfloat16:
      return reduceAs<BFloat16>(op, a, b, count), true;
    case ncclFloat32:
      return reduceAs<float>(op, a, b, count), true;
    case ncclFloat64:
      return reduceAs<double>(op, a, b, count), true;
    default:
      return false;
  }
}

struct Call {
  Record record;
  const char* from;
  char* to;
};

/// The calls of one group on one communicator: one meeting of its ranks.
struct Operation {
  std::shared_ptr<ncclComm> comm;
  std::vector<Call> calls;
  std::deque<uint64_t> numbers;  // given when it is put on a stream; several where a graph is launched again
  bool isPosted = false;

  void issue() { numbers.push_back(comm->issued++); }

  bool step() {
    if (comm->isAborted) return end();
    if (comm->error != ncclSuccess) return false;  // its kernel waits for others until it is aborted
    const uint64_t number = numbers.front();
    Meeting& meeting = comm->meeting();
    const auto all = [&](auto Post::*count, uint64_t least) {
      for (int r = 0; r < comm->ranks; r++)
        if (meeting.posts[r].*count < least) return false;
      return true;
    };
    if (!isPosted) {
      if (!all(&Post::finished, number)) return false;
      if (const char* text = std::getenv("LAZULI_SIMT_NCCL_FAIL");
          text && number == std::strtoull(text, nullptr, 10))
        return fail(ncclRemoteError, "as LAZULI_SIMT_NCCL_FAIL asks for");
      if (!lay()) return fail(ncclInternalError, "more than the emulator has room for");
      meeting.posts[comm->rank].posted = number + 1;
      isPosted = true;
    }
    if (!all(&Post::posted, number + 1)) return false;
    if (!take()) return fail(ncclInvalidUsage, "the ranks ask for different collectives");
    meeting.posts[comm->rank].finished = number + 1;
    return end();
  }

 private:
  bool end() {
    numbers.pop_front();
    isPosted = false;
    return true;
  }
  bool fail(ncclResult_t error, const char* why) {
    std::fprintf(stderr, "simt nccl: rank %d: %s\n", comm->rank, why);
    comm->error = error;
    return false;
  }

  bool lay() {
    char* at = comm->place(comm->rank);
    const char* last = at + kPlaceBytes;
    const uint64_t count = calls.size();
    std::memcpy(at, &count, sizeof count);
    at += sizeof count;
    for (const Call& call : calls) {
      if (static_cast<size_t>(last - at) < sizeof(Record) + call.record.bytes) return false;
      std::memcpy(at, &call.record, sizeof(Record));
      at += sizeof(Record);
      if (call.record.bytes > 0) std::memcpy(at, call.from, call.record.bytes);
      at += call.record.bytes;
    }
    return true;
  }

  struct Given {
    Record record;
    const char* bytes;
  };
  std::vector<Given> givenBy(int rank) const {
    const char* at = comm->place(rank);
    uint64_t count = 0;
    std::memcpy(&count, at, sizeof count);
    at += sizeof count;
    std::vector<Given> given(count);
    for (Given& each : given) {
      std::memcpy(&each.record, at, sizeof(Record));
      each.bytes = at + sizeof(Record);
      at = each.bytes + each.record.bytes;
    }
    return given;
  }

  bool take() const {
    std::vector<std::vector<Given>> given;
    for (int r = 0; r < comm->ranks; r++) given.push_back(givenBy(r));
    for (const auto& each : given)
      if (each.size() != calls.size() && (isCollective(each) || isCollective(given[0]))) return false;
    std::vector<size_t> taken(static_cast<size_t>(comm->ranks));  // by rank, of what it sends to this one
    for (size_t c = 0; c < calls.size(); c++) {
      const Call& call = calls[c];
      if (call.record.kind == Kind::send) continue;
      if (call.record.kind == Kind::recv) {
        if (!takeSent(call, given[static_cast<size_t>(call.record.peer)],
                      taken[static_cast<size_t>(call.record.peer)]))
          return false;
        continue;
      }
      for (const auto& each : given) {
        const Record& other = each[c].record;
        if (other.kind != call.record.kind || other.type != call.record.type || other.op != call.record.op ||
            other.count != call.record.count)
          return false;
      }
      if (!takeAll(call, given, c)) return false;
    }
    return true;
  }
  static bool isCollective(const std::vector<Given>& given) {
    return std::ranges::any_of(given, [](const Given& each) {
      return each.record.kind != Kind::send && each.record.kind != Kind::recv;
    });
  }

  bool takeSent(const Call& call, const std::vector<Given>& given, size_t& taken) const {
    size_t number = 0;
    for (const Given& each : given) {
      if (each.record.kind != Kind::send || each.record.peer != comm->rank || number++ != taken) continue;
      taken++;
      const uint64_t bytes = call.record.count * sizeOf(call.record.type);
      if (each.record.bytes != bytes) return false;
      if (bytes > 0) std::memcpy(call.to, each.bytes, bytes);
      return true;
    }
    return false;
  }

  bool takeAll(const Call& call, const std::vector<std::vector<Given>>& given, size_t c) const {
    const auto [kind, type, op, peer, count, sent] = call.record;
    const size_t bytes = count * sizeOf(type);
    if (kind == Kind::allGather) {
      for (size_t r = 0; r < given.size(); r++) std::memcpy(call.to + r * bytes, given[r][c].bytes, bytes);
      return true;
    }
    const size_t offset = kind == Kind::reduceScatter ? static_cast<size_t>(comm->rank) * bytes : 0;
    // Not in the order of the members, as NCCL's rings and trees are not.
    const size_t first = given.size() - 1;
    std::vector<char> sum(given[first][c].bytes + offset, given[first][c].bytes + offset + bytes);
    for (size_t r = first; r-- > 0;) {
      // Copied to where its type may lie.
      const std::vector<char> part(given[r][c].bytes + offset, given[r][c].bytes + offset + bytes);
      if (!reduce(type, op, sum.data(), part.data(), count)) return false;
    }
    if (bytes > 0) std::memcpy(call.to, sum.data(), bytes);
    return true;
  }
};

struct Asked {
  std::shared_ptr<ncclComm> comm;
  CUstream_st* stream;
  Call call;
};
/// What a thread has asked for in a group that is not at its end. (thread_local variables are kernels',
/// engine.cpp.)
struct Asking {
  int depth = 0;
  std::vector<Asked> calls;
};
Asking& asking() {
  static auto* const all = new std::map<std::thread::id, Asking>;
  LAZULI_SIMT_LOCK;
  return (*all)[std::this_thread::get_id()];
}

ncclResult_t submit() {
  const std::vector<Asked> calls = std::exchange(asking().calls, {});
  if (calls.empty()) return ncclSuccess;
  auto operations = std::make_shared<std::vector<Operation>>();
  for (const Asked& each : calls) {
    if (each.stream != calls[0].stream) return refuse(ncclInvalidUsage, "one group on several streams");
    auto found =
        std::ranges::find_if(*operations, [&](const Operation& other) { return other.comm == each.comm; });
    if (found == operations->end()) found = operations->insert(found, Operation{each.comm, {}, {}, false});
    found->calls.push_back(each.call);
  }
  auto left = std::make_shared<std::vector<bool>>(operations->size(), true);
  const lazuli::simt::Work work{[operations, left] {
                                  for (size_t i = 0; i < operations->size(); i++)
                                    if ((*left)[i] && (*operations)[i].step()) (*left)[i] = false;
                                  if (std::ranges::find(*left, true) != left->end()) return false;
                                  left->assign(operations->size(), true);
                                  return true;
                                },
                                [operations] {
                                  for (Operation& operation : *operations) operation.issue();
                                }};
  LAZULI_SIMT_LOCK;
  return lazuli::simt::put(calls[0].stream, work) == CUDA_SUCCESS
             ? ncclSuccess
             : refuse(ncclUnhandledCudaError, "the stream took no work");
}

ncclResult_t ask(Kind kind, const void* from, void* to, size_t count, ncclDataType_t type, int op, int peer,
                 ncclComm_t handle, cudaStream_t stream) {
  {
    LAZULI_SIMT_LOCK;
    const std::shared_ptr<ncclComm> comm = find(handle);
    if (!comm) return refuse(ncclInvalidArgument, "there is no such communicator");
    if (comm->error != ncclSuccess) return comm->error;
    const size_t bytes = count * sizeOf(type), ranks = static_cast<size_t>(comm->ranks);
    const size_t sent = kind == Kind::recv ? 0 : kind == Kind::reduceScatter ? bytes * ranks : bytes;
    const size_t got = kind == Kind::send ? 0 : kind == Kind::allGather ? bytes * ranks : bytes;
    const auto isThere = [](const void* at, size_t size) {
      return size == 0 || lazuli::simt::isDevice(reinterpret_cast<CUdeviceptr>(at), size);
    };
    if (!isThere(from, sent) || !isThere(to, got))
      return refuse(ncclInvalidArgument, "the memory is not the GPU's");
    if (peer < -1 || peer >= comm->ranks) return refuse(ncclInvalidArgument, "there is no such peer");
    asking().calls.push_back(
        {comm,
         stream,
         {{kind, type, op, peer, count, sent}, static_cast<const char*>(from), static_cast<char*>(to)}});
  }
  return asking().depth == 0 ? submit() : ncclSuccess;
}

template <class Over>
bool waitUntil(const ncclComm& comm, Over over) {
  const auto start = std::chrono::steady_clock::now();
  while (!over()) {
    if (comm.isAborted || std::chrono::steady_clock::now() - start > std::chrono::seconds(120)) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

/// Returns when all ranks of a communicator are there.
ncclResult_t join(ncclComm_t* handle, const std::string& name, int rank, int ranks) {
  if (ranks < 1 || ranks > kMostRanks || rank < 0 || rank >= ranks)
    return refuse(ncclInvalidArgument, "the emulator has communicators of up to 16 ranks");
  auto comm = std::make_shared<ncclComm>();
  comm->name = name;
  comm->rank = rank;
  comm->ranks = ranks;
  const std::string path = std::filesystem::temp_directory_path() / name;
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, static_cast<off_t>(comm->mapped())) != 0)
    return refuse(ncclSystemError, path);
  void* mapping = mmap(nullptr, comm->mapped(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  close(file);
  if (mapping == MAP_FAILED) return refuse(ncclSystemError, path);
  madvise(mapping, comm->mapped(), MADV_RANDOM);  // holes are not to be read ahead
  comm->mapping = static_cast<char*>(mapping);
  comm->meeting().joined++;
  if (!waitUntil(*comm, [&] { return comm->meeting().joined >= ranks; }))
    return refuse(ncclSystemError, "not every rank came");
  if (rank == 0) unlink(path.c_str());
  LAZULI_SIMT_LOCK;
  comms().emplace(comm.get(), comm);
  *handle = comm.get();
  return ncclSuccess;
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "operation in progress";
  }
}
const char* ncclGetLastError(ncclComm_t) { return ""; }
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  *id = {};
  std::random_device random;
  std::snprintf(id->internal, sizeof id->internal, "lazuli-nccl-%d-%08x%08x", getpid(), random(), random());
  return ncclSuccess;
}
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  return join(comm, std::string(id.internal, strnlen(id.internal, sizeof id.internal)), rank, ranks);
}
ncclResult_t ncclCommSplit(ncclComm_t handle, int color, int key, ncclComm_t* made, ncclConfig_t*) {
  std::shared_ptr<ncclComm> comm;
  {
    LAZULI_SIMT_LOCK;
    comm = find(handle);
  }
  if (!comm) return refuse(ncclInvalidArgument, "there is no such communicator");
  Meeting& meeting = comm->meeting();
  // What was said for the split before is read by all: each has joined what came of it.
  Post& own = meeting.posts[comm->rank];
  own.color = color;
  own.key = key;
  const uint64_t number = ++comm->splits;
  own.splits = 2 * number - 1;
  const auto reached = [&](uint64_t least) {
    return waitUntil(*comm, [&] {
      return std::all_of(meeting.posts, meeting.posts + comm->ranks,
                         [&](const Post& post) { return post.splits >= least; });
    });
  };
  if (!reached(2 * number - 1)) return refuse(ncclSystemError, "not every rank splits the communicator");
  int rank = 0, ranks = 0;
  for (int r = 0; r < comm->ranks; r++) {
    if (meeting.posts[r].color != color) continue;
    ranks++;
    const int32_t other = meeting.posts[r].key;
    if (other < key || (other == key && r < comm->rank)) rank++;
  }
  own.splits = 2 * number;
  if (!reached(2 * number)) return refuse(ncclSystemError, "not every rank splits the communicator");
  *made = nullptr;
  if (color < 0) return ncclSuccess;
  return join(made, comm->name + "-" + std::to_string(number) + "." + std::to_string(color), rank, ranks);
}
ncclResult_t ncclCommAbort(ncclComm_t handle) {
  LAZULI_SIMT_LOCK;
  const std::shared_ptr<ncclComm> comm = find(handle);
  if (!comm) return ncclInvalidArgument;
  comm->isAborted = true;
  comms().erase(handle);
  return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t handle) {
  LAZULI_SIMT_LOCK;
  return comms().erase(handle) > 0 ? ncclSuccess : ncclInvalidArgument;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
  LAZULI_SIMT_LOCK;
  const std::shared_ptr<ncclComm> comm = find(handle);
  if (!comm) return ncclInvalidArgument;
  *error = comm->error;
  return ncclSuccess;
}
ncclResult_t ncclGroupStart() {
  asking().depth++;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (asking().depth == 0) return refuse(ncclInvalidUsage, "no group was started");
  return --asking().depth == 0 ? submit() : ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  return ask(Kind::allReduce, from, to, count, type, op, -1, comm, stream);
}
ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return ask(Kind::allGather, from, to, count, type, -1, -1, comm, stream);
}
ncclResult_t ncclReduceScatter(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  return ask(Kind::reduceScatter, from, to, count, type, op, -1, comm, stream);
}
ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return ask(Kind::send, from, nullptr, count, type, -1, peer, comm, stream);
}
ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return ask(Kind::recv, nullptr, to, count, type, -1, peer, comm, stream);
}
}
