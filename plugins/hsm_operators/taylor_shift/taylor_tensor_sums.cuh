// Queries times sums on tensor cores: what `attend` does where a slot holds sums. taylor_tensor.cuh says what is
// rounded where.
//
// A step is 16 features of one distance: x_i x_((i+delta) mod d) for 16 neighbouring i. A thread has four neighbouring
// i of each of its queries, so that from one delta to the next three of its four second factors stay, and it loads one.
// Which feature stands where among the 16 of a product is free as long as both operands agree: `row_of_lane` says it.
#pragma once

#include <cstdint>

#include "hsm_operators/taylor_shift/taylor_tensor.cuh"

namespace hsm::cuda {

// Copies the rows of a slot that attend multiplies, in the order of the steps: the linear features, then for each 16
// coordinates the quadratic ones from delta = 0 on. Features are counted as in the slot: of distance p - 1 (p = 0:
// linear) and coordinate i it is 1 + p·d + i. Rows of coordinates beyond the last are those of other features: their
// factors are zero. Columns beyond the last hold anything, and nobody reads their results.
template <int kColumns>
class SumsProducer {
  using Tile = TensorTile<kColumns>;
  static constexpr int kChunks = kColumns / 8;
  static constexpr int kPass = Tile::kThreads / kChunks;  // rows that the block copies at once
  static constexpr int kStage = Tile::kRows * Tile::kStride;

 public:
  __device__ SumsProducer(const float* slot, int width, int dim, int features, __half* stages)
      : width_(width), dim_(dim), features_(features), limit_(1 + dim) {
    const int column = static_cast<int>(threadIdx.x) % kChunks * 8;
    row_ = static_cast<int>(threadIdx.x) / kChunks;
    from_ = slot + column / 2;
    begin_ = to_ = stages + row_ * Tile::kStride + column;
    leads_ = column == 0;
  }

  // Copies the next stage, and closes a group of copies. Once all are under way, it copies what nobody reads.
  __device__ __forceinline__ void produce() {
#pragma unroll
    for (int pass = 0; pass < Tile::kRows / kPass; ++pass) {
      const int row = row_ + pass * kPass;  // of the stage: 16 of a step
      const int feature = feature_ + row % 16 + row / 16 * step_;
      const int bytes = feature < features_ ? 16 : 0;
      const float* const from = from_ + static_cast<std::int64_t>(feature) * width_;
      __half* const to = to_ + pass * kPass * Tile::kStride;
      cp_async_16(to, from, bytes);
      // The row's normaliser follows its numbers, here and there.
      if (leads_) cp_async_16(to + kColumns, from + width_ / 2, bytes);
    }
    cp_async_commit();
    to_ = to_ == begin_ + (Tile::kStages - 1) * kStage ? begin_ : to_ + kStage;
    feature_ += Tile::kSteps * step_;
    if (feature_ < limit_) return;
    // The next 16 coordinates.
    coordinate_ += 16;
    feature_ = 1 + dim_ + coordinate_;
    step_ = dim_;
    limit_ = features_;
  }

 private:
  const float* from_;  // this thread's column of row 0
  __half* begin_;      // where this thread copies to, in the first stage
  __half* to_;         // and in the next one
  int row_;            // of the first pass
  bool leads_;         // has the row's first column
  int width_;
  int dim_;
  int features_;
  int limit_;
  int step_ = 16;  // features from one step to the next
  int feature_ = 1;
  int coordinate_ = -16;
};

// Adds, to `sum` and `total`, phi(queries) times the sums of a slot, but for row 0, the constant feature: it is the
// largest term and has to be added last.
template <typename T, int kColumns>
class TensorSums {
  using Tile = TensorTile<kColumns>;
  static constexpr int kOwn = 2 * Tile::kTiles;  // queries of a thread
  using Queries = Vector<float, kOwn>;

 public:
  using Sum = float[Tile::kTiles][kColumns / 8][4];

  __device__ TensorSums(const TaylorCall& call, const float* slot, unsigned char* shared)
      : call_(call),
        slot_(slot),
        queries_(reinterpret_cast<float*>(shared)),
        partial_(queries_ + (call.dim + 2) * Tile::kQueryStride),
        stages_(reinterpret_cast<__half*>(partial_ + Tile::kThreads)),
        lane_(static_cast<int>(threadIdx.x) % 32) {
    own_ = queries_ + static_cast<int>(threadIdx.x) / 32 * 16 * Tile::kTiles + lane_ / 4 * kOwn;
    begin_ = stage_ = stages_;
  }

