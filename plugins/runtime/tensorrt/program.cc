#include "runtime/tensorrt/program.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "runtime/dtypes.h"
#include "runtime/error.h"
#include "runtime/operator_libraries.h"
#include "runtime/file.h"
#include "runtime/tensorrt/choice.h"
#include "runtime/tensorrt/client.h"

namespace hsm::runtime::trt {
namespace {

namespace fs = std::filesystem;
using hsm_runtime::SessionOptions;
using Entry = hsm::runtime::Engine;  // of the manifest
using OwnedCall = std::unique_ptr<Call, void (*)(Call*)>;

constexpr const char* kBackendLibrary = "libhsm_backend_tensorrt.so";
constexpr const char* kPluginLibrary = "libhsm_tensorrt.so";

// A loaded engine; whatever runs on it keeps it alive.
class OpenEngine {
 public:
  OpenEngine(std::shared_ptr<const Client> client, const EngineFile& file) : client_(std::move(client)) {
    Failure failure;
    require(client_->table().load(client_->library(), &file, &engine_, &failure), failure);
  }
  ~OpenEngine() { client_->table().unload(engine_); }
  OpenEngine(const OpenEngine&) = delete;
  OpenEngine& operator=(const OpenEngine&) = delete;

  const Table& table() const { return client_->table(); }
  trt::Engine* get() const { return engine_; }

  OwnedCall bind(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs) const {
    const CallTensors in(inputs), out(outputs);
    Call* call = nullptr;
    Failure failure;
    require(table().bind(engine_, in.data(), in.size(), out.data(), out.size(), &call, &failure), failure);
    return {call, table().release};
  }

 private:
  std::shared_ptr<const Client> client_;
  trt::Engine* engine_ = nullptr;
};

class EngineRun final : public Started, public Binding {
 public:
  EngineRun(std::shared_ptr<const OpenEngine> engine, OwnedCall call, void* stream)
      : engine_(std::move(engine)), call_(std::move(call)), stream_(stream) {}

  void start() {
    Failure failure;
    require(engine_->table().start(call_.get(), stream_, &failure), failure);
  }
  bool done() const override { return engine_->table().is_done(call_.get()) != 0; }
  void wait() override {
    Failure failure;
    require(engine_->table().wait(call_.get(), &failure), failure);
  }
  void run_until(const std::stop_token& stop) override {
    if (stop.stop_requested()) fail_cancelled();  // what was started goes to its end
    start();
    wait();
  }

 private:
  std::shared_ptr<const OpenEngine> engine_;
  OwnedCall call_;
  void* stream_;  // null: one of the engine's
};

class EngineProgram final : public Program {
 public:
  EngineProgram(const std::shared_ptr<const Client>& client, const EngineFile& file, const Graph& graph, int device,
                bool has_plugins)
      : engine_(std::make_shared<OpenEngine>(client, file)),
        memory_(client, device),
        outputs_(graph.outputs),
        has_plugins_(has_plugins) {}

  std::vector<Tensor> run(std::span<const NamedTensor> inputs, const RunOptions& options) const override {
    std::vector<Tensor> tensors = allocate_outputs(inputs);
    std::vector<NamedTensor> outputs;
    for (const Tensor& tensor : tensors) {
      outputs.push_back({tensor.name(), {const_cast<void*>(tensor.data()), tensor.dtype(), tensor.shape()}});
    }
    engine_run(inputs, outputs, options)->run_until(options.stop);
    return tensors;
  }

  std::unique_ptr<Binding> bind(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
                                const RunOptions& options) const override {
    return engine_run(inputs, outputs, options);
  }

  std::unique_ptr<Started> start(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
                                 const RunOptions& options) const override {
    auto run = engine_run(inputs, outputs, options);
    run->start();
    return run;
  }

  Device device() const override { return memory_.device(); }
  const Memory& memory() const override { return memory_; }

  // The plugins read before they write; a function body is many kernels.
  bool updates_in_place(const StateTensor& tensor) const override { return has_plugins_ && tensor.in_place; }

  // Throws Error(kNoBackend) unless the engine has the graph's tensors.
  void compare(const Graph& graph, const std::string& file) const {
    const std::size_t count = engine_->table().tensor_count(engine_->get());
    for (std::size_t i = 0; i < count; ++i) {
      EngineTensor tensor;
      engine_->table().tensor(engine_->get(), i, &tensor);
      const auto& infos = tensor.is_input != 0 ? graph.inputs : graph.outputs;
      const auto same = [&](const TensorInfo& info) {
        return info.name == tensor.name && static_cast<std::int32_t>(info.dtype) == tensor.dtype &&
               info.shape.size() == static_cast<std::size_t>(tensor.rank);
      };
      if (std::none_of(infos.begin(), infos.end(), same)) {
        fail(Code::kNoBackend, file + " is of another model than " + graph.file + ": the " +
                                   (tensor.is_input != 0 ? "input '" : "output '") + tensor.name +
                                   "' has another type or rank there, or is missing");
      }
    }
    if (count != graph.inputs.size() + graph.outputs.size()) {
      fail(Code::kNoBackend, file + " is of another model than " + graph.file + ": it has " + std::to_string(count) +
                                 " inputs and outputs, not " +
                                 std::to_string(graph.inputs.size() + graph.outputs.size()));
    }
  }

