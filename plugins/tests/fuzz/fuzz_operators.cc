// libFuzzer target for what an ONNX file or a caller can choose: attributes, shapes, `lengths`, `position` and
// contents.
//
// Whatever the table accepts must have sizes whose products fit in 63 bits. What is also small is run on buffers of
// exactly the right size, so that AddressSanitizer sees every access beyond them, and compared with the definition.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "hwy/targets.h"
#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/common/opset.h"
#include "hsm_operators/common/definition.h"
#include "onnxruntime/kernels.h"
#include "tests/cases.h"

namespace hsm::fuzz {
namespace {

using opset::Operator;
using opset::Port;
using opset::Shape;

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

// Elements of the largest tensor, and operations of the call, up to which kernels and definition are run.
constexpr std::int64_t kMaxElements = 1 << 16;
constexpr std::int64_t kMaxWork = 1 << 22;
constexpr std::int64_t kMaxDefinitionWork = 1 << 17;
// How far apart the numbers are that an attribute is mostly drawn from.
constexpr std::int64_t kWidestChoice = 40;

struct Node {
  const Operator& op;
  DType type;
  std::vector<opset::AttributeValue> attributes;
  std::vector<Shape> shapes;
  std::vector<Shape> output_shapes;
};

[[noreturn]] void fail(const Node& node, const std::string& what) {
  std::fprintf(stderr, "%s (%s): %s\n", std::string(node.op.name).c_str(), name_of(node.type), what.c_str());
  std::abort();
}

// ---------------------------------------------------------------- drawing a node

std::int64_t any_integer(FuzzedDataProvider& data) {
  constexpr std::int64_t kEdges[] = {0,         1,         2,         3,         kMax,      kMax - 1, -1, -kMax - 1,
                                     1ll << 20, 1ll << 31, 1ll << 32, 1ll << 59, 1ll << 62, 255,      256};
  return data.ConsumeBool() ? data.PickValueInArray(kEdges) : data.ConsumeIntegral<std::int64_t>();
}

std::int64_t small_size(FuzzedDataProvider& data) {
  constexpr std::int64_t kSizes[] = {0,  1,  2,  3,  4,  5,  7,   8,   9,   15,  16,
                                     17, 24, 31, 33, 49, 65, 127, 129, 193, 513, 1030};
  return data.ConsumeBool() ? data.PickValueInArray(kSizes) : data.ConsumeIntegralInRange<std::int64_t>(0, 20);
}

// A number that an attribute may have: near its least one, which is where sizes are small.
std::int64_t likely_number(FuzzedDataProvider& data, const opset::Attribute& attribute) {
  const std::int64_t least = std::max(attribute.least, -kWidestChoice);
  return data.ConsumeIntegralInRange(least, std::min(attribute.most, least + kWidestChoice));
}

std::vector<opset::AttributeValue> draw_attributes(FuzzedDataProvider& data, const Operator& op) {
  std::vector<opset::AttributeValue> values;
  for (const opset::Attribute& attribute : op.attributes) {
    if (data.ConsumeIntegralInRange(0, 31) == 31) continue;
    const bool is_list = attribute.type == opset::AttributeType::kInts;
    const bool is_wild = data.ConsumeIntegralInRange(0, 15) == 15;
    std::vector<std::int64_t> ints(
        data.ConsumeIntegralInRange<std::size_t>(is_wild ? 0 : 1, is_list || is_wild ? 6 : 1));
    for (std::int64_t& value : ints) value = is_wild ? any_integer(data) : likely_number(data, attribute);
    values.push_back({attribute.name, std::move(ints)});
  }
  return values;
}

std::vector<Shape> draw_shapes(FuzzedDataProvider& data, const Node& node) {
  testing::Sizes sizes;
  for (const opset::Dimension& dim : node.op.dimensions) sizes[dim.name] = small_size(data);
  // Sizes that mostly agree with each other and with the attributes.
  if (!opset::check_attributes(node.op, node.attributes)) testing::adjust(node.op, node.attributes, sizes);
  if (data.ConsumeIntegralInRange(0, 7) == 7) {
    const auto dims = node.op.dimensions;
    sizes[dims[data.ConsumeIntegralInRange<std::size_t>(0, dims.size() - 1)].name] = any_integer(data);
  }
  std::vector<Shape> shapes;
  for (const Port& port : node.op.inputs) shapes.push_back(testing::shape_of(port, sizes));
  const int mutations = data.ConsumeIntegralInRange(0, 15) < 13 ? 0 : data.ConsumeIntegralInRange(1, 4);
  for (int i = 0; i < mutations; ++i) {
    Shape& shape = shapes[data.ConsumeIntegralInRange<std::size_t>(0, shapes.size() - 1)];
    if (data.ConsumeIntegralInRange(0, 3) == 0) shape.resize(data.ConsumeIntegralInRange<std::size_t>(0, 6));
    if (!shape.empty()) shape[data.ConsumeIntegralInRange<std::size_t>(0, shape.size() - 1)] = any_integer(data);
  }
  if (data.ConsumeIntegralInRange(0, 63) == 63) shapes.resize(data.ConsumeIntegralInRange<std::size_t>(0, 8));
  return shapes;
}

// ---------------------------------------------------------------- what the table accepts

// Returns the elements of the largest tensor; kMaxElements + 1 when a size is unknown.
std::int64_t check_products(const Node& node) {
  std::int64_t largest = 0;
  const auto visit = [&](const std::vector<Shape>& shapes) {
    for (const Shape& shape : shapes) {
      std::int64_t product = 1;
      std::int64_t count = 1;
      for (const std::int64_t size : shape) {
        if (size > 0 && __builtin_mul_overflow(product, size, &product)) fail(node, "accepted sizes that overflow");
        count = size < 0 ? kMaxElements + 1 : std::min(count, kMaxElements + 1) * std::min(size, kMaxElements + 1);
      }
      if (product > kMax / 8) fail(node, "accepted a tensor whose bytes overflow");
      largest = std::max(largest, count);
      if (std::ranges::any_of(shape, [](std::int64_t size) { return size < 0; })) largest = kMaxElements + 1;
    }
  };
  visit(node.shapes);
  visit(node.output_shapes);
  return largest;
}

testing::Sizes sizes_of(const Node& node) {
  testing::Sizes sizes;
  for (std::size_t i = 0; i < node.shapes.size(); ++i) {
    for (std::size_t axis = 0; axis < node.shapes[i].size(); ++axis) {
      sizes[node.op.inputs[i].dims[axis]->name] = node.shapes[i][axis];
    }
  }
  return sizes;
}

// The operations of a call, and the elements of its tensors.
double work_of(const Node& node) {
  double work = testing::flops_of(node.op, node.attributes, sizes_of(node));
  for (const std::vector<Shape>& shapes : {node.shapes, node.output_shapes}) {
    for (const Shape& shape : shapes) {
      double elements = 1;
      for (const std::int64_t size : shape) elements *= static_cast<double>(size);
      work += elements;
    }
  }
  return work;
}

// ---------------------------------------------------------------- running it

DType type_of(const Node& node, const Port& port) {
  switch (port.type) {
    case opset::ElementType::kFloat32:
      return DType::kFloat32;
    case opset::ElementType::kInt64:
      return DType::kInt64;
    case opset::ElementType::kBool:
      fail(node, "has a bool input, which this target does not draw");
    case opset::ElementType::kUInt8:
      return DType::kUInt8;
    case opset::ElementType::kT:
      break;
  }
  return node.type;
}

// A heap block that ends exactly where the tensor ends and is aligned for its elements only.
class Tensor {
 public:
  Tensor(DType type, const Shape& shape, std::size_t misaligned) : type_(type), count_(1) {
    for (const std::int64_t size : shape) count_ *= static_cast<std::size_t>(size);
    offset_ = misaligned * size_of(type);
    bytes_ = std::make_unique<std::byte[]>(offset_ + count_ * size_of(type));
    std::fill_n(bytes_.get(), offset_ + count_ * size_of(type), std::byte{0xff});  // NaN in every type
  }

