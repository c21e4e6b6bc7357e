#include "runtime/speculation.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "hsm_runtime/generator.h"
#include "hsm_runtime/speculation.h"
#include "runtime/error.h"
#include "runtime/session.h"
#include "runtime/state.h"

namespace hsm::runtime {

std::vector<double> probabilities(std::span<const float> logits, const hsm_runtime::Sampling& sampling,
                                  SamplingRoom& room) {
  take_logits(logits, room);
  add_bias(sampling, room);
  if (sampling.on_logits) sampling.on_logits(room.logits);
  const std::size_t count = candidates(sampling, room);
  const double total = std::accumulate(room.weights.begin(), room.weights.begin() + static_cast<long>(count), 0.0);
  std::vector<double> found(logits.size());
  for (std::size_t i = 0; i < count; ++i) found[static_cast<std::size_t>(room.ids[i])] = room.weights[i] / total;
  return found;
}

std::int64_t draw(std::span<const double> weights, double uniform) {
  const double drawn = uniform * std::accumulate(weights.begin(), weights.end(), 0.0);
  double reached = 0;
  std::size_t last = 0;  // rounding may leave nothing above what was drawn
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    reached += weights[i];
    last = i;
    if (drawn < reached) break;
  }
  return static_cast<std::int64_t>(last);
}

std::vector<std::int64_t> judge(std::span<const std::int64_t> proposed, std::span<const std::vector<double>> by_draft,
                                std::span<const std::vector<double>> by_target,
                                const std::function<double()>& uniform) {
  std::vector<std::int64_t> tokens;
  for (std::size_t i = 0; i < proposed.size(); ++i) {
    const auto token = static_cast<std::size_t>(proposed[i]);
    const std::vector<double>&p = by_target[i], &q = by_draft[i];
    if (uniform() * q[token] < p[token]) {
      tokens.push_back(proposed[i]);
      continue;
    }
    // What the draft proposes too seldom.
    std::vector<double> rest(p.size());
    for (std::size_t j = 0; j < p.size(); ++j) rest[j] = std::max(0.0, p[j] - q[j]);
    const bool is_empty = std::none_of(rest.begin(), rest.end(), [](double weight) { return weight > 0; });
    tokens.push_back(draw(is_empty ? p : rest, uniform()));  // empty by rounding alone
    return tokens;
  }
  tokens.push_back(draw(by_target[proposed.size()], uniform()));
  return tokens;
}

}  // namespace hsm::runtime

namespace hsm_runtime {

using hsm::runtime::fail;
using Tokens = std::vector<std::int64_t>;

namespace {

void require(const Status& status) {
  if (!status.ok()) fail(status.code(), status.message());
}

// Whether the states let so many tokens be taken back.
bool can_roll_back(const Session& session, std::int64_t tokens) {
  if (!session.impl().graph().state) {
    fail(Code::kInvalidArgument, "speculative decoding needs sessions of the decoding model: Part::kDecode");
  }
  try {
    hsm::runtime::check_rollback(*session.impl().graph().state, tokens);
    return true;
  } catch (const hsm::runtime::Error&) {
    return false;
  }
}

Generator made(const Session& session, std::int64_t capacity, bool needs_copy) {
  Result<Generator> generator = Generator::create(session, {.batch = needs_copy ? 2 : 1, .capacity = capacity});
  require(generator.status());
  return *std::move(generator);
}

// One sequence of a model, which can forget its last tokens: row 0, and a copy in row 1 where the state cannot go back.
struct Sequence {
  Sequence(const Session& session, std::int64_t capacity, std::int64_t most)
      : goes_back(can_roll_back(session, most)), generator(made(session, capacity, !goes_back)) {}

  // Reads tokens of which some may be forgotten; `logits` becomes those of all of them.
  void read(const Tokens& tokens, std::vector<float>* logits = nullptr) {
    if (!goes_back && since.empty()) require(generator.fork(0, 1));
    since.insert(since.end(), tokens.begin(), tokens.end());
    require(logits == nullptr ? generator.prefill(0, tokens) : generator.prefill(0, tokens, logits));
  }

  // Keeps all but the last `count` tokens of those read since the last time.
  void keep_without(std::size_t count) {
    since.resize(since.size() - count);
    if (count > 0 && goes_back) require(generator.rollback(0, static_cast<std::int64_t>(count)));
    if (count > 0 && !goes_back) {
      require(generator.fork(1, 0));
      if (!since.empty()) require(generator.prefill(0, since));
    }
    since.clear();
  }

  bool goes_back;
  Generator generator;
  Tokens since;
};

}  // namespace

struct Speculation::Impl {
  Impl(const Session& large, const Session& small, const SpeculationOptions& chosen)
      : options(chosen),
        target(large, chosen.capacity, chosen.draft_tokens),
        draft(small, chosen.capacity, chosen.draft_tokens),
        room(static_cast<std::size_t>(target.generator.vocabulary())) {
    const std::int64_t ours = target.generator.vocabulary(), theirs = draft.generator.vocabulary();
    if (ours != theirs) {
      fail(Code::kInvalidArgument,
           "the draft has " + std::to_string(theirs) + " token ids, the target " + std::to_string(ours));
    }
    if (large.impl().graph().state->last_logits) {
      fail(Code::kInvalidArgument,
           "the target returns the logits of the last token only; export it without --last-logits");
    }
    hsm::runtime::check(options.sampling, ours);
    if (hsm::runtime::has_penalties(options.sampling)) {
      fail(Code::kInvalidArgument, "penalties depend on the tokens before, and speculative decoding looks ahead");
    }
  }

