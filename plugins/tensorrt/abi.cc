#include "tensorrt/abi.h"

#include <dlfcn.h>

namespace hsm::tensorrt {

Layout layout_of(std::int32_t version) noexcept {
  if (version >= 110000) return Layout::kTensorRt11;
  if (version >= 100000) return Layout::kTensorRt10;
  return version >= 10700 ? Layout::kTensorRt11 : Layout::kUnknown;
}

Library loaded_library(const char* path) noexcept {
  void* handle = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return {};
  dlclose(handle);  // whoever loaded it keeps it loaded
  using Version = std::int32_t (*)();
  const auto version = reinterpret_cast<Version>(dlsym(handle, "getInferLibVersion"));
  return {handle, version == nullptr ? Layout::kUnknown : layout_of(version())};
}

Library library_of(const void* object) noexcept {
  const void* const virtual_functions = *static_cast<const void* const*>(object);
  Dl_info info;
  if (dladdr(virtual_functions, &info) == 0 || info.dli_fname == nullptr) return {};
  return loaded_library(info.dli_fname);
}

}  // namespace hsm::tensorrt
