#include "runtime/rows.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "runtime/check.h"
#include "runtime/error.h"
#include "runtime/state_file.h"

namespace hsm::runtime {
namespace {

constexpr std::int64_t kPage = 64;  // tokens: states grow by multiples of it

std::int64_t whole_pages(std::int64_t tokens) { return (tokens + kPage - 1) / kPage * kPage; }

bool all_in_place(const Program& program, const StateSpec& spec) {
  return std::all_of(spec.tensors.begin(), spec.tensors.end(),
                     [&](const StateTensor& tensor) { return program.updates_in_place(tensor); });
}

bool same_state(const StateSpec& a, const StateSpec& b) {
  if (a.tensors.size() != b.tensors.size() || a.model != b.model) return false;
  for (std::size_t i = 0; i < a.tensors.size(); ++i) {
    const StateTensor &left = a.tensors[i], &right = b.tensors[i];
    if (left.name != right.name || left.dtype != right.dtype || left.shape.size() != right.shape.size() ||
        left.capacity_axis != right.capacity_axis) {
      return false;
    }
    for (std::size_t axis = 1; axis < left.shape.size(); ++axis) {
      if (axis != left.capacity_axis && left.shape[axis] != right.shape[axis]) return false;
    }
  }
  return true;
}

}  // namespace

Rows::Rows(const Program& program, const Graph& graph, std::int64_t batch, std::int64_t capacity, std::int64_t reserve)
    : program_(program),
      graph_(graph),
      vocabulary_(vocabulary_of(graph)),
      capacity_(capacity),
      reserve_(reserve > 0 ? reserve : kPage),
      sets_(1, StateBuffers(program, *graph.state, batch, capacity, reserve_)),
      slot_(static_cast<std::size_t>(batch)),
      row_(slot_.size()),
      set_(slot_.size()),
      works_(slot_.size()),
      positions_(slot_.size()),
      furthest_(slot_.size()),
      has_logits_(slot_.size()),
      logits_(slot_.size() * static_cast<std::size_t>(vocabulary_)),
      extras_(extras_of(graph, slot_.size())),
      has_extras_(slot_.size()),
      step_(slot_.size(), 1, 1, static_cast<std::size_t>(vocabulary_), extras_) {
  if (reserve < 0) fail(Code::kInvalidArgument, "the tokens to reserve must not be negative");
  if (!all_in_place(program, *graph.state)) sets_.push_back(sets_[0].counterpart(program));
  std::iota(slot_.begin(), slot_.end(), std::size_t{0});
  std::iota(row_.begin(), row_.end(), std::size_t{0});
  try {
    bind_all();
  } catch (const Error&) {
    if (sets_[0].slots == 0 || sets_[0].slots == capacity_) throw;
    takes_parts_ = false;  // an engine may have been built for the whole capacity
    resize(capacity_);
    bind_all();
  }
}

// Steps of all rows; that shows at once whether the program takes them.
void Rows::bind_all() {
  for (std::size_t set = 0; set < sets_.size(); ++set) step({0, count(), set});
}

std::span<const float> Rows::logits(std::size_t row) const {
  if (has_logits_[row] == 0) return {};
  const auto size = static_cast<std::size_t>(vocabulary_);
  return std::span<const float>(logits_).subspan(row * size, size);
}

std::vector<Rows::Extra> Rows::extras_of(const Graph& graph, std::size_t rows) {
  std::vector<Extra> extras;
  for (const hsm_runtime::TensorInfo& info : graph.outputs) {
    const auto& states = graph.state->tensors;
    const bool is_state = std::any_of(states.begin(), states.end(),
                                      [&](const StateTensor& tensor) { return tensor.present() == info.name; });
    if (is_state || info.name == "logits") continue;
    const std::int64_t* width = info.shape.size() == 3 ? std::get_if<std::int64_t>(&info.shape[2]) : nullptr;
    if (info.dtype != DType::kFloat32 || width == nullptr) {
      fail(Code::kInvalidArgument, "a generator gives extra outputs of float32 (batch, length, width) alone, and '" +
                                       info.name + "' is another");
    }
    const auto size = static_cast<std::size_t>(*width);
    extras.push_back({info.name, size, std::vector<float>(rows * size)});
  }
  return extras;
}

std::span<const float> Rows::output(std::size_t row, const std::string& name) const {
  const auto found =
      std::find_if(extras_.begin(), extras_.end(), [&](const Extra& extra) { return extra.name == name; });
  if (found == extras_.end()) {
    fail(Code::kInvalidArgument, "the session has no extra output '" + name + "'; name it when it is opened");
  }
  if (has_extras_[row] == 0) {
    fail(Code::kInvalidArgument, "row " + std::to_string(row) + " has read nothing whose '" + name + "' there is");
  }
  return std::span<const float>(found->last).subspan(row * found->width, found->width);
}

// The same rows with room for another number of tokens. Whatever is bound is bound to memory that is gone then.
void Rows::resize(std::int64_t slots) {
  std::vector<StateBuffers> next;
  next.emplace_back(program_, *graph_.state, static_cast<std::int64_t>(count()), capacity_, slots);
  if (sets_.size() > 1) next.push_back(next[0].counterpart(program_));
  for (std::size_t slot = 0; slot < count(); ++slot) next[0].copy_row(slot, sets_[set_[slot]], slot);
  steps_.clear();
  spare_.reset();
  sets_ = std::move(next);
  std::fill(set_.begin(), set_.end(), std::size_t{0});
}

// A step costs what the states have room for, so that follows the longest row: up by quarters, and down when a quarter
// would do.
void Rows::make_room(std::int64_t tokens) {
  const std::int64_t now = sets_[0].slots;
  if (now == 0 || !takes_parts_) return;
  const std::int64_t needed = std::max(tokens, *std::max_element(positions_.begin(), positions_.end()));
  if (needed > now) {
    resize(std::min(capacity_, whole_pages(std::max(needed, now + now / 4))));
  } else if (now > reserve_ && needed < now / 4) {
    resize(std::min(capacity_, std::max(reserve_, whole_pages(needed + needed / 4))));
  }
}

bool Rows::starts_aligned(std::size_t slot) const {
  const std::size_t alignment = sets_[0].memory->alignment();
  return std::all_of(sets_[0].tensors.begin(), sets_[0].tensors.end(),
                     [&](const StateBuffer& tensor) { return slot * tensor.row_bytes() % alignment == 0; });
}

// Where `count` slots hold most of the rows that work.
std::size_t Rows::best_window(std::size_t count) const {
  std::size_t best = 0, most = 0;
  auto inside = static_cast<std::size_t>(std::count(works_.begin(), works_.begin() + static_cast<long>(count), 1));
  for (std::size_t first = 0;; ++first) {
    if (inside > most && starts_aligned(first)) best = first, most = inside;
    if (first + count == works_.size()) return best;
    inside = inside + works_[first + count] - works_[first];
  }
}

// Brings the rows that work side by side; returns their first slot.
std::size_t Rows::gather(std::size_t count) {
  const std::size_t first = best_window(count);
  std::size_t outside = 0;
  for (std::size_t slot = first; slot < first + count; ++slot) {
    if (works_[slot] != 0) continue;
    while (works_[outside] == 0 || (outside >= first && outside < first + count)) ++outside;
    swap(slot, outside);
    std::swap(works_[slot], works_[outside]);
  }
  return first;
}

void Rows::swap(std::size_t a, std::size_t b) {
  if (!spare_) spare_ = std::make_unique<StateBuffers>(program_, *graph_.state, 1, capacity_, sets_[0].slots);
  spare_->copy_row(0, sets_[set_[a]], a);
  sets_[set_[a]].copy_row(a, sets_[set_[b]], b);
  sets_[set_[b]].copy_row(b, *spare_, 0);
  std::swap(row_[a], row_[b]);
  slot_[row_[a]] = a, slot_[row_[b]] = b;
}

// Brings the rows of these slots into one set: rows that stood still are where they were.
Rows::Range Rows::level(std::size_t first, std::size_t count) {
  const auto begin = set_.begin() + static_cast<long>(first), end = begin + static_cast<long>(count);
  const auto in_second = static_cast<std::size_t>(std::count(begin, end, std::size_t{1}));
  const std::size_t chosen = 2 * in_second > count ? 1 : 0;
  for (std::size_t slot = first; slot < first + count; ++slot) {
    if (set_[slot] == chosen) continue;
    sets_[chosen].copy_row(slot, sets_[set_[slot]], slot);
    set_[slot] = chosen;
  }
  return {first, count, chosen};
}

// The slots to run on: those of the rows that work, or all where the program takes no fewer.
Rows::Range Rows::place(std::size_t working) {
  return takes_parts_ ? level(gather(working), working) : level(0, count());
}

void Rows::fill(Call& call, const Range& range, std::span<const std::int64_t> tokens, std::size_t stride,
                std::span<const std::int64_t> lengths) const {
  for (std::size_t i = 0; i < range.count; ++i) {
    const std::size_t row = row_[range.first + i];
    const auto length = static_cast<std::size_t>(lengths[row]);
    const auto to = call.tokens.begin() + static_cast<long>(i * call.width);
    const auto from = tokens.begin() + static_cast<long>(row * stride);
    std::fill(std::copy_n(from, length, to), to + static_cast<long>(call.width), 0);
    call.lengths[i] = lengths[row];
    call.positions[i] = positions_[row];
  }
}

std::unique_ptr<Binding> Rows::bind(const Range& range, Call& call) const {
  const auto rows = static_cast<std::int64_t>(range.count);
  const std::array ids = {rows, static_cast<std::int64_t>(call.width)};
  const std::array result = {rows, static_cast<std::int64_t>(call.kept), vocabulary_};
  const std::span<const std::int64_t> batch(ids.data(), 1);
  std::vector<NamedTensor> inputs = {{"tokens", {call.tokens.data(), DType::kInt64, ids}},
                                     {"position", {call.positions.data(), DType::kInt64, batch}},
                                     {"lengths", {call.lengths.data(), DType::kInt64, batch}}};
  std::vector<NamedTensor> outputs = {{"logits", {call.logits.data(), DType::kFloat32, result}}};
  const Device device = sets_[0].memory->device();
  std::vector<std::vector<std::int64_t>> extras, shapes;
  for (const Extra& extra : extras_) {
    extras.push_back({rows, static_cast<std::int64_t>(call.width), static_cast<std::int64_t>(extra.width)});
  }
  for (std::size_t i = 0; i < extras.size(); ++i) {
    outputs.push_back({extras_[i].name, {call.extras[i].data(), DType::kFloat32, extras[i]}});
  }
  for (const StateBuffer& tensor : sets_[0].tensors) {
    shapes.push_back(tensor.shape);
    shapes.back()[0] = rows;
  }
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const StateBuffer &past = sets_[range.set].tensors[i], &present = sets_[after(range.set)].tensors[i];
    inputs.push_back({past.past, {past.row(range.first), past.dtype, shapes[i], {}, device}});
    outputs.push_back({present.present, {present.row(range.first), present.dtype, shapes[i], {}, device}});
  }
  check_tensors(graph_, inputs, outputs, device);
  return program_.bind(inputs, outputs, {});
}

