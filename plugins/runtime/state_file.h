// States on disk: .safetensors files, as hsm_export.decoding's sessions write and read them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/safetensors.h"
#include "runtime/state.h"

namespace hsm::runtime {

// A row as it is saved.
struct SavedRow {
  const StateBuffers* states = nullptr;  // the buffers that hold it now
  std::size_t slot = 0;                  // its place in them
  std::int64_t position = 0;             // tokens that it has read
  std::span<const float> logits;         // of its last token; empty where there are none
};

// Writes rows of one model to a file. Throws Error(kInvalidArgument): the file cannot be written, or what has its name
// is no plain file.
void save_state(const std::string& path, std::span<const SavedRow> rows, std::int64_t vocabulary);

// Such a file, opened.
class StateFile {
 public:
  // Throws Error: kInvalidArgument for what is no plain file, of another model, of other weights or does not fit
  // `states`; kBadBundle for a damaged one.
  StateFile(const std::string& path, const StateBuffers& states, std::int64_t vocabulary);

  std::size_t rows() const { return positions_.size(); }
  // Tokens that each row has read.
  const std::vector<std::int64_t>& positions() const { return positions_; }
  // The logits of a row's last token; empty where the file has none.
  std::span<const float> logits(std::size_t row) const;
  // Copies a row to its place in `states`.
  void copy_row(std::size_t row, StateBuffers& states, std::size_t target) const;

 private:
  const StoredTensor& stored(const std::string& name) const;
  void read_positions(std::int64_t longest);
  void check_positions(std::int64_t most, const std::string& holder) const;
  void check_model(const StateSpec& spec, std::string_view metadata) const;
  void read_logits(std::int64_t vocabulary);

  std::string path_;
  SafetensorsFile file_;
  std::vector<std::int64_t> positions_;
  std::vector<float> logits_;             // (rows, V), empty where there are none
  std::vector<std::uint8_t> has_logits_;  // (rows)
};

}  // namespace hsm::runtime