  __device__ __forceinline__ void add(const Head<T>& head, std::int64_t first_query, Sum& sum, float (&total)[kOwn]) {
    SumsProducer<kColumns> producer(slot_, sum_width(call_), call_.dim, call_.features, stages_);
#pragma unroll
    for (int i = 0; i < Tile::kStages - 1; ++i) producer.produce();
    load_queries(head, first_query);
    add_linear(producer, sum, total);
    for (int block = 0; block < call_.dim; block += 16) add_quadratic(producer, block, sum, total);
    cp_async_wait<0>();
    unscale(sum, total);
    __syncthreads();
  }

 private:
  // The rows of the next stage.
  __device__ __forceinline__ const __half* next(SumsProducer<kColumns>& producer) {
    cp_async_wait<Tile::kStages - 2>();
    __syncthreads();
    producer.produce();
    const __half* const rows = stage_;
    constexpr int kStage = Tile::kRows * Tile::kStride;
    stage_ = stage_ == begin_ + (Tile::kStages - 1) * kStage ? begin_ : stage_ + kStage;
    return rows;
  }

  // Reads the queries, transposed, into a tile (d + 2, kQueryStride): normalised and scaled so that no feature exceeds
  // 1. Row d is the scale, row d + 1 zero. A thread's queries are neighbours.
  __device__ __forceinline__ void load_queries(const Head<T>& head, std::int64_t first_query) {
    constexpr int kParts = Tile::kThreads / Tile::kQueries;
    constexpr int kSize = Vector<T>::kSize;
    const int query = static_cast<int>(threadIdx.x) % Tile::kQueries;
    const int part = static_cast<int>(threadIdx.x) / Tile::kQueries;
    const int in_warp = query % (16 * Tile::kTiles);
    float* const to = queries_ + (query - in_warp) + in_warp % 8 * kOwn + in_warp / 8;
    const bool exists = first_query + query < head.valid;
    const T* const from = head.q + (exists ? first_query + query : first_query) * head.stride;
    float squares = 0.0f;
    for (int i = part * kSize; i < call_.dim; i += kParts * kSize) {
      const Vector<T> vector = load_vector(from + i, exists ? call_.dim - i : 0);
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        const float value = to_float(vector.values[j]);
        squares += value * value;
        if (i + j < call_.dim) to[(i + j) * Tile::kQueryStride] = value;
      }
    }
    if constexpr (kParts > 1) {
      partial_[threadIdx.x] = squares;
      __syncthreads();
      squares = 0.0f;
#pragma unroll
      for (int p = 0; p < kParts; ++p) squares += partial_[p * Tile::kQueries + query];
    }
    float factor = call_.normalize ? normalizing_factor(squares, head.temperature) : 1.0f;
    const float scale = scale_below_one(sqrtf(squares) * fabsf(factor));
    factor *= scale;
    for (int i = part * kSize; i < call_.dim; i += kParts * kSize) {
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        if (i + j < call_.dim) to[(i + j) * Tile::kQueryStride] *= factor;
      }
    }
    if (part == 0) {
      to[call_.dim * Tile::kQueryStride] = scale;
      to[(call_.dim + 1) * Tile::kQueryStride] = 0.0f;
    }
  }

  // The largest power of two, 1 at most, that brings a length below 1.
  static __device__ __forceinline__ float scale_below_one(float length) {
    constexpr int kBias = 127;
    constexpr int kLeast = -60;  // squares of longer vectors are infinite
    const int exponent = (__float_as_int(length) >> 23) - kBias;
    return exponent < 0 ? 1.0f : __int_as_float((kBias + max(-exponent - 1, kLeast)) << 23);
  }

  __device__ __forceinline__ Queries coordinate(int row) const {
    return *reinterpret_cast<const Queries*>(own_ + row * Tile::kQueryStride);
  }

  // The coordinates block + 4·(lane % 4) + 0..3, zero beyond the last.
  __device__ __forceinline__ void load_first(int block, Queries (&first)[4]) const {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int i = block + lane_ % 4 * 4 + c;
      first[c] = coordinate(i < call_.dim ? i : call_.dim + 1);
    }
  }

  __device__ __forceinline__ void add_linear(SumsProducer<kColumns>& producer, Sum& sum, float (&total)[kOwn]) {
    for (int stage = 0; stage < call_.dim; stage += Tile::kRows) {
      const __half* const rows = next(producer);
#pragma unroll
      for (int step = 0; step < Tile::kSteps; ++step) {
        Queries first[4];
        load_first(stage + 16 * step, first);
        const Queries scale = coordinate(call_.dim);
        const Queries second[4] = {scale, scale, scale, scale};
        multiply<0>(first, second, rows + 16 * step * Tile::kStride, sum, total);
      }
    }
  }

  // All distances of 16 coordinates.
  __device__ __forceinline__ void add_quadratic(SumsProducer<kColumns>& producer, int block, Sum& sum,
                                                float (&total)[kOwn]) {
    Queries first[4];
    Queries second[4];
    load_first(block, first);
    // Of delta = 0; the last one is loaded in the step.
    int row = (block + lane_ % 4 * 4) % call_.dim;
    const auto advance = [&] { row = row + 1 < call_.dim ? row + 1 : 0; };
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      second[c] = coordinate(row);
      advance();
    }
    const int dim = call_.dim;
    for (int feature = 1 + dim + block; feature < call_.features; feature += 4 * dim) {
      const __half* rows = nullptr;
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        if (step % Tile::kSteps == 0) {
          if (feature + step * dim >= call_.features) break;
          rows = next(producer);
        }
        second[(step + 3) % 4] = coordinate(row);
        advance();
        const __half* const own = rows + step % Tile::kSteps * 16 * Tile::kStride;
        if (step == 0) multiply<0>(first, second, own, sum, total);
        if (step == 1) multiply<1>(first, second, own, sum, total);
        if (step == 2) multiply<2>(first, second, own, sum, total);
        if (step == 3) multiply<3>(first, second, own, sum, total);
      }
    }
  }

  // Adds a step: features first[c] · second[(c + kTurn) % 4] times 16 rows of sums.
  template <int kTurn>
  __device__ __forceinline__ void multiply(const Queries (&first)[4], const Queries (&second)[4], const __half* rows,
                                           Sum& sum, float (&total)[kOwn]) const {
    float phi[4][kOwn];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float norm = *reinterpret_cast<const float*>(rows + (lane_ % 4 * 4 + c) * Tile::kStride + kColumns);
#pragma unroll
      for (int q = 0; q < kOwn; ++q) {
        phi[c][q] = first[c].values[q] * second[(c + kTurn) % 4].values[q];
        total[q] += phi[c][q] * norm;
      }
    }
    std::uint32_t a[Tile::kTiles][4];
