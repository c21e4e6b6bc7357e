// Kernels with the usual mistakes: each must be caught, in every order of the threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "hsm_operators/common/cuda/mma.cuh"
#include "hsm_operators/common/cuda/platform.cuh"
#include "tests/cuda/testing.h"

namespace hsm::cuda {
namespace {

using testing::expect_launched;
using testing::in_every_order;

constexpr unsigned kFull = 0xffffffffU;

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
TEST(PlantedBug, LeavesTheNextLaunchAlone) {
  std::vector<float> y(64);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(HSM_LAUNCH(two_barriers, 1, 64, 0, nullptr, y.data()), 719);
    expect_launched(HSM_LAUNCH(uninitialised, 2, 32, 128, nullptr, y.data()), "after a failure");
  }
}

}  // namespace
}  // namespace hsm::cuda
