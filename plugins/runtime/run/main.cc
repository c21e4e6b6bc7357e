// hsm-run: opens a bundle, checks its numbers on this machine, and times it.
#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iostream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "hsm_runtime/session.h"
#include "runtime/error.h"
#include "runtime/safetensors.h"

namespace {

using namespace hsm_runtime;  // NOLINT: a program on top of the whole public interface
using hsm::runtime::fail;
using hsm::runtime::SafetensorsFile;
using hsm::runtime::StoredTensor;
using Clock = std::chrono::steady_clock;

constexpr const char* kUsage =
    "usage: hsm-run BUNDLE [--self-test] [--bench RUNS] [--backend NAME] [--threads N] [--quiet]\n"
    "  --self-test     compare with the numbers in the bundle; exits with 5 when they differ\n"
    "  --bench RUNS    time so many runs of the self-test's call, after as many tenths to warm up\n"
    "  --backend NAME  onnxruntime-fused or onnxruntime-bodies; default: the first that works\n";

struct Arguments {
  std::string bundle;
  bool self_test = false;
  bool quiet = false;
  int runs = 0;
  SessionOptions options;
};

int number_of(std::string_view text) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    fail(Code::kInvalidArgument, "'" + std::string(text) + "' is not a whole number");
  }
  return value;
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  const auto value = [&](int& i) -> std::string_view {
    if (i + 1 >= argc) fail(Code::kInvalidArgument, std::string(argv[i]) + " needs a value");
    return argv[++i];
  };
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--self-test") {
      arguments.self_test = true;
    } else if (option == "--quiet") {
      arguments.quiet = true;
    } else if (option == "--bench") {
      arguments.runs = number_of(value(i));
    } else if (option == "--threads") {
      arguments.options.threads = number_of(value(i));
    } else if (option == "--backend") {
      const std::string_view name = value(i);
      arguments.options.backends.resize(1);
      if (!backend_from_name(name, arguments.options.backends.data())) {
        fail(Code::kInvalidArgument, "there is no back end '" + std::string(name) + "'");
      }
    } else if (option.starts_with("-") || !arguments.bundle.empty()) {
      fail(Code::kInvalidArgument, "what is '" + std::string(option) + "'?");
    } else {
      arguments.bundle = option;
    }
  }
  if (arguments.bundle.empty()) fail(Code::kInvalidArgument, "name a bundle");
  return arguments;
}

template <typename T>
T require(Result<T> result) {
  if (!result.ok()) fail(result.status().code(), result.status().message());
  return *std::move(result);
}

// One call of a part, as the self-test stores it; a decoding model's state starts at zero.
class Call {
 public:
  Call(const Session& session, const SafetensorsFile& file, const std::string& part) {
    for (const TensorInfo& info : session.inputs()) {
      const auto found = file.tensors().find(part + ".inputs." + info.name);
      if (found != file.tensors().end()) {
        note_sizes(info, found->second.shape);
        add(info, found->second.shape, found->second.data);
      }
    }
    sizes_["capacity"] = sizes_["length"];
    for (const TensorInfo& info : session.inputs()) {
      if (file.tensors().contains(part + ".inputs." + info.name)) continue;
      if (!info.name.starts_with("past.")) fail(Code::kBadBundle, "the self-test lacks the input " + info.name);
      std::vector<std::int64_t> shape;
      for (const Dimension& dimension : info.shape) {
        const std::string* name = std::get_if<std::string>(&dimension);
        shape.push_back(name != nullptr ? sizes_[*name] : std::get<std::int64_t>(dimension));
      }
      add(info, shape, {});
    }
  }

  std::vector<Tensor> run(const Session& session) const {
    std::vector<NamedTensor> inputs;
    for (const Held& held : held_) {
      inputs.push_back({held.info->name, {const_cast<std::byte*>(held.memory.data()), held.info->dtype, held.shape}});
    }
    return require(session.run(inputs));
  }

 private:
  struct Held {
    const TensorInfo* info;
    std::vector<std::int64_t> shape;
    std::vector<std::byte> memory;
  };

  void note_sizes(const TensorInfo& info, const std::vector<std::int64_t>& shape) {
    for (std::size_t i = 0; i < std::min(shape.size(), info.shape.size()); ++i) {
      if (const std::string* name = std::get_if<std::string>(&info.shape[i])) sizes_[*name] = shape[i];
    }
  }

