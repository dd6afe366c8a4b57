#include "engine.h"

#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "fiber.h"
#include "launch.h"

// LAZULI_SHARED makes thread_local variables, all of which are overwritten when a block starts: nothing else
// here may be thread_local.

namespace lazuli::simt {

Here here;

namespace {

struct Thread {
  Fiber* fiber = nullptr;
  bool (*ready)(void*) = nullptr;  // of waitUntil
  void* readyState = nullptr;
  const char* waitsFor = nullptr;
  int line = 0;
};

struct Meeting {
  unsigned mask = 0, arrived = 0;
  void (*together)(void* const[32]) = nullptr;
  const char* what = nullptr;
  int line = 0;
  void* lanes[32] = {};
};

struct Warp {
  unsigned ready = 0;  // lanes that can go on
  unsigned alive = 0;
  std::vector<Meeting> meetings;  // that wait for lanes
};

struct Barrier {
  unsigned threads = 0, arrived = 0;
  int sum = 0, result = 0;
  std::vector<unsigned> waiting;  // by warp
};

struct Engine {
  const Kernel* kernel = nullptr;
  const void* args = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> spare;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barriers[16];
  std::vector<unsigned char> shared;
  unsigned current = 0, alive = 0;
  bool running = false, reversed = false;
  std::string error;
  void* blockStates[kBlockStates] = {};
  void (*releaseBlockState[kBlockStates])(void*) = {};

  Fiber* takeFiber() {
    if (spare.empty()) {
      fibers.push_back(std::make_unique<Fiber>());
      spare.push_back(fibers.back().get());
    }
    Fiber* fiber = spare.back();
    spare.pop_back();
    return fiber;
  }
};
Engine engine;

std::string placeOf(unsigned thread) {
  char text[160];
  std::snprintf(text, sizeof text, "%s, block (%u, %u, %u), thread %u", engine.kernel->name, here.block.x,
                here.block.y, here.block.z, thread);
  return text;
}

void threadMain() {
  Thread& thread = engine.threads[engine.current];
  Fiber* fiber = thread.fiber;
  fiber->entered();
  engine.kernel->run(engine.args);
  Warp& warp = engine.warps[engine.current >> 5];
  const unsigned bit = 1u << (engine.current & 31);
  warp.alive &= ~bit;
  warp.ready &= ~bit;
  --engine.alive;
  thread.fiber = nullptr;
  engine.spare.push_back(fiber);
  fiber->leave(true);
}

/// The running thread stops being ready and another goes on.
void waitHere(const char* what, int line) {
  Thread& thread = engine.threads[engine.current];
  thread.waitsFor = what;
  thread.line = line;
  engine.warps[engine.current >> 5].ready &= ~(1u << (engine.current & 31));
  thread.fiber->leave(false);
}

/// A ready thread, in the warp that ran last if it has one, so that a warp's functions meet soon.
bool pick() {
  const unsigned count = static_cast<unsigned>(engine.warps.size());
  for (unsigned i = 0, w = engine.current >> 5; i < count; ++i) {
    if (const unsigned ready = engine.warps[w].ready) {
      const unsigned lane = engine.reversed ? 31 - static_cast<unsigned>(std::countl_zero(ready))
                                            : static_cast<unsigned>(std::countr_zero(ready));
      engine.current = w * 32 + lane;
      return true;
    }
    w = engine.reversed ? (w + count - 1) % count : (w + 1) % count;
  }
  return false;
}

bool pollWaiting() {
  bool any = false;
  for (unsigned i = 0; i < engine.threads.size(); ++i) {
    Thread& thread = engine.threads[i];
    if (!thread.ready || !thread.ready(thread.readyState)) continue;
    thread.ready = nullptr;
    engine.warps[i >> 5].ready |= 1u << (i & 31);
    any = true;
  }
  return any;
}

void describeDeadlock() {
  unsigned first = 0, waiting = 0, ended = 0, endedFirst = 0;
  for (unsigned i = static_cast<unsigned>(engine.threads.size()); i-- > 0;) {
    if (engine.threads[i].fiber)
      first = i, ++waiting;
    else
      endedFirst = i, ++ended;
  }
  const Thread& thread = engine.threads[first];
  std::string text = placeOf(first) + " waits for ever at " + thread.waitsFor + " (line " +
                     std::to_string(thread.line) + "), as do " + std::to_string(waiting - 1) + " others";
  for (unsigned i = first; i < engine.threads.size(); ++i) {
    const Thread& other = engine.threads[i];
    if (!other.fiber || (other.line == thread.line && other.waitsFor == thread.waitsFor)) continue;
    text += "; thread " + std::to_string(i) + " waits at " + other.waitsFor + " (line " +
            std::to_string(other.line) + ")";
    break;
  }
  if (ended)
    text += "; " + std::to_string(ended) + " threads have ended, the first is thread " +
            std::to_string(endedFirst);
  engine.error = text;
}

struct Poison {
  unsigned char* data = nullptr;
  size_t bytes = 0;
};

/// The calling thread's thread_local variables of the library that holds `kernel`.
Poison sharedOf(const Kernel& kernel) {
  kernel.touchShared();
  struct Search {
    uintptr_t address;
    Poison found;
  } search{reinterpret_cast<uintptr_t>(kernel.run), {}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        Search& search = *static_cast<Search*>(data);
        bool here = false;
        size_t bytes = 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& part = info->dlpi_phdr[i];
          const uintptr_t start = info->dlpi_addr + part.p_vaddr;
          here |= part.p_type == PT_LOAD && search.address >= start && search.address < start + part.p_memsz;
          if (part.p_type == PT_TLS) bytes = part.p_memsz;
        }
        if (here && info->dlpi_tls_data)
          search.found = {static_cast<unsigned char*>(info->dlpi_tls_data), bytes};
        return here ? 1 : 0;
      },
      &search);
  return search.found;
}

