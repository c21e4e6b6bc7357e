// The plugins in the hands of a builder and a runtime that we play.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <set>

#include "launch.h"
#include "hsm_operators/common/cuda/kernels.h"
#include "tests/tensorrt/builder.h"
#include "tests/tensorrt/device.h"
#include "tests/tensorrt/recorder.h"
#include "tests/testing.h"

namespace hsm::testing {
namespace {

using nvinfer1::DataType;

class Plugin : public ::testing::TestWithParam<std::string_view> {
 protected:
  void SetUp() override { emulate(86); }

  const opset::Operator& op() const { return *opset::find(GetParam()); }
  PluginPointer make() const { return create(op(), some_attributes(op())); }
};

std::string name_of_case(const ::testing::TestParamInfo<std::string_view>& info) { return std::string(info.param); }

std::vector<std::string_view> all_operators() {
  std::vector<std::string_view> names;
  for (const opset::Operator* op : cuda_operators()) names.push_back(op->name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Tensorrt, Plugin, ::testing::ValuesIn(all_operators()), name_of_case);

// ---------------------------------------------------------------- build

TEST_P(Plugin, SaysWhatItIs) {
  const PluginPointer plugin = make();
  EXPECT_EQ(core(plugin).getPluginName(), GetParam());
  EXPECT_STREQ(core(plugin).getPluginVersion(), "1");
  EXPECT_STREQ(core(plugin).getPluginNamespace(), "hsm");
  EXPECT_EQ(build(plugin).getNbOutputs(), static_cast<std::int32_t>(op().outputs.size()));
  EXPECT_THAT(build(plugin).getMetadataString(), ::testing::StartsWith(std::string(GetParam()) + " "));
  EXPECT_EQ(plugin->getCapabilityInterface(static_cast<nvinfer1::PluginCapabilityType>(7)), nullptr);
}

// Engines of nodes that differ in an attribute must not share timings.
TEST_P(Plugin, TimingCacheIdHoldsTheAttributes) {
  std::set<std::string> ids{build(make()).getTimingCacheID()};
  for (std::size_t i = 0; i < op().attributes.size(); ++i) {
    auto attributes = some_attributes(op());
    attributes[i].ints.front() += attributes[i].ints.front() < op().attributes[i].most ? 1 : -1;
    ids.insert(build(create(op(), attributes)).getTimingCacheID());
  }
  EXPECT_EQ(ids.size(), 1 + op().attributes.size());
}

TEST_P(Plugin, OutputTypesAreTheTables) {
  for (const DType t : kTypes) {
    std::vector<DataType> inputs;
    for (const opset::Port& port : op().inputs) inputs.push_back(data_type(port, t));
    std::vector<DataType> outputs(op().outputs.size(), DataType::kBOOL);
    ASSERT_EQ(build(make()).getOutputDataTypes(outputs.data(), static_cast<std::int32_t>(outputs.size()), inputs.data(),
                                               static_cast<std::int32_t>(inputs.size())),
              0);
    for (std::size_t i = 0; i < outputs.size(); ++i) EXPECT_EQ(outputs[i], data_type(op().outputs[i], t));
  }
}

TEST_P(Plugin, OutputShapesAreThoseThatTheKernelsWrite) {
  std::mt19937 random(11);
  for (const bool is_static : {true, false}) {
    const Sizes sizes = small_sizes(op(), uniform(random, 1, 4), uniform(random, 1, 50));
    Expressions expressions;
    const auto inputs = expressions.inputs(op().inputs, sizes, is_static);
    std::vector<nvinfer1::DimsExprs> outputs(op().outputs.size());
    ASSERT_EQ(build(make()).getOutputShapes(inputs.data(), static_cast<std::int32_t>(inputs.size()), nullptr, 0,
                                            outputs.data(), static_cast<std::int32_t>(outputs.size()), expressions),
              0);
    const Node node(op(), DType::kFloat32, sizes, 1);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      opset::Shape shape;
      for (int axis = 0; axis < outputs[i].nbDims; ++axis) shape.push_back(expressions.value_of(outputs[i].d[axis]));
      EXPECT_EQ(shape, node.output_shapes[i]);
    }
  }
}

// A combination is accepted exactly when every tensor is linear and of the table's type for one T.
TEST_P(Plugin, FormatCombinationsAreTheTables) {
  const PluginPointer plugin = make();
  constexpr DataType kAll[] = {DataType::kFLOAT, DataType::kHALF, DataType::kBF16, DataType::kINT8,
                               DataType::kINT32, DataType::kBOOL, DataType::kINT64};
  const auto inputs = static_cast<std::int32_t>(op().inputs.size());
  const auto outputs = static_cast<std::int32_t>(op().outputs.size());
  for (const DType t : kTypes) {
    const Sizes sizes = small_sizes(op(), 2, 3);
    auto tensors = describe(op().inputs, t, sizes, sizes, sizes);
    for (const auto& output : describe(op().outputs, t, sizes, sizes, sizes)) tensors.push_back(output);
    for (std::int32_t position = 0; position < inputs + outputs; ++position) {
      nvinfer1::PluginTensorDesc& tensor = tensors[static_cast<std::size_t>(position)].desc;
      const DataType right = tensor.type;
      for (const DataType type : kAll) {
        tensor.type = type;
        const bool is_t = type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
        EXPECT_EQ(build(plugin).supportsFormatCombination(position, tensors.data(), inputs, outputs),
                  position == 0 ? is_t : type == right)
            << position << " " << static_cast<int>(type);
      }
      tensor.type = right;
      tensor.format = nvinfer1::TensorFormat::kCHW32;
      EXPECT_FALSE(build(plugin).supportsFormatCombination(position, tensors.data(), inputs, outputs));
      tensor.format = nvinfer1::TensorFormat::kLINEAR;
    }
    EXPECT_FALSE(build(plugin).supportsFormatCombination(inputs + outputs, tensors.data(), inputs, outputs));
    EXPECT_FALSE(build(plugin).supportsFormatCombination(0, tensors.data(), inputs - 1, outputs));
  }
}

// ---------------------------------------------------------------- workspace and runs

// TensorRT allocates the workspace of a profile's largest sizes and uses it for all sizes of the profile.
TEST_P(Plugin, WorkspaceOfTheLargestSizesDoesForAllSizes) {
  std::mt19937 random(12);
  const auto tactics = static_cast<std::int32_t>(cuda::kernels_of(op())->tactics().size());
  for (const DType t : kTypes) {
    const int batch = uniform(random, 1, 3);
    const int length = uniform(random, 20, 300);
    const PluginPointer plugin = make();
    const GuardedMemory workspace(configure(plugin, op(), t, small_sizes(op(), 1, 1), small_sizes(op(), 1, 16),
                                            small_sizes(op(), batch, length)));
    for (std::int32_t tactic = 0; tactic <= tactics; ++tactic) {
      ASSERT_EQ(runtime(plugin).setTactic(tactic), 0);
      for (const int tokens : {length, 1, uniform(random, 1, length)}) {
        const Sizes sizes = small_sizes(op(), tokens == length ? batch : uniform(random, 1, batch), tokens);
        run(plugin, Node(op(), t, sizes, 6), sizes, workspace.data(),
            "tactic " + std::to_string(tactic) + ", " + std::to_string(tokens) + " tokens");
      }
    }
  }
}

// By the launchers' own word: no size of the profile, tactic or GPU needs more than the engine holds.
TEST_P(Plugin, WorkspaceCoversEveryTacticOnEveryGpu) {
  std::mt19937 random(13);
  const cuda::Kernels& kernels = *cuda::kernels_of(op());
  const auto attributes = some_attributes(op());
  const std::vector<const void*> inputs(op().inputs.size());
  const std::vector<void*> outputs(op().outputs.size());
  const PluginPointer plugin = make();
  const std::size_t bytes = configure(plugin, op(), DType::kFloat16, small_sizes(op(), 1, 1), small_sizes(op(), 2, 100),
                                      small_sizes(op(), 4, 5000));
  for (int i = 0; i < 50; ++i) {
    cuda::Device gpu = emulate(std::array{75, 80, 86, 89, 90, 100, 120}[static_cast<std::size_t>(i % 7)]);
    gpu.multiprocessors = i % 2 == 0 ? 256 : uniform(random, 1, 256);
    const auto input_shapes =
        shapes(op().inputs,
               i < 7 ? small_sizes(op(), 4, 5000) : small_sizes(op(), uniform(random, 1, 4), uniform(random, 1, 5000)));
    for (int tactic = 0; tactic < std::ssize(kernels.tactics()); ++tactic) {
      EXPECT_LE(kernels.workspace({DType::kFloat16, attributes, input_shapes, inputs, outputs}, tactic, gpu), bytes)
          << kernels.tactics()[static_cast<std::size_t>(tactic)];
    }
  }
}

// The guard pages of the other tests would show a kernel that needs more than it said.
TEST_P(Plugin, ATouchPastItsWorkspaceIsSeen) {
  const Sizes sizes = small_sizes(op(), 1, 300);
  const PluginPointer plugin = make();
  if (configure(plugin, op(), DType::kFloat32, sizes, sizes, sizes) == 0) return;
  const GuardedMemory none(0);
  EXPECT_DEATH(run(plugin, Node(op(), DType::kFloat32, sizes, 1), sizes, none.data(), "no workspace"), "");
}

// TensorRT times every tactic that a plugin offers, so each must be right, and must be a kernel of its own.
TEST_P(Plugin, EveryTacticIsRightAndLaunchesAnotherKernel) {
  for (const int sm : {75, 80, 90, 120}) {
    emulate(sm);
    for (const DType t : kTypes) {
      std::set<std::vector<std::string>> seen;
      const Sizes sizes = small_sizes(op(), 2, 6);
      const PluginPointer plugin = make();
      const GuardedMemory workspace(configure(plugin, op(), t, sizes, sizes, sizes));
      std::vector<std::int32_t> tactics(static_cast<std::size_t>(build(plugin).getNbTactics()));
      ASSERT_EQ(build(plugin).getValidTactics(tactics.data(), build(plugin).getNbTactics()), 0);
      ASSERT_FALSE(tactics.empty());
      for (const std::int32_t tactic : tactics) {
        ASSERT_GT(tactic, 0) << "0 is TensorRT's own";
        ASSERT_EQ(runtime(plugin).setTactic(tactic), 0);
        simt::clear_launches();
        // In place, as decoding does: the tactic for one step is for that.
        run(plugin, Node(op(), t, sizes, 3), sizes, workspace.data(), "tactic " + std::to_string(tactic),
            {.in_place = true});
        std::vector<std::string> kernels;
        for (const simt::Launch& launch : simt::launches()) {
          kernels.push_back(launch.kernel + " " + std::to_string(launch.block.x) + " " + std::to_string(launch.grid.x));
        }
        ASSERT_FALSE(kernels.empty());
        EXPECT_TRUE(seen.insert(kernels).second)
            << "tactic " << tactic << " launches " << kernels.front() << " as another one does";
      }
    }
  }
}

// Sizes may change between runs, and TensorRT keeps a tactic that it chose at one length.
TEST_P(Plugin, SizesChangeBetweenRuns) {
  const Sizes largest = small_sizes(op(), 3, 70);
  const auto tactics = static_cast<std::int32_t>(cuda::kernels_of(op())->tactics().size());
  for (std::int32_t tactic = 0; tactic <= tactics; ++tactic) {
    const PluginPointer plugin = make();
    const GuardedMemory workspace(configure(plugin, op(), DType::kFloat16, small_sizes(op(), 1, 1), largest, largest));
    ASSERT_EQ(runtime(plugin).setTactic(tactic), 0);
    for (const auto& [batch, length] : {std::pair{3, 70}, {1, 1}, {2, 17}, {2, 17}, {1, 64}}) {
      const Sizes sizes = small_sizes(op(), batch, length);
      run(plugin, Node(op(), DType::kFloat16, sizes, 4), sizes, workspace.data(), "tactic " + std::to_string(tactic),
          {.announce = length != 17});
    }
  }
}

// Contexts of one engine have plugins of their own, attached to them.
TEST_P(Plugin, ContextsDoNotDisturbEachOther) {
  const Sizes large = small_sizes(op(), 2, 40);
  const Sizes small = small_sizes(op(), 1, 3);
  const PluginPointer plugin = make();
  const std::size_t bytes = configure(plugin, op(), DType::kFloat32, small, large, large);
  PluginPointer first(runtime(plugin).attachToContext(nullptr));
  PluginPointer second(runtime(plugin).attachToContext(nullptr));
  const GuardedMemory first_workspace(bytes);
  const GuardedMemory second_workspace(bytes);
  for (std::uint32_t i = 0; i < 3; ++i) {
    run(first, Node(op(), DType::kFloat32, large, i), large, first_workspace.data(), "first", {.announce = i == 0});
    run(second, Node(op(), DType::kFloat32, small, i), small, second_workspace.data(), "second", {.announce = i == 0});
  }
  first.reset();
  run(second, Node(op(), DType::kFloat32, small, 9), small, second_workspace.data(), "after the first");
}

// What decoding binds, so that a step need not copy the state.
TEST_P(Plugin, OneBufferMayBeAStateAndTheNewState) {
  for (const int length : {1, 3, 40}) {
    const Sizes sizes = small_sizes(op(), 2, length);
    const PluginPointer plugin = make();
    const GuardedMemory workspace(configure(plugin, op(), DType::kBFloat16, sizes, sizes, sizes));
    for (std::int32_t tactic = 0; tactic <= build(plugin).getNbTactics(); ++tactic) {
      ASSERT_EQ(runtime(plugin).setTactic(tactic), 0);
      run(plugin, Node(op(), DType::kBFloat16, sizes, 5), sizes, workspace.data(), "in place", {.in_place = true});
    }
  }
}

TEST_P(Plugin, AnEmptyBatchRunsNothing) {
  const Sizes sizes = small_sizes(op(), 0, 4);
  run(make(), Node(op(), DType::kFloat32, sizes, 1), sizes, nullptr, "empty");
}

// A tactic that is fastest at one length of a profile would be kept for all of them.
TEST_P(Plugin, OffersNoTacticsWhereTheBestOneChangesInsideTheProfile) {
  const cuda::Kernels& kernels = *cuda::kernels_of(op());
  const std::vector<Sizes> profile{small_sizes(op(), 1, 1), small_sizes(op(), 1, 512), small_sizes(op(), 8, 4096)};
  std::set<int> best;
  for (const Sizes& sizes : profile) {
    const auto attributes = some_attributes(op());
    const auto input_shapes = shapes(op().inputs, sizes);
    const std::vector<const void*> inputs(op().inputs.size());
    const std::vector<void*> outputs(op().outputs.size());
    best.insert(kernels.default_tactic({DType::kFloat16, attributes, input_shapes, inputs, outputs}, *present_device));
  }
  const PluginPointer plugin = make();
  configure(plugin, op(), DType::kFloat16, profile[0], profile[1], profile[2]);
  EXPECT_EQ(build(plugin).getNbTactics() == 0, best.size() > 1);
}

// TensorRT-RTX builds engines where there is no GPU.
TEST_P(Plugin, ConfiguresWithoutAGpuAndRefusesToRun) {
  present_device.reset();
  Recorder log;
  const Sizes sizes = small_sizes(op(), 2, 5);
  const PluginPointer plugin = make();
  configure(plugin, op(), DType::kBFloat16, sizes, sizes, sizes);
  EXPECT_EQ(build(plugin).getNbTactics(), 0);
  EXPECT_EQ(build(plugin).getValidTactics(nullptr, 0), 0);
  const Node node(op(), DType::kBFloat16, sizes, 1);
  auto outputs = node.make_outputs();
  const auto descs = describe(op().inputs, DType::kBFloat16, sizes);
  EXPECT_EQ(runtime(plugin).onShapeChange(descs.data(), static_cast<std::int32_t>(descs.size()), nullptr, 0), 0);
  EXPECT_NE(
      runtime(plugin).enqueue(descs.data(), nullptr, node.inputs().data(), pointers(outputs).data(), nullptr, nullptr),
      0);
  EXPECT_THAT(log.take(), ::testing::ElementsAre(::testing::HasSubstr("there is no GPU to run on")));
}

// An engine may run on a larger GPU than it was built on, and its workspace must do there too.
TEST_P(Plugin, WorkspaceDoesNotDependOnTheGpu) {
  const Sizes sizes = small_sizes(op(), 3, 500);
  std::set<std::size_t> bytes;
  for (const int multiprocessors : {1, 40, 250}) {
    present_device->multiprocessors = multiprocessors;
    const PluginPointer plugin = make();
    bytes.insert(configure(plugin, op(), DType::kFloat16, sizes, sizes, sizes));
    const GuardedMemory workspace(*bytes.begin());
    const Sizes run_sizes = small_sizes(op(), 2, 130);
    run(plugin, Node(op(), DType::kFloat16, run_sizes, 1), run_sizes, workspace.data(), "large GPU");
  }
  EXPECT_EQ(bytes.size(), 1);
}

// ---------------------------------------------------------------- serialisation

TEST_P(Plugin, FieldsMakeTheSamePluginAgain) {
  const PluginPointer plugin = make();
  for (const nvinfer1::TensorRTPhase phase : {nvinfer1::TensorRTPhase::kBUILD, nvinfer1::TensorRTPhase::kRUNTIME}) {
    const nvinfer1::PluginFieldCollection* fields = runtime(plugin).getFieldsToSerialize();
    ASSERT_NE(fields, nullptr);
    const PluginPointer again(tensorrt::Creator(op()).createPlugin("again", fields, phase));
    ASSERT_NE(again, nullptr);
    EXPECT_STREQ(build(again).getMetadataString(), build(plugin).getMetadataString());
    EXPECT_STREQ(build(again).getTimingCacheID(), build(plugin).getTimingCacheID());
    const Sizes sizes = small_sizes(op(), 1, 5);
    const GuardedMemory workspace(configure(again, op(), DType::kFloat32, sizes, sizes, sizes));
    run(again, Node(op(), DType::kFloat32, sizes, 1), sizes, workspace.data(), "again");
  }
}

TEST_P(Plugin, ACloneIsIndependent) {
  PluginPointer plugin = make();
  ASSERT_EQ(runtime(plugin).setTactic(1), 0);
  const PluginPointer clone(plugin->clone());
  const std::string description = build(plugin).getMetadataString();
  plugin.reset();
  EXPECT_EQ(build(clone).getMetadataString(), description);
  const Sizes sizes = small_sizes(op(), 2, 5);
  const GuardedMemory workspace(configure(clone, op(), DType::kFloat32, sizes, sizes, sizes));
  run(clone, Node(op(), DType::kFloat32, sizes, 1), sizes, workspace.data(), "clone");
}

}  // namespace
}  // namespace hsm::testing
