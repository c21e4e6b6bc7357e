// Kernels of ExpertMatMul and ExpertMatMulSum: a tile of tokens against all experts. N = B·T tokens, D×f the matrix of
// an expert, e bytes to an element, M tokens to a tile:
//
//   flops  2·N·H·k·D·f for the chosen experts; groups of tokens are rounded up to 16, so with M·k/E tokens to a group
//          about 1 + 8·E/(M·k) of that is multiplied
//   bytes  DRAM: e·(N·D + H·E·D·f + N·H·f) + 4·N·H·E, everything once; from L2, where neighbouring tiles share the
//          weights, e·⌈N/M⌉·H·E·D·f
//   bound  tensor cores, when N is large: k·M/E flops per byte of weights from L2, 32 for k/E = 1/4 and M = 128
//
// A block owns M tokens and 64 output columns (of one head, or of all heads in the sum form). It walks over heads and
// experts; for each expert it makes the list of its tokens that chose it, gathers their rows of x, multiplies them by
// the expert's matrix and adds the gated products to its sums in shared memory, always in the same order. Lists and
// chunks of rows and weights are prepared three chunks ahead, across experts. Nothing is sorted or written between
// global memories.
#pragma once

#include <cstdint>

#include "hsm_operators/common/cuda/element.cuh"
#include "hsm_operators/common/cuda/mma.cuh"
#include "hsm_operators/expert_matmul/expert_routing.cuh"
#include "hsm_operators/expert_matmul/expert_tile.cuh"

namespace hsm::cuda {

// Both forms; strides are in elements.
template <typename T>
struct ExpertMatMulParameters {
  const T* x;
  const float* logits;
  const T* weight;
  T* y;
  std::int64_t tokens;
  std::int64_t x_token, x_head;  // from one token or head to the next
  std::int64_t y_token, y_head;
  int heads;
  int heads_per_block;  // 1, or all of them in the sum form
  int experts;
  int inputs;
  int outputs;
  int active;
  bool aligned;  // all rows of x and of the weights start at multiples of 16 bytes
};

// Makes lists and chunks, in the order in which they are multiplied. All threads of the block call it together.
template <typename T, int kTokens>
class ExpertProducer {
  using Tile = ExpertTile<T, kTokens>;

 public:
  __device__ ExpertProducer(const ExpertMatMulParameters<T>& parameters, typename Tile::Shared& shared,
                            std::int64_t first_token, int first_head, int first_column)
      : p_(parameters),
        shared_(shared),
        first_token_(first_token),
        first_column_(first_column),
        end_head_(first_head + parameters.heads_per_block),
        head_(first_head - 1),
        expert_(parameters.experts - 1),
        thread_(static_cast<int>(threadIdx.x)) {}

  // Makes the next chunk, if there is one, and closes a group of copies.
  __device__ void produce() {
    if (has_more_ && chunk_ == 0) has_more_ = next_list();
    if (has_more_) {
      typename Tile::Chunk& chunk = shared_.chunks[produced_ % Tile::kStages];
      load_x(chunk);
      load_matrix(chunk);
      ++produced_;
      chunk_ = chunk_ + 1 == chunks() ? 0 : chunk_ + 1;
    }
    cp_async_commit();
  }

  __device__ int produced() const { return produced_; }
  // Chunks of one expert.
  __device__ int chunks() const { return (p_.inputs + Tile::kDepth - 1) / Tile::kDepth; }

 private:
  // Finds the next expert that any token of the tile has chosen, and lists its tokens.
  __device__ bool next_list() {
    for (;;) {
      if (!next_expert()) return false;
      const float gate = is_token() ? gate_of(logits()[expert_], expert_, lowest_) : 0.0f;
      const bool chosen = gate != 0.0f;
      const unsigned votes = __ballot_sync(0xffffffffU, chosen);
      if (thread_ % 32 == 0) shared_.counts[thread_ / 32] = __popc(votes);
      const int total = __syncthreads_count(chosen);
      if (total == 0) continue;
      list_ = (list_ + 1) % Tile::kStages;
      write_list(shared_.lists[list_], chosen, votes, gate, total);
      __syncthreads();
      return true;
    }
  }

  __device__ bool next_expert() {
    if (++expert_ < p_.experts) return true;
    if (++head_ == end_head_) return false;
    expert_ = 0;
    if (is_token()) lowest_ = lowest_chosen(logits(), p_.experts, p_.active);
    return true;
  }

