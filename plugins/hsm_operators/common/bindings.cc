#include "hsm_operators/common/bindings.h"

#include <algorithm>

namespace hsm {
namespace {

std::span<const std::int64_t> ints(const Call& call, std::string_view name) {
  return std::ranges::find(call.attributes, name, &opset::AttributeValue::name)->ints;
}

std::int64_t integer(const Call& call, std::string_view name) { return ints(call, name).front(); }

const std::int64_t* int64s(const void* data) { return static_cast<const std::int64_t*>(data); }
const float* floats(const void* data) { return static_cast<const float*>(data); }

void bind_weights(const Call& call, ShiftMixArgs& args) {
  args.alpha = call.inputs[1];
  args.beta = call.inputs[2];
}

// `ring` is the index of the input ring; position and lengths follow it.
void bind_ring(const Call& call, std::size_t ring, ShiftMixArgs& args) {
  args.ring_rows = call.shapes[ring][1];
  args.ring = call.inputs[ring];
  args.position = int64s(call.inputs[ring + 1]);
  args.lengths = int64s(call.inputs[ring + 2]);
  args.ring_out = call.outputs[1];
}

}  // namespace

ShiftMixArgs token_shift_args(const Call& call) {
  const opset::Shape& x = call.shapes[0];
  return {.batch = x[0],
          .length = x[1],
          .width = x[2],
          .shifts = ints(call, "shifts"),
          .type = call.type,
          .x = call.inputs[0],
          .y = call.outputs[0]};
}

ShiftMixArgs shift_mix_args(const Call& call) {
  ShiftMixArgs args = token_shift_args(call);
  bind_weights(call, args);
  return args;
}

ShiftMixArgs token_shift_cached_args(const Call& call) {
  ShiftMixArgs args = token_shift_args(call);
  bind_ring(call, 1, args);
  return args;
}

ShiftMixArgs shift_mix_cached_args(const Call& call) {
  ShiftMixArgs args = shift_mix_args(call);
  bind_ring(call, 3, args);
  return args;
}

TaylorShiftArgs taylor_shift_args(const Call& call) {
  const opset::Shape& q = call.shapes[0];
  return {.batch = q[0],
          .length = q[1],
          .heads = q[2],
          .dim = q[3],
          .type = call.type,
          .q = call.inputs[0],
          .k = call.inputs[1],
          .v = call.inputs[2],
          .temperature = call.inputs[3],
          .lengths = call.inputs.size() > 4 ? int64s(call.inputs[4]) : nullptr,
          .normalize = integer(call, "normalize") != 0,
          .output_norm = integer(call, "output_norm") != 0,
          .y = call.outputs[0]};
}

CausalTaylorShiftArgs causal_taylor_shift_args(const Call& call) {
  const opset::Shape& q = call.shapes[0];
  return {.batch = q[0],
          .length = q[1],
          .heads = q[2],
          .dim = q[3],
          .type = call.type,
          .q = call.inputs[0],
          .k = call.inputs[1],
          .v = call.inputs[2],
          .temperature = call.inputs[3],
          .state = floats(call.inputs[4]),
          .norm = floats(call.inputs[5]),
          .lengths = int64s(call.inputs[6]),
          .normalize = integer(call, "normalize") != 0,
          .y = call.outputs[0],
          .state_out = static_cast<float*>(call.outputs[1]),
          .norm_out = static_cast<float*>(call.outputs[2])};
}

ExpertMatMulArgs expert_matmul_args(const Call& call) {
  const opset::Shape& logits = call.shapes[1];
  const opset::Shape& weight = call.shapes[2];
  return {.batch = logits[0],
          .length = logits[1],
          .heads = logits[2],
          .experts = logits[3],
          .inputs = weight[2],
          .outputs = weight[3],
          .active = integer(call, "k"),
          .type = call.type,
          .x = call.inputs[0],
          .logits = floats(call.inputs[1]),
          .weight = call.inputs[2],
          .y = call.outputs[0],
          .packed = call.packed};
}

}  // namespace hsm
