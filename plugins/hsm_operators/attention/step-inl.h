// Attention of a few queries: keys and values are read once, in place and in the order in which they lie, because
// memory is the bound.
#if defined(HSM_ATTENTION_STEP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_ATTENTION_STEP_INL_H_
#undef HSM_ATTENTION_STEP_INL_H_
#else
#define HSM_ATTENTION_STEP_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "hwy/highway.h"
#include "hsm_operators/attention/group-inl.h"
#include "hsm_operators/attention/softmax-inl.h"
#include "hsm_operators/common/cpu/gemm-inl.h"
#include "hsm_operators/common/cpu/partial-inl.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/common/cpu/simd-inl.h"
#include "hsm_operators/common/cpu/stream-inl.h"
#include "hsm_operators/common/cpu/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Queries of a key head up to which this way is quicker, and keys that are looked at together; measured.
inline constexpr std::size_t kFewRows = 6;
inline constexpr std::size_t kStepKeys = 64;

// Returns a quarter of a vector: the sums of four vectors' numbers.
HWY_INLINE hn::Vec<hn::FixedTag<float, 4>> four_sums(FloatVec a, FloatVec b, FloatVec c, FloatVec d) {
  const FloatTag tag;
  const hn::FixedTag<float, 4> quad;
  const hn::Repartition<std::uint64_t, FloatTag> pairs;
  const FloatVec ab = hn::Add(hn::InterleaveLower(tag, a, b), hn::InterleaveUpper(tag, a, b));
  const FloatVec cd = hn::Add(hn::InterleaveLower(tag, c, d), hn::InterleaveUpper(tag, c, d));
  const auto lower = hn::InterleaveLower(pairs, hn::BitCast(pairs, ab), hn::BitCast(pairs, cd));
  const auto upper = hn::InterleaveUpper(pairs, hn::BitCast(pairs, ab), hn::BitCast(pairs, cd));
  const FloatVec sums = hn::Add(hn::BitCast(tag, lower), hn::BitCast(tag, upper));
  constexpr std::size_t kBlocks = HWY_MAX_LANES_D(FloatTag) / 4;
  if constexpr (kBlocks == 1) {
    return hn::ResizeBitCast(quad, sums);
  } else if constexpr (kBlocks == 2) {
    return hn::Add(hn::ExtractBlock<0>(sums), hn::ExtractBlock<1>(sums));
  } else {
    return hn::Add(hn::Add(hn::ExtractBlock<0>(sums), hn::ExtractBlock<1>(sums)),
                   hn::Add(hn::ExtractBlock<2>(sums), hn::ExtractBlock<3>(sums)));
  }
}

// Writes the products of a query (zero up to a whole vector) with `count` keys, at least up to the next multiple of 4.
template <typename T>
void dot_keys(const float* HWY_RESTRICT query, const T* keys, std::size_t stride, std::size_t count, std::size_t dim,
              float* HWY_RESTRICT scores) {
  const FloatTag tag;
  const hn::FixedTag<float, 4> quad;
  const std::size_t lanes = hn::Lanes(tag), whole = dim / lanes * lanes;
  for (std::size_t j = 0; j < count; j += 4) {
    const T* row[4];
    for (std::size_t n = 0; n < 4; ++n) row[n] = keys + std::min(j + n, count - 1) * stride;
    FloatVec sum[4] = {hn::Zero(tag), hn::Zero(tag), hn::Zero(tag), hn::Zero(tag)};
    for (std::size_t i = 0; i < whole; i += lanes) {
      const FloatVec q = hn::LoadU(tag, query + i);
      for (std::size_t n = 0; n < 4; ++n) sum[n] = hn::MulAdd(q, load_floats(tag, row[n] + i), sum[n]);
    }
    if (whole < dim) {
      const FloatVec q = hn::LoadU(tag, query + whole);
      for (std::size_t n = 0; n < 4; ++n) sum[n] = hn::MulAdd(q, load_first(row[n] + whole, dim - whole), sum[n]);
    }
    hn::StoreU(four_sums(sum[0], sum[1], sum[2], sum[3]), quad, scores + j);
  }
}

