#include "hsm_runtime/generator.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "runtime/check.h"
#include "runtime/error.h"
#include "runtime/safetensors.h"
#include "runtime/sampling.h"
#include "runtime/session.h"
#include "runtime/state.h"

namespace hsm_runtime {

using hsm::runtime::fail;

struct Generator::Impl {
  Impl(const Session& chosen, const GeneratorOptions& options)
      : session(chosen),
        graph(session.impl().graph()),
        vocabulary(hsm::runtime::vocabulary_of(graph)),
        states(sets(*session.impl().program, *graph.state, options)),
        rows(static_cast<std::size_t>(options.batch)),
        tokens(rows),
        lengths(rows),
        positions(rows),
        furthest(rows),
        logits(rows * static_cast<std::size_t>(vocabulary)),
        room(static_cast<std::size_t>(vocabulary)) {
    const std::array<std::int64_t, 3> shape = {options.batch, 1, vocabulary};
    for (std::size_t from = 0; from < states.size(); ++from) steps.push_back(bind(tokens, 1, logits, shape, from));
  }

  // One set where a call may write what it reads, else two that change roles.
  static std::vector<hsm::runtime::StateBuffers> sets(const hsm::runtime::Program& program,
                                                      const hsm::runtime::StateSpec& spec,
                                                      const GeneratorOptions& options) {
    std::vector<hsm::runtime::StateBuffers> made;
    made.emplace_back(program, spec, options.batch, options.capacity);
    const auto in_place = [&](const auto& tensor) { return program.updates_in_place(tensor); };
    if (!std::all_of(spec.tensors.begin(), spec.tensors.end(), in_place)) {
      made.push_back(made.front().counterpart(program));
    }
    return made;
  }

  // The set that a call writes which reads that one.
  std::size_t after(std::size_t set) const { return (set + 1) % states.size(); }

  // Binds one call of `count` tokens for each row that reads the states `from` and writes the others.
  std::unique_ptr<hsm::runtime::Binding> bind(std::vector<std::int64_t>& ids, std::int64_t count,
                                              std::vector<float>& result, std::span<const std::int64_t> result_shape,
                                              std::size_t from) {
    const std::array<std::int64_t, 2> call = {static_cast<std::int64_t>(rows), count};
    const std::span<const std::int64_t> batch(call.data(), 1);
    std::vector<NamedTensor> inputs = {{"tokens", {ids.data(), DType::kInt64, call}},
                                       {"position", {positions.data(), DType::kInt64, batch}},
                                       {"lengths", {lengths.data(), DType::kInt64, batch}}};
    std::vector<NamedTensor> outputs = {{"logits", {result.data(), DType::kFloat32, result_shape}}};
    const hsm::runtime::Program& program = *session.impl().program;
    const Device device = program.memory().device();
    for (const hsm::runtime::StateBuffer& state : states[from].tensors) {
      inputs.push_back({state.past, state.view(device)});
    }
    for (const hsm::runtime::StateBuffer& state : states[after(from)].tensors) {
      outputs.push_back({state.present, state.view(device)});
    }
    hsm::runtime::check_tensors(graph, inputs, outputs, device);
    return program.bind(inputs, outputs, {});
  }

  void check_row(std::int64_t row) const {
    if (row < 0 || static_cast<std::size_t>(row) >= rows) {
      fail(Code::kInvalidArgument,
           "there is no row " + std::to_string(row) + "; the batch has " + std::to_string(rows));
    }
  }

  void check_token(std::int64_t token) const {
    if (token < 0 || token >= vocabulary) {
      fail(Code::kInvalidArgument,
           "token id " + std::to_string(token) + " is not in 0.." + std::to_string(vocabulary - 1));
    }
  }

  void check_room(std::size_t row, std::int64_t count) const {
    const std::int64_t longest = states[0].longest;
    if (longest > 0 && positions[row] + count > longest) {
      fail(Code::kInvalidArgument, "row " + std::to_string(row) + " would reach " +
                                       std::to_string(positions[row] + count) + " tokens, but the state holds " +
                                       std::to_string(longest));
    }
  }