// A step of these slots, bound once. There are as many ranges as sets of rows that work together, which may be many.
Binding& Rows::step(const Range& range) {
  const auto found = steps_.find(range);
  if (found != steps_.end()) return *found->second;
  std::unique_ptr<Binding> made = bind(range, step_);
  if (steps_.size() > 4 * count() + 16) steps_.clear();
  return *(steps_[range] = std::move(made));
}

void Rows::read(std::span<const std::int64_t> tokens, std::size_t stride, std::span<const std::int64_t> lengths,
                std::vector<float>* every) {
  std::size_t working = 0;
  std::int64_t longest = 0, reached = 0;
  for (std::size_t row = 0; row < count(); ++row) {
    works_[slot_[row]] = lengths[row] > 0 ? 1 : 0;
    if (lengths[row] == 0) continue;
    ++working;
    longest = std::max(longest, lengths[row]);
    reached = std::max(reached, positions_[row] + lengths[row]);
  }
  if (working == 0) return;
  if (every != nullptr && longest > 1 && graph_.state->last_logits) {
    fail(Code::kInvalidArgument, "the file returns the logits of the last token only; export it without --last-logits");
  }
  make_room(reached);
  const auto width = static_cast<std::size_t>(longest), size = static_cast<std::size_t>(vocabulary_);
  for (bool retried = false;; retried = true) {
    const Range range = place(working);
    std::unique_ptr<Call> call;
    std::unique_ptr<Binding> binding;
    Binding* run = nullptr;
    try {
      if (width == 1) {
        run = &step(range);
      } else {
        call = std::make_unique<Call>(range.count, width, graph_.state->last_logits ? 1 : width, size, extras_);
        binding = bind(range, *call);
        run = binding.get();
      }
    } catch (const Error& error) {
      // An engine may have been built for one number of rows, or for the whole capacity.
      takes_parts_ = takes_parts_ || retried;  // it was not that
      const bool is_whole = range.count == count() && (sets_[0].slots == 0 || sets_[0].slots == capacity_);
      if (error.code != Code::kInvalidArgument || is_whole || retried) throw;
      takes_parts_ = false;
      if (sets_[0].slots > 0) resize(capacity_);
      continue;
    }
    Call& used = call ? *call : step_;
    fill(used, range, tokens, stride, lengths);
    try {
      run->run_until(stop_);
    } catch (...) {
      for (std::size_t row = 0; row < count(); ++row) {
        if (lengths[row] > 0) has_logits_[row] = has_extras_[row] = 0;
      }
      throw;
    }
    if (every != nullptr) copy_every(range, used, *every);
    finish(range, used);
    return;
  }
}

