// What the plugins refuse, and what they say then.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <utility>

#include "tests/sample.h"
#include "tests/tensorrt/builder.h"
#include "tests/tensorrt/device.h"
#include "tests/tensorrt/recorder.h"

namespace hsm::testing {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;
using ::testing::ElementsAre;

class Refusal : public ::testing::Test {
 protected:
  void SetUp() override { emulate(86); }

  // Tries to create an operator's plugin from these fields.
  static bool creates(const opset::Operator& op, FieldList& fields, TensorRTPhase phase = TensorRTPhase::kRUNTIME) {
    return PluginPointer(tensorrt::Creator(op).createPlugin("layers.0.mixer", fields.collection(), phase)) != nullptr;
  }

  // Expects one message, about a node.
  void said(const std::string& sentence) { EXPECT_THAT(log.take(), ElementsAre("layers.0.mixer: " + sentence)); }

  Recorder log;
};

std::string attribute_of(const opset::Operator& op, std::size_t index) {
  return std::string(op.name) + ": attribute " + std::string(op.attributes[index].name);
}

std::string input_of(const opset::Operator& op, std::size_t index) {
  return std::string(op.name) + ": input " + std::string(op.inputs[index].name);
}

// ---------------------------------------------------------------- attributes

TEST_F(Refusal, Int32AndInt64AreTaken) {
  for (const opset::Operator* op : cuda_operators()) {
    for (const bool wide : {false, true}) {
      FieldList fields(some_attributes(*op), wide);
      std::ranges::reverse(fields.fields());
      EXPECT_TRUE(creates(*op, fields)) << op->name;
    }
  }
  EXPECT_THAT(log.take(), ElementsAre());
}

// Fields lie in an engine file as they come.
TEST_F(Refusal, UnalignedFieldsAreTaken) {
  for (const opset::Operator* op : cuda_operators()) {
    const auto values = some_attributes(*op);
    FieldList fields(values);
    std::vector<std::vector<char>> bytes;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::size_t size = values[i].ints.size() * sizeof(std::int64_t);
      std::memcpy(bytes.emplace_back(size + 1).data() + 1, values[i].ints.data(), size);
      fields.fields()[i].data = bytes.back().data() + 1;
    }
    const PluginPointer plugin(tensorrt::Creator(*op).createPlugin("", fields.collection(), TensorRTPhase::kRUNTIME));
    ASSERT_NE(plugin, nullptr);
    EXPECT_STREQ(build(plugin).getMetadataString(), build(create(*op, values)).getMetadataString());
  }
}

TEST_F(Refusal, AttributesThatAreMissingOrWrong) {
  for (const opset::Operator* op : cuda_operators()) {
    const auto refused = [&](const std::vector<opset::AttributeValue>& values, const std::string& sentence) {
      for (const TensorRTPhase phase : {TensorRTPhase::kBUILD, TensorRTPhase::kRUNTIME}) {
        FieldList fields(values);
        EXPECT_FALSE(creates(*op, fields, phase));
        said(sentence);
      }
    };
    for (const BadValue& bad : bad_values(*op)) refused(bad.values, bad.sentence);
    for (std::size_t i = 0; i < op->attributes.size(); ++i) {
      auto values = some_attributes(*op);
      values[i].name = "another";
      refused(values, attribute_of(*op, i) + " is missing");
      values.erase(values.begin() + static_cast<std::ptrdiff_t>(i));
      refused(values, attribute_of(*op, i) + " is missing");
      values = some_attributes(*op);
      const bool is_list = op->attributes[i].type == opset::AttributeType::kInts;
      values[i].ints.resize(is_list ? 0 : 2);
      refused(values, attribute_of(*op, i) +
                          (is_list ? " must be a list of at least one integer" : " must be a single integer"));
    }
  }
}

TEST_F(Refusal, FieldsOfOtherTypesOrWithoutData) {
  for (const opset::Operator* op : cuda_operators()) {
    for (std::size_t i = 0; i < op->attributes.size(); ++i) {
      const auto refused = [&](auto change, const std::string& rest) {
        FieldList fields(some_attributes(*op));
        change(fields.fields()[i]);
        EXPECT_FALSE(creates(*op, fields));
        said(attribute_of(*op, i) + rest);
      };
      const bool is_list = op->attributes[i].type == opset::AttributeType::kInts;
      refused([](auto& field) { field.type = PluginFieldType::kFLOAT32; },
              " must be INT32 or INT64, got the field type 1");
      refused([](auto& field) { field.data = nullptr; }, " has no data");
      refused([](auto& field) { field.length = -1; }, " has no data");
      refused([](auto& field) { field.length = 0; },
              is_list ? " must be a list of at least one integer" : " must be a single integer");
      refused([](auto& field) { field.name = nullptr; }, " is missing");
    }
  }
}

TEST_F(Refusal, NoFieldsAtAll) {
  const nvinfer1::PluginFieldCollection broken{3, nullptr};
  for (const opset::Operator* op : cuda_operators()) {
    if (op->attributes.empty()) continue;
    for (const nvinfer1::PluginFieldCollection* fields : {&broken, static_cast<decltype(&broken)>(nullptr)}) {
      EXPECT_EQ(tensorrt::Creator(*op).createPlugin(nullptr, fields, TensorRTPhase::kRUNTIME), nullptr);
      EXPECT_THAT(log.take(), ElementsAre(attribute_of(*op, 0) + " is missing"));
    }
  }
}

// ---------------------------------------------------------------- types and shapes

