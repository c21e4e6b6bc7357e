// The query heads of a row that share a key head, and the keys that they may see, in the order of their positions.
#if defined(HSM_ATTENTION_GROUP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_ATTENTION_GROUP_INL_H_
#undef HSM_ATTENTION_GROUP_INL_H_
#else
#define HSM_ATTENTION_GROUP_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "hwy/highway.h"
#include "hsm_operators/attention/args.gen.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Keys and values of consecutive positions, a key stride and a value stride apart; of one key head.
template <typename T>
struct AttentionPiece {
  const T* k;
  const T* v;
  std::int64_t first;  // position of the first key
  std::int64_t count;
};

// Weights are powers of 2: softmax-inl.h.
inline constexpr float kLog2E = 1.44269504f;

// A range of keys of a piece.
struct KeyRange {
  std::size_t begin;
  std::size_t end;
};

template <typename T>
struct AttentionGroup {
  using Piece = AttentionPiece<T>;

  AttentionGroup(const AttentionArgs& args, std::int64_t row, std::int64_t group)
      : dim(static_cast<std::size_t>(args.dim)),
        value_dim(static_cast<std::size_t>(args.value_dim)),
        shared(static_cast<std::size_t>(args.heads / args.key_heads)),
        q_stride(static_cast<std::size_t>(args.heads * args.dim)),
        y_stride(static_cast<std::size_t>(args.heads * args.value_dim)),
        k_stride(static_cast<std::size_t>(args.key_heads * args.dim)),
        v_stride(static_cast<std::size_t>(args.key_heads * args.value_dim)),
        scale(args.scale * kLog2E) {
    const std::int64_t head = row * args.length * args.heads + group * (args.heads / args.key_heads);
    q = static_cast<const T*>(args.q) + head * args.dim;
    y = static_cast<T*>(args.y) + head * args.value_dim;
    const auto add = [&](const void* keys, const void* values, std::int64_t at, std::int64_t from, std::int64_t count) {
      if (count < 1) return;
      const std::int64_t offset = at * args.key_heads + group;
      pieces[used++] = {static_cast<const T*>(keys) + offset * args.dim,
                        static_cast<const T*>(values) + offset * args.value_dim, from, count};
    };
    const std::int64_t first_head = group * (args.heads / args.key_heads), distance_step = args.heads * args.dim;
    const auto relatives = [&](const void* keys, std::int64_t at) {
      return static_cast<const T*>(keys) + (at * args.heads + first_head) * args.dim;
    };
    if (args.relative_keys != nullptr) {
      const bool whole = args.key_ring_out == nullptr;
      const std::int64_t row_of_query = (whole ? args.length : args.window) - 1;
      known_relatives = relatives(args.relative_keys, row_of_query);
      relative_step = -distance_step;
      least_offset = -row_of_query;
      if (whole) most_offset = args.distances - args.length;
    }
    if (args.key_cache_out == nullptr && args.key_ring_out == nullptr) {
      tokens = static_cast<std::size_t>(args.length);
      causal = args.causal;
      if (args.window > 0) window = args.window;
      add(args.k, args.v, row * args.keys, 0, args.lengths[row]);
      return;
    }
    tokens = static_cast<std::size_t>(args.lengths[row]);
    if (tokens == 0) return;  // an idle row's position may be anything
    first = args.position[row];
    if (args.key_cache_out != nullptr) {
      add(args.key_cache, args.value_cache, row * args.capacity, 0, first);
      if (args.relative_cache_out != nullptr) {
        known_relatives = relatives(args.relative_cache, row * args.capacity);
        new_relatives = relatives(args.relative, row * args.length);
        relative_step = distance_step;
        new_distance = first;
        least_offset = -(first + args.lengths[row] - 1);
      }
    } else {
      window = args.window;
      const std::int64_t from = std::max<std::int64_t>(first - window + 1, 0), slot = from % args.slots;
      const std::int64_t unbroken = std::min(first - from, args.slots - slot);
      add(args.key_ring, args.value_ring, row * args.slots + slot, from, unbroken);
      add(args.key_ring, args.value_ring, row * args.slots, from + unbroken, first - from - unbroken);
    }
    add(args.k, args.v, row * args.length, first, args.lengths[row]);
  }

  // Queries: one for each token and head of the group, heads first.
  std::size_t rows() const { return tokens * shared; }
  const T* query(std::size_t row) const { return q + row / shared * q_stride + row % shared * dim; }
  T* result(std::size_t row) const { return y + row / shared * y_stride + row % shared * value_dim; }

  std::int64_t position(std::size_t row) const { return first + static_cast<std::int64_t>(row / shared); }

  // The keys of a piece that the query of a row sees.
  KeyRange visible(const Piece& piece, std::size_t row) const {
    const std::int64_t own = position(row);
    const std::int64_t begin = std::clamp<std::int64_t>(own - window + 1 - piece.first, 0, piece.count);
    const std::int64_t end = causal ? std::clamp<std::int64_t>(own + 1 - piece.first, begin, piece.count) : piece.count;
    return {static_cast<std::size_t>(begin), static_cast<std::size_t>(end)};
  }
  // Those that some row from `begin` to `end` - 1 sees.
  KeyRange visible(const Piece& piece, std::size_t begin, std::size_t end) const {
    return {visible(piece, begin).begin, visible(piece, end - 1).end};
  }

  // The key of a distance, of the group's first query head; those of the next heads follow, those of the next distance
  // are `relative_step` away, but for `new_distance`, where the call's own begin.
  const T* relative(std::int64_t distance) const {
    return distance < new_distance ? known_relatives + distance * relative_step
                                   : new_relatives + (distance - new_distance) * relative_step;
  }
  bool is_relative() const { return known_relatives != nullptr; }

  std::size_t dim;
  std::size_t value_dim;
  std::size_t shared;  // query heads of the key head
  std::size_t q_stride;
  std::size_t y_stride;
  std::size_t k_stride;
  std::size_t v_stride;
  float scale;             // of queries
  std::size_t tokens = 0;  // whose results are wanted
  std::int64_t first = 0;  // position of the first of them
  bool causal = true;
  std::int64_t window = std::numeric_limits<std::int64_t>::max();
  const T* q = nullptr;
  T* y = nullptr;
  const T* known_relatives = nullptr;
  const T* new_relatives = nullptr;
  std::int64_t relative_step = 0;
  std::int64_t new_distance = std::numeric_limits<std::int64_t>::max();
  std::int64_t least_offset = 0;  // of a key's position from a query's, for which there are keys of distances
  std::int64_t most_offset = 0;
  std::array<Piece, 3> pieces{};
  std::size_t used = 0;
};

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_ATTENTION_GROUP_INL_H_
