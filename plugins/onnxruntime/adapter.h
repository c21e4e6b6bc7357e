// One generic ONNX Runtime custom operator, driven by the operator table.
#pragma once

#include <onnxruntime_c_api.h>

#include "mixers/opset.h"
#include "onnxruntime/kernels.h"

namespace hsm::onnxruntime {

// An operator of the table for one element type T; ONNX Runtime picks by type among those of one name.
struct CustomOp : OrtCustomOp {
  CustomOp(const OrtApi& api, const opset::Operator& op, DType type);

  const OrtApi& api;
  const opset::Operator& op;
  DType type;
};

}  // namespace hsm::onnxruntime
