// The C interface over the C++ one: bundles, options and sessions.
#include "runtime/c_api.h"

#include "runtime/c_structs.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

struct hsmrt_options {
  hsm_runtime::SessionOptions options;
};
struct hsmrt_run {
  hsm_runtime::PendingRun run;
};
struct hsmrt_bound {
  hsm_runtime::BoundRun run;
};

namespace {

using hsm::runtime::fail;
using hsm::runtime::c_api::call;
using hsm::runtime::c_api::given;
using hsm_runtime::Code;
using hsm_runtime::Dimension;
using hsm_runtime::NamedTensor;
using hsm_runtime::Part;
using hsm_runtime::SessionOptions;
using hsm_runtime::Status;
using hsm_runtime::TensorInfo;

static_assert(HSMRT_INTERNAL == static_cast<int>(Code::kInternal));

Part part_of(std::int32_t part) {
  if (part != HSMRT_MODEL && part != HSMRT_DECODE) fail(Code::kInvalidArgument, "a bundle has no part of that number");
  return static_cast<Part>(part);
}

// Names with commas between them.
std::vector<std::string> names_of(std::string_view text) {
  std::vector<std::string> names;
  while (!text.empty()) {
    const std::string_view name = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), name.size() + 1));
    names.emplace_back(name);
  }
  return names;
}

std::vector<hsm_runtime::Backend> backends_of(std::string_view text) {
  std::vector<hsm_runtime::Backend> backends;
  for (const std::string& name : names_of(text)) {
    if (!backend_from_name(name, &backends.emplace_back())) {
      std::string known;
      for (const int number : {2, 3, 0, 1}) {
        known += (known.empty() ? "" : ", ") + std::string(name_of(static_cast<hsm_runtime::Backend>(number)));
      }
      fail(Code::kInvalidArgument, "there is no back end '" + name + "'; there are " + known);
    }
  }
  return backends;
}

int number_of(std::string_view name, std::string_view value, int most) {
  int number = -1;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || number < 0 || number > most) {
    fail(Code::kInvalidArgument, std::string(name) + " must be a whole number from 0" + (most == 1 ? " to 1" : "") +
                                     ", got '" + std::string(value) + "'");
  }
  return number;
}

struct TextOption {
  std::string_view name;
  std::string SessionOptions::* member;
};

constexpr std::array<TextOption, 9> kTexts = {{{"affinity", &SessionOptions::affinity},
                                               {"onnxruntime_library", &SessionOptions::onnxruntime_library},
                                               {"kernel_library", &SessionOptions::kernel_library},
                                               {"cuda_kernel_library", &SessionOptions::cuda_kernel_library},
                                               {"tensorrt_backend", &SessionOptions::tensorrt_backend},
                                               {"nvinfer_library", &SessionOptions::nvinfer_library},
                                               {"cudart_library", &SessionOptions::cudart_library},
                                               {"plugin_library", &SessionOptions::plugin_library},
                                               {"operator_libraries", &SessionOptions::operator_libraries}}};

void set(SessionOptions& options, std::string_view name, std::string_view value) {
  constexpr int kMost = std::numeric_limits<int>::max();
  const auto text =
      std::find_if(kTexts.begin(), kTexts.end(), [&](const TextOption& item) { return item.name == name; });
  if (text != kTexts.end()) {
    options.*(text->member) = value;
  } else if (name == "backends") {
    options.backends = backends_of(value);
  } else if (name == "allow_embedded_plugins") {
    options.allow_embedded_plugins = number_of(name, value, 1) == 1;
  } else if (name == "telemetry") {
    options.telemetry = number_of(name, value, 1) == 1;
  } else if (name == "shared_threads") {
    options.shared_threads = number_of(name, value, 1) == 1;
  } else if (name == "spinning") {
    options.spinning = number_of(name, value, 1) == 1;
  } else if (name == "extra_outputs") {
    options.extra_outputs = names_of(value);
  } else if (name == "device") {
    options.device = number_of(name, value, kMost);
  } else if (name == "threads") {
    options.threads = number_of(name, value, kMost);
  } else {
    std::string known =
        "backends, extra_outputs, allow_embedded_plugins, telemetry, shared_threads, spinning, device, threads";
    for (const TextOption& item : kTexts) known += ", " + std::string(item.name);
    fail(Code::kInvalidArgument, "there is no option '" + std::string(name) + "'; there are " + known);
  }
}

NamedTensor view_of(const hsmrt_tensor& tensor) {
  if (tensor.rank < 0 || tensor.rank > 64) fail(Code::kInvalidArgument, "a tensor's rank is out of range");
  const auto rank = static_cast<std::size_t>(tensor.rank);
  if (rank > 0) std::ignore = given(tensor.shape, "a tensor's shape");
  NamedTensor named{&given(tensor.name, "a tensor's name"), {}};
  named.tensor.data = tensor.data;
  named.tensor.dtype = static_cast<hsm_runtime::DType>(tensor.dtype);
  named.tensor.shape = {tensor.shape, rank};
  if (tensor.strides != nullptr) named.tensor.strides = {tensor.strides, rank};
  named.tensor.device = {static_cast<hsm_runtime::Device::Kind>(tensor.device), tensor.device_index};
  return named;
}