void startBlock(const Grid& grid, const Poison& poison) {
  if (poison.bytes) std::memset(poison.data, 0xff, poison.bytes);
  std::fill(engine.shared.begin(), engine.shared.end(), 0xff);
  const uintptr_t base = reinterpret_cast<uintptr_t>(engine.shared.data());
  here.shared = engine.shared.data() + (1024 - base % 1024) % 1024;
  engine.threads.assign(grid.threads, {});
  engine.warps.resize((grid.threads + 31) / 32);
  for (unsigned w = 0; w < engine.warps.size(); ++w) {
    const unsigned lanes = std::min(32u, grid.threads - w * 32);
    engine.warps[w].alive = engine.warps[w].ready = lanes == 32 ? ~0u : (1u << lanes) - 1;
    engine.warps[w].meetings.clear();
  }
  for (Barrier& barrier : engine.barriers) {
    barrier.threads = barrier.arrived = 0;
    barrier.sum = 0;
    barrier.waiting.assign(engine.warps.size(), 0);
  }
  engine.alive = grid.threads;
  engine.current = engine.reversed ? grid.threads - 1 : 0;
}

void runBlock(size_t sharedBytes) {
  while (engine.alive) {
    if (!pick() && !(pollWaiting() && pick())) {
      describeDeadlock();
      break;
    }
    Thread& thread = engine.threads[engine.current];
    if (!thread.fiber) {
      thread.fiber = engine.takeFiber();
      thread.fiber->prepare(threadMain);
    }
    here.thread = {engine.current, 0, 0};
    thread.fiber->enter();
    if (!engine.error.empty()) break;
  }
  for (Thread& thread : engine.threads)
    if (thread.fiber) engine.spare.push_back(thread.fiber);
  if (engine.error.empty()) {
    const unsigned char *end = here.shared + sharedBytes, *last = engine.shared.data() + engine.shared.size();
    if (!std::all_of(end, last, [](unsigned char byte) { return byte == 0xff; }))
      engine.error = std::string(engine.kernel->name) +
                     ": something was written past the end of the dynamic shared memory";
    for (unsigned i = 0; i < 16; ++i)
      if (engine.barriers[i].arrived)
        engine.error = std::string(engine.kernel->name) + ": barrier " + std::to_string(i) +
                       " is left with threads that have come";
  }
  for (unsigned i = 0; i < kBlockStates; ++i)
    if (engine.blockStates[i]) engine.releaseBlockState[i](std::exchange(engine.blockStates[i], nullptr));
}

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
/// A bad address in a kernel ends the launch: the fiber goes on in crashed(), at its stack's other end.
int crashSignal = 0;
uintptr_t crashAddress = 0;

