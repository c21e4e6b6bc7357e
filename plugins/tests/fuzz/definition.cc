#include "tests/fuzz/definition.h"

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "hsm_operators/causal_taylor_shift/causal_taylor_shift.h"
#include "hsm_operators/expert_matmul/expert_matmul.h"
#include "hsm_operators/shift_mix/shift_mix.h"
#include "hsm_operators/taylor_shift/taylor_shift.h"

namespace hsm::fuzz {
namespace {

// Tensors and attributes of one call, by name.
class Named {
 public:
  Named(const opset::Operator& op, const Call& call) : op_(op), call_(call) {}

  DType type() const { return call_.type; }

  // Null when the operator has no such input.
  const void* input(std::string_view name) const {
    const auto found = std::ranges::find(op_.inputs, name, &opset::Port::name);
    return found == op_.inputs.end() ? nullptr : call_.inputs[static_cast<std::size_t>(found - op_.inputs.begin())];
  }
  const float* floats(std::string_view name) const { return static_cast<const float*>(input(name)); }
  const std::int64_t* int64s(std::string_view name) const { return static_cast<const std::int64_t*>(input(name)); }

  void* output(std::string_view name) const {
    const auto found = std::ranges::find(op_.outputs, name, &opset::Port::name);
    return found == op_.outputs.end() ? nullptr : call_.outputs[static_cast<std::size_t>(found - op_.outputs.begin())];
  }

  // The size that a letter of the table stands for; 0 when no input has it.
  std::int64_t size(char letter) const {
    for (std::size_t i = 0; i < op_.inputs.size(); ++i) {
      const std::size_t axis = op_.inputs[i].dims.find(letter);
      if (axis != std::string_view::npos) return call_.shapes[i][axis];
    }
    return 0;
  }

  std::span<const std::int64_t> ints(std::string_view name) const {
    return std::ranges::find(call_.attributes, name, &opset::AttributeValue::name)->ints;
  }
  bool flag(std::string_view name) const { return ints(name).front() != 0; }

 private:
  const opset::Operator& op_;
  const Call& call_;
};

void shift_mix_definition(const Named& call) {
  shift_mix_naive({.batch = call.size('B'),
                   .length = call.size('T'),
                   .width = call.size('D'),
                   .shifts = call.ints("shifts"),
                   .type = call.type(),
                   .x = call.input("x"),
                   .alpha = call.input("alpha"),
                   .beta = call.input("beta"),
                   .y = call.output("y"),
                   .ring_rows = call.size('R'),
                   .ring = call.input("ring"),
                   .position = call.int64s("position"),
                   .lengths = call.int64s("lengths"),
                   .ring_out = call.output("ring_out")});
}

void taylor_shift_definition(const Named& call) {
  taylor_shift_naive({.batch = call.size('B'),
                      .length = call.size('T'),
                      .heads = call.size('H'),
                      .dim = call.size('d'),
                      .type = call.type(),
                      .q = call.input("q"),
                      .k = call.input("k"),
                      .v = call.input("v"),
                      .temperature = call.input("temperature"),
                      .lengths = call.int64s("lengths"),
                      .normalize = call.flag("normalize"),
                      .output_norm = call.flag("output_norm"),
                      .y = call.output("y")});
}

void causal_taylor_shift_definition(const Named& call) {
  causal_taylor_shift_naive({.batch = call.size('B'),
                             .length = call.size('T'),
                             .heads = call.size('H'),
                             .dim = call.size('d'),
                             .type = call.type(),
                             .q = call.input("q"),
                             .k = call.input("k"),
                             .v = call.input("v"),
                             .temperature = call.input("temperature"),
                             .state = call.floats("state"),
                             .norm = call.floats("norm"),
                             .lengths = call.int64s("lengths"),
                             .normalize = call.flag("normalize"),
                             .y = call.output("y"),
                             .state_out = static_cast<float*>(call.output("state_out")),
                             .norm_out = static_cast<float*>(call.output("norm_out"))});
}

void expert_matmul_definition(const Named& call, bool sums) {
  const ExpertMatMulArgs args{.batch = call.size('B'),
                              .length = call.size('T'),
                              .heads = call.size('H'),
                              .experts = call.size('E'),
                              .inputs = call.size(sums ? 'f' : 'D'),
                              .outputs = call.size(sums ? 'D' : 'f'),
                              .active = call.ints("k").front(),
                              .type = call.type(),
                              .x = call.input("x"),
                              .logits = call.floats("logits"),
                              .weight = call.input("weight"),
                              .y = call.output("y")};
  sums ? expert_matmul_sum_naive(args) : expert_matmul_naive(args);
}

}  // namespace

void run_definition(const opset::Operator& op, const Call& call) {
  const Named named(op, call);
  if (op.name.find("Expert") == 0) return expert_matmul_definition(named, op.name == "ExpertMatMulSum");
  if (op.name == "CausalTaylorShift") return causal_taylor_shift_definition(named);
  if (op.name.find("Taylor") == 0) return taylor_shift_definition(named);
  shift_mix_definition(named);
}

}  // namespace hsm::fuzz
