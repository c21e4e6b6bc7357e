#include "runtime/tensorrt/choice.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "runtime/error.h"

namespace hsm::runtime::trt {
namespace {

using Chosen = hsm::runtime::Engine;
using Version = std::array<int, 3>;

// 10.0.0; TensorRT-RTX counts from 1.0.0, which is 10000.
constexpr std::int32_t kFirstTensorRt = 100000;

std::string target_of(const Machine& machine) { return machine.version < kFirstTensorRt ? "tensorrt-rtx" : "tensorrt"; }

Version version_of(const Machine& machine) {
  return {machine.version / 10000, machine.version / 100 % 100, machine.version % 100};
}

// Numbers of the text's parts; -1 where it has fewer.
Version version_of(std::string_view text) {
  Version version = {-1, -1, -1};
  const char* at = text.data();
  const char* const end = at + text.size();
  for (int& part : version) {
    at = std::from_chars(at, end, part).ptr;
    if (at == end) break;
    ++at;  // the dot
  }
  return version;
}

std::string name_of(std::string_view target, const std::string& version) {
  return (target == "tensorrt-rtx" ? "TensorRT-RTX " : "TensorRT ") + version;
}

// An engine is read by the version that built it; the number of the build, which the library's version lacks, is not
// compared.
bool same_version(const Chosen& engine, const Machine& machine) {
  const Version wanted = version_of(engine.version), found = version_of(machine);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i] >= 0 && wanted[i] != found[i]) return false;
  }
  return engine.target == target_of(machine);
}

bool is_exact(const Chosen& engine, const Machine& machine) {
  const std::string name = "sm" + std::to_string(machine.sm);
  return std::find(engine.architectures.begin(), engine.architectures.end(), name) != engine.architectures.end();
}

bool same_architecture(const Chosen& engine, const Machine& machine) {
  if (engine.architectures.empty() || is_exact(engine, machine)) return true;
  return std::any_of(engine.architectures.begin(), engine.architectures.end(), [&](const std::string& name) {
    return name.ends_with('+') && machine.sm >= std::stoi(name.substr(2));
  });
}

std::string join(const std::vector<std::string>& parts, const char* between) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : between) + part;
  return text;
}

}  // namespace

std::string mismatch(const Chosen& engine, const Machine& machine, bool allow_embedded_plugins) {
  std::vector<std::string> wanted, found;
  if (!same_architecture(engine, machine)) {
    wanted.push_back(join(engine.architectures, ", "));
    found.push_back("sm" + std::to_string(machine.sm));
  }
  if (!same_version(engine, machine)) {
    const Version version = version_of(machine);
    wanted.push_back(name_of(engine.target, engine.version));
    found.push_back(name_of(target_of(machine), std::to_string(version[0]) + "." + std::to_string(version[1]) + "." +
                                                    std::to_string(version[2])));
  }
  if (!wanted.empty()) {
    return engine.file + " is for " + join(wanted, " and ") + "; this machine has " + join(found, " and ");
  }
  if (engine.embedded_plugins && !allow_embedded_plugins) {
    return engine.file +
           " holds its plugins, which is native code, and loads only with the option "
           "allow_embedded_plugins";
  }
  return "";
}

std::vector<const Chosen*> fitting(const std::vector<Chosen>& engines, std::string_view part, const Machine& machine,
                                   bool allow_embedded_plugins) {
  std::vector<const Chosen*> found;
  std::vector<std::string> reasons;
  for (const Chosen& engine : engines) {
    if (engine.of != part) continue;
    std::string reason = mismatch(engine, machine, allow_embedded_plugins);
    if (reason.empty()) {
      found.push_back(&engine);
    } else {
      reasons.push_back(std::move(reason));
    }
  }
  if (found.empty()) fail(Code::kNoBackend, join(reasons, "; "));
  std::stable_partition(found.begin(), found.end(), [&](const Chosen* engine) { return is_exact(*engine, machine); });
  return found;
}

std::vector<std::string> libraries_for(const std::vector<Chosen>& engines, std::string_view part,
                                       std::string_view target) {
  if (target == "tensorrt-rtx") return {"libtensorrt_rtx.so.1", "libtensorrt_rtx.so"};
  std::vector<int> majors;
  const auto add = [&](int major) {
    if (std::find(majors.begin(), majors.end(), major) == majors.end()) majors.push_back(major);
  };
  for (const Chosen& engine : engines) {
    if (engine.of == part && engine.target == target) add(version_of(engine.version)[0]);
  }
  std::vector<std::string> names;
  for (const int major : majors) {
    for (const char* name : {"libnvinfer.so.", "libnvinfer_lean.so."}) names.push_back(name + std::to_string(major));
  }
  // Another one cannot run them; that it is there makes a better reason than that none is.
  for (const int major : {11, 10}) {
    if (std::find(majors.begin(), majors.end(), major) == majors.end()) {
      names.push_back("libnvinfer.so." + std::to_string(major));
    }
  }
  return names;
}

}  // namespace hsm::runtime::trt
