#include "runtime/session.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/check.h"
#include "runtime/error.h"
#include "runtime/onnxruntime/program.h"
#include "runtime/operator_libraries.h"
#include "runtime/tensorrt/program.h"

namespace hsm::runtime {
namespace {

using hsm_runtime::Backend;
using hsm_runtime::LogLevel;
using hsm_runtime::Session;
using hsm_runtime::SessionOptions;

constexpr std::array<std::pair<Backend, std::string_view>, 4> kBackends = {
    {{Backend::kTensorRt, "tensorrt"},
     {Backend::kOnnxRuntimeCuda, "onnxruntime-cuda"},
     {Backend::kOnnxRuntimeFused, "onnxruntime-fused"},
     {Backend::kOnnxRuntimeBodies, "onnxruntime-bodies"}}};
constexpr const char* kKernels = "libhsm_onnxruntime.so";
constexpr const char* kCudaKernels = "libhsm_onnxruntime_cuda.so";

// The folder of libhsm_runtime.so itself.
std::filesystem::path own_folder() {
  Dl_info info;
  const auto* anchor = reinterpret_cast<const void*>(&hsm_runtime::backend_from_name);
  if (dladdr(anchor, &info) == 0 || info.dli_fname == nullptr) return {};
  return std::filesystem::path(info.dli_fname).parent_path();
}

bool is_file(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

// `chosen`, or `name` beside this library; empty when nothing was chosen, nothing is there and it can be done without.
std::string kernel_library(const std::string& chosen, const char* name, bool is_needed) {
  const std::filesystem::path path = chosen.empty() ? own_folder() / name : std::filesystem::path(chosen);
  if (is_file(path)) return std::filesystem::absolute(path).string();
  if (chosen.empty() && !is_needed) return "";
  fail(Code::kNoBackend, "the fused kernels are not there: " + path.string());
}

std::shared_ptr<const Program> load_onnx(Backend backend, const hsm_runtime::Bundle& bundle, const Graph& graph,
                                         const SessionOptions& options) {
  ort::Settings settings;
  settings.folder = bundle.path();
  settings.threads = options.threads;
  settings.shared_threads = options.shared_threads;
  settings.spinning = options.spinning;
  settings.affinity = options.affinity;
  settings.log = options.log;
  for (const std::string& name : options.extra_outputs) {
    const bool is_there = std::any_of(graph.outputs.begin(), graph.outputs.end(),
                                      [&](const hsm_runtime::TensorInfo& info) { return info.name == name; });
    auto& extras = settings.extra_outputs;
    if (!is_there && std::find(extras.begin(), extras.end(), name) == extras.end()) extras.push_back(name);
  }
  const bool on_gpu = backend == Backend::kOnnxRuntimeCuda;
  if (on_gpu) settings.cuda_device = options.device;
  if (backend != Backend::kOnnxRuntimeBodies) {
    const std::string ours = on_gpu ? kernel_library(options.cuda_kernel_library, kCudaKernels, false)
                                    : kernel_library(options.kernel_library, kKernels, true);
    settings.kernel_libraries =
        find_libraries(bundle.impl().manifest.libraries, on_gpu ? "onnxruntime_cuda" : "onnxruntime",
                       options.operator_libraries, own_folder().string());
    if (!ours.empty()) settings.kernel_libraries.insert(settings.kernel_libraries.begin(), ours);
  }
  const ort::Library library = ort::load(options.onnxruntime_library, own_folder().string(), options.telemetry);
  const MappedFile model(bundle.path(), on_gpu ? graph.file : graph.on_cpu());
  return ort::load_program(library, graph, model.bytes(), std::move(settings));
}

std::shared_ptr<const Program> load(Backend backend, const hsm_runtime::Bundle& bundle, hsm_runtime::Part part,
                                    const Graph& graph, const SessionOptions& options) {
  if (backend != Backend::kTensorRt) return load_onnx(backend, bundle, graph, options);
  if (!options.extra_outputs.empty())
    fail(Code::kNoBackend, "engines have no outputs but those that they were built with");
  const char* name = part == hsm_runtime::Part::kModel ? "model" : "decode";
  const Manifest& manifest = bundle.impl().manifest;
  return trt::load_program({bundle.path(), name, graph, manifest.engines, manifest.libraries, own_folder().string()},
                           options);
}

// Why each back end failed; several may have one reason.
class Reasons {
 public:
  void add(const std::string& backend, const std::string& reason) {
    const auto found =
        std::find_if(reasons_.begin(), reasons_.end(), [&](const auto& item) { return item.second == reason; });
    if (found == reasons_.end()) {
      reasons_.emplace_back(backend, reason);
    } else {
      found->first += ", " + backend;
    }
  }
  std::string text() const {
    if (reasons_.empty()) return "none was asked for";
    std::string text;
    for (const auto& [backends, reason] : reasons_) text += (text.empty() ? "" : "; ") + backends + ": " + reason;
    return text;
  }

 private:
  std::vector<std::pair<std::string, std::string>> reasons_;
};

void tell(const SessionOptions& options, LogLevel level, const std::string& message) {
  if (options.log) options.log(level, message);
}

}  // namespace

std::shared_ptr<const Session::Impl> open_session(const hsm_runtime::Bundle& bundle, hsm_runtime::Part part,
                                                  const SessionOptions& options) {
  const std::optional<Graph>& graph = bundle.impl().graph(part);
  if (!graph) {
    fail(Code::kInvalidArgument,
         bundle.path() + " holds no " +
             (part == hsm_runtime::Part::kModel ? "model of whole sequences" : "decoding model"));
  }
  if (options.threads < 0) fail(Code::kInvalidArgument, "the number of threads must not be negative");
  if (options.device < 0) fail(Code::kInvalidArgument, "the number of the GPU must not be negative");
  const int most_threads = std::max(256, 4 * static_cast<int>(std::thread::hardware_concurrency()));
  if (options.threads > most_threads) {
    fail(Code::kInvalidArgument, std::to_string(options.threads) +
                                     " threads are more than this machine could use; at most " +
                                     std::to_string(most_threads) + " are taken");
  }
  Reasons reasons;
  for (const Backend backend : options.backends) {
    const std::string name(name_of(backend));
    try {
      auto session = std::make_shared<Session::Impl>(bundle, part, backend);
      session->program = load(backend, bundle, part, *graph, options);
      if (const auto extras = session->program->extra_outputs(); !extras.empty()) {
        session->extended = *graph;
        auto& outputs = session->extended->outputs;
        outputs.insert(outputs.end(), extras.begin(), extras.end());
      }
      tell(options, LogLevel::kInfo, bundle.path() + "/" + graph->file + " runs in " + name);
      return session;
    } catch (const Error& error) {
      if (error.code != Code::kNoBackend) throw;
      tell(options, LogLevel::kWarning, name + " cannot run " + graph->file + ": " + error.what());
      reasons.add(name, error.what());
    }
  }
  fail(Code::kNoBackend, "no back end can run " + bundle.path() + "/" + graph->file + ": " + reasons.text());
}

namespace {

void check_run(const Session::Impl& session, std::span<const NamedTensor> inputs,
               std::span<const NamedTensor> outputs) {
  if (outputs.empty()) fail(Code::kInvalidArgument, "a run needs at least one output");
  check_tensors(session.graph(), inputs, outputs, session.program->device());
}

// A bound run whose whole numbers are looked at before each run.
class CheckedBinding final : public Binding {
 public:
  CheckedBinding(const Graph& graph, std::span<const NamedTensor> inputs, std::unique_ptr<Binding> binding)
      : graph_(graph), binding_(std::move(binding)) {
    names_.reserve(inputs.size());
    shapes_.reserve(inputs.size());
    for (const NamedTensor& named : inputs) {
      const auto& shape = shapes_.emplace_back(named.tensor.shape.begin(), named.tensor.shape.end());
      inputs_.push_back({names_.emplace_back(named.name), named.tensor});
      inputs_.back().tensor.shape = shape;
      inputs_.back().tensor.strides = {};
    }
  }
  void run_until(const std::stop_token& stop) override {
    check_values(graph_, inputs_);
    binding_->run_until(stop);
  }

