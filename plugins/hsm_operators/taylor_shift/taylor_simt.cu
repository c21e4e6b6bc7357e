#include "hsm_operators/taylor_shift/taylor_launch.h"
#include "hsm_operators/taylor_shift/taylor_simt.cuh"
#include "hsm_operators/taylor_shift/taylor_simt_attend.cuh"

namespace hsm::cuda {
namespace {

// Calls body(integral constant) with the class of widths.
template <typename Body>
auto with_columns(std::int64_t width, Body&& body) {
  if (width <= 16) return body(std::integral_constant<int, 16>());
  if (width <= 32) return body(std::integral_constant<int, 32>());
  if (width <= 64) return body(std::integral_constant<int, 64>());
  if (width <= 128) return body(std::integral_constant<int, 128>());
  return body(std::integral_constant<int, 256>());
}

}  // namespace

std::size_t simt_shared_bytes(std::int64_t dim, std::int64_t value_dim) noexcept {
  return with_columns(std::max(dim, value_dim), [&](auto columns) {
    using Tile = SimtTile<decltype(columns)::value>;
    const int width = static_cast<int>(dim);
    return std::max(Tile::attend_bytes(width), Tile::accumulate_bytes(width));
  });
}

int launch_accumulate_simt(const TaylorCall& call, DType type, Stream stream) noexcept {
  return with_element(type, [&](auto element) {
    return with_columns(class_width(call), [&](auto columns) -> int {
      using T = decltype(element);
      constexpr int kColumns = decltype(columns)::value;
      using Tile = SimtTile<kColumns>;
      const std::int64_t blocks = divide_up(call.features, Tile::kFeatures) * call.segments * call.head_count;
      return HSM_LAUNCH((taylor_accumulate_simt<T, kColumns>), dim3(static_cast<unsigned>(blocks)),
                        dim3(Tile::kThreads), Tile::accumulate_bytes(call.dim), stream, call);
    });
  });
}

int launch_attend_simt(const TaylorCall& call, DType type, Stream stream) noexcept {
  return with_element(type, [&](auto element) {
    return with_columns(class_width(call), [&](auto columns) {
      return with_terms(call, [&](auto sums, auto keys) -> int {
        using T = decltype(element);
        constexpr int kColumns = decltype(columns)::value;
        using Tile = SimtTile<kColumns>;
        const std::int64_t blocks = divide_up(call.length, Tile::kQueries) * call.head_count;
        return HSM_LAUNCH((taylor_attend_simt<T, kColumns, decltype(sums)::value, decltype(keys)::value>),
                          dim3(static_cast<unsigned>(blocks)), dim3(Tile::kThreads), Tile::attend_bytes(call.dim),
                          stream, call);
      });
    });
  });
}

}  // namespace hsm::cuda
