#include "hsm_operators/expert_mlp/cuda.gen.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "hsm_operators/expert_mlp/cuda.cuh"

namespace hsm::cuda {
namespace {

enum Tactic : int { kTensor, kSimt, kGather };
constexpr std::string_view kTactics[] = {"mma", "simt", "gather"};

constexpr std::int64_t kMostBlocksX = 0x7fffffff;
constexpr std::int64_t kMostBlocksY = 65535;
constexpr std::int64_t kColumns = 64;
// Choices that are computed at a time, which bounds the workspace: with many experts more, to fill their tiles.
constexpr std::int64_t kLeastChoices = 16384;
constexpr std::int64_t kMostChoices = 65536;

constexpr std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int64_t tokens(const ExpertMlpArgs& args) { return args.batch * args.length; }

std::int64_t tokens_at_a_time(const ExpertMlpArgs& args) {
  const std::int64_t choices = std::clamp(kMlpRows * args.experts, kLeastChoices, kMostChoices);
  return std::min(tokens(args), std::max<std::int64_t>(1, choices / args.active));
}

bool is_aligned_16(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; }

// Rows of `columns` elements from `data` on start at multiples of 16 bytes and are whole vectors.
bool has_vectors(DType type, const void* data, std::int64_t columns) {
  return columns % static_cast<std::int64_t>(16 / size_of(type)) == 0 && is_aligned_16(data);
}

// Where everything is in the workspace; columns of rows are padded to whole vectors.
struct Layout {
  Layout(const ExpertMlpArgs& args, int tactic, std::int64_t count)
      : choices(count * args.active),
        hidden_row(tactic == kGather ? args.hidden : (args.hidden + 7) / 8 * 8),
        product_row((args.outputs + 7) / 8 * 8) {
    chosen = take(choices * 4);
    gates = take(choices * 4);
    if (tactic != kGather) {
      order = take(choices * 4);
      ends = take(args.experts * 4);
    }
    hidden = take(choices * hidden_row * 4);  // one float32, or two parts of a 2-byte type
    if (tactic != kGather) product = take(choices * product_row * 4);
  }

  std::int64_t choices, hidden_row, product_row;
  std::size_t chosen = 0, gates = 0, order = 0, ends = 0, hidden = 0, product = 0;
  std::size_t bytes = 0;

