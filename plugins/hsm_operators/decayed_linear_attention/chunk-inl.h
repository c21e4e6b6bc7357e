// Many tokens, chunk by chunk: products of matrices inside a chunk, the state across chunks.
//
// A chunk is short, because on a CPU its scores cost as much for each token as they are tokens, and the state, which
// costs the same for any chunk, stays in cache. Decays are multiplied one after another; nothing is divided by them.
#if defined(HSM_DECAYED_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HSM_DECAYED_CHUNK_INL_H_
#undef HSM_DECAYED_CHUNK_INL_H_
#else
#define HSM_DECAYED_CHUNK_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "hwy/highway.h"
#include "hsm_operators/common/cpu/gemm-inl.h"
#include "hsm_operators/common/cpu/scratch.h"
#include "hsm_operators/decayed_linear_attention/head-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

// Tokens of a chunk: a multiple of every vector length.
inline constexpr std::size_t kChunk = 16;
inline constexpr std::size_t kChunkVectors = kChunk / HWY_MAX_LANES_D(FloatTag);
// Accumulators of scores that leave room for keys and broadcasts.
inline constexpr std::size_t kScoreAccumulators = kAccumulators * 2 / 3;

// Tiles of one head and `columns` of its value width. The delta rule writes two pairs a token: (k,v) and (b,u), where u
// is what a reads. Keys of a chunk lie beside each other, (K, pairs·kChunk), values below each other.
struct ChunkScratch {
  ChunkScratch(std::size_t key_dim, std::size_t rows, std::size_t columns, bool delta)
      : buffers({rows * kChunk, rows * kChunk, rows * kChunk, rows, key_dim * pairs(delta) * kChunk,
                 kChunk * pairs(delta) * kChunk, pairs(delta) * kChunk * columns, kChunk * columns, key_dim * columns,
                 kTransposed * rows, delta ? rows * kChunk : 0, delta ? rows * kChunk : 0,
                 delta ? kChunk * pairs(delta) * kChunk : 0}) {}

  static constexpr std::size_t pairs(bool delta) { return delta ? 2 : 1; }

  cpu::ScratchBuffers<13> buffers;
  float* decays = buffers[0];      // (kChunk, rows)
  float* queries = buffers[1];     // (kChunk, rows), where the tensor's own rows will not do
  float* q_start = buffers[2];     // (kChunk, rows), queries that the decays since the chunk's start have multiplied
  float* whole = buffers[3];       // (rows), the whole chunk's decays
  float* keys = buffers[4];        // (K, pairs·kChunk), at last decayed to the end of the chunk
  float* scores = buffers[5];      // (kChunk, pairs·kChunk)
  float* values = buffers[6];      // (pairs·kChunk, columns)
  float* y = buffers[7];           // (kChunk, columns)
  float* state = buffers[8];       // (K, columns)
  float* transposed = buffers[9];  // rows on their way into keys
  float* readers = buffers[10];    // as queries, for a
  float* a_start = buffers[11];    // as q_start, for a
  float* a_scores = buffers[12];   // as scores, for a
};

// C = diag(factors) C + A B.
struct DecayedProduct {
  float* data;
  std::size_t stride;
  const float* factors;

  HWY_INLINE void put(std::size_t m, std::size_t column, FloatVec sum) const {
    const FloatTag tag;
    float* to = data + m * stride + column;
    hn::StoreU(hn::MulAdd(hn::Set(tag, factors[m]), hn::LoadU(tag, to), sum), tag, to);
  }
  HWY_INLINE DecayedProduct from(std::size_t m, std::size_t column) const {
    return {data + m * stride + column, stride, factors + m};
  }
};

// Rows of a chunk's queries, and of a if there is a delta rule.
struct ChunkQueries {
  RowMajor q;
  RowMajor a;
  bool exclusive;
};

// Multiplies each query by the decays from the chunk's start to what it reads: the state after its token, or before it
// (a, and q if exclusive).
template <bool kDelta>
void decay_queries(std::size_t tokens, std::size_t rows, const ChunkQueries& queries, const ChunkScratch& s) {
  const FloatTag tag;
  const auto& [q, a, exclusive] = queries;
  for (std::size_t i = 0; i < rows; i += hn::Lanes(tag)) {
    FloatVec product = hn::Set(tag, 1.0f);
    for (std::size_t t = 0; t < tokens; ++t) {
      const FloatVec before = product;
      product = hn::Mul(product, hn::LoadU(tag, s.decays + t * rows + i));
      const FloatVec query = hn::LoadU(tag, q.data + t * q.stride + i);
      hn::StoreU(hn::Mul(query, exclusive ? before : product), tag, s.q_start + t * rows + i);
      if constexpr (kDelta) {
        hn::StoreU(hn::Mul(hn::LoadU(tag, a.data + t * a.stride + i), before), tag, s.a_start + t * rows + i);
      }
    }
    hn::StoreU(product, tag, s.whole + i);
  }
}

