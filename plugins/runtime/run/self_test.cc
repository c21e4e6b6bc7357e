#include "runtime/run/self_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/error.h"
#include "runtime/run/tensors.h"

namespace hsm::run {
namespace {

using hsm_runtime::Tensor;
using runtime::Code;
using runtime::fail;
using runtime::StoredTensor;

// The largest absolute error where the expected number is one; infinity when the results do not fit.
double largest_error(const Tensor& result, const StoredTensor& expected) {
  const std::size_t count = expected.data.size() / sizeof(float);
  if (expected.dtype != "F32" || result.size() != count) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < count; ++i) {
    float right = 0;
    std::memcpy(&right, expected.data.data() + i * sizeof right, sizeof right);
    const double error = std::abs(number_at(result, i) - right);
    if (!std::isnan(right)) largest = std::isnan(error) ? INFINITY : std::max(largest, error);
  }
  return largest;
}

}  // namespace

std::vector<Compared> compare(const hsm_runtime::Bundle& bundle, const std::string& part,
                              std::span<const Tensor> results, const runtime::SafetensorsFile& file) {
  std::vector<Compared> compared;
  for (const auto& [name, tolerance] : bundle.tolerances()) {
    if (!name.starts_with(part + ".")) continue;
    const std::string output = name.substr(part.size() + 1);
    const auto result = std::ranges::find(results, output, &Tensor::name);
    const auto expected = file.tensors().find(part + ".outputs." + output);
    if (result == results.end() || expected == file.tensors().end()) {
      fail(Code::kBadBundle, "the self-test names the output " + name + ", which is not there");
    }
    compared.push_back({name, largest_error(*result, expected->second), tolerance});
  }
  return compared;
}

}  // namespace hsm::run