  double uniform() { return hsm::runtime::uniform_of(options.seed, drawn++); }
  std::vector<double> weights(std::span<const float> logits) {
    return hsm::runtime::probabilities(logits, options.sampling, room);
  }

  // Tokens that a sequence may read before its capacity ends.
  std::int64_t room_of(const Sequence& sequence) const {
    const std::int64_t longest = sequence.generator.capacity();
    return longest == 0 ? std::numeric_limits<std::int64_t>::max() : longest - sequence.generator.positions()[0];
  }

  // A call that fails half-way leaves the two sequences apart from each other.
  template <typename F>
  auto whole(F&& body) {
    if (is_broken) fail(Code::kInvalidArgument, "an earlier call failed half-way, so the sequence cannot go on");
    is_broken = true;
    auto made = body();
    is_broken = false;
    return made;
  }

  void prefill(std::span<const std::int64_t> tokens) {
    if (!unread.empty()) fail(Code::kInvalidArgument, "a prompt comes before the first token");
    if (static_cast<std::int64_t>(tokens.size()) > room_of(draft)) {
      fail(Code::kInvalidArgument, "the prompt has " + std::to_string(tokens.size()) + " tokens, the draft holds " +
                                       std::to_string(room_of(draft)) + " more");
    }
    require(target.generator.prefill(0, tokens));
    whole([&] {
      require(draft.generator.prefill(0, tokens));
      return true;
    });
  }

  Tokens next() {
    if (unread.empty()) {
      const std::span<const float> logits = target.generator.logits(0);
      if (logits.empty()) fail(Code::kInvalidArgument, "nothing was read yet: give a prompt");
      unread = {hsm::runtime::draw(weights(logits), uniform())};
      return unread;
    }
    const std::int64_t left = room_of(target);
    if (left < 1) fail(Code::kInvalidArgument, "the sequence has reached its capacity");
    // The draft reads all but its last proposal, the target the token before them too.
    const std::int64_t in_draft = room_of(draft) - static_cast<std::int64_t>(unread.size());
    const std::int64_t count = std::min({options.draft_tokens, left - 1, in_draft < 0 ? 0 : in_draft + 1});
    return whole([&] { return round(static_cast<std::size_t>(count)); });
  }

  Tokens round(std::size_t count) {
    const std::int64_t pending = unread.back();  // chosen, and read by neither
    Tokens proposed;
    std::vector<std::vector<double>> by_draft, by_target;
    for (std::size_t i = 0; i < count; ++i) {
      draft.read(i == 0 ? unread : Tokens{proposed.back()});
      by_draft.push_back(weights(draft.generator.logits(0)));
      proposed.push_back(hsm::runtime::draw(by_draft.back(), uniform()));
    }
    Tokens read = {pending};
    read.insert(read.end(), proposed.begin(), proposed.end());
    std::vector<float> logits;
    target.read(read, &logits);
    const auto size = static_cast<std::size_t>(target.generator.vocabulary());
    for (std::size_t i = 0; i <= count; ++i) by_target.push_back(weights(std::span(logits).subspan(i * size, size)));
    const Tokens tokens = hsm::runtime::judge(proposed, by_draft, by_target, [this] { return uniform(); });
    const std::size_t taken = tokens.size() - 1;
    proposals += count;
    takes += taken;
    target.keep_without(count - taken);
    settle_draft(proposed, taken, tokens.back());
    return tokens;
  }

  // The draft has read all proposals but the last.
  void settle_draft(const Tokens& proposed, std::size_t taken, std::int64_t last) {
    const std::size_t count = proposed.size();
    if (count == 0) {
      unread.push_back(last);
      return;
    }
    draft.keep_without(taken < count ? count - 1 - taken : 0);
    unread = taken < count ? Tokens{last} : Tokens{proposed.back(), last};
  }

  const SpeculationOptions options;
  Sequence target, draft;
  hsm::runtime::SamplingRoom room;
  Tokens unread;  // by the draft; the target lacks the last of them
  std::uint64_t drawn = 0, proposals = 0, takes = 0;
  bool is_broken = false;
};

Speculation::Speculation(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Speculation::Speculation(Speculation&&) noexcept = default;
Speculation& Speculation::operator=(Speculation&&) noexcept = default;
Speculation::~Speculation() = default;

Result<Speculation> Speculation::create(const Session& target, const Session& draft,
                                        const SpeculationOptions& options) {
  return hsm::runtime::guarded<Speculation>([&] {
    if (options.draft_tokens < 1 || options.draft_tokens > 1024) {
      fail(Code::kInvalidArgument, "the draft proposes from 1 to 1024 tokens at a time");
    }
    return Speculation(std::make_unique<Impl>(target, draft, options));
  });
}

Status Speculation::prefill(std::span<const std::int64_t> tokens) {
  return hsm::runtime::guarded_status([&] { impl_->prefill(tokens); });
}
Result<std::vector<std::int64_t>> Speculation::next() {
  return hsm::runtime::guarded<Tokens>([&] { return impl_->next(); });
}
std::uint64_t Speculation::proposed() const { return impl_->proposals; }
std::uint64_t Speculation::accepted() const { return impl_->takes; }

}  // namespace hsm_runtime
