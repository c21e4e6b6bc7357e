// The host shim itself: that it computes what a GPU would.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "hsm_operators/common/cuda/element.cuh"
#include "hsm_operators/common/cuda/mma.cuh"
#include "tests/cuda/testing.h"

namespace hsm::cuda {
namespace {

using testing::expect_launched;
using testing::in_every_order;

constexpr unsigned kFull = 0xffffffffU;

// ---- what works ----

__global__ void reduce_blocks(const float* x, float* sums, int count) {
  HSM_DYNAMIC_SHARED(float, partial);
  float sum = 0.0f;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) sum += x[i];
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_xor_sync(kFull, sum, delta);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  if (lane == 0) partial[warp] = sum;
  __syncthreads();
  if (warp > 0) return;
  sum = lane < static_cast<int>(blockDim.x) / 32 ? partial[lane] : 0.0f;
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(kFull, sum, delta);
  if (lane == 0) sums[blockIdx.x] = sum;
}

TEST(Simt, ShufflesAndBarriersReduce) {
  std::vector<float> x(10007);
  std::iota(x.begin(), x.end(), 0.0f);
  in_every_order([&](const std::string& order) {
    std::vector<float> sums(5, NAN);
    expect_launched(HSM_LAUNCH(reduce_blocks, 5, 96, 3 * sizeof(float), nullptr, x.data(), sums.data(), 10007), order);
    EXPECT_NEAR(std::accumulate(sums.begin(), sums.end(), 0.0), 10006.0 * 10007 / 2, 64) << order;
  });
}

__global__ void warp_functions(int* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  out += threadIdx.x * 8;
  out[0] = __shfl_sync(kFull, lane, 5);
  out[1] = __shfl_sync(kFull, lane, 3, 8);
  out[2] = __shfl_up_sync(kFull, lane, 2, 16);
  out[3] = __shfl_down_sync(kFull, lane, 2, 16);
  out[4] = static_cast<int>(__ballot_sync(kFull, lane % 3 == 0));
  out[5] = __any_sync(kFull, lane == 7) * 2 + __all_sync(kFull, lane == 7);
  out[6] = lane < 8 ? __shfl_xor_sync(0xffU, lane, 1) : -1;
  out[7] = __syncthreads_count(static_cast<int>(threadIdx.x) % 5 == 0);
}

TEST(Simt, WarpFunctionsFollowTheGuide) {
  in_every_order([&](const std::string& order) {
    std::vector<int> out(64 * 8, -2);
    expect_launched(HSM_LAUNCH(warp_functions, 1, 64, 0, nullptr, out.data()), order);
    for (int thread = 0; thread < 64; ++thread) {
      const int lane = thread % 32;
      const std::vector<int> expected = {5,
                                         lane / 8 * 8 + 3,
                                         lane % 16 >= 2 ? lane - 2 : lane,
                                         lane % 16 < 14 ? lane + 2 : lane,
                                         0x49249249,
                                         2,
                                         lane < 8 ? lane ^ 1 : -1,
                                         13};
      EXPECT_EQ(std::vector<int>(out.begin() + thread * 8, out.begin() + thread * 8 + 8), expected) << order << thread;
    }
  });
}

// c (16,8) = a (16,16) · b (16,8), b row by row, through shared memory, ldmatrix and mma.
template <typename T>
__global__ void multiply(const T* a, const T* b, float* c) {
  HSM_DYNAMIC_SHARED(T, tiles);
  T* tile_b = tiles + 256;
  const int lane = static_cast<int>(threadIdx.x);
  cp_async_16(tiles + lane * 8, a + lane * 8);
  if (lane < 16) cp_async_16(tile_b + lane * 8, b + lane * 8);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  std::uint32_t own_a[4];
  std::uint32_t own_b[2];
  ldmatrix_x4(own_a, tiles + lane % 16 * 16 + lane / 16 * 8);
  ldmatrix_x2_trans(own_b, tile_b + lane % 16 * 8);
  float d[4] = {};
  mma_m16n8k16<T>(d, own_a, own_b);
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

template <typename T>
void expect_product() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  alignas(16) T a[256];
  alignas(16) T b[128];
  for (T& value : a) value = from_float<T>(normal(random));
  for (T& value : b) value = from_float<T>(normal(random));
  in_every_order([&](const std::string& order) {
    std::vector<float> c(128, NAN);
    expect_launched(HSM_LAUNCH(multiply<T>, 1, 32, 384 * sizeof(T), nullptr, a, b, c.data()), order);
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        double sum = 0;
        for (int k = 0; k < 16; ++k) sum += double{to_float(a[row * 16 + k])} * to_float(b[k * 8 + column]);
        EXPECT_NEAR(c[row * 8 + column], sum, 1e-5) << order;
      }
    }
  });
}