  // After a run: the states have changed roles.
  void advance() {
    current = after(current);
    for (std::size_t row = 0; row < rows; ++row) {
      positions[row] += lengths[row];
      furthest[row] = std::max(furthest[row], positions[row]);
    }
  }

  void step(std::span<const std::int64_t> given) {
    if (given.size() != rows) {
      fail(Code::kInvalidArgument, "a step takes one token for each of " + std::to_string(rows) + " rows");
    }
    for (std::size_t row = 0; row < rows; ++row) {
      if (given[row] == -1) continue;
      check_token(given[row]);
      check_room(row, 1);
    }
    for (std::size_t row = 0; row < rows; ++row) {
      tokens[row] = std::max<std::int64_t>(given[row], 0);
      lengths[row] = given[row] == -1 ? 0 : 1;
    }
    steps[current]->run();
    advance();
  }

  // The valid tokens of each row, checked, and zeros for the padding.
  std::vector<std::int64_t> padded(std::span<const std::int64_t> given, std::span<const std::int64_t> counts) const {
    if (given.empty() || given.size() % rows != 0) {
      fail(Code::kInvalidArgument, "a prompt needs as many token ids for each of " + std::to_string(rows) + " rows");
    }
    if (!counts.empty() && counts.size() != rows) {
      fail(Code::kInvalidArgument, "there must be one length for each of " + std::to_string(rows) + " rows");
    }
    const std::size_t width = given.size() / rows;
    std::vector<std::int64_t> ids(given.size());
    for (std::size_t row = 0; row < rows; ++row) {
      const std::int64_t count = counts.empty() ? static_cast<std::int64_t>(width) : counts[row];
      if (count < 0 || count > static_cast<std::int64_t>(width)) {
        fail(Code::kInvalidArgument, "a length must be from 0 to " + std::to_string(width));
      }
      check_room(row, count);
      for (std::size_t i = row * width; i < row * width + static_cast<std::size_t>(count); ++i) {
        check_token(given[i]);
        ids[i] = given[i];
      }
    }
    return ids;
  }

  void prefill(std::span<const std::int64_t> given, std::span<const std::int64_t> counts) {
    std::vector<std::int64_t> ids = padded(given, counts);
    const std::size_t width = ids.size() / rows, size = static_cast<std::size_t>(vocabulary);
    for (std::size_t row = 0; row < rows; ++row) {
      lengths[row] = counts.empty() ? static_cast<std::int64_t>(width) : counts[row];
    }
    const std::size_t kept = graph.state->last_logits ? 1 : width;
    std::vector<float> all(rows * kept * size);
    const std::array<std::int64_t, 3> shape = {static_cast<std::int64_t>(rows), static_cast<std::int64_t>(kept),
                                               vocabulary};
    bind(ids, static_cast<std::int64_t>(width), all, shape, current)->run();
    for (std::size_t row = 0; row < rows; ++row) {
      const std::size_t last = kept == 1 || lengths[row] == 0 ? 0 : static_cast<std::size_t>(lengths[row]) - 1;
      std::copy_n(all.begin() + static_cast<std::ptrdiff_t>((row * kept + last) * size), size,
                  logits.begin() + static_cast<std::ptrdiff_t>(row * size));
    }
    advance();
  }

  void rollback(std::int64_t row, std::int64_t count) {
    check_row(row);
    const auto index = static_cast<std::size_t>(row);
    if (count < 0 || count > positions[index]) {
      fail(Code::kInvalidArgument,
           "cannot take " + std::to_string(count) + " tokens back from a row of " + std::to_string(positions[index]));
    }
    if (count == 0) return;
    hsm::runtime::check_rollback(*graph.state, furthest[index] - (positions[index] - count));
    positions[index] -= count;
  }

