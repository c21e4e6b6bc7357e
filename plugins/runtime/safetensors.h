// .safetensors files: named tensors behind a JSON header.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "hsm_runtime/tensor.h"
#include "runtime/file.h"

namespace hsm::runtime {

struct StoredTensor {
  std::string dtype;  // as the format names it: "F32", "F16", "BF16", "U16", "I64", …
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;
};

// A file that anybody may have written, mapped.
class SafetensorsFile {
 public:
  // Throws Error(kBadBundle).
  SafetensorsFile(const std::string& folder, const std::string& name);
  // A file that the caller names, through links too.
  explicit SafetensorsFile(const std::string& path);

  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  SafetensorsFile(MappedFile file, const std::string& where);

  MappedFile file_;
  std::map<std::string, StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Replaces a plain file of that name as a whole. Throws Error(kInvalidArgument) when the file cannot be written.
void write_safetensors(const std::string& path, const std::map<std::string, StoredTensor>& tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace hsm::runtime
