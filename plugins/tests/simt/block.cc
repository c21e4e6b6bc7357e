#include "block.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <string_view>

namespace hsm::simt {
namespace {

// 0xff… is NaN in every floating-point type of the kernels, and -1 as an index.
constexpr int kPoison = 0xff;
constexpr int kBorder = 0xa5;
constexpr std::size_t kSharedAlignment = 128;
#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kBorderBytes = 0;  // the sanitizer watches the exact size
#else
constexpr std::size_t kBorderBytes = 256;
#endif
// Rounds of its lanes that a warp may get ahead of the others in shuffled order.
constexpr unsigned kMostRounds = 8;

std::string at(const Where& where) {
  const std::string_view file = where.file_name();
  return " (" + std::string(file.substr(file.find_last_of('/') + 1)) + ":" + std::to_string(where.line()) + ")";
}

bool same_place(const Where& a, const Where& b) {
  return a.line() == b.line() && std::string_view(a.file_name()) == b.file_name();
}

std::uint32_t members_of(unsigned lanes) { return lanes >= kLanes ? ~0U : (1U << lanes) - 1; }

}  // namespace

constinit thread_local Block* running = nullptr;

void Block::FreeShared::operator()(std::byte* data) const { std::free(data); }

void Block::allocate(std::size_t bytes) {
  void* data = nullptr;
  if (posix_memalign(&data, kSharedAlignment, std::max<std::size_t>(bytes + kBorderBytes, 1)) != 0) {
    throw std::bad_alloc();
  }
  memory_.reset(static_cast<std::byte*>(data));
  shared_ = memory_.get();
  shared_bytes_ = bytes;
}

bool Block::is_shared(const void* data, std::size_t bytes) const {
  const auto* start = static_cast<const std::byte*>(data);
  return std::less_equal<>()(shared_, start) && std::less_equal<>()(start + bytes, shared_ + shared_bytes_);
}

void Block::poison_shared() {
  std::memset(shared_, kPoison, shared_bytes_);
  std::memset(shared_ + shared_bytes_, kBorder, kBorderBytes);
}

void Block::prepare() {
  count_ = dim.x * dim.y * dim.z;
  while (threads_.size() < count_) threads_.push_back(std::make_unique<Thread>());
  warps_.resize(std::max<std::size_t>(warps_.size(), (count_ + kLanes - 1) / kLanes));
  for (unsigned rank = 0; rank < count_; ++rank) {
    Thread& thread = *threads_[rank];
    thread.index = {rank % dim.x, rank / dim.x % dim.y, rank / (dim.x * dim.y)};
    thread.rank = rank;
    thread.lane = rank % kLanes;
    thread.warp = rank / kLanes;
    thread.done = false;
    thread.waits_at = nullptr;
    thread.copies.clear();
    thread.groups = 0;
    thread.fiber.start(enter, abandoned_);
  }
  for (unsigned w = 0; w * kLanes < count_; ++w) {
    Warp& warp = warps_[w];
    warp.members = warp.ready = members_of(count_ - w * kLanes);
    warp.done = 0;
    warp.meetings_used = 0;
  }
  abandoned_ = false;
  live_ = count_;
  arrived_ = generation_ = 0;
  votes_[0] = votes_[1] = 0;
  error_.clear();
  poison_shared();
}

std::string Block::run(const Body& body, dim3 grid_size, dim3 block_size, uint3 block_index, Order order,
                       std::mt19937& random) {
  body_ = body;
  grid = grid_size;
  dim = block_size;
  index = block_index;
  prepare();
  const unsigned warps = (count_ + kLanes - 1) / kLanes;
  std::vector<unsigned> turns(warps);
  for (unsigned i = 0; i < warps; ++i) turns[i] = order == Order::kReverse ? warps - 1 - i : i;
  while (live_ > 0 && error_.empty()) {
    if (order == Order::kShuffled) std::shuffle(turns.begin(), turns.end(), random);
    bool ran = false;
    for (const unsigned w : turns) ran = run_warp(warps_[w], w * kLanes, order, random) || ran;
    if (!ran && live_ > 0 && error_.empty()) error_ = deadlock();
  }
  abandoned_ = live_ > 0;
  if (error_.empty() && std::any_of(shared_ + shared_bytes_, shared_ + shared_bytes_ + kBorderBytes,
                                    [](std::byte value) { return value != std::byte{kBorder}; })) {
    error_ = "the kernel wrote past the end of its shared memory";
  }
  return error_;
}

// Runs the lanes that can run until none can; in shuffled order for a few rounds only. Returns whether any ran.
bool Block::run_warp(Warp& warp, unsigned first_rank, Order order, std::mt19937& random) {
  bool ran = false;
  unsigned rounds = order == Order::kShuffled ? 1 + random() % kMostRounds : ~0U;
  for (; warp.ready != 0 && rounds > 0; --rounds) {
    // (step·i + start) mod 32 with an odd step visits every lane once.
    unsigned step = order == Order::kReverse ? kLanes - 1 : 1;
    unsigned start = order == Order::kReverse ? kLanes - 1 : 0;
    if (order == Order::kShuffled) {
      step = static_cast<unsigned>(random()) | 1U;
      start = static_cast<unsigned>(random());
    }
    const std::uint32_t round = warp.ready;
    for (unsigned i = 0; i < kLanes; ++i) {
      const unsigned lane = (step * i + start) % kLanes;
      if ((round >> lane & 1U) == 0) continue;
      warp.ready &= ~(1U << lane);
      current = threads_[first_rank + lane].get();
      current->fiber.resume();
      ran = true;
      if (!error_.empty()) return true;
    }
  }
  return ran;
}

void Block::enter() {
  Block& block = *running;
  block.body_.call(block.body_.context);
  Thread& thread = *block.current;
  if (!thread.copies.empty())
    block.fail("cp.async", "a thread ended before it waited for its copies", Where::current());
  thread.done = true;
  block.warps_[thread.warp].done |= 1U << thread.lane;
  --block.live_;
  thread.fiber.suspend(true);
}

std::string Block::failure(const char* operation, const char* problem, const Where& where, const Where* other) const {
  return "thread " + std::to_string(current->rank) + " of block " + std::to_string(index.x) + "," +
         std::to_string(index.y) + "," + std::to_string(index.z) + ": " + operation + ": " + problem +
         (other != nullptr ? at(*other) : "") + at(where);
}

void Block::fail(const char* operation, const char* problem, const Where& where, const Where* other) {
  error_ = failure(operation, problem, where, other);
  for (;;) current->fiber.suspend(false);
}

void Block::wait(const char* operation, const Where& where) {
  Thread& thread = *current;
  thread.waits_at = operation;
  thread.where = where;
  thread.fiber.suspend(false);
  thread.waits_at = nullptr;
}

int Block::barrier(int predicate, const Where& where) {
  if (live_ < count_) fail("__syncthreads", "another thread of the block has ended", where);
  const unsigned parity = generation_ & 1U;
  if (arrived_ == 0) {
    votes_[parity] = 0;
    barrier_where_ = where;
  } else if (!same_place(where, barrier_where_)) {
    fail("divergent __syncthreads", "another thread waits at another one", where, &barrier_where_);
  }
  votes_[parity] += predicate != 0 ? 1 : 0;
  if (++arrived_ == count_) {
    release_barrier();
  } else {
    wait("__syncthreads", where);
  }
  return votes_[parity];
}

void Block::release_barrier() {
  arrived_ = 0;
  ++generation_;
  for (unsigned w = 0; w * kLanes < count_; ++w) warps_[w].ready = warps_[w].members;
  warps_[current->warp].ready &= ~(1U << current->lane);  // it runs on
}

Block::Meeting& Block::meeting(Warp& warp, std::uint32_t mask) {
  for (std::size_t i = 0; i < warp.meetings_used; ++i) {
    if (warp.meetings[i]->mask == mask) return *warp.meetings[i];
  }
  if (warp.meetings_used == warp.meetings.size()) warp.meetings.push_back(std::make_unique<Meeting>());
  Meeting& fresh = *warp.meetings[warp.meetings_used++];
  fresh.mask = mask;
  fresh.parity = 0;
  for (Meeting::Generation& generation : fresh.generations) generation.arrived = 0;
  return fresh;
}

Slot* Block::meet(const char* operation, std::uint32_t mask, const void* data, std::size_t size, Combine combine,
                  const Where& where) {
  Warp& warp = warps_[current->warp];
  const std::uint32_t own = 1U << current->lane;
  if ((mask & own) == 0) fail(operation, "the calling lane is not in the mask", where);
  if ((mask & (~warp.members | warp.done)) != 0) {
    fail(operation, "the mask names lanes that have ended or never were", where);
  }
  Meeting& place = meeting(warp, mask);
  Meeting::Generation& generation = place.generations[(place.parity & own) != 0 ? 1 : 0];
  place.parity ^= own;
  if (generation.arrived == 0) {
    generation.operation = operation;
  } else if (std::string_view(generation.operation) != operation) {
    fail(operation, "other lanes of the mask wait at another operation", where);
  }
  if (size > 0) std::memcpy(generation.slots[current->lane].bytes, data, size);
  generation.arrived |= own;
  if (generation.arrived == mask) {
    if (combine != nullptr) combine(generation.slots, mask);
    generation.arrived = 0;
    warp.ready |= mask & ~own;
  } else {
    wait(operation, where);
  }
  return generation.slots;
}

std::string Block::deadlock() const {
  for (unsigned rank = 0; rank < count_; ++rank) {
    const Thread& thread = *threads_[rank];
    if (thread.done) continue;
    return "deadlock: thread " + std::to_string(rank) + " of block " + std::to_string(index.x) + "," +
           std::to_string(index.y) + "," + std::to_string(index.z) + " waits at " +
           (thread.waits_at != nullptr ? thread.waits_at : "nothing") + at(thread.where) + "; " +
           std::to_string(count_ - live_) + " of " + std::to_string(count_) + " threads have ended";
  }
  return "deadlock";
}

}  // namespace hsm::simt
