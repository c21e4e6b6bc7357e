// Times the C++ runtime against ONNX Runtime called directly: the same file, options and threads, in one process, in
// turns. Both sides compute the same numbers, which is checked first. Prints one JSON object a line, with the ratio of
// each pair of turns; benchmarks/runtime_overhead.py starts several processes, as two sessions of one model differ a
// little, and reads them.
//
//   hsm_bench_runtime_overhead BUNDLE KERNELS PAIRS LENGTH FIRST
//
// LENGTH is that of the whole sequence, or 0 for steps of the decoder. FIRST says whose session is made first, as where
// its weights lie in memory decides how quick a session is.
// ONNX Runtime is that of HSM_ONNXRUNTIME_LIBRARY. One thread; its CPU time, which other processes disturb less than
// wall time.
#include <onnxruntime_session_options_config_keys.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hsm_runtime/generator.h"
#include "hsm_runtime/session.h"
#include "runtime/onnxruntime/library.h"

namespace {

using namespace hsm_runtime;  // NOLINT: a program on top of the whole public interface
namespace ort = hsm::runtime::ort;

// A turn is as many calls as take about so long: short, so that most turns are not interrupted.
constexpr double kTurnSeconds = 0.002;

[[noreturn]] void stop(const std::string& why, int code = 1) {
  std::fprintf(stderr, "error: %s\n", why.c_str());
  std::exit(code);
}

template <typename T>
T require(Result<T> result) {
  if (!result.ok()) stop(result.status().message());
  return *std::move(result);
}

void require(const Status& status) {
  if (!status.ok()) stop(status.message());
}

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The tensors of one call after another, all of which take the same memory.
class Feed {
 public:
  // Of the decoder, one token; else `length` tokens.
  Feed(const Bundle& bundle, Part part, std::int64_t length) : decodes_(part == Part::kDecode) {
    calls_.resize(decodes_ ? 2 : 1);
    for (const TensorInfo& info : bundle.inputs(part)) {
      if (info.name.starts_with("past.")) {
        // Two sets of states: a call reads one and writes the other.
        const std::string present = "present." + info.name.substr(5);
        Buffer& even = add(info, length);
        Buffer& odd = add(info, length);
        calls_[0].inputs.push_back(even.as(info.name));
        calls_[0].outputs.push_back(odd.as(present));
        calls_[1].inputs.push_back(odd.as(info.name));
        calls_[1].outputs.push_back(even.as(present));
      } else {
        Buffer& buffer = add(info, length);
        for (Call& call : calls_) call.inputs.push_back(buffer.as(info.name));
      }
    }
    for (const TensorInfo& info : bundle.outputs(part)) {
      if (info.name.starts_with("present.")) continue;
      Buffer& buffer = add(info, length);
      for (Call& call : calls_) call.outputs.push_back(buffer.as(info.name));
    }
    for (std::int64_t i = 0; i < length; ++i) ids("tokens")[i] = token(i);
    if (decodes_) *ids("lengths") = 1;
  }

  struct Call {
    std::vector<NamedTensor> inputs, outputs;
  };
  const std::vector<Call>& calls() const { return calls_; }

  // Puts the next call's numbers in place, and returns which of the calls that is.
  std::size_t advance() {
    if (!decodes_) return 0;
    *ids("tokens") = token(position_);
    *ids("position") = position_;
    return static_cast<std::size_t>(position_++ % 2);
  }

  static std::int64_t token(std::int64_t position) { return position * 37 % 256; }

  std::vector<float> logits() const {
    const Buffer& buffer = *buffers_.at("logits");
    const auto* data = reinterpret_cast<const float*>(buffer.memory.data());
    return {data, data + buffer.memory.size() / sizeof(float)};
  }

 private:
  struct Buffer {
    TensorInfo info;
    std::vector<std::int64_t> shape;
    std::vector<std::byte> memory;

    NamedTensor as(const std::string& name) {
      names.push_back(std::make_unique<std::string>(name));
      return {*names.back(), {memory.data(), info.dtype, shape}};
    }
    std::vector<std::unique_ptr<std::string>> names;
  };

