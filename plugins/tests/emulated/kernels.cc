// CUDA kernels under the host shim behind the functions of hsm_kernels.h, in place of the CPU's: what
// `hsm-export operator test` runs.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "hsm_operators/common/cpu/kernels.h"
#include "hsm_operators/common/cuda/kernels.h"
#include "hsm_operators/common/definition.h"
#include "hsm_operators/common/opset.h"
#include "simt.h"
#include "torch/hsm_kernels.h"

extern "C" {

/* Chooses how this thread's calls run: the tactic of that number where it supports the call, else the launcher's own
 * choice; and threads and blocks in the order 0 forward, 1 reverse, 2 shuffled. */
HSM_KERNELS_API void hsm_kernels_emulate(std::int32_t tactic, std::int32_t order);

/* Returns the names of an operator's tactics, a comma between them, or null beyond the last operator. */
HSM_KERNELS_API const char* hsm_kernels_tactics(std::int32_t index);
}

namespace hsm {
namespace {

thread_local int wanted = -1;

// Operators of one library.
constexpr std::size_t kMostOperators = 64;
// As cudaMalloc aligns memory.
constexpr std::size_t kAlignment = 256;

// Memory that holds NaN, so that what reads it before it was written is seen.
std::unique_ptr<void, void (*)(void*)> poisoned(std::size_t bytes) {
  const std::size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* const data = std::aligned_alloc(kAlignment, size);
  if (data == nullptr && size > 0) throw std::bad_alloc();
  for (std::size_t i = 0; i < size; ++i) static_cast<unsigned char*>(data)[i] = 0xff;
  return {data, std::free};
}

void run(const cuda::Kernels& kernels, const Call& call) {
  const cuda::Device device{
      .sm = 86, .multiprocessors = 3, .shared_memory_per_block = simt::settings().shared_memory_limit};
  const int tactic = kernels.supports(call, wanted, device) ? wanted : kernels.default_tactic(call, device);
  if (!kernels.supports(call, tactic, device)) throw std::runtime_error("no tactic supports the call");
  const auto workspace = poisoned(kernels.workspace(call, tactic, device));
  const int error = kernels.launch(call, tactic, device, workspace.get(), nullptr);
  if (error != 0) throw std::runtime_error("error " + std::to_string(error) + ": " + simt::last_error());
}

template <std::size_t kIndex>
void run_row(const Call& call, const ParallelFor& /*parallel_for*/) {
  run(cuda::kernels()[kIndex], call);
}

template <std::size_t... kIndices>
std::vector<cpu::Kernel> rows(std::index_sequence<kIndices...> /*indices*/) {
  constexpr std::array runners{run_row<kIndices>...};
  const auto kernels = cuda::kernels();
  std::vector<cpu::Kernel> found;
  for (std::size_t i = 0; i < kernels.size() && i < runners.size(); ++i) {
    found.push_back({runners[i], {}, kernels[i].domain, kernels[i].name});
  }
  return found;
}

}  // namespace

std::span<const Definition> definitions() { return {}; }

std::span<const cpu::Kernel> cpu::kernels() {
  static const std::vector<Kernel> the_rows = rows(std::make_index_sequence<kMostOperators>());
  return the_rows;
}

}  // namespace hsm

void hsm_kernels_emulate(std::int32_t tactic, std::int32_t order) {
  hsm::wanted = tactic;
  hsm::simt::settings().threads = hsm::simt::settings().blocks = static_cast<hsm::simt::Order>(order);
}

const char* hsm_kernels_tactics(std::int32_t index) {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> found;
    for (const hsm::opset::Operator& op : hsm::opset::operators()) {
      const hsm::cuda::Kernels* const kernels = hsm::cuda::kernels_of(op);
      std::string& own = found.emplace_back();
      if (kernels == nullptr) continue;
      for (const std::string_view name : kernels->tactics()) own.append(own.empty() ? "" : ",").append(name);
    }
    return found;
  }();
  const auto at = static_cast<std::size_t>(index);
  return at < names.size() ? names[at].c_str() : nullptr;
}