 private:
  std::size_t take(std::int64_t size) {
    const std::size_t start = bytes;
    bytes += (static_cast<std::size_t>(size) + 255) / 256 * 256;
    return start;
  }
};

template <typename T>
T* at(void* workspace, std::size_t offset) {
  return reinterpret_cast<T*>(static_cast<unsigned char*>(workspace) + offset);
}

MlpChoices choices_of(const ExpertMlpArgs& args, const Layout& layout, void* workspace) {
  return {.chosen = at<int>(workspace, layout.chosen),
          .gates = at<float>(workspace, layout.gates),
          .order = at<int>(workspace, layout.order),
          .ends = at<int>(workspace, layout.ends),
          .count = static_cast<int>(layout.choices),
          .active = static_cast<int>(args.active),
          .experts = static_cast<int>(args.experts)};
}

int launch_route(const ExpertMlpArgs& args, const MlpChoices& choices, std::int64_t first, std::int64_t count,
                 Stream stream) {
  return HSM_LAUNCH(expert_mlp_route, dim3(static_cast<unsigned>(ceil_divide(count, kRouteWarps))), 32 * kRouteWarps, 0,
                    stream, args.logits + first * args.experts, choices);
}

template <typename T>
MlpRows<T> up_rows(const ExpertMlpArgs& args, const Layout& layout, std::int64_t first, void* workspace) {
  return {.choices = choices_of(args, layout, workspace),
          .x = static_cast<const T*>(args.x) + first * args.inputs,
          .x_row = args.inputs,
          .x_part = 0,
          .sharing = static_cast<int>(args.active),
          .parts = 1,
          .weight = static_cast<const T*>(args.up),
          .inputs = static_cast<int>(args.inputs),
          .outputs = static_cast<int>(args.hidden),
          .segments = 1,
          .aligned_x = has_vectors(args.type, args.x, args.inputs),
          .aligned_weight = has_vectors(args.type, args.up, args.hidden),
          .activation = static_cast<Activation>(args.activation),
          .hidden = at<T>(workspace, layout.hidden),
          .hidden_part = layout.choices * layout.hidden_row,
          .product = nullptr,
          .y_row = layout.hidden_row};
}

template <typename T>
MlpRows<T> down_rows(const ExpertMlpArgs& args, const Layout& layout, void* workspace) {
  return {.choices = choices_of(args, layout, workspace),
          .x = at<T>(workspace, layout.hidden),
          .x_row = layout.hidden_row,
          .x_part = layout.choices * layout.hidden_row,
          .sharing = 1,
          .parts = sizeof(T) == 2 ? 2 : 1,
          .weight = static_cast<const T*>(args.down),
          .inputs = static_cast<int>(args.hidden),
          .outputs = static_cast<int>(args.outputs),
          .segments = 1,
          .aligned_x = true,
          .aligned_weight = has_vectors(args.type, args.down, args.outputs),
          .activation = Activation::kRelu,
          .hidden = nullptr,
          .hidden_part = 0,
          .product = at<float>(workspace, layout.product),
          .y_row = layout.product_row};
}

// One pass over the matrices of all experts that were chosen.
template <typename T, template <typename, int> typename Product>
int launch_rows(MlpRows<T> rows, Stream stream) {
  if (rows.outputs == 0) return 0;
  rows.segments = static_cast<int>(
      std::max<std::int64_t>(1, ceil_divide(rows.choices.count, std::int64_t{kMlpRows} * rows.choices.experts)));
  const dim3 grid(static_cast<unsigned>(rows.choices.experts) * static_cast<unsigned>(rows.segments),
                  static_cast<unsigned>(ceil_divide(rows.outputs, kColumns)));
  return HSM_LAUNCH((expert_mlp_rows<T, Product>), grid, 2 * kMlpRows, sizeof(MlpShared<T>), stream, rows);
}

template <typename T, template <typename, int> typename Product>
int launch_sorted(const ExpertMlpArgs& args, const Layout& layout, std::int64_t first, void* workspace, Stream stream) {
  const MlpChoices choices = choices_of(args, layout, workspace);
  const MlpRows<T> up = up_rows<T>(args, layout, first, workspace);
  const MlpRows<T> down = down_rows<T>(args, layout, workspace);
  int error = HSM_LAUNCH(expert_mlp_sort, dim3(static_cast<unsigned>(args.experts)), kSortThreads,
                         kSortThreads / 32 * sizeof(int), stream, choices);
  if (error == 0) error = launch_rows<T, Product>(up, stream);
  if (error == 0) error = launch_rows<T, Product>(down, stream);
  if (error != 0) return error;
  const MlpSums<T> sums{.choices = choices,
                        .product = down.product,
                        .row = layout.product_row,
                        .y = static_cast<T*>(args.y) + first * args.outputs,
                        .outputs = down.outputs};
  const std::int64_t vectors = layout.choices / args.active * ceil_divide(args.outputs, Vector<T>::kSize);
  return HSM_LAUNCH(expert_mlp_combine<T>, dim3(static_cast<unsigned>(ceil_divide(vectors, kCombineThreads))),
                    kCombineThreads, 0, stream, sums);
}

template <typename T>
MlpGather<T> gather_of(const ExpertMlpArgs& args, const Layout& layout, std::int64_t first, void* workspace) {
  return {.choices = choices_of(args, layout, workspace),
          .x = static_cast<const T*>(args.x) + first * args.inputs,
          .up = static_cast<const T*>(args.up),
          .down = static_cast<const T*>(args.down),
          .units = at<float>(workspace, layout.hidden),
          .y = static_cast<T*>(args.y) + first * args.outputs,
          .inputs = static_cast<int>(args.inputs),
          .hidden = static_cast<int>(args.hidden),
          .outputs = static_cast<int>(args.outputs),
          .activation = static_cast<Activation>(args.activation)};
}

// One of the two passes; `rows` are choices or tokens.
template <int kCount, typename Kernel>
int launch_columns(Kernel launch, std::int64_t rows, std::int64_t columns) {
  constexpr int kBlockColumns = kGatherVectors * kCount;
  const dim3 grid(static_cast<unsigned>(rows * ceil_divide(columns, kBlockColumns)));
  return launch(grid, kGatherParts * kBlockColumns * sizeof(float));
}

template <typename T, int kCount>
int launch_hidden(const MlpGather<T>& p, Stream stream) {
  return launch_columns<kCount>(
      [&](dim3 grid, std::size_t shared) {
        return HSM_LAUNCH((expert_mlp_gather_hidden<T, kCount>), grid, kGatherThreads, shared, stream, p);
      },
      p.choices.count, p.hidden);
}

template <typename T, int kCount>
int launch_sum(const MlpGather<T>& p, Stream stream) {
  return launch_columns<kCount>(
      [&](dim3 grid, std::size_t shared) {
        return HSM_LAUNCH((expert_mlp_gather_sum<T, kCount>), grid, kGatherThreads, shared, stream, p);
      },
      p.choices.count / p.choices.active, p.outputs);
}

template <typename T>
int launch_gather(const ExpertMlpArgs& args, const Layout& layout, std::int64_t first, void* workspace, Stream stream) {
  const MlpGather<T> p = gather_of<T>(args, layout, first, workspace);
  constexpr int kVector = Vector<T>::kSize;
  int error = 0;
  if (args.hidden > 0) {
    const bool vectors = has_vectors(args.type, args.up, args.hidden);
    error = vectors ? launch_hidden<T, kVector>(p, stream) : launch_hidden<T, 1>(p, stream);
  }
  if (error != 0) return error;
  const bool vectors = has_vectors(args.type, args.down, args.outputs);
  return vectors ? launch_sum<T, kVector>(p, stream) : launch_sum<T, 1>(p, stream);
}

template <typename T>
int launch_type(const ExpertMlpArgs& args, const Layout& layout, int tactic, std::int64_t first, void* workspace,
                Stream stream) {
  if (tactic == kGather) return launch_gather<T>(args, layout, first, workspace, stream);
  if (tactic == kSimt) return launch_sorted<T, SimtProduct>(args, layout, first, workspace, stream);
  if constexpr (sizeof(T) == 2) return launch_sorted<T, TensorProduct>(args, layout, first, workspace, stream);
  return kNotSupported;
}

// Shared memory of a tile; equal for both products.
std::size_t tile_bytes(DType type) {
  return type == DType::kFloat32 ? sizeof(MlpShared<float>) : sizeof(MlpShared<__half>);
}

bool fits_grid(const ExpertMlpArgs& args, int tactic) {
  const std::int64_t choices = tokens_at_a_time(args) * args.active;
  const std::int64_t columns = std::max(args.hidden, args.outputs);
  if (choices > kMostBlocksX) return false;
  if (tactic == kGather) {
    const std::int64_t tiles = ceil_divide(columns, kGatherVectors);  // of single columns, the most there are
    return tiles == 0 || choices <= kMostBlocksX / tiles;
  }
  const std::int64_t vectors = ceil_divide(args.outputs, 4);
  return ceil_divide(columns, kColumns) <= kMostBlocksY && args.experts <= kMostBlocksX / kMlpRows &&
         (vectors == 0 || choices / args.active <= kMostBlocksX / vectors);
}

}  // namespace

std::span<const std::string_view> expert_mlp_tactics() noexcept { return kTactics; }

bool expert_mlp_supports(const ExpertMlpArgs& args, int tactic, const Device& device) noexcept {
  if (tactic < 0 || tactic >= std::ssize(kTactics)) return false;
  for (const std::int64_t size : {args.experts, args.inputs, args.hidden, args.outputs, args.active}) {
    if (size > INT32_MAX) return false;
  }
  if (!fits_grid(args, tactic)) return false;
  if (tactic == kGather) return true;
  if (tactic == kTensor && !has_tensor_cores(device, args.type)) return false;
  return tile_bytes(args.type) <= device.shared_memory_per_block;
}

int expert_mlp_default_tactic(const ExpertMlpArgs& args, const Device& device) noexcept {
  // The gather form reads k experts a token, the others each expert that was chosen once.
  const bool few = tokens(args) * args.active <= 2 * args.experts;
  if (few && expert_mlp_supports(args, kGather, device)) return kGather;
  return has_tensor_cores(device, args.type) ? kTensor : kSimt;
}

std::size_t expert_mlp_workspace(const ExpertMlpArgs& args, int tactic, const Device& /*device*/) noexcept {
  return Layout(args, tactic, tokens_at_a_time(args)).bytes;
}

int expert_mlp_launch(const ExpertMlpArgs& args, int tactic, const Device& device, void* workspace,
                      Stream stream) noexcept {
  if (!expert_mlp_supports(args, tactic, device)) return kInvalidValue;
  if (args.outputs == 0) return 0;
  const std::int64_t most = tokens_at_a_time(args);
  for (std::int64_t first = 0; first < tokens(args); first += most) {
    const std::int64_t count = std::min(most, tokens(args) - first);
    const Layout layout(args, tactic, count);
    int error = launch_route(args, choices_of(args, layout, workspace), first, count, stream);
    if (error == 0) {
      error = with_element(args.type, [&](auto element) {
        return launch_type<decltype(element)>(args, layout, tactic, first, workspace, stream);
      });
    }
    if (error != 0) return error;
  }
  return 0;
}

}  // namespace hsm::cuda
