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
#include "hsm_operators/expert_matmul/expert_routing.cuh"
#include "hsm_operators/common/cuda/mma.cuh"

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

// Sizes of a tile of kTokens tokens.
template <typename T, int kTokens>
struct ExpertTile {
  static constexpr int kThreads = 2 * kTokens;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kColumns = 64;
  static constexpr int kVector = Vector<T>::kSize;
  static constexpr int kDepth = 4 * kVector;  // rows of a matrix in one chunk
  static constexpr int kStages = 4;           // chunks in shared memory
  // Rows are padded so that eight of them start in different banks.
  static constexpr int kStrideX = kDepth + kVector;
  static constexpr int kStrideW = kColumns + kVector;
  static constexpr int kStrideY = kColumns + 8;

  struct Chunk {
    alignas(16) T x[kTokens * kStrideX];
    alignas(16) T w[kDepth * kStrideW];
  };
  // The tokens of the tile that chose one expert, in ascending order.
  struct List {
    int count;
    int tokens[kTokens];
    float gates[kTokens];
  };
  struct Shared {
    Chunk chunks[kStages];
    List lists[kStages];
    float y[kTokens * kStrideY];
    int counts[kWarps];
  };
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
      load_weights(chunk);
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
    constexpr int kVectors = Tile::kDepth / Tile::kVector;
    for (int i = thread_; i < list.count * kVectors; i += Tile::kThreads) {
      const int row = i / kVectors;
      const int column = i % kVectors * Tile::kVector;
      const int k = chunk_ * Tile::kDepth + column;
      const std::int64_t token = first_token_ + list.tokens[row];
      copy(chunk.x + row * Tile::kStrideX + column, p_.x + token * p_.x_token + head_ * p_.x_head, k, p_.inputs);
    }
  }

  // One chunk of the rows of the expert's matrix.
  __device__ void load_weights(typename Tile::Chunk& chunk) const {
    const std::int64_t matrix = (static_cast<std::int64_t>(head_) * p_.experts + expert_) * p_.inputs;
    constexpr int kVectors = Tile::kColumns / Tile::kVector;
    for (int i = thread_; i < Tile::kDepth * kVectors; i += Tile::kThreads) {
      const int row = i / kVectors;
      const int column = i % kVectors * Tile::kVector;
      const int k = chunk_ * Tile::kDepth + row;
      copy(chunk.w + row * Tile::kStrideW + column, p_.weight + (matrix + min(k, p_.inputs - 1)) * p_.outputs,
           first_column_ + column, k < p_.inputs ? p_.outputs : 0);
    }
  }

  // Copies a vector from `row` at `start`, and zeros for what lies from `end` on.
  __device__ void copy(T* to, const T* row, int start, int end) const {
    const int count = min(max(end - start, 0), Tile::kVector);
    if (p_.aligned) {
      cp_async_16(to, count > 0 ? row + start : row, count * static_cast<int>(sizeof(T)));
      return;
    }
    for (int i = 0; i < Tile::kVector; ++i) to[i] = i < count ? row[start + i] : from_float<T>(0.0f);
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

// Products on tensor cores. A warp owns 16 columns and every (kWarps/4)-th 16 rows of the list.
template <typename T, int kTokens>
class TensorProduct {
  using Tile = ExpertTile<T, kTokens>;
  static constexpr int kParts = Tile::kWarps / 4;
  static constexpr int kRows = kTokens / 16 / kParts;

 public:
  __device__ TensorProduct()
      : lane_(static_cast<int>(threadIdx.x) % 32),
        column_(static_cast<int>(threadIdx.x) / 32 % 4 * 16),
        part_(static_cast<int>(threadIdx.x) / 128) {}

  __device__ void multiply(const typename Tile::Chunk& chunk, int count) {
#pragma unroll
    for (int k = 0; k < Tile::kDepth; k += 16) {
      std::uint32_t b[4];
      ldmatrix_x4_trans(b, chunk.w + (k + lane_ % 16) * Tile::kStrideW + column_ + lane_ / 16 * 8);
      const std::uint32_t left[2] = {b[0], b[1]};
      const std::uint32_t right[2] = {b[2], b[3]};
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (row(i) >= count) break;
        std::uint32_t a[4];
        ldmatrix_x4(a, chunk.x + (row(i) + lane_ % 16) * Tile::kStrideX + k + lane_ / 16 * 8);
        mma_m16n8k16<T>(sums_[i][0], a, left);
        mma_m16n8k16<T>(sums_[i][1], a, right);
      }
    }
  }

  // Adds the gated sums to the tokens' rows of y and starts anew.
  __device__ void add(const typename Tile::List& list, float* y) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (row(i) >= list.count) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int place = row(i) + half * 8 + lane_ / 4;
        if (place >= list.count) continue;
        const float gate = list.gates[place];
        float* at = y + list.tokens[place] * Tile::kStrideY + column_ + lane_ % 4 * 2;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          auto& pair = *reinterpret_cast<Vector<float, 2>*>(at + 8 * j);
          pair.values[0] += gate * sums_[i][j][2 * half];
          pair.values[1] += gate * sums_[i][j][2 * half + 1];
        }
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) sums_[i][j / 4][j % 4] = 0.0f;
    }
  }

 private:
  __device__ int row(int i) const { return (i * kParts + part_) * 16; }

  int lane_;
  int column_;
  int part_;
  float sums_[kRows][2][4] = {};
};