// Adds the products of a query, of a head of the group's, with the keys of the distances of `count` positions from
// `position` on, to their scores. `room` holds kStepKeys floats and 3 more.
template <typename T>
void add_relatives(const AttentionGroup<T>& group, std::size_t row, std::size_t head, std::int64_t position,
                   std::size_t count, const float* query, float* room, float* scores) {
  std::int64_t distance = group.position(row) - position;
  const auto stride = static_cast<std::size_t>(std::abs(group.relative_step));
  while (count > 0) {
    // Those from the call's own distances on, and then the others.
    std::size_t here = count;
    if (distance >= group.new_distance) {
      here = std::min(here, static_cast<std::size_t>(distance - group.new_distance + 1));
    }
    // Distances fall as positions rise.
    const bool falling = group.relative_step < 0;
    const std::int64_t last = distance - static_cast<std::int64_t>(here) + 1;
    dot_keys(query, group.relative(falling ? distance : last) + head * group.dim, stride, here, group.dim, room);
    for (std::size_t i = 0; i < here; ++i) scores[i] += room[falling ? i : here - 1 - i];
    scores += here, count -= here, distance = last - 1;
  }
}

// What the queries of all heads of a row need. Partial results are summed elsewhere.
struct StepScratch {
  StepScratch(std::size_t rows, std::size_t dim, std::size_t columns)
      : dim_columns(round_up(dim, hn::Lanes(FloatTag()))),
        buffers({rows * dim_columns, kFewRows * kStepKeys, kFewRows * columns, kStepKeys * columns, kStepKeys + 3}) {}

  std::size_t dim_columns;
  cpu::ScratchBuffers<5> buffers;
  float* queries = buffers[0];  // (rows, dim_columns), scaled
  float* scores = buffers[1];   // (rows of a group, kStepKeys)
  float* added = buffers[2];    // (rows of a group, columns)
  float* values = buffers[3];   // (kStepKeys, columns), where they are too narrow to be read in place
  float* room = buffers[4];     // kStepKeys and 3 more
};

// Adds the keys [begin, end) of a piece, at most kStepKeys, to what the rows of group `index` have seen. `group` is the
// row's first one.
template <typename T>
void attend_keys(const AttentionGroup<T>& group, std::size_t index, const AttentionPiece<T>& piece, KeyRange keys,
                 const float* queries, std::size_t columns, const StepScratch& s, AttentionSeen* seen, float* y) {
  const FloatTag tag;
  const std::size_t count = keys.end - keys.begin, rows = group.rows();
  const std::size_t padded = round_up(count, hn::Lanes(tag));
  const float* weights[kFewRows];
  float factors[kFewRows];
  for (std::size_t r = 0; r < rows; ++r) {
    float* scores = s.scores + r * kStepKeys;
    dot_keys(queries + r * s.dim_columns, piece.k + keys.begin * group.k_stride, group.k_stride, count, group.dim,
             scores);
    const KeyRange own = group.visible(piece, r);
    const auto inside = [&](std::size_t key) { return std::clamp(key, keys.begin, keys.end) - keys.begin; };
    const std::size_t begin = inside(own.begin), end = inside(own.end);
    if (group.is_relative() && begin < end) {
      add_relatives(group, r, index * group.shared + r % group.shared,
                    piece.first + static_cast<std::int64_t>(keys.begin + begin), end - begin,
                    queries + r * s.dim_columns, s.room, scores + begin);
    }
    hide_scores(scores, padded, begin, end);
    weigh_rows<1>(scores, kStepKeys, padded, seen + r, factors + r);
    weights[r] = scores;
  }
  const T* values = piece.v + keys.begin * group.v_stride;
  if (group.value_dim >= hn::Lanes(tag)) {
    const StridedColumns<T> all{values, group.v_stride};
    stream(RowPointers{weights}, rows, all, group.value_dim, count, s.added, columns);
  } else {
    pack_rows(values, group.v_stride, count, group.value_dim, columns, s.values);
    gemm(RowPointers{weights}, rows, s.values, columns, columns, count, Product{s.added, columns, false});
  }
  for (std::size_t r = 0; r < rows; ++r) {
    const FloatVec factor = hn::Set(tag, factors[r]);
    for (std::size_t i = 0; i < columns; i += hn::Lanes(tag)) {
      float* to = y + r * columns + i;
      hn::StoreU(hn::MulAdd(hn::LoadU(tag, to), factor, hn::LoadU(tag, s.added + r * columns + i)), tag, to);
    }
  }
}

