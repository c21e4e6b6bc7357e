#include "hsm_runtime/generator.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "runtime/error.h"
#include "runtime/rows.h"
#include "runtime/sampling.h"
#include "runtime/session.h"

namespace hsm_runtime {

using hsm::runtime::fail;

struct Generator::Impl {
  Impl(const Session& chosen, const GeneratorOptions& options)
      : session(chosen),
        rows(*session.impl().program, session.impl().graph(), options.batch, options.capacity, options.reserve),
        lengths(rows.count()),
        every_row(rows.count()),
        room(static_cast<std::size_t>(rows.vocabulary())) {
    std::iota(every_row.begin(), every_row.end(), std::size_t{0});
  }

  std::size_t checked_row(std::int64_t row) const {
    if (row < 0 || static_cast<std::size_t>(row) >= rows.count()) {
      fail(Code::kInvalidArgument,
           "there is no row " + std::to_string(row) + "; the batch has " + std::to_string(rows.count()));
    }
    return static_cast<std::size_t>(row);
  }

  void check_token(std::int64_t token) const {
    if (token < 0 || token >= rows.vocabulary()) {
      fail(Code::kInvalidArgument,
           "token id " + std::to_string(token) + " is not in 0.." + std::to_string(rows.vocabulary() - 1));
    }
  }

  void check_room(std::size_t row, std::int64_t count) const {
    const std::int64_t longest = rows.longest(), reached = rows.positions()[row];
    if (longest > 0 && count > longest - reached) {
      fail(Code::kInvalidArgument, "row " + std::to_string(row) + " would reach " + std::to_string(reached + count) +
                                       " tokens, but the state holds " + std::to_string(longest));
    }
  }

  std::span<const float> checked_logits(std::int64_t row) const {
    const std::span<const float> logits = rows.logits(checked_row(row));
    if (logits.empty()) {
      fail(Code::kInvalidArgument, "row " + std::to_string(row) +
                                       " has no logits to choose from: it has read nothing since it was made, reset, "
                                       "rolled back or loaded; let it read a token");
    }
    return logits;
  }

  void step(std::span<const std::int64_t> tokens) {
    if (tokens.size() != rows.count()) {
      fail(Code::kInvalidArgument, "a step takes one token for each of " + std::to_string(rows.count()) + " rows");
    }
    for (std::size_t row = 0; row < tokens.size(); ++row) {
      lengths[row] = tokens[row] == -1 ? 0 : 1;
      if (lengths[row] == 0) continue;
      check_token(tokens[row]);
      check_room(row, 1);
    }
    rows.read(tokens, 1, lengths);
  }

  void prefill(std::span<const std::int64_t> tokens, std::span<const std::int64_t> counts,
               std::vector<float>* every = nullptr) {
    if (tokens.empty() || tokens.size() % rows.count() != 0) {
      fail(Code::kInvalidArgument,
           "a prompt needs as many token ids for each of " + std::to_string(rows.count()) + " rows");
    }
    if (!counts.empty() && counts.size() != rows.count()) {
      fail(Code::kInvalidArgument, "there must be one length for each of " + std::to_string(rows.count()) + " rows");
    }
    const std::size_t width = tokens.size() / rows.count();
    for (std::size_t row = 0; row < rows.count(); ++row) {
      lengths[row] = counts.empty() ? static_cast<std::int64_t>(width) : counts[row];
      if (lengths[row] < 0 || lengths[row] > static_cast<std::int64_t>(width)) {
        fail(Code::kInvalidArgument, "a length must be from 0 to " + std::to_string(width));
      }
      check_room(row, lengths[row]);
      for (const std::int64_t token : tokens.subspan(row * width, static_cast<std::size_t>(lengths[row]))) {
        check_token(token);
      }
    }
    rows.read(tokens, width, lengths, every);
    if (every != nullptr) widen(*every, width);
  }

  // From the rows that worked and the longest length to all rows and the width of the call.
  void widen(std::vector<float>& every, std::size_t width) const {
    const auto longest = static_cast<std::size_t>(*std::max_element(lengths.begin(), lengths.end()));
    const auto size = static_cast<std::size_t>(rows.vocabulary());
    std::vector<float> wide(rows.count() * width * size);
    auto from = every.begin();
    for (std::size_t row = 0; row < rows.count(); ++row) {
      if (lengths[row] == 0) continue;
      std::copy_n(from, longest * size, wide.begin() + static_cast<std::ptrdiff_t>(row * width * size));
      from += static_cast<std::ptrdiff_t>(longest * size);
    }
    every = std::move(wide);
  }

  void prefill(std::size_t row, std::span<const std::int64_t> tokens, std::vector<float>* every = nullptr) {
    if (tokens.empty()) fail(Code::kInvalidArgument, "a prompt needs at least one token id");
    check_room(row, static_cast<std::int64_t>(tokens.size()));
    for (const std::int64_t token : tokens) check_token(token);
    std::fill(lengths.begin(), lengths.end(), 0);
    lengths[row] = static_cast<std::int64_t>(tokens.size());
    rows.read(tokens, 0, lengths, every);  // the stride of one row
  }

