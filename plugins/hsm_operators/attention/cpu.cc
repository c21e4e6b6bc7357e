#include <algorithm>
#include <cstddef>
#include <vector>

#include "hsm_operators/attention/args.gen.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hsm_operators/attention/cpu.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "hsm_operators/attention/block-inl.h"
#include "hsm_operators/attention/seen.h"
#include "hsm_operators/attention/step-inl.h"
#include "hsm_operators/attention/write.h"
#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/common/cpu/scratch.h"

#ifndef HSM_ATTENTION_CC_
#define HSM_ATTENTION_CC_
namespace hsm {
namespace {

// Queries of a block, and from how many on there are blocks enough for that.
constexpr std::size_t kMostRows = 128;
constexpr std::size_t kManyRows = 512;

// Floats of packed tiles that a call takes at most; with more keys than that each block packs them anew.
constexpr std::size_t kMostPacked = 1 << 24;

// A row's keys in parts, where it has few queries: what the queries of all heads saw of each.
struct Parts {
  std::size_t keys;     // of a part
  std::size_t count;    // parts of a row
  std::size_t queries;  // of all heads in a row, at most
  std::size_t columns;  // value width, padded to whole vectors
  AttentionSeen* seen;  // (B, count, queries)
  float* y;             // (B, count, queries, columns)

  std::size_t at(std::int64_t row, std::size_t part) const {
    return (static_cast<std::size_t>(row) * count + part) * queries;
  }
};

}  // namespace
}  // namespace hsm
#endif  // HSM_ATTENTION_CC_

HWY_BEFORE_NAMESPACE();
namespace hsm::HWY_NAMESPACE {

static_assert(kMostRows == kBlockRows);

std::size_t few_rows() { return kFewRows; }
std::size_t whole_vectors(std::size_t width) { return round_up(width, hn::Lanes(FloatTag())); }

// Floats of a packed tile.
std::size_t tile_floats(std::size_t dim, std::size_t value_dim) { return TileLayout(dim, value_dim).floats(); }

// Tiles of a row's keys, in each group.
std::size_t row_tiles(const AttentionArgs& args, std::int64_t row) {
  std::size_t tiles = 0;
  cpu::with_element(args.type, [&](auto element) {
    const AttentionGroup<decltype(element)> own(args, row, 0);
    for (std::size_t p = 0; p < own.used; ++p) tiles += tiles_of(own.pieces[p]);
  });
  return tiles;
}

void pack_tile_of(const AttentionArgs& args, std::int64_t row, std::int64_t group, std::size_t index, float* tile) {
  cpu::with_element(args.type, [&](auto element) {
    pack_group_tile(AttentionGroup<decltype(element)>(args, row, group), index, tile);
  });
}

void attend_block_of(const AttentionArgs& args, std::int64_t row, std::int64_t group, std::size_t first,
                     std::size_t most, const float* packed) {
  cpu::with_element(args.type, [&](auto element) {
    const AttentionGroup<decltype(element)> own(args, row, group);
    const std::size_t last = std::min(first + most, own.rows());
    if (first < last) attend_block(own, first, last, packed);
  });
}

void attend_part_of(const AttentionArgs& args, const Parts& parts, std::int64_t row, std::size_t part) {
  const std::size_t at = parts.at(row, part);
  // The last part takes what is left.
  const std::size_t end = part + 1 < parts.count ? (part + 1) * parts.keys : std::numeric_limits<std::size_t>::max();
  cpu::with_element(args.type, [&](auto element) {
    attend_part<decltype(element)>(args, row, part * parts.keys, end, parts.seen + at, parts.y + at * parts.columns);
  });
}

void finish_parts_of(const AttentionArgs& args, const Parts& parts, std::int64_t row) {
  const std::size_t first = parts.at(row, 0);
  for (std::size_t part = 1; part < parts.count; ++part) {
    const std::size_t at = parts.at(row, part);
    add_part(parts.queries, parts.columns, parts.seen + at, parts.y + at * parts.columns, parts.seen + first,
             parts.y + first * parts.columns);
  }
  cpu::with_element(args.type, [&](auto element) {
    write_results<decltype(element)>(args, row, parts.columns, parts.seen + first, parts.y + first * parts.columns);
  });
}

}  // namespace hsm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hsm {

HWY_EXPORT(few_rows);
HWY_EXPORT(whole_vectors);
HWY_EXPORT(tile_floats);
HWY_EXPORT(row_tiles);
HWY_EXPORT(pack_tile_of);
HWY_EXPORT(attend_block_of);
HWY_EXPORT(attend_part_of);
HWY_EXPORT(finish_parts_of);