 private:
  const Graph& graph_;  // of the session, which outlives the binding
  std::vector<std::string> names_;
  std::vector<std::vector<std::int64_t>> shapes_;
  std::vector<NamedTensor> inputs_;
  std::unique_ptr<Binding> binding_;
};

std::unique_ptr<Binding> bind(const Session::Impl& session, std::span<const NamedTensor> inputs,
                              std::span<const NamedTensor> outputs, const RunOptions& options) {
  check_run(session, inputs, outputs);
  std::unique_ptr<Binding> binding = session.program->bind(inputs, outputs, options);
  if (!has_contracts(session.graph())) return binding;
  return std::make_unique<CheckedBinding>(session.graph(), inputs, std::move(binding));
}

std::unique_ptr<Started> start(const Session::Impl& session, std::span<const NamedTensor> inputs,
                               std::span<const NamedTensor> outputs, const RunOptions& options) {
  check_run(session, inputs, outputs);
  check_values(session.graph(), inputs);
  if (auto started = session.program->start(inputs, outputs, options)) return started;
  const std::shared_ptr<Binding> binding = session.program->bind(inputs, outputs, options);
  return session.worker.start([binding, stop = options.stop] { binding->run_until(stop); });
}

}  // namespace
}  // namespace hsm::runtime

namespace hsm_runtime {

struct PendingRun::Impl {
  Impl(std::shared_ptr<const Session::Impl> chosen, std::unique_ptr<hsm::runtime::Started> run)
      : session(std::move(chosen)), started(std::move(run)) {}