  void load(const std::string& path) {
    std::vector<std::int64_t> loaded = states[after(current)].load(path, rows);
    current = after(current);
    positions = loaded;  // the same size, hence in the memory that is bound
    for (std::size_t row = 0; row < rows; ++row) furthest[row] = positions[row] + graph.state->rollback;
  }

  Session session;
  const hsm::runtime::Graph& graph;
  std::int64_t vocabulary;
  std::vector<hsm::runtime::StateBuffers> states;
  std::size_t current = 0;
  std::size_t rows;
  std::vector<std::int64_t> tokens, lengths, positions, furthest;
  std::vector<float> logits;
  hsm::runtime::SamplingRoom room;
  std::vector<std::unique_ptr<hsm::runtime::Binding>> steps;  // by the set that they read
};

Generator::Generator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Generator::Generator(Generator&&) noexcept = default;
Generator& Generator::operator=(Generator&&) noexcept = default;
Generator::~Generator() = default;

Result<Generator> Generator::create(const Session& session, const GeneratorOptions& options) {
  return hsm::runtime::guarded<Generator>([&] {
    if (!session.impl().graph().state) {
      fail(Code::kInvalidArgument, "a generator needs a session of the decoding model: Part::kDecode");
    }
    return Generator(std::make_unique<Impl>(session, options));
  });
}

std::int64_t Generator::batch() const { return static_cast<std::int64_t>(impl_->rows); }
std::int64_t Generator::vocabulary() const { return impl_->vocabulary; }
std::int64_t Generator::capacity() const { return impl_->states[0].longest; }
std::span<const std::int64_t> Generator::positions() const { return impl_->positions; }
std::size_t Generator::state_bytes() const { return impl_->states[0].bytes(); }

Status Generator::prefill(std::span<const std::int64_t> tokens, std::span<const std::int64_t> lengths) {
  return hsm::runtime::guarded_status([&] { impl_->prefill(tokens, lengths); });
}

Status Generator::step(std::span<const std::int64_t> tokens) {
  return hsm::runtime::guarded_status([&] { impl_->step(tokens); });
}

std::span<const float> Generator::logits(std::int64_t row) const {
  if (row < 0 || row >= batch()) return {};
  const auto size = static_cast<std::size_t>(impl_->vocabulary);
  return std::span<const float>(impl_->logits).subspan(static_cast<std::size_t>(row) * size, size);
}

Result<std::int64_t> Generator::sample(std::int64_t row, const Sampling& sampling, double uniform) {
  return hsm::runtime::guarded<std::int64_t>([&] {
    impl_->check_row(row);
    return hsm::runtime::choose(logits(row), sampling, uniform, impl_->room);
  });
}

Status Generator::rollback(std::int64_t row, std::int64_t tokens) {
  return hsm::runtime::guarded_status([&] { impl_->rollback(row, tokens); });
}

Status Generator::fork(std::int64_t source, std::int64_t target) {
  return hsm::runtime::guarded_status([&] {
    impl_->check_row(source);
    impl_->check_row(target);
    const auto from = static_cast<std::size_t>(source), to = static_cast<std::size_t>(target);
    if (from == to) return;
    impl_->states[impl_->current].copy_row(from, to);
    impl_->positions[to] = impl_->positions[from];
    impl_->furthest[to] = impl_->furthest[from];
    const auto size = static_cast<std::size_t>(impl_->vocabulary);
    std::memcpy(impl_->logits.data() + to * size, impl_->logits.data() + from * size, size * sizeof(float));
  });
}

Status Generator::reset(std::int64_t row) {
  return hsm::runtime::guarded_status([&] {
    impl_->check_row(row);
    const auto index = static_cast<std::size_t>(row);
    impl_->states[impl_->current].clear_row(index);
    impl_->positions[index] = impl_->furthest[index] = 0;
  });
}

Status Generator::save(const std::string& path) const {
  return hsm::runtime::guarded_status([&] { impl_->states[impl_->current].save(path, impl_->positions); });
}

Status Generator::load(const std::string& path) {
  return hsm::runtime::guarded_status([&] { impl_->load(path); });
}

}  // namespace hsm_runtime
