#include "runtime/onnxruntime/program.h"

#include <onnxruntime_session_options_config_keys.h>

#include <array>
#include <utility>

#include "runtime/onnxruntime/extra_outputs.h"

namespace hsm::runtime::ort {
namespace {

template <typename T>
using Handle = std::unique_ptr<T, void(ORT_API_CALL*)(T*)>;

std::size_t bytes_of(const TensorView& view) {
  std::size_t bytes = size_of(view.dtype);
  for (const std::int64_t size : view.shape) bytes *= static_cast<std::size_t>(size);
  return bytes;
}

// Tensors as ONNX Runtime takes them.
struct Feed {
  std::vector<std::string> text;
  std::vector<const char*> names;
  std::vector<Handle<OrtValue>> values;
  std::vector<OrtValue*> raw;
};

void execute(const OrtApi& api, OrtSession* session, const Feed& in, const std::vector<const char*>& names,
             std::vector<OrtValue*>& results, OrtRunOptions* options = nullptr) {
  require(api,
          api.Run(session, options, in.names.data(), in.raw.data(), in.raw.size(), names.data(), names.size(),
                  results.data()),
          Code::kRunFailed, "ONNX Runtime cannot run the graph");
}

// The same, until somebody asks for its end.
void execute_until(const std::stop_token& stop, const OrtApi& api, OrtSession* session, const Feed& in,
                   const std::vector<const char*>& names, std::vector<OrtValue*>& results) {
  if (!stop.stop_possible()) return execute(api, session, in, names, results);
  if (stop.stop_requested()) fail_cancelled();
  OrtRunOptions* made = nullptr;
  require(api, api.CreateRunOptions(&made), Code::kRunFailed, "ONNX Runtime refuses");
  const Handle<OrtRunOptions> options(made, api.ReleaseRunOptions);
  try {
    const std::stop_callback end(stop, [&] {
      if (OrtStatus* status = api.RunOptionsSetTerminate(made)) api.ReleaseStatus(status);
    });
    execute(api, session, in, names, results, made);
  } catch (const Error&) {
    if (stop.stop_requested()) fail_cancelled();
    throw;
  }
}

// No OrtIoBinding: that copies what the GPU needs from the CPU's memory when it is bound, and never again.
class OrtBinding final : public Binding {
 public:
  OrtBinding(const OrtApi& api, OrtSession* session, Feed in, Feed out)
      : api_(api), session_(session), in_(std::move(in)), out_(std::move(out)) {}
  void run_until(const std::stop_token& stop) override {
    execute_until(stop, api_, session_, in_, out_.names, out_.raw);
  }

 private:
  const OrtApi& api_;
  OrtSession* session_;
  Feed in_, out_;
};

void ORT_API_CALL forward_log(void* callback, OrtLoggingLevel severity, const char* category, const char*, const char*,
                              const char* message) noexcept {
  forward(*static_cast<const hsm_runtime::LogCallback*>(callback), severity, category, message);
}

// Messages of ONNX Runtime's environment go to a session's callback as long as the session is there.
class Listening {
 public:
  explicit Listening(const hsm_runtime::LogCallback& log) : log_(log) { Logs::instance().add(&log_); }
  ~Listening() { Logs::instance().remove(&log_); }
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;

