#include "hsm_operators/taylor_shift/taylor_launch.h"
#include "hsm_operators/taylor_shift/taylor_tensor.cuh"
#include "hsm_operators/taylor_shift/taylor_tensor_attend.cuh"

namespace hsm::cuda {
namespace {

// Calls body(integral constant) with the class of widths.
template <typename Body>
auto with_columns(std::int64_t width, Body&& body) {
  if (width <= 32) return body(std::integral_constant<int, 32>());
  if (width <= 64) return body(std::integral_constant<int, 64>());
  if (width <= 128) return body(std::integral_constant<int, 128>());
  return body(std::integral_constant<int, 256>());
}

template <typename Body>
int with_half(DType type, Body&& body) {
  return type == DType::kFloat16 ? body(__half{}) : body(__nv_bfloat16{});
}

std::size_t attend_bytes(const TaylorCall& call) {
  return with_terms(call,
                    [&](auto sums, auto keys) { return tensor_attend_bytes(call.dim, call.value_dim, sums, keys); });
}

}  // namespace

std::size_t tensor_accumulate_bytes(std::int64_t dim, std::int64_t value_dim) noexcept {
  return with_columns(std::max(dim, value_dim), [&](auto columns) {
    return TensorTile<decltype(columns)::value>::accumulate_bytes(static_cast<int>(dim));
  });
}

std::int64_t tensor_feature_tile(std::int64_t dim, std::int64_t value_dim) noexcept {
  return with_columns(std::max(dim, value_dim),
                      [](auto columns) -> std::int64_t { return TensorTile<decltype(columns)::value>::kFeatures; });
}

std::size_t tensor_attend_bytes(std::int64_t dim, std::int64_t value_dim, bool sums, bool keys) noexcept {
  return with_columns(std::max(dim, value_dim), [&](auto columns) {
    using Tile = TensorTile<decltype(columns)::value>;
    return std::max(sums ? Tile::sums_bytes(static_cast<int>(dim)) : 0, keys ? Tile::keys_bytes() : 0);
  });
}

int launch_accumulate_tensor(const TaylorCall& call, DType type, Stream stream) noexcept {
  return with_half(type, [&](auto element) {
    return with_columns(class_width(call), [&](auto columns) -> int {
      using T = decltype(element);
      constexpr int kColumns = decltype(columns)::value;
      using Tile = TensorTile<kColumns>;
      const std::int64_t blocks = divide_up(call.features, Tile::kFeatures) * call.segments * call.head_count;
      const auto launch = [&](auto exact) -> int {
        return HSM_LAUNCH((taylor_accumulate_tensor<T, kColumns, decltype(exact)::value>),
                          dim3(static_cast<unsigned>(blocks)), dim3(Tile::kSumThreads),
                          Tile::accumulate_bytes(call.dim), stream, call);
      };
      // What leaves the operator as float32 keeps more than the bits of T.
      return call.causal ? launch(std::true_type()) : launch(std::false_type());
    });
  });
}

int launch_attend_tensor(const TaylorCall& call, DType type, Stream stream) noexcept {
  return with_half(type, [&](auto element) {
    return with_columns(class_width(call), [&](auto columns) {
      return with_terms(call, [&](auto sums, auto keys) -> int {
        using T = decltype(element);
        constexpr int kColumns = decltype(columns)::value;
        using Tile = TensorTile<kColumns>;
        const std::int64_t blocks = divide_up(call.length, Tile::kQueries) * call.head_count;
        return HSM_LAUNCH((taylor_attend_tensor<T, kColumns, decltype(sums)::value, decltype(keys)::value>),
                          dim3(static_cast<unsigned>(blocks)), dim3(Tile::kThreads), attend_bytes(call), stream, call);
      });
    });
  });
}

}  // namespace hsm::cuda
