// The C functions as a program in C meets them; that they compute right is shown from Python, for every operator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "hsm_operators/common/description.h"
#include "tests/sample.h"
#include "tests/testing.h"
#include "tests/torch/threads.h"
#include "torch/hsm_kernels.h"

namespace hsm {
namespace {

using testing::Buffer;
using ::testing::HasSubstr;
using testing::Sample;

// A call as the C functions want it.
struct Call {
  explicit Call(const Sample& own_sample) : sample(own_sample) {
    while (hsm_kernels_signature(index) != opset::described(sample.op())) ++index;
    set_shapes(sample.shapes());
    set_attributes(sample.attributes());
  }

  void set_shapes(const std::vector<opset::Shape>& shapes) {
    sizes.clear();
    for (const opset::Shape& shape : shapes) sizes.insert(sizes.end(), shape.begin(), shape.end());
  }

  void set_attributes(const std::vector<opset::AttributeValue>& values) {
    attributes.clear();
    for (const opset::AttributeValue& value : values) {
      attributes.push_back(static_cast<std::int64_t>(value.ints.size() + value.floats.size()));
      attributes.insert(attributes.end(), value.ints.begin(), value.ints.end());
      for (const float number : value.floats) attributes.push_back(std::bit_cast<std::int64_t>(double{number}));
    }
  }

  std::int32_t run(std::vector<Buffer>& outputs, hsm_kernels_parallel parallel = nullptr, std::int32_t threads = 1) {
    const std::vector<const void*> inputs = sample.sources();
    const std::vector<void*> targets = testing::pointers(outputs);
    return hsm_kernels_run(index, kind, type, sizes.data(), attributes.data(), inputs.data(), targets.data(), parallel,
                           threads);
  }

  // Expects that the call is refused, and that nothing is written; returns why.
  std::string refusal() {
    std::vector<Buffer> outputs = sample.blank_outputs();
    const std::vector<Buffer> before = outputs;
    EXPECT_EQ(run(outputs), HSM_KERNELS_REFUSED) << sample.name();
    for (std::size_t i = 0; i < outputs.size(); ++i) EXPECT_TRUE(outputs[i].same_bits(before[i]));
    return hsm_kernels_message();
  }

  const Sample& sample;
  std::int32_t index = 0;
  std::int32_t kind = HSM_KERNELS_FAST;
  std::int32_t type = HSM_KERNELS_FLOAT32;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> attributes;
};

TEST(Library, DescribesItsOperators) {
  EXPECT_EQ(hsm_kernels_version(), HSM_KERNELS_VERSION);
  ASSERT_EQ(hsm_kernels_count(), std::ssize(opset::operators()));
  for (std::int32_t i = 0; i < hsm_kernels_count(); ++i) {
    EXPECT_EQ(hsm_kernels_signature(i), opset::described(opset::operators()[static_cast<std::size_t>(i)]));
    EXPECT_EQ(hsm_kernels_has(i, HSM_KERNELS_FAST), 1);
    EXPECT_EQ(hsm_kernels_has(i, HSM_KERNELS_NAIVE), 1);
  }
  EXPECT_EQ(hsm_kernels_signature(hsm_kernels_count()), nullptr);
  EXPECT_EQ(hsm_kernels_signature(-1), nullptr);
  EXPECT_EQ(hsm_kernels_has(-1, HSM_KERNELS_FAST), 0);
  EXPECT_EQ(hsm_kernels_has(0, 2), 0);
}

TEST(Library, ComputesTheSameBitsOnAnyThreads) {
  std::mt19937 random(0);
  for (const opset::Operator& op : opset::operators()) {
    const Sample sample(op, DType::kFloat32, 2, 150, random);
    Call call(sample);
    call.kind = HSM_KERNELS_NAIVE;
    std::vector<Buffer> naive = sample.blank_outputs();
    ASSERT_EQ(call.run(naive), HSM_KERNELS_OK) << hsm_kernels_message();
    call.kind = HSM_KERNELS_FAST;
    std::vector<Buffer> alone = sample.blank_outputs();
    ASSERT_EQ(call.run(alone), HSM_KERNELS_OK) << hsm_kernels_message();
    for (const auto parallel : {hsm_kernels_parallel{nullptr}, testing::on_threads, testing::on_one_thread}) {
      std::vector<Buffer> outputs = sample.blank_outputs();
      ASSERT_EQ(call.run(outputs, parallel, 3), HSM_KERNELS_OK);
      for (std::size_t i = 0; i < outputs.size(); ++i) EXPECT_TRUE(outputs[i].same_bits(alone[i])) << sample.name();
    }
  }
}

TEST(Library, RefusesWithASentence) {
  std::mt19937 random(1);
  for (const opset::Operator& op : opset::operators()) {
    const Sample sample(op, DType::kFloat32, 2, 5, random);
    const auto refused = [&](auto change) {
      Call call(sample);
      change(call);
      return call.refusal();
    };
    for (const testing::BadValue& bad : testing::bad_values(op)) {
      EXPECT_EQ(refused([&](Call& call) { call.set_attributes(bad.values); }), bad.sentence);
    }
    for (const testing::ChangedShapes& changed : testing::changed_shapes(sample)) {
      if (changed.sentence.empty()) continue;
      EXPECT_EQ(refused([&](Call& call) { call.set_shapes(changed.shapes); }), changed.sentence);
    }
    EXPECT_THAT(refused([](Call& call) { call.type = 3; }), HasSubstr("no type of number 3"));
    EXPECT_THAT(refused([](Call& call) { call.index = 1000; }), HasSubstr("no operator of index 1000"));
    EXPECT_THAT(refused([](Call& call) { call.kind = 7; }), HasSubstr("no kernel of kind 7"));
  }
}

TEST(Library, ChecksRowNumbers) {
  std::mt19937 random(2);
  std::size_t checked = 0;
  for (const opset::Operator& op : opset::operators()) {
    for (const testing::BadRow& bad : testing::bad_rows(op, random)) {
      EXPECT_EQ(Call(bad.sample).refusal(), bad.sentence);
      ++checked;
    }
  }
  EXPECT_GT(checked, 0U);
}

}  // namespace
}  // namespace hsm