// Scores of kTokens tokens from `first` on against the keys before them, and their own unless they are exclusive. Lane
// j holds key j, which is multiplied by the decay of each token after it, so that at the end of the chunk all keys have
// decayed to there.
template <std::size_t kTokens, bool kExclusive, bool kDelta>
HWY_NOINLINE void score_tokens(std::size_t first, std::size_t tokens, std::size_t key_dim, std::size_t rows,
                               const ChunkQueries& queries, const float* HWY_RESTRICT decays, float* HWY_RESTRICT keys,
                               float* HWY_RESTRICT scores, float* HWY_RESTRICT a_scores, std::size_t stride) {
  const FloatTag tag;
  const std::size_t lanes = hn::Lanes(tag);
  const auto lane = [&](std::size_t v) HWY_ATTR { return hn::Iota(tag, static_cast<float>(v * lanes)); };
  const float* q[kTokens];
  const float* a[kTokens];
  FloatVec sum[kTokens][kChunkVectors];
  FloatVec read[kTokens][kChunkVectors];
  for (std::size_t t = 0; t < kTokens; ++t) {
    // Tokens that do not exist repeat the last one; nobody reads their scores.
    const std::size_t row = std::min(first + t, tokens - 1);
    q[t] = queries.q.data + row * queries.q.stride;
    if constexpr (kDelta) a[t] = queries.a.data + row * queries.a.stride;
    for (std::size_t v = 0; v < kChunkVectors; ++v) sum[t][v] = read[t][v] = hn::Zero(tag);
  }
  for (std::size_t i = 0; i < key_dim; ++i) {
    FloatVec key[kChunkVectors];
    for (std::size_t v = 0; v < kChunkVectors; ++v) key[v] = hn::LoadU(tag, keys + i * stride + v * lanes);
    for (std::size_t t = 0; t < kTokens; ++t) {
      const FloatVec decay = hn::Set(tag, decays[(first + t) * rows + i]);
      const FloatVec query = hn::Set(tag, q[t][i]);
      const FloatVec token = hn::Set(tag, static_cast<float>(first + t));
      for (std::size_t v = 0; v < kChunkVectors; ++v) {
        if constexpr (kDelta) read[t][v] = hn::MulAdd(hn::Set(tag, a[t][i]), key[v], read[t][v]);
        if constexpr (kExclusive) sum[t][v] = hn::MulAdd(query, key[v], sum[t][v]);
        key[v] = hn::MaskedMulOr(key[v], hn::Lt(lane(v), token), key[v], decay);
        if constexpr (!kExclusive) sum[t][v] = hn::MulAdd(query, key[v], sum[t][v]);
      }
    }
    for (std::size_t v = 0; v < kChunkVectors; ++v) hn::StoreU(key[v], tag, keys + i * stride + v * lanes);
  }
  // Keys that no token had reached yet were not their own yet.
  for (std::size_t t = 0; t < kTokens; ++t) {
    const FloatVec token = hn::Set(tag, static_cast<float>(first + t));
    for (std::size_t v = 0; v < kChunkVectors; ++v) {
      const auto seen = kExclusive ? hn::Lt(lane(v), token) : hn::Le(lane(v), token);
      hn::StoreU(hn::IfThenElseZero(seen, sum[t][v]), tag, scores + (first + t) * stride + v * lanes);
      if constexpr (kDelta) {
        const FloatVec before = hn::IfThenElseZero(hn::Lt(lane(v), token), read[t][v]);
        hn::StoreU(before, tag, a_scores + (first + t) * stride + v * lanes);
      }
    }
  }
}

// Scores of a chunk against one of its kinds of keys, which are decayed to the end of the chunk.
template <bool kDelta>
void score(std::size_t tokens, std::size_t key_dim, std::size_t rows, const ChunkQueries& queries, const float* decays,
           float* keys, float* scores, float* a_scores, std::size_t stride) {
  constexpr std::size_t kTokens =
      std::clamp<std::size_t>(kScoreAccumulators / (kChunkVectors * (kDelta ? 2 : 1)), 1, kChunk);
  static_assert(kChunk % kTokens == 0);
  for (std::size_t first = 0; first < tokens; first += kTokens) {
    if (queries.exclusive) {
      score_tokens<kTokens, true, kDelta>(first, tokens, key_dim, rows, queries, decays, keys, scores, a_scores,
                                          stride);
    } else {
      score_tokens<kTokens, false, kDelta>(first, tokens, key_dim, rows, queries, decays, keys, scores, a_scores,
                                           stride);
    }
  }
}

// Adds to each row of u the scores of the rows before it times them, from the first on.
inline void substitute(std::size_t tokens, const float* scores, std::size_t stride, std::size_t columns, float* u) {
  const FloatTag tag;
  for (std::size_t t = 1; t < tokens; ++t) {
    for (std::size_t i = 0; i < columns; i += hn::Lanes(tag)) {
      FloatVec sum = hn::Zero(tag);
      for (std::size_t j = 0; j < t; ++j) {
        sum = hn::MulAdd(hn::Set(tag, scores[t * stride + j]), hn::LoadU(tag, u + j * columns + i), sum);
      }
      hn::StoreU(hn::Add(hn::LoadU(tag, u + t * columns + i), sum), tag, u + t * columns + i);
    }
  }
}

