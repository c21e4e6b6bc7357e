#include "onnxruntime/adapter.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "onnxruntime/kernels.h"
#include "onnxruntime/status.h"

namespace hsm::onnxruntime {
namespace {

// One node of a session.
struct Kernel {
  const OrtApi& api;
  const opset::Operator& op;
  DType type;
  std::vector<opset::AttributeValue> attributes;
  Packed packed;
};

const CustomOp& self(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }

ONNXTensorElementDataType element_type(DType type) {
  switch (type) {
    case DType::kFloat32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case DType::kFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DType::kBFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    case DType::kInt64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case DType::kUInt8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

// The type of a port in a node whose T is `type`.
ONNXTensorElementDataType element_type(const opset::Port& port, DType type) {
  switch (port.type) {
    case opset::ElementType::kFloat32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case opset::ElementType::kInt64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case opset::ElementType::kBool:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
    case opset::ElementType::kUInt8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case opset::ElementType::kT:
      break;
  }
  return element_type(type);
}

[[noreturn]] void refuse(const OrtApi& api, const std::string& text) {
  throw StatusError(make_status(api, ORT_INVALID_ARGUMENT, text));
}

// ---------------------------------------------------------------- attributes

std::string kind_of(const opset::Attribute& attribute) {
  switch (attribute.type) {
    case opset::AttributeType::kInt:
      return "an integer";
    case opset::AttributeType::kInts:
      return "a list of integers";
    case opset::AttributeType::kFloat:
      break;
  }
  return "a float";
}

// Throws a sentence when a call that reads an attribute of a node failed.
void require_attribute(const CustomOp& custom, const opset::Attribute& attribute, OrtStatus* status) {
  if (status == nullptr) return;
  custom.api.ReleaseStatus(status);
  refuse(custom.api, std::string(custom.op.name) + ": attribute " + std::string(attribute.name) +
                         " is missing or is not " + kind_of(attribute));
}

opset::AttributeValue kernel_attribute(const CustomOp& custom, const OrtKernelInfo* info,
                                       const opset::Attribute& attribute) {
  const OrtApi& api = custom.api;
  const std::string name(attribute.name);
  opset::AttributeValue value{attribute.name, {}};
  if (attribute.type == opset::AttributeType::kFloat) {
    value.floats = {0.0f};
    require_attribute(custom, attribute, api.KernelInfoGetAttribute_float(info, name.c_str(), value.floats.data()));
  } else if (attribute.type == opset::AttributeType::kInt) {
    value.ints = {0};
    require_attribute(custom, attribute, api.KernelInfoGetAttribute_int64(info, name.c_str(), value.ints.data()));
  } else {
    std::size_t count = 0;
    require_attribute(custom, attribute, api.KernelInfoGetAttributeArray_int64(info, name.c_str(), nullptr, &count));
    value.ints.resize(count);
    if (count > 0) require(api.KernelInfoGetAttributeArray_int64(info, name.c_str(), value.ints.data(), &count));
  }
  return value;
}

template <typename T>
std::vector<T> inferred_numbers(const OrtApi& api, const OrtOpAttr* found, OrtOpAttrType kind) {
  std::size_t bytes = 0;
  // The first call only asks for the size; it reports the small buffer as an error.
  if (OrtStatus* status = api.ReadOpAttr(found, kind, nullptr, 0, &bytes)) api.ReleaseStatus(status);
  std::vector<T> values(bytes / sizeof(T));
  if (!values.empty()) require(api.ReadOpAttr(found, kind, values.data(), bytes, &bytes));
  return values;
}

opset::AttributeValue inferred_attribute(const CustomOp& custom, const OrtShapeInferContext* context,
                                         const opset::Attribute& attribute) {
  const OrtApi& api = custom.api;
  const OrtOpAttr* found = nullptr;
  require_attribute(custom, attribute,
                    api.ShapeInferContext_GetAttribute(context, std::string(attribute.name).c_str(), &found));
  if (attribute.type == opset::AttributeType::kFloat) {
    return {attribute.name, {}, inferred_numbers<float>(api, found, ORT_OP_ATTR_FLOAT)};
  }
  const OrtOpAttrType kind = attribute.type == opset::AttributeType::kInt ? ORT_OP_ATTR_INT : ORT_OP_ATTR_INTS;
  return {attribute.name, inferred_numbers<std::int64_t>(api, found, kind)};
}

template <typename Read>
std::vector<opset::AttributeValue> read_attributes(const OrtApi& api, const opset::Operator& op, Read read) {
  std::vector<opset::AttributeValue> values;
  for (const opset::Attribute& attribute : op.attributes) values.push_back(read(attribute));
  if (const auto problem = opset::check_attributes(op, values)) refuse(api, *problem);
  return values;
}

// ---------------------------------------------------------------- shape inference

// Element type, sizes and names of the dimensions that a port has; -1 and "" where unknown.
struct Dims {
  ONNXTensorElementDataType type;
  opset::Shape sizes;
  std::vector<std::string> symbols;
};

Dims input_dims(const OrtApi& api, const OrtShapeInferContext* context, std::size_t index) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  require(api.ShapeInferContext_GetInputTypeShape(context, index, &info));
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  require(api.GetTensorElementType(info, &type));
  std::size_t rank = 0;
  require(api.GetDimensionsCount(info, &rank));
  Dims dims{type, opset::Shape(rank), std::vector<std::string>(rank)};
  std::vector<const char*> symbols(rank, "");
  require(api.GetDimensions(info, dims.sizes.data(), rank));
  require(api.GetSymbolicDimensions(info, symbols.data(), rank));
  for (std::size_t axis = 0; axis < rank; ++axis) {
    if (symbols[axis] != nullptr) dims.symbols[axis] = symbols[axis];
    if (!dims.symbols[axis].empty()) dims.sizes[axis] = -1;
  }
  return dims;
}

// Returns the name that the model gives a dimension, from the first input that has one.
std::string symbol_of(const opset::Operator& op, std::span<const Dims> inputs, const opset::Dimension* dim) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    for (std::size_t axis = 0; axis < op.inputs[i].dims.size(); ++axis) {
      if (op.inputs[i].dims[axis] == dim && !inputs[i].symbols[axis].empty()) return inputs[i].symbols[axis];
    }
  }
  return "";
}

// Returns a port's element type in this node. ONNX Runtime asks the first of the operators of one name, whatever the
// node's types are, so T is read from the inputs.
ONNXTensorElementDataType inferred_type(const opset::Operator& op, const opset::Port& port,
                                        std::span<const Dims> inputs) {
  const std::size_t first = opset::first_t(op);
  if (port.type != opset::ElementType::kT || first == inputs.size()) return element_type(port, DType::kFloat32);
  return inputs[first].type;
}

void set_output(const CustomOp& custom, OrtShapeInferContext* context, std::size_t index, const opset::Shape& shape,
                std::span<const Dims> inputs) {
  const OrtApi& api = custom.api;
  OrtTensorTypeAndShapeInfo* created = nullptr;
  require(api.CreateTensorTypeAndShapeInfo(&created));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api.ReleaseTensorTypeAndShapeInfo)> info(
      created, api.ReleaseTensorTypeAndShapeInfo);
  const opset::Port& port = custom.op.outputs[index];
  std::vector<std::string> names;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    names.push_back(shape[axis] < 0 ? symbol_of(custom.op, inputs, port.dims[axis]) : "");
  }
  std::vector<const char*> symbols;
  for (const std::string& name : names) symbols.push_back(name.c_str());
  require(api.SetTensorElementType(info.get(), inferred_type(custom.op, port, inputs)));
  require(api.SetDimensions(info.get(), shape.data(), shape.size()));
  require(api.SetSymbolicDimensions(info.get(), symbols.data(), symbols.size()));
  require(api.ShapeInferContext_SetOutputTypeShape(context, index, info.get()));
}