void crashed() {
  fault(crashSignal == SIGFPE ? "an integer division by zero" : "a memory fault at address %#zx",
        crashAddress);
}

struct sigaction previousActions[3];
constexpr int kSignals[3] = {SIGSEGV, SIGBUS, SIGFPE};

void onSignal(int signal, siginfo_t* info, void* raw) {
  if (!engine.running) {
    for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &previousActions[i], nullptr);
    return;  // and it comes again
  }
  crashSignal = signal;
  crashAddress = reinterpret_cast<uintptr_t>(info->si_addr);
  greg_t* registers = static_cast<ucontext_t*>(raw)->uc_mcontext.gregs;
  registers[REG_RSP] = reinterpret_cast<greg_t>(engine.threads[engine.current].fiber->top() - 8);
  registers[REG_RIP] = reinterpret_cast<greg_t>(crashed);
}

class CatchSignals {
 public:
  CatchSignals() {
    static char stack[64 * 1024];
    stack_t mine{};
    mine.ss_sp = stack;
    mine.ss_size = sizeof stack;
    sigaltstack(nullptr, &previousStack_);
    if (previousStack_.ss_flags & SS_DISABLE) sigaltstack(&mine, nullptr);
    struct sigaction action {};
    action.sa_sigaction = onSignal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &action, &previousActions[i]);
  }
  ~CatchSignals() {
    for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &previousActions[i], nullptr);
    if (previousStack_.ss_flags & SS_DISABLE) sigaltstack(&previousStack_, nullptr);
  }

 private:
  stack_t previousStack_{};
};
#else
struct CatchSignals {
  CatchSignals() {}
};
#endif

}  // namespace

Kernels& builtinKernels() {
  static Kernels kernels;
  return kernels;
}
Kernels* registering = nullptr;

Registered::Registered(const Kernel& kernel) {
  (registering ? *registering : builtinKernels()).insert_or_assign(kernel.name, kernel);
}

std::string launch(const Kernel& kernel, const Grid& grid, const void* args) {
  const char* order = std::getenv("LAZULI_SIMT_ORDER");
  engine.reversed = order && std::strcmp(order, "reverse") == 0;
  engine.kernel = &kernel;
  engine.args = args;
  engine.error.clear();
  engine.shared.resize(grid.sharedBytes + 2048);
  const Poison poison = sharedOf(kernel);
  const CatchSignals signals;
  here.blockSize = {grid.threads, 1, 1};
  here.sharedBytes = grid.sharedBytes;
  here.grid = grid.blocks;
  const uint64_t count = uint64_t{grid.blocks.x} * grid.blocks.y * grid.blocks.z;
  engine.running = true;
  for (uint64_t i = 0; i < count && engine.error.empty(); ++i) {
    const uint64_t at = engine.reversed ? count - 1 - i : i;
    here.block = {static_cast<unsigned>(at % grid.blocks.x),
                  static_cast<unsigned>(at / grid.blocks.x % grid.blocks.y),
                  static_cast<unsigned>(at / grid.blocks.x / grid.blocks.y)};
    startBlock(grid, poison);
    runBlock(grid.sharedBytes);
  }
  engine.running = false;
  return engine.error;
}

void fault(const char* format, ...) {
  char text[512];
  va_list rest;
  va_start(rest, format);
  std::vsnprintf(text, sizeof text, format, rest);
  va_end(rest);
  if (!engine.running) {
    std::fprintf(stderr, "simt: %s\n", text);
    std::abort();
  }
  engine.error = placeOf(engine.current) + ": " + text;
  engine.threads[engine.current].fiber->leave(true);
  std::abort();  // it is never entered again
}