#pragma unroll
    for (int i = 0; i < Tile::kTiles * 4; ++i) {
      const int c = i % 4 / 2 * 2;
      const int q = i / 4 * 2 + i % 2;
      a[i / 4][i % 4] = pack<__half>(phi[c][q], phi[c + 1][q]);
    }
    const __half* const from = rows + row_of_lane(lane_) * Tile::kStride + lane_ / 16 * 8;
#pragma unroll
    for (int n = 0; n < kColumns / 16; ++n) {
      if (n * 16 >= call_.value_dim) break;
      std::uint32_t b[4];
      ldmatrix_x4_trans(b, from + n * 16);
      const std::uint32_t left[2] = {b[0], b[1]};
      const std::uint32_t right[2] = {b[2], b[3]};
#pragma unroll
      for (int tile = 0; tile < Tile::kTiles; ++tile) {
        mma_m16n8k16<__half>(sum[tile][2 * n], a[tile], left);
        mma_m16n8k16<__half>(sum[tile][2 * n + 1], a[tile], right);
      }
    }
  }

  // Takes back the scales of queries and of sums.
  __device__ __forceinline__ void unscale(Sum& sum, float (&total)[kOwn]) const {
    const float sum_scale = slot_[scale_offset(call_)];
    const Queries scale = coordinate(call_.dim);
#pragma unroll
    for (int q = 0; q < kOwn; ++q) {
      const float factor = 1.0f / (scale.values[q] * scale.values[q]);
      total[q] *= factor;
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        sum[q / 2][n][q % 2 * 2] *= factor * sum_scale;
        sum[q / 2][n][q % 2 * 2 + 1] *= factor * sum_scale;
      }
    }
  }

  const TaylorCall& call_;
  const float* slot_;
  float* queries_;
  float* partial_;
  __half* stages_;
  const float* own_;
  const __half* begin_;  // of the stages
  const __half* stage_;  // the next one
  int lane_;
};

}  // namespace hsm::cuda
