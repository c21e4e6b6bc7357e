// The C functions as a program in C meets them; that they compute right is shown from Python, for every operator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "tests/testing.h"
#include "tests/torch/threads.h"
#include "torch/hsm_kernels.h"

namespace hsm {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::int32_t index_of(std::string_view name) {
  for (std::int32_t i = 0; i < hsm_kernels_count(); ++i) {
    if (std::string_view(hsm_kernels_signature(i)).starts_with(name)) return i;
  }
  return -1;
}

// x (2,300,64), alpha and beta (64), shifts 1 and 3.
struct ShiftMixCall {
  ShiftMixCall() {
    std::mt19937 random(0);
    x.randomize(random);
    alpha.randomize(random);
    beta.randomize(random);
  }

  std::int32_t run(testing::Buffer& y, hsm_kernels_parallel parallel = nullptr, std::int32_t threads = 1) {
    const std::array<const void*, 3> inputs = {x.data(), alpha.data(), beta.data()};
    const std::array<void*, 1> outputs = {y.data()};
    return hsm_kernels_run(index, kind, type, sizes.data(), attributes.data(), inputs.data(), outputs.data(), parallel,
                           threads);
  }

  std::int32_t index = index_of("hsm::ShiftMix(");
  std::int32_t kind = HSM_KERNELS_FAST;
  std::int32_t type = HSM_KERNELS_FLOAT32;
  std::vector<std::int64_t> sizes = {2, 300, 64, 64, 64};
  std::vector<std::int64_t> attributes = {2, 1, 3};
  testing::Buffer x{DType::kFloat32, 2 * 300 * 64};
  testing::Buffer alpha{DType::kFloat32, 64};
  testing::Buffer beta{DType::kFloat32, 64};
};

TEST(Library, DescribesItsOperators) {
  EXPECT_EQ(hsm_kernels_version(), HSM_KERNELS_VERSION);
  EXPECT_STREQ(hsm_kernels_signature(index_of("hsm::ShiftMix(")),
               "hsm::ShiftMix(x:T(B,T,D),alpha:T(D),beta:T(D))->(y:T(B,T,D)){shifts:ints}");
  EXPECT_EQ(hsm_kernels_signature(hsm_kernels_count()), nullptr);
  EXPECT_EQ(hsm_kernels_signature(-1), nullptr);
  EXPECT_EQ(hsm_kernels_has(-1, HSM_KERNELS_FAST), 0);
  EXPECT_EQ(hsm_kernels_has(0, 2), 0);
}

TEST(Library, ComputesTheSameBitsOnAnyThreads) {
  ShiftMixCall call;
  testing::Buffer naive(DType::kFloat32, call.x.size());
  call.kind = HSM_KERNELS_NAIVE;
  ASSERT_EQ(call.run(naive.poison()), HSM_KERNELS_OK);
  call.kind = HSM_KERNELS_FAST;
  testing::Buffer alone(DType::kFloat32, call.x.size());
  ASSERT_EQ(call.run(alone.poison()), HSM_KERNELS_OK);
  testing::expect_close(alone, naive, 2, "y");
  for (const auto parallel : {hsm_kernels_parallel{nullptr}, testing::on_threads, testing::on_one_thread}) {
    testing::Buffer y(DType::kFloat32, call.x.size());
    ASSERT_EQ(call.run(y.poison(), parallel, 3), HSM_KERNELS_OK);
    EXPECT_TRUE(y.same_bits(alone));
  }
}

TEST(Library, RefusesWithASentence) {
  const auto refusal = [](auto change) {
    ShiftMixCall call;
    change(call);
    testing::Buffer y(DType::kFloat32, call.x.size());
    y.poison();
    const testing::Buffer before = y;
    EXPECT_EQ(call.run(y), HSM_KERNELS_REFUSED);
    EXPECT_TRUE(y.same_bits(before));
    return std::string(hsm_kernels_message());
  };
  EXPECT_THAT(refusal([](ShiftMixCall& call) { call.attributes = {0}; }), StartsWith("ShiftMix: attribute shifts"));
  EXPECT_THAT(refusal([](ShiftMixCall& call) { call.sizes[3] = 63; }), StartsWith("ShiftMix: input alpha"));
  EXPECT_THAT(refusal([](ShiftMixCall& call) { call.attributes = {3, 1, 1, 1}; }), HasSubstr("64"));
  EXPECT_THAT(refusal([](ShiftMixCall& call) { call.type = 3; }), HasSubstr("no type of number 3"));
  EXPECT_THAT(refusal([](ShiftMixCall& call) { call.index = 1000; }), HasSubstr("no operator of index 1000"));
  EXPECT_THAT(refusal([](ShiftMixCall& call) { call.kind = 7; }), HasSubstr("no kernel of kind 7"));
}

TEST(Library, ChecksRowNumbers) {
  const std::int32_t index = index_of("hsm::TokenShiftCached(");
  const std::vector<std::int64_t> sizes = {1, 1, 2, 1, 4, 2, 1, 1};
  const std::vector<std::int64_t> attributes = {1, 1};
  std::array<float, 2> x{};
  std::array<float, 8> ring{};
  std::array<float, 2> y{};
  std::array<float, 8> ring_out{};
  const std::int64_t position = 0;
  const std::int64_t lengths = 2;
  const std::array<const void*, 4> inputs = {x.data(), ring.data(), &position, &lengths};
  const std::array<void*, 2> outputs = {y.data(), ring_out.data()};
  EXPECT_EQ(hsm_kernels_run(index, HSM_KERNELS_FAST, HSM_KERNELS_FLOAT32, sizes.data(), attributes.data(),
                            inputs.data(), outputs.data(), nullptr, 1),
            HSM_KERNELS_REFUSED);
  EXPECT_THAT(hsm_kernels_message(), StartsWith("TokenShiftCached: input lengths is 2 in row 0"));
}

}  // namespace
}  // namespace hsm