 private:
  const hsm_runtime::LogCallback& log_;
};

class OrtProgram final : public Program, public std::enable_shared_from_this<OrtProgram> {
 public:
  OrtProgram(const Library& library, const Graph& graph, std::span<const std::byte> model, Settings settings)
      : api_(*library.api),
        log_(std::move(settings.log)),
        listening_(log_),
        outputs_(graph.outputs),
        env_(nullptr, api_.ReleaseEnv),
        cuda_device_(settings.cuda_device),
        memory_(nullptr, api_.ReleaseMemoryInfo),
        cuda_memory_(nullptr, api_.ReleaseMemoryInfo),
        session_(nullptr, api_.ReleaseSession) {
    const SharedThreads shared{settings.threads, settings.spinning, settings.affinity};
    env_.reset(make_environment(api_, settings.shared_threads ? &shared : nullptr));
    OrtMemoryInfo* memory = nullptr;
    check(api_.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    memory_.reset(memory);
    if (cuda_device_) {
      check(api_.CreateMemoryInfo("Cuda", OrtDeviceAllocator, *cuda_device_, OrtMemTypeDefault, &memory));
      cuda_memory_.reset(memory);
    }
    const Handle<OrtSessionOptions> options = make_options(settings);
    std::vector<std::byte> extended;
    if (!settings.extra_outputs.empty()) {
      extended = with_outputs(model, settings.extra_outputs, settings.folder + "/" + graph.file);
      model = extended;
    }
    OrtSession* session = nullptr;
    check(api_.CreateSessionFromArray(env_.get(), model.data(), model.size(), options.get(), &session));
    session_.reset(session);
    extras_ = last_outputs(api_, session, settings.extra_outputs);
    outputs_.insert(outputs_.end(), extras_.begin(), extras_.end());
  }

  std::vector<Tensor> run(std::span<const NamedTensor> inputs, const RunOptions& options) const override {
    check_options(options);
    const Feed in = feed(inputs);
    std::vector<const char*> names;
    for (const TensorInfo& info : outputs_) names.push_back(info.name.c_str());
    std::vector<OrtValue*> results(names.size(), nullptr);
    execute_until(options.stop, api_, session_.get(), in, names, results);
    std::vector<Handle<OrtValue>> owned;
    for (OrtValue* value : results) owned.push_back({value, api_.ReleaseValue});
    std::vector<Tensor> tensors;
    for (std::size_t i = 0; i < owned.size(); ++i) tensors.push_back(take(outputs_[i], std::move(owned[i])));
    return tensors;
  }

  std::unique_ptr<Binding> bind(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
                                const RunOptions& options) const override {
    check_options(options);
    return std::make_unique<OrtBinding>(api_, session_.get(), feed(inputs), feed(outputs));
  }

  std::vector<TensorInfo> extra_outputs() const override { return extras_; }
  Device device() const override { return cuda_device_ ? Device{Device::Kind::kCuda, *cuda_device_} : Device{}; }

 private:
  void check_options(const RunOptions& options) const {
    if (options.cuda_stream == nullptr) return;
    fail(Code::kInvalidArgument, cuda_device_ ? "ONNX Runtime has streams of its own; synchronise yours before the run"
                                              : "this back end runs on the CPU and takes no CUDA stream");
  }

  Feed feed(std::span<const NamedTensor> tensors) const {
    Feed feed;
    feed.text.reserve(tensors.size());  // so that the pointers to short texts stay
    for (const NamedTensor& named : tensors) {
      const TensorView& view = named.tensor;
      OrtValue* value = nullptr;
      const OrtMemoryInfo* memory = view.device.kind == Device::Kind::kCuda ? cuda_memory_.get() : memory_.get();
      check(api_.CreateTensorWithDataAsOrtValue(memory, view.data, bytes_of(view), view.shape.data(), view.shape.size(),
                                                static_cast<ONNXTensorElementDataType>(view.dtype), &value));
      feed.values.emplace_back(value, api_.ReleaseValue);
      feed.raw.push_back(value);
      feed.names.push_back(feed.text.emplace_back(named.name).c_str());
    }
    return feed;
  }

  Tensor take(const TensorInfo& info, Handle<OrtValue> value) const {
    OrtTensorTypeAndShapeInfo* made = nullptr;
    check(api_.GetTensorTypeAndShape(value.get(), &made));
    const Handle<OrtTensorTypeAndShapeInfo> type(made, api_.ReleaseTensorTypeAndShapeInfo);
    std::size_t rank = 0;
    check(api_.GetDimensionsCount(made, &rank));
    std::vector<std::int64_t> shape(rank);
    check(api_.GetDimensions(made, shape.data(), rank));
    void* data = nullptr;
    check(api_.GetTensorMutableData(value.get(), &data));
    // The memory belongs to the value, whose allocator belongs to the session.
    std::shared_ptr<OrtValue> keeper(
        value.release(), [program = shared_from_this()](OrtValue* kept) { program->api_.ReleaseValue(kept); });
    return Tensor(info.name, info.dtype, std::move(shape), std::shared_ptr<void>(std::move(keeper), data));
  }

  Handle<OrtSessionOptions> make_options(const Settings& settings) {
    OrtSessionOptions* made = nullptr;
    check(api_.CreateSessionOptions(&made));
    Handle<OrtSessionOptions> options(made, api_.ReleaseSessionOptions);
    check(api_.SetUserLoggingFunction(made, forward_log, const_cast<hsm_runtime::LogCallback*>(&log_)));
    check(api_.SetSessionLogSeverityLevel(made, log_ ? ORT_LOGGING_LEVEL_WARNING : ORT_LOGGING_LEVEL_ERROR));
    set_threads(made, settings);
    check(api_.AddSessionConfigEntry(made, kOrtSessionOptionsModelExternalInitializersFileFolderPath,
                                     settings.folder.c_str()));
    // Of weights behind DequantizeLinear it makes products that round activations to 8 bits, unless told to keep
    // floats.
    check(api_.AddSessionConfigEntry(made, kOrtSessionOptionsQDQMatMulNBitsAccuracyLevel, "1"));
    if (cuda_device_) append_cuda(made);
    for (const std::string& library : settings.kernel_libraries) {
      check(api_.RegisterCustomOpsLibrary_V2(made, library.c_str()));
    }
    return options;
  }

  void set_threads(OrtSessionOptions* options, const Settings& settings) const {
    if (settings.shared_threads) return check(api_.DisablePerSessionThreads(options));
    check(api_.SetIntraOpNumThreads(options, settings.threads));
    check(api_.AddSessionConfigEntry(options, kOrtSessionOptionsConfigAllowIntraOpSpinning,
                                     settings.spinning ? "1" : "0"));
    if (settings.affinity.empty()) return;
    check(api_.AddSessionConfigEntry(options, kOrtSessionOptionsConfigIntraOpThreadAffinities,
                                     settings.affinity.c_str()));
  }

  void append_cuda(OrtSessionOptions* options) const {
    constexpr const char* kNoCuda = "this ONNX Runtime runs nothing on a GPU";
    OrtCUDAProviderOptionsV2* made = nullptr;
    require(api_, api_.CreateCUDAProviderOptions(&made), Code::kNoBackend, kNoCuda);
    const Handle<OrtCUDAProviderOptionsV2> cuda(made, api_.ReleaseCUDAProviderOptions);
    const std::string device = std::to_string(*cuda_device_);
    const std::array<const char*, 1> keys = {"device_id"}, values = {device.c_str()};
    check(api_.UpdateCUDAProviderOptions(made, keys.data(), values.data(), keys.size()));
    require(api_, api_.SessionOptionsAppendExecutionProvider_CUDA_V2(options, made), Code::kNoBackend, kNoCuda);
  }

  void check(OrtStatus* status) const { require(api_, status, Code::kNoBackend, "ONNX Runtime refuses"); }

  const OrtApi& api_;
  const hsm_runtime::LogCallback log_;  // the session points to it
  const Listening listening_;
  std::vector<TensorInfo> outputs_, extras_;
  Handle<OrtEnv> env_;
  const std::optional<int> cuda_device_;
  Handle<OrtMemoryInfo> memory_;
  Handle<OrtMemoryInfo> cuda_memory_;
  Handle<OrtSession> session_;
};

}  // namespace

std::shared_ptr<const Program> load_program(const Library& library, const Graph& graph,
                                            std::span<const std::byte> model, Settings settings) {
  return std::make_shared<OrtProgram>(library, graph, model, std::move(settings));
}

}  // namespace hsm::runtime::ort
