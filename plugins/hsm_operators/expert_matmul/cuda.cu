#include "hsm_operators/expert_matmul/cuda.gen.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "hsm_operators/expert_matmul/expert_gather.cuh"
#include "hsm_operators/expert_matmul/cuda.cuh"

namespace hsm::cuda {
namespace {

enum class Form { kPlain, kSum };

enum Tactic : int { kTensor64, kTensor128, kSimt64, kSimt128, kGather };
constexpr std::string_view kTactics[] = {"mma64", "mma128", "simt64", "simt128", "gather"};

constexpr std::int64_t kMostBlocksX = 0x7fffffff;
constexpr std::int64_t kMostBlocksYZ = 65535;
constexpr std::int64_t kColumns = 64;
// Above, a tile of 64 tokens is filled by a quarter and more.
constexpr std::int64_t kMostGatheredTokens = 16;

constexpr std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

constexpr std::int64_t tokens_of(int tactic) { return tactic == kTensor64 || tactic == kSimt64 ? 64 : 128; }

constexpr bool is_tensor(int tactic) { return tactic == kTensor64 || tactic == kTensor128; }

std::int64_t tokens(const ExpertMatMulArgs& args) { return args.batch * args.length; }

// Outputs of all heads, or of their sum.
std::int64_t heads_of_y(const ExpertMatMulArgs& args, Form form) { return form == Form::kSum ? 1 : args.heads; }

bool is_aligned_16(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; }

// Both row lengths are whole vectors, and so is where the rows start.
bool has_vectors(const ExpertMatMulArgs& args) {
  const auto vector = static_cast<std::int64_t>(16 / size_of(args.type));
  return args.inputs % vector == 0 && args.outputs % vector == 0 && is_aligned_16(args.x) && is_aligned_16(args.weight);
}

template <typename T>
ExpertMatMulParameters<T> parameters_of(const ExpertMatMulArgs& args, Form form) {
  const bool sum = form == Form::kSum;
  return {.x = static_cast<const T*>(args.x),
          .logits = args.logits,
          .weight = static_cast<const T*>(args.weight),
          .y = static_cast<T*>(args.y),
          .tokens = tokens(args),
          .x_token = sum ? args.heads * args.inputs : args.inputs,
          .x_head = sum ? args.inputs : 0,
          .y_token = sum ? args.outputs : args.heads * args.outputs,
          .y_head = sum ? 0 : args.outputs,
          .heads = static_cast<int>(args.heads),
          .heads_per_block = sum ? static_cast<int>(args.heads) : 1,
          .experts = static_cast<int>(args.experts),
          .inputs = static_cast<int>(args.inputs),
          .outputs = static_cast<int>(args.outputs),
          .active = static_cast<int>(args.active),
          .aligned = has_vectors(args)};
}

// Shared memory of a tile; equal for all products.
std::size_t tile_bytes(DType type, std::int64_t tile) {
  const auto bytes = [&]<typename T>(T) {
    return tile == 64 ? sizeof(typename ExpertTile<T, 64>::Shared) : sizeof(typename ExpertTile<T, 128>::Shared);
  };
  return type == DType::kFloat32 ? bytes(float{}) : bytes(__half{});
}

template <typename T, int kTokens, template <typename, int> typename Product>
int launch_tile(const ExpertMatMulArgs& args, Form form, Stream stream) {
  using Tile = ExpertTile<T, kTokens>;
  const dim3 grid(static_cast<unsigned>(ceil_divide(tokens(args), kTokens)),
                  static_cast<unsigned>(ceil_divide(args.outputs, Tile::kColumns)),
                  static_cast<unsigned>(heads_of_y(args, form)));
  return HSM_LAUNCH((expert_matmul_tile<T, kTokens, Product>), grid, Tile::kThreads, sizeof(typename Tile::Shared),
                    stream, parameters_of<T>(args, form));
}

template <typename T, int kCount>
int launch_gather(const ExpertMatMulArgs& args, Form form, Stream stream) {
  constexpr int kBlockColumns = kGatherVectors * kCount;
  const dim3 grid(static_cast<unsigned>(tokens(args) * ceil_divide(args.outputs, kBlockColumns)),
                  static_cast<unsigned>(heads_of_y(args, form)));
  return HSM_LAUNCH((expert_matmul_gather<T, kCount>), grid, kGatherThreads,
                    kGatherParts * kBlockColumns * sizeof(float), stream, parameters_of<T>(args, form));
}

template <typename T>
int launch_tensor(const ExpertMatMulArgs& args, Form form, int tactic, Stream stream) {
  if constexpr (sizeof(T) == 2) {
    return tactic == kTensor64 ? launch_tile<T, 64, TensorProduct>(args, form, stream)
                               : launch_tile<T, 128, TensorProduct>(args, form, stream);
  }
  return kNotSupported;
}

template <typename T>
int launch_type(const ExpertMatMulArgs& args, Form form, int tactic, Stream stream) {
  switch (tactic) {
    case kTensor64:
    case kTensor128:
      return launch_tensor<T>(args, form, tactic, stream);
    case kSimt64:
      return launch_tile<T, 64, SimtProduct>(args, form, stream);
    case kSimt128:
      return launch_tile<T, 128, SimtProduct>(args, form, stream);
    default:
      return has_vectors(args) ? launch_gather<T, Vector<T>::kSize>(args, form, stream)
                               : launch_gather<T, 1>(args, form, stream);
  }
}

bool fits_grid(const ExpertMatMulArgs& args, Form form, int tactic) {
  if (heads_of_y(args, form) > kMostBlocksYZ) return false;
  if (tactic == kGather) {
    const std::int64_t tiles = ceil_divide(args.outputs, kGatherVectors);  // of single columns, the most there are
    return tiles == 0 || tokens(args) <= kMostBlocksX / tiles;
  }
  return ceil_divide(tokens(args), tokens_of(tactic)) <= kMostBlocksX &&
         ceil_divide(args.outputs, kColumns) <= kMostBlocksYZ;
}

bool supports(const ExpertMatMulArgs& args, Form form, int tactic, const Device& device) {
  if (tactic < 0 || tactic >= std::ssize(kTactics)) return false;
  for (const std::int64_t size : {args.heads, args.experts, args.inputs, args.outputs, args.active}) {
    if (size > INT32_MAX) return false;
  }
  if (!fits_grid(args, form, tactic)) return false;
  if (tactic == kGather) return true;
  if (is_tensor(tactic) && !has_tensor_cores(device, args.type)) return false;
  return tile_bytes(args.type, tokens_of(tactic)) <= device.shared_memory_per_block;
}

int default_tactic(const ExpertMatMulArgs& args, Form form, const Device& device) {
  // The gather form reads k matrices a token, a tile reads all E of them (for many tokens at once, but slowly for a
  // few).
  const bool few = tokens(args) * args.active <= 2 * args.experts;
  // A tile of so few tokens is mostly empty, and one block of few reads all E: where gathering blocks can be a block of
  // each multiprocessor, or fewer, each of them reads less, and all at once.
  const bool idle =
      tokens(args) <= kMostGatheredTokens &&
      tokens(args) * ceil_divide(args.outputs, kColumns) * heads_of_y(args, form) <= device.multiprocessors;
  if ((few || idle) && supports(args, form, kGather, device)) return kGather;
  const bool tensor = has_tensor_cores(device, args.type);
  const int large = tensor ? kTensor128 : kSimt128;
  const std::int64_t blocks =
      ceil_divide(tokens(args), tokens_of(large)) * ceil_divide(args.outputs, kColumns) * heads_of_y(args, form);
  if (blocks >= device.multiprocessors && supports(args, form, large, device)) return large;
  return tensor ? kTensor64 : kSimt64;
}

int launch(const ExpertMatMulArgs& args, Form form, int tactic, const Device& device, Stream stream) {
  if (!supports(args, form, tactic, device)) return kInvalidValue;
  if (tokens(args) == 0 || args.heads == 0 || args.outputs == 0) return 0;
  return with_element(args.type,
                      [&](auto element) { return launch_type<decltype(element)>(args, form, tactic, stream); });
}

}  // namespace

std::span<const std::string_view> expert_matmul_tactics() noexcept { return kTactics; }
std::span<const std::string_view> expert_matmul_sum_tactics() noexcept { return kTactics; }

bool expert_matmul_supports(const ExpertMatMulArgs& args, int tactic, const Device& device) noexcept {
  return supports(args, Form::kPlain, tactic, device);
}
bool expert_matmul_sum_supports(const ExpertMatMulArgs& args, int tactic, const Device& device) noexcept {
  return supports(args, Form::kSum, tactic, device);
}

int expert_matmul_default_tactic(const ExpertMatMulArgs& args, const Device& device) noexcept {
  return default_tactic(args, Form::kPlain, device);
}
int expert_matmul_sum_default_tactic(const ExpertMatMulArgs& args, const Device& device) noexcept {
  return default_tactic(args, Form::kSum, device);
}

std::size_t expert_matmul_workspace(const ExpertMatMulArgs&, int, const Device&) noexcept { return 0; }
std::size_t expert_matmul_sum_workspace(const ExpertMatMulArgs&, int, const Device&) noexcept { return 0; }

int expert_matmul_launch(const ExpertMatMulArgs& args, int tactic, const Device& device, void* /*workspace*/,
                         Stream stream) noexcept {
  return launch(args, Form::kPlain, tactic, device, stream);
}
int expert_matmul_sum_launch(const ExpertMatMulArgs& args, int tactic, const Device& device, void* /*workspace*/,
                             Stream stream) noexcept {
  return launch(args, Form::kSum, tactic, device, stream);
}

}  // namespace hsm::cuda