TEST(Simt, TensorCoresMultiply) {
  expect_product<__half>();
  expect_product<__nv_bfloat16>();
}

// What lane i gets from ldmatrix of two matrices whose elements are their own index.
__global__ void load_matrices(std::uint32_t* plain, std::uint32_t* transposed) {
  HSM_DYNAMIC_SHARED(std::uint16_t, rows);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) rows[i] = static_cast<std::uint16_t>(i);
  __syncwarp();
  std::uint32_t r[4];
  ldmatrix_x4(r, rows + lane * 8);
  for (int m = 0; m < 4; ++m) plain[m * 32 + lane] = r[m];
  ldmatrix_x4_trans(r, rows + lane * 8);
  for (int m = 0; m < 4; ++m) transposed[m * 32 + lane] = r[m];
}

TEST(Simt, LdmatrixHandsOutFragments) {
  std::vector<std::uint32_t> plain(128);
  std::vector<std::uint32_t> transposed(128);
  expect_launched(HSM_LAUNCH(load_matrices, 1, 32, 512, nullptr, plain.data(), transposed.data()), "ldmatrix");
  for (unsigned m = 0; m < 4; ++m) {
    for (unsigned lane = 0; lane < 32; ++lane) {
      const unsigned g = lane / 4;
      const unsigned t = lane % 4;
      EXPECT_EQ(plain[m * 32 + lane], (64 * m + 8 * g + 2 * t) | (64 * m + 8 * g + 2 * t + 1) << 16);
      EXPECT_EQ(transposed[m * 32 + lane], (64 * m + 16 * t + g) | (64 * m + 16 * t + 8 + g) << 16);
    }
  }
}

__global__ void copy_part(const float4* x, float4* y, int bytes) {
  HSM_DYNAMIC_SHARED(float4, staged);
  cp_async_16(staged + threadIdx.x, x + threadIdx.x, bytes);
  cp_async_commit();
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();
  y[threadIdx.x] = staged[blockDim.x - 1 - threadIdx.x];
}

TEST(Simt, AsynchronousCopiesFillWithZeros) {
  in_every_order([&](const std::string& order) {
    std::vector<float4> x(64, make_float4(1, 2, 3, 4));
    std::vector<float4> y(64);
    expect_launched(HSM_LAUNCH(copy_part, 1, 64, 1024, nullptr, x.data(), y.data(), 8), order);
    for (const float4& value : y) {
      EXPECT_EQ(value.x, 1);
      EXPECT_EQ(value.y, 2);
      EXPECT_EQ(value.z, 0);
      EXPECT_EQ(value.w, 0);
    }
  });
}

// Settings, logs and fibers belong to the operating-system thread that launches.
TEST(Simt, LaunchesFromSeveralThreads) {
  std::vector<float> x(2000, 1.0f);
  std::vector<float> sums(4, NAN);
  std::vector<std::thread> threads;
  for (float& sum : sums) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        if (HSM_LAUNCH(reduce_blocks, 1, 64, 2 * sizeof(float), nullptr, x.data(), &sum, 2000) != 0) return;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sums, std::vector<float>(4, 2000.0f));
}

// ---- the log and the limits of a launch ----

TEST(Simt, LogsLaunchesWithTheirTemplateArguments) {
  simt::clear_launches();
  alignas(16) __half a[256] = {};
  alignas(16) __half b[128] = {};
  float c[128];
  ASSERT_EQ(HSM_LAUNCH(multiply<__half>, dim3(2, 3), 32, 768, nullptr, a, b, c), 0);
  ASSERT_EQ(simt::launches().size(), 1U);
  const simt::Launch& launch = simt::launches()[0];
  EXPECT_NE(launch.kernel.find("multiply<__half>"), std::string::npos) << launch.kernel;
  EXPECT_EQ(launch.grid.x * 100 + launch.grid.y * 10 + launch.grid.z, 231U);
  EXPECT_EQ(launch.block.x, 32U);
  EXPECT_EQ(launch.shared_bytes, 768U);
}

TEST(Simt, RefusesWhatNoDeviceLaunches) {
  float x = 0;
  EXPECT_EQ(HSM_LAUNCH(reduce_blocks, 1, 1025, 0, nullptr, &x, &x, 1), 9);
  EXPECT_EQ(HSM_LAUNCH(reduce_blocks, dim3(1, 70000), 32, 0, nullptr, &x, &x, 1), 9);
  EXPECT_EQ(HSM_LAUNCH(reduce_blocks, 0, 32, 0, nullptr, &x, &x, 1), 9);
  EXPECT_EQ(HSM_LAUNCH(reduce_blocks, 1, 32, 500 * 1024, nullptr, &x, &x, 1), 9);
  EXPECT_NE(simt::last_error().find("512000 bytes of shared memory"), std::string::npos) << simt::last_error();
}

}  // namespace
}  // namespace hsm::cuda
