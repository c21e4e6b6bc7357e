#include "runtime/state_file.h"

#include <cstring>
#include <deque>
#include <filesystem>
#include <map>
#include <utility>

#include "runtime/error.h"
#include "runtime/reader.h"

namespace hsm::runtime {
namespace {

// What may be added to positions without leaving 63 bits is every number of tokens that fits in a memory.
constexpr std::int64_t kMostTokens = std::int64_t{1} << 62;

// The format has no name for bfloat16 in NumPy, so its bits are stored.
std::string stored_dtype(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return "F16";
    case DType::kBFloat16:
      return "U16";
    case DType::kFloat64:
      return "F64";
    case DType::kInt64:
      return "I64";
    default:
      return "F32";
  }
}

std::string json_of(const StateTensor& tensor) {
  std::string shape;
  for (const Dimension& dimension : tensor.shape) {
    const std::string* name = std::get_if<std::string>(&dimension);
    shape += (shape.empty() ? "" : ", ") +
             (name != nullptr ? "\"" + *name + "\"" : std::to_string(std::get<std::int64_t>(dimension)));
  }
  return "{\"name\": \"" + tensor.name + "\", \"dtype\": \"" + std::string(name_of(tensor.dtype)) + "\", \"shape\": [" +
         shape + "], \"capacity_axis\": " + (tensor.capacity_axis > 0 ? std::to_string(tensor.capacity_axis) : "null") +
         ", \"rollback\": \"" + std::string(name_of(tensor.rollback)) +
         "\", \"spare\": " + std::to_string(tensor.spare) + ", \"in_place\": " + (tensor.in_place ? "true" : "false") +
         "}";
}

std::string json_of(const StateSpec& spec) {
  std::string tensors;
  for (const StateTensor& tensor : spec.tensors) tensors += (tensors.empty() ? "" : ", ") + json_of(tensor);
  return "{\"schema\": 2, \"tensors\": [" + tensors +
         "], \"capacity\": " + (spec.capacity ? std::to_string(*spec.capacity) : "null") +
         ", \"rollback\": " + std::to_string(spec.rollback) + ", \"max_length\": " + std::to_string(spec.max_length) +
         ", \"last_logits\": " + (spec.last_logits ? "true" : "false") + ", \"model\": \"" + spec.model + "\"}";
}

// Whether a stored tensor can fill rows of these buffers: equal but for the number of rows and the capacity.
bool fits(const StoredTensor& found, std::size_t rows, const StateBuffer& buffer, std::size_t capacity_axis) {
  if (found.shape.size() != buffer.shape.size() || found.dtype != stored_dtype(buffer.dtype)) return false;
  if (found.shape[0] != static_cast<std::int64_t>(rows)) return false;
  for (std::size_t i = 1; i < buffer.shape.size(); ++i) {
    if (found.shape[i] != buffer.shape[i] && i != capacity_axis) return false;
  }
  return true;
}

std::vector<std::int64_t> joined(std::int64_t first, std::span<const std::int64_t> others) {
  std::vector<std::int64_t> sizes = {first};
  sizes.insert(sizes.end(), others.begin(), others.end());
  return sizes;
}

// One tensor of all rows, copied together.
std::vector<std::byte> gathered(std::span<const SavedRow> rows, std::size_t tensor) {
  const StateBuffers& first = *rows.front().states;
  const std::size_t size = first.tensors[tensor].row_bytes();
  std::vector<std::byte> bytes(size * rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    first.memory->copy(bytes.data() + i * size, rows[i].states->tensors[tensor].row(rows[i].slot), size);
  }
  return bytes;
}

}  // namespace

void save_state(const std::string& path, std::span<const SavedRow> rows, std::int64_t vocabulary) {
  const StateBuffers& first = *rows.front().states;
  const auto count = static_cast<std::int64_t>(rows.size());
  std::map<std::string, StoredTensor> tensors;
  std::deque<std::vector<std::byte>> copies;  // which stay where they are
  for (std::size_t i = 0; i < first.tensors.size(); ++i) {
    copies.push_back(gathered(rows, i));
    tensors[first.tensors[i].past] = {stored_dtype(first.tensors[i].dtype), joined(count, first.row_shape(i)),
                                      copies.back()};
  }
  std::vector<std::int64_t> positions;
  std::vector<std::uint8_t> has_logits;
  std::vector<float> logits(rows.size() * static_cast<std::size_t>(vocabulary));
  for (std::size_t row = 0; row < rows.size(); ++row) {
    positions.push_back(rows[row].position);
    has_logits.push_back(rows[row].logits.empty() ? 0 : 1);
    std::copy(rows[row].logits.begin(), rows[row].logits.end(),
              logits.begin() + static_cast<std::ptrdiff_t>(row * static_cast<std::size_t>(vocabulary)));
  }
  tensors["position"] = {"I64", {count}, std::as_bytes(std::span(positions))};
  tensors["logits"] = {"F32", {count, vocabulary}, std::as_bytes(std::span(logits))};
  tensors["has_logits"] = {"BOOL", {count}, std::as_bytes(std::span(has_logits))};
  write_safetensors(path, tensors, {{"state", json_of(*first.spec)}});
}

