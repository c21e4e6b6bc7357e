// The adapter in the real ONNX Runtime, with every operator: numbers, threads, sessions that come and go, refusals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "onnxruntime/kernels.h"
#include "tests/onnxruntime/library.h"
#include "tests/onnxruntime/one_node_model.h"
#include "tests/sample.h"
#include "tests/testing.h"

namespace hsm::testing {
namespace {

using ::testing::HasSubstr;

constexpr int kCallers = 4;
constexpr std::int64_t kTokens = 150;

std::string model_of(const Sample& sample) { return one_node_model(sample.op(), sample.type(), sample.attributes()); }

// What the kernel itself computes, on one thread.
std::vector<Buffer> direct(const Sample& sample) {
  const std::vector<const void*> inputs = sample.sources();
  std::vector<Buffer> outputs = sample.blank_outputs();
  const std::vector<void*> targets = pointers(outputs);
  onnxruntime::compute(sample.op(), {sample.type(), sample.attributes(), sample.shapes(), inputs, targets}, {});
  return outputs;
}

std::vector<Buffer> run(const Sample& sample, Ort::Session& session) {
  std::vector<Buffer> outputs = sample.blank_outputs();
  std::vector<Ort::Value> inputs;
  std::vector<Ort::Value> targets;
  std::vector<const char*> input_names;
  std::vector<const char*> output_names;
  const opset::Operator& op = sample.op();
  for (std::size_t i = 0; i < op.inputs.size(); ++i) {
    input_names.push_back(op.inputs[i].name.data());
    inputs.push_back(tensor(const_cast<Buffer&>(sample.inputs()[i]), sample.shapes()[i]));
  }
  for (std::size_t i = 0; i < op.outputs.size(); ++i) {
    output_names.push_back(op.outputs[i].name.data());
    targets.push_back(tensor(outputs[i], sample.shape_of(op.outputs[i])));
  }
  session.Run(Ort::RunOptions(), input_names.data(), inputs.data(), inputs.size(), output_names.data(), targets.data(),
              targets.size());
  return outputs;
}

std::vector<Sample> samples(std::span<const DType> types, std::mt19937& random) {
  std::vector<Sample> found;
  for (const opset::Operator& op : opset::operators()) {
    if (!onnxruntime::has_kernel(op)) continue;
    for (const DType type : types) found.emplace_back(op, type, 2, kTokens, random);
  }
  return found;
}

void expect_same(const Sample& sample, const std::vector<Buffer>& actual, const std::vector<Buffer>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(actual[i].same_bits(expected[i])) << sample.name() << ", output " << i;
  }
}

TEST_F(Library, ThreadsOfOneSessionGetTheKernelsNumbers) {
  std::mt19937 random(1);
  for (const Sample& sample : samples(kTypes, random)) {
    const std::vector<Buffer> expected = direct(sample);
    Ort::Session session = load(model_of(sample));
    std::vector<std::thread> callers;
    for (int caller = 0; caller < kCallers; ++caller) {
      callers.emplace_back([&] {
        for (int i = 0; i < 3; ++i) expect_same(sample, run(sample, session), expected);
      });
    }
    for (std::thread& caller : callers) caller.join();
  }
}

TEST_F(Library, SessionsComeAndGoInSeveralThreads) {
  std::mt19937 random(2);
  const std::vector<Sample> all = samples(kTypes, random);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (std::size_t i = 0; i < all.size(); ++i) {
        const Sample& sample = all[(i + static_cast<std::size_t>(caller) * 7) % all.size()];
        Ort::Session session = load(model_of(sample));
        expect_same(sample, run(sample, session), direct(sample));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// The first sessions of a process, made at the same moment: each round is a process of its own.
TEST_F(Library, TheFirstSessionsMayBeMadeInSeveralThreads) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::mt19937 random(5);
  const std::string model = model_of(samples(std::array{DType::kFloat32}, random).front());
  const auto first_sessions = [&model] {
    constexpr int kFirstCallers = 2;  // with more threads than cores they would start one after the other
    std::atomic<int> ready = 0;
    const auto make = [&] {
      const Ort::SessionOptions options = with_library();
      ++ready;
      while (ready < kFirstCallers) {  // a latch would wake them one after the other
      }
      Ort::Session(*env(), model.data(), model.size(), options);
    };
    std::thread other(make);
    make();
    other.join();
    std::_Exit(0);
  };
  for (int round = 0; round < 20; ++round) EXPECT_EXIT(first_sessions(), ::testing::ExitedWithCode(0), "");
}

TEST_F(Library, TheLibraryIsLoadedAndUnloadedAgainAndAgain) {
  std::mt19937 random(3);
  const Sample sample = samples(std::array{DType::kFloat32}, random).front();
  const std::vector<Buffer> expected = direct(sample);
  for (int i = 0; i < 200; ++i) {
    Ort::Session session = load(model_of(sample));
    expect_same(sample, run(sample, session), expected);
  }
}

TEST_F(Library, APackingLimitThatIsNoNumberIsRefusedWithASentence) {
  for (const char* limit : {"", "-1", "many", "1 ", "99999999999999999999"}) {
    EXPECT_THAT(refusal([&] { with_library({{"hsm.packed_weights_mib", limit}}); }),
                HasSubstr("hsm.packed_weights_mib must be a whole number of MiB"));
  }
}

TEST_F(Library, WrongShapesThatTheModelStatesAreRefusedWhenItIsLoaded) {
  [[maybe_unused]] const DroppedStatus dropped;
  std::mt19937 random(6);
  for (const Sample& sample : samples(std::array{DType::kFloat32}, random)) {
    std::size_t refused = 0;
    for (const ChangedShapes& changed : changed_shapes(sample)) {
      std::map<std::string_view, InputSpec> specs;
      for (std::size_t i = 0; i < changed.shapes.size(); ++i) specs[sample.op().inputs[i].name] = {changed.shapes[i]};
      const std::string said =
          refusal([&] { load(one_node_model(sample.op(), sample.type(), sample.attributes(), specs)); });
      EXPECT_EQ(said.empty(), changed.sentence.empty()) << said;
      EXPECT_THAT(said, HasSubstr(changed.sentence));
      refused += said.empty() ? 0 : 1;
    }
    EXPECT_GT(refused, 0U) << sample.name();
  }
}

TEST_F(Library, BadAttributesAreRefusedWithASentence) {
  [[maybe_unused]] const DroppedStatus dropped;
  for (const opset::Operator& op : opset::operators()) {
    for (const BadValue& bad : bad_values(op)) {
      EXPECT_THAT(refusal([&] { load(one_node_model(op, DType::kFloat32, bad.values)); }), HasSubstr(bad.sentence));
    }
    for (std::size_t i = 0; i < op.attributes.size(); ++i) {
      if (op.attributes[i].type != opset::AttributeType::kInts) continue;
      std::vector<opset::AttributeValue> values = small_case(op).attributes;
      values[i].ints.clear();
      EXPECT_NE(refusal([&] { load(one_node_model(op, DType::kFloat32, values)); }), "");
    }
  }
}

TEST_F(Library, BadRowsAreRefusedWithASentence) {
  std::mt19937 random(4);
  for (const opset::Operator& op : opset::operators()) {
    if (!onnxruntime::has_kernel(op)) continue;
    for (const BadRow& bad : bad_rows(op, random)) {
      Ort::Session session = load(model_of(bad.sample));
      EXPECT_THAT(refusal([&] { run(bad.sample, session); }), HasSubstr(bad.sentence));
    }
  }
}

}  // namespace
}  // namespace hsm::testing
