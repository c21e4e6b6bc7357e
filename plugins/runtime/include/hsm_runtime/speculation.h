// Speculative decoding: a small model proposes tokens, a large one checks them many at a time (Leviathan et al. 2023,
// "Fast Inference from Transformers via Speculative Decoding", algorithm 1).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hsm_runtime/export.h"
#include "hsm_runtime/sampling.h"
#include "hsm_runtime/session.h"
#include "hsm_runtime/status.h"

namespace hsm_runtime {

/// How speculative decoding is done.
struct SpeculationOptions {
  /// Tokens that the sequence must be able to reach. Needed when a file leaves that open.
  std::int64_t capacity = 0;
  /// Tokens that the draft proposes at a time.
  std::int64_t draft_tokens = 4;
  /// How tokens are chosen, in both models. Penalties, which depend on what came before, are refused.
  Sampling sampling;
  /// Of the sequence's random numbers.
  std::uint64_t seed = 0;
};

/// One sequence. Its tokens have the distribution of the target model alone; with a temperature of 0 they are its
/// tokens. Where the states hold no single tokens, what was rejected is read again from a copy. Movable; one thread at
/// a time.
class HSM_RUNTIME_API Speculation {
 public:
  struct Impl;

  /// Sessions of Part::kDecode with equal vocabularies. kInvalidArgument for a target that was exported to return the
  /// logits of the last token only.
  static Result<Speculation> create(const Session& target, const Session& draft,
                                    const SpeculationOptions& options = {});

  /// Reads the prompt, or more of it before the first token.
  Status prefill(std::span<const std::int64_t> tokens);
  /// Makes the next tokens, 1 to draft_tokens + 1 of them; fewer where the capacity ends.
  Result<std::vector<std::int64_t>> next();
  /// Tokens that the draft has proposed.
  std::uint64_t proposed() const;
  /// Those of them that the target took.
  std::uint64_t accepted() const;

  /// Moves it; the other is of no use then.
  Speculation(Speculation&&) noexcept;
  /// Moves it; the other is of no use then.
  Speculation& operator=(Speculation&&) noexcept;
  ~Speculation();
  /// For the library itself.
  explicit Speculation(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace hsm_runtime
