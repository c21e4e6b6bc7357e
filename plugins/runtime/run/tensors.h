// Tensors between the model's memory and .safetensors files.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "hsm_runtime/tensor.h"
#include "runtime/safetensors.h"

namespace hsm::run {

// A stored tensor's bytes as an input takes them. A model of bfloat16 takes float32 too, which is rounded. Throws
// Error(kBadBundle) for another type.
std::vector<std::byte> bytes_for(const hsm_runtime::TensorInfo& info, const runtime::StoredTensor& stored);

// What .safetensors files call a type.
std::string stored_name(hsm_runtime::DType dtype);

// The element `index` of floating-point or whole numbers.
double number_at(hsm_runtime::DType dtype, const void* data, std::size_t index);
double number_at(const hsm_runtime::Tensor& tensor, std::size_t index);

// Writes results under their names. Throws Error(kBadBundle) when the file cannot be written.
void write_outputs(const std::string& path, std::span<const hsm_runtime::Tensor> outputs);

}  // namespace hsm::run
