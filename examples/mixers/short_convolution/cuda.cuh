// Kernels of GatedShortConvolution. With e bytes to an element:
//
//   bytes  4·B·T·D·e: b, c, x and y once; a thread's tokens before its first one are read again, K - 1 for every
//   kTokens flops  (2·K + 2)·B·T·D bound  memory: 0.5 flops a byte for K = 3 and fp32
//
// A thread owns some channels of some neighbouring tokens of one row, and keeps the products of the last taps in
// registers. The tail is written by a kernel of its own, after all have read it.
#pragma once

#include <cstdint>

#include "hsm_operators/common/cuda/element.cuh"

namespace hsm::cuda {

inline constexpr int kConvolutionThreads = 128;

template <typename T>
struct ConvolutionCall {
  const T* b;
  const T* c;
  const T* x;
  const T* weight;
  const float* tail;
  const std::int64_t* lengths;
  T* y;
  float* tail_out;
  std::int64_t batch;
  std::int64_t length;
  std::int64_t width;
  std::int64_t taps;
  std::int64_t vectors;  // of the width
};

// kCount channels of one row of the batch.
template <typename T, int kCount>
struct ConvolutionLane {
  using Elements = Vector<T, kCount>;
  using Floats = Vector<float, kCount>;

  const ConvolutionCall<T>& call;
  std::int64_t row;
  std::int64_t channel;
  std::int64_t count;  // valid tokens

  __device__ ConvolutionLane(const ConvolutionCall<T>& own, std::int64_t own_row, std::int64_t vector)
      : call(own),
        row(own_row),
        channel(vector * kCount),
        count(min(max(own.lengths[own_row], std::int64_t{0}), own.length)) {}

  __device__ std::int64_t at(std::int64_t t) const { return (row * call.length + t) * call.width + channel; }
  __device__ std::int64_t tail_at(std::int64_t i) const { return (row * (call.taps - 1) + i) * call.width + channel; }

  __device__ static Elements load(const T* data, std::int64_t index) {
    return *reinterpret_cast<const Elements*>(data + index);
  }

  // The product of token t >= 1 - K: of this call, or of the tail.
  __device__ Floats product(std::int64_t t) const {
    if (t < 0) return *reinterpret_cast<const Floats*>(call.tail + tail_at(t + call.taps - 1));
    const Elements b = load(call.b, at(t)), x = load(call.x, at(t));
    Floats result;
#pragma unroll
    for (int i = 0; i < kCount; ++i) result.values[i] = to_float(b.values[i]) * to_float(x.values[i]);
    return result;
  }

  __device__ float weight(int i, std::int64_t tap) const {
    return to_float(call.weight[(channel + i) * call.taps + tap]);
  }
};

// One thread: kTokens neighbouring tokens of kCount channels. kTaps is K, or 0 for any K, whose products are then read
// for each token anew.
template <typename T, int kCount, int kTokens, int kTaps>
__global__ void __launch_bounds__(kConvolutionThreads) convolve(const ConvolutionCall<T> call) {
  using Lane = ConvolutionLane<T, kCount>;
  const std::int64_t tiles = (call.length + kTokens - 1) / kTokens;
  const std::int64_t index = std::int64_t{blockIdx.x} * kConvolutionThreads + threadIdx.x;
  const std::int64_t row_tile = index / call.vectors;
  if (row_tile >= call.batch * tiles) return;
  const Lane lane(call, row_tile / tiles, index % call.vectors);
  const std::int64_t first = row_tile % tiles * kTokens;
  constexpr int kKept = kTaps > 0 ? kTaps : 1;
  typename Lane::Floats products[kKept];
  float weights[kKept][kCount];
  if constexpr (kTaps > 0) {
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
      for (int i = 0; i < kCount; ++i) weights[tap][i] = lane.weight(i, tap);
      if (tap > 0 && first < lane.count) products[tap] = lane.product(first - kTaps + tap);
    }
  }
#pragma unroll
  for (int n = 0; n < kTokens; ++n) {
    const std::int64_t t = first + n;
    if (t >= lane.count) return;
    float sums[kCount] = {};
    if constexpr (kTaps > 0) {
#pragma unroll
      for (int tap = 0; tap + 1 < kTaps; ++tap) products[tap] = products[tap + 1];
      products[kTaps - 1] = lane.product(t);
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap) {
        for (int i = 0; i < kCount; ++i) sums[i] = fmaf(weights[tap][i], products[tap].values[i], sums[i]);
      }
    } else {
      for (std::int64_t tap = 0; tap < call.taps; ++tap) {
        const auto product = lane.product(t - call.taps + 1 + tap);
#pragma unroll
        for (int i = 0; i < kCount; ++i) sums[i] = fmaf(lane.weight(i, tap), product.values[i], sums[i]);
      }
    }
    const auto gate = lane.load(call.c, lane.at(t));
    typename Lane::Elements result;
#pragma unroll
    for (int i = 0; i < kCount; ++i) result.values[i] = from_float<T>(to_float(gate.values[i]) * sums[i]);
    *reinterpret_cast<typename Lane::Elements*>(call.y + lane.at(t)) = result;
  }
}

// One thread: the tail of one channel, oldest first: in place it reads no product that it has overwritten.
template <typename T>
__global__ void __launch_bounds__(kConvolutionThreads) convolution_tail(const ConvolutionCall<T> call) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kConvolutionThreads + threadIdx.x;
  if (index >= call.batch * call.width) return;
  const ConvolutionLane<T, 1> lane(call, index / call.width, index % call.width);
  for (std::int64_t i = 0; i + 1 < call.taps; ++i) {
    call.tail_out[lane.tail_at(i)] = lane.product(lane.count + i - call.taps + 1).values[0];
  }
}

}  // namespace hsm::cuda
