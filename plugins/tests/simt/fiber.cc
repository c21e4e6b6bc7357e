#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define HSM_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HSM_SIMT_ASAN 1
#endif
#endif

#ifdef HSM_SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef HSM_SIMT_OWN_SWITCH
// Saves the registers that a call must keep, changes the stack, restores them. (swapcontext would ask the kernel for
// the signal mask at each switch, a hundred times the price.)
extern "C" void hsm_simt_switch(void** save, void* load);
asm(R"(
.text
.weak hsm_simt_switch
.hidden hsm_simt_switch
.type hsm_simt_switch,@function
hsm_simt_switch:
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
.size hsm_simt_switch,.-hsm_simt_switch
)");
#endif

namespace hsm::simt {
namespace {

constexpr std::size_t kGuard = 4096;
#ifdef HSM_SIMT_ASAN
constexpr std::size_t kStack = 256 * 1024;  // red zones around every variable
#else
constexpr std::size_t kStack = 64 * 1024;
#endif
[[maybe_unused]] constexpr std::size_t kRegisters = 6;
// Bytes at the top of the stack that hold the frames of a fiber that ended in an orderly way.
[[maybe_unused]] constexpr std::size_t kEntryFrames = 2048;

constinit thread_local Fiber* resumed = nullptr;

}  // namespace

Fiber::Fiber() {
  mapping_ = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) throw std::bad_alloc();
  mprotect(mapping_, kGuard, PROT_NONE);
  stack_ = static_cast<char*>(mapping_) + kGuard;
}

Fiber::~Fiber() {
#ifdef HSM_SIMT_ASAN
  __asan_unpoison_memory_region(stack_, kStack);
#endif
  munmap(mapping_, kGuard + kStack);
}

void Fiber::start(Entry entry, [[maybe_unused]] bool abandoned) {
  entry_ = entry;
#ifdef HSM_SIMT_ASAN
  const std::size_t used = abandoned ? kStack : kEntryFrames;
  __asan_unpoison_memory_region(stack_ + kStack - used, used);
#endif
#ifdef HSM_SIMT_OWN_SWITCH
  // As if `enter` had been called and had switched away at once; the null is where its return address would be, and
  // leaves the stack aligned as after a call.
  auto** top = reinterpret_cast<void**>(stack_ + kStack - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Fiber::enter);
  for (std::size_t i = 0; i < kRegisters; ++i) *--top = nullptr;
  own_ = top;
#else
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack_;
  own_.uc_stack.ss_size = kStack;
  own_.uc_link = nullptr;
  makecontext(&own_, &Fiber::enter, 0);
#endif
}

void Fiber::resume() {
  resumed = this;
#ifdef HSM_SIMT_ASAN
  __sanitizer_start_switch_fiber(&fake_scheduler_, stack_, kStack);
#endif
#ifdef HSM_SIMT_OWN_SWITCH
  hsm_simt_switch(&scheduler_, own_);
#else
  swapcontext(&scheduler_, &own_);
#endif
#ifdef HSM_SIMT_ASAN
  __sanitizer_finish_switch_fiber(fake_scheduler_, nullptr, nullptr);
#endif
}

void Fiber::suspend([[maybe_unused]] bool last) {
#ifdef HSM_SIMT_ASAN
  __sanitizer_start_switch_fiber(last ? nullptr : &fake_own_, scheduler_stack_, scheduler_size_);
#endif
#ifdef HSM_SIMT_OWN_SWITCH
  hsm_simt_switch(&own_, scheduler_);
#else
  swapcontext(&own_, &scheduler_);
#endif
#ifdef HSM_SIMT_ASAN
  __sanitizer_finish_switch_fiber(fake_own_, &scheduler_stack_, &scheduler_size_);
#endif
}

void Fiber::enter() {
  Fiber* self = resumed;
#ifdef HSM_SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &self->scheduler_stack_, &self->scheduler_size_);
#endif
  self->entry_();
}

}  // namespace hsm::simt