std::vector<NamedTensor> views_of(const hsmrt_tensor* tensors, std::size_t count) {
  std::vector<NamedTensor> views;
  if (count > 0) std::ignore = given(tensors, "the list of tensors");
  for (std::size_t i = 0; i < count; ++i) views.push_back(view_of(tensors[i]));
  return views;
}

hsm_runtime::RunOptions options_of(const hsmrt_run_options* options) {
  if (options == nullptr) return {};
  const hsmrt_run_options members = hsm::runtime::c_api::members_of(options, "the run's options");
  hsm_runtime::RunOptions made;
  made.cuda_stream = members.cuda_stream;
  if (members.cancellation != nullptr) made.stop = members.cancellation->source.get_token();
  return made;
}

const TensorInfo* info_of(const hsmrt_session* session, std::int32_t side, std::size_t index) {
  if (session == nullptr) return nullptr;
  const auto& infos = side == HSMRT_INPUT ? session->session.inputs() : session->session.outputs();
  return index < infos.size() ? &infos[index] : nullptr;
}

const Dimension* dimension_of(const hsmrt_session* session, std::int32_t side, std::size_t index, std::size_t axis) {
  const TensorInfo* info = info_of(session, side, index);
  return info != nullptr && axis < info->shape.size() ? &info->shape[axis] : nullptr;
}

}  // namespace

std::int32_t hsm::runtime::c_api::report(const Status& status, hsmrt_error* error) noexcept {
  if (error != nullptr) {
    const std::size_t length = std::min(status.message().size(), sizeof error->message - 1);
    std::memcpy(error->message, status.message().data(), length);
    error->message[length] = '\0';
  }
  return static_cast<std::int32_t>(status.code());
}

uint32_t hsmrt_abi_version(void) { return 1; }
const char* hsmrt_version(void) { return HSM_RUNTIME_VERSION; }

int32_t hsmrt_bundle_open(const char* path, int32_t verify_digests, hsmrt_bundle** bundle, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(bundle, "the place for the bundle");
    auto opened = hsm_runtime::Bundle::open(&given(path, "the path"), {.verify_digests = verify_digests != 0});
    if (opened.ok()) *bundle = new hsmrt_bundle{*std::move(opened)};
    return opened.status();
  });
}

void hsmrt_bundle_close(hsmrt_bundle* bundle) { delete bundle; }

const char* hsmrt_bundle_task(const hsmrt_bundle* bundle) {
  return bundle == nullptr ? nullptr : bundle->bundle.task().c_str();
}
const char* hsmrt_bundle_precision(const hsmrt_bundle* bundle) {
  return bundle == nullptr ? nullptr : bundle->bundle.precision().c_str();
}
int32_t hsmrt_bundle_has(const hsmrt_bundle* bundle, int32_t part) {
  const bool known = part == HSMRT_MODEL || part == HSMRT_DECODE;
  return bundle != nullptr && known && bundle->bundle.has(static_cast<Part>(part)) ? 1 : 0;
}

const char* hsmrt_bundle_path(const hsmrt_bundle* bundle) {
  return bundle == nullptr ? nullptr : bundle->bundle.path().c_str();
}
const char* hsmrt_bundle_tokenizer(const hsmrt_bundle* bundle) {
  return bundle == nullptr ? nullptr : bundle->bundle.tokenizer().c_str();
}
const char* hsmrt_bundle_tokenizer_path(const hsmrt_bundle* bundle) {
  return bundle == nullptr ? nullptr : bundle->bundle.tokenizer_path().c_str();
}
const char* hsmrt_code_name(int32_t code) { return name_of(static_cast<Code>(code)).data(); }

hsmrt_cancellation* hsmrt_cancellation_create(void) {
  try {
    return new hsmrt_cancellation();
  } catch (...) {
    return nullptr;
  }
}
void hsmrt_cancellation_close(hsmrt_cancellation* cancellation) { delete cancellation; }
void hsmrt_cancellation_request(hsmrt_cancellation* cancellation) {
  if (cancellation != nullptr) cancellation->source.request_stop();
}

hsmrt_options* hsmrt_options_create(void) {
  try {
    return new hsmrt_options();
  } catch (...) {
    return nullptr;
  }
}

void hsmrt_options_close(hsmrt_options* options) { delete options; }

int32_t hsmrt_options_set(hsmrt_options* options, const char* name, const char* value, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(options, "the options");
    set(options->options, &given(name, "the option's name"), &given(value, "the option's value"));
    return Status();
  });
}

