// The host shim itself: that it computes what a GPU would, and that it catches what a GPU would not forgive.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "mixers/cuda/element.cuh"
#include "mixers/cuda/mma.cuh"
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

// ---- planted bugs ----

__global__ void missing_barrier(const float* x, float* y) {
  HSM_DYNAMIC_SHARED(float, staged);
  staged[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = staged[blockDim.x - 1 - threadIdx.x];
}

TEST(PlantedBug, MissingBarrier) {
  std::vector<float> x(64, 2.0f);
  in_every_order([&](const std::string& order) {
    std::vector<float> y(64);
    expect_launched(HSM_LAUNCH(missing_barrier, 1, 64, 256, nullptr, x.data(), y.data()), order);
    EXPECT_TRUE(std::ranges::any_of(y, [](float value) { return std::isnan(value); })) << order;
  });
}

// Right for one tile; the second is written while others still read the first.
__global__ void missing_second_barrier(const float* x, float* y, int count) {
  HSM_DYNAMIC_SHARED(float, tile);
  float sum = 0;
  for (int start = 0; start < count; start += static_cast<int>(blockDim.x)) {
    tile[threadIdx.x] = x[start + static_cast<int>(threadIdx.x)];
    __syncthreads();
    for (unsigned i = 0; i < blockDim.x; ++i) sum += tile[i];
  }
  y[threadIdx.x] = sum;
}

TEST(PlantedBug, MissingBarrierBeforeTheNextTile) {
  std::vector<float> x(256);
  std::iota(x.begin(), x.end(), 0.0f);
  in_every_order([&](const std::string& order) {
    std::vector<float> y(64);
    expect_launched(HSM_LAUNCH(missing_second_barrier, 1, 64, 256, nullptr, x.data(), y.data(), 256), order);
    EXPECT_TRUE(std::ranges::any_of(y, [](float value) { return value != 255.0f * 128; })) << order;
  });
}

// Lanes exchange through shared memory as if they ran in lockstep.
__global__ void missing_warp_barrier(float* y) {
  HSM_DYNAMIC_SHARED(float, staged);
  staged[threadIdx.x] = 1.0f;
  y[threadIdx.x] = staged[threadIdx.x ^ 1U];
}

TEST(PlantedBug, MissingWarpBarrier) {
  in_every_order([&](const std::string& order) {
    std::vector<float> y(32);
    expect_launched(HSM_LAUNCH(missing_warp_barrier, 1, 32, 128, nullptr, y.data()), order);
    EXPECT_TRUE(std::ranges::any_of(y, [](float value) { return std::isnan(value); })) << order;
  });
}

// Expects that the launch fails with `text` in its message, in every order.
template <typename Run>
void expect_caught(const std::string& text, Run run) {
  in_every_order([&](const std::string& order) {
    EXPECT_EQ(run(), 719) << order;
    EXPECT_NE(simt::last_error().find(text), std::string::npos) << order << ": " << simt::last_error();
  });
}

__global__ void barrier_for_some(float* y) {
  if (threadIdx.x < 16) __syncthreads();
  y[threadIdx.x] = 1.0f;
}

__global__ void two_barriers(float* y) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = 1.0f;
}

TEST(PlantedBug, DivergentBarrier) {
  std::vector<float> y(64);
  in_every_order([&](const std::string& order) {
    EXPECT_EQ(HSM_LAUNCH(barrier_for_some, 1, 64, 0, nullptr, y.data()), 719) << order;
    EXPECT_NE(simt::last_error().find("__syncthreads"), std::string::npos) << simt::last_error();
  });
  expect_caught("divergent __syncthreads", [&] { return HSM_LAUNCH(two_barriers, 1, 64, 0, nullptr, y.data()); });
}

__global__ void shuffle_after_exit(float* y) {
  if (threadIdx.x >= 20) return;
  y[threadIdx.x] = __shfl_xor_sync(kFull, 1.0f, 1);
}

__global__ void shuffle_outside_mask(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(0xffffU, 1.0f, 16);
}

__global__ void shuffle_without_itself(float* y) { y[threadIdx.x] = __shfl_xor_sync(0xffffU, 1.0f, 1); }

__global__ void different_operations(float* y) {
  y[threadIdx.x] = threadIdx.x < 16 ? __shfl_xor_sync(kFull, 1.0f, 1) : __shfl_sync(kFull, 1.0f, 0);
}

__global__ void lane_that_never_comes(float* y) {
  if (threadIdx.x != 3) y[threadIdx.x] = __shfl_xor_sync(kFull, 1.0f, 1);
  __syncthreads();
}