  std::shared_ptr<const Session::Impl> session;  // outlives the run
  std::unique_ptr<hsm::runtime::Started> started;
  bool ended = false;
  Status status;
};

struct BoundRun::Impl {
  std::shared_ptr<const Session::Impl> session;  // outlives the binding
  std::unique_ptr<hsm::runtime::Binding> binding;
  std::stop_token stop;
};

std::string_view name_of(Backend backend) {
  for (const auto& [known, name] : hsm::runtime::kBackends) {
    if (known == backend) return name;
  }
  return "unknown";
}

bool backend_from_name(std::string_view name, Backend* backend) {
  for (const auto& [known, text] : hsm::runtime::kBackends) {
    if (text == name) {
      *backend = known;
      return true;
    }
  }
  return false;
}

Result<Session> Session::open(const Bundle& bundle, Part part, const SessionOptions& options) {
  return hsm::runtime::guarded<Session>([&] { return Session(hsm::runtime::open_session(bundle, part, options)); });
}

Result<Session> Session::open(const std::string& path, Part part, const SessionOptions& options,
                              const BundleOptions& checks) {
  const Result<Bundle> bundle = Bundle::open(path, checks);
  return bundle.ok() ? open(*bundle, part, options) : Result<Session>(bundle.status());
}

Result<Session> Session::open(const std::string& path, const SessionOptions& options) {
  return open(path, Part::kModel, options);
}

Backend Session::backend() const { return impl_->backend; }
const std::vector<TensorInfo>& Session::inputs() const { return impl_->graph().inputs; }
const std::vector<TensorInfo>& Session::outputs() const { return impl_->graph().outputs; }

Status Session::run(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
                    const RunOptions& options) const {
  return hsm::runtime::guarded_status(
      [&] { hsm::runtime::bind(*impl_, inputs, outputs, options)->run_until(options.stop); });
}

Result<std::vector<Tensor>> Session::run(std::span<const NamedTensor> inputs, const RunOptions& options) const {
  return hsm::runtime::guarded<std::vector<Tensor>>([&] {
    hsm::runtime::check_tensors(impl_->graph(), inputs, {}, impl_->program->device());
    hsm::runtime::check_values(impl_->graph(), inputs);
    return impl_->program->run(inputs, options);
  });
}

Result<PendingRun> Session::run_async(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
                                      const RunOptions& options) const {
  return hsm::runtime::guarded<PendingRun>([&] {
    return PendingRun(std::make_unique<PendingRun::Impl>(impl_, hsm::runtime::start(*impl_, inputs, outputs, options)));
  });
}

Result<BoundRun> Session::bind(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
                               const RunOptions& options) const {
  return hsm::runtime::guarded<BoundRun>([&] {
    auto binding = hsm::runtime::bind(*impl_, inputs, outputs, options);
    return BoundRun(std::make_unique<BoundRun::Impl>(BoundRun::Impl{impl_, std::move(binding), options.stop}));
  });
}

BoundRun::BoundRun(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BoundRun::BoundRun(BoundRun&&) noexcept = default;
BoundRun& BoundRun::operator=(BoundRun&&) noexcept = default;
BoundRun::~BoundRun() = default;

Status BoundRun::run() {
  return hsm::runtime::guarded_status([&] { impl_->binding->run_until(impl_->stop); });
}

PendingRun::PendingRun(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PendingRun::PendingRun(PendingRun&&) noexcept = default;
PendingRun& PendingRun::operator=(PendingRun&&) noexcept = default;
PendingRun::~PendingRun() = default;

bool PendingRun::done() const { return impl_->ended || impl_->started->done(); }

Status PendingRun::wait() {
  if (!impl_->ended) {
    impl_->status = hsm::runtime::guarded_status([&] { impl_->started->wait(); });
    impl_->ended = true;
  }
  return impl_->status;
}

}  // namespace hsm_runtime
