// liblazuli_mpi: the one file that sees mpi.h.
#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "collectives/mpi/api.h"

namespace {

constexpr int kDataTag = 1, kNoticeTag = 2;
constexpr size_t kMostCount = size_t{1} << 30;  // MPI counts in int

std::string lastError;

struct Pending {
  MPI_Request request;
  int rank;
  int awaited;  // bytes of a receive; -1: a send
};
std::vector<Pending> pending;

int check(int code) {
  if (code == MPI_SUCCESS) return 0;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  lastError.assign(text, static_cast<size_t>(length));
  return -1;
}

int init(int* rank, int* size, int* ranksOfThisHost, int* rankOnThisHost) {
  int given = 0, isInitialized = 0;
  MPI_Initialized(&isInitialized);
  if (!isInitialized) {
    if (check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &given)) < 0) return -1;
    if (given < MPI_THREAD_SERIALIZED) {
      lastError = "this MPI does not let several threads take turns (MPI_THREAD_SERIALIZED)";
      return -1;
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  }
  MPI_Comm host;
  if (check(MPI_Comm_rank(MPI_COMM_WORLD, rank)) < 0 || check(MPI_Comm_size(MPI_COMM_WORLD, size)) < 0 ||
      check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host)) < 0)
    return -1;
  MPI_Comm_size(host, ranksOfThisHost);
  MPI_Comm_rank(host, rankOnThisHost);
  MPI_Comm_free(&host);
  return 0;
}

const char* error() { return lastError.c_str(); }

template <class Post>
int inPieces(size_t bytes, int rank, bool isReceive, Post post) {
  for (size_t at = 0; at < bytes || at == 0; at += kMostCount) {
    const int count = static_cast<int>(std::min(kMostCount, bytes - at));
    MPI_Request request;
    if (check(post(at, count, &request)) < 0) return -1;
    pending.push_back({request, rank, isReceive ? count : -1});
  }
  return 0;
}

int send(const void* data, size_t bytes, int rank) {
  return inPieces(bytes, rank, false, [&](size_t at, int count, MPI_Request* request) {
    return MPI_Isend(static_cast<const char*>(data) + at, count, MPI_BYTE, rank, kDataTag, MPI_COMM_WORLD,
                     request);
  });
}

int receive(void* data, size_t bytes, int rank) {
  return inPieces(bytes, rank, true, [&](size_t at, int count, MPI_Request* request) {
    return MPI_Irecv(static_cast<char*>(data) + at, count, MPI_BYTE, rank, kDataTag, MPI_COMM_WORLD, request);
  });
}

/// Whether what came is what was awaited.
int checkMessage(const Pending& done, int code, const MPI_Status& status) {
  if (done.awaited < 0) return check(code);
  int kind = MPI_SUCCESS, came = -1;
  if (code != MPI_SUCCESS) MPI_Error_class(code, &kind);
  if (kind != MPI_SUCCESS && kind != MPI_ERR_TRUNCATE) return check(code);
  if (kind == MPI_SUCCESS) MPI_Get_count(&status, MPI_BYTE, &came);
  if (came == done.awaited) return 0;
  lastError = "rank " + std::to_string(done.rank) + " sent " +
              (came < 0 ? "more than " : std::to_string(came) + " bytes, not ") +
              std::to_string(done.awaited) + (came < 0 ? " bytes" : "") +
              ": do all ranks run the same programs?";
  return -1;
}

int poll() {
  size_t left = 0;
  for (const Pending& one : pending) {
    Pending now = one;
    int isDone = 0;
    MPI_Status status;
    const int code = MPI_Test(&now.request, &isDone, &status);
    if (code != MPI_SUCCESS || isDone) {
      if (checkMessage(one, code, status) < 0) return -1;
    } else {
      pending[left++] = now;
    }
  }
  pending.resize(left);
  return static_cast<int>(left);
}

int waitsFor() { return pending.empty() ? -1 : pending[0].rank; }

void notify(const char* text) {
  static std::string sent;  // stays: MPI may still be reading it when this returns
  if (!sent.empty()) return;
  sent = text;
  int rank = 0, size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  static std::vector<MPI_Request> notices;
  for (int to = 0; to < size; to++) {
    if (to == rank) continue;
    notices.emplace_back();
    MPI_Isend(sent.data(), static_cast<int>(sent.size()), MPI_BYTE, to, kNoticeTag, MPI_COMM_WORLD,
              &notices.back());
  }
  int areSent = 0;
  MPI_Testall(static_cast<int>(notices.size()), notices.data(), &areSent, MPI_STATUSES_IGNORE);
}

int notice(char* text, size_t most) {
  int isThere = 0;
  MPI_Status status;
  if (check(MPI_Iprobe(MPI_ANY_SOURCE, kNoticeTag, MPI_COMM_WORLD, &isThere, &status)) < 0) return -1;
  if (!isThere) return 0;
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  std::vector<char> whole(static_cast<size_t>(bytes));
  if (check(MPI_Recv(whole.data(), bytes, MPI_BYTE, status.MPI_SOURCE, kNoticeTag, MPI_COMM_WORLD,
                     MPI_STATUS_IGNORE)) < 0)
    return -1;
  const size_t length = std::min(whole.size(), most - 1);
  std::memcpy(text, whole.data(), length);
  text[length] = 0;
  return static_cast<int>(std::max<size_t>(length, 1));
}

void finalize() {
  int isFinalized = 0;
  MPI_Finalized(&isFinalized);
  if (!isFinalized) MPI_Finalize();
}

void abort(int code) { MPI_Abort(MPI_COMM_WORLD, code); }

}  // namespace

extern "C" __attribute__((visibility("default"))) const LazuliMpiApi* lazuli_mpi_api() {
  static const LazuliMpiApi api = {kLazuliMpiVersion, init,   error,  send,     receive, poll,
                                   waitsFor,          notify, notice, finalize, abort};
  return &api;
}