// One part of a row's keys: those whose numbers in the order of positions are [begin, end), for the queries of all
// heads. Writes what they saw to `seen` and their weighted sums to `y` (heads' rows, columns).
template <typename T>
void attend_part(const AttentionArgs& args, std::int64_t row, std::size_t begin, std::size_t end, AttentionSeen* seen,
                 float* y) {
  const auto groups = static_cast<std::size_t>(args.key_heads);
  const AttentionGroup<T> first(args, row, 0);
  const std::size_t rows = first.rows(), columns = round_up(first.value_dim, hn::Lanes(FloatTag()));
  const StepScratch s(groups * rows, first.dim, columns);
  std::fill_n(y, groups * rows * columns, 0.0f);
  std::fill_n(seen, groups * rows, AttentionSeen{});
  std::fill_n(s.queries, groups * rows * s.dim_columns, 0.0f);
  std::fill_n(s.added, kFewRows * columns, 0.0f);
  for (std::size_t g = 0; g < groups; ++g) {
    const AttentionGroup<T> group(args, row, static_cast<std::int64_t>(g));
    for (std::size_t r = 0; r < rows; ++r) {
      float* query = s.queries + (g * rows + r) * s.dim_columns;
      to_floats(group.query(r), group.dim, query);
      for (std::size_t i = 0; i < group.dim; ++i) query[i] *= group.scale;
    }
  }
  std::size_t before = 0;  // keys of earlier pieces
  for (std::size_t p = 0; p < first.used; ++p) {
    const AttentionPiece<T>& whole = first.pieces[p];
    const KeyRange seen_keys = first.visible(whole, 0, rows);
    const auto count = static_cast<std::size_t>(whole.count);
    const std::size_t from = std::max(seen_keys.begin, std::clamp(begin, before, before + count) - before);
    const std::size_t to = std::min(seen_keys.end, std::clamp(end, before, before + count) - before);
    for (std::size_t at = from; at < to; at += kStepKeys) {
      for (std::size_t g = 0; g < groups; ++g) {
        const AttentionPiece<T> piece{whole.k + g * first.dim, whole.v + g * first.value_dim, whole.first, whole.count};
        attend_keys(first, g, piece, {at, std::min(at + kStepKeys, to)}, s.queries + g * rows * s.dim_columns, columns,
                    s, seen + g * rows, y + g * rows * columns);
      }
    }
    before += count;
  }
}

// Adds what the queries saw in another part.
inline void add_part(std::size_t rows, std::size_t columns, const AttentionSeen* other_seen, const float* other,
                     AttentionSeen* seen, float* y) {
  const FloatTag tag;
  for (std::size_t r = 0; r < rows; ++r) {
    const AttentionSeen& from = other_seen[r];
    if (from.total == 0.0f) continue;
    const float most = std::max(seen[r].most, from.most);
    const float own = seen[r].total == 0.0f ? 0.0f : power_of_2(seen[r].most - most);
    const float added = power_of_2(from.most - most);
    seen[r] = {most, seen[r].total * own + from.total * added};
    for (std::size_t i = 0; i < columns; i += hn::Lanes(tag)) {
      float* to = y + r * columns + i;
      const FloatVec more = hn::Mul(hn::LoadU(tag, other + r * columns + i), hn::Set(tag, added));
      hn::StoreU(hn::MulAdd(hn::LoadU(tag, to), hn::Set(tag, own), more), tag, to);
    }
  }
}

// Writes the results of a row's queries, of all heads.
template <typename T>
void write_results(const AttentionArgs& args, std::int64_t row, std::size_t columns, const AttentionSeen* seen,
                   float* y) {
  for (std::int64_t g = 0; g < args.key_heads; ++g) {
    const AttentionGroup<T> group(args, row, g);
    for (std::size_t r = 0; r < group.rows(); ++r) {
      const std::size_t at = static_cast<std::size_t>(g) * group.rows() + r;
      write_result(y + at * columns, columns, group.value_dim, seen[at], group.result(r));
    }
  }
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_ATTENTION_STEP_INL_H_