  __device__ void write_list(typename Tile::List& list, bool chosen, unsigned votes, float gate, int total) {
    if (thread_ == 0) list.count = total;
    if (!chosen) return;
    int place = __popc(votes & ((1U << thread_ % 32) - 1));
    for (int warp = 0; warp < thread_ / 32; ++warp) place += shared_.counts[warp];
    list.tokens[place] = thread_;
    list.gates[place] = gate;
  }

  // The rows of x of the listed tokens, one chunk of their columns.
  __device__ void load_x(typename Tile::Chunk& chunk) const {
    const typename Tile::List& list = shared_.lists[list_];
    const auto row = [&](int i) { return p_.x + (first_token_ + list.tokens[i]) * p_.x_token + head_ * p_.x_head; };
    load_rows<T, kTokens>(chunk, list.count, row, chunk_ * Tile::kDepth, p_.inputs, p_.aligned);
  }

  // One chunk of the rows of the expert's matrix.
  __device__ void load_matrix(typename Tile::Chunk& chunk) const {
    const std::int64_t matrix = (static_cast<std::int64_t>(head_) * p_.experts + expert_) * p_.inputs;
    load_weights<T, kTokens>(chunk, p_.weight + matrix * p_.outputs, chunk_ * Tile::kDepth, p_.inputs, first_column_,
                             p_.outputs, p_.aligned);
  }

  __device__ bool is_token() const { return thread_ < kTokens && first_token_ + thread_ < p_.tokens; }
  __device__ const float* logits() const {
    return p_.logits + ((first_token_ + thread_) * p_.heads + head_) * p_.experts;
  }

  const ExpertMatMulParameters<T>& p_;
  typename Tile::Shared& shared_;
  std::int64_t first_token_;
  int first_column_;
  int end_head_;
  int head_;
  int expert_;
  int thread_;  // also the token of the tile whose choices this thread knows
  Rank lowest_ = 0;
  int list_ = Tile::kStages - 1;
  int chunk_ = 0;
  int produced_ = 0;
  bool has_more_ = true;
};

// Writes the tile's sums as elements.
template <typename T, int kTokens>
__device__ __forceinline__ void store_tile(const ExpertMatMulParameters<T>& p, const float* sums,
                                           std::int64_t first_token, int head, int first_column) {
  using Tile = ExpertTile<T, kTokens>;
  constexpr int kVectors = Tile::kColumns / Tile::kVector;
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * kVectors; i += Tile::kThreads) {
    const std::int64_t token = first_token + i / kVectors;
    const int column = i % kVectors * Tile::kVector;
    if (token >= p.tokens) return;
    Vector<T> values;
#pragma unroll
    for (int j = 0; j < Tile::kVector; ++j) {
      values.values[j] = from_float<T>(sums[i / kVectors * Tile::kStrideY + column + j]);
    }
    store_vector(p.y + token * p.y_token + head * p.y_head + first_column + column, values,
                 p.outputs - first_column - column);
  }
}

// Grid: tiles of tokens, tiles of columns, heads (1 in the sum form).
template <typename T, int kTokens, template <typename, int> typename Product>
__global__ void __launch_bounds__(2 * kTokens, 256 / kTokens) expert_matmul_tile(const ExpertMatMulParameters<T> p) {
  using Tile = ExpertTile<T, kTokens>;
  HSM_DYNAMIC_SHARED(typename Tile::Shared, shared);
  const std::int64_t first_token = static_cast<std::int64_t>(blockIdx.x) * kTokens;
  const int first_column = static_cast<int>(blockIdx.y) * Tile::kColumns;
  const int first_head = static_cast<int>(blockIdx.z) * p.heads_per_block;
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * Tile::kStrideY; i += Tile::kThreads) shared->y[i] = 0.0f;

  ExpertProducer<T, kTokens> producer(p, *shared, first_token, first_head, first_column);
  for (int i = 0; i < Tile::kStages - 1; ++i) producer.produce();
  Product<T, kTokens> product;
  int list = 0;
  int chunk = 0;
  for (int consumed = 0; consumed < producer.produced(); ++consumed) {
    cp_async_wait<Tile::kStages - 2>();
    __syncthreads();  // the chunk is there, and the one before it is no longer read
    producer.produce();
    product.multiply(shared->chunks[consumed % Tile::kStages], shared->lists[list].count);
    if (++chunk < producer.chunks()) continue;
    product.add(shared->lists[list], shared->y);
    chunk = 0;
    list = (list + 1) % Tile::kStages;
  }
  __syncthreads();
  store_tile<T, kTokens>(p, shared->y, first_token, first_head, first_column);
}

}  // namespace hsm::cuda