 private:
  std::unique_ptr<EngineRun> engine_run(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
                                        const RunOptions& options) const {
    return std::make_unique<EngineRun>(engine_, engine_->bind(inputs, outputs), options.cuda_stream);
  }

  std::vector<Tensor> allocate_outputs(std::span<const NamedTensor> inputs) const {
    const CallTensors in(inputs);
    std::vector<const char*> names;
    for (const TensorInfo& info : outputs_) names.push_back(info.name.c_str());
    std::vector<Shape> shapes(outputs_.size());
    Failure failure;
    require(engine_->table().output_shapes(engine_->get(), in.data(), in.size(), names.data(), names.size(),
                                           shapes.data(), &failure),
            failure);
    std::vector<Tensor> tensors;
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      std::vector<std::int64_t> shape(shapes[i].sizes, shapes[i].sizes + shapes[i].rank);
      std::size_t bytes = size_of(outputs_[i].dtype);
      for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
      tensors.emplace_back(outputs_[i].name, outputs_[i].dtype, std::move(shape), cpu_memory().allocate(bytes));
    }
    return tensors;
  }

  std::shared_ptr<const OpenEngine> engine_;
  DeviceMemory memory_;
  const std::vector<TensorInfo> outputs_;
  const bool has_plugins_;
};

std::string beside(const std::string& chosen, const std::string& folder, const char* name, const char* what) {
  const fs::path path = chosen.empty() ? fs::path(folder) / name : fs::path(chosen);
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) {
    fail(Code::kNoBackend, std::string(what) + " is not there: " + path.string());
  }
  return fs::absolute(path).string();
}

std::shared_ptr<const Program> load_engine(const Entry& engine, const Source& source, const SessionOptions& options,
                                           const std::shared_ptr<const Client>& client) {
  std::vector<std::string> plugins;
  if (engine.plugins && !engine.embedded_plugins) {
    plugins = find_libraries(source.operator_libraries, "tensorrt", options.operator_libraries, source.libraries);
    plugins.push_back(beside(options.plugin_library, source.libraries, kPluginLibrary,
                             ("the plugin library that " + engine.file + " needs").c_str()));
  }
  std::vector<const char*> plugin_names;
  for (const std::string& path : plugins) plugin_names.push_back(path.c_str());
  const MappedFile bytes(source.folder, engine.file);
  const EngineFile file{engine.file.c_str(), bytes.bytes().data(), bytes.bytes().size(),
                        plugin_names.data(), plugin_names.size(),  engine.embedded_plugins ? 1 : 0};
  auto program = std::make_shared<EngineProgram>(client, file, source.graph, options.device, engine.plugins);
  program->compare(source.graph, engine.file);
  return program;
}

std::vector<std::string> targets_of(const Source& source) {
  std::vector<std::string> targets;
  for (const char* target : {"tensorrt", "tensorrt-rtx"}) {
    const auto fits = [&](const Entry& engine) { return engine.of == source.part && engine.target == target; };
    if (std::any_of(source.engines.begin(), source.engines.end(), fits)) targets.emplace_back(target);
  }
  if (targets.empty()) {
    fail(Code::kNoBackend, "the bundle holds no engine of " + source.graph.file + "; `hsm-export build` makes one");
  }
  return targets;
}

// Tries the engines that one library may be able to run; adds why none of them does to `reasons`.
std::shared_ptr<const Program> try_library(const Table& table, const std::vector<std::string>& nvinfer,
                                           const Source& source, const SessionOptions& options, std::string& reasons) {
  const auto note = [&](const Error& error) {
    if (error.code == Code::kBadBundle || error.code == Code::kInternal) throw;
    reasons += (reasons.empty() ? "" : "; ") + std::string(error.what());
  };
  const std::vector<std::string> cudart =
      options.cudart_library.empty() ? std::vector<std::string>{"libcudart.so.13", "libcudart.so.12", "libcudart.so"}
                                     : std::vector{options.cudart_library};
  try {
    const auto client = std::make_shared<const Client>(table, nvinfer, cudart, options.device, options.log);
    for (const Entry* engine :
         fitting(source.engines, source.part, client->machine(), options.allow_embedded_plugins)) {
      try {
        return load_engine(*engine, source, options, client);
      } catch (const Error& error) {
        note(error);
      }
    }
  } catch (const Error& error) {
    note(error);
  }
  return nullptr;
}

}  // namespace

std::shared_ptr<const Program> load_program(const Source& source, const SessionOptions& options) {
  std::vector<std::vector<std::string>> libraries;
  for (const std::string& target : targets_of(source)) {
    libraries.push_back(libraries_for(source.engines, source.part, target));
  }
  if (!options.nvinfer_library.empty()) libraries = {{options.nvinfer_library}};
  const Table& table =
      load_backend(beside(options.tensorrt_backend, source.libraries, kBackendLibrary, "the TensorRT back end"));
  std::string reasons;
  for (const std::vector<std::string>& names : libraries) {
    if (auto program = try_library(table, names, source, options, reasons)) return program;
  }
  fail(Code::kNoBackend, reasons);
}

}  // namespace hsm::runtime::trt