// Reads `tokens` rows of keys as columns, zero beyond them.
template <typename T>
void pack_keys(const T* from, std::size_t stride, std::size_t tokens, std::size_t dim, float* rows, float* keys,
               std::size_t key_stride) {
  for (std::size_t i = 0; i < dim && tokens < kChunk; ++i) std::fill_n(keys + i * key_stride, kChunk, 0.0f);
  std::size_t t = 0;
  for (; t + kTransposed <= tokens; t += kTransposed) {
    if constexpr (std::is_same_v<T, float>) {
      transpose_rows(from + t * stride, stride, dim, keys + t, key_stride);
    } else {
      for (std::size_t j = 0; j < kTransposed; ++j) to_floats(from + (t + j) * stride, dim, rows + j * dim);
      transpose_rows(rows, dim, dim, keys + t, key_stride);
    }
  }
  for (; t < tokens; ++t) {
    to_floats(from + t * stride, dim, rows);
    for (std::size_t i = 0; i < dim; ++i) keys[i * key_stride + t] = rows[i];
  }
}

// One chunk: columns of y, and the state after it. `v` is the first of `width` columns of the first token's values.
template <bool kDelta, typename T>
void scan_chunk(const DecayedHead<T>& head, std::size_t first, std::size_t tokens, std::size_t rows, const T* v,
                std::size_t width, std::size_t columns, const ChunkScratch& s) {
  constexpr std::size_t kStride = ChunkScratch::pairs(kDelta) * kChunk;
  const std::size_t dim = head.key_dim, stride = head.key_stride(), at = first * stride;
  prefetch_tokens(head, first + tokens, kChunk);
  ChunkQueries queries{float_rows(head.q + at, stride, tokens, dim, rows, s.queries), {}, head.exclusive};
  if constexpr (kDelta) queries.a = float_rows(head.a + at, stride, tokens, dim, rows, s.readers);
  decay_rows(head, first, tokens, rows, s.decays);
  std::fill(s.decays + tokens * rows, s.decays + kChunk * rows, 1.0f);
  decay_queries<kDelta>(tokens, rows, queries, s);

  pack_keys(head.k + at, stride, tokens, dim, s.transposed, s.keys, kStride);
  score<kDelta>(tokens, dim, rows, queries, s.decays, s.keys, s.scores, s.a_scores, kStride);
  RowMajor values{s.values, columns};
  std::size_t written = tokens;
  if constexpr (kDelta) {
    pack_rows(v, head.value_stride(), tokens, width, columns, s.values);
    std::fill(s.values + tokens * columns, s.values + kChunk * columns, 0.0f);
    pack_keys(head.b + at, stride, tokens, dim, s.transposed, s.keys + kChunk, kStride);
    score<kDelta>(tokens, dim, rows, queries, s.decays, s.keys + kChunk, s.scores + kChunk, s.a_scores + kChunk,
                  kStride);
    float* u = s.values + kChunk * columns;
    gemm(RowMajor{s.a_start, rows}, tokens, s.state, columns, columns, dim, Product{u, columns, false});
    gemm(RowMajor{s.a_scores, kStride}, tokens, values.data, columns, columns, tokens, Product{u, columns, true});
    substitute(tokens, s.a_scores + kChunk, kStride, columns, u);
    written = kChunk + tokens;
  } else {
    values = float_rows(v, head.value_stride(), tokens, width, columns, s.values);
  }
  gemm(RowMajor{s.q_start, rows}, tokens, s.state, columns, columns, dim, Product{s.y, columns, false});
  gemm(RowMajor{s.scores, kStride}, tokens, values.data, values.stride, columns, written, Product{s.y, columns, true});
  gemm(RowMajor{s.keys, kStride}, dim, values.data, values.stride, columns, written,
       DecayedProduct{s.state, columns, s.whole});
}

// All tokens of a head, for the columns [begin, end) of its values.
template <bool kDelta, typename T>
void scan_chunks(const DecayedHead<T>& head, std::size_t begin, std::size_t end) {
  const std::size_t lanes = hn::Lanes(FloatTag()), width = end - begin;
  const std::size_t rows = round_up(head.key_dim, lanes), columns = round_up(width, lanes);
  ChunkScratch s(head.key_dim, rows, columns, kDelta);
  pack_rows(head.state + begin, head.value_dim, head.key_dim, width, columns, s.state);
  for (std::size_t first = 0; first < head.length; first += kChunk) {
    const std::size_t tokens = std::min(kChunk, head.length - first);
    const std::size_t at = first * head.value_stride() + begin;
    scan_chunk<kDelta>(head, first, tokens, rows, head.v + at, width, columns, s);
    for (std::size_t t = 0; t < tokens; ++t) {
      from_floats(s.y + t * columns, width, head.y + at + t * head.value_stride());
    }
  }
  for (std::size_t i = 0; i < head.key_dim; ++i) {
    std::copy_n(s.state + i * columns, width, head.state_out + i * head.value_dim + begin);
  }
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HSM_DECAYED_CHUNK_INL_H_
