// The parts of kernels that multiply the rows of one expert by a tile of its matrix: chunks of both in shared memory,
// and their products.
#pragma once

#include <cstdint>

#include "hsm_operators/common/cuda/element.cuh"
#include "hsm_operators/common/cuda/mma.cuh"

namespace hsm::cuda {

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

// Copies a vector from `row` at `start`, and zeros for what lies from `end` on. Aligned rows start at multiples of 16
// bytes and are whole vectors long.
template <typename T>
__device__ __forceinline__ void copy_vector(T* to, const T* row, int start, int end, bool aligned) {
  const int count = min(max(end - start, 0), Vector<T>::kSize);
  if (aligned) {
    cp_async_16(to, count > 0 ? row + start : row, count * static_cast<int>(sizeof(T)));
    return;
  }
  for (int i = 0; i < Vector<T>::kSize; ++i) to[i] = i < count ? row[start + i] : from_float<T>(0.0f);
}

// One chunk of the columns, from `first` on, of `count` rows of x: row_of(i) points at row i.
template <typename T, int kTokens, typename RowOf>
__device__ __forceinline__ void load_rows(typename ExpertTile<T, kTokens>::Chunk& chunk, int count, RowOf row_of,
                                          int first, int inputs, bool aligned) {
  using Tile = ExpertTile<T, kTokens>;
  constexpr int kVectors = Tile::kDepth / Tile::kVector;
  for (int i = static_cast<int>(threadIdx.x); i < count * kVectors; i += Tile::kThreads) {
    const int row = i / kVectors;
    const int column = i % kVectors * Tile::kVector;
    copy_vector(chunk.x + row * Tile::kStrideX + column, row_of(row), first + column, inputs, aligned);
  }
}

// One chunk of the rows, from `first` on, of a matrix (inputs,outputs), and a tile of its columns.
template <typename T, int kTokens>
__device__ __forceinline__ void load_weights(typename ExpertTile<T, kTokens>::Chunk& chunk, const T* matrix, int first,
                                             int inputs, int first_column, int outputs, bool aligned) {
  using Tile = ExpertTile<T, kTokens>;
  constexpr int kVectors = Tile::kColumns / Tile::kVector;
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kDepth * kVectors; i += Tile::kThreads) {
    const int row = i / kVectors;
    const int column = i % kVectors * Tile::kVector;
    const int k = first + row;
    copy_vector(chunk.w + row * Tile::kStrideW + column,
                matrix + static_cast<std::int64_t>(min(k, inputs - 1)) * outputs, first_column + column,
                k < inputs ? outputs : 0, aligned);
  }
}

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

}  // namespace hsm::cuda
