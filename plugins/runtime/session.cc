#include "runtime/session.h"

#include <dlfcn.h>

#include <array>
#include <filesystem>
#include <utility>

#include "runtime/check.h"
#include "runtime/error.h"
#include "runtime/onnxruntime/program.h"

namespace hsm::runtime {
namespace {

using hsm_runtime::Backend;
using hsm_runtime::LogLevel;
using hsm_runtime::Session;
using hsm_runtime::SessionOptions;

constexpr std::array<std::pair<Backend, std::string_view>, 2> kBackends = {
    {{Backend::kOnnxRuntimeFused, "onnxruntime-fused"}, {Backend::kOnnxRuntimeBodies, "onnxruntime-bodies"}}};
constexpr const char* kKernels = "libhsm_onnxruntime.so";

// The folder of libhsm_runtime.so itself.
std::filesystem::path own_folder() {
  Dl_info info;
  const auto* anchor = reinterpret_cast<const void*>(&hsm_runtime::backend_from_name);
  if (dladdr(anchor, &info) == 0 || info.dli_fname == nullptr) return {};
  return std::filesystem::path(info.dli_fname).parent_path();
}

std::string kernel_library(const SessionOptions& options) {
  const std::filesystem::path path =
      options.kernel_library.empty() ? own_folder() / kKernels : std::filesystem::path(options.kernel_library);
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) {
    fail(Code::kNoBackend, "the fused kernels are not there: " + path.string());
  }
  return std::filesystem::absolute(path).string();
}

std::shared_ptr<const Program> load(Backend backend, const hsm_runtime::Bundle& bundle, const Graph& graph,
                                    const SessionOptions& options) {
  ort::Settings settings{bundle.path(), "", options.threads, options.log};
  if (backend == Backend::kOnnxRuntimeFused) settings.kernel_library = kernel_library(options);
  const ort::Library library = ort::load(options.onnxruntime_library);
  const MappedFile model(bundle.path(), graph.on_cpu());
  return ort::load_program(library, graph, model.bytes(), std::move(settings));
}

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
  std::string reasons;
  for (const Backend backend : options.backends) {
    const std::string name(name_of(backend));
    try {
      auto session = std::make_shared<Session::Impl>(Session::Impl{bundle, part, backend, nullptr});
      session->program = load(backend, bundle, *graph, options);
      tell(options, LogLevel::kInfo, bundle.path() + "/" + graph->file + " runs in " + name);
      return session;
    } catch (const Error& error) {
      if (error.code != Code::kNoBackend) throw;
      tell(options, LogLevel::kWarning, name + " cannot run " + graph->file + ": " + error.what());
      reasons += (reasons.empty() ? "" : "; ") + name + ": " + error.what();
    }
  }
  fail(Code::kNoBackend, "no back end can run " + bundle.path() + "/" + graph->file + ": " +
                             (reasons.empty() ? "none was asked for" : reasons));
}

}  // namespace hsm::runtime

namespace hsm_runtime {

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

Result<Session> Session::open(const std::string& path, const SessionOptions& options) {
  const Result<Bundle> bundle = Bundle::open(path);
  return bundle.ok() ? open(*bundle, Part::kModel, options) : Result<Session>(bundle.status());
}

Backend Session::backend() const { return impl_->backend; }
const std::vector<TensorInfo>& Session::inputs() const { return impl_->graph().inputs; }
const std::vector<TensorInfo>& Session::outputs() const { return impl_->graph().outputs; }

Status Session::run(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs) const {
  return hsm::runtime::guarded_status([&] {
    if (outputs.empty()) hsm::runtime::fail(Code::kInvalidArgument, "a run needs at least one output");
    hsm::runtime::check_tensors(impl_->graph(), inputs, outputs);
    impl_->program->run(inputs, outputs);
  });
}

Result<std::vector<Tensor>> Session::run(std::span<const NamedTensor> inputs) const {
  return hsm::runtime::guarded<std::vector<Tensor>>([&] {
    hsm::runtime::check_tensors(impl_->graph(), inputs, {});
    return impl_->program->run(inputs);
  });
}

}  // namespace hsm_runtime
