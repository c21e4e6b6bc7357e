#include "runtime/run/call.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "runtime/error.h"
#include "runtime/run/require.h"
#include "runtime/run/tensors.h"

namespace hsm::run {
namespace {

using hsm_runtime::TensorInfo;
using runtime::Code;
using runtime::fail;
using runtime::SafetensorsFile;
using Clock = std::chrono::steady_clock;

void refuse_unknown(const std::vector<TensorInfo>& known, const SafetensorsFile& file) {
  for (const auto& [name, stored] : file.tensors()) {
    const auto same = [&](const TensorInfo& info) { return info.name == name; };
    if (std::any_of(known.begin(), known.end(), same)) continue;
    std::string names;
    for (const TensorInfo& info : known) names += (names.empty() ? "" : ", ") + info.name;
    fail(Code::kBadBundle, "'" + name + "' is no input of the model; it has " + names);
  }
}

}  // namespace

Call::Call(const hsm_runtime::Session& session, const SafetensorsFile& file, const std::string& prefix)
    : session_(session) {
  if (prefix.empty()) refuse_unknown(session_.inputs(), file);
  std::vector<const TensorInfo*> missing;
  for (const TensorInfo& info : session_.inputs()) {
    const auto found = file.tensors().find(prefix + info.name);
    if (found != file.tensors().end()) {
      add(info, found->second);
    } else if (info.name.starts_with("past.")) {
      missing.push_back(&info);
    } else {
      fail(Code::kBadBundle, "the input '" + prefix + info.name + "' is missing");
    }
  }
  if (const auto length = sizes_.find("length"); length != sizes_.end()) sizes_.emplace("capacity", length->second);
  for (const TensorInfo* info : missing) add_zeros(*info);
  for (Input& input : inputs_) {
    feed_.push_back({input.info->name, {input.memory.data(), input.info->dtype, input.shape}});
  }
}

std::vector<hsm_runtime::Tensor> Call::run(double* microseconds) const {
  const auto start = Clock::now();
  hsm_runtime::Result<std::vector<hsm_runtime::Tensor>> outputs = session_.run(feed_);
  const auto end = Clock::now();
  if (microseconds != nullptr) *microseconds = std::chrono::duration<double, std::micro>(end - start).count();
  return require(std::move(outputs));
}

void Call::add(const TensorInfo& info, const runtime::StoredTensor& stored) {
  for (std::size_t i = 0; i < std::min(stored.shape.size(), info.shape.size()); ++i) {
    if (const std::string* name = std::get_if<std::string>(&info.shape[i])) sizes_[*name] = stored.shape[i];
  }
  inputs_.push_back({&info, stored.shape, bytes_for(info, stored)});
}

void Call::add_zeros(const TensorInfo& info) {
  std::vector<std::int64_t> shape;
  std::size_t bytes = size_of(info.dtype);
  for (const hsm_runtime::Dimension& dimension : info.shape) {
    if (const std::string* name = std::get_if<std::string>(&dimension)) {
      const auto known = sizes_.find(*name);
      if (known == sizes_.end()) {
        fail(Code::kInvalidArgument, "give the input '" + info.name + "': no other tells its size '" + *name + "'");
      }
      shape.push_back(known->second);
    } else {
      shape.push_back(std::get<std::int64_t>(dimension));
    }
    if (__builtin_mul_overflow(bytes, shape.back(), &bytes) || bytes > std::size_t{1} << 48) {
      fail(Code::kBadBundle, "the input '" + info.name + "' would be impossibly large");
    }
  }
  inputs_.push_back({&info, std::move(shape), std::vector<std::byte>(bytes)});
}

}  // namespace hsm::run
