// TensorRT's runtime with tables of virtual functions made by hand, in the layout of the version that it says it has.
// Its engines are named by their files' content: "doubling" and "counting" compute what the models of bundle_writer.h
// do.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "runtime/tensorrt/objects.h"
#include "tests/runtime/devices/fake_gpu.h"

#define FAKE_EXPORT extern "C" __attribute__((visibility("default")))

FAKE_EXPORT hsm::testing::FakeGpu* hsm_fake_gpu();

namespace hsm::testing {
namespace {

using runtime::trt::Dims;
using runtime::trt::Layout;
using runtime::trt::VCudaEngine;
using runtime::trt::VExecutionContext;
using runtime::trt::VRuntime;

FakeGpu& gpu() { return *hsm_fake_gpu(); }
bool is_10() { return gpu().version >= 100000 && gpu().version < 110000; }
Layout layout() { return is_10() ? Layout::kTensorRt10 : Layout::kTensorRt11; }

constexpr std::int32_t kFloat = 0, kFloat8 = 6, kInt64 = 8, kInput = 1, kOutput = 2;

// ---------------------------------------------------------------- engines

struct Tensor {
  std::string name;
  std::int32_t mode, type;
  std::vector<std::int64_t> shape;                // -1: dynamic
  std::vector<std::vector<std::int64_t>> ranges;  // per profile: min, max
};

struct Definition {
  std::vector<Tensor> tensors;
  int profiles = 0;
};

Definition doubling() {
  return {{{"x", kInput, kFloat, {-1, 3}, {{1, 3}, {8, 3}, {1, 3}, {2, 3}}}, {"y", kOutput, kFloat, {-1, 3}, {}}}, 2};
}

// Steps, and prompts of two to eight tokens.
Definition counting() {
  const std::vector<std::vector<std::int64_t>> rows = {{1}, {4}, {1}, {4}};
  const std::vector<std::vector<std::int64_t>> state = {{1, 1, 4}, {4, 1, 4}, {1, 1, 4}, {4, 1, 4}};
  return {{{"tokens", kInput, kInt64, {-1, -1}, {{1, 2}, {4, 8}, {1, 1}, {4, 1}}},
           {"position", kInput, kInt64, {-1}, rows},
           {"lengths", kInput, kInt64, {-1}, rows},
           {"past.0.sum", kInput, kFloat, {-1, 1, 4}, state},
           {"logits", kOutput, kFloat, {-1, -1, 4}, {}},
           {"present.0.sum", kOutput, kFloat, {-1, 1, 4}, {}}},
          2};
}

Dims dims_of(const std::vector<std::int64_t>& shape) {
  Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

std::string text_of(const Dims& dims) {
  std::string text = "(";
  for (std::int32_t i = 0; i < dims.nbDims; ++i) text += (i == 0 ? "" : ", ") + std::to_string(dims.d[i]);
  return text + ")";
}

// ---------------------------------------------------------------- objects

using Table = std::array<void*, 64>;

// Any function that the back end has no reason to call.
void* unexpected() {
  gpu().violations.push_back("a virtual function that the back end should not call");
  return nullptr;
}

template <typename F>
void* place(F* function) {
  return reinterpret_cast<void*>(function);
}

// Puts a function where the version's table has the one that TensorRT's headers declare.
template <typename Class, typename Declared, typename F>
void put(Table& table, Declared Class::* declared, F* function) {
  table[static_cast<std::size_t>(runtime::trt::place_in(layout(), declared))] = place(function);
}

Table empty_table() {
  Table table;
  table.fill(place(unexpected));
  return table;
}

struct Object {
  Object(std::string own_kind, void (*destroy)(Object*)) : table(empty_table()), kind(std::move(own_kind)) {
    shell_table = empty_table();
    shell_table[1] = place(destroy);
    functions = table.data();
    ++gpu().live[kind];
  }
  ~Object() { --gpu().live[kind]; }

  // What TensorRT's headers call the interface, and after it what they call its implementation.
  void* const* shell = shell_table.data();
  void* implementation = &functions;
  void* const* functions = nullptr;
  Table shell_table, table;
  std::string kind;
};

// The object of which `implementation` is the second part.
template <typename T>
T& of(void* functions) {
  constexpr std::size_t kOffset = 2 * sizeof(void*);
  return *static_cast<T*>(reinterpret_cast<Object*>(static_cast<char*>(functions) - kOffset));
}

template <typename T>
void destroy(Object* shell) {
  const std::lock_guard lock(gpu().mutex);
  gpu().calls.push_back("~" + shell->kind);
  delete static_cast<T*>(shell);
}

struct Context : Object {
  explicit Context(const Definition& own) : Object("context", destroy<Context>), definition(own) {}
  ~Context() {
    if (in_flight > 0) gpu().violations.push_back("a context destroyed while it runs");
  }
  const Tensor* find(const char* name) const {
    for (const Tensor& tensor : definition.tensors) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }
  Definition definition;
  int profile = -1;
  std::map<std::string, Dims> shapes;
  std::map<std::string, void*> addresses;
  int in_flight = 0;
  void* stream = nullptr;
};

bool set_profile(void* self, std::int32_t profile, void* stream) {
  if (gpu().fails("setOptimizationProfileAsync", std::to_string(profile))) return false;
  of<Context>(self).profile = profile;
  gpu().enqueue(stream, [] {});
  return true;
}

bool set_input_shape(void* self, const char* name, const Dims* dims) {
  if (gpu().fails("setInputShape", name + (" " + text_of(*dims)))) return false;
  Context& context = of<Context>(self);
  const Tensor* tensor = context.find(name);
  if (tensor == nullptr || tensor->mode != kInput || context.profile < 0) return false;
  const auto at = static_cast<std::size_t>(2 * context.profile);
  for (std::int32_t i = 0; i < dims->nbDims; ++i) {
    const auto axis = static_cast<std::size_t>(i);
    if (dims->d[i] < tensor->ranges[at][axis] || dims->d[i] > tensor->ranges[at + 1][axis]) return false;
  }
  context.shapes[name] = *dims;
  return true;
}

Dims context_shape(void* self, const char* name) {
  Context& context = of<Context>(self);
  const auto& shapes = context.shapes;
  if (const auto found = shapes.find(name); found != shapes.end()) return found->second;
  if (gpu().has_unknown_output) return dims_of({-1, 3});
  const std::string_view output = name;
  if (output == "y") return shapes.at("x");
  if (output == "present.0.sum") return shapes.at("past.0.sum");
  const Dims& tokens = shapes.at("tokens");
  return dims_of({tokens.d[0], tokens.d[1], 4});
}

bool set_address(void* self, const char* name, void* address) {
  if (gpu().fails("setTensorAddress", name)) return false;
  const std::lock_guard lock(gpu().mutex);
  if (reinterpret_cast<std::uintptr_t>(address) % 256 != 0) gpu().violations.push_back("an address not aligned");
  if (!gpu().is_device_memory(address, 1)) gpu().violations.push_back("an address that is not the device's");
  of<Context>(self).addresses[name] = address;
  return true;
}

std::int32_t infer_shapes(void* self, std::int32_t, const char**) {
  if (gpu().fails("inferShapes")) return -1;
  const Context& context = of<Context>(self);
  const auto& tensors = context.definition.tensors;
  return static_cast<std::int32_t>(std::count_if(tensors.begin(), tensors.end(), [&](const Tensor& tensor) {
    return tensor.mode == kInput && !context.shapes.contains(tensor.name);
  }));
}

void double_it(const std::map<std::string, void*>& at, const Dims& x) {
  const auto* in = static_cast<const float*>(at.at("x"));
  auto* out = static_cast<float*>(at.at("y"));
  for (std::int64_t i = 0; i < x.d[0] * x.d[1]; ++i) out[i] = 2 * in[i];
}

void count(const std::map<std::string, void*>& at, const Dims& shape) {
  const std::int64_t rows = shape.d[0], length = shape.d[1];
  const auto* tokens = static_cast<const std::int64_t*>(at.at("tokens"));
  const auto* lengths = static_cast<const std::int64_t*>(at.at("lengths"));
  const auto* past = static_cast<const float*>(at.at("past.0.sum"));
  auto* present = static_cast<float*>(at.at("present.0.sum"));
  auto* logits = static_cast<float*>(at.at("logits"));
  for (std::int64_t row = 0; row < rows; ++row) {
    std::array<float, 4> sum;
    std::copy_n(past + row * 4, 4, sum.begin());
    for (std::int64_t t = 0; t < length && lengths[row] > 0; ++t) {
      ++sum[static_cast<std::size_t>(tokens[row * length + t])];
    }
    std::copy_n(sum.begin(), 4, present + row * 4);
    for (std::int64_t t = 0; t < length; ++t) {
      float* const out = logits + (row * length + t) * 4;
      std::copy_n(sum.begin(), 4, out);
      ++out[tokens[row * length + t]];
    }
  }
}

bool enqueue(void* self, void* stream) {
  if (gpu().fails("enqueueV3")) return false;
  const std::lock_guard lock(gpu().mutex);
  Context& context = of<Context>(self);
  if (context.in_flight > 0 && context.stream != stream) gpu().violations.push_back("a context on two streams at once");
  for (const Tensor& tensor : context.definition.tensors) {
    if (!context.addresses.contains(tensor.name)) gpu().violations.push_back("no address of " + tensor.name);
  }
  ++context.in_flight;
  context.stream = stream;
  gpu().enqueue(stream, [&context, at = context.addresses, shapes = context.shapes] {
    if (shapes.contains("x")) {
      double_it(at, shapes.at("x"));
    } else {
      count(at, shapes.at("tokens"));
    }
    --context.in_flight;
  });
  return true;
}

struct Engine : Object {
  explicit Engine(Definition own) : Object("engine", destroy<Engine>), definition(std::move(own)) {}
  const Tensor& at(const char* name) const {
    return *std::find_if(definition.tensors.begin(), definition.tensors.end(),
                         [&](const Tensor& tensor) { return tensor.name == name; });
  }
  Definition definition;
};

void* create_context(void* self, std::int32_t) {
  if (gpu().fails("createExecutionContext")) return nullptr;
  const std::lock_guard lock(gpu().mutex);
  auto* context = new Context(of<Engine>(self).definition);
  put(context->table, &VExecutionContext::setOptimizationProfileAsync, set_profile);
  put(context->table, &VExecutionContext::setInputShape, set_input_shape);
  put(context->table, &VExecutionContext::getTensorShape, context_shape);
  put(context->table, &VExecutionContext::setTensorAddress, set_address);
  put(context->table, &VExecutionContext::inferShapes, infer_shapes);
  put(context->table, &VExecutionContext::enqueueV3, enqueue);
  return static_cast<Object*>(context);
}

std::int32_t profile_count(void* self) { return of<Engine>(self).definition.profiles; }
Dims tensor_shape(void* self, const char* name) { return dims_of(of<Engine>(self).at(name).shape); }
std::int32_t tensor_type(void* self, const char* name) {
  return gpu().has_strange_type ? kFloat8 : of<Engine>(self).at(name).type;
}
bool is_shape_tensor(void*, const char*) { return gpu().has_shape_tensor; }
std::int32_t tensor_mode(void* self, const char* name) { return of<Engine>(self).at(name).mode; }
std::int32_t tensor_count(void* self) { return static_cast<std::int32_t>(of<Engine>(self).definition.tensors.size()); }
const char* tensor_name(void* self, std::int32_t index) {
  if (gpu().fails("getIOTensorName")) return nullptr;
  return of<Engine>(self).definition.tensors[static_cast<std::size_t>(index)].name.c_str();
}
Dims profile_shape(void* self, const char* name, std::int32_t profile, std::int32_t which) {
  const Tensor& tensor = of<Engine>(self).at(name);
  return dims_of(tensor.ranges[static_cast<std::size_t>(2 * profile + (which == 0 ? 0 : 1))]);
}

// The registry is an object without an implementation apart; nobody but the runtime owns it.
struct Registry {
  void* const* functions = nullptr;
  Table table = empty_table();
};

void* load_library(void*, const char* path) {
  if (gpu().fails("loadLibrary")) return nullptr;
  gpu().plugin_libraries.emplace_back(path);
  return hsm_fake_gpu();
}

struct Runtime : Object {
  Runtime() : Object("runtime", destroy<Runtime>) {
    registry.functions = registry.table.data();
    const int at = is_10() ? runtime::trt::place_of(&tensorrt::abi10::Registry::load_library)
                           : runtime::trt::place_of(&tensorrt::abi11::Registry::load_library);
    registry.table[static_cast<std::size_t>(at)] = place(load_library);
  }
  Registry registry;
  void* logger = nullptr;
};

HSM_FOREIGN_CLASS void say(void* logger, std::int32_t severity, const char* message) {
  if (is_10()) {
    static_cast<tensorrt::abi10::Logger*>(logger)->log(severity, message);
  } else {
    static_cast<tensorrt::abi11::Logger*>(logger)->log(severity, message);
  }
}

void* deserialize(void* self, const void* data, std::size_t size) {
  void* logger = of<Runtime>(self).logger;
  const std::string content(static_cast<const char*>(data), size);
  const bool known = content == "doubling" || content == "counting";
  if (gpu().fails("deserializeCudaEngine", content) || !known) {
    say(logger, 1, "the magic tag does not match");
    say(logger, 1, "a second error");
    return nullptr;
  }
  say(logger, 3, "loaded an engine");
  const std::lock_guard lock(gpu().mutex);
  auto* engine = new Engine(content == "doubling" ? doubling() : counting());
  put(engine->table, &VCudaEngine::createExecutionContext, create_context);
  put(engine->table, &VCudaEngine::getNbOptimizationProfiles, profile_count);
  put(engine->table, &VCudaEngine::getTensorShape, tensor_shape);
  put(engine->table, &VCudaEngine::getTensorDataType, tensor_type);
  put(engine->table, &VCudaEngine::isShapeInferenceIO, is_shape_tensor);
  put(engine->table, &VCudaEngine::getTensorIOMode, tensor_mode);
  put(engine->table, &VCudaEngine::getProfileShape, profile_shape);
  put(engine->table, &VCudaEngine::getNbIOTensors, tensor_count);
  put(engine->table, &VCudaEngine::getIOTensorName, tensor_name);
  return static_cast<Object*>(engine);
}

void* plugin_registry(void* self) { return &of<Runtime>(self).registry; }
void allow_native_code(void*, bool allowed) { gpu().allowed_native_code = allowed; }

}  // namespace
}  // namespace hsm::testing

FAKE_EXPORT std::int32_t getInferLibVersion() { return hsm_fake_gpu()->version; }

FAKE_EXPORT void* createInferRuntime_INTERNAL(void* logger, std::int32_t version) {
  using namespace hsm::testing;  // NOLINT: a function with C's name
  if (gpu().fails("createInferRuntime", std::to_string(version))) return reinterpret_cast<void*>(0x228);
  const std::lock_guard lock(gpu().mutex);
  auto* runtime = new Runtime;
  runtime->logger = logger;
  put(runtime->table, hsm::runtime::trt::kDeserialize, deserialize);
  put(runtime->table, &VRuntime::getPluginRegistry, plugin_registry);
  put(runtime->table, &VRuntime::setEngineHostCodeAllowed, allow_native_code);
  return static_cast<Object*>(runtime);
}
