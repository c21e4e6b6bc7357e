// Many requests on the rows of one generator: continuous batching.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hsm_runtime/export.h"
#include "hsm_runtime/generator.h"
#include "hsm_runtime/session.h"
#include "hsm_runtime/status.h"

namespace hsm_runtime {

/// Why a request ended.
enum class Ending : int {
  kLength = 0,     ///< It has as many tokens as it asked for.
  kStop = 1,       ///< One of its stop tokens came.
  kCancelled = 2,  ///< By cancel(), by its callback, or because the scheduler was closed.
  kTimeout = 3,    ///< Its time was over, in the queue or in a row.
  kFailed = 4,     ///< The status says why.
};

/// One of several replies to a prompt.
struct Sample {
  std::int64_t index = 0;            ///< Its number among them; its seed is Request::seed + index.
  Ending ending = Ending::kLength;   ///< Why it ended.
  Status status;                     ///< Not ok for kFailed.
  std::vector<std::int64_t> tokens;  ///< As in Reply.
  std::vector<Choice> choices;       ///< As in Reply.
  double log_probability = 0;        ///< As in Reply.
};

/// How a request ended.
struct Reply {
  std::uint64_t id = 0;              ///< As submit() returned it.
  Ending ending = Ending::kLength;   ///< Why.
  Status status;                     ///< Not ok for kFailed.
  std::vector<std::int64_t> tokens;  ///< The new tokens, without a stop token.
  std::vector<Choice> choices;       ///< How likely each of them was; empty unless the request asks for it.
  /// Sum over all that was chosen, a stop token included, of requests for log-probabilities or samples; else 0.
  double log_probability = 0;
  /// Of a request for several samples: all of them by index, or the `best` ones, likeliest first. What stands above is
  /// that of the first of them. Empty for a request for one.
  std::vector<Sample> samples;
  double seconds_to_row = 0;          ///< From submit() until it had a row.
  double seconds_to_first_token = 0;  ///< From submit() until its first token; 0 without one.
  double seconds = 0;                 ///< From submit() until its end.
};

/// A prompt and what shall become of it.
struct Request {
  /// At least one token id.
  std::vector<std::int64_t> prompt;
  /// New tokens to make.
  std::int64_t max_tokens = 16;
  /// How each is chosen.
  Sampling sampling;
  /// Of the request's own random numbers: the same seed makes the same tokens, in whatever company.
  std::uint64_t seed = 0;
  /// Replies to make of the one prompt, which is read once: 1 to the scheduler's rows. Each takes a row, is made with
  /// the next seed, and is the reply that it would be alone.
  std::int64_t samples = 1;
  /// How many of the samples to return, those with the largest Sample::log_probability first; 0: all of them.
  std::int64_t best = 0;
  /// What Reply::choices holds: -1 nothing, else each token's log-probability and those of so many likeliest ones.
  std::int64_t log_probabilities = -1;
  /// Token ids at which the reply ends.
  std::vector<std::int64_t> stop_tokens;
  /// Of the requests that wait, those with the largest number get rows first; of equals those that came first.
  int priority = 0;
  /// Time until its end, from submit() on; 0 for any time.
  std::chrono::milliseconds timeout{0};
  /// A file of Generator::save_row or of `park`, after whose tokens the prompt goes on. Empty: a new sequence.
  std::string resume;
  /// Where to save the row when the reply has ended by length or stop, all its tokens read. Empty: nowhere. Not for
  /// several samples.
  std::string park;
  /// Called with each new token; false cancels the request, or that sample of it. May be empty.
  std::function<bool(std::int64_t token)> on_token;
  /// The same with the sample's index, in place of `on_token`. May be empty.
  std::function<bool(std::int64_t sample, std::int64_t token)> on_sample_token;
  /// Called once, at the end of all samples. May be empty.
  std::function<void(const Reply&)> on_end;
};

/// The size of a scheduler.
struct SchedulerOptions {
  /// Rows that work at the same time, and what each must be able to reach.
  GeneratorOptions generator = {.batch = 16};
  /// Tokens of prompts that are read between two steps of the rows that already generate.
  std::int64_t chunk = 64;
  /// Requests that may wait; more are refused.
  std::size_t most_waiting = 1024;
};

/// Counts since the scheduler was made, and how it stands.
struct SchedulerMetrics {
  std::size_t rows = 0;               ///< Rows that there are.
  std::size_t active = 0;             ///< Rows that work.
  std::size_t waiting = 0;            ///< Requests without a row.
  std::uint64_t ended = 0;            ///< Requests that have ended, in whatever way.
  std::uint64_t refused = 0;          ///< Requests that submit() refused because too many waited.
  std::uint64_t prompt_tokens = 0;    ///< Tokens of prompts that were read.
  std::uint64_t tokens = 0;           ///< Tokens that were made.
  double seconds_to_first_token = 0;  ///< Sum over the requests that have one.
  std::uint64_t first_tokens = 0;     ///< How many these are.
};

/// Runs requests on the rows of a generator of its own, in a thread of its own. Rows that generate step together;
/// prompts join one after the other, a chunk between two steps. A reply is that of the request alone. All methods may
/// be called from several threads at once, and from the callbacks, which the scheduler's thread calls one after the
/// other: they should return soon. One that destroys the scheduler is followed by those of the other requests, which
/// end as cancelled, after it has returned.
class HSM_RUNTIME_API Scheduler {
 public:
  struct Impl;

  /// `session` is of Part::kDecode.
  static Result<Scheduler> create(const Session& session, const SchedulerOptions& options = {});

  /// Queues a request and returns its number. kInvalidArgument for one that can never run; kUnavailable when too many
  /// wait already, or when the scheduler is being destroyed.
  Result<std::uint64_t> submit(Request request);
  /// Ends a request before the next step. One that has ended already is none.
  Status cancel(std::uint64_t id);
  /// How it stands.
  SchedulerMetrics metrics() const;
  /// Waits until nothing waits or works. kInvalidArgument from a callback, which would wait for itself.
  Status drain() const;

  /// Moves it; the other is of no use then.
  Scheduler(Scheduler&&) noexcept;
  /// Moves it; the other is of no use then. Cancels what is left here.
  Scheduler& operator=(Scheduler&&) noexcept;
  /// Cancels what is left.
  ~Scheduler();
  /// For the library itself.
  explicit Scheduler(std::shared_ptr<Impl> impl);

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace hsm_runtime
