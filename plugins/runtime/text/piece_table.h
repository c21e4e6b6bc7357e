// A table of pieces of text, asked for those that a text begins with.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace hsm::runtime::text {

class PieceTable {
 public:
  using Entry = std::pair<std::string_view, std::int32_t>;  // a piece, not empty, and its id

  PieceTable() = default;
  // The pieces' memory stays the caller's.
  explicit PieceTable(std::vector<Entry> entries) : entries_(std::move(entries)) {
    std::sort(entries_.begin(), entries_.end());
  }

  // Calls visit(bytes, id) for each piece that the text begins with, the shortest first.
  template <typename Visit>
  void visit_prefixes(std::string_view text, Visit visit) const {
    auto first = entries_.begin(), last = entries_.end();
    for (std::size_t depth = 0; depth < text.size(); ++depth) {
      // Those left begin with `depth` bytes of the text; one that ends there comes first.
      if (first != last && first->first.size() == depth) ++first;
      const auto byte_at = [depth](const Entry& entry) { return static_cast<unsigned char>(entry.first[depth]); };
      const auto byte = static_cast<unsigned char>(text[depth]);
      first = std::partition_point(first, last, [&](const Entry& entry) { return byte_at(entry) < byte; });
      last = std::partition_point(first, last, [&](const Entry& entry) { return byte_at(entry) == byte; });
      if (first == last) return;
      if (first->first.size() == depth + 1) visit(depth + 1, first->second);
    }
  }

  // The bytes of the longest piece that the text begins with; 0 for none.
  std::size_t longest_prefix(std::string_view text) const {
    std::size_t longest = 0;
    visit_prefixes(text, [&](std::size_t bytes, std::int32_t) { longest = bytes; });
    return longest;
  }

 private:
  std::vector<Entry> entries_;
};

}  // namespace hsm::runtime::text
