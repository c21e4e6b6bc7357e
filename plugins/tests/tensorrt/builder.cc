#include "tests/tensorrt/builder.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace hsm::testing {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IDimensionExpr;
using nvinfer1::PluginTensorDesc;

// ---------------------------------------------------------------- tensors

DataType data_type(const opset::Port& port, DType t) {
  switch (type_of(port, t)) {
    case DType::kFloat16:
      return DataType::kHALF;
    case DType::kBFloat16:
      return DataType::kBF16;
    case DType::kInt64:
      return DataType::kINT64;
    case DType::kUInt8:
      return DataType::kUINT8;
    case DType::kFloat32:
      break;
  }
  return DataType::kFLOAT;
}

nvinfer1::Dims to_dims(const opset::Shape& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  std::ranges::copy(shape, dims.d);
  return dims;
}

std::vector<PluginTensorDesc> describe(std::span<const opset::Port> ports, DType t, const Sizes& sizes) {
  std::vector<PluginTensorDesc> all;
  for (const opset::Port& port : ports) {
    all.push_back({to_dims(shape_of(port, sizes)), data_type(port, t), nvinfer1::TensorFormat::kLINEAR, 1.0f});
  }
  return all;
}

std::vector<DynamicPluginTensorDesc> describe(std::span<const opset::Port> ports, DType t, const Sizes& min,
                                              const Sizes& opt, const Sizes& max) {
  std::vector<DynamicPluginTensorDesc> all;
  for (std::size_t i = 0; i < ports.size(); ++i) {
    const auto port = ports.subspan(i, 1);
    all.push_back({describe(port, t, opt).front(), to_dims(shape_of(ports[i], min)), to_dims(shape_of(ports[i], max)),
                   to_dims(shape_of(ports[i], opt))});
  }
  return all;
}

// ---------------------------------------------------------------- expressions

namespace {

class Expression : public IDimensionExpr {
 public:
  Expression(std::int64_t own_value, bool is_constant) : value(own_value), implementation_(own_value, is_constant) {
    mImpl = &implementation_;
  }
  const std::int64_t value;

 private:
  class Implementation : public nvinfer1::apiv::VDimensionExpr {
   public:
    Implementation(std::int64_t value, bool is_constant) : value_(value), is_constant_(is_constant) {}
    bool isConstant() const override { return is_constant_; }
    std::int64_t getConstantValue() const override { return is_constant_ ? value_ : INT64_MIN; }
    bool isSizeTensor() const override { return false; }

   private:
    std::int64_t value_;
    bool is_constant_;
  };
  Implementation implementation_;
};

class Builder : public nvinfer1::apiv::VExprBuilder {
 public:
  explicit Builder(Expressions& owner) : owner_(owner) {}
  const IDimensionExpr* constant(std::int64_t value) override { return owner_.constant(value); }
  const IDimensionExpr* operation(nvinfer1::DimensionOperation, const IDimensionExpr&, const IDimensionExpr&) override {
    ADD_FAILURE() << "no output size of ours is computed";
    return nullptr;
  }
  const IDimensionExpr* declareSizeTensor(std::int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
    ADD_FAILURE() << "no output of ours has a size that depends on data";
    return nullptr;
  }

 private:
  Expressions& owner_;
};

}  // namespace

struct Expressions::State {
  explicit State(Expressions& owner) : builder(owner) {}
  Builder builder;
  std::deque<Expression> expressions;
};

Expressions::Expressions() : state_(std::make_unique<State>(*this)) { mImpl = &state_->builder; }

Expressions::~Expressions() = default;

const IDimensionExpr* Expressions::add(std::int64_t value, bool is_constant) {
  return &state_->expressions.emplace_back(value, is_constant);
}

std::int64_t Expressions::value_of(const IDimensionExpr* expression) const {
  return static_cast<const Expression*>(expression)->value;
}

std::vector<nvinfer1::DimsExprs> Expressions::inputs(std::span<const opset::Port> ports, const Sizes& sizes,
                                                     bool is_static) {
  std::vector<nvinfer1::DimsExprs> all;
  for (const opset::Port& port : ports) {
    nvinfer1::DimsExprs& dims = all.emplace_back();
    for (const opset::Dimension* dim : port.dims) {
      const bool is_dynamic = !is_static && (dim->name == "B" || dim->name == "T");
      dims.d[dims.nbDims++] = is_dynamic ? dynamic(sizes.at(dim->name)) : constant(sizes.at(dim->name));
    }
  }
  return all;
}

// ---------------------------------------------------------------- workspace

