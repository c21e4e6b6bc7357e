// libhsm_tensorrt_register.so registers the plugins by being loaded, for programs that only dlopen plugin libraries
// (`polygraphy --plugins`, `trtexec --staticPlugins`). TensorRT's own macro for this would tie it to one version of
// TensorRT and to a libnvinfer that is visible to everybody, which Python's is not.
#include <dlfcn.h>
#include <link.h>

#include <string>
#include <string_view>
#include <vector>

#include "tensorrt/abi.h"
#include "tensorrt/guard.h"
#include "tensorrt/library.h"

namespace hsm::tensorrt {
namespace {

template <typename Registry>
HSM_FOREIGN_CLASS bool register_with(void* registry) {
  std::int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* const creators = getCreators(count);
  bool all = true;
  for (std::int32_t i = 0; i < count; ++i) {
    const char* const space = static_cast<const nvinfer1::IPluginCreatorV3One*>(creators[i])->getPluginNamespace();
    all = static_cast<Registry*>(registry)->register_creator(creators[i], space) && all;
  }
  return all;
}

bool register_in(const Library& library) {
  using GetRegistry = void* (*)();
  const auto get = reinterpret_cast<GetRegistry>(dlsym(library.handle, "getPluginRegistry"));
  void* const registry = get == nullptr ? nullptr : get();
  if (registry == nullptr) return false;
  switch (library.layout) {
    case Layout::kTensorRt10:
      return register_with<abi10::Registry>(registry);
    case Layout::kTensorRt11:
      return register_with<abi11::Registry>(registry);
    case Layout::kUnknown:
      break;
  }
  return false;
}

bool is_tensorrt(std::string_view path) {
  const std::string_view name = path.substr(path.rfind('/') + 1);
  return name.starts_with("libnvinfer.so") || name.starts_with("libnvinfer_lean.so") ||
         name.starts_with("libnvinfer_dispatch.so") || name.starts_with("libtensorrt_rtx.so");
}

// Called for each library of the process, with the loader's lock held.
int collect(dl_phdr_info* info, std::size_t, void* paths) {
  if (is_tensorrt(info->dlpi_name)) static_cast<std::vector<std::string>*>(paths)->emplace_back(info->dlpi_name);
  return 0;
}

[[gnu::constructor]] void register_everywhere() {
  guarded("registering the plugins", false, [] {
    std::vector<std::string> paths;
    dl_iterate_phdr(collect, &paths);
    if (paths.empty())
      log(Severity::kError, "libhsm_tensorrt_register.so: load TensorRT first; no plugin was registered");
    for (const std::string& path : paths) {
      if (register_in(loaded_library(path.c_str()))) continue;
      log(Severity::kError, "libhsm_tensorrt_register.so: " + path + " did not take all plugins");
    }
    return true;
  });
}

}  // namespace
}  // namespace hsm::tensorrt
