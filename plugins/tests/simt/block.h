// One thread block: its threads, its barrier and the meetings of its warps' lanes.
//
// A thread runs until it must wait for others, so threads get as far apart as the program lets them: a warp runs up to
// the block's barrier before the next one starts, and a lane up to its warp's next meeting. What works only in lockstep
// fails here.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <source_location>
#include <string>
#include <vector>

#include "fiber.h"

namespace hsm::simt {

// In which order threads (and blocks) run. Tests run every kernel in all of them.
enum class Order : std::uint8_t { kForward, kReverse, kShuffled };

using Where = std::source_location;

inline constexpr unsigned kLanes = 32;

// What a lane brings to a meeting, or takes away.
struct alignas(16) Slot {
  std::byte bytes[64];
};

// An asynchronous copy that has not been waited for.
struct Copy {
  void* shared;
  const void* global;
  int bytes;
  unsigned group;
};

struct Thread {
  uint3 index{};
  unsigned rank = 0;
  unsigned lane = 0;
  unsigned warp = 0;
  bool done = true;
  const char* waits_at = nullptr;
  Where where;
  std::vector<Copy> copies;
  unsigned groups = 0;  // closed groups of copies
  Fiber fiber;
};

// A kernel with its arguments.
struct Body {
  void (*call)(const void* context);
  const void* context;
};

class Block {
 public:
  // The shared memory of the blocks that follow: `bytes` bytes, poisoned before each.
  void allocate(std::size_t bytes);

  // Runs one block to its end. Returns what went wrong, as a sentence, or "".
  std::string run(const Body& body, dim3 grid, dim3 dim, uint3 index, Order order, std::mt19937& random);

  // The rest is called by threads of the block.

  // Waits for all threads of the block, and returns how many of them brought a predicate that is not 0.
  int barrier(int predicate, const Where& where);

  using Combine = void (*)(Slot (&slots)[kLanes], std::uint32_t mask);

  // Waits for all lanes of `mask` to bring `size` bytes to the same operation; the last to come calls `combine`, if
  // any, on what they brought. Returns the slots, valid until the lane's next meeting.
  Slot* meet(const char* operation, std::uint32_t mask, const void* data, std::size_t size, Combine combine,
             const Where& where);

  // Ends the launch with the message "operation: problem", and where another thread is. Does not return, so it must not
  // be given what a destructor would have to free.
  [[noreturn]] void fail(const char* operation, const char* problem, const Where& where, const Where* other = nullptr);

  std::byte* shared() const { return shared_; }
  std::size_t shared_bytes() const { return shared_bytes_; }
  bool is_shared(const void* data, std::size_t bytes) const;

  dim3 grid{};
  dim3 dim{};
  uint3 index{};
  Thread* current = nullptr;

 private:
  // Lanes that meet under one mask. Two generations, because a lane may come to the next meeting before another has
  // looked at what this one brought; it cannot get further ahead.
  struct Meeting {
    struct Generation {
      std::uint32_t arrived = 0;
      const char* operation = nullptr;
      Slot slots[kLanes];
    };
    std::uint32_t mask = 0;
    std::uint32_t parity = 0;  // one bit a lane: the generation that it comes to next
    Generation generations[2];
  };
  struct Warp {
    std::uint32_t members = 0;
    std::uint32_t ready = 0;
    std::uint32_t done = 0;
    std::size_t meetings_used = 0;
    std::vector<std::unique_ptr<Meeting>> meetings;
  };

  struct FreeShared {
    void operator()(std::byte* data) const;
  };

  static void enter();
  void prepare();
  void poison_shared();
  bool run_warp(Warp& warp, unsigned first_rank, Order order, std::mt19937& random);
  void wait(const char* operation, const Where& where);
  void release_barrier();
  Meeting& meeting(Warp& warp, std::uint32_t mask);
  std::string deadlock() const;
  std::string failure(const char* operation, const char* problem, const Where& where, const Where* other) const;

  Body body_{};
  bool abandoned_ = false;
  std::string error_;
  std::vector<std::unique_ptr<Thread>> threads_;
  unsigned count_ = 0;
  unsigned live_ = 0;
  std::vector<Warp> warps_;
  unsigned arrived_ = 0;
  unsigned generation_ = 0;
  Where barrier_where_;
  int votes_[2] = {0, 0};
  std::unique_ptr<std::byte, FreeShared> memory_;
  std::byte* shared_ = nullptr;
  std::size_t shared_bytes_ = 0;
};

// The block that this operating-system thread runs, or null. Local-exec speed also inside a shared library.
extern constinit thread_local Block* running __attribute__((tls_model("initial-exec")));

}  // namespace hsm::simt
