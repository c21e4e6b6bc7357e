// TensorRT's runtime with tables of virtual functions made by hand, in the layout of the version that it says it has.
// Its engines are named by their files' content: "doubling" and "counting" compute what the models of bundle_writer.h
// do.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "runtime/tensorrt/slots.h"
#include "tests/runtime/devices/fake_gpu.h"

#define FAKE_EXPORT extern "C" __attribute__((visibility("default")))

FAKE_EXPORT hsm::testing::FakeGpu* hsm_fake_gpu();

namespace hsm::testing {
namespace {

using runtime::trt::Dims;
using runtime::trt::kSlots10;
using runtime::trt::kSlots11;
using runtime::trt::Slots;

FakeGpu& gpu() { return *hsm_fake_gpu(); }
bool is_10() { return gpu().version >= 100000 && gpu().version < 110000; }
const Slots& slots() { return is_10() ? kSlots10 : kSlots11; }

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
  Dims dims;
  dims.count = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.sizes);
  return dims;
}

std::string text_of(const Dims& dims) {
  std::string text = "(";
  for (std::int32_t i = 0; i < dims.count; ++i) text += (i == 0 ? "" : ", ") + std::to_string(dims.sizes[i]);
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
  for (std::int32_t i = 0; i < dims->count; ++i) {
    const auto axis = static_cast<std::size_t>(i);
    if (dims->sizes[i] < tensor->ranges[at][axis] || dims->sizes[i] > tensor->ranges[at + 1][axis]) return false;
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
  return dims_of({tokens.sizes[0], tokens.sizes[1], 4});
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
  for (std::int64_t i = 0; i < x.sizes[0] * x.sizes[1]; ++i) out[i] = 2 * in[i];
}

void count(const std::map<std::string, void*>& at, const Dims& shape) {
  const std::int64_t rows = shape.sizes[0], length = shape.sizes[1];
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
  const Slots& s = slots();
  context->table[static_cast<std::size_t>(s.set_profile)] = place(set_profile);
  context->table[static_cast<std::size_t>(s.set_input_shape)] = place(set_input_shape);
  context->table[static_cast<std::size_t>(s.context_shape)] = place(context_shape);
  context->table[static_cast<std::size_t>(s.set_address)] = place(set_address);
  context->table[static_cast<std::size_t>(s.infer_shapes)] = place(infer_shapes);
  context->table[static_cast<std::size_t>(s.enqueue)] = place(enqueue);
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
    registry.table[static_cast<std::size_t>(slots().load_library)] = place(load_library);
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
  const Slots& s = slots();
  const auto set = [&](int slot, void* function) { engine->table[static_cast<std::size_t>(slot)] = function; };
  set(s.create_context, place(create_context));
  set(s.profile_count, place(profile_count));
  set(s.tensor_shape, place(tensor_shape));
  set(s.tensor_type, place(tensor_type));
  set(s.is_shape_tensor, place(is_shape_tensor));
  set(s.tensor_mode, place(tensor_mode));
  set(s.profile_shape, place(profile_shape));
  set(s.tensor_count, place(tensor_count));
  set(s.tensor_name, place(tensor_name));
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
  const Slots& s = slots();
  runtime->table[static_cast<std::size_t>(s.deserialize)] = place(deserialize);
  runtime->table[static_cast<std::size_t>(s.plugin_registry)] = place(plugin_registry);
  runtime->table[static_cast<std::size_t>(s.allow_native_code)] = place(allow_native_code);
  return static_cast<Object*>(runtime);
}