TEST(PlantedBug, WrongMask) {
  std::vector<float> y(32);
  in_every_order([&](const std::string& order) {
    EXPECT_EQ(HSM_LAUNCH(shuffle_after_exit, 1, 32, 0, nullptr, y.data()), 719) << order;
  });
  expect_caught("outside of the mask", [&] { return HSM_LAUNCH(shuffle_outside_mask, 1, 32, 0, nullptr, y.data()); });
  expect_caught("not in the mask", [&] { return HSM_LAUNCH(shuffle_without_itself, 1, 32, 0, nullptr, y.data()); });
  expect_caught("other lanes", [&] { return HSM_LAUNCH(different_operations, 1, 32, 0, nullptr, y.data()); });
  expect_caught("never were", [&] { return HSM_LAUNCH(different_operations, 1, 20, 0, nullptr, y.data()); });
  expect_caught("deadlock", [&] { return HSM_LAUNCH(lane_that_never_comes, 1, 32, 0, nullptr, y.data()); });
}

__global__ void uninitialised(float* y) {
  HSM_DYNAMIC_SHARED(float, staged);
  if (threadIdx.x < 31) staged[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = staged[threadIdx.x];
}

TEST(PlantedBug, UninitialisedSharedMemory) {
  std::vector<float> y(64);
  in_every_order([&](const std::string& order) {
    // The second block must not see what the first has left.
    expect_launched(HSM_LAUNCH(uninitialised, 2, 32, 128, nullptr, y.data()), order);
    EXPECT_TRUE(std::isnan(y[31])) << order;
  });
}

__global__ void copy_without_wait(const float4* x, float4* y, bool waits_late) {
  HSM_DYNAMIC_SHARED(float4, staged);
  cp_async_16(staged + threadIdx.x, x + threadIdx.x);
  cp_async_commit();
  __syncthreads();
  y[threadIdx.x] = staged[threadIdx.x];
  if (waits_late) cp_async_wait<0>();
}

__global__ void copy_without_barrier(const float4* x, float4* y) {
  HSM_DYNAMIC_SHARED(float4, staged);
  cp_async_16(staged + threadIdx.x, x + threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  y[threadIdx.x] = staged[blockDim.x - 1 - threadIdx.x];
}

TEST(PlantedBug, MissingWait) {
  const std::vector<float4> x(32, make_float4(1, 1, 1, 1));
  std::vector<float4> y(32);
  in_every_order([&](const std::string& order) {
    expect_launched(HSM_LAUNCH(copy_without_wait, 1, 32, 512, nullptr, x.data(), y.data(), true), order);
    EXPECT_TRUE(std::isnan(y[0].x)) << order;
    expect_launched(HSM_LAUNCH(copy_without_barrier, 1, 32, 512, nullptr, x.data(), y.data()), order);
    EXPECT_TRUE(std::isnan(y[0].x) || std::isnan(y[31].x)) << order;
  });
  expect_caught("cp.async",
                [&] { return HSM_LAUNCH(copy_without_wait, 1, 32, 512, nullptr, x.data(), y.data(), false); });
}

__global__ void copy_to_odd_address(const float* x) {
  HSM_DYNAMIC_SHARED(float, staged);
  cp_async_16(staged + 1, x);
}

__global__ void copy_past_the_end(const float4* x) {
  HSM_DYNAMIC_SHARED(float4, staged);
  cp_async_16(staged + threadIdx.x, x);
  cp_async_commit();
  cp_async_wait<0>();
}

TEST(PlantedBug, CopiesToWrongAddresses) {
  const std::vector<float4> x(32);
  expect_caught("not aligned", [&] { return HSM_LAUNCH(copy_to_odd_address, 1, 1, 64, nullptr, &x.data()->x); });
  expect_caught("outside of shared memory", [&] { return HSM_LAUNCH(copy_past_the_end, 1, 2, 16, nullptr, x.data()); });
}

__global__ void overrun(float* y) {
  HSM_DYNAMIC_SHARED(float, staged);
  staged[threadIdx.x] = 1.0f;
  y[threadIdx.x] = 1.0f;
}

#ifdef __SANITIZE_ADDRESS__
TEST(PlantedBugDeathTest, Overrun) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  std::vector<float> y(32);
  EXPECT_DEATH(HSM_LAUNCH(overrun, 1, 32, 124, nullptr, y.data()), "heap-buffer-overflow");
  EXPECT_DEATH(HSM_LAUNCH(overrun, 1, 32, 128, nullptr, y.data() + 1), "heap-buffer-overflow");
}
#else
TEST(PlantedBug, Overrun) {
  std::vector<float> y(32);
  expect_caught("past the end of its shared memory",
                [&] { return HSM_LAUNCH(overrun, 1, 32, 124, nullptr, y.data()); });
}
#endif

// A failed launch leaves fibers in the middle of their work; the next one must not notice.
TEST(Simt, RunsOnAfterAFailure) {
  std::vector<float> y(64);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(HSM_LAUNCH(two_barriers, 1, 64, 0, nullptr, y.data()), 719);
    expect_launched(HSM_LAUNCH(uninitialised, 2, 32, 128, nullptr, y.data()), "after a failure");
  }
}

}  // namespace
}  // namespace hsm::cuda