OrtStatusPtr infer(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const CustomOp& custom = self(op);
  const OrtApi& api = custom.api;
  return guarded(api, [&]() -> OrtStatus* {
    std::vector<Dims> inputs;
    std::vector<opset::Shape> shapes;
    for (std::size_t i = 0; i < custom.op.inputs.size(); ++i) {
      inputs.push_back(input_dims(api, context, i));
      // An input of unknown rank says nothing about the outputs; the kernel will check it.
      if (inputs.back().sizes.empty() && !custom.op.inputs[i].dims.empty()) return nullptr;
      shapes.push_back(inputs.back().sizes);
    }
    const auto attributes = read_attributes(api, custom.op, [&](const opset::Attribute& attribute) {
      return inferred_attribute(custom, context, attribute);
    });
    std::vector<opset::Shape> outputs;
    if (const auto problem = opset::infer_shapes(custom.op, attributes, shapes, outputs)) refuse(api, *problem);
    for (std::size_t i = 0; i < outputs.size(); ++i) set_output(custom, context, i, outputs[i], inputs);
    return nullptr;
  });
}

// ---------------------------------------------------------------- kernels

opset::Shape sizes_of(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info) {
  std::size_t rank = 0;
  require(api.GetDimensionsCount(info, &rank));
  opset::Shape shape(rank);
  require(api.GetDimensions(info, shape.data(), rank));
  return shape;
}

