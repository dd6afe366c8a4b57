#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Saves what a call keeps on the stack that is left, and takes it from the one that is entered.
extern "C" void lazuli_simt_switch(void** from, void* to);
asm(R"(
.text
.globl lazuli_simt_switch
.hidden lazuli_simt_switch
.type lazuli_simt_switch,@function
lazuli_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lazuli_simt_switch,.-lazuli_simt_switch
)");
#endif

namespace lazuli::simt {

struct Fiber::Context {
#if defined(__x86_64__)
  void *mine = nullptr, *host = nullptr;
#else
  ucontext_t mine, host;
#endif
#if defined(__SANITIZE_ADDRESS__)
  void *fakeMine = nullptr, *fakeHost = nullptr;
  const void* hostBottom = nullptr;
  size_t hostBytes = 0;
#endif
};

namespace {
constexpr size_t kGuard = 4096;
}

Fiber::Fiber() : context_(new Context) {
  void* memory = mmap(nullptr, kBytes + kGuard, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) {
    std::perror("simt: no memory for a thread's stack");
    std::abort();
  }
  stack_ = static_cast<char*>(memory) + kGuard;
}

Fiber::~Fiber() {
  munmap(stack_ - kGuard, kBytes + kGuard);
  delete context_;
}

void Fiber::prepare(void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, kBytes);
  context_->fakeMine = nullptr;
#endif
#if defined(__x86_64__)
  // At a function's start the stack pointer is 8 past a multiple of 16: there a return address would lie.
  void** place = reinterpret_cast<void**>(top()) - 1;
  *place = nullptr;
  *--place = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--place = nullptr;
  context_->mine = place;
#else
  getcontext(&context_->mine);
  context_->mine.uc_stack.ss_sp = stack_;
  context_->mine.uc_stack.ss_size = kBytes;
  context_->mine.uc_link = nullptr;
  makecontext(&context_->mine, entry, 0);
#endif
}

void Fiber::enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&context_->fakeHost, stack_, kBytes);
#endif
#if defined(__x86_64__)
  lazuli_simt_switch(&context_->host, context_->mine);
#else
  swapcontext(&context_->host, &context_->mine);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(context_->fakeHost, nullptr, nullptr);
#endif
}

void Fiber::entered() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(context_->fakeMine, &context_->hostBottom, &context_->hostBytes);
#endif
}

void Fiber::leave(bool forever) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(forever ? nullptr : &context_->fakeMine, context_->hostBottom,
                                 context_->hostBytes);
#else
  static_cast<void>(forever);
#endif
#if defined(__x86_64__)
  lazuli_simt_switch(&context_->mine, context_->host);
#else
  swapcontext(&context_->mine, &context_->host);
#endif
  entered();
}

}  // namespace lazuli::simt
