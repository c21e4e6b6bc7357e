// One generic ONNX Runtime custom operator, driven by the operator table.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>

#include "hsm_operators/common/opset.h"
#include "onnxruntime/kernels.h"

namespace hsm::onnxruntime {

// An operator of the table for one element type T; ONNX Runtime picks by type among those of one name.
struct CustomOp : OrtCustomOp {
  // `packed_limit`: bytes up to which a node keeps a packed copy of a constant weight.
  CustomOp(const OrtApi& api, const opset::Operator& op, DType type, std::size_t packed_limit);

  const OrtApi& api;
  const opset::Operator& op;
  DType type;
  std::size_t packed_limit;
};

}  // namespace hsm::onnxruntime