void hsmrt_options_set_log(hsmrt_options* options, hsmrt_log log, void* user) {
  if (options == nullptr) return;
  options->options.log = nullptr;
  if (log == nullptr) return;
  options->options.log = [log, user](hsm_runtime::LogLevel level, std::string_view message) {
    log(user, static_cast<std::int32_t>(level), std::string(message).c_str());
  };
}

int32_t hsmrt_session_open(const hsmrt_bundle* bundle, int32_t part, const hsmrt_options* options,
                           hsmrt_session** session, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(session, "the place for the session");
    const SessionOptions chosen = options == nullptr ? SessionOptions() : options->options;
    auto opened = hsm_runtime::Session::open(given(bundle, "the bundle").bundle, part_of(part), chosen);
    if (opened.ok()) *session = new hsmrt_session{*std::move(opened)};
    return opened.status();
  });
}

void hsmrt_session_close(hsmrt_session* session) { delete session; }

const char* hsmrt_session_backend(const hsmrt_session* session) {
  return session == nullptr ? nullptr : name_of(session->session.backend()).data();
}

size_t hsmrt_session_count(const hsmrt_session* session, int32_t side) {
  if (session == nullptr) return 0;
  return side == HSMRT_INPUT ? session->session.inputs().size() : session->session.outputs().size();
}
const char* hsmrt_session_name(const hsmrt_session* session, int32_t side, size_t index) {
  const TensorInfo* info = info_of(session, side, index);
  return info == nullptr ? nullptr : info->name.c_str();
}
int32_t hsmrt_session_dtype(const hsmrt_session* session, int32_t side, size_t index) {
  const TensorInfo* info = info_of(session, side, index);
  return info == nullptr ? 0 : static_cast<std::int32_t>(info->dtype);
}
size_t hsmrt_session_rank(const hsmrt_session* session, int32_t side, size_t index) {
  const TensorInfo* info = info_of(session, side, index);
  return info == nullptr ? 0 : info->shape.size();
}
int64_t hsmrt_session_size(const hsmrt_session* session, int32_t side, size_t index, size_t axis) {
  const Dimension* dimension = dimension_of(session, side, index, axis);
  if (dimension == nullptr) return 0;
  const std::int64_t* size = std::get_if<std::int64_t>(dimension);
  return size == nullptr ? -1 : *size;
}
const char* hsmrt_session_dimension(const hsmrt_session* session, int32_t side, size_t index, size_t axis) {
  const Dimension* dimension = dimension_of(session, side, index, axis);
  const std::string* name = dimension == nullptr ? nullptr : std::get_if<std::string>(dimension);
  return name == nullptr ? nullptr : name->c_str();
}

int32_t hsmrt_session_run(const hsmrt_session* session, const hsmrt_tensor* inputs, size_t input_count,
                          const hsmrt_tensor* outputs, size_t output_count, hsmrt_error* error) {
  return hsmrt_session_run_with(session, inputs, input_count, outputs, output_count, nullptr, error);
}

int32_t hsmrt_session_run_with(const hsmrt_session* session, const hsmrt_tensor* inputs, size_t input_count,
                               const hsmrt_tensor* outputs, size_t output_count, const hsmrt_run_options* options,
                               hsmrt_error* error) {
  return call(error, [&] {
    return given(session, "the session")
        .session.run(views_of(inputs, input_count), views_of(outputs, output_count), options_of(options));
  });
}

int32_t hsmrt_session_start(const hsmrt_session* session, const hsmrt_tensor* inputs, size_t input_count,
                            const hsmrt_tensor* outputs, size_t output_count, const hsmrt_run_options* options,
                            hsmrt_run** run, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(run, "the place for the run");
    auto started =
        given(session, "the session")
            .session.run_async(views_of(inputs, input_count), views_of(outputs, output_count), options_of(options));
    if (started.ok()) *run = new hsmrt_run{*std::move(started)};
    return started.status();
  });
}

int32_t hsmrt_run_done(const hsmrt_run* run) { return run != nullptr && run->run.done() ? 1 : 0; }

int32_t hsmrt_run_wait(hsmrt_run* run, hsmrt_error* error) {
  return call(error, [&] { return given(run, "the run").run.wait(); });
}

void hsmrt_run_close(hsmrt_run* run) { delete run; }

int32_t hsmrt_session_bind(const hsmrt_session* session, const hsmrt_tensor* inputs, size_t input_count,
                           const hsmrt_tensor* outputs, size_t output_count, const hsmrt_run_options* options,
                           hsmrt_bound** bound, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(bound, "the place for the bound run");
    auto made = given(session, "the session")
                    .session.bind(views_of(inputs, input_count), views_of(outputs, output_count), options_of(options));
    if (made.ok()) *bound = new hsmrt_bound{*std::move(made)};
    return made.status();
  });
}

int32_t hsmrt_bound_run(hsmrt_bound* bound, hsmrt_error* error) {
  return call(error, [&] { return given(bound, "the bound run").run.run(); });
}

void hsmrt_bound_close(hsmrt_bound* bound) { delete bound; }