opset::Shape shape_of(const OrtApi& api, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  require(api.GetTensorTypeAndShape(value, &info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api.ReleaseTensorTypeAndShapeInfo)> owned(
      info, api.ReleaseTensorTypeAndShapeInfo);
  return sizes_of(api, info);
}

// Refuses shapes that cannot be right, as far as the model says them. ONNX Runtime drops what shape inference says.
void check_known_shapes(const CustomOp& custom, const OrtKernelInfo* info,
                        std::span<const opset::AttributeValue> attributes) {
  const OrtApi& api = custom.api;
  std::vector<opset::Shape> shapes;
  for (std::size_t i = 0; i < custom.op.inputs.size(); ++i) {
    OrtTypeInfo* type = nullptr;
    // An input whose type has no shape at all is an error here; the kernel will check it when it runs.
    if (OrtStatus* status = api.KernelInfo_GetInputTypeInfo(info, i, &type)) return api.ReleaseStatus(status);
    const std::unique_ptr<OrtTypeInfo, decltype(api.ReleaseTypeInfo)> owned(type, api.ReleaseTypeInfo);
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    require(api.CastTypeInfoToTensorInfo(type, &tensor));
    if (tensor == nullptr) return;
    shapes.push_back(sizes_of(api, tensor));
    if (shapes.back().empty() && !custom.op.inputs[i].dims.empty()) return;
  }
  std::vector<opset::Shape> outputs;
  if (const auto problem = opset::infer_shapes(custom.op, attributes, shapes, outputs)) refuse(api, *problem);
}

Packed pack_constants(const CustomOp& custom, const OrtKernelInfo* info) {
  const OrtApi& api = custom.api;
  for (std::size_t i = 0; i < custom.op.inputs.size(); ++i) {
    int is_constant = 0;
    const OrtValue* value = nullptr;
    require(api.KernelInfoGetConstantInput_tensor(info, i, &is_constant, &value));
    if (is_constant == 0) continue;
    void* data = nullptr;
    require(api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
    if (auto packed = pack_constant(custom.op, custom.type, i, shape_of(api, value), data, custom.packed_limit)) {
      return packed;
    }
  }
  return nullptr;
}

OrtStatusPtr create_kernel(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  const CustomOp& custom = self(op);
  return guarded(*api, [&]() -> OrtStatus* {
    auto attributes = read_attributes(
        *api, custom.op, [&](const opset::Attribute& attribute) { return kernel_attribute(custom, info, attribute); });
    check_known_shapes(custom, info, attributes);
    *kernel = std::make_unique<Kernel>(
                  Kernel{custom.api, custom.op, custom.type, std::move(attributes), pack_constants(custom, info)})
                  .release();
    return nullptr;
  });
}

void destroy_kernel(void* kernel) { std::unique_ptr<Kernel>(static_cast<Kernel*>(kernel)); }

// One call of ParallelFor. No exception may cross ONNX Runtime's threads: the first one waits here.
struct Job {
  ParallelFor::Task task;
  void* context;
  std::once_flag failed{};
  std::exception_ptr error{};

  void run(std::size_t index) noexcept {
    try {
      task(context, index);
    } catch (...) {
      std::call_once(failed, [this] { error = std::current_exception(); });
    }
  }
};

// ParallelFor on the session's own pool. ONNX Runtime's C API wants its own pair of function and user data.
void run_on_pool(void* pool, std::size_t count, ParallelFor::Task task, void* context) {
  Job job{task, context};
  const auto& [api, kernel_context] = *static_cast<std::pair<const OrtApi*, const OrtKernelContext*>*>(pool);
  require(api->KernelContext_ParallelFor(
      kernel_context, [](void* data, std::size_t index) { static_cast<Job*>(data)->run(index); }, count, 0, &job));
  if (job.error) std::rethrow_exception(job.error);
}

OrtStatusPtr run(void* data, OrtKernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(data);
  const OrtApi& api = kernel.api;
  return guarded(api, [&]() -> OrtStatus* {
    std::vector<opset::Shape> shapes;
    std::vector<const void*> inputs;
    for (std::size_t i = 0; i < kernel.op.inputs.size(); ++i) {
      const OrtValue* value = nullptr;
      require(api.KernelContext_GetInput(context, i, &value));
      shapes.push_back(shape_of(api, value));
      void* tensor = nullptr;
      require(api.GetTensorMutableData(const_cast<OrtValue*>(value), &tensor));
      inputs.push_back(tensor);
    }
    std::vector<opset::Shape> output_shapes;
    if (const auto problem = opset::infer_shapes(kernel.op, kernel.attributes, shapes, output_shapes)) {
      refuse(api, *problem);
    }
    if (execution_provider() == nullptr) {
      if (const auto problem = opset::check_rows(kernel.op, kernel.attributes, shapes, inputs)) refuse(api, *problem);
    }
    std::vector<void*> outputs;
    for (std::size_t i = 0; i < output_shapes.size(); ++i) {
      OrtValue* value = nullptr;
      require(api.KernelContext_GetOutput(context, i, output_shapes[i].data(), output_shapes[i].size(), &value));
      void* tensor = nullptr;
      require(api.GetTensorMutableData(value, &tensor));
      outputs.push_back(tensor);
    }
    std::pair<const OrtApi*, const OrtKernelContext*> pool{&api, context};
    compute(kernel.op, {kernel.type, kernel.attributes, shapes, inputs, outputs, kernel.packed.get()},
            {ParallelFor(run_on_pool, &pool), &api, context});
    return nullptr;
  });
}

// Releases what opset::list_in_place made.
void release_in_place(int* input, int* output) {
  delete[] input;
  delete[] output;
}

}  // namespace

CustomOp::CustomOp(const OrtApi& own_api, const opset::Operator& own_op, DType own_type, std::size_t own_packed_limit)
    : OrtCustomOp{}, api(own_api), op(own_op), type(own_type), packed_limit(own_packed_limit) {
  version = ORT_API_VERSION;
  GetName = [](const OrtCustomOp* o) { return self(o).op.name.data(); };
  GetExecutionProviderType = [](const OrtCustomOp*) { return execution_provider(); };
  GetInputType = [](const OrtCustomOp* o, std::size_t i) { return element_type(self(o).op.inputs[i], self(o).type); };
  GetInputTypeCount = [](const OrtCustomOp* o) { return self(o).op.inputs.size(); };
  GetOutputType = [](const OrtCustomOp* o, std::size_t i) { return element_type(self(o).op.outputs[i], self(o).type); };
  GetOutputTypeCount = [](const OrtCustomOp* o) { return self(o).op.outputs.size(); };
  GetInputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
  GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
  GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return OrtMemTypeDefault; };
  GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  // A version takes every node of the versions before, with the same meaning.
  GetStartVersion = [](const OrtCustomOp*) { return 1; };
  GetEndVersion = [](const OrtCustomOp* o) { return self(o).op.version; };
  InferOutputShapeFn = infer;
  CreateKernelV2 = create_kernel;
  KernelComputeV2 = run;
  KernelDestroy = destroy_kernel;
  GetMayInplace = own_op.list_in_place;
  if (GetMayInplace != nullptr) ReleaseMayInplace = release_in_place;
}

}  // namespace hsm::onnxruntime
