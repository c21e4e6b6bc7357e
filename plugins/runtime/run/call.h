// One call of a session: its inputs, in memory of their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "hsm_runtime/session.h"
#include "runtime/safetensors.h"

namespace hsm::run {

class Call {
 public:
  // Takes the inputs that the file holds under `prefix` and their names. A state that it lacks (past.*) is that before
  // the first token: zeros, with as many slots as the call has tokens where the caller chooses that. Throws
  // Error(kBadBundle): an input is missing, has another type, or, without a prefix, one is too many; or
  // Error(kInvalidArgument): nothing tells the size of a state.
  Call(const hsm_runtime::Session& session, const runtime::SafetensorsFile& file, const std::string& prefix = "");

  // Runs; `microseconds` becomes how long that took.
  std::vector<hsm_runtime::Tensor> run(double* microseconds = nullptr) const;

 private:
  struct Input {
    const hsm_runtime::TensorInfo* info;
    std::vector<std::int64_t> shape;
    std::vector<std::byte> memory;
  };

  void add(const hsm_runtime::TensorInfo& info, const runtime::StoredTensor& stored);
  void add_zeros(const hsm_runtime::TensorInfo& info);

  hsm_runtime::Session session_;
  std::map<std::string, std::int64_t> sizes_;  // of the dimensions that have names
  std::vector<Input> inputs_;
  std::vector<hsm_runtime::NamedTensor> feed_;  // views of the inputs
};

}  // namespace hsm::run
