#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "hsm_operators/attention/args.gen.h"
#include "hsm_operators/common/cpu/element.h"

namespace hsm {
namespace {

using cpu::load;
using cpu::store;

// A key and a value that a query sees, of token or slot `at` of all rows', and the key of their distance, if there are
// such keys.
struct Source {
  const void* keys;
  const void* values;
  std::int64_t at;
  const void* relatives;
  std::int64_t relative_at;
};

// One query, of a head of the `query / heads`-th token: the scores of all its keys, and then their weighted values.
template <typename T>
void attend(const AttentionArgs& args, std::int64_t query, const std::vector<Source>& seen) {
  const std::int64_t head = query % args.heads, group = head / (args.heads / args.key_heads);
  std::vector<double> scores;
  for (const Source& source : seen) {
    double score = 0;
    for (std::int64_t i = 0; i < args.dim; ++i) {
      double key = load<T>(source.keys, (source.at * args.key_heads + group) * args.dim + i);
      if (source.relatives != nullptr) {
        key += load<T>(source.relatives, (source.relative_at * args.heads + head) * args.dim + i);
      }
      score += load<T>(args.q, query * args.dim + i) * key;
    }
    scores.push_back(score * static_cast<double>(args.scale));
  }
  const double most = scores.empty() ? 0.0 : *std::ranges::max_element(scores);
  double total = 0;
  for (double& score : scores) {
    score = std::exp(score - most);
    total += score;
  }
  for (std::int64_t j = 0; j < args.value_dim; ++j) {
    double sum = 0;
    for (std::size_t i = 0; i < seen.size(); ++i) {
      sum += scores[i] * load<T>(seen[i].values, (seen[i].at * args.key_heads + group) * args.value_dim + j);
    }
    store<T>(args.y, query * args.value_dim + j, seen.empty() ? 0.0 : sum / total);
  }
}

// Copies token `from` to slot `to`, each a row of all heads' numbers.
void write(const AttentionArgs& args, std::int64_t from, std::int64_t to, void* keys, void* values) {
  const auto copy = [&](const void* source, void* target, std::int64_t width) {
    const std::size_t bytes = static_cast<std::size_t>(width) * size_of(args.type);
    std::memcpy(static_cast<char*>(target) + static_cast<std::size_t>(to) * bytes,
                static_cast<const char*>(source) + static_cast<std::size_t>(from) * bytes, bytes);
  };
  copy(args.k, keys, args.key_heads * args.dim);
  copy(args.v, values, args.key_heads * args.value_dim);
  if (args.relative_cache_out != nullptr) copy(args.relative, args.relative_cache_out, args.heads * args.dim);
}

template <typename T>
void whole_row(const AttentionArgs& args, std::int64_t b) {
  for (std::int64_t t = 0; t < args.length; ++t) {
    std::vector<Source> seen;
    for (std::int64_t s = 0; s < args.lengths[b]; ++s) {
      if ((args.causal && s > t) || (args.window > 0 && s <= t - args.window)) continue;
      seen.push_back({args.k, args.v, b * args.keys + s, args.relative_keys, s - t + args.length - 1});
    }
    for (std::int64_t h = 0; h < args.heads; ++h) attend<T>(args, (b * args.length + t) * args.heads + h, seen);
  }
}

// Token by token: into its slot, and then the slots that it sees.
template <typename T>
void cached_row(const AttentionArgs& args, std::int64_t b, std::int64_t slots, std::int64_t window, void* keys,
                void* values) {
  for (std::int64_t t = 0; t < args.lengths[b]; ++t) {
    const std::int64_t now = args.position[b] + t;
    write(args, b * args.length + t, b * slots + now % slots, keys, values);
    std::vector<Source> seen;
    for (std::int64_t s = std::max<std::int64_t>(now - window + 1, 0); s <= now; ++s) {
      const std::int64_t at = b * slots + s % slots;
      if (args.relative_cache_out != nullptr) {
        seen.push_back({keys, values, at, args.relative_cache_out, b * slots + now - s});
      } else {
        seen.push_back({keys, values, at, args.relative_keys, window - 1 - (now - s)});
      }
    }
    for (std::int64_t h = 0; h < args.heads; ++h) attend<T>(args, (b * args.length + t) * args.heads + h, seen);
  }
}

template <typename T>
void cached(const AttentionArgs& args, std::int64_t slots, std::int64_t window, const void* keys, const void* values,
            void* keys_out, void* values_out) {
  const auto copy = [&](const void* from, void* to, std::int64_t width) {
    const auto count = static_cast<std::size_t>(args.batch * slots * width);
    if (from != to && count > 0) std::memcpy(to, from, count * sizeof(T));
  };
  copy(keys, keys_out, args.key_heads * args.dim);
  copy(values, values_out, args.key_heads * args.value_dim);
  if (args.relative_cache_out != nullptr) copy(args.relative_cache, args.relative_cache_out, args.heads * args.dim);
  for (std::int64_t b = 0; b < args.batch; ++b) cached_row<T>(args, b, slots, window, keys_out, values_out);
}

}  // namespace

void attention_naive(const AttentionArgs& args) {
  cpu::with_element(args.type, [&](auto element) {
    using T = decltype(element);
    if (args.key_cache_out != nullptr) {
      return cached<T>(args, args.capacity, args.capacity, args.key_cache, args.value_cache, args.key_cache_out,
                       args.value_cache_out);
    }
    if (args.key_ring_out != nullptr) {
      return cached<T>(args, args.slots, args.window, args.key_ring, args.value_ring, args.key_ring_out,
                       args.value_ring_out);
    }
    for (std::int64_t b = 0; b < args.batch; ++b) whole_row<T>(args, b);
  });
}

}  // namespace hsm