// After a run: the states have changed roles, and the rows that worked have other logits.
void Rows::finish(const Range& range, const Call& call) {
  const auto size = static_cast<std::size_t>(vocabulary_);
  for (std::size_t i = 0; i < range.count; ++i) {
    const std::size_t row = row_[range.first + i];
    set_[range.first + i] = after(range.set);
    if (call.lengths[i] == 0) continue;
    positions_[row] += call.lengths[i];
    furthest_[row] = std::max(furthest_[row], positions_[row]);
    const std::size_t last = call.kept == 1 ? 0 : static_cast<std::size_t>(call.lengths[i]) - 1;
    std::copy_n(call.logits.begin() + static_cast<long>((i * call.kept + last) * size), size,
                logits_.begin() + static_cast<long>(row * size));
    has_logits_[row] = 1;
    keep_extras(row, call, i);
  }
}

void Rows::keep_extras(std::size_t row, const Call& call, std::size_t place) {
  const std::size_t last = place * call.width + static_cast<std::size_t>(call.lengths[place]) - 1;
  for (std::size_t i = 0; i < extras_.size(); ++i) {
    const std::size_t width = extras_[i].width;
    std::copy_n(call.extras[i].begin() + static_cast<long>(last * width), width,
                extras_[i].last.begin() + static_cast<long>(row * width));
  }
  has_extras_[row] = 1;
}

