// How the next token is chosen, as `hsm_export.decoding.sampling` does in Python: the same settings, the same random
// numbers, the same tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "hsm_runtime/export.h"
#include "hsm_runtime/status.h"

namespace hsm_runtime {

/// What is added to a token's logit.
struct TokenBias {
  std::int64_t token = 0;  ///< Its id.
  double bias = 0;         ///< Minus infinity forbids it.
};

/// How the next token is chosen. The steps come in this order: repetition_penalty, presence and frequency penalty,
/// logit_bias, on_logits, temperature, top_k, top_p, min_p.
struct Sampling {
  /// The logits are divided by it; 0 takes the likeliest token, the lower id of equal ones.
  double temperature = 0;
  /// Choose among the k likeliest tokens; 0 means all.
  std::int64_t top_k = 0;
  /// Choose among the likeliest tokens that together reach this probability; 1 means all.
  double top_p = 1;
  /// Choose among the tokens at least so many times as likely as the likeliest; 0 means all.
  double min_p = 0;
  /// Positive logits of tokens of the prompt and of the reply so far are divided by it, others multiplied (Keskar et
  /// al. 2019); 1 changes nothing.
  double repetition_penalty = 1;
  /// Taken off the logits of tokens that the reply holds already.
  double presence_penalty = 0;
  /// Taken off a token's logit for each time that the reply holds it already.
  double frequency_penalty = 0;
  /// Added to the logits of single tokens.
  std::vector<TokenBias> logit_bias = {};
  /// Called with all V logits before one is chosen, to change them: a grammar, say, sets those that do not fit to minus
  /// infinity. Called in the thread that chooses; must not throw. May be empty.
  std::function<void(std::span<double> logits)> on_logits = {};
};

/// A token and how likely it was.
struct TokenLogProbability {
  std::int64_t token = 0;      ///< Its id.
  double log_probability = 0;  ///< Natural logarithm of the softmax of the model's own logits, before all settings.
};

/// A chosen token.
struct Choice {
  std::int64_t token = 0;                ///< Its id.
  double log_probability = 0;            ///< As in TokenLogProbability.
  std::vector<TokenLogProbability> top;  ///< The likeliest tokens, likeliest first, as many as were asked for.
};

/// Chooses the tokens of one sequence. Its random numbers follow from its seed alone, and so do its tokens, in whatever
/// company. Movable; one thread at a time.
class HSM_RUNTIME_API Sampler {
 public:
  struct Impl;

  /// `vocabulary`: logits V. kInvalidArgument for settings out of range.
  static Result<Sampler> create(const Sampling& sampling, std::uint64_t seed, std::int64_t vocabulary);

  /// Tells it the prompt, or more of it, for the repetition penalty.
  Status read(std::span<const std::int64_t> tokens);
  /// Chooses the next token of the reply from its logits (V), and says how likely it was and what the `top` likeliest
  /// were; -1: nothing of probabilities, which cost a pass over the logits. kRunFailed when nothing can be chosen: NaN,
  /// positive infinity, or nothing but negative infinity.
  Result<Choice> choose(std::span<const float> logits, std::int64_t top = 0);

  /// Moves it; the other is of no use then.
  Sampler(Sampler&&) noexcept;
  /// Moves it; the other is of no use then.
  Sampler& operator=(Sampler&&) noexcept;
  ~Sampler();
  /// For the library itself.
  explicit Sampler(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace hsm_runtime
