// What the plugins refuse, and what they say then.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <utility>

#include "tests/tensorrt/builder.h"
#include "tests/tensorrt/device.h"
#include "tests/tensorrt/recorder.h"

namespace hsm::testing {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;
using ::testing::ElementsAre;

const opset::Operator& find(std::string_view name) { return *opset::find(name); }

class Refusal : public ::testing::Test {
 protected:
  void SetUp() override { emulate(86); }

  // Tries to create an operator's plugin from these fields.
  static bool creates(std::string_view op, FieldList& fields, TensorRTPhase phase = TensorRTPhase::kRUNTIME) {
    return PluginPointer(tensorrt::Creator(find(op)).createPlugin("layers.0.mixer", fields.collection(), phase)) !=
           nullptr;
  }

  Recorder log;
};

// ---------------------------------------------------------------- attributes

TEST_F(Refusal, Int32AndInt64AreTaken) {
  for (const opset::Operator* op : cuda_operators()) {
    for (const bool wide : {false, true}) {
      FieldList fields(some_attributes(*op), wide);
      std::ranges::reverse(fields.fields());
      EXPECT_TRUE(creates(op->name, fields)) << op->name;
    }
  }
  EXPECT_THAT(log.take(), ElementsAre());
}

// Fields lie in an engine file as they come.
TEST_F(Refusal, UnalignedFieldsAreTaken) {
  char bytes[1 + 3 * sizeof(std::int64_t)];
  const std::int64_t shifts[] = {1, 2, 4};
  std::memcpy(bytes + 1, shifts, sizeof shifts);
  const nvinfer1::PluginField field("shifts", bytes + 1, PluginFieldType::kINT64, 3);
  const nvinfer1::PluginFieldCollection fields{1, &field};
  const PluginPointer plugin(tensorrt::Creator(find("TokenShift")).createPlugin("", &fields, TensorRTPhase::kRUNTIME));
  ASSERT_NE(plugin, nullptr);
  EXPECT_STREQ(build(plugin).getMetadataString(), "TokenShift shifts=1,2,4");
}

TEST_F(Refusal, AttributesThatAreMissingOrWrong) {
  const auto refused = [&](std::string_view op, std::vector<opset::AttributeValue> values,
                           const std::string& sentence) {
    for (const TensorRTPhase phase : {TensorRTPhase::kBUILD, TensorRTPhase::kRUNTIME}) {
      FieldList fields(values);
      EXPECT_FALSE(creates(op, fields, phase));
      EXPECT_THAT(log.take(), ElementsAre("layers.0.mixer: " + sentence));
    }
  };
  refused("ShiftMix", {}, "ShiftMix: attribute shifts is missing");
  refused("ShiftMix", {{"shift", {1}}}, "ShiftMix: attribute shifts is missing");
  refused("TokenShift", {{"shifts", {}}}, "TokenShift: attribute shifts must be a list of at least one integer");
  refused("TokenShiftCached", {{"shifts", {1, -2}}}, "TokenShiftCached: attribute shifts must be at least 0, got -2");
  refused("TaylorShift", {{"normalize", {1}}}, "TaylorShift: attribute output_norm is missing");
  refused("TaylorShift", {{"normalize", {1}}, {"output_norm", {2}}},
          "TaylorShift: attribute output_norm must be 0 or 1, got 2");
  refused("ExpertMatMul", {{"k", {0}}}, "ExpertMatMul: attribute k must be at least 1, got 0");
  refused("ExpertMatMulSum", {{"k", {1, 2}}}, "ExpertMatMulSum: attribute k must be a single integer");
}

TEST_F(Refusal, FieldsOfOtherTypesOrWithoutData) {
  const auto with = [&](auto change) {
    FieldList fields({{"k", {2}}});
    change(fields.fields().front());
    EXPECT_FALSE(creates("ExpertMatMul", fields));
    return log.take();
  };
  EXPECT_THAT(with([](auto& field) { field.type = PluginFieldType::kFLOAT32; }),
              ElementsAre("layers.0.mixer: ExpertMatMul: attribute k must be INT32 or INT64, got the field type 1"));
  EXPECT_THAT(with([](auto& field) { field.data = nullptr; }),
              ElementsAre("layers.0.mixer: ExpertMatMul: attribute k has no data"));
  EXPECT_THAT(with([](auto& field) { field.length = -1; }),
              ElementsAre("layers.0.mixer: ExpertMatMul: attribute k has no data"));
  EXPECT_THAT(with([](auto& field) { field.length = 0; }),
              ElementsAre("layers.0.mixer: ExpertMatMul: attribute k must be a single integer"));
  EXPECT_THAT(with([](auto& field) { field.name = nullptr; }),
              ElementsAre("layers.0.mixer: ExpertMatMul: attribute k is missing"));
}

TEST_F(Refusal, NoFieldsAtAll) {
  const nvinfer1::PluginFieldCollection broken{3, nullptr};
  for (const nvinfer1::PluginFieldCollection* fields : {&broken, static_cast<decltype(&broken)>(nullptr)}) {
    EXPECT_EQ(tensorrt::Creator(find("ShiftMix")).createPlugin(nullptr, fields, TensorRTPhase::kRUNTIME), nullptr);
    EXPECT_THAT(log.take(), ElementsAre("ShiftMix: attribute shifts is missing"));
  }
}

// ---------------------------------------------------------------- types and shapes

std::int32_t output_types(std::string_view op, const std::vector<DataType>& inputs) {
  std::vector<DataType> outputs(find(op).outputs.size());
  return build(create(find(op), some_attributes(find(op))))
      .getOutputDataTypes(outputs.data(), static_cast<std::int32_t>(outputs.size()), inputs.data(),
                          static_cast<std::int32_t>(inputs.size()));
}

TEST_F(Refusal, Types) {
  EXPECT_NE(output_types("TokenShift", {DataType::kINT32}), 0);
  EXPECT_THAT(log.take(),
              ElementsAre("layers.0.mixer: TokenShift: input x must be float32, float16 or bfloat16, got int32"));
  EXPECT_NE(output_types("ShiftMix", {DataType::kHALF, DataType::kHALF, DataType::kFLOAT}), 0);
  EXPECT_THAT(log.take(),
              ElementsAre("layers.0.mixer: ShiftMix: input beta must be float16 like input x, got float32"));
  EXPECT_NE(output_types("ExpertMatMul", {DataType::kBF16, DataType::kBF16, DataType::kBF16}), 0);
  EXPECT_THAT(log.take(), ElementsAre("layers.0.mixer: ExpertMatMul: input logits must be float32, got bfloat16"));
  const std::vector<DataType> masked(5, DataType::kFLOAT);
  EXPECT_NE(output_types("TaylorShiftMasked", masked), 0);
  EXPECT_THAT(log.take(), ElementsAre("layers.0.mixer: TaylorShiftMasked: input lengths must be int64, got float32"));
  EXPECT_NE(output_types("ShiftMix", {DataType::kFLOAT}), 0);
  EXPECT_THAT(log.take(), ElementsAre("layers.0.mixer: ShiftMix takes 3 inputs, got 1"));
}

std::int32_t output_shapes(std::string_view op, std::vector<opset::Shape> shapes) {
  Expressions expressions;
  std::vector<nvinfer1::DimsExprs> inputs;
  for (const opset::Shape& shape : shapes) {
    nvinfer1::DimsExprs& dims = inputs.emplace_back();
    for (const std::int64_t size : shape) {
      dims.d[dims.nbDims++] = size < 0 ? expressions.dynamic(3) : expressions.constant(size);
    }
  }
  std::vector<nvinfer1::DimsExprs> outputs(find(op).outputs.size());
  return build(create(find(op), some_attributes(find(op))))
      .getOutputShapes(inputs.data(), static_cast<std::int32_t>(inputs.size()), nullptr, 0, outputs.data(),
                       static_cast<std::int32_t>(outputs.size()), expressions);
}

TEST_F(Refusal, Shapes) {
  EXPECT_EQ(output_shapes("TokenShift", {{-1, -1, 12}}), 0);
  EXPECT_NE(output_shapes("TokenShift", {{-1, 12}}), 0);
  EXPECT_THAT(log.take(), ElementsAre("layers.0.mixer: TokenShift: input x must have 3 dimensions (B,T,D), got 2"));
  EXPECT_NE(output_shapes("TokenShift", {{-1, -1, 13}}), 0);
  EXPECT_THAT(log.take(), ElementsAre("layers.0.mixer: TokenShift: width D = 13 does not split into 3 equal groups, "
                                      "one per shift"));
  EXPECT_NE(output_shapes("ShiftMix", {{-1, -1, 12}, {12}, {13}}), 0);
  EXPECT_THAT(log.take(), ElementsAre("layers.0.mixer: ShiftMix: input beta has size 13 in dimension D of (D), but "
                                      "another input has 12"));
  EXPECT_NE(output_shapes("ExpertMatMul", {{-1, -1, 12}, {-1, -1, 2, 1}, {2, 1, 12, 8}}), 0);
  EXPECT_THAT(log.take(), ElementsAre("layers.0.mixer: ExpertMatMul: k = 2 exceeds the number of experts E = 1"));
}

TEST_F(Refusal, ProfilesAndRuns) {
  const opset::Operator& op = find("TokenShift");
  const PluginPointer plugin = create(op, some_attributes(op));
  const Sizes sizes = small_sizes(op, 1, 2);
  Sizes wide = sizes;
  wide["D"] = 13;
  const auto wrong = describe(op.inputs, DType::kFloat32, sizes, sizes, wide);
  EXPECT_NE(build(plugin).configurePlugin(wrong.data(), 1, nullptr, 0), 0);
  EXPECT_EQ(build(plugin).getWorkspaceSize(wrong.data(), 1, nullptr, 0), 0U);
  EXPECT_EQ(log.take().size(), 2U);
  auto unknown = describe(op.inputs, DType::kFloat32, sizes, sizes, sizes);
  unknown.front().max.d[1] = -1;
  EXPECT_NE(build(plugin).configurePlugin(unknown.data(), 1, nullptr, 0), 0);
  EXPECT_THAT(log.take(), ElementsAre("layers.0.mixer: TokenShift: a size of input x is not known"));
  const auto descs = describe(op.inputs, DType::kFloat32, wide);
  EXPECT_NE(runtime(plugin).onShapeChange(descs.data(), 1, nullptr, 0), 0);
  EXPECT_NE(runtime(plugin).onShapeChange(descs.data(), 0, nullptr, 0), 0);
  EXPECT_NE(runtime(plugin).enqueue(descs.data(), nullptr, nullptr, nullptr, nullptr, nullptr), 0);
  EXPECT_EQ(log.take().size(), 3U);
}

TEST_F(Refusal, TacticsOfOtherVersions) {
  const opset::Operator& op = find("TaylorShift");
  const PluginPointer plugin = create(op, some_attributes(op));
  for (const std::int32_t tactic : {-1, 1000}) {
    EXPECT_NE(runtime(plugin).setTactic(tactic), 0);
    EXPECT_THAT(log.take(), ElementsAre(::testing::HasSubstr("TaylorShift has no tactic " + std::to_string(tactic))));
  }
}

}  // namespace
}  // namespace hsm::testing