  void add(const TensorInfo& info, const std::vector<std::int64_t>& shape, std::span<const std::byte> data) {
    std::size_t bytes = size_of(info.dtype);
    for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
    Held held{&info, shape, std::vector<std::byte>(bytes)};
    if (!data.empty() && data.size() != bytes) {
      fail(Code::kBadBundle, "the self-test stores " + info.name + " in another type than the model takes");
    }
    if (!data.empty()) std::memcpy(held.memory.data(), data.data(), bytes);
    held_.push_back(std::move(held));
  }

  std::map<std::string, std::int64_t> sizes_;
  std::vector<Held> held_;
};

// The largest absolute error where the expected number is one; infinity when the results do not fit.
double largest_error(const Tensor& result, const StoredTensor& expected) {
  const std::size_t count = expected.data.size() / sizeof(float);
  if (result.dtype() != DType::kFloat32 || expected.dtype != "F32" || result.size() != count) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < count; ++i) {
    float right = 0;
    std::memcpy(&right, expected.data.data() + i * sizeof right, sizeof right);
    const double error = std::abs(double{result.values<float>()[i]} - right);
    if (!std::isnan(right)) largest = std::isnan(error) ? INFINITY : std::max(largest, error);
  }
  return largest;
}

// Compares every output for which the bundle states a tolerance.
bool self_test(const Bundle& bundle, const std::string& part, const std::vector<Tensor>& results,
               const SafetensorsFile& file) {
  bool passed = true;
  for (const auto& [name, tolerance] : bundle.tolerances()) {
    if (!name.starts_with(part + ".")) continue;
    const std::string output = name.substr(part.size() + 1);
    const auto same = [&](const Tensor& tensor) { return tensor.name() == output; };
    const auto result = std::find_if(results.begin(), results.end(), same);
    const auto expected = file.tensors().find(part + ".outputs." + output);
    if (result == results.end() || expected == file.tensors().end()) {
      fail(Code::kBadBundle, "the self-test names the output " + name + ", which is not there");
    }
    const double error = largest_error(*result, expected->second);
    const bool good = error <= tolerance;
    std::cout << (good ? "passed " : "FAILED ") << name << ": largest error " << error << ", allowed " << tolerance
              << '\n';
    passed = passed && good;
  }
  return passed;
}

void bench(const std::string& part, const Session& session, const Call& call, int runs) {
  std::vector<double> times;
  for (int i = -runs / 10; i < runs; ++i) {
    const auto start = Clock::now();
    call.run(session);
    if (i >= 0) times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  std::cout << part << ": median " << times[times.size() / 2] << " us, 95 % below " << times[times.size() * 95 / 100]
            << " us, " << runs << " runs\n";
}

int run(const Arguments& arguments) {
  const auto start = Clock::now();
  SessionOptions options = arguments.options;
  if (!arguments.quiet) options.log = [](LogLevel, std::string_view text) { std::cerr << text << '\n'; };
  const Bundle bundle = require(Bundle::open(arguments.bundle));
  const SafetensorsFile file(bundle.path(), "self-test.safetensors");
  bool passed = true;
  for (const auto& [part, name] : {std::pair{Part::kModel, std::string("model")}, {Part::kDecode, "decode"}}) {
    if (!bundle.has(part)) continue;
    const Session session = require(Session::open(bundle, part, options));
    const Call call(session, file, name);
    const std::vector<Tensor> results = call.run(session);
    const double first = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    std::cout << name << ": " << name_of(session.backend()) << ", first result " << first << " ms after the start\n";
    if (arguments.self_test) passed = self_test(bundle, name, results, file) && passed;
    if (arguments.runs > 0) bench(name, session, call, arguments.runs);
  }
  return passed ? 0 : 5;
}

// As the exit codes of hsm-export.
int exit_code(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
      return 2;
    case Code::kNoBackend:
      return 3;
    case Code::kBadBundle:
      return 4;
    default:
      return 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const Result<int> code = hsm::runtime::guarded<int>([&] { return run(parse(argc, argv)); });
  if (code.ok()) return *code;
  std::cerr << "error: " << code.status().message() << '\n';
  if (code.status().code() == Code::kInvalidArgument) std::cerr << kUsage;
  return exit_code(code.status().code());
}
