// Writes new keys and values into a cache or a ring.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hsm_operators/attention/args.gen.h"

namespace hsm {

// One of a call's memories: the same buffer before and after, or two.
struct AttentionMemory {
  const void* fresh;  // (B,T,heads,width), the new tokens
  const void* before;
  void* after;  // (B,slots,heads,width)
  std::int64_t slots;
  std::size_t token_bytes;
};

// Token of position p goes into slot p mod slots; the other slots keep what they held.
inline void write_memory_row(const AttentionArgs& args, const AttentionMemory& memory, std::int64_t row) {
  const auto at = [&](auto* base, std::int64_t token) {
    return base + static_cast<std::size_t>(token) * memory.token_bytes;
  };
  char* after = at(static_cast<char*>(memory.after), row * memory.slots);
  if (memory.after != memory.before && memory.slots > 0) {
    std::memcpy(after, at(static_cast<const char*>(memory.before), row * memory.slots),
                static_cast<std::size_t>(memory.slots) * memory.token_bytes);
  }
  const char* fresh = at(static_cast<const char*>(memory.fresh), row * args.length);
  const std::int64_t count = args.lengths[row];
  std::int64_t token = std::max<std::int64_t>(count - memory.slots, 0);  // what a ring keeps of a long call
  while (token < count) {
    const std::int64_t slot = (args.position[row] + token) % memory.slots;
    const std::int64_t run = std::min(count - token, memory.slots - slot);
    std::memcpy(at(after, slot), at(fresh, token), static_cast<std::size_t>(run) * memory.token_bytes);
    token += run;
  }
}

// The row's keys, values and keys of distances; nothing for whole sequences.
inline void write_memories_row(const AttentionArgs& args, std::int64_t row) {
  const auto bytes = [&](std::int64_t width) {
    return static_cast<std::size_t>(args.key_heads * width) * size_of(args.type);
  };
  if (args.key_cache_out != nullptr) {
    write_memory_row(args, {args.k, args.key_cache, args.key_cache_out, args.capacity, bytes(args.dim)}, row);
    write_memory_row(args, {args.v, args.value_cache, args.value_cache_out, args.capacity, bytes(args.value_dim)}, row);
  }
  if (args.relative_cache_out != nullptr) {
    const std::size_t token = static_cast<std::size_t>(args.heads * args.dim) * size_of(args.type);
    write_memory_row(args, {args.relative, args.relative_cache, args.relative_cache_out, args.capacity, token}, row);
  }
  if (args.key_ring_out != nullptr) {
    write_memory_row(args, {args.k, args.key_ring, args.key_ring_out, args.slots, bytes(args.dim)}, row);
    write_memory_row(args, {args.v, args.value_ring, args.value_ring_out, args.slots, bytes(args.value_dim)}, row);
  }
}

}  // namespace hsm