// Products in float32. A warp owns every kWarps-th row of the list, a lane two columns.
template <typename T, int kTokens>
class SimtProduct {
  using Tile = ExpertTile<T, kTokens>;
  static constexpr int kRows = kTokens / Tile::kWarps;
  static constexpr int kBlock = 4;  // rows and depth that are loaded together

 public:
  __device__ SimtProduct()
      : warp_(static_cast<int>(threadIdx.x) / 32), column_(static_cast<int>(threadIdx.x) % 32 * 2) {}

  __device__ void multiply(const typename Tile::Chunk& chunk, int count) {
    for (int k = 0; k < Tile::kDepth; k += kBlock) {
      float w[kBlock][2];
#pragma unroll
      for (int j = 0; j < kBlock; ++j) {
        const auto pair = *reinterpret_cast<const Vector<T, 2>*>(chunk.w + (k + j) * Tile::kStrideW + column_);
        w[j][0] = to_float(pair.values[0]);
        w[j][1] = to_float(pair.values[1]);
      }
#pragma unroll
      for (int i = 0; i < kRows; i += kBlock) {
        if (row(i) >= count) break;
#pragma unroll
        for (int r = i; r < i + kBlock; ++r) {
          const auto x = *reinterpret_cast<const Vector<T, kBlock>*>(chunk.x + row(r) * Tile::kStrideX + k);
#pragma unroll
          for (int j = 0; j < kBlock; ++j) {
            sums_[r][0] = fmaf(to_float(x.values[j]), w[j][0], sums_[r][0]);
            sums_[r][1] = fmaf(to_float(x.values[j]), w[j][1], sums_[r][1]);
          }
        }
      }
    }
  }

  __device__ void add(const typename Tile::List& list, float* y) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (row(i) < list.count) {
        const float gate = list.gates[row(i)];
        auto& pair = *reinterpret_cast<Vector<float, 2>*>(y + list.tokens[row(i)] * Tile::kStrideY + column_);
        pair.values[0] += gate * sums_[i][0];
        pair.values[1] += gate * sums_[i][1];
      }
      sums_[i][0] = sums_[i][1] = 0.0f;
    }
  }

 private:
  __device__ int row(int i) const { return i * Tile::kWarps + warp_; }

  int warp_;
  int column_;
  float sums_[kRows][2] = {};
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
