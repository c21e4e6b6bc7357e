#include "hsm_operators/shift_mix/cuda.gen.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>

#include "hsm_operators/shift_mix/cuda.cuh"
#include "hsm_operators/shift_mix/split.h"

namespace hsm::cuda {
namespace {

enum Tactic : int { kTile8, kTile2, kStep };
constexpr std::string_view kTactics[] = {"tile8", "tile2", "step"};

// Tokens up to which one thread does them one after another faster than a second launch would start.
constexpr std::int64_t kStepTokens = 8;
// Threads that a multiprocessor needs to keep its memory busy.
constexpr std::int64_t kBusyThreads = 1024;

constexpr std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

constexpr std::int64_t tokens_of(int tactic) { return tactic == kTile8 ? 8 : 2; }

bool is_empty(const ShiftMixArgs& args) {
  return args.batch == 0 || args.width == 0 || args.shifts.empty() || (args.length == 0 && args.ring_rows == 0);
}

bool is_in_place(const ShiftMixArgs& args) { return args.ring != nullptr && args.ring == args.ring_out; }

// Elements that one thread moves at once: as many as sizes and addresses allow.
int elements_per_thread(const ShiftMixArgs& args) {
  const auto most = static_cast<std::int64_t>(16 / size_of(args.type));
  const std::int64_t group = args.width / static_cast<std::int64_t>(args.shifts.size());
  const void* buffers[] = {args.x, args.alpha, args.beta, args.y, args.ring, args.ring_out};
  const bool aligned = group % most == 0 && std::ranges::all_of(buffers, [](const void* data) {
                         return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
                       });
  return aligned ? static_cast<int>(most) : 1;
}

// Address of element `index`; null stays null.
const void* element_at(const void* data, std::int64_t index, DType type) {
  return data == nullptr ? nullptr
                         : static_cast<const std::byte*>(data) + index * static_cast<std::int64_t>(size_of(type));
}
void* element_at(void* data, std::int64_t index, DType type) {
  return const_cast<void*>(element_at(static_cast<const void*>(data), index, type));
}

// `count` rows of the batch from `first` on, or what is left.
ShiftMixArgs rows_of(ShiftMixArgs args, std::int64_t first, std::int64_t count) {
  args.x = element_at(args.x, first * args.length * args.width, args.type);
  args.y = element_at(args.y, first * args.length * args.width, args.type);
  args.ring = element_at(args.ring, first * args.ring_rows * args.width, args.type);
  args.ring_out = element_at(args.ring_out, first * args.ring_rows * args.width, args.type);
  if (args.position != nullptr) args.position += first;
  if (args.lengths != nullptr) args.lengths += first;
  args.batch = std::min(count, args.batch - first);
  return args;
}

template <typename T>
ShiftMixParameters<T> parameters_of(const ShiftMixArgs& args, std::size_t first_group, int elements) {
  const std::int64_t group = args.width / static_cast<std::int64_t>(args.shifts.size());
  const auto shifts =
      args.shifts.subspan(first_group, std::min<std::size_t>(args.shifts.size() - first_group, kMostGroups));
  ShiftMixParameters<T> p{.x = static_cast<const T*>(args.x),
                          .alpha = static_cast<const T*>(args.alpha),
                          .beta = static_cast<const T*>(args.beta),
                          .y = static_cast<T*>(args.y),
                          .ring = static_cast<const T*>(args.ring),
                          .ring_out = static_cast<T*>(args.ring_out),
                          .position = args.position,
                          .lengths = args.lengths,
                          .length = args.length,
                          .width = args.width,
                          .ring_rows = args.ring_rows,
                          .first = static_cast<std::int64_t>(first_group) * group,
                          .batch = static_cast<std::uint32_t>(args.batch),
                          .per_group = static_cast<std::uint32_t>(group / elements)};
  p.vectors = p.per_group * static_cast<std::uint32_t>(shifts.size());
  std::ranges::copy(shifts, p.shifts);
  return p;
}

// Blocks for `rows` rows of channels.
unsigned blocks_of(std::int64_t rows, std::uint32_t vectors) {
  return static_cast<unsigned>(ceil_divide(rows * vectors, kShiftMixThreads));
}

template <typename T, int kCount>
int launch_tiles(const ShiftMixParameters<T>& p, int tactic, Stream stream) {
  if (p.length == 0) return 0;
  const unsigned blocks = blocks_of(p.batch * ceil_divide(p.length, tokens_of(tactic)), p.vectors);
  if (tactic == kTile8) {
    return HSM_LAUNCH((shift_mix_tile<T, kCount, 8>), blocks, kShiftMixThreads, 0, stream, p);
  }
  return HSM_LAUNCH((shift_mix_tile<T, kCount, 2>), blocks, kShiftMixThreads, 0, stream, p);
}

template <typename T, int kCount>
int launch_ring(const ShiftMixParameters<T>& p, Stream stream) {
  const std::int64_t rows = p.ring == p.ring_out ? std::min(p.ring_rows, p.length) : p.ring_rows;
  if (rows == 0) return 0;
  return HSM_LAUNCH((shift_mix_ring<T, kCount>), blocks_of(p.batch * rows, p.vectors), kShiftMixThreads, 0, stream, p);
}

template <typename T, int kCount>
int launch_groups(const ShiftMixArgs& args, int tactic, std::size_t first_group, Stream stream) {
  const ShiftMixParameters<T> p = parameters_of<T>(args, first_group, kCount);
  if (tactic == kStep && is_in_place(args)) {
    return HSM_LAUNCH((shift_mix_step<T, kCount>), blocks_of(args.batch, p.vectors), kShiftMixThreads, 0, stream, p);
  }
  const int error = launch_tiles<T, kCount>(p, tactic, stream);
  if (error != 0 || args.ring == nullptr) return error;
  return launch_ring<T, kCount>(p, stream);
}

}  // namespace

std::span<const std::string_view> shift_mix_tactics() noexcept { return kTactics; }

bool shift_mix_supports(const ShiftMixArgs& args, int tactic, const Device& /*device*/) noexcept {
  if (tactic < 0 || tactic >= std::ssize(kTactics)) return false;
  if (tactic == kStep && args.ring_rows == 0) return false;
  return args.width == 0 || std::max(args.length, args.ring_rows) <= kMostShiftMixThreads / args.width;
}

int shift_mix_default_tactic(const ShiftMixArgs& args, const Device& device) noexcept {
  if (args.ring_rows > 0 && args.length <= kStepTokens) return kStep;
  const auto vector = static_cast<std::int64_t>(16 / size_of(args.type));
  const std::int64_t threads = args.batch * ceil_divide(args.length, tokens_of(kTile8)) * args.width / vector;
  return threads >= kBusyThreads * device.multiprocessors ? kTile8 : kTile2;
}

std::size_t shift_mix_workspace(const ShiftMixArgs& /*args*/, int /*tactic*/, const Device& /*device*/) noexcept {
  return 0;
}

int shift_mix_launch(const ShiftMixArgs& args, int tactic, const Device& device, void* /*workspace*/,
                     Stream stream) noexcept {
  if (!shift_mix_supports(args, tactic, device)) return kInvalidValue;
  return shift_mix_launch_split(args, tactic, kMostShiftMixThreads, stream);
}

int shift_mix_launch_split(const ShiftMixArgs& args, int tactic, std::int64_t most_threads, Stream stream) noexcept {
  if (is_empty(args)) return 0;
  const int elements = elements_per_thread(args);
  const std::int64_t threads_of_row = std::max(args.length, args.ring_rows) * (args.width / elements);
  const std::int64_t rows = std::max<std::int64_t>(most_threads / threads_of_row, 1);
  return with_element(args.type, [&](auto element) {
    using T = decltype(element);
    constexpr int kMost = 16 / static_cast<int>(sizeof(T));
    for (std::int64_t row = 0; row < args.batch; row += rows) {
      const ShiftMixArgs part = rows_of(args, row, rows);
      for (std::size_t group = 0; group < args.shifts.size(); group += kMostGroups) {
        const int error = elements == 1 ? launch_groups<T, 1>(part, tactic, group, stream)
                                        : launch_groups<T, kMost>(part, tactic, group, stream);
        if (error != 0) return error;
      }
    }
    return 0;
  });
}

}  // namespace hsm::cuda