GuardedMemory::GuardedMemory(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t inside = (bytes + page - 1) / page * page;
  mapped_ = inside + 2 * page;
  mapping_ = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  auto* const first = static_cast<std::byte*>(mapping_) + page;
  if (inside > 0) {
    EXPECT_EQ(mprotect(first, inside, PROT_READ | PROT_WRITE), 0);
    std::memset(first, 0xff, inside);
  }
  constexpr std::size_t kAlignment = 256;  // what TensorRT gives
  data_ = first + (inside - bytes) / kAlignment * kAlignment;
}

GuardedMemory::~GuardedMemory() { munmap(mapping_, mapped_); }

// ---------------------------------------------------------------- plugins

FieldList::FieldList(const std::vector<opset::AttributeValue>& values, bool wide) {
  for (const opset::AttributeValue& value : values) {
    const char* const name = names_.emplace_back(value.name).c_str();
    const auto& narrow = narrow_.emplace_back(value.ints.begin(), value.ints.end());
    const auto& original = wide_.emplace_back(value.ints);
    fields_.emplace_back(name, wide ? static_cast<const void*>(original.data()) : narrow.data(),
                         wide ? nvinfer1::PluginFieldType::kINT64 : nvinfer1::PluginFieldType::kINT32,
                         static_cast<std::int32_t>(value.ints.size()));
  }
  collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
}

PluginPointer create(const opset::Operator& op, const std::vector<opset::AttributeValue>& attributes,
                     nvinfer1::TensorRTPhase phase) {
  return PluginPointer(tensorrt::Creator(op).createPlugin("layers.0.mixer", FieldList(attributes).collection(), phase));
}

template <typename Capability>
Capability& capability(const PluginPointer& plugin, nvinfer1::PluginCapabilityType type) {
  return *static_cast<Capability*>(plugin->getCapabilityInterface(type));
}

nvinfer1::IPluginV3OneCore& core(const PluginPointer& plugin) {
  return capability<nvinfer1::IPluginV3OneCore>(plugin, nvinfer1::PluginCapabilityType::kCORE);
}

nvinfer1::IPluginV3OneBuild& build(const PluginPointer& plugin) {
  return capability<nvinfer1::IPluginV3OneBuild>(plugin, nvinfer1::PluginCapabilityType::kBUILD);
}

nvinfer1::IPluginV3OneRuntime& runtime(const PluginPointer& plugin) {
  return capability<nvinfer1::IPluginV3OneRuntime>(plugin, nvinfer1::PluginCapabilityType::kRUNTIME);
}

std::size_t configure(const PluginPointer& plugin, const opset::Operator& op, DType t, const Sizes& min,
                      const Sizes& opt, const Sizes& max) {
  const auto inputs = describe(op.inputs, t, min, opt, max);
  const auto outputs = describe(op.outputs, t, min, opt, max);
  const auto input_count = static_cast<std::int32_t>(inputs.size());
  const auto output_count = static_cast<std::int32_t>(outputs.size());
  EXPECT_EQ(build(plugin).configurePlugin(inputs.data(), input_count, outputs.data(), output_count), 0);
  return build(plugin).getWorkspaceSize(inputs.data(), input_count, outputs.data(), output_count);
}

// Makes every output that is an input's new value take that input's place.
void share_buffers(const Node& node, std::vector<const void*>& sources, std::vector<Tensor>& outputs) {
  for (std::size_t output = 0; output < outputs.size(); ++output) {
    for (std::size_t input = 0; input < sources.size(); ++input) {
      if (std::string(node.op.inputs[input].name) + "_out" != node.op.outputs[output].name) continue;
      std::memcpy(outputs[output].data(), sources[input], outputs[output].bytes());
      sources[input] = outputs[output].data();
    }
  }
}

void run(const PluginPointer& plugin, const Node& node, const Sizes& sizes, void* workspace, const std::string& what,
         RunOptions options) {
  const auto input_descs = describe(node.op.inputs, node.t, sizes);
  const auto output_descs = describe(node.op.outputs, node.t, sizes);
  if (options.announce) {
    ASSERT_EQ(runtime(plugin).onShapeChange(input_descs.data(), static_cast<std::int32_t>(input_descs.size()),
                                            output_descs.data(), static_cast<std::int32_t>(output_descs.size())),
              0)
        << what;
  }
  std::vector<Tensor> outputs = node.make_outputs();
  std::vector<const void*> sources = node.inputs();
  if (options.in_place) share_buffers(node, sources, outputs);
  const auto targets = pointers(outputs);
  ASSERT_EQ(runtime(plugin).enqueue(input_descs.data(), output_descs.data(), sources.data(), targets.data(), workspace,
                                    nullptr),
            0)
      << what;
  node.compare(outputs, what);
}

}  // namespace hsm::testing
