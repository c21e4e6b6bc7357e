// The self-test that a bundle carries: its inputs, and the right outputs.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "hsm_runtime/bundle.h"
#include "hsm_runtime/tensor.h"
#include "runtime/run/report.h"
#include "runtime/safetensors.h"

namespace hsm::run {

// Compares every output of a part ("model") for which the bundle states a tolerance. Throws Error(kBadBundle) when the
// file or the results lack one.
std::vector<Compared> compare(const hsm_runtime::Bundle& bundle, const std::string& part,
                              std::span<const hsm_runtime::Tensor> results, const runtime::SafetensorsFile& file);

}  // namespace hsm::run