  Buffer& add(const TensorInfo& info, std::int64_t length) {
    auto buffer = std::make_unique<Buffer>();
    buffer->info = info;
    std::size_t bytes = size_of(info.dtype);
    for (const Dimension& dimension : info.shape) {
      const std::string* name = std::get_if<std::string>(&dimension);
      const std::int64_t size = name == nullptr ? std::get<std::int64_t>(dimension) : *name == "batch" ? 1 : length;
      buffer->shape.push_back(size);
      bytes *= static_cast<std::size_t>(size);
    }
    buffer->memory.resize(bytes);
    const std::string key = buffers_.contains(info.name) ? info.name + " again" : info.name;
    return *(buffers_[key] = std::move(buffer));
  }

  std::int64_t* ids(const char* name) { return reinterpret_cast<std::int64_t*>(buffers_.at(name)->memory.data()); }

  bool decodes_;
  std::int64_t position_ = 0;
  std::map<std::string, std::unique_ptr<Buffer>> buffers_;
  std::vector<Call> calls_;
};

// Somebody who makes the same calls as the others.
class Contestant {
 public:
  virtual ~Contestant() = default;
  virtual void call() = 0;
  virtual std::vector<float> logits() const = 0;
};

// ONNX Runtime's C interface, with the options that the library uses, and values that were made before.
class Bare final : public Contestant {
 public:
  Bare(const ort::Library& library, const std::string& folder, const std::string& file, const std::string& kernels,
       Feed feed)
      : api_(*library.api), feed_(std::move(feed)) {
    OrtEnv* env = nullptr;  // all of these end with the process
    check(api_.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "bare", &env));
    OrtSessionOptions* options = nullptr;
    check(api_.CreateSessionOptions(&options));
    check(api_.SetSessionLogSeverityLevel(options, ORT_LOGGING_LEVEL_ERROR));
    check(api_.SetIntraOpNumThreads(options, 1));
    check(
        api_.AddSessionConfigEntry(options, kOrtSessionOptionsModelExternalInitializersFileFolderPath, folder.c_str()));
    check(api_.RegisterCustomOpsLibrary_V2(options, kernels.c_str()));
    check(api_.CreateSession(env, (folder + "/" + file).c_str(), options, &session_));
    for (const Feed::Call& call : feed_.calls()) calls_.push_back({values_of(call.inputs), values_of(call.outputs)});
  }

  void call() override {
    Call& call = calls_[feed_.advance()];
    check(api_.Run(session_, nullptr, call.from.names.data(), call.from.values.data(), call.from.values.size(),
                   call.to.names.data(), call.to.values.size(), call.to.values.data()));
  }
  std::vector<float> logits() const override { return feed_.logits(); }

 private:
  struct Values {
    std::vector<const char*> names;
    std::vector<OrtValue*> values;
  };
  struct Call {
    Values from, to;
  };

  Values values_of(const std::vector<NamedTensor>& tensors) const {
    OrtMemoryInfo* memory = nullptr;
    check(api_.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    Values values;
    for (const NamedTensor& named : tensors) {
      std::size_t bytes = size_of(named.tensor.dtype);
      for (const std::int64_t size : named.tensor.shape) bytes *= static_cast<std::size_t>(size);
      values.names.push_back(named.name.data());
      check(api_.CreateTensorWithDataAsOrtValue(
          memory, named.tensor.data, bytes, named.tensor.shape.data(), named.tensor.shape.size(),
          static_cast<ONNXTensorElementDataType>(named.tensor.dtype), &values.values.emplace_back()));
    }
    return values;
  }

  void check(OrtStatus* status) const { ort::require(api_, status, Code::kRunFailed, "ONNX Runtime"); }

  const OrtApi& api_;
  Feed feed_;
  OrtSession* session_ = nullptr;
  std::vector<Call> calls_;
};

class ThroughSession final : public Contestant {
 public:
  ThroughSession(Session session, Feed feed) : session_(std::move(session)), feed_(std::move(feed)) {}
  void call() override {
    const Feed::Call& call = feed_.calls()[feed_.advance()];
    require(session_.run(call.inputs, call.outputs));
  }
  std::vector<float> logits() const override { return feed_.logits(); }

 private:
  Session session_;
  Feed feed_;
};

class ThroughBoundRun final : public Contestant {
 public:
  ThroughBoundRun(const Session& session, Feed feed) : feed_(std::move(feed)) {
    for (const Feed::Call& call : feed_.calls()) runs_.push_back(require(session.bind(call.inputs, call.outputs)));
  }
  void call() override { require(runs_[feed_.advance()].run()); }
  std::vector<float> logits() const override { return feed_.logits(); }

