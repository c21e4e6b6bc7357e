// Launching kernels, and what tests may ask for and look at.
#pragma once

#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "block.h"

namespace hsm::simt {

struct Launch {
  std::string kernel;  // as the compiler spells it, with template arguments
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes;
};

// How kernels run on this operating-system thread. Starts from the environment: HSM_SIMT_ORDER is forward, reverse or
// shuffled (threads and blocks alike).
struct Settings {
  Order threads = Order::kForward;
  Order blocks = Order::kForward;
  unsigned seed = 1;                            // of the shuffled orders
  std::size_t shared_memory_limit = 99 * 1024;  // bytes a block may ask for, as on sm_86
  bool execute = true;                          // false: launches are checked and logged, and nothing runs
};
Settings& settings();

// The launches of this operating-system thread since clear_launches(), the first kMostLaunches of them. With
// HSM_SIMT_LOG set to a path, every launch of the process is also appended to that file: kernel, grid, block and shared
// bytes, tab-separated.
inline constexpr std::size_t kMostLaunches = 100'000;
const std::vector<Launch>& launches();
void clear_launches();

// What was wrong with the last launch that did not return 0.
const std::string& last_error();

// Runs a kernel to its end. Returns 0 or the cudaError_t of a bad configuration (9) or a failed launch (719).
int run(const Launch& launch, const Body& body);

template <auto Kernel>
constexpr std::string_view kernel_name() {
  const std::string_view text = __PRETTY_FUNCTION__;
  const std::string_view before = "Kernel = ";
  const std::size_t start = text.find(before) + before.size();
  return text.substr(start, text.find_first_of(";]", start) - start);
}

template <typename... Parameters, typename... Arguments>
int launch_with(std::string_view name, void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
                Arguments... arguments) {
  const std::pair<void (*)(Parameters...), std::tuple<Parameters...>> call(
      kernel, std::tuple<Parameters...>(static_cast<Parameters>(arguments)...));
  using Call = std::remove_cvref_t<decltype(call)>;
  const auto invoke = [](const void* context) {
    const auto& [function, values] = *static_cast<const Call*>(context);
    std::apply(function, values);
  };
  return run({std::string(name), grid, block, shared_bytes}, {invoke, &call});
}

// What HSM_LAUNCH calls.
template <auto Kernel, typename... Arguments>
int launch(dim3 grid, dim3 block, std::size_t shared_bytes, void* /*stream*/, Arguments... arguments) {
  return launch_with(kernel_name<Kernel>(), Kernel, grid, block, shared_bytes, arguments...);
}

}  // namespace hsm::simt
