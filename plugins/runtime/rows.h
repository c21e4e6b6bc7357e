// Where the rows of a generator lie, so that a call touches the rows that it is about and no others.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "runtime/program.h"
#include "runtime/state.h"

namespace hsm::runtime {

// Rows lie in slots, one after the other. A call runs on a range of slots, without copying: rows that shall work
// together are brought side by side first, which moves a row only when the set of working rows changes. Where a program
// cannot write what it reads there are two sets of buffers, and each slot knows in which its row is.
class Rows {
 public:
  // `capacity`: tokens that a row must be able to reach; `reserve`: tokens to have room for at once (0: a few).
  Rows(const Program& program, const Graph& graph, std::int64_t batch, std::int64_t capacity, std::int64_t reserve);

  std::size_t count() const { return slot_.size(); }
  std::int64_t vocabulary() const { return vocabulary_; }
  // Tokens that a row may reach; 0: any number.
  std::int64_t longest() const { return sets_[0].longest; }
  // Bytes of the states, as they are now.
  std::size_t state_bytes() const { return sets_[0].bytes(); }
  // Tokens that each row has read.
  const std::vector<std::int64_t>& positions() const { return positions_; }
  // The logits of a row's last token; empty unless they are those of the row as it is.
  std::span<const float> logits(std::size_t row) const;

  // An extra output of the graph at a row's last token. Throws Error(kInvalidArgument).
  std::span<const float> output(std::size_t row, const std::string& name) const;

  // Reads tokens[row * stride + i] for i below lengths[row]; a row of length 0 stands still, and nothing of it is
  // touched. All is checked before. Throws Error; after kRunFailed the rows that worked have to be reset.
  // `every`, if there is one, becomes the logits of every token: (rows that work, longest length, V).
  void read(std::span<const std::int64_t> tokens, std::size_t stride, std::span<const std::int64_t> lengths,
            std::vector<float>* every = nullptr);
  // Runs end with kCancelled when it is asked for.
  void set_stop(std::stop_token stop) { stop_ = std::move(stop); }

  void rollback(std::size_t row, std::int64_t tokens);
  void reset(std::size_t row);
  // Copies a row of another generator of the same model, or of this one.
  void copy(std::size_t target, const Rows& from, std::size_t source);
  // Rows to and from a file, in the order of `rows`.
  void save(const std::string& path, std::span<const std::size_t> rows) const;
  void load(const std::string& path, std::span<const std::size_t> rows);

 private:
  // An output besides logits and states.
  struct Extra {
    std::string name;
    std::size_t width;
    std::vector<float> last;  // (rows, width) at the rows' last tokens
  };
  // The rows of one run, as the graph reads them.
  struct Call {
    Call(std::size_t rows, std::size_t width, std::size_t kept, std::size_t vocabulary,
         const std::vector<Extra>& extras)
        : width(width),
          kept(kept),
          tokens(rows * width),
          positions(rows),
          lengths(rows),
          logits(rows * kept * vocabulary) {
      for (const Extra& extra : extras) this->extras.emplace_back(rows * width * extra.width);
    }
    std::size_t width, kept;  // tokens of each row, and tokens whose logits the graph returns
    std::vector<std::int64_t> tokens, positions, lengths;
    std::vector<float> logits;
    std::vector<std::vector<float>> extras;  // (rows, width, its width) each
  };
  // Slots that lie side by side, and the set that holds them.
  struct Range {
    std::size_t first, count, set;
    auto operator<=>(const Range&) const = default;
  };

  static std::vector<Extra> extras_of(const Graph& graph, std::size_t rows);
  const StateBuffers& set_of(std::size_t row) const { return sets_[set_[slot_[row]]]; }
  StateBuffers& set_of(std::size_t row) { return sets_[set_[slot_[row]]]; }
  std::size_t after(std::size_t set) const { return (set + 1) % sets_.size(); }
  std::vector<StateBuffers> made_sets(std::int64_t slots) const;
  void resize(std::int64_t slots);
  void make_room(std::int64_t tokens);
  bool starts_aligned(std::size_t slot) const;
  std::size_t best_window(std::size_t count) const;
  std::size_t gather(std::size_t count);
  void swap(std::size_t a, std::size_t b);
  Range level(std::size_t first, std::size_t count);
  Range place(std::size_t count);
  void fill(Call& call, const Range& range, std::span<const std::int64_t> tokens, std::size_t stride,
            std::span<const std::int64_t> lengths) const;
  std::unique_ptr<Binding> bind(const Range& range, Call& call) const;
  Binding& step(const Range& range);
  void bind_all();
  void finish(const Range& range, const Call& call);
  void keep_extras(std::size_t row, const Call& call, std::size_t place);
  void copy_every(const Range& range, const Call& call, std::vector<float>& every) const;
  void restart(std::size_t row, std::int64_t position, std::int64_t furthest, std::span<const float> logits);

  const Program& program_;
  const Graph& graph_;
  const std::int64_t vocabulary_, capacity_, reserve_;
  std::vector<StateBuffers> sets_;
  std::unique_ptr<StateBuffers> spare_;             // room for one row, while two change places
  std::vector<std::size_t> slot_;                   // by row
  std::vector<std::size_t> row_, set_;              // by slot
  std::vector<std::uint8_t> works_;                 // by slot: whether its row has tokens to read
  std::vector<std::int64_t> positions_, furthest_;  // by row
  std::vector<std::uint8_t> has_logits_;            // by row
  std::vector<float> logits_;                       // (rows, V)
  std::vector<Extra> extras_;
  std::vector<std::uint8_t> has_extras_;  // by row
  Call step_;                             // what steps are bound to
  std::map<Range, std::unique_ptr<Binding>> steps_;
  std::stop_token stop_;
  bool takes_parts_ = true;  // whether the program runs on fewer rows than there are, and on less than the capacity
};

}  // namespace hsm::runtime