  Session session;
  hsm::runtime::Rows rows;
  std::vector<std::int64_t> lengths;  // of the call at hand
  std::vector<std::size_t> every_row;
  hsm::runtime::SamplingRoom room;
};

Generator::Generator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Generator::Generator(Generator&&) noexcept = default;
Generator& Generator::operator=(Generator&&) noexcept = default;
Generator::~Generator() = default;

namespace {

const hsm::runtime::StateSpec& state_of(const Session& session) {
  if (!session.impl().graph().state) {
    fail(Code::kInvalidArgument, "a generator needs a session of the decoding model: Part::kDecode");
  }
  return *session.impl().graph().state;
}

}  // namespace

Result<Generator> Generator::create(const Session& session, const GeneratorOptions& options) {
  return hsm::runtime::guarded<Generator>([&] {
    std::ignore = state_of(session);
    return Generator(std::make_unique<Impl>(session, options));
  });
}

Result<std::size_t> Generator::state_bytes(const Session& session, const GeneratorOptions& options) {
  return hsm::runtime::guarded<std::size_t>(
      [&] { return hsm::runtime::state_bytes(state_of(session), options.batch, options.capacity); });
}

std::int64_t Generator::batch() const { return static_cast<std::int64_t>(impl_->rows.count()); }
std::int64_t Generator::vocabulary() const { return impl_->rows.vocabulary(); }
std::int64_t Generator::capacity() const { return impl_->rows.longest(); }
std::span<const std::int64_t> Generator::positions() const { return impl_->rows.positions(); }
std::size_t Generator::state_bytes() const { return impl_->rows.state_bytes(); }

Status Generator::prefill(std::span<const std::int64_t> tokens, std::span<const std::int64_t> lengths) {
  return hsm::runtime::guarded_status([&] { impl_->prefill(tokens, lengths); });
}

Status Generator::prefill(std::int64_t row, std::span<const std::int64_t> tokens) {
  return hsm::runtime::guarded_status([&] { impl_->prefill(impl_->checked_row(row), tokens); });
}

Status Generator::prefill(std::int64_t row, std::span<const std::int64_t> tokens, std::vector<float>* logits) {
  return hsm::runtime::guarded_status([&] { impl_->prefill(impl_->checked_row(row), tokens, logits); });
}

Status Generator::prefill(std::span<const std::int64_t> tokens, std::span<const std::int64_t> lengths,
                          std::vector<float>* logits) {
  return hsm::runtime::guarded_status([&] { impl_->prefill(tokens, lengths, logits); });
}

void Generator::set_stop(std::stop_token stop) { impl_->rows.set_stop(std::move(stop)); }

Status Generator::step(std::span<const std::int64_t> tokens) {
  return hsm::runtime::guarded_status([&] { impl_->step(tokens); });
}

std::span<const float> Generator::logits(std::int64_t row) const {
  if (row < 0 || row >= batch()) return {};
  return impl_->rows.logits(static_cast<std::size_t>(row));
}

Result<std::span<const float>> Generator::output(std::int64_t row, const std::string& name) const {
  return hsm::runtime::guarded<std::span<const float>>(
      [&] { return impl_->rows.output(impl_->checked_row(row), name); });
}

bool Generator::has_logits(std::int64_t row) const { return !logits(row).empty(); }

Result<std::int64_t> Generator::sample(std::int64_t row, const Sampling& sampling, double uniform) {
  return hsm::runtime::guarded<std::int64_t>(
      [&] { return hsm::runtime::choose(impl_->checked_logits(row), sampling, uniform, impl_->room); });
}

Result<Choice> Generator::sample(std::int64_t row, Sampler& sampler, std::int64_t top) {
  try {
    return sampler.choose(impl_->checked_logits(row), top);
  } catch (...) {
    return hsm::runtime::current_status();
  }
}

Status Generator::rollback(std::int64_t row, std::int64_t tokens) {
  return hsm::runtime::guarded_status([&] { impl_->rows.rollback(impl_->checked_row(row), tokens); });
}

Status Generator::fork(std::int64_t source, std::int64_t target) { return fork(*this, source, target); }

Status Generator::fork(const Generator& other, std::int64_t source, std::int64_t target) {
  return hsm::runtime::guarded_status([&] {
    const std::size_t from = other.impl_->checked_row(source), to = impl_->checked_row(target);
    impl_->rows.copy(to, other.impl_->rows, from);
  });
}

Status Generator::reset(std::int64_t row) {
  return hsm::runtime::guarded_status([&] { impl_->rows.reset(impl_->checked_row(row)); });
}

Status Generator::save(const std::string& path) const {
  return hsm::runtime::guarded_status([&] { impl_->rows.save(path, impl_->every_row); });
}

Status Generator::load(const std::string& path) {
  return hsm::runtime::guarded_status([&] { impl_->rows.load(path, impl_->every_row); });
}

Status Generator::save_row(std::int64_t row, const std::string& path) const {
  return hsm::runtime::guarded_status([&] {
    const std::size_t index = impl_->checked_row(row);
    impl_->rows.save(path, std::span(&index, 1));
  });
}

Status Generator::load_row(std::int64_t row, const std::string& path) {
  return hsm::runtime::guarded_status([&] {
    const std::size_t index = impl_->checked_row(row);
    impl_->rows.load(path, std::span(&index, 1));
  });
}

}  // namespace hsm_runtime
