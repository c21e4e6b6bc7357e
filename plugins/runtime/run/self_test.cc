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

// The largest difference of whole numbers or Booleans, at least 1 where two are not equal. They are held to their
// bytes: a double does not hold all of 64 bits.
double largest_difference(const Tensor& result, const StoredTensor& expected) {
  const std::size_t width = size_of(result.dtype());
  if (expected.data.size() != result.size() * width) return INFINITY;
  const auto* own = static_cast<const std::byte*>(result.data());
  const std::byte* right = expected.data.data();
  double largest = 0;
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (std::memcmp(own + i * width, right + i * width, width) == 0) continue;
    const double error = std::abs(number_at(result, i) - number_at(result.dtype(), right, i));
    largest = std::max({largest, error, 1.0});
  }
  return largest;
}

// The largest absolute error where the expected number is one; infinity when the results do not fit.
double largest_error(const Tensor& result, const StoredTensor& expected) {
  if (expected.dtype != "F32" && expected.dtype == stored_name(result.dtype())) {
    return largest_difference(result, expected);
  }
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