  std::size_t count() const { return count_; }
  void* data() { return bytes_.get() + offset_; }
  const void* data() const { return bytes_.get() + offset_; }

  double at(std::size_t i) const {
    double value = 0;
    cpu::with_element(
        type_, [&](auto element) { value = cpu::load<decltype(element)>(data(), static_cast<std::int64_t>(i)); });
    return value;
  }
  void set(std::size_t i, double value) {
    cpu::with_element(
        type_, [&](auto element) { cpu::store<decltype(element)>(data(), static_cast<std::int64_t>(i), value); });
  }

 private:
  DType type_;
  std::size_t count_;
  std::size_t offset_;
  std::unique_ptr<std::byte[]> bytes_;
};

struct Inputs {
  std::vector<Tensor> tensors;
  bool is_wild = false;  // holds infinities, NaN, or numbers that overflow
};

void fill(FuzzedDataProvider& data, const Node& node, std::size_t input, Tensor& tensor, bool is_wild,
          std::mt19937& random) {
  const Port& port = node.op.inputs[input];
  if (port.type == opset::ElementType::kInt64) {
    const testing::Sizes sizes = sizes_of(node);
    const auto [least, most] = testing::row_range(node.op, port, node.attributes, sizes);
    for (std::size_t i = 0; i < tensor.count(); ++i) {
      std::int64_t value = most < least ? least : data.ConsumeIntegralInRange(least, most);
      const int choice = data.ConsumeIntegralInRange(0, 31);
      if (choice == 31) value = any_integer(data);
      if (choice == 30) value = kMax - node.shapes.front()[1];
      static_cast<std::int64_t*>(tensor.data())[i] = value;
    }
    return;
  }
  if (port.type == opset::ElementType::kUInt8) {
    for (std::size_t i = 0; i < tensor.count(); ++i) {
      static_cast<std::uint8_t*>(tensor.data())[i] = static_cast<std::uint8_t>(random());
    }
    return;
  }
  testing::draw(node.op, input, node.shapes[input], random, [&](std::size_t i, double value) { tensor.set(i, value); });
  constexpr float kWild[] = {0.0f,
                             -0.0f,
                             std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::quiet_NaN(),
                             3e38f,
                             -3e38f,
                             1e-44f,
                             65504.0f,
                             -100.0f,
                             100.0f};
  for (std::size_t i = 0; is_wild && i < tensor.count(); ++i) {
    if (random() % 4 == 0) tensor.set(i, double{kWild[random() % std::size(kWild)]});
  }
}

Inputs draw_inputs(FuzzedDataProvider& data, const Node& node) {
  Inputs inputs;
  inputs.is_wild = data.ConsumeIntegralInRange(0, 7) == 7;
  std::mt19937 random(data.ConsumeIntegral<std::uint32_t>());
  for (std::size_t i = 0; i < node.shapes.size(); ++i) {
    const Port& port = node.op.inputs[i];
    inputs.tensors.emplace_back(type_of(node, port), node.shapes[i], data.ConsumeIntegralInRange<std::size_t>(0, 3));
    fill(data, node, i, inputs.tensors.back(), inputs.is_wild, random);
  }
  return inputs;
}

std::vector<Tensor> make_outputs(const Node& node) {
  std::vector<Tensor> outputs;
  for (std::size_t i = 0; i < node.output_shapes.size(); ++i) {
    outputs.emplace_back(type_of(node, node.op.outputs[i]), node.output_shapes[i], i);
  }
  return outputs;
}

// Runs the tasks from the last to the first: no order is promised.
void run_backwards(void*, std::size_t count, ParallelFor::Task task, void* context) {
  for (std::size_t index = count; index > 0; --index) task(context, index - 1);
}

// The bound finds wrong elements; how exact the right ones are is for the unit tests.
void compare(const Node& node, std::span<const void* const> inputs, std::size_t output, const Tensor& actual,
             const Tensor& expected) {
  double largest = 0;
  for (std::size_t i = 0; i < expected.count(); ++i) {
    if (std::isfinite(expected.at(i))) largest = std::max(largest, std::fabs(expected.at(i)));
  }
  const double unit = node.type == DType::kBFloat16 ? 0x1p-7 : node.type == DType::kFloat16 ? 0x1p-10 : 0x1p-23;
  const auto batch = static_cast<std::size_t>(node.shapes.front()[0]);
  for (std::size_t b = 0; b < batch; ++b) {
    const std::size_t per_row = expected.count() / batch;
    const std::size_t count = testing::valid_elements(node.op, output, node.output_shapes[output], inputs, b);
    for (std::size_t i = b * per_row; i < b * per_row + count; ++i) {
      const double bound = 2 * unit * std::fabs(expected.at(i)) + 5e-4 * largest + 1e-6;
      if (std::isnan(expected.at(i)) && std::isnan(actual.at(i))) continue;
      if (!(std::fabs(actual.at(i) - expected.at(i)) <= bound)) {
        fail(node, "output " + std::to_string(output) + " element " + std::to_string(i) + " is " +
                       std::to_string(actual.at(i)) + ", expected " + std::to_string(expected.at(i)));
      }
    }
  }
}

void run(FuzzedDataProvider& data, const Node& node) {
  Inputs inputs = draw_inputs(data, node);
  const bool backwards = data.ConsumeBool();
  const bool in_place = data.ConsumeBool();
  const bool is_packed = data.ConsumeBool();
  std::vector<const void*> pointers;
  for (const Tensor& tensor : inputs.tensors) pointers.push_back(tensor.data());
  if (const auto problem = opset::check_rows(node.op, node.attributes, node.shapes, pointers)) return;

  const Definition* definition = definition_of(node.op);
  const bool has_definition =
      definition != nullptr && !inputs.is_wild && work_of(node) <= static_cast<double>(kMaxDefinitionWork);
  std::vector<Tensor> expected = make_outputs(node);
  const auto call = [&](const std::vector<void*>& outputs) {
    return Call{node.type, node.attributes, node.shapes, pointers, outputs};
  };
  Packed packed;
  for (std::size_t i = 0; is_packed && packed == nullptr && i < pointers.size(); ++i) {
    packed = onnxruntime::pack_constant(node.op, node.type, i, node.shapes[i], pointers[i], std::size_t{1} << 24);
  }
  std::vector<void*> targets;
  for (Tensor& tensor : expected) targets.push_back(tensor.data());
  if (has_definition) definition->run(call(targets));

  // A state may be one buffer before and after the call.
  std::vector<Tensor> actual = make_outputs(node);
  targets.clear();
  for (std::size_t i = 0; i < actual.size(); ++i) {
    targets.push_back(actual[i].data());
    for (const auto& [past, present] : node.op.in_place) {
      if (in_place && present == static_cast<int>(i)) {
        targets.back() = inputs.tensors[static_cast<std::size_t>(past)].data();
      }
    }
  }
  Call fast = call(targets);
  fast.packed = packed.get();
  onnxruntime::compute(node.op, fast, {backwards ? ParallelFor(run_backwards, nullptr) : ParallelFor()});
  if (!has_definition) return;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    for (Tensor& input : inputs.tensors) {
      if (targets[i] == input.data() && targets[i] != actual[i].data()) {
        compare(node, pointers, i, input, expected[i]);
        targets[i] = nullptr;
      }
    }
    if (targets[i] != nullptr) compare(node, pointers, i, actual[i], expected[i]);
  }
}

bool is_empty(const Shape& shape) { return std::ranges::find(shape, 0) != shape.end(); }

void choose_instruction_set(FuzzedDataProvider& data) {
  static const std::vector<std::int64_t> targets = [] {
    hwy::SetSupportedTargetsForTest(0);
    return hwy::SupportedAndGeneratedTargets();
  }();
  hwy::SetSupportedTargetsForTest(targets[data.ConsumeIntegralInRange<std::size_t>(0, targets.size() - 1)]);
}

void test_one(FuzzedDataProvider& data) {
  constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
  std::vector<const Operator*> operators;
  for (const Operator& op : opset::operators()) {
    if (onnxruntime::has_kernel(op)) operators.push_back(&op);
  }
  Node node{*operators[data.ConsumeIntegralInRange<std::size_t>(0, operators.size() - 1)],
            data.PickValueInArray(kTypes),
            {},
            {},
            {}};
  node.attributes = draw_attributes(data, node.op);
  node.shapes = draw_shapes(data, node);
  if (const auto problem = opset::check_attributes(node.op, node.attributes)) return;
  if (const auto problem = opset::infer_shapes(node.op, node.attributes, node.shapes, node.output_shapes)) return;
  if (check_products(node) > kMaxElements) return;
  if (work_of(node) > static_cast<double>(kMaxWork) && !std::ranges::all_of(node.output_shapes, is_empty)) return;
  choose_instruction_set(data);
  run(data, node);
}

}  // namespace
}  // namespace hsm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  FuzzedDataProvider data(bytes, size);
  hsm::fuzz::test_one(data);
  return 0;
}