void Rows::copy_every(const Range& range, const Call& call, std::vector<float>& every) const {
  const auto size = static_cast<std::size_t>(vocabulary_);
  std::vector<std::pair<std::size_t, std::size_t>> working;  // rows, and where they are in the call
  for (std::size_t i = 0; i < range.count; ++i) {
    if (call.lengths[i] > 0) working.emplace_back(row_[range.first + i], i);
  }
  std::sort(working.begin(), working.end());
  every.assign(working.size() * call.width * size, 0);
  auto to = every.begin();
  for (const auto& [row, i] : working) {
    std::copy_n(call.logits.begin() + static_cast<long>(i * call.kept * size),
                static_cast<std::size_t>(call.lengths[i]) * size, to);
    to += static_cast<long>(call.width * size);
  }
}

void Rows::rollback(std::size_t row, std::int64_t tokens) {
  if (tokens < 0 || tokens > positions_[row]) {
    fail(Code::kInvalidArgument,
         "cannot take " + std::to_string(tokens) + " tokens back from a row of " + std::to_string(positions_[row]));
  }
  if (tokens == 0) return;
  check_rollback(*graph_.state, furthest_[row] - (positions_[row] - tokens));
  positions_[row] -= tokens;
  has_logits_[row] = has_extras_[row] = 0;
}

void Rows::restart(std::size_t row, std::int64_t position, std::int64_t furthest, std::span<const float> logits) {
  positions_[row] = position;
  furthest_[row] = furthest;
  has_logits_[row] = logits.empty() ? 0 : 1;
  has_extras_[row] = 0;
  std::copy(logits.begin(), logits.end(),
            logits_.begin() + static_cast<long>(row * static_cast<std::size_t>(vocabulary_)));
}

void Rows::reset(std::size_t row) {
  set_of(row).clear_row(slot_[row]);
  restart(row, 0, 0, {});
}

void Rows::copy(std::size_t target, const Rows& from, std::size_t source) {
  if (this == &from && target == source) return;
  if (!same_state(*graph_.state, *from.graph_.state)) {
    fail(Code::kInvalidArgument, "the other generator runs another model, other weights or another precision");
  }
  const Device ours = sets_[0].memory->device(), theirs = from.sets_[0].memory->device();
  if (theirs.kind != Device::Kind::kCpu && (ours.kind != theirs.kind || ours.index != theirs.index)) {
    fail(Code::kInvalidArgument, "the other generator is on another device; save the row there and load it here");
  }
  const std::int64_t reached = from.positions_[source];
  if (longest() > 0 && reached > longest()) {
    fail(Code::kInvalidArgument,
         "the row has " + std::to_string(reached) + " tokens, but a row here holds " + std::to_string(longest()));
  }
  make_room(reached);
  set_of(target).copy_row(slot_[target], from.set_of(source), from.slot_[source]);
  restart(target, reached, from.furthest_[source], from.logits(source));
}

void Rows::save(const std::string& path, std::span<const std::size_t> rows) const {
  std::vector<SavedRow> saved;
  for (const std::size_t row : rows) saved.push_back({&set_of(row), slot_[row], positions_[row], logits(row)});
  save_state(path, saved, vocabulary_);
}

void Rows::load(const std::string& path, std::span<const std::size_t> rows) {
  const StateFile file(path, sets_[0], vocabulary_);
  if (file.rows() != rows.size()) {
    fail(Code::kInvalidArgument,
         "'" + path + "' holds " + std::to_string(file.rows()) + " rows, not " + std::to_string(rows.size()));
  }
  make_room(*std::max_element(file.positions().begin(), file.positions().end()));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::size_t row = rows[i];
    file.copy_row(i, set_of(row), slot_[row]);
    // The file does not say how far its rows had got before, so only tokens read from now on can be taken back.
    restart(row, file.positions()[i], file.positions()[i] + graph_.state->rollback, file.logits(i));
  }
}

}  // namespace hsm::runtime