void warpTogether(unsigned mask, void (*together)(void* const[32]), void* mine, const char* what, int line) {
  Warp& warp = engine.warps[engine.current >> 5];
  const unsigned lane = engine.current & 31, bit = 1u << lane;
  if (!(mask & bit)) fault("%s (line %d): the mask %#x lacks the calling lane %u", what, line, mask, lane);
  if (mask & ~warp.alive)
    fault("%s (line %d): the mask %#x has lanes that have ended or never were (%#x)", what, line, mask,
          mask & ~warp.alive);
  auto meeting = std::find_if(warp.meetings.begin(), warp.meetings.end(),
                              [&](const Meeting& other) { return other.mask & mask; });
  if (meeting == warp.meetings.end()) {
    warp.meetings.push_back({mask, 0, together, what, line, {}});
    meeting = warp.meetings.end() - 1;
  }
  if (meeting->mask != mask || meeting->together != together)
    fault("%s (line %d, mask %#x) while other lanes of the warp are in %s (line %d, mask %#x)", what, line,
          mask, meeting->what, meeting->line, meeting->mask);
  meeting->arrived |= bit;
  meeting->lanes[lane] = mine;
  if (meeting->arrived != mask) return waitHere(what, line);
  const Meeting met = *meeting;
  warp.meetings.erase(meeting);
  together(met.lanes);
  warp.ready |= mask;
}

int blockBarrier(unsigned id, unsigned threads, bool waits, int value, const char* what, int line) {
  if (id >= 16 || threads % 32 != 0 || threads > here.blockSize.x + 31)
    fault("%s (line %d): barrier %u of %u threads", what, line, id, threads);
  Barrier& barrier = engine.barriers[id];
  if (barrier.arrived && barrier.threads != threads)
    fault("%s (line %d): barrier %u of %u threads, while others wait at it for %u", what, line, id, threads,
          barrier.threads);
  barrier.threads = threads;
  barrier.sum += value;
  // A warp that is not whole counts as one that is.
  const unsigned all = std::min(threads, here.blockSize.x);
  if (++barrier.arrived < all) {
    if (!waits) return 0;
    barrier.waiting[engine.current >> 5] |= 1u << (engine.current & 31);
    waitHere(what, line);
    return barrier.result;
  }
  for (unsigned w = 0; w < engine.warps.size(); ++w)
    engine.warps[w].ready |= std::exchange(barrier.waiting[w], 0);
  barrier.arrived = 0;
  barrier.result = std::exchange(barrier.sum, 0);
  return barrier.result;
}

void waitUntil(bool (*ready)(void*), void* state, const char* what, int line) {
  if (ready(state)) return;
  Thread& thread = engine.threads[engine.current];
  thread.ready = ready;
  thread.readyState = state;
  waitHere(what, line);
}

bool isReversed() { return engine.reversed; }
void*& blockState(unsigned which, void (*release)(void*)) {
  engine.releaseBlockState[which] = release;
  return engine.blockStates[which];
}

}  // namespace lazuli::simt

#if !defined(LAZULI_SANITIZE)
// What -fsanitize=alignment,bounds calls: a GPU faults where x86 would not. (Layouts of GCC's and clang's
// runtime.)
struct UbsanPlace {
  const char* file;
  uint32_t line, column;
};
struct UbsanMismatch {
  UbsanPlace place;
  const void* type;
  unsigned char logAlignment, kind;
};
extern "C" __attribute__((visibility("default"))) void __ubsan_handle_type_mismatch_v1(
    const UbsanMismatch* data, uintptr_t pointer) {
  lazuli::simt::fault("%s:%u: address %#zx is not aligned to %d bytes", data->place.file, data->place.line,
                      static_cast<size_t>(pointer), 1 << data->logAlignment);
}
extern "C" __attribute__((visibility("default"))) void __ubsan_handle_out_of_bounds(const UbsanPlace* place,
                                                                                    uintptr_t index) {
  lazuli::simt::fault("%s:%u: index %zd is out of the array's bounds", place->file, place->line,
                      static_cast<ptrdiff_t>(index));
}
#endif
