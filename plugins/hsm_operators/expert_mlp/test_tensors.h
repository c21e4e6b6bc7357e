// Calls of the mixture, with their tensors and definition, for the tests of every kernel.
#pragma once

#include <cmath>
#include <string>

#include "hsm_operators/common/test_experts.h"
#include "hsm_operators/expert_mlp/args.gen.h"

namespace hsm::testing {

struct ExpertMlpCase {
  std::int64_t batch, length, experts, inputs, hidden, outputs, active, activation;
  DType type = DType::kFloat32;
  Logits logits = Logits::kNormal;
  std::size_t misalignment = 0;

  // How many numbers an element of the result adds.
  double terms() const { return static_cast<double>(inputs + hidden * active); }
};

inline std::string describe(const ExpertMlpCase& c) {
  return "B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) + " E=" + std::to_string(c.experts) +
         " inputs=" + std::to_string(c.inputs) + " hidden=" + std::to_string(c.hidden) +
         " outputs=" + std::to_string(c.outputs) + " k=" + std::to_string(c.active) +
         " activation=" + std::to_string(c.activation) + " " + name_of(c.type) + " logits " +
         std::to_string(static_cast<int>(c.logits));
}

inline ExpertMlpCase random_expert_mlp(std::mt19937& random, std::span<const std::int64_t> lengths,
                                       std::span<const std::int64_t> widths) {
  const std::int64_t experts = uniform(random, 1, 6);
  const DType type = kTypes[uniform(random, 0, 2)];
  return {.batch = uniform(random, 1, 2),
          .length = any_of(lengths, random),
          .experts = experts,
          .inputs = any_of(widths, random),
          .hidden = any_of(widths, random),
          .outputs = any_of(widths, random),
          .active = uniform(random, 1, static_cast<int>(experts)),
          .activation = uniform(random, 0, 2),
          .type = type,
          .logits = any_logits(random),
          .misalignment = size_of(type) * to_size(uniform(random, 0, 3))};
}

class ExpertMlpTensors {
 public:
  ExpertMlpTensors(const ExpertMlpCase& own, std::mt19937& random)
      : case_(own),
        x_(own.type, to_size(own.batch * own.length * own.inputs), own.misalignment),
        logits_(draw_logits(to_size(own.batch * own.length * own.experts), own.logits, random)),
        up_(own.type, to_size(own.experts * own.inputs * own.hidden), own.misalignment),
        down_(own.type, to_size(own.experts * own.hidden * own.outputs), own.misalignment) {
    x_.randomize(random);
    up_.randomize(random, 1 / std::sqrt(static_cast<float>(own.inputs)));
    down_.randomize(random);
  }

  Buffer naive() {
    Buffer y = output();
    expert_mlp_naive(args(y));
    return y;
  }

  void poison_expert(std::int64_t expert) {
    for (Buffer* weight : {&up_, &down_}) poison_matrix(*weight, case_.experts, expert);
  }

  Buffer& logits() { return logits_; }
  Buffer& x() { return x_; }

 protected:
  Buffer output() const {
    Buffer y(case_.type, to_size(case_.batch * case_.length * case_.outputs), case_.misalignment);
    return y.poison();
  }

  ExpertMlpArgs sizes() const {
    return {.batch = case_.batch,
            .length = case_.length,
            .inputs = case_.inputs,
            .experts = case_.experts,
            .hidden = case_.hidden,
            .outputs = case_.outputs,
            .active = case_.active,
            .activation = case_.activation,
            .type = case_.type};
  }

  ExpertMlpArgs args(Buffer& y) const {
    ExpertMlpArgs args = sizes();
    args.x = x_.data();
    args.logits = static_cast<const float*>(logits_.data());
    args.up = up_.data();
    args.down = down_.data();
    args.y = y.data();
    return args;
  }

  ExpertMlpCase case_;
  Buffer x_, logits_, up_, down_;
};

}  // namespace hsm::testing