namespace {

// Numbers of keys and values that are a task of their own where there are few queries.
constexpr std::int64_t kPartNumbers = 1 << 18;
// Multiplications that one thread does about as quickly as it hands work to others.
constexpr double kSmall = 1 << 17;
const ParallelFor kSerial;

bool is_whole(const AttentionArgs& args) { return args.key_cache_out == nullptr && args.key_ring_out == nullptr; }

// The most keys that a query of some row sees, but for a window of whole sequences.
std::int64_t most_keys(const AttentionArgs& args) {
  std::int64_t most = 0;
  for (std::int64_t row = 0; row < args.batch; ++row) {
    std::int64_t keys = args.lengths[row];
    if (!is_whole(args) && keys > 0) {
      const std::int64_t before = args.position[row];
      keys += args.key_ring_out != nullptr ? std::min(before, args.window) : before;
    }
    most = std::max(most, keys);
  }
  return most;
}

// Each row's keys in parts, for the queries of all heads together: memory is read in the order in which it lies.
void attend_few(const AttentionArgs& args, std::int64_t keys, const ParallelFor& parallel_for) {
  const std::int64_t numbers = args.key_heads * (args.dim + args.value_dim);
  Parts parts{.keys = static_cast<std::size_t>(std::max<std::int64_t>(kPartNumbers / numbers, 64)),
              .count = 1,
              .queries = static_cast<std::size_t>(args.length * args.heads),
              .columns = HWY_DYNAMIC_DISPATCH(whole_vectors)(static_cast<std::size_t>(args.value_dim)),
              .seen = nullptr,
              .y = nullptr};
  parts.count = std::max<std::size_t>((static_cast<std::size_t>(keys) + parts.keys - 1) / parts.keys, 1);
  const auto rows = static_cast<std::size_t>(args.batch);
  const std::size_t all = rows * parts.count * parts.queries;
  std::vector<AttentionSeen> seen(all);
  const cpu::Scratch y = cpu::lend_scratch(all * parts.columns);
  parts.seen = seen.data();
  parts.y = y.get();
  parallel_for(rows * parts.count, [&](std::size_t task) {
    HWY_DYNAMIC_DISPATCH(attend_part_of)(args, parts, static_cast<std::int64_t>(task / parts.count),
                                         task % parts.count);
  });
  for (std::int64_t row = 0; row < args.batch; ++row) HWY_DYNAMIC_DISPATCH(finish_parts_of)(args, parts, row);
}

// The tiles of all rows and groups, where several blocks of queries read them and memory allows it.
struct PackedTiles {
  PackedTiles(const AttentionArgs& args, std::size_t blocks, const ParallelFor& parallel_for) {
    for (std::int64_t row = 0; row < args.batch; ++row) {
      tiles = std::max(tiles, HWY_DYNAMIC_DISPATCH(row_tiles)(args, row));
    }
    floats =
        HWY_DYNAMIC_DISPATCH(tile_floats)(static_cast<std::size_t>(args.dim), static_cast<std::size_t>(args.value_dim));
    const auto groups = static_cast<std::size_t>(args.key_heads), rows = static_cast<std::size_t>(args.batch);
    if (blocks < 2 || rows * groups * tiles * floats > kMostPacked) return;
    data = cpu::lend_scratch(rows * groups * tiles * floats);
    parallel_for(rows * groups * tiles, [&](std::size_t task) {
      HWY_DYNAMIC_DISPATCH(pack_tile_of)(args, static_cast<std::int64_t>(task / tiles / groups),
                                         static_cast<std::int64_t>(task / tiles % groups), task % tiles,
                                         data.get() + task * floats);
    });
  }
  const float* of(std::size_t group) const { return data == nullptr ? nullptr : data.get() + group * tiles * floats; }

  std::size_t tiles = 0;   // of a group, at most
  std::size_t floats = 0;  // of a tile
  cpu::Scratch data;
};

// Blocks of queries of each group. Later queries see more keys: of each group the first and the last block are
// neighbours, then the second and the last but one, so that threads that take neighbours get equal work.
void attend_many(const AttentionArgs& args, std::size_t rows, const ParallelFor& parallel_for) {
  const std::size_t each = rows < kManyRows ? kMostRows / 2 : kMostRows;
  const std::size_t blocks = (rows + each - 1) / each;
  const auto groups = static_cast<std::size_t>(args.key_heads);
  const PackedTiles packed(args, blocks, parallel_for);
  parallel_for(static_cast<std::size_t>(args.batch) * groups * blocks, [&](std::size_t task) {
    const std::size_t place = task % blocks, half = place / 2, group = task / blocks;
    HWY_DYNAMIC_DISPATCH(attend_block_of)(args, static_cast<std::int64_t>(group / groups),
                                          static_cast<std::int64_t>(group % groups),
                                          (place % 2 == 0 ? half : blocks - 1 - half) * each, each, packed.of(group));
  });
}

}  // namespace

void attention(const AttentionArgs& args, const ParallelFor& pool) {
  const std::int64_t keys = most_keys(args);
  const std::size_t rows =
      args.key_heads == 0 ? 0 : static_cast<std::size_t>(args.length * args.heads / args.key_heads);
  const auto work = static_cast<double>(args.batch * args.heads * args.length) *
                    static_cast<double>(keys * (args.dim + args.value_dim));
  const ParallelFor& parallel_for = work < kSmall ? kSerial : pool;
  if (rows > 0 && args.batch > 0) {
    if (rows <= HWY_DYNAMIC_DISPATCH(few_rows)()) {
      attend_few(args, keys, parallel_for);
    } else {
      attend_many(args, rows, parallel_for);
    }
  }
  if (is_whole(args)) return;
  // After everything was read: a ring's new tokens fall on slots that the queries see.
  pool(static_cast<std::size_t>(args.batch),
       [&](std::size_t row) { write_memories_row(args, static_cast<std::int64_t>(row)); });
}

}  // namespace hsm
#endif  // HWY_ONCE
