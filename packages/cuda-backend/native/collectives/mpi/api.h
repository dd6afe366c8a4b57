#pragma once

#include <cstddef>

// What liblazuli_mpi offers. A C interface and a library of its own, so that the addon needs MPI only where
// it is asked for, and no code but the library's sees mpi.h, which differs from one MPI to the next.

extern "C" {

/// Calls come from one thread at a time; `init` and `finalize` from the same one. Those that give an int give
/// less than 0 on an error, whose text `error` has. No call waits, but for `init` and `finalize`.
struct LazuliMpiApi {
  int version;
  /// Of the host: how many ranks it has, and which of them this is.
  int (*init)(int* rank, int* size, int* ranksOfThisHost, int* rankOnThisHost);
  const char* (*error)();
  /// Messages between two ranks arrive in the order they were sent. The memory must stay until `poll` gave 0.
  int (*send)(const void* data, size_t bytes, int rank);
  int (*receive)(void* data, size_t bytes, int rank);
  /// Moves on, and gives how many sends and receives are not done.
  int (*poll)();
  /// A rank of those that are not done.
  int (*waitsFor)();
  /// Tells every other rank, once.
  void (*notify)(const char* text);
  /// The bytes of what a rank was told by `notify`, 0 where there is nothing. The text ends in a zero.
  int (*notice)(char* text, size_t most);
  void (*finalize)();
  void (*abort)(int code);
};

typedef const LazuliMpiApi* (*LazuliMpiGet)();  // the symbol lazuli_mpi_api
}

inline constexpr int kLazuliMpiVersion = 2;
