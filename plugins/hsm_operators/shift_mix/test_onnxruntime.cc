// What ONNX Runtime may hand to the kernels with a ring: one buffer for the ring before and after.
#include <gtest/gtest.h>

#include <vector>

#include "tests/guarded_ring.h"
#include "tests/onnxruntime/library.h"
#include "tests/onnxruntime/one_node_model.h"

namespace hsm::testing {
namespace {

using Ring = Library;

// A step reads and writes its own slots and nothing else of the ring, however long it is.
TEST_F(Ring, AStepInPlaceTouchesOnlyTheSlotsOfItsToken) {
  constexpr std::size_t kSlots = 1000;
  constexpr std::size_t kPosition = 12345;
  GuardedRing ring(kSlots);
  ring.allow_reading((kPosition - 700) % kSlots);
  ring.allow_writing(kPosition % kSlots);
  const std::vector<opset::AttributeValue> attributes{{"shifts", {700}}};
  Ort::Session session = load(one_node_model(*opset::find("ShiftMixCached"), DType::kFloat32, attributes));

  const auto width = static_cast<std::int64_t>(ring.width());
  std::vector<float> x(ring.width(), 3.0f), weights(ring.width(), 0.5f), y(ring.width());
  std::vector<std::int64_t> position{kPosition}, lengths{1};
  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
  const auto floats = [&](float* data, const opset::Shape& shape) {
    const auto count = static_cast<std::size_t>(shape.size() == 1 ? width : shape[1] * width);
    return Ort::Value::CreateTensor<float>(memory, data, count, shape.data(), shape.size());
  };
  const opset::Shape rows{1};
  const auto ints = [&](std::vector<std::int64_t>& values) {
    return Ort::Value::CreateTensor<std::int64_t>(memory, values.data(), 1, rows.data(), 1);
  };
  Ort::IoBinding binding(session);
  binding.BindInput("x", floats(x.data(), {1, 1, width}));
  binding.BindInput("alpha", floats(weights.data(), {width}));
  binding.BindInput("beta", floats(weights.data(), {width}));
  binding.BindInput("ring", floats(ring.data(), {1, kSlots, width}));
  binding.BindInput("position", ints(position));
  binding.BindInput("lengths", ints(lengths));
  binding.BindOutput("y", floats(y.data(), {1, 1, width}));
  binding.BindOutput("ring_out", floats(ring.data(), {1, kSlots, width}));
  session.Run(Ort::RunOptions(), binding);
  EXPECT_EQ(y.back(), 1.5f);
  EXPECT_EQ(ring.slot(kPosition % kSlots)[0], 3.0f);
}

}  // namespace
}  // namespace hsm::testing