 private:
  Feed feed_;
  std::vector<BoundRun> runs_;  // of each of the feed's calls
};

class ThroughGenerator final : public Contestant {
 public:
  explicit ThroughGenerator(const Session& session) : generator_(require(Generator::create(session))) {}
  void call() override { require(generator_.step(std::array{Feed::token(position_++)})); }
  std::vector<float> logits() const override {
    const std::span<const float> found = generator_.logits(0);
    return {found.begin(), found.end()};
  }

 private:
  Generator generator_;
  std::int64_t position_ = 0;
};

// The first call, which finds the other contestant's weights in the caches, does not count.
double seconds_of(Contestant& contestant, int calls) {
  contestant.call();
  const double start = cpu_seconds();
  for (int i = 0; i < calls; ++i) contestant.call();
  return (cpu_seconds() - start) / calls;
}

using Named = std::pair<const char*, std::unique_ptr<Contestant>>;

// Lets the first contestant and the others take turns, each turn of as many calls.
void compete(const char* what, const std::vector<Named>& contestants, int pairs) {
  Contestant& first = *contestants[0].second;
  for (int i = 0; i < 5; ++i) {
    for (const auto& [name, contestant] : contestants) contestant->call();
  }
  for (const auto& [name, contestant] : contestants) {
    if (contestant->logits() != first.logits()) stop(std::string(name) + " computes other numbers", 5);
  }
  const int calls = std::max(1, static_cast<int>(kTurnSeconds / seconds_of(first, 5)));
  for (std::size_t i = 1; i < contestants.size(); ++i) seconds_of(*contestants[i].second, 5);  // as many as the first
  std::vector<std::vector<double>> seconds(contestants.size());
  for (int pair = 0; pair < pairs; ++pair) {
    for (std::size_t i = 0; i < contestants.size(); ++i) {
      const std::size_t turn = (i + static_cast<std::size_t>(pair)) % contestants.size();
      seconds[turn].push_back(seconds_of(*contestants[turn].second, calls));
    }
  }
  for (const auto& [name, contestant] : contestants) {
    if (contestant->logits() != first.logits()) stop(std::string(name) + " computes other numbers", 5);
  }
  for (std::size_t i = 0; i < contestants.size(); ++i) {
    std::printf("{\"what\": \"%s\", \"contestant\": \"%s\", \"calls\": %d, \"seconds\": [", what, contestants[i].first,
                calls);
    for (std::size_t pair = 0; pair < seconds[i].size(); ++pair) {
      std::printf("%s%.9f", pair == 0 ? "" : ", ", seconds[i][pair]);
    }
    std::printf("]}\n");
  }
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) stop("usage: hsm_bench_runtime_overhead BUNDLE KERNELS PAIRS LENGTH FIRST", 2);
  const std::string folder = argv[1], kernels = argv[2];
  const int pairs = std::atoi(argv[3]);
  const std::int64_t length = std::atoll(argv[4]);
  const auto first = static_cast<std::size_t>(std::atoll(argv[5]));
  const Part part = length == 0 ? Part::kDecode : Part::kModel;
  const Bundle bundle = require(Bundle::open(folder));
  const ort::Library library = ort::load("", "", false);
  const SessionOptions options{.backends = {Backend::kOnnxRuntimeFused}, .kernel_library = kernels, .threads = 1};
  const auto session = [&] { return require(Session::open(bundle, part, options)); };
  const auto feed = [&] { return Feed(bundle, part, std::max<std::int64_t>(length, 1)); };
  const auto bare = [&]() -> std::unique_ptr<Contestant> {
    const char* file = part == Part::kDecode ? "decode.onnx" : "model.onnx";
    return std::make_unique<Bare>(library, folder, file, kernels, feed());
  };
  std::vector<std::pair<const char*, std::function<std::unique_ptr<Contestant>()>>> makers = {
      {"bare", bare},
      {"bare again", bare},
      {"Session::run", [&] { return std::make_unique<ThroughSession>(session(), feed()); }},
      {"BoundRun::run", [&] { return std::make_unique<ThroughBoundRun>(session(), feed()); }}};
  if (part == Part::kDecode) {
    makers.emplace_back("Generator::step", [&] { return std::make_unique<ThroughGenerator>(session()); });
  }
  std::vector<Named> contestants;
  for (std::size_t i = 0; i < makers.size(); ++i) {
    const auto& [name, make] = makers[(first + i) % makers.size()];
    contestants.emplace_back(name, make());
  }
  compete(part == Part::kDecode ? "decode step" : "whole sequence", contestants, pairs);
  return 0;
}
