// Generation with a decoding model: a batch of sequences that advance together, each from its own position.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "hsm_runtime/bundle.h"
#include "hsm_runtime/export.h"
#include "hsm_runtime/sampling.h"
#include "hsm_runtime/session.h"
#include "hsm_runtime/status.h"

namespace hsm_runtime {

/// The size of a generator.
struct GeneratorOptions {
  /// Sequences B.
  std::int64_t batch = 1;
  /// Tokens that a row must be able to reach. Needed when the file leaves that open.
  std::int64_t capacity = 0;
  /// Tokens to have room for at once in states that grow; 0: a few. A step costs what they have room for, so the room
  /// follows the longest row, in steps of a quarter; with `capacity` here it never changes, and no step allocates.
  std::int64_t reserve = 0;
};

/// Sequences and their state, in buffers of the generator's own; with TensorRT they stay in the GPU's memory, and a
/// step moves tokens, positions and logits alone. A call costs what the rows cost that it is about: rows join, wait,
/// read prompts and leave at their own pace. Movable; one thread at a time may use a generator, and any number of
/// generators one session.
class HSM_RUNTIME_API Generator {
 public:
  struct Impl;

  /// `session` is of Part::kDecode.
  static Result<Generator> create(const Session& session, const GeneratorOptions& options = {});
  /// Bytes that the states of such a generator take when its rows have reached their capacity. Where the back end
  /// cannot write what it reads, it needs them twice.
  static Result<std::size_t> state_bytes(const Session& session, const GeneratorOptions& options);

  /// Sequences B.
  std::int64_t batch() const;
  /// Tokens V that the logits tell apart.
  std::int64_t vocabulary() const;
  /// Tokens that a row may reach; 0 where nothing limits it.
  std::int64_t capacity() const;
  /// Tokens that each row has read, (B).
  std::span<const std::int64_t> positions() const;
  /// Bytes of the states of all rows, as they are now.
  std::size_t state_bytes() const;

  /// Reads prompts: `tokens` (B, T) row by row, right-padded, of which `lengths` (B) are valid (empty: all). A row of
  /// length 0 stands still: it costs nothing, and its state and logits stay as they are. Nothing has changed when it
  /// fails, but after kRunFailed: then reset the rows that read.
  Status prefill(std::span<const std::int64_t> tokens, std::span<const std::int64_t> lengths = {});
  /// Reads a prompt, or a piece of one, into one row; the others stand still.
  Status prefill(std::int64_t row, std::span<const std::int64_t> tokens);
  /// The same, with the logits of every token that was read: `logits` becomes (T, V). kInvalidArgument for a file that
  /// was exported to return those of the last token only.
  Status prefill(std::int64_t row, std::span<const std::int64_t> tokens, std::vector<float>* logits);
  /// The same for all rows: `logits` becomes (B, T, V), zero beyond the rows' lengths.
  Status prefill(std::span<const std::int64_t> tokens, std::span<const std::int64_t> lengths,
                 std::vector<float>* logits);
  /// From now on calls end with kCancelled when the token's source asks to, from any thread; the rows that read have to
  /// be reset then.
  void set_stop(std::stop_token stop);

  /// Reads one token of each row; -1 lets a row stand still, as above. Allocates nothing in this library once the same
  /// rows have stepped together before, unless the states have to grow.
  Status step(std::span<const std::int64_t> tokens);

  /// Whether logits(row) are those of the row as it is: it has read a token, and since then it was not reset, rolled
  /// back or loaded from a file without logits.
  bool has_logits(std::int64_t row) const;
  /// The logits (V) of a row's last token; empty without has_logits(row). Valid until the row reads again.
  std::span<const float> logits(std::int64_t row) const;

  /// What an extra output of the session (SessionOptions::extra_outputs), such as a hidden state, holds at a row's last
  /// token: its last dimension. It must be of float32 (batch, length, width). Valid until the row reads again, and
  /// never saved or copied with a row. kInvalidArgument when the row has read nothing since.
  Result<std::span<const float>> output(std::int64_t row, const std::string& name) const;

  /// Chooses a row's next token from its logits. `uniform` is a random number in [0, 1), from the caller's generator.
  /// kInvalidArgument without has_logits(row), and for penalties, which depend on what came before. Allocates nothing.
  Result<std::int64_t> sample(std::int64_t row, const Sampling& sampling, double uniform);
  /// Chooses a row's next token with the row's own sampler, and says how likely it and the `top` likeliest were.
  Result<Choice> sample(std::int64_t row, Sampler& sampler, std::int64_t top = 0);

  /// Takes back the last `tokens` of a row, as if they had never been read. Its logits are gone: read its last token
  /// again (take back one more) to have some.
  Status rollback(std::int64_t row, std::int64_t tokens);
  /// Copies one row's sequence over another's, logits included.
  Status fork(std::int64_t source, std::int64_t target);
  /// Copies a row of another generator of the same model over a row of this one: a prompt that was read apart, or one
  /// that many share.
  Status fork(const Generator& other, std::int64_t source, std::int64_t target);
  /// Starts a row anew.
  Status reset(std::int64_t row);

  /// Writes the states, positions and logits of all rows to a .safetensors file, which the Python session reads too.
  /// A file of that name is replaced as a whole, and nothing but a plain file is ever replaced.
  Status save(const std::string& path) const;
  /// Goes on from such a file of the same model with the same number of rows.
  Status load(const std::string& path);
  /// The same for one row, such as a conversation that is parked: the file holds one row, whatever the batch.
  Status save_row(std::int64_t row, const std::string& path) const;
  /// Goes on with one row from such a file.
  Status load_row(std::int64_t row, const std::string& path);

  /// Moves it; the other is of no use then.
  Generator(Generator&&) noexcept;
  /// Moves it; the other is of no use then.
  Generator& operator=(Generator&&) noexcept;
  ~Generator();
  /// For the library itself.
  explicit Generator(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace hsm_runtime