TEST_F(Refusal, Types) {
  for (const opset::Operator* op : cuda_operators()) {
    const PluginPointer plugin = create(*op, some_attributes(*op));
    const std::size_t first = opset::first_t(*op);
    const auto refused = [&](const std::vector<DataType>& inputs, const std::string& sentence) {
      std::vector<DataType> outputs(op->outputs.size());
      EXPECT_NE(build(plugin).getOutputDataTypes(outputs.data(), static_cast<std::int32_t>(outputs.size()),
                                                 inputs.data(), static_cast<std::int32_t>(inputs.size())),
                0);
      said(sentence);
    };
    std::vector<DataType> good;
    for (const opset::Port& port : op->inputs) good.push_back(data_type(port, DType::kFloat16));
    for (std::size_t i = 0; i < good.size(); ++i) {
      auto types = good;
      types[i] = DataType::kINT32;
      const std::string like = " like input " + std::string(op->inputs[first].name);
      const std::string wanted = i == first                                           ? "float32, float16 or bfloat16"
                                 : op->inputs[i].type == opset::ElementType::kT       ? "float16" + like
                                 : op->inputs[i].type == opset::ElementType::kFloat32 ? "float32"
                                                                                      : "int64";
      refused(types, input_of(*op, i) + " must be " + wanted + ", got int32");
    }
    const std::string count = std::to_string(good.size());
    good.pop_back();
    refused(good, std::string(op->name) + " takes " + count + " inputs, got " + std::to_string(good.size()));
  }
}

TEST_F(Refusal, Shapes) {
  std::mt19937 random(1);
  for (const opset::Operator* op : cuda_operators()) {
    const PluginPointer plugin = create(*op, some_attributes(*op));
    const auto output_shapes = [&](const std::vector<opset::Shape>& shapes) {
      Expressions expressions;
      std::vector<nvinfer1::DimsExprs> inputs;
      for (const opset::Shape& shape : shapes) {
        nvinfer1::DimsExprs& dims = inputs.emplace_back();
        for (const std::int64_t size : shape) dims.d[dims.nbDims++] = expressions.constant(size);
      }
      std::vector<nvinfer1::DimsExprs> outputs(op->outputs.size());
      return build(plugin).getOutputShapes(inputs.data(), static_cast<std::int32_t>(inputs.size()), nullptr, 0,
                                           outputs.data(), static_cast<std::int32_t>(outputs.size()), expressions);
    };
    const Sample sample(*op, DType::kFloat32, 2, 6, random);
    for (const ChangedShapes& changed : changed_shapes(sample)) {
      EXPECT_EQ(output_shapes(changed.shapes) == 0, changed.sentence.empty());
      if (!changed.sentence.empty()) said(changed.sentence);
    }
    std::vector<opset::Shape> flat = sample.shapes();
    flat.front().pop_back();
    EXPECT_NE(output_shapes(flat), 0);
    EXPECT_THAT(log.take(), ElementsAre(::testing::HasSubstr(input_of(*op, 0) + " must have ")));
  }
}

// Sizes that the operator's rules refuse, made of good ones; nothing where no rule speaks of sizes.
std::optional<Sizes> against_the_rules(const opset::Operator& op, const Sizes& good) {
  for (const opset::Dimension& dim : op.dimensions) {
    for (const std::int64_t change : {1, -1}) {
      Sizes sizes = good;
      sizes[dim.name] += change;
      std::vector<opset::Shape> outputs;
      if (opset::infer_shapes(op, some_attributes(op), shapes(op.inputs, sizes), outputs)) return sizes;
    }
  }
  return std::nullopt;
}

TEST_F(Refusal, ProfilesAndRuns) {
  std::size_t refused = 0;
  for (const opset::Operator* op : cuda_operators()) {
    const PluginPointer plugin = create(*op, some_attributes(*op));
    const auto count = static_cast<std::int32_t>(op->inputs.size());
    const Sizes sizes = small_sizes(*op, 1, 2);
    auto unknown = describe(op->inputs, DType::kFloat32, sizes, sizes, sizes);
    unknown.front().max.d[1] = -1;
    EXPECT_NE(build(plugin).configurePlugin(unknown.data(), count, nullptr, 0), 0);
    said(std::string(op->name) + ": a size of input " + std::string(op->inputs.front().name) + " is not known");
    const auto wide = against_the_rules(*op, sizes);
    if (!wide) continue;
    ++refused;
    const auto wrong = describe(op->inputs, DType::kFloat32, sizes, sizes, *wide);
    EXPECT_NE(build(plugin).configurePlugin(wrong.data(), count, nullptr, 0), 0);
    EXPECT_EQ(build(plugin).getWorkspaceSize(wrong.data(), count, nullptr, 0), 0U);
    EXPECT_EQ(log.take().size(), 2U);
    const auto descs = describe(op->inputs, DType::kFloat32, *wide);
    EXPECT_NE(runtime(plugin).onShapeChange(descs.data(), count, nullptr, 0), 0);
    EXPECT_NE(runtime(plugin).onShapeChange(descs.data(), 0, nullptr, 0), 0);
    EXPECT_NE(runtime(plugin).enqueue(descs.data(), nullptr, nullptr, nullptr, nullptr, nullptr), 0);
    EXPECT_EQ(log.take().size(), 3U);
  }
  EXPECT_GT(refused, 0U);
}

TEST_F(Refusal, TacticsOfOtherVersions) {
  for (const opset::Operator* op : cuda_operators()) {
    const PluginPointer plugin = create(*op, some_attributes(*op));
    for (const std::int32_t tactic : {-1, 1000}) {
      EXPECT_NE(runtime(plugin).setTactic(tactic), 0);
      EXPECT_THAT(log.take(), ElementsAre(::testing::HasSubstr(std::string(op->name) + " has no tactic " +
                                                               std::to_string(tactic))));
    }
  }
}

}  // namespace
}  // namespace hsm::testing