namespace {

SafetensorsFile opened(const std::string& path) {
  const std::filesystem::path whole(path);
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(std::filesystem::symlink_status(whole, ignored))) {
    fail(Code::kInvalidArgument, "'" + path + "' is no plain file");
  }
  return {whole.has_parent_path() ? whole.parent_path().string() : ".", whole.filename().string()};
}

}  // namespace

StateFile::StateFile(const std::string& path, const StateBuffers& states, std::int64_t vocabulary)
    : path_("'" + path + "'"), file_(opened(path)) {
  read_positions(states.longest);
  for (std::size_t i = 0; i < states.tensors.size(); ++i) {
    const StateBuffer& tensor = states.tensors[i];
    const StoredTensor& found = stored(tensor.past);
    const std::size_t axis = states.spec->tensors[i].capacity_axis;
    if (!fits(found, rows(), tensor, axis)) {
      fail(Code::kInvalidArgument, path_ + " holds the state of another model or precision: " + tensor.past);
    }
    if (axis > 0) check_positions(found.shape[axis], tensor.past);
  }
  const auto found = file_.metadata().find("state");
  if (found != file_.metadata().end()) check_model(*states.spec, found->second);
  read_logits(vocabulary);
}

const StoredTensor& StateFile::stored(const std::string& name) const {
  const auto found = file_.tensors().find(name);
  if (found == file_.tensors().end()) {
    fail(Code::kInvalidArgument, path_ + " lacks " + name + ": it is of another model");
  }
  return found->second;
}

void StateFile::read_positions(std::int64_t longest) {
  const StoredTensor& position = stored("position");
  if (position.dtype != "I64" || position.shape.size() != 1 || position.shape[0] < 1) {
    fail(Code::kInvalidArgument, path_ + " does not hold the positions of rows");
  }
  positions_.resize(static_cast<std::size_t>(position.shape[0]));
  std::memcpy(positions_.data(), position.data.data(), position.data.size());
  check_positions(longest > 0 ? longest : kMostTokens, "a row here");
}

void StateFile::check_positions(std::int64_t most, const std::string& holder) const {
  for (const std::int64_t reached : positions_) {
    if (reached >= 0 && reached <= most) continue;
    fail(Code::kInvalidArgument, path_ + " has a row of " + std::to_string(reached) + " tokens, but " + holder +
                                     " holds at most " + std::to_string(most));
  }
}

// Weights of the same shapes are still other weights.
void StateFile::check_model(const StateSpec& spec, std::string_view metadata) const {
  const json::Value document = json::parse(metadata, path_);
  for (const auto& [name, value] : as<json::Members>(document, path_)) {
    if (name != "model") continue;
    const std::string& recorded = as<std::string>(value, path_);
    if (recorded.empty() || spec.model.empty() || recorded == spec.model) continue;
    fail(Code::kInvalidArgument, path_ + " was saved with other weights: those of " +
                                     printable(recorded.substr(0, 12)) + ", not " + spec.model.substr(0, 12));
  }
}

void StateFile::read_logits(std::int64_t vocabulary) {
  const auto logits = file_.tensors().find("logits"), flags = file_.tensors().find("has_logits");
  if (logits == file_.tensors().end() || flags == file_.tensors().end()) return;  // as older versions and Python write
  const auto count = static_cast<std::int64_t>(rows());
  const bool fits = logits->second.dtype == "F32" && logits->second.shape == std::vector{count, vocabulary} &&
                    flags->second.dtype == "BOOL" && flags->second.shape == std::vector{count};
  if (!fits) fail(Code::kInvalidArgument, path_ + " holds the logits of another model");
  logits_.resize(logits->second.data.size() / sizeof(float));
  std::memcpy(logits_.data(), logits->second.data.data(), logits->second.data.size());
  has_logits_.resize(rows());
  std::memcpy(has_logits_.data(), flags->second.data.data(), has_logits_.size());
}

std::span<const float> StateFile::logits(std::size_t row) const {
  if (has_logits_.empty() || has_logits_[row] == 0) return {};
  const std::size_t size = logits_.size() / rows();
  return std::span<const float>(logits_).subspan(row * size, size);
}

void StateFile::copy_row(std::size_t row, StateBuffers& states, std::size_t target) const {
  for (std::size_t i = 0; i < states.tensors.size(); ++i) {
    const StoredTensor& from = stored(states.tensors[i].past);
    const std::size_t size = from.data.size() / rows();
    states.copy_row(i, target, {from.data.data() + row * size, std::span(from.shape).subspan(1)});
  }
}

}  // namespace hsm::runtime
