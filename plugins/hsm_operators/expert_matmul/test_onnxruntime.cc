// Weights that are constants of a graph are packed once for a session.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "tests/onnxruntime/library.h"
#include "tests/onnxruntime/one_node_model.h"
#include "tests/testing.h"

namespace hsm::testing {
namespace {

using Packing = Library;

// The weight's memory is overwritten after the session was made: only a packed copy still has the numbers.
TEST_F(Packing, ConstantWeightsArePackedOnce) {
  constexpr std::int64_t kTokens = 128, kHeads = 2, kExperts = 2, kWidth = 40, kHeadWidth = 24;
  std::mt19937 random(5);
  for (const std::string limit : {"", "0", "1"}) {
    const opset::Shape weight_shape{kHeads, kExperts, kWidth, kHeadWidth};
    const std::vector<opset::AttributeValue> attributes{{"k", {2}}};
    const std::string model =
        one_node_model(*opset::find("ExpertMatMul"), DType::kFloat32, attributes, {{"weight", {weight_shape, true}}});
    Buffer weight(DType::kFloat32, kHeads * kExperts * kWidth * kHeadWidth);
    weight.randomize(random);
    const Ort::Value value = tensor(weight, weight_shape);
    std::vector<std::pair<std::string, std::string>> settings;
    if (!limit.empty()) settings.emplace_back("hsm.packed_weights_mib", limit);
    Ort::SessionOptions options = with_library(settings);
    options.SetIntraOpNumThreads(1);
    options.AddInitializer("weight", value);
    Ort::Session session(*env(), model.data(), model.size(), options);

    Buffer x(DType::kFloat32, kTokens * kWidth), logits(DType::kFloat32, kTokens * kHeads * kExperts);
    x.randomize(random);
    logits.randomize(random);
    const auto run = [&] {
      Buffer y(DType::kFloat32, kTokens * kHeads * kHeadWidth);
      std::vector<Ort::Value> inputs, outputs;
      inputs.push_back(tensor(x, {1, kTokens, kWidth}));
      inputs.push_back(tensor(logits, {1, kTokens, kHeads, kExperts}));
      outputs.push_back(tensor(y, {1, kTokens, kHeads, kHeadWidth}));
      const char* names[] = {"x", "logits"};
      const char* output = "y";
      session.Run(Ort::RunOptions(), names, inputs.data(), 2, &output, outputs.data(), 1);
      return y;
    };
    const Buffer before = run();
    weight.poison();
    const Buffer after = run();
    EXPECT_FALSE(std::isnan(before.at(0)));
    EXPECT_EQ(before.same_bits(after), limit != "0") << "limit '" << limit << "'";
  }
}

}  // namespace
}  // namespace hsm::testing
